"""Load or compute again: how many of a request's stored blocks are worth loading now.

Pure: numbers in, a length and its reason out. What prefill costs is learned from the engine's own steps, what loads take from its loads; until
something is known of both, what is stored is loaded. Prefill of tokens a..b of a prompt takes c0 steps + c1 (b - a) + c2 (b^2 - a^2) / 2 seconds, as
in crates/forebay-tokenomics/src/cost.rs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

#: What was seen before counts this much less with each step or load that is seen.
FADE = 0.95
#: A step with fewer tokens says little of prefill.
STEP_TOKENS_MIN = 64
#: Steps, and loads, before what they teach is believed.
SEEN_MIN = 3
#: Each time that a load was not made, loads are taken to have become this much faster: what is never tried again is never known better.
HOPE = 0.97
#: What the client plans is believed from here on: three gets of such a size are enough, or some more of about that size.
CONFIDENCE_MIN = 0.05
#: Lengths of prefix that are weighed against each other.
LENGTHS_MAX = 16


class Reason(StrEnum):
    """Why so many blocks are loaded."""

    NOTHING = "nothing stored"
    UNKNOWN = "nothing known yet, loaded"
    FASTER = "loaded, the first token comes sooner"
    PART = "loaded in part, the rest is computed sooner"
    FREES = "loaded, the engine computes for others meanwhile"
    SLOWER = "computed, that is sooner"
    DEADLINE = "computed, a load would be too late"
    STALL = "computed, copying costs more than it saves"


@dataclass(frozen=True, slots=True)
class Prefill:
    """What prefill costs, in seconds."""

    step_s: float
    token_s: float
    pair_s: float
    step_tokens: int = 8192

    def seconds(self, begin: int, end: int) -> float:
        """Of tokens `begin` to `end` of a prompt whose tokens before are there."""
        return self.several([begin], end)[0] if begin < end else 0.0

    def several(self, begins: Sequence[int], end: int) -> list[float]:
        """The same for several beginnings, each before the end: one call in place of as many, since an engine's step waits for it."""
        step_s, token_s, half_pair_s, step_tokens, square = self.step_s, self.token_s, self.pair_s / 2, self.step_tokens, end * end
        return [step_s * -((begin - end) // step_tokens) + token_s * (end - begin) + half_pair_s * (square - begin * begin) for begin in begins]


@dataclass(slots=True)
class PrefillSpeed:
    """Prefill's costs, from steps that were seen: the nearest costs that are not negative, later steps counting more."""

    step_tokens: int
    given: Prefill | None = None
    seen: int = 0
    _a: list[list[float]] = field(default_factory=lambda: [[0.0] * 3 for _ in range(3)])
    _b: list[float] = field(default_factory=lambda: [0.0] * 3)
    _known: Prefill | None = None

    def saw(self, parts: Sequence[tuple[int, int]], seconds: float) -> None:
        """A step computed these (begin, end) of its requests and took so long."""
        tokens = sum(end - begin for begin, end in parts)
        if self.given is not None or tokens < STEP_TOKENS_MIN or not 0 < seconds < 3600:
            return
        pairs = sum(end * end - begin * begin for begin, end in parts) / 2
        # Of one size, or the smallest is lost in the largest's rounding; and relative, or long steps alone would count.
        row = [1.0 / seconds, tokens / 1e3 / seconds, pairs / 1e6 / seconds]
        for i in range(3):
            for j in range(3):
                self._a[i][j] = self._a[i][j] * FADE + row[i] * row[j]
            self._b[i] = self._b[i] * FADE + row[i]
        self.seen += 1
        self._known = None

    def known(self) -> Prefill | None:
        """None until enough was seen."""
        if self.given is not None or self.seen < SEEN_MIN:
            return self.given
        if self._known is None:
            step, kilotoken, megapair = _not_negative(self._a, self._b)
            self._known = Prefill(step, kilotoken / 1e3, megapair / 1e6, self.step_tokens)
        return self._known


def _not_negative(a: list[list[float]], b: list[float]) -> tuple[float, float, float]:
    """The least squares of three unknowns, none of them negative: of all subsets of them, the one that fits best."""
    best, best_error = (0.0, 0.0, 0.0), 0.0
    for size in (1, 2, 3):
        for chosen in itertools.combinations(range(3), size):
            solved = _solved([[a[i][j] for j in chosen] for i in chosen], [b[i] for i in chosen])
            if solved is None or min(solved) < 0:
                continue
            x = [0.0] * 3
            for at, value in zip(chosen, solved, strict=True):
                x[at] = value
            # Without what all have in common: |row x - 1|^2 summed.
            error = sum(x[i] * (sum(a[i][j] * x[j] for j in range(3)) - 2 * b[i]) for i in range(3))
            if error < best_error:
                best, best_error = (x[0], x[1], x[2]), error
    return best


def _solved(a: list[list[float]], b: list[float]) -> list[float] | None:
    """Gauss, for up to three."""
    n = len(b)
    rows = [[*row, right] for row, right in zip(a, b, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda at: abs(rows[at][i]))
        if abs(rows[pivot][i]) <= 1e-9 * max(abs(a[k][k]) for k in range(n)):
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for below in range(i + 1, n):
            times = rows[below][i] / rows[i][i]
            rows[below] = [x - times * y for x, y in zip(rows[below], rows[i], strict=True)]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (rows[i][n] - sum(rows[i][j] * x[j] for j in range(i + 1, n))) / rows[i][i]
    return x


@dataclass(slots=True)
class LoadSpeed:
    """What loads take, from those that were made: seconds a call, and seconds a block from DRAM and from NVMe."""

    block_s: list[float | None] = field(default_factory=lambda: [None, None])
    #: Of the engine's own time, which it cannot compute in: copying a block to where it belongs.
    stall_block_s: float = 0.0
    seen: int = 0
    #: What the client plans for loads of such blocks, each (seconds, and how far to believe it). It knows sizes that are not in proportion, and what
    #: queues at the node now; what is learned here stands in where it knows nothing.
    planned: Callable[[Sequence[tuple[int, int]]], Sequence[tuple[float, float]]] | None = None
    #: See HOPE.
    hope: float = 1.0

    def saw(self, blocks: tuple[int, int], seconds: float, stall_s: float) -> None:
        """A load of (DRAM, NVMe) blocks took so long, `stall_s` of it on the engine's own thread."""
        count = sum(blocks)
        if count == 0 or seconds <= 0:
            return
        expected = self.seconds(blocks)
        for tier, some in enumerate(blocks):
            if some == 0:
                continue
            known = self.block_s[tier]
            # What a mixed load took is split as it was expected to be.
            target = seconds / count if expected is None or known is None else known * seconds / expected
            self.block_s[tier] = target if known is None else known + 0.3 * some / count * (target - known)
        self.stall_block_s += (stall_s / count - self.stall_block_s) * (1.0 if self.seen == 0 else 0.3)
        self.seen += 1
        self.hope = 1.0

    def seconds(self, blocks: tuple[int, int]) -> float | None:
        """None: nothing is known of such a load."""
        if self.planned is not None:
            ((seconds, confidence),) = self.planned((blocks,))
            if confidence >= CONFIDENCE_MIN:
                return max(seconds * self.hope, 1e-9)
        return self._learned(blocks)

    def several(self, loads: Sequence[tuple[int, int]]) -> list[float | None]:
        """The same of several loads, for one question to the client."""
        if self.planned is None:
            return [self._learned(blocks) for blocks in loads]
        plans = zip(self.planned(loads), loads, strict=True)
        return [max(seconds * self.hope, 1e-9) if confidence >= CONFIDENCE_MIN else self._learned(blocks) for (seconds, confidence), blocks in plans]

    def _learned(self, blocks: tuple[int, int]) -> float | None:
        total = 0.0
        for some, each in zip(blocks, self.block_s, strict=True):
            if some and each is None:
                return None
            total += some * (each or 0.0)
        return max(total, 1e-9)

    def was_not_made(self) -> None:
        """See HOPE."""
        self.hope *= HOPE
        self.block_s = [each and each * HOPE for each in self.block_s]


class Now(NamedTuple):
    """What the engine is at."""

    #: Seconds until it would begin with this request.
    wait_s: float
    #: It computes for others, too.
    is_busy: bool
    #: Seconds that the request may wait for a load.
    deadline_s: float


class Decision(NamedTuple):
    """How many blocks are loaded, and why."""

    blocks: int
    reason: Reason


def decide(prefill: Prefill | None, load: LoadSpeed, tiers: bytes, own: int, block_tokens: int, tokens: int, now: Now, nvme: int | None = None) -> Decision:
    """How many of the stored blocks to load.

    tiers: a byte for each of the stored blocks behind the engine's own, in order: 0 DRAM, 1 NVMe.
    nvme: how many of them are on NVMe, where that is known.
    own: blocks that the engine has itself.
    tokens: of the whole prompt.

    An idle engine wants the first token soon: max(load, wait) + the rest of the prefill. A busy one wants its own time: a load takes none of it but
    the copying, so a load that is slower than computing is still right, if it is not too late.
    """
    stored = len(tiers)
    if stored == 0:
        return Decision(0, Reason.NOTHING)
    if prefill is None or load.seen < SEEN_MIN:
        return Decision(stored, Reason.UNKNOWN)
    stride = -(-stored // LENGTHS_MAX)
    wait_s, is_busy, deadline_s = now
    if nvme is None:
        nvme = tiers.count(1)
    all_s = load.seconds((stored - nvme, nvme))
    if all_s is None:
        return Decision(stored, Reason.UNKNOWN)
    # The most there is to load, and the next shorter length. Where all is loaded the last token is computed all the same.
    begins = [min((own + blocks) * block_tokens, tokens - 1) for blocks in (stored, (stored - 1) // stride * stride)]
    rest_s, next_rest_s = prefill.several(begins, tokens)
    if all_s <= deadline_s and (load.stall_block_s * stored if is_busy else max(0.0, all_s - wait_s)) + rest_s <= next_rest_s:
        # Shorter ones leave at least that to be computed, which takes as long as all of it: none of them has to be weighed.
        return Decision(stored, Reason.FREES if is_busy else Reason.FASTER)
    return _weighed(prefill, load, tiers, own, block_tokens, tokens, now, stride)


def _weighed(prefill: Prefill, load: LoadSpeed, tiers: bytes, own: int, block_tokens: int, tokens: int, now: Now, stride: int) -> Decision:
    """The best of the lengths that are a multiple of `stride`, and of all there is."""
    stored = len(tiers)
    lengths = [*range(stride, stored, stride), stored]
    loads, nvme, before = [], 0, 0
    for blocks in lengths:
        nvme += tiers.count(1, before, blocks)
        before = blocks
        loads.append((blocks - nvme, nvme))
    times = load.several(loads)
    rests = prefill.several([min((own + blocks) * block_tokens, tokens - 1) for blocks in lengths], tokens)
    wait_s, is_busy, deadline_s, stall_s = now.wait_s, now.is_busy, now.deadline_s, load.stall_block_s
    best, best_cost = 0, prefill.seconds(own * block_tokens, tokens)
    if not is_busy:
        best_cost += wait_s
    is_late = fits = False
    for blocks, known, rest in zip(lengths, times, rests, strict=True):
        seconds = known or 0.0
        if seconds > deadline_s:
            is_late = True
            break
        fits = True
        cost = (stall_s * blocks if is_busy else max(seconds, wait_s)) + rest
        # Of two that are as good, the longer: computing leaves the engine less for what comes next.
        if cost <= best_cost:
            best, best_cost = blocks, cost
    if best == 0:
        load.was_not_made()
        slow = Reason.STALL if now.is_busy else Reason.SLOWER
        return Decision(0, Reason.DEADLINE if is_late and not fits else slow)
    if best < stored:
        return Decision(best, Reason.PART)
    return Decision(best, Reason.FREES if now.is_busy else Reason.FASTER)
