"""`ForebayTier` behind vLLM's own scheduler side: its factory, its tiering manager, its CPU tier in shared memory. No GPU and no model."""

from __future__ import annotations

import functools
import hashlib
import random
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import OF_A_FULL_QUOTA, OF_ANOTHER_VERSION, Lines, Node, NodeOfAnotherVersion, clear, puts_on_drive, wait_for, write_over
from prometheus_client import REGISTRY
from vllm.config import KVTransferConfig
from vllm.distributed.kv_events import BlockStored
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorProm
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.events import OffloadingEventsTracker
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash
from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext, ScheduleEndContext, get_offload_block_hash, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

import forebay
from forebay.integrations.vllm import tier as tier_module

CHUNK_BYTES = 64 * 1024
CHUNKS = 48


def key(number: int) -> OffloadKey:
    return make_offload_key(hashlib.sha256(f"block {number}".encode()).digest(), 0)


@functools.lru_cache(256)
def content(of: OffloadKey) -> np.ndarray:
    """What the engine computes for a chunk: the same in every life."""
    seed = int.from_bytes(of[:8], "little")
    return np.random.default_rng(seed).integers(-128, 127, CHUNK_BYTES, dtype=np.int8)


class Scheduler:
    """vLLM's tiering manager as its scheduler drives it, with the GPU's part played here."""

    def __init__(self, node: Node, chunks: int = CHUNKS, **tier: Any) -> None:
        tier = {"type": "ForebayTier", "module_path": "forebay.integrations.vllm", "address": node.address, "weights_digest": "one", **tier}
        # No machine is too slow for these.
        tier = {"lookup_deadline_ms": 20_000, "transfer_deadline_ms": 60_000, **tier}
        self.config = OffloadingConfig(
            groups=(OffloadingGroupConfig(tokens_per_block=16, layer_names=("layer",), group_id=0),),
            worker_kv_bytes_per_block=CHUNK_BYTES,
            enable_kv_cache_events=True,
            extra_config={"cpu_bytes_to_use": chunks * CHUNK_BYTES, "secondary_tiers": [tier]},
            engine_id=f"forebay-test-{uuid.uuid4().hex}",
            model=OffloadingModelConfig(name="model", dtype="bfloat16"),
            cache=OffloadingCacheConfig(tokens_per_hash=16, blocks_per_chunk=1),
            parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, False),
        )
        try:
            self.manager = TieringOffloadingSpec(self.config).get_manager()
        except (ValueError, forebay.ForebayError):
            # vLLM makes its shared memory before its tiers, and does not take it back when one of them refuses.
            Path(f"/dev/shm/vllm_offload_{self.config.engine_id}.mmap").unlink(missing_ok=True)
            raise
        (self.tier,) = self.manager.secondary_tiers
        self.view = np.frombuffer(self.manager.primary_tier.get_kv_memoryview(), dtype=np.int8).reshape(chunks, CHUNK_BYTES)
        self.loads = 0
        submit = self.tier.submit_load

        def counted(job: Any) -> None:
            self.loads += 1
            submit(job)

        self.tier.submit_load = counted
        self._requests = 0

    def begin(self, *, is_open: bool = True, **wishes: Any) -> ReqContext:
        """is_open: the tier has found its node, or has not, when this returns."""
        self._requests += 1
        context = ReqContext(req_id=f"request {self._requests}", kv_transfer_params={"forebay": wishes})
        self.manager.on_new_request(context)
        wait_for(lambda: not (is_open and self.tier._link.is_opening), every_s=0.001)
        return context

    def end(self, context: ReqContext) -> None:
        self.manager.on_request_finished(context)

    def step(self) -> None:
        self.manager.on_schedule_end(ScheduleEndContext((), ()))

    def look(self, keys: list[OffloadKey], context: ReqContext) -> list[LookupResult]:
        return [self.manager.lookup(key, context) for key in keys]

    def look_until_known(self, keys: list[OffloadKey], context: ReqContext, before: set[LookupResult] | None = None) -> list[LookupResult]:
        """Step after step, as the scheduler does, until no answer is pending. before: gets all answers there were."""
        seen: list[LookupResult] = []

        def known() -> bool:
            seen[:] = self.look(keys, context)
            (before if before is not None else set()).update(seen)
            self.step()
            return not {LookupResult.RETRY, LookupResult.HIT_PENDING} & set(seen)

        wait_for(known, every_s=0.001)
        return seen

    def store(self, keys: list[OffloadKey], context: ReqContext) -> list[OffloadKey]:
        """The engine computed these; what the CPU tier took of them."""
        prepared = self.manager.prepare_store(keys, context)
        if prepared is None:
            return []
        for key_, chunk in zip(prepared.keys_to_store, prepared.store_spec.chunk_ids, strict=True):
            self.view[int(chunk)] = content(key_)
        if prepared.keys_to_store:
            self.manager.complete_store(prepared.keys_to_store, context)
        return list(prepared.keys_to_store)

    def read(self, keys: list[OffloadKey], context: ReqContext) -> list[np.ndarray]:
        """What the GPU would be given."""
        spec = self.manager.prepare_load(keys, context)
        read = [self.view[int(chunk)].copy() for chunk in spec.chunk_ids]
        self.manager.complete_load(keys, context)
        return read

    def settle(self) -> None:
        """Until all transfers are over."""
        wait_for(lambda: (self.step(), not self.manager.has_pending_work())[1])

    def close(self) -> None:
        self.settle()
        # The tier must let the mapping go, and so must this.
        self.view = np.zeros(0)
        self.manager.shutdown()


@pytest.fixture
def scheduler(node: Node) -> Iterator[Scheduler]:
    scheduler = Scheduler(node)
    yield scheduler
    scheduler.close()


def test_what_one_engine_stored_another_one_loads_with_one_call(node: Node, scheduler: Scheduler) -> None:
    keys = [key(number) for number in range(6)]
    first = scheduler.begin()
    assert scheduler.look_until_known(keys, first) == [LookupResult.MISS] * 6
    assert scheduler.store(keys, first) == keys
    scheduler.settle()
    scheduler.end(first)
    other = Scheduler(node)
    request = other.begin()
    assert other.look(keys, request) == [LookupResult.RETRY] * 6, "a lookup never waits for the node"
    seen: set[LookupResult] = set()
    assert other.look_until_known(keys, request, seen) == [LookupResult.HIT] * 6
    assert seen == {LookupResult.RETRY, LookupResult.HIT_PENDING, LookupResult.HIT}, "asked for, found, and loaded"
    assert other.loads == 1
    for ours, theirs in zip(other.read(keys, request), keys, strict=True):
        assert np.array_equal(ours, content(theirs))
    other.end(request)
    other.close()
    assert scheduler.tier._report.counts["stored"] == 6 and other.tier._report.counts["loaded"] == 6


def test_a_node_that_stands_still_is_a_miss_at_the_deadline(node: Node) -> None:
    scheduler = Scheduler(node, lookup_deadline_ms=250)
    request = scheduler.begin()
    assert scheduler.look_until_known([key(1)], request) == [LookupResult.MISS]
    node.stop()
    try:
        seen = scheduler.look_until_known([key(2), key(3)], request)
    finally:
        node.signal(signal.SIGCONT)
    assert seen == [LookupResult.MISS] * 2
    scheduler.end(request)
    scheduler.close()


def test_no_step_waits_for_a_node_that_stands_still_from_the_start(node: Node) -> None:
    """A connection to it takes as long as the client's deadline of 5 s. A request waits as long as for a lookup, and the scheduler not at all."""
    node.stop()
    try:
        scheduler = Scheduler(node, lookup_deadline_ms=250)
        slowest, began = 0.0, time.monotonic()
        keys, seen = [key(1), key(2)], [LookupResult.RETRY]
        request = None
        while LookupResult.RETRY in seen:
            step = time.monotonic()
            request = request or scheduler.begin(is_open=False)
            seen = scheduler.look(keys, request)
            scheduler.step()
            slowest = max(slowest, time.monotonic() - step)
            time.sleep(0.005)
        assert seen == [LookupResult.MISS] * 2 and slowest < 1 and time.monotonic() - began < 3, (slowest, time.monotonic() - began)
        assert scheduler.store(keys, request) == keys, "it is computed"
        scheduler.end(request)
    finally:
        node.signal(signal.SIGCONT)
    wait_for(lambda: scheduler.tier._link.namespace is not None)
    other = scheduler.begin()
    clear(scheduler.tier, scheduler.manager.reset_cache)
    assert scheduler.look_until_known(keys, other) == [LookupResult.MISS] * 2, "and is there for those who come later"
    assert scheduler.tier._report.counts["asked"] == 2
    scheduler.end(other)
    scheduler.close()


def test_the_first_request_of_an_engine_waits_until_the_namespace_is_open(node: Node, scheduler: Scheduler) -> None:
    writing = scheduler.begin()
    assert scheduler.store([key(1)], writing) == [key(1)]
    scheduler.settle()
    scheduler.end(writing)
    other = Scheduler(node)
    request = other.begin(is_open=False)
    assert other.look_until_known([key(1)], request) == [LookupResult.HIT]
    other.end(request)
    other.close()


def test_a_load_that_fails_is_a_miss_and_not_asked_for_again(node: Node) -> None:
    writer = Scheduler(node)
    keys = [key(number) for number in range(4)]
    request = writer.begin()
    writer.store(keys, request)
    writer.settle()
    writer.end(request)
    reader = Scheduler(node, transfer_deadline_ms=500)
    request = reader.begin()
    ask = reader.tier._ask

    def ask_and_kill() -> None:
        reader.tier._ask = ask
        ask()
        wait_for(lambda: reader.tier._queue.wait(timeout_ms=10))
        node.kill()

    reader.tier._ask = ask_and_kill
    assert reader.look_until_known(keys, request) == [LookupResult.MISS] * 4
    assert reader.loads == 1
    assert reader.tier._report.counts["load_failed"] == 4
    assert reader.store(keys, request) == keys, "they are computed, and their places in the CPU tier are free for it"
    for ours, theirs in zip(reader.read(keys, request), keys, strict=True):
        assert np.array_equal(ours, content(theirs))
    reader.end(request)
    reader.close()
    writer.close()


def test_chunks_of_another_length_are_no_hits(node: Node, scheduler: Scheduler) -> None:
    """Two engines that were told the same namespace by hand, and lay out their chunks differently."""
    request = scheduler.begin()
    assert scheduler.look_until_known([key(1)], request) == [LookupResult.MISS]
    space = scheduler.tier._link.namespace
    assert space.put([space.key(key(9))], [b"shorter"]) == ["cached"]
    assert scheduler.look_until_known([key(9)], request) == [LookupResult.MISS]
    scheduler.end(request)


def test_draining_leaves_nothing_under_way(node: Node, scheduler: Scheduler) -> None:
    keys = [key(number) for number in range(16)]
    request = scheduler.begin()
    scheduler.store(keys, request)
    clear(scheduler.tier, scheduler.tier.drain_jobs)
    assert not scheduler.tier._transfers
    clear(scheduler.tier, scheduler.manager.reset_cache)
    assert scheduler.look_until_known(keys, request) == [LookupResult.HIT] * 16
    scheduler.end(request)


def test_after_weights_may_have_changed_in_memory_nothing_older_is_found_and_nothing_newer_by_others(node: Node, scheduler: Scheduler) -> None:
    """vLLM resets its caches then, and has no other word for it; a request lives through it."""
    keys = [key(number) for number in range(4)]
    old = scheduler.begin()
    assert scheduler.store(keys[:2], old) == keys[:2]
    scheduler.settle()
    scheduler.manager.reset_cache()
    assert scheduler.look_until_known(keys, old) == [LookupResult.MISS] * 4
    assert scheduler.store(keys, old) == keys, "vLLM offloads what it holds of a live request anew, whichever weights that is of"
    scheduler.settle()
    scheduler.end(old)
    clear(scheduler.tier, scheduler.manager.reset_cache)
    new = scheduler.begin()
    assert scheduler.look_until_known(keys, new) == [LookupResult.MISS] * 4, "what was begun with old weights is not stored"
    assert scheduler.store(keys[1:3], new) == keys[1:3]
    scheduler.settle()
    other = Scheduler(node)
    theirs = other.begin()
    assert other.look_until_known(keys, theirs) == [LookupResult.HIT] * 2 + [LookupResult.MISS] * 2, "others have the old weights"
    other.end(theirs)
    other.close()
    clear(scheduler.tier, scheduler.manager.reset_cache)
    again = scheduler.begin()
    assert scheduler.look_until_known(keys, again) == [LookupResult.MISS, LookupResult.HIT, LookupResult.HIT, LookupResult.MISS]
    for ours, of in zip(scheduler.read(keys[1:3], again), keys[1:3], strict=True):
        assert np.array_equal(ours, content(of))
    scheduler.end(new)
    scheduler.end(again)
    assert not scheduler.tier._outlived


def test_a_large_job_is_handed_over_some_with_each_step_and_reported_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tier_module, "STEP_KEYS", 5)
    writer = Scheduler(node)
    keys = [key(number) for number in range(17)]
    request = writer.begin()
    writer.store(keys, request)
    assert len(writer.tier._line) == 17, "what is handed over is handed over once a step"
    writer.step()
    assert len(writer.tier._line) == 12, "the step's share"
    writer.settle()
    writer.end(request)
    assert writer.tier._report.counts["stored"] == 17
    reader = Scheduler(node)
    request = reader.begin()
    assert reader.look_until_known(keys, request) == [LookupResult.HIT] * 17 and reader.loads == 1
    for ours, theirs in zip(reader.read(keys, request), keys, strict=True):
        assert np.array_equal(ours, content(theirs))
    reader.end(request)
    reader.close()
    writer.close()


def test_a_preempted_request_asks_anew(node: Node, scheduler: Scheduler) -> None:
    request = scheduler.begin()
    assert scheduler.look_until_known([key(1)], request) == [LookupResult.MISS]
    other = Scheduler(node)
    writing = other.begin()
    other.store([key(1)], writing)
    other.settle()
    other.end(writing)
    other.close()
    assert scheduler.look_until_known([key(1)], request) == [LookupResult.MISS], "known is known"
    scheduler.manager.on_schedule_end(ScheduleEndContext((), (request.req_id,)))
    assert scheduler.look_until_known([key(1)], request) == [LookupResult.HIT]
    scheduler.end(request)


def test_what_only_the_engine_uses_does_not_look_cold_in_the_store(small_node: Node) -> None:
    """vLLM tells tiers of no hit in its GPU or CPU memory. A prefix that is hit there a thousand times outlives ten times the store's capacity."""
    scheduler = Scheduler(small_node)
    hot, cold = ([key(number) for number in numbers] for numbers in (range(8), range(100, 108)))
    request = scheduler.begin()
    scheduler.store(hot, request)
    scheduler.store(cold, request)
    scheduler.settle()
    scheduler.end(request)
    space = scheduler.tier._link.namespace
    assert space is not None and all(space.contains(space.keys(hot + cold)))

    def hit() -> None:
        request = scheduler.begin()
        for at, each in enumerate(hot):
            # As vLLM does for all chunks of a request; none of them is looked up in any tier.
            request.set_offload_key_position(each, (at + 1) * 16)
        scheduler.manager.on_schedule_end(ScheduleEndContext((request.req_id,), ()))
        scheduler.end(request)

    write_over(small_node, scheduler.tier._link, hit)
    assert sum(map(bool, space.contains(space.keys(cold)))) == 0, "what nobody uses is gone, so the test can fail"
    assert all(space.contains(space.keys(hot)))
    scheduler.close()


def test_what_the_cpu_tier_has_is_not_kept_in_the_nodes_memory_as_well(node: Node, scheduler: Scheduler) -> None:
    keys = [key(number) for number in range(16)]
    request = scheduler.begin()
    scheduler.store(keys, request)
    scheduler.settle()
    scheduler.end(request)
    space = scheduler.tier._link.namespace
    wait_for(lambda: set(space.contains(space.keys(keys))) == {"nvme"})
    shards = scheduler.tier._link.client.node_stats()["shards"]
    assert sum(shard["dram_duplicate_bytes"] for shard in shards) == 0


def test_a_request_says_what_is_done_with_its_blocks(node: Node, scheduler: Scheduler) -> None:
    keys = [key(number) for number in range(4)]
    unwritten = scheduler.begin(skip_write=True)
    assert scheduler.store(keys[:2], unwritten) == keys[:2]
    hinted = scheduler.begin(hint="tool")
    assert scheduler.store(keys[2:], hinted) == keys[2:]
    scheduler.settle()
    scheduler.end(unwritten)
    scheduler.end(hinted)
    other = Scheduler(node)
    reading, unread = other.begin(), other.begin(skip_read=True)
    assert other.look_until_known(keys, reading) == [LookupResult.MISS] * 2 + [LookupResult.HIT] * 2
    other.end(reading)
    # What the CPU tier has by now is vLLM's own affair.
    clear(other.tier, other.manager.reset_cache)
    assert other.look(keys, unread) == [LookupResult.MISS] * 4
    other.end(unread)
    other.close()


def test_the_store_learns_what_follows_what(node: Node) -> None:
    """A request's chunks in two parts, as chunked prefill stores them, and a second request that goes on behind some of them."""
    scheduler = Scheduler(node)
    first, second = ([key(number) for number in numbers] for numbers in (range(6), (0, 1, 2, 3, 10, 11)))

    def begin(keys: list[OffloadKey]) -> ReqContext:
        request = scheduler.begin()
        for at, each in enumerate(keys):
            # As vLLM's scheduler does for all chunks of a request, before any of them is stored.
            request.set_offload_key_position(each, (at + 1) * 16)
        return request

    one = begin(first)
    assert scheduler.store(first[:3], one) == first[:3] and scheduler.store(first[3:], one) == first[3:]
    two = begin(second)
    assert scheduler.store(second[4:], two) == second[4:]
    # Of a request whose positions are not known nothing is said.
    unknown = scheduler.begin()
    assert scheduler.store([key(20), key(21)], unknown) == [key(20), key(21)]
    scheduler.settle()
    for request in (one, two, unknown):
        scheduler.end(request)
    space = scheduler.tier._link.namespace
    named = {of: space.key(of) for of in {*first, *second, key(20), key(21)}}
    scheduler.close()
    node.end()
    puts = {stored: put for (_, stored), put in puts_on_drive(node).items()}
    root = int.from_bytes(first[0][:8], "big")
    for keys in (first, second):
        for at, each in enumerate(keys):
            put = puts[named[each]]
            assert (put.chain, put.position, put.tokens) == (root, at, 16), (at, put)
            assert put.parent == (named[keys[at - 1]][:8] if at else bytes(8)), (at, put)
    for each in (key(20), key(21)):
        assert (puts[named[each]].chain, puts[named[each]].parent) == (0, bytes(8))


def serves_without(scheduler: Scheduler) -> None:
    """All is missed and computed."""
    keys, request = [key(1), key(2)], scheduler.begin()
    assert scheduler.look_until_known(keys, request) == [LookupResult.MISS] * 2
    assert scheduler.store(keys, request) == keys
    for ours, theirs in zip(scheduler.read(keys, request), keys, strict=True):
        assert np.array_equal(ours, content(theirs))
    scheduler.end(request)
    scheduler.close()
    assert scheduler.tier._report.counts["stored"] == 0


def test_weights_that_cannot_be_told_from_others_are_not_served_and_said_once(node: Node) -> None:
    with Lines("vllm.forebay") as lines:
        serves_without(Scheduler(node, weights_digest=None))
    lines.only("weights", "weights_digest", "all is computed")
    with pytest.raises(ValueError, match="weights_digest"):
        Scheduler(node, weights_digest=None, strict=True)


def test_what_was_stored_is_told_to_routers_once_and_only_if_they_are_to_know(node: Node) -> None:
    """Through vLLM's own translation of a tier's events into those it publishes."""
    for is_told in (True, False):
        scheduler = Scheduler(node, enable_kv_events=is_told, locality="REMOTE", namespace=f"events-{is_told}")
        tracker = OffloadingEventsTracker(scheduler.tier._offloading_spec.kv_events_config)
        keys, request = [key(number) for number in range(3)], scheduler.begin()
        assert scheduler.store(keys, request) == keys
        scheduler.settle()

        def told() -> list[Any]:
            events = tracker.take_events(scheduler.manager.take_events())
            return [event for event in events if event.medium == "STORAGE"]

        events = told()
        assert [event for event in events if not isinstance(event, BlockStored)] == [] and told() == [], "told once"
        hashes = [hash_ for event in events for hash_ in event.block_hashes]
        assert hashes == ([maybe_convert_block_hash(get_offload_block_hash(each)) for each in keys] if is_told else [])
        # What the node refuses is not told.
        small = Scheduler(node, enable_kv_events=is_told, quota=4096, namespace=f"small-{is_told}")
        refused = small.begin()
        assert small.store(keys, refused) == keys
        small.settle()
        assert [event for event in small.tier.take_events()] == []
        for each, of in ((scheduler, request), (small, refused)):
            each.end(of)
            each.close()


def test_what_the_tier_counts_is_in_vllms_metrics(node: Node) -> None:
    """Through vLLM's own aggregation and its Prometheus metrics, twice: what was told is not told again."""
    scheduler = Scheduler(node)
    transfer = KVTransferConfig(kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config={**scheduler.config.extra_config, "spec_name": "TieringOffloadingSpec"})
    prometheus = KVConnectorProm(SimpleNamespace(kv_transfer_config=transfer), ["engine"], {0: ["0"]})

    def metrics() -> dict[str, int]:
        stats = scheduler.manager.get_stats()
        if stats is not None:
            prometheus.observe(stats.to_dict(), 0)
        names = ("asked", "hits", "loaded", "load_failed", "stored", "present")
        labels = {"engine": "0", "tier": "ForebayTier"}
        found = {name: REGISTRY.get_sample_value("vllm:forebay_tier_chunks_total", labels | {"outcome": name}) for name in names}
        return {name: int(value) for name, value in found.items() if value}

    keys = [key(number) for number in range(4)]
    request = scheduler.begin()
    assert scheduler.look_until_known(keys, request) == [LookupResult.MISS] * 4
    assert scheduler.store(keys, request) == keys
    scheduler.settle()
    scheduler.end(request)
    assert metrics() == {"asked": 4, "stored": 4}
    clear(scheduler.tier, scheduler.manager.reset_cache)
    request = scheduler.begin()
    assert scheduler.look_until_known(keys[:3], request) == [LookupResult.HIT] * 3
    scheduler.end(request)
    assert metrics() == metrics() == {"asked": 7, "hits": 3, "loaded": 3, "stored": 4}
    scheduler.close()


#: Where something of the tier's own goes wrong, and whether jobs are under way then.
FLAWS = ("_connect", "_first_lookup", "_ask", "_pump", "_drain", "_finish", "_place_in_chain", "_end_transfers")


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_of_the_tier_never_reaches_vllm_and_all_is_computed_after_it(node: Node, flaw: str) -> None:
    scheduler = Scheduler(node)
    first, keys = scheduler.begin(), [key(number) for number in range(8)]
    if flaw != "_connect":
        # Some of it is under way.
        assert scheduler.look_until_known(keys[:2], first) == [LookupResult.MISS] * 2
        assert scheduler.store(keys[:2], first) == keys[:2]
        scheduler.step()
    else:
        scheduler.tier._link = None

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a flaw")

    setattr(scheduler.tier, flaw, broken)
    with Lines("vllm.forebay") as lines:
        second = scheduler.begin()
        assert scheduler.look_until_known(keys[4:], second) == [LookupResult.MISS] * 4
        assert scheduler.store(keys[4:], second) == keys[4:]
        scheduler.settle()
        scheduler.manager.reset_cache()
        assert scheduler.look_until_known(keys, second) == [LookupResult.MISS] * 8
        for request in (first, second):
            scheduler.end(request)
        scheduler.close()
    lines.only("in the tier", "all is computed")
    strict = Scheduler(node, strict=True)
    strict.begin()
    setattr(strict.tier, flaw, broken)
    if flaw == "_first_lookup":
        with pytest.raises(RuntimeError):
            strict.tier.lookup(keys[0], first)
        del strict.tier._first_lookup
    elif hasattr(strict.tier, flaw):
        delattr(strict.tier, flaw)
    strict.close()


#: A setting, and what is said of it.
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"quota": "20 gigs"}, "quota is a size"),
    ({"quota": 20}, "quota is a size"),
    ({"quota": -1}, "quota is a size"),
    ({"ttl_s": "3600"}, "ttl_s is a whole number of seconds"),
    ({"region_bytes": 0}, "region_bytes is a size"),
    ({"address": 5}, "address is a text"),
    ({"lookup_deadline_ms": "250"}, "lookup_deadline_ms is a number of milliseconds"),
    ({"transfer_deadline_ms": 0}, "transfer_deadline_ms is a number of milliseconds"),
    ({"enable_kv_events": "yes"}, "enable_kv_events is true or false"),
    ({"locality": "near"}, "locality is LOCAL or REMOTE"),
    ({"qouta": "1GiB"}, "the tier's configuration has 'qouta'"),
]


@pytest.mark.parametrize("setting", range(len(WRONG)))
def test_a_setting_that_cannot_be_is_said_once_and_the_engine_serves(node: Node, setting: int) -> None:
    wrong, said = WRONG[setting]
    with Lines("vllm.forebay") as lines:
        serves_without(Scheduler(node, **wrong))
    lines.only(said, "all is computed")
    with pytest.raises(forebay.InvalidArgument, match=said):
        Scheduler(node, strict=True, **wrong)


def test_sizes_are_told_as_to_the_command_line(node: Node) -> None:
    scheduler = Scheduler(node, quota="20MiB", region_bytes="64MiB", ttl_s=3600, locality="REMOTE")
    request = scheduler.begin()
    assert scheduler.store([key(1)], request) == [key(1)]
    scheduler.settle()
    scheduler.end(request)
    link = scheduler.tier._link
    with pytest.raises(forebay.NamespaceExists):
        link.client.namespace(link.name, fingerprint=link.fingerprint, create=True, quota=21 << 20, ttl_s=3600)
    link.client.namespace(link.name, fingerprint=link.fingerprint, create=True, quota=20 << 20, ttl_s=3600)
    assert scheduler.tier._report.counts["stored"] == 1
    scheduler.close()


def test_a_node_of_another_version_is_said_once_and_the_engine_serves(place: Path) -> None:
    with NodeOfAnotherVersion(place) as other:
        with Lines("vllm.forebay") as lines:
            serves_without(Scheduler(other))
        lines.only(*OF_ANOTHER_VERSION)
        with pytest.raises(forebay.VersionMismatch):
            Scheduler(other, strict=True)


def test_a_full_quota_is_said_once_and_the_engine_serves(node: Node) -> None:
    with Lines("vllm.forebay") as lines:
        serves_without(Scheduler(node, quota=4096))
    lines.only(*OF_A_FULL_QUOTA)


def test_other_weights_are_another_namespace(node: Node, scheduler: Scheduler) -> None:
    request = scheduler.begin()
    scheduler.store([key(1)], request)
    scheduler.settle()
    scheduler.end(request)
    other = Scheduler(node, weights_digest="two")
    request = other.begin()
    assert other.look_until_known([key(1)], request) == [LookupResult.MISS]
    other.end(request)
    other.close()


class Hurt:
    """What goes wrong in a schedule, and is well again behind it."""

    def __init__(self, node: Node, schedulers: list[Scheduler]) -> None:
        self._node = node
        self._tiers = [scheduler.tier for scheduler in schedulers]
        self._deadlines = [(tier._lookup_deadline_ms, tier._transfer_deadline_ms) for tier in self._tiers]
        #: Answers that are failures instead, of those that the client has given.
        self.failed = 0
        for tier in self._tiers:
            tier._queue = Failing(tier._queue, self)
        self.fails: random.Random | None = None

    def begin(self, kind: str, chance: random.Random) -> None:
        if kind == "killed":
            self._node.kill()
        elif kind == "stopped":
            self._node.stop()
        elif kind == "failing":
            self.fails = chance
        if kind in ("late", "stopped"):
            # Sooner than any node answers; of one that is stopped, when others have waited too.
            for tier in self._tiers:
                tier._lookup_deadline_ms = tier._transfer_deadline_ms = 0.01 if kind == "late" else 20.0

    def end(self, kind: str) -> None:
        if kind == "killed":
            self._node.start()
        elif kind == "stopped":
            self._node.signal(signal.SIGCONT)
        self.fails = None
        for tier, deadlines in zip(self._tiers, self._deadlines, strict=True):
            tier._lookup_deadline_ms, tier._transfer_deadline_ms = deadlines


class Failing:
    """A queue some of whose calls fail, in whole or in part, while somebody wants it: with an exception, or with nothing for some keys."""

    def __init__(self, queue: forebay.CallQueue, hurt: Hurt) -> None:
        self._queue, self._hurt = queue, hurt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    def drain(self) -> list[tuple[int, Any]]:
        answers, chance = self._queue.drain(), self._hurt.fails
        return answers if chance is None else [(ticket, self._answer(answer, chance)) for ticket, answer in answers]

    def _answer(self, answer: Any, chance: random.Random) -> Any:
        if not isinstance(answer, bytes) or chance.random() < 0.3:
            return answer
        self._hurt.failed += 1
        if chance.random() < 0.5:
            return forebay.ForebayError("injected")
        return bytes(state if chance.random() < 0.5 else 0 for state in answer)


#: Schedules, and of a thousand those in which something goes wrong: calls that fail, deadlines that are over, a node that is stopped, or killed.
SCHEDULES = 10_000
HURT = {"failing": 60, "late": 40, "stopped": 3, "killed": 3}


def test_ten_thousand_random_schedules_never_serve_a_byte_that_was_not_computed(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Against a model that knows two things: what was never stored cannot be a hit, and what is one has the bytes of its key. Each schedule is two
    engines' that just began: no request, nothing in their CPU tiers. What the node has is what schedules before have stored there."""
    # Fewer places than keys, so that chunks come and go all the time.
    schedulers = [Scheduler(node, chunks=16, lookup_deadline_ms=250, transfer_deadline_ms=2000) for _ in range(2)]
    for scheduler in schedulers:
        # The first question opens what is hurt here.
        request = scheduler.begin()
        scheduler.look_until_known([key(-1)], request)
        scheduler.end(request)
    hurt = Hurt(node, schedulers)
    kinds = list(HURT)
    made, hits, acts = ({kind: 0 for kind in ("well", *kinds)} for _ in range(3))
    ever_stored: set[OffloadKey] = set()
    for seed in range(SCHEDULES):
        chance = random.Random(seed)
        kind = chance.choices(["well", *kinds], [1000 - sum(HURT.values()), *HURT.values()])[0]
        made[kind] += 1
        # All are new now and then: nobody has stored them.
        keys = [key(24 * (seed // 250) + number) for number in range(24)]
        live: list[tuple[Scheduler, ReqContext]] = []
        # What was hurt is looked at for longer.
        length = chance.randint(12, 40) if chance.random() < 0.03 else chance.randint(*((2, 6) if kind == "well" else (8, 16)))
        hurt_at = chance.randrange(length // 2)
        for at in range(length):
            if at == hurt_at:
                hurt.begin(kind, chance)
            hits[kind] += act(chance, schedulers, live, keys, ever_stored)
            for each in schedulers:
                if chance.random() < 0.6:
                    each.step()
        acts[kind] += length
        hurt.end(kind)
        for scheduler, request in live:
            scheduler.end(request)
        for scheduler in schedulers:
            clear(scheduler.tier, scheduler.manager.reset_cache)
            scheduler.step()
    loaded = sum(scheduler.tier._report.counts["loaded"] for scheduler in schedulers)
    failed = sum(scheduler.tier._report.counts["load_failed"] for scheduler in schedulers)
    for scheduler in schedulers:
        scheduler.close()
    with capsys.disabled():
        print(f"\n{SCHEDULES} schedules of {sum(acts.values())} acts: {made}, hits {hits}, {loaded} chunks loaded, {failed} failed, {hurt.failed} calls made to fail")
    assert all(made[kind] for kind in kinds) and hits["well"] and loaded and failed and hurt.failed, "schedules in which nothing happens prove nothing"


def act(chance: random.Random, schedulers: list[Scheduler], live: list[tuple[Scheduler, ReqContext]], keys: list[OffloadKey], ever_stored: set[OffloadKey]) -> int:
    """One of the things that an engine does. How many hits it was."""
    action, hits = chance.random(), 0
    if action < 0.15 or not live:
        scheduler = chance.choice(schedulers)
        live.append((scheduler, scheduler.begin()))
    scheduler, request = chance.choice(live)
    some = chance.sample(keys, chance.randint(1, 4))
    if action < 0.55:
        for key_ in some:
            # Read at once: what is looked up next may take its place in the CPU tier.
            (result,) = scheduler.look([key_], request)
            assert result is not LookupResult.HIT or key_ in ever_stored
            if result is LookupResult.HIT:
                hits += 1
                (read,) = scheduler.read([key_], request)
                assert np.array_equal(read, content(key_)), "bytes of another chunk"
    elif action < 0.8:
        ever_stored.update(scheduler.store(some, request))
    elif action < 0.9:
        live.remove((scheduler, request))
        scheduler.end(request)
    elif action < 0.93:
        clear(scheduler.tier, scheduler.manager.reset_cache)
    return hits
