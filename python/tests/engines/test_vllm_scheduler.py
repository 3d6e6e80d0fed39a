"""The scheduler's half of `ForebayConnector` with a node: what it promises of requests, what it tells the worker, and what it tells the world."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import Node, wait_for, write_over
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

from forebay import Fingerprint
from forebay.integrations._common import Link, Report
from forebay.integrations._decide import Prefill, Reason
from forebay.integrations.vllm import pace as pace_module
from forebay.integrations.vllm import touches
from forebay.integrations.vllm.messages import Stored
from forebay.integrations.vllm.pace import Pace
from forebay.integrations.vllm.scheduler import SchedulerHalf

TOKENS = 16


def request(name: str, tokens: int, seed: int = 0, lora: Any = None, **wishes: Any) -> Any:
    hashes = [hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(tokens // TOKENS)]
    return SimpleNamespace(
        request_id=name, num_tokens=tokens, block_hashes=hashes, lora_request=lora, num_computed_tokens=0, all_token_ids=list(range(tokens)), kv_transfer_params={"forebay": wishes}
    )


def output(*, new: list[Any] = (), cached: list[Any] = (), resumed: set[str] = frozenset(), scheduled: dict[str, int]) -> Any:
    """What vLLM's scheduler says of a step: (name, block ids, computed tokens) for each request."""
    return SimpleNamespace(
        scheduled_new_reqs=[SimpleNamespace(req_id=name, block_ids=(ids,), num_computed_tokens=at) for name, ids, at in new],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=[name for name, _, _ in cached],
            new_block_ids=[(ids,) if ids else None for _, ids, _ in cached],
            num_computed_tokens=[at for _, _, at in cached],
            resumed_req_ids=set(resumed),
        ),
        num_scheduled_tokens=scheduled,
    )


class Half:
    """A scheduler's half, and the store beside it."""

    def __init__(self, node: Node, world: int = 1, events: bool = True, lora_digest: Any = lambda lora: lora, pace: Pace | None = None, block_bytes: int = 0, lookup_deadline_ms: float = 20_000) -> None:
        self.link = Link(Fingerprint(model="scheduler"), engine="test", address=node.address)
        self.half = SchedulerHalf(
            self.link, Report(self.link), block_tokens=TOKENS, world=world, lora_digest=lora_digest, events=events, lookup_deadline_ms=lookup_deadline_ms, pace=pace, block_bytes=block_bytes
        )

    def put(self, of: Any, blocks: range, salt: bytes = b"") -> None:
        space = self.link.namespace
        assert space is not None
        keys = self.keys(of.block_hashes[blocks.start : blocks.stop], salt)
        assert all(space.put(keys, [b"kv"] * (len(keys) // 16)))

    def keys(self, hashes: list[bytes], salt: bytes = b"") -> bytes:
        """A row for each block and rank."""
        space = self.link.namespace
        assert space is not None
        return space.keys([hash_ + suffix for hash_ in hashes for suffix in self.half._suffixes(salt)])

    def matched(self, of: Any, computed: int = 0) -> tuple[int | None, bool]:
        """As the scheduler asks: again and again, while the answer is that it is not known yet."""
        answer: list[tuple[int | None, bool]] = []
        wait_for(lambda: (answer.append(self.half.matched_tokens(of, computed)), answer[-1][0] is not None)[1], every_s=0.001)
        return answer[-1]


@pytest.fixture
def half(node: Node) -> Iterator[Half]:
    half = Half(node)
    yield half
    half.half.close()


def test_the_longest_prefix_is_promised(half: Half) -> None:
    asked = request("a", 5 * TOKENS)
    half.put(asked, range(5))
    assert half.half.matched_tokens(asked, 0) == (None, False), "the scheduler goes on with others meanwhile"
    assert half.matched(asked) == (5 * TOKENS, True)
    assert half.matched(asked, computed=3 * TOKENS) == (2 * TOKENS, True)
    assert half.half.matched_tokens(asked, 4 * TOKENS) == (0, False), "the step that computes its last token is not waited for"
    with_gap = request("b", 5 * TOKENS + 3, seed=1)
    half.put(with_gap, range(2))
    half.put(with_gap, range(3, 5))
    assert half.matched(with_gap) == (2 * TOKENS, True)
    # Behind what the engine has itself.
    assert half.matched(with_gap, computed=3 * TOKENS) == (2 * TOKENS, True)
    assert half.matched(request("c", 40, seed=2)) == (0, False)
    assert half.matched(request("short", TOKENS - 1)) == (0, False)


def test_a_block_counts_when_every_rank_has_its_part(node: Node) -> None:
    half = Half(node, world=2)
    asked = request("a", 3 * TOKENS + 1)
    half.put(asked, range(3))
    space = half.link.namespace
    assert space is not None
    missing = half.keys(asked.block_hashes[1:2])[16:]
    assert space.forget(missing) == [True]
    assert half.matched(asked) == (TOKENS, True)
    half.half.close()


def test_what_was_promised_is_loaded_and_what_is_computed_is_saved(half: Half) -> None:
    asked = request("a", 4 * TOKENS + 5)
    half.put(asked, range(2))
    assert half.matched(asked) == (2 * TOKENS, True)
    half.half.allocated(asked, [7, 8, 9, 10, 11], 2 * TOKENS)
    step = half.half.step(output(scheduled={}))
    (load,) = half.half.take_loads()
    assert (load.request, load.block_ids, load.position) == ("a", [7, 8], 0)
    assert load.rows.startswith(b"".join(asked.block_hashes[:2])) and load.first == 0
    assert step.saves == [] and half.half.take_loads() == []
    # Loaded; the rest is computed in two steps.
    half.half.allocated(asked, [7, 8, 9, 10, 11], 0)
    first = half.half.step(output(new=[("a", [7, 8, 9, 10, 11], 2 * TOKENS)], scheduled={"a": TOKENS + 3}))
    (save,) = first.saves
    assert (save.block_ids, save.position) == ([9], 2)
    assert save.parent == asked.block_hashes[1] and save.rows == asked.block_hashes[2]
    second = half.half.step(output(cached=[("a", [], 3 * TOKENS + 3)], scheduled={"a": TOKENS + 2}))
    assert [(save.block_ids, save.position) for save in second.saves] == [([10], 3)]


def test_after_weights_may_have_changed_in_memory_nothing_older_is_found_and_nothing_newer_by_others(node: Node) -> None:
    """The engine's caches are reset; one request lives through it and another one waits."""
    half, other = Half(node), Half(node)
    old = request("old", 2 * TOKENS + 1)
    half.put(old, range(2))
    assert half.matched(old) == (2 * TOKENS, True)
    half.half.allocated(old, [7, 8, 9], 2 * TOKENS)
    (before,) = half.half.take_loads()
    waits = request("waits", 2 * TOKENS + 1)
    assert half.half.matched_tokens(waits, 0) == (None, False)
    half.half.renew()
    assert half.half.matched_tokens(old, 0) == (0, False)
    step = half.half.step(output(new=[("old", [7, 8, 9], 0)], scheduled={"old": 2 * TOKENS}))
    assert step.saves == [], "what was begun with old weights is not stored"
    assert half.matched(waits) == (0, False), "what is stored is of the old ones"
    half.half.allocated(waits, [3, 4, 5], 0)
    (save,) = half.half.step(output(new=[("waits", [3, 4, 5], 0)], scheduled={"waits": 2 * TOKENS + 1})).saves
    assert before.salt == b"" and save.salt
    half.put(waits, range(1), salt=save.salt)
    assert half.matched(request("new", 2 * TOKENS + 1)) == (TOKENS, True)
    assert other.matched(request("theirs", 2 * TOKENS + 1)) == (2 * TOKENS, True), "others have the old weights"
    half.half.finished(old)
    assert half.matched(request("old", 2 * TOKENS + 1)) == (TOKENS, True), "a later one of the same name is another one"
    other.half.renew()
    assert other.matched(request("once more", 2 * TOKENS + 1)) == (0, False), "nor is theirs found by ours"
    half.half.close()
    other.half.close()


@pytest.mark.parametrize("failed", [set(), {"a"}])
def test_a_prompt_that_is_loaded_to_its_end_is_not_saved_again(half: Half, failed: set[str]) -> None:
    """vLLM computes its last token anew, in a block that the store has. Unless that block is what did not come."""
    asked = request("a", 2 * TOKENS)
    half.put(asked, range(2))
    assert half.matched(asked) == (2 * TOKENS, True)
    half.half.allocated(asked, [7, 8], 2 * TOKENS)
    half.half.worker_said(Stored(failed=failed))
    computed = TOKENS if failed else 2 * TOKENS - 1
    step = half.half.step(output(new=[("a", [7, 8], computed)], scheduled={"a": 2 * TOKENS - computed}))
    assert [save.block_ids for save in step.saves] == ([[8]] if failed else [])


def test_what_became_of_prompts_is_told_to_the_node(half: Half) -> None:
    """Of 69 tokens the engine had a block, and of the three that were loaded behind it one failed."""
    asked = request("a", 4 * TOKENS + 5)
    half.put(asked, range(4))
    assert half.matched(asked, computed=TOKENS) == (3 * TOKENS, True)
    half.half.allocated(asked, [7, 8, 9, 10, 11], 3 * TOKENS)
    half.half.take_loads()
    half.half.step(output(new=[("a", [7, 8, 9, 10, 11], 3 * TOKENS)], scheduled={"a": 2 * TOKENS + 5}))
    client, space = half.link.client, half.link.namespace
    assert client is not None and space is not None

    def told() -> Any:
        half.half.matched_tokens(request("other", TOKENS - 1), 0)
        half.half.step(output(scheduled={}))
        (usage,) = [one["usage"] for one in client.node_stats()["namespaces"] if one["name"] == half.link.name]
        return usage

    wait_for(lambda: told()["reported_requests"] == 1)
    usage = told()
    assert (usage["reported_prompt_tokens"], usage["reported_engine_tokens"], usage["used_tokens"]) == (69, TOKENS, 2 * TOKENS)


def test_a_load_that_failed_is_computed_and_saved(half: Half) -> None:
    asked = request("a", 4 * TOKENS)
    half.put(asked, range(3))
    assert half.matched(asked) == (3 * TOKENS, True)
    half.half.allocated(asked, [1, 2, 3, 4], 3 * TOKENS)
    half.half.take_loads()
    # vLLM truncates to what was loaded: one block.
    step = half.half.step(output(new=[("a", [1, 2, 3, 4], TOKENS)], scheduled={"a": 3 * TOKENS}))
    assert [save.block_ids for save in step.saves] == [[2, 3, 4]]


def test_what_is_found_and_does_not_arrive_is_not_asked_for_again_and_again(half: Half) -> None:
    """On a link that spoils each block the engine of one request went round for ever: found, loaded, spoiled, rescheduled, found."""
    asked = request("a", 4 * TOKENS)
    half.put(asked, range(3))
    assert half.matched(asked) == (3 * TOKENS, True)
    half.half.allocated(asked, [1, 2, 3, 4], 3 * TOKENS)
    half.half.worker_said(Stored(load_failed=3, failed={"a"}))
    assert half.half.matched_tokens(asked, 0) == (0, False), "it is computed"
    other = request("b", 4 * TOKENS)
    assert half.matched(other) == (3 * TOKENS, True), "others may have more luck"
    half.half.finished(asked)
    half.half.worker_said(Stored(failed={"a"}))
    assert not half.half._failed


def test_a_preempted_request_is_saved_once(half: Half) -> None:
    asked = request("a", 4 * TOKENS)
    half.half.allocated(asked, [1, 2, 3, 4], 0)
    step = half.half.step(output(new=[("a", [1, 2, 3, 4], 0)], scheduled={"a": 2 * TOKENS}))
    assert [save.block_ids for save in step.saves] == [[1, 2]]
    half.half.allocated(asked, [5, 6, 7, 8], 0)
    step = half.half.step(output(cached=[("a", [5, 6, 7, 8], 0)], resumed={"a"}, scheduled={"a": 4 * TOKENS}))
    assert [(save.block_ids, save.position) for save in step.saves] == [([7, 8], 2)]


def test_tokens_that_nothing_is_known_of_fail_instead_of_waiting_for_ever(half: Half) -> None:
    asked = request("a", 4 * TOKENS)
    half.half.allocated(asked, [1, 2, 3, 4], 2 * TOKENS)
    (load,) = half.half.take_loads()
    assert load.block_ids == [1, 2] and load.rows == b""


def test_a_node_that_stands_still_is_a_miss_at_the_deadline(node: Node) -> None:
    half = Half(node, lookup_deadline_ms=500)
    asked = request("a", 4 * TOKENS)
    half.put(asked, range(4))
    node.stop()
    try:
        assert half.matched(asked) == (0, False)
    finally:
        node.signal(signal.SIGCONT)
    half.half.close()


def test_adapters_of_one_name_do_not_share(half: Half) -> None:
    one, two = (request("a", 3 * TOKENS, lora=digest) for digest in (b"one", b"two"))
    half.put(one, range(2), salt=b"one")
    assert half.matched(one) == (2 * TOKENS, True)
    two.request_id = "b"
    assert half.matched(two) == (0, False)
    unknown = request("c", 3 * TOKENS)
    unknown.lora_request, half.half._lora_digest = b"", lambda lora: None
    assert half.matched(unknown) == (0, False), "weights that cannot be told from others are computed"


def test_what_was_stored_is_published_also_when_its_request_is_over(half: Half) -> None:
    asked = request("a", 3 * TOKENS)
    half.half.allocated(asked, [1, 2, 3], 0)
    half.half.worker_said(Stored(blocks={("a", 0)}, outcomes={"stored": 1}))
    half.half.finished(asked)
    half.half.worker_said(Stored(blocks={("a", 1)}))
    events, names = half.half.take_events(), [maybe_convert_block_hash(name) for name in asked.block_hashes]
    assert [(event.block_hashes, event.parent_block_hash, event.token_ids) for event in events] == [
        ([names[0]], None, list(range(TOKENS))),
        ([names[1]], names[0], list(range(TOKENS, 2 * TOKENS))),
    ]
    assert {event.medium for event in events} == {"FOREBAY"} and half.half.take_events() == []


def test_a_prefix_that_only_the_engine_hits_does_not_look_cold_in_the_store(small_node: Node) -> None:
    """A thousand requests whose prefix the engine has itself ask the node for nothing. It outlives ten times the store's capacity all the same."""
    half = Half(small_node, world=2)
    space = half.link.namespace
    assert space is not None
    hot, cold = request("hot", 4 * TOKENS + 1), request("cold", 4 * TOKENS + 1, seed=1)
    nbytes = 64 << 10
    for each in (hot, cold):
        keys = half.keys(each.block_hashes)
        assert all(space.put(keys, [os.urandom(nbytes)] * 8, chain=1, position=0))
    names = itertools.count()

    def hit() -> None:
        again = request(f"again {next(names)}", 4 * TOKENS + 1)
        assert half.half.matched_tokens(again, 4 * TOKENS) == (0, False), "there is nothing to ask for"
        half.half.allocated(again, [1, 2, 3, 4, 5], 0)
        half.half.step(output(new=[(again.request_id, [1, 2, 3, 4, 5], 4 * TOKENS)], scheduled={again.request_id: 1}))
        half.half.finished(again)

    write_over(small_node, half.link, hit)
    left = [sum(map(bool, space.contains(half.keys(each.block_hashes)))) for each in (hot, cold)]
    assert left == [8, 0], "what is used is kept, what nobody uses is gone"
    half.half.close()


def test_touches_are_told_in_parts_ends_first_and_not_all_the_time(half: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touches, "STEP_MAX", 3)
    told: list[int] = []
    line = touches.Touches()
    space = half.link.namespace
    queue = SimpleNamespace(touch=lambda _, hashes: told.append(len(hashes)))
    hashes = request("a", 5 * TOKENS).block_hashes
    line.add(hashes, 5, hashes[-1], (b"",), now=10.0)
    line.add(hashes, 5, hashes[-1], (b"",), now=10.05)
    assert len(line) == 5
    line.tell(queue, space)
    line.add(hashes, 5, hashes[-1], (b"",), now=10.2)
    assert told == [3] and len(line) == 7
    line.tell(queue, space)
    line.tell(queue, space)
    line.tell(queue, space)
    line.tell(queue, space)
    assert sum(told) == 10 and len(line) == 0


def test_touches_of_a_dictionary_are_read_where_they_are_while_it_grows(half: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touches, "STEP_MAX", 3)
    prefix = touches.Prefix({b"%d" % number: number for number in range(10)}, 7, (b"",))
    told: list[bytes] = []
    for step in range(20):
        if step == 3:
            prefix._hashes[b"more"] = 10  # type: ignore[index, call-overload]
        told = prefix.take(3) + told
    assert told == [b"%d" % number for number in range(7)] and prefix.left == 0, "the first seven, and no more"


def test_what_stands_in_line_is_brought_to_dram_meanwhile(node: Node, half: Half) -> None:
    """With all places taken vLLM looks at no waiting request. Its blocks are brought from the drive until its turn comes."""
    asked, busy, unread = request("waits", 4 * TOKENS + 1), request("runs", 4 * TOKENS + 1, seed=1), request("unread", 4 * TOKENS + 1, seed=2, skip_read=True)
    for each in (asked, busy, unread):
        half.put(each, range(4))
    node.end()
    node.start()
    space = half.link.namespace
    assert space is not None and half.link.client is not None and half.link.client.wait_reachable(60_000)

    def tiers(of: Any) -> set[str]:
        return set(map(str, space.contains(half.keys(of.block_hashes[:4]))))

    assert tiers(asked) == tiers(busy) == tiers(unread) == {"nvme"}
    for each in (asked, busy, unread):
        half.half.arrived(each)
    # One is looked at in the next step, as it should be.
    assert half.matched(busy) == (4 * TOKENS, True)
    half.half.step(output(scheduled={}))
    wait_for(lambda: (half.half.step(output(scheduled={})), tiers(asked) == {"dram"})[1])
    assert tiers(busy) == tiers(unread) == {"nvme"}
    assert half.half._report.counts["prefetched"] == 4, "and asked for once"
    assert half.matched(asked) == (4 * TOKENS, True)
    half.half.allocated(asked, [1, 2, 3, 4, 5], 4 * TOKENS)
    assert not half.half._prefetched and not half.half._waiting.keys() & {"waits", "runs"}


def test_a_request_says_what_is_done_with_its_blocks(half: Half) -> None:
    unread, unwritten, hinted = (request(name, 4 * TOKENS + 1, **wish) for name, wish in (("a", {"skip_read": True}), ("b", {"skip_write": True}), ("c", {"hint": "tool"})))
    half.put(unread, range(2))
    assert half.half.matched_tokens(unread, 0) == (0, False)
    saves = []
    for each in (unread, unwritten, hinted):
        half.half.allocated(each, [1, 2, 3, 4, 5], 0)
        step = half.half.step(output(new=[(each.request_id, [1, 2, 3, 4, 5], 0)], scheduled={each.request_id: 4 * TOKENS}))
        saves.append([(len(save.block_ids), save.hint) for save in step.saves])
    assert saves == [[(4, None)], [], [(4, "tool")]]
    assert half.matched(hinted) == (2 * TOKENS, True)
    half.half.allocated(hinted, [1, 2, 3, 4, 5], 2 * TOKENS)
    assert [load.hint for load in half.half.take_loads()] == ["tool"]


def test_loads_are_made_when_they_are_worth_it_and_each_decision_is_counted(node: Node) -> None:
    """Prefill is given; loads are taught: first they cost next to nothing, then more than computing does, while the engine is idle and while it is busy."""
    pace = Pace(8192, Prefill(0.0, 1e-3, 0.0, 8192))
    half = Half(node, pace=pace)
    first = request("first", 4 * TOKENS + 1)
    half.put(first, range(4))

    def ask(name: str, **wish: Any) -> tuple[int | None, bool]:
        asked = request(name, 4 * TOKENS + 1, **wish)
        answer = half.matched(asked)
        half.half.finished(asked)
        return answer

    assert ask("unknown") == (4 * TOKENS, True)
    for number in range(3):
        loading = request(f"taught {number}", 4 * TOKENS + 1)
        assert half.matched(loading) == (4 * TOKENS, True)
        half.half.allocated(loading, [1, 2, 3, 4, 5], 4 * TOKENS)
        half.half.worker_said(Stored(loads={loading.request_id: (0.2, 0.0001)}))
        half.half.finished(loading)
    # 64 tokens in 64 ms, loads in 200.
    assert ask("idle") == (0, False)
    running = request("running", 4 * TOKENS + 1, seed=3)
    half.half.allocated(running, [6, 7, 8, 9, 10], 0)
    half.half.step(output(new=[("running", [6, 7, 8, 9, 10], 0)], scheduled={"running": TOKENS}))
    half.half.take_events()
    assert ask("busy") == (4 * TOKENS, True)
    assert ask("in haste", deadline_ms=1) == (0, False)
    half.half.finished(running)
    assert half.half._report.reasons == {Reason.UNKNOWN: 4, Reason.SLOWER: 1, Reason.FREES: 1, Reason.DEADLINE: 1}
    assert "1 computed, that is sooner" in half.half._report.line()
    half.half.close()


def test_a_node_with_a_queue_is_not_waited_for(node: Node) -> None:
    """Loads are planned by the client: what they took, and what the lookup of this very request stood in line for."""
    half = Half(node, pace=Pace(8192, Prefill(0.0, 1e-3, 0.0, 8192)), block_bytes=1 << 20, lookup_deadline_ms=20_000)
    stored = request("stored", 4 * TOKENS + 1)
    half.put(stored, range(4))
    for number in range(8):
        loading = request(f"taught {number}", 4 * TOKENS + 1)
        # The first three are loaded whatever is known; whether the others are is this machine's affair, they teach all the same.
        half.matched(loading)
        half.half.allocated(loading, [1, 2, 3, 4, 5], 4 * TOKENS)
        half.half.worker_said(Stored(loads={loading.request_id: (0.001, 0.00001)}))
        half.half.finished(loading)
    ((seconds, confidence),) = half.half._planned([(4, 0)])
    assert confidence > 0.5 and seconds >= 0.001
    node.stop()
    late = request("late", 4 * TOKENS + 1)
    assert half.half.matched_tokens(late, 0) == (None, False)
    time.sleep(0.4)
    node.signal(signal.SIGCONT)
    assert half.matched(late) == (0, False), "64 tokens are computed in 64 ms"
    assert half.half._report.reasons[Reason.SLOWER] >= 1
    assert half.half._planned([(4, 0)])[0][0] > 0.2
    half.half.close()


def test_prefill_is_learned_from_the_steps_the_engine_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: clock[0])
    pace = Pace(2048)
    for number in range(6):
        name = f"r{number}"
        tokens = 1000 + 200 * number
        pace.began(output(new=[(name, [], 0)], scheduled={name: tokens}), {name: 2 * tokens})
        clock[0] += 0.01 + tokens * 1e-4
        pace.ended()
        assert pace.now("other", 1.0).is_busy
        pace.gone(name)
        # The engine idles: nothing of that is prefill.
        clock[0] += 7.0
    known = pace.speed.known()
    assert known is not None and known.seconds(0, 1500) == pytest.approx(0.16, rel=0.05)
    assert not pace.now("other", 1.0).is_busy and pace.now("other", 1.0).wait_s == 0.0
    pace.ended()
