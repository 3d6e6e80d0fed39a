"""How fast the engine computes and how much it has to do, as far as its connector sees: the steps it is told of, and their ends."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from forebay.integrations._decide import Now, Prefill, PrefillSpeed

#: Steps that have begun and not ended: engines run one or two ahead. More are steps whose end nobody tells.
STEPS_MAX = 8


class Pace:
    """See the module."""

    def __init__(self, step_tokens: int, given: Prefill | None = None) -> None:
        self.speed = PrefillSpeed(step_tokens, given)
        self._steps: deque[tuple[float, list[tuple[int, int]]]] = deque(maxlen=STEPS_MAX)
        self._last_end = 0.0
        #: Requests that run: tokens computed, and all of the prompt.
        self._running: dict[str, tuple[int, int]] = {}

    def began(self, output: Any, totals: dict[str, int]) -> None:
        """A step was scheduled. totals: tokens of the requests that it may have, by name."""
        parts = []
        scheduled = output.num_scheduled_tokens
        cached = output.scheduled_cached_reqs
        computed = [(new.req_id, new.num_computed_tokens) for new in output.scheduled_new_reqs]
        computed += zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        for name, begin in computed:
            end = begin + scheduled.get(name, 0)
            if end > begin:
                parts.append((begin, end))
                self._running[name] = (end, totals.get(name, end))
        if parts:
            self._steps.append((time.monotonic(), parts))

    def ended(self) -> None:
        """The oldest step that is not over is."""
        if not self._steps:
            return
        begun, parts = self._steps.popleft()
        now = time.monotonic()
        # Steps that were scheduled while another ran began when that one ended.
        self.speed.saw(parts, now - max(begun, self._last_end))
        self._last_end = now

    def gone(self, name: str) -> None:
        """A request is over."""
        self._running.pop(name, None)

    def now(self, name: str, deadline_s: float) -> Now:
        """What the engine is at, for a request that waits."""
        others = [parts for other, parts in self._running.items() if other != name]
        if not others:
            return Now(0.0, False, deadline_s)
        known = self.speed.known()
        wait_s = sum(known.seconds(*parts) for parts in others) if known is not None else 0.0
        return Now(wait_s, True, deadline_s)
