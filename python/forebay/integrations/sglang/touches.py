"""Pages that the engine has itself: they are in front of those it asks for or stores, and such a hit never reaches the node. The hottest prompts must not look
the coldest there, so they are told, on a thread that nobody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import forebay
from forebay.integrations._common import Hints

#: A prefix that is used again and again is told this often at most.
AGAIN_S = 0.1
#: Prefixes that were told lately and are remembered for it.
REMEMBERED_MAX = 4096
#: Pages of one prefix that are told, heads first, and with one call.
PAGES_MAX = 16_384
CALL_PAGES = 1024


class Touches:
    """See the module. keys: what pages are called in the store, of all pools."""

    def __init__(self, keys: Callable[[forebay.Namespace, Sequence[str]], Sequence[bytes]]) -> None:
        self._keys = keys
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()
        self._hints = Hints("forebay-touches")

    def used(self, space: forebay.Namespace, prefix: Sequence[str] | None) -> None:
        """The engine has these pages, and a request goes on behind them."""
        if prefix and self._is_due(prefix[-1]):
            self._hints.give(lambda: self._tell(space, prefix))

    def known(self, keys: Sequence[str]) -> None:
        """These were asked for or stored just now, so the node knows of them: they are the prefix of the request's next batch."""
        if keys:
            self._is_due(keys[-1])

    def _is_due(self, name: str) -> bool:
        now = time.monotonic()
        with self._lock:
            last = self._told.pop(name, None)
            is_due = last is None or now - last >= AGAIN_S
            self._told[name] = now if is_due or last is None else last
            if len(self._told) > REMEMBERED_MAX:
                del self._told[next(iter(self._told))]
        return is_due

    def _tell(self, space: forebay.Namespace, prefix: Sequence[str]) -> None:
        # Ends first: what is told later ranks higher, and heads must outlive tails.
        for first in reversed(range(0, min(len(prefix), PAGES_MAX), CALL_PAGES)):
            for keys in self._keys(space, prefix[first : first + CALL_PAGES]):
                space.touch(keys)

    def close(self) -> None:
        """Tells what is in line, within two seconds."""
        self._hints.close()
