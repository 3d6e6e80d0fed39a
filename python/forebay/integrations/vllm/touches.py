"""Prefixes that the engine finds in its own memory. Such a hit never reaches the node, and the hottest prompts must not look the coldest there.

They are told in batches, some with each step, and nobody waits for an answer.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator

import forebay

#: A prefix that is found again and again is told this often at most.
AGAIN_S = 0.1
#: Prefixes that were told lately and are remembered for it.
REMEMBERED_MAX = 4096
#: Hashes in line. What comes on top is not told: it comes again.
LINE_MAX = 65_536
#: Hashes told with one step, and of so many prefixes, so that no step takes long for them.
STEP_MAX = 128
PREFIXES_MAX = 2


class Prefix:
    """Hashes of blocks that are still to be told, ends first: what is told later ranks higher, and heads must outlive tails."""

    def __init__(self, hashes: list[bytes] | dict[bytes, int], count: int, suffixes: tuple[bytes, ...]) -> None:
        self._hashes, self.left, self.suffixes = hashes, count, suffixes
        # A dictionary is read where it is, since listing it at once would take too long.
        self._ends: Iterator[bytes] | None = None
        self._skip = 0

    def take(self, at_most: int) -> list[bytes]:
        """Some of them, heads first; maybe none yet."""
        count = min(at_most, self.left)
        if isinstance(self._hashes, list):
            some = self._hashes[self.left - count : self.left]
        else:
            try:
                some = self._taken(self._hashes, at_most, count)
            except RuntimeError:
                # Hashes were added meanwhile; the next step begins anew where this one was.
                self._ends = None
                return []
        self.left -= len(some)
        return some

    def _taken(self, hashes: dict[bytes, int], at_most: int, count: int) -> list[bytes]:
        if self._ends is None:
            self._ends, self._skip = reversed(hashes), len(hashes) - self.left
        if self._skip > 0:
            skipped = sum(1 for _ in itertools.islice(self._ends, min(self._skip, at_most)))
            self._skip -= skipped
            return []
        some = list(itertools.islice(self._ends, count))
        some.reverse()
        return some


class Touches:
    """See the module."""

    def __init__(self) -> None:
        self._told: dict[bytes, float] = {}
        self._line: deque[Prefix] = deque()
        self._length = 0

    def add(self, hashes: list[bytes] | dict[bytes, int], count: int, name: bytes, suffixes: tuple[bytes, ...], now: float) -> None:
        """A prefix was used: the hashes of its first `count` blocks, heads first; only ever added to behind those. The keys of each have these
        suffixes. name: a hash that stands for all of them, of the last one or of the one behind it."""
        if count <= 0 or self._length + count > LINE_MAX:
            return
        name += suffixes[0]
        last = self._told.pop(name, None)
        is_due = last is None or now - last >= AGAIN_S
        self._told[name] = now if is_due or last is None else last
        if not is_due:
            return
        if len(self._told) > REMEMBERED_MAX:
            del self._told[next(iter(self._told))]
        self._line.append(Prefix(hashes, count, suffixes))
        self._length += count

    def tell(self, queue: forebay.CallQueue, space: forebay.Namespace) -> None:
        """Tells some. What the queue has no room for is dropped."""
        room = STEP_MAX
        for _ in range(PREFIXES_MAX):
            if not self._line or room <= 0:
                return
            prefix = self._line[0]
            some = prefix.take(room)
            if prefix.left == 0:
                self._line.popleft()
            if not some:
                return
            room -= len(some)
            self._length -= len(some)
            queue.touch(space, forebay.Hashes(b"".join(some), len(some[0]), suffixes=prefix.suffixes))

    def __len__(self) -> int:
        return self._length
