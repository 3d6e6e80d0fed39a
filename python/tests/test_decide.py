"""Load or compute again, as adapters decide it: against brute force, and in a simulated engine at full load."""

from __future__ import annotations

import random

import pytest
from forebay.integrations._decide import Decision, LoadSpeed, Now, Prefill, PrefillSpeed, Reason, decide
from forebay.integrations._wishes import NONE, Wishes, wishes

BLOCK = 128
IDLE = Now(wait_s=0.0, is_busy=False, deadline_s=60.0)


def loads(dram_s: float, nvme_s: float | None = None, stall_s: float = 0.0) -> LoadSpeed:
    """What is known after loads of such blocks."""
    speed = LoadSpeed()
    for _ in range(3):
        speed.saw((10, 0), 10 * dram_s, 10 * stall_s)
        if nvme_s is not None:
            speed.saw((0, 10), 10 * nvme_s, 10 * stall_s)
    return speed


def test_until_something_is_known_what_is_stored_is_loaded() -> None:
    prefill = Prefill(0.01, 1e-5, 0.0)
    assert decide(None, loads(1.0), bytes(8), 0, BLOCK, 2000, IDLE) == Decision(8, Reason.UNKNOWN)
    assert decide(prefill, LoadSpeed(), bytes(8), 0, BLOCK, 2000, IDLE) == Decision(8, Reason.UNKNOWN)
    assert decide(prefill, loads(1.0), bytes(7) + b"\1", 0, BLOCK, 2000, IDLE).reason is Reason.UNKNOWN, "nothing of NVMe yet"
    assert decide(prefill, loads(1.0), b"", 0, BLOCK, 2000, IDLE) == Decision(0, Reason.NOTHING)


def test_prefill_is_learned_from_steps() -> None:
    chance = random.Random(1)
    for true in [Prefill(0.02, 3e-5, 4e-9), Prefill(0.0, 1e-4, 0.0), Prefill(0.005, 0.0, 1e-7)]:
        speed = PrefillSpeed(8192)
        for _ in range(40):
            parts = [(begin, begin + chance.randrange(100, 2048)) for begin in (chance.randrange(30_000) for _ in range(chance.randint(1, 3)))]
            took = true.step_s + sum(true.seconds(*part) - true.step_s for part in parts)
            speed.saw(parts, took * chance.uniform(0.97, 1.03))
        known = speed.known()
        assert known is not None and min(known.step_s, known.token_s, known.pair_s) >= 0
        for begin, end in [(0, 4096), (8192, 16_384), (30_000, 31_000)]:
            assert known.seconds(begin, end) == pytest.approx(true.seconds(begin, end), rel=0.15)
    assert PrefillSpeed(8192, true).known() is true, "what is given is not learned"
    decoding = PrefillSpeed(8192)
    for _ in range(100):
        decoding.saw([(5000, 5001)] * 8, 0.02)
    assert decoding.known() is None, "steps that decode say nothing of prefill"


def test_a_new_speed_is_learned() -> None:
    speed, load = PrefillSpeed(8192), LoadSpeed()
    for slow in [1.0] * 100 + [3.0] * 100:
        speed.saw([(0, 2000)], slow)
        load.saw((0, 20), slow, 0.0)
    known = speed.known()
    assert known is not None and known.seconds(0, 2000) == pytest.approx(3.0, rel=0.1)
    assert load.seconds((0, 20)) == pytest.approx(3.0, rel=0.1)


def test_an_idle_engine_takes_what_gives_the_first_token_soonest() -> None:
    prefill = Prefill(0.001, 1e-4, 0.0)  # 12.8 ms a block
    tokens = 16 * BLOCK + 1
    assert decide(prefill, loads(0.001), bytes(16), 0, BLOCK, tokens, IDLE) == Decision(16, Reason.FASTER)
    assert decide(prefill, loads(0.02), bytes(16), 0, BLOCK, tokens, IDLE) == Decision(0, Reason.SLOWER)
    # Where all is loaded one step computes the last token, as one step would have computed all of it.
    assert decide(Prefill(1.0, 0.0, 0.0), loads(0.001), bytes(16), 0, BLOCK, 16 * BLOCK, IDLE) == Decision(0, Reason.SLOWER)
    # The first half in DRAM is worth it, the rest on a slow drive is not.
    mixed = bytes(8) + b"\1" * 8
    assert decide(prefill, loads(0.001, 0.05), mixed, 0, BLOCK, tokens, IDLE) == Decision(8, Reason.PART)
    # While others are computed a slow load is for nothing.
    waiting = Now(wait_s=16 * 0.02, is_busy=False, deadline_s=60)
    assert decide(prefill, loads(0.02), bytes(16), 0, BLOCK, tokens, waiting) == Decision(16, Reason.FASTER)


def test_a_load_that_would_be_too_late_is_not_made() -> None:
    prefill = Prefill(0.001, 1e-3, 0.0)
    tokens = 16 * BLOCK + 1
    short = Now(0.0, False, 0.05)
    assert decide(prefill, loads(0.1), bytes(16), 0, BLOCK, tokens, short) == Decision(0, Reason.DEADLINE)
    assert decide(prefill, loads(0.01), bytes(16), 0, BLOCK, tokens, short) == Decision(5, Reason.PART), "as much as fits"
    assert decide(prefill, loads(0.1), bytes(16), 0, BLOCK, tokens, Now(0.0, True, 0.05)).reason is Reason.DEADLINE


def test_a_busy_engine_pays_for_copies_only() -> None:
    prefill = Prefill(0.001, 1e-4, 0.0)
    tokens = 16 * BLOCK + 1
    busy = Now(0.3, True, 60.0)
    assert decide(prefill, loads(0.5), bytes(16), 0, BLOCK, tokens, busy) == Decision(16, Reason.FREES)
    assert decide(prefill, loads(0.5, stall_s=0.02), bytes(16), 0, BLOCK, tokens, busy) == Decision(0, Reason.STALL)


def test_no_length_would_have_been_better() -> None:
    chance = random.Random(2)
    for _ in range(2000):
        prefill = Prefill(chance.uniform(0, 0.02), 10 ** chance.uniform(-6, -3), 10 ** chance.uniform(-11, -7))
        load = loads(10 ** chance.uniform(-5, -1), 10 ** chance.uniform(-5, -1), 10 ** chance.uniform(-7, -2))
        stored, own = chance.randint(1, 16), chance.randint(0, 8)
        tiers = bytes(chance.randint(0, 1) for _ in range(stored))
        tokens = (own + stored) * BLOCK + chance.randint(1, 2000)
        now = Now(chance.choice([0.0, chance.uniform(0, 2)]), chance.random() < 0.5, chance.uniform(0.001, 5))

        def seconds(blocks: int, load: LoadSpeed = load, tiers: bytes = tiers) -> float:
            nvme = tiers.count(1, 0, blocks)
            return (load.seconds((blocks - nvme, nvme)) or 0.0) if blocks else 0.0

        def cost(blocks: int) -> float:
            rest = prefill.seconds((own + blocks) * BLOCK, tokens)  # noqa: B023
            return load.stall_block_s * blocks + rest if now.is_busy else max(seconds(blocks), now.wait_s) + rest  # noqa: B023

        in_time = [blocks for blocks in range(stored + 1) if seconds(blocks) <= now.deadline_s]
        expected = min(map(cost, in_time))
        costs = [cost(blocks) for blocks in range(stored + 1)]
        decision = decide(prefill, load, tiers, own, BLOCK, tokens, now)
        assert decision.blocks in in_time
        assert costs[decision.blocks] <= expected * (1 + 1e-9), (decision, costs)


def test_what_the_client_plans_comes_before_what_was_learned() -> None:
    """The client knows of sizes and of the queue at the node; where it knows nothing, what was learned here stands in."""
    prefill, tokens = Prefill(0.0, 1e-4, 0.0), 8 * BLOCK + 1
    confidence, seconds = 0.0, 0.5
    load = loads(0.001)
    load.planned = lambda loads: [(seconds, confidence) for _ in loads]
    assert decide(prefill, load, bytes(8), 0, BLOCK, tokens, IDLE) == Decision(8, Reason.FASTER)
    confidence = 0.5
    assert decide(prefill, load, bytes(8), 0, BLOCK, tokens, IDLE) == Decision(0, Reason.SLOWER)
    assert decide(prefill, load, bytes(8), 0, BLOCK, tokens, Now(0.0, False, 0.1)) == Decision(0, Reason.DEADLINE)
    # A fixed cost: two blocks take as long as eight, which nothing in proportion to blocks can say.
    seconds, load.hope = 0.03, 1.0
    assert decide(prefill, load, bytes(8), 0, BLOCK, tokens, IDLE) == Decision(8, Reason.FASTER)
    assert decide(prefill, load, bytes(2), 0, BLOCK, tokens, IDLE) == Decision(0, Reason.SLOWER)
    seconds = 0.2
    for tries in range(200):
        if decide(prefill, load, bytes(8), 0, BLOCK, tokens, IDLE).blocks:
            break
    assert 10 < tries < 199, "and what is never tried again is never known better"


def test_what_was_too_slow_is_tried_again() -> None:
    prefill, load = Prefill(0.0, 1e-4, 0.0), loads(0.1)
    for tries in range(200):
        if decide(prefill, load, bytes(8), 0, BLOCK, 8 * BLOCK + 1, IDLE).blocks:
            break
    assert 10 < tries < 199


def served(stored: bool, seconds: float = 600.0) -> int:
    """Requests that an engine at full load finishes: it prefills one after the other, and a load of each takes 1.5 times what computing it takes.
    Eight loads go side by side. The decisions are the adapters' own."""
    prefill = Prefill(0.0, 1e-4, 0.0)
    blocks, tokens = 30, 32 * BLOCK
    compute_s = prefill.seconds(0, blocks * BLOCK)
    load = loads(1.5 * compute_s / blocks, stall_s=1e-4)
    gpu_free, lanes, finished = 0.0, [0.0] * 8, 0
    ready: list[float] = []
    while gpu_free < seconds:
        # There is always one more that waits, and the engine always computes for others.
        begin = min(lanes)
        now = Now(max(0.0, gpu_free - begin), True, 30.0)
        loaded = decide(prefill, load, bytes(blocks if stored else 0), 0, BLOCK, tokens, now).blocks
        took = (load.seconds((loaded, 0)) or 0.0) if loaded else 0.0
        lane = lanes.index(begin)
        lanes[lane] = begin + took
        ready.append(begin + took)
        gpu_free = max(gpu_free, ready.pop(0)) + load.stall_block_s * loaded + prefill.seconds(loaded * BLOCK, tokens)
        lanes = [max(at, gpu_free - 30.0) for at in lanes]
        finished += 1
    return finished


def test_at_full_load_a_load_that_is_slower_than_computing_still_raises_throughput() -> None:
    without, with_store = served(False), served(True)
    assert with_store > 3 * without, (without, with_store)


def test_wishes_of_a_request_are_read_and_nonsense_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert wishes(None) == wishes({}) == wishes({"do_remote_prefill": True}) == NONE
    assert wishes({"forebay": {"hint": "tool", "skip_read": True}}) == Wishes(hint="tool", skip_read=True)
    assert wishes({"forebay": {"hint": 90, "skip_write": True, "deadline_ms": 500}}) == Wishes(hint=90.0, skip_write=True, deadline_ms=500.0)
    for nonsense in [7, {"hint": "soon"}, {"hint": True}, {"hint": -1}, {"deadline_ms": 0}, {"deadline_ms": "1"}, {"tenant": "me"}]:
        for _ in range(2):
            assert wishes({"forebay": nonsense}) == NONE
    assert len(caplog.messages) == 7, "each once"
