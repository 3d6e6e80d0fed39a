"""Prefixes that the engine finds in its own memory. Such a hit never reaches the node, and the hottest prompts must not look the coldest there.

They are told in batches, some with each step, and nobody waits for an answer.
"""

from __future__ import annotations

from collections import deque

import forebay

#: A prefix that is found again and again is told this often at most.
AGAIN_S = 0.1
#: Prefixes that were told lately and are remembered for it.
REMEMBERED_MAX = 4096
#: Hashes in line. What comes on top is not told: it comes again.
LINE_MAX = 65_536
#: Hashes told with one step, so that no step takes long for them.
STEP_MAX = 2048


class Touches:
    """See the module."""

    def __init__(self) -> None:
        self._told: dict[bytes, float] = {}
        self._line: deque[tuple[tuple[bytes, ...], list[bytes]]] = deque()
        self._length = 0

    def add(self, hashes: list[bytes], suffixes: tuple[bytes, ...], now: float) -> None:
        """A prefix was used: the hashes of its blocks, heads first. The keys of each have these suffixes."""
        if not hashes or self._length + len(hashes) > LINE_MAX:
            return
        # The last hash stands for all before it.
        name = hashes[-1] + suffixes[0]
        last = self._told.pop(name, None)
        is_due = last is None or now - last >= AGAIN_S
        self._told[name] = now if is_due or last is None else last
        if not is_due:
            return
        if len(self._told) > REMEMBERED_MAX:
            del self._told[next(iter(self._told))]
        self._line.append((suffixes, hashes))
        self._length += len(hashes)

    def tell(self, queue: forebay.CallQueue, space: forebay.Namespace) -> None:
        """Tells some. What the queue has no room for is dropped."""
        room = STEP_MAX
        while self._line and room > 0:
            suffixes, hashes = self._line[0]
            # Ends first: what is told later ranks higher, and heads must outlive tails.
            some = hashes[-room:]
            if len(some) < len(hashes):
                self._line[0] = (suffixes, hashes[:-room])
            else:
                self._line.popleft()
            room -= len(some)
            self._length -= len(some)
            queue.submit_touch(space, forebay.Hashes(b"".join(some), len(some[0]), suffixes=suffixes))

    def __len__(self) -> int:
        return self._length
