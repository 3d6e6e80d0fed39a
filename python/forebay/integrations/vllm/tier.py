"""`ForebayTier`: the pool behind vLLM's CPU tier.

All of it runs in the scheduler's process, which must not wait. So nothing here does: a lookup is a look into a dictionary, all lookups of a step
are one question, loads and stores are calls in a queue of the client's that other threads make. vLLM's CPU tier is one mapping of shared memory;
it is borrowed as it is, chunks are copied and verified straight into it, and Python never sees a byte of them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from vllm.logger import init_logger
from vllm.v1.kv_offload.base import (
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import JobId, JobResult, SecondaryTierManager, TransferJob

import forebay
from forebay.integrations._common import Hints, Link, Report
from forebay.integrations.vllm import identity

logger = init_logger(__name__)

#: How long a request may wait for a lookup before the chunk counts as missing.
LOOKUP_DEADLINE_MS = 250.0
#: How long a load or a store may take.
TRANSFER_DEADLINE_MS = 5000.0
#: Calls that are not drained yet. One more is a miss or a store that is not made: a tier that is so far behind should not be given more.
CALLS_MAX = 256
#: Bytes of stores on their way. Behind that they are not made: the chunks stay in the CPU tier, which is where they are used first.
STORE_BYTES_MAX = 1 << 30


@dataclass(slots=True)
class _Lookup:
    keys: list[OffloadKey]
    until: float


@dataclass(slots=True)
class _Transfer:
    job_id: JobId
    keys: list[OffloadKey]
    is_load: bool
    begun: float


class ForebayTier(SecondaryTierManager):
    """A secondary tier of `TieringOffloadingSpec`, loaded by `module_path`.

    Args of its configuration, beside `type` and `module_path`:
        address: of the node; `FOREBAY_CONNECT` or the default socket if left out.
        namespace: instead of the one that is named after the fingerprint.
        quota, ttl_s: of the namespace, when it is made.
        weights_digest: what tells these weights from others, where they are not files on this machine.
        lookup_deadline_ms, transfer_deadline_ms: see the module's constants.
        region_bytes: memory of the client for what is on its way.
        strict: raise at the start when the node is not there, instead of serving without it.
        enable_kv_events: publish what was stored, where the engine publishes KV events.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        *,
        address: str | None = None,
        namespace: str | None = None,
        quota: int | None = None,
        ttl_s: int | None = None,
        weights_digest: str | None = None,
        lookup_deadline_ms: float = LOOKUP_DEADLINE_MS,
        transfer_deadline_ms: float = TRANSFER_DEADLINE_MS,
        region_bytes: int | None = None,
        strict: bool = False,
        enable_kv_events: bool = False,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self._stride = self.block_size_bytes
        self._region: forebay.Region | None = forebay.Region.borrow(primary_kv_view)
        self._config = offloading_spec.config
        self._digest = weights_digest or identity.weights_digest(self._config.model.name)
        self._options: dict[str, Any] = {"address": address, "namespace": namespace, "quota": quota, "ttl_s": ttl_s, "strict": strict}
        if region_bytes is not None:
            self._options["region_bytes"] = region_bytes
        self._lookup_deadline_ms, self._transfer_deadline_ms = lookup_deadline_ms, transfer_deadline_ms
        self._link: Link | None = None
        self._report: Report | None = None
        self._queue: forebay.CallQueue | None = None
        self._hints = Hints()

        # What is known of chunks that live requests asked for. RETRY: asked, or to be asked at the end of this step.
        self._known: dict[OffloadKey, LookupResult] = {}
        self._first_asked_by: dict[str, list[OffloadKey]] = {}
        self._to_ask: list[OffloadKey] = []
        self._lookups: dict[int, _Lookup] = {}
        self._transfers: dict[int, _Transfer] = {}
        self._store_bytes = 0
        self._finished: list[JobResult] = []
        events_on = enable_kv_events and offloading_spec.kv_events_config.enable_kv_cache_events
        self._events: list[OffloadingEvent] | None = [] if events_on else None
        if strict:
            self._connect()

    def _connect(self) -> None:
        """Opens the namespace. Not in the constructor: the seed of the engine's hashes is drawn after it."""
        try:
            fingerprint = identity.of_offloading(self._config, self._stride, self._digest)
        except identity.CannotServe as error:
            if self._options["strict"]:
                raise
            logger.error("forebay: %s; all is computed", error)
            fingerprint = None
        if fingerprint is None:
            # A link that was closed before it was opened: nothing is ever there.
            self._link = _Unlinked()
        else:
            self._link = Link(fingerprint, engine="vllm-tier", logger=logger, **self._options)
        self._report = Report(self._link, logger)

    def _space(self) -> forebay.Namespace | None:
        """The namespace, if the node is there."""
        link = self._link
        if link is None:
            return None
        space = link.namespace
        if space is not None and self._queue is None and link.client is not None:
            self._queue = link.client.queue(calls_max=CALLS_MAX)
        return space if self._queue is not None else None

    # Lookups.

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        known = self._known.get(key)
        if known is not None:
            return known
        return self._begin_lookup(key, req_context.req_id)

    def _begin_lookup(self, key: OffloadKey, request: str) -> LookupResult:
        if self._space() is None:
            return LookupResult.MISS
        self._known[key] = LookupResult.RETRY
        self._first_asked_by.setdefault(request, []).append(key)
        self._to_ask.append(key)
        return LookupResult.RETRY

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        del context
        if self._to_ask:
            asked, self._to_ask = self._to_ask, []
            # A request may be gone before its question was asked.
            asked = [key for key in asked if self._known.get(key) is LookupResult.RETRY]
            self._ask(asked)
        self._drain()
        if self._report is not None:
            self._report.tick()

    def _ask(self, keys: list[OffloadKey]) -> None:
        space, queue = self._space(), self._queue
        if not keys:
            return
        if space is None or queue is None or queue.pending >= CALLS_MAX:
            self._answer(keys, ())
            return
        ticket = queue.submit_contains(space, space.keys(keys), deadline_ms=self._lookup_deadline_ms)
        self._lookups[ticket] = _Lookup(keys, time.monotonic() + self._lookup_deadline_ms / 1000)

    def _answer(self, keys: list[OffloadKey], found: Collection[object]) -> None:
        """Writes down what was found; keys without an answer are missing."""
        hits = 0
        known, hit, miss, retry = self._known, LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY
        answers = list(found) + [None] * (len(keys) - len(found))
        for key, answer in zip(keys, answers, strict=True):
            if answer:
                hits += 1
            # Gone with its request, or known better by a load that failed meanwhile.
            if known.get(key) is retry:
                known[key] = hit if answer else miss
        if self._report is not None:
            self._report.add(asked=len(keys), hits=hits)

    # Transfers.

    def submit_store(self, job_metadata: TransferJob) -> None:
        keys = list(job_metadata.keys)
        nbytes = len(keys) * self._stride
        space, queue = self._space(), self._queue
        if space is None or queue is None or queue.pending >= CALLS_MAX or self._store_bytes + nbytes > STORE_BYTES_MAX:
            if self._report is not None:
                self._report.add(dropped=len(keys))
            self._finished.append(JobResult(job_metadata.job_id, success=False))
            return
        ticket = queue.submit_put(
            space, space.keys(keys), self._spans(job_metadata), tokens=self._chunk_tokens(), deadline_ms=self._transfer_deadline_ms
        )
        self._store_bytes += nbytes
        self._transfers[ticket] = _Transfer(job_metadata.job_id, keys, False, time.monotonic())

    def submit_load(self, job_metadata: TransferJob) -> None:
        keys = list(job_metadata.keys)
        space, queue = self._space(), self._queue
        if space is None or queue is None or queue.pending >= CALLS_MAX:
            self._load_failed(keys)
            self._finished.append(JobResult(job_metadata.job_id, success=False))
            return
        ticket = queue.submit_get(space, space.keys(keys), into=self._spans(job_metadata), deadline_ms=self._transfer_deadline_ms)
        self._transfers[ticket] = _Transfer(job_metadata.job_id, keys, True, time.monotonic())

    def _spans(self, job: TransferJob) -> forebay.Spans:
        assert self._region is not None, "a transfer after the shutdown"
        return self._region.spans((job.chunk_ids.astype("int64") * self._stride).tolist(), self._stride)

    def _chunk_tokens(self) -> int:
        return int(self._config.cache.tokens_per_hash * self._config.cache.blocks_per_chunk)

    def get_finished_jobs(self) -> Iterable[JobResult]:
        self._drain()
        finished, self._finished = self._finished, []
        return finished

    def has_pending_work(self) -> bool:
        return bool(self._finished)

    def _drain(self) -> None:
        """Takes what the client has finished. Never waits."""
        queue = self._queue
        if queue is None:
            return
        for ticket, answer in queue.drain():
            lookup = self._lookups.pop(ticket, None)
            if lookup is not None:
                self._answer(lookup.keys, () if isinstance(answer, Exception) else answer)
                continue
            transfer = self._transfers.pop(ticket, None)
            if transfer is not None:
                self._finish(transfer, answer)
        if self._lookups:
            self._give_up_lookups()

    def _give_up_lookups(self) -> None:
        """A question that waits in line longer than its deadline is answered here: a request is not held for it."""
        now = time.monotonic()
        for ticket, lookup in list(self._lookups.items()):
            if now >= lookup.until:
                del self._lookups[ticket]
                if self._queue is not None:
                    self._queue.cancel(ticket)
                self._answer(lookup.keys, ())

    def _finish(self, transfer: _Transfer, answer: Any) -> None:
        answers = [] if isinstance(answer, Exception) else answer
        seconds = time.monotonic() - transfer.begun
        keys = transfer.keys
        if transfer.is_load:
            # Whole chunks only: what is shorter was put by somebody with another layout.
            good = [key for key, nbytes in zip(keys, answers, strict=False) if nbytes == self._stride]
            failed = list(set(keys).difference(good))
            self._load_failed(failed)
            self._count(loaded=len(good), load_failed=len(failed))
            self._finished.append(
                JobResult(
                    transfer.job_id,
                    success=not failed,
                    successful_keys=tuple(good) if failed and good else None,
                    transfer_time=seconds,
                    transfer_bytes=len(good) * self._stride,
                )
            )
            return
        self._store_bytes -= len(keys) * self._stride
        kept = [key for key, outcome in zip(keys, answers, strict=False) if outcome]
        if self._report is not None:
            self._report.put(answers)
        for key in kept:
            # Whoever was told that it is missing may have it now.
            if self._known.get(key) is LookupResult.MISS:
                self._known[key] = LookupResult.HIT
        if self._events is not None and kept:
            self._events.append(OffloadingEvent(keys=kept, medium=self.medium, removed=False, locality=self.locality))
        self._finished.append(
            JobResult(
                transfer.job_id, success=len(kept) == len(keys), transfer_time=seconds, transfer_bytes=len(kept) * self._stride
            )
        )

    def _load_failed(self, keys: Collection[OffloadKey]) -> None:
        """Such a chunk stays missing for those who ask for it now: a hit that fails, again and again, would never be computed."""
        for key in keys:
            if key in self._known:
                self._known[key] = LookupResult.MISS

    def _count(self, **counts: int) -> None:
        if self._report is not None:
            self._report.add(**counts)

    # Requests.

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        del req_context
        if self._link is None:
            self._connect()
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        for key in self._first_asked_by.pop(req_context.req_id, ()):
            self._known.pop(key, None)

    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        del req_context
        space = self._space()
        if space is not None and keys:
            rows = space.keys(list(keys))
            self._hints.give(lambda: space.touch(rows))

    def take_events(self) -> Iterable[OffloadingEvent]:
        if self._events:
            events, self._events = self._events, []
            return events
        return ()

    # The end.

    def drain_jobs(self) -> None:
        """Waits until nothing touches the CPU tier any more: each call ends by its deadline, and writes nothing after it."""
        while self._transfers and self._queue is not None:
            self._queue.wait(timeout_ms=1000.0)
            self._drain()

    def shutdown(self) -> None:
        queue = self._queue
        if queue is not None:
            for ticket, transfer in self._transfers.items():
                # A load is for nobody now. A store is still worth its deadline.
                if transfer.is_load:
                    queue.cancel(ticket)
            self.drain_jobs()
            while queue.pending:
                queue.wait(timeout_ms=1000.0)
                queue.drain()
        self._hints.close()
        if self._report is not None:
            self._report.say()
        # vLLM closes the mapping next, which it cannot while somebody has it exported.
        self._region = None
        self._queue = None
        if self._link is not None:
            self._link.close()


class _Unlinked(Link):
    """Of an engine whose blocks cannot be shared."""

    def __init__(self) -> None:
        self.fingerprint = forebay.Fingerprint()
        self.name = "none"
        self.address = ""
        self.client = None
        self.namespace = None

    def close(self) -> None:
        pass
