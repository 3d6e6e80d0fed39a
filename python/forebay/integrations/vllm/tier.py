"""`ForebayTier`: the pool behind vLLM's CPU tier.

All of it runs in the scheduler's process, which must not wait. So nothing here does: a lookup is a look into a dictionary, all lookups of a step
are one question, loads and stores are calls in a queue of the client's that other threads make. vLLM's CPU tier is one mapping of shared memory;
it is borrowed as it is, chunks are copied and verified straight into it, and Python never sees a byte of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingCounterMetadata,
    OffloadingEvent,
    OffloadingMetricMetadata,
    OffloadKey,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

import forebay
from forebay.integrations import _settings, _versions
from forebay.integrations._common import Link, Report
from forebay.integrations._wishes import NONE, Wishes, wishes
from forebay.integrations.vllm import identity
from forebay.integrations.vllm.guard import Jobs, guarded, nothing, submits
from forebay.integrations.vllm.log import logger
from forebay.integrations.vllm.metrics import OUTCOMES, TIER_CHUNKS
from forebay.integrations.vllm.touches import Touches

#: How long a request may wait for a lookup before the chunk counts as missing.
LOOKUP_DEADLINE_MS = 250.0
#: How long a load or a store may take.
TRANSFER_DEADLINE_MS = 5000.0
#: Jobs and questions that are not over, and calls that they became. One more is a miss or a store that is not made: a tier that is so far behind should
#: not be given more.
CALLS_MAX = 256
#: Bytes of stores on their way. Behind that they are not made: the chunks stay in the CPU tier, which is where they are used first.
STORE_BYTES_MAX = 1 << 30
#: Bytes of one call: several are under way at once, so that copies overlap with reads.
CALL_BYTES = 32 << 20
#: Calls that what is handed over in one step becomes, at most: more of them are no faster.
STEP_CALLS = 3
#: Chunks that are handed to the client in one step, so that no step takes long for them. The rest of a large job follows in the next ones.
STEP_KEYS = 128

#: Of a generation of weights: two engines never draw the same.
GENERATION_BYTES = 16

#: How far a prefix is walked, from its nearer end, for the chunk before a store: some microseconds. Behind that its first chunk has no parent.
PARENT_STEPS_MAX = 1024

_T = TypeVar("_T")


def _locality(name: str, value: Any) -> Locality:
    if not isinstance(value, str) or value not in Locality.__members__:
        raise forebay.InvalidArgument(f"{name} is LOCAL or REMOTE, not {value!r}")
    return Locality[value]


#: What the tier's configuration may say, beside what vLLM takes out of it.
_SETTINGS: dict[str, _settings.Check] = {
    **_settings.LINK,
    "weights_digest": _settings.text,
    "lookup_deadline_ms": _settings.milliseconds,
    "transfer_deadline_ms": _settings.milliseconds,
    "strict": _settings.flag,
    "enable_kv_events": _settings.flag,
    "locality": _locality,
}

_EXISTS = 3
#: By what `forebay.Presence` knows of a chunk.
_RESULTS = (LookupResult.MISS, LookupResult.HIT, LookupResult.HIT, LookupResult.RETRY)


@dataclass(slots=True)
class _Request:
    """What a live request asked for. Each has its own, so that it is forgotten with it at once."""

    context: ReqContext
    wishes: Wishes = NONE
    #: Of the chunks that it asked for; None until it asked for one.
    presence: forebay.Presence | None = None
    #: What is known of a chunk.
    state: Callable[[OffloadKey], int] | None = None
    #: Chunks that were part of a question.
    asked: int = 0
    #: The last chunk of it that was given to be stored.
    stored_until: OffloadKey | None = None


@dataclass(slots=True)
class _Lookup:
    """A question for chunks of several requests: what each knows, its first chunk, and how many."""

    asked: list[tuple[forebay.Presence, int, int]]
    count: int
    until: float


@dataclass(slots=True)
class _Transfer:
    """A job that is not over."""

    job: TransferJob
    keys: list[OffloadKey] | tuple[OffloadKey, ...]
    is_load: bool
    begun: float


class ForebayTier(SecondaryTierManager):
    """A secondary tier of `TieringOffloadingSpec`, loaded by `module_path`.

    Args of its configuration, beside `type` and `module_path`:
        address: of the node; `FOREBAY_CONNECT` or the default socket if left out.
        token_file: with the credential for TCP; `FOREBAY_TOKEN_FILE` if left out.
        namespace: instead of the one that is named after the fingerprint.
        quota, ttl_s: of the namespace, when it is made: a size ("20GiB", or bytes), and whole seconds.
        weights_digest: what tells these weights from others, where they are not files on this machine.
        lookup_deadline_ms, transfer_deadline_ms: see the module's constants.
        region_bytes: memory of the client for what is on its way: a size.
        strict: raise at the start when the node is not there or a setting cannot be, instead of serving without the store; and whatever goes wrong later.
        enable_kv_events: publish what was stored, where the engine publishes KV events.
        locality: "LOCAL" or "REMOTE", as vLLM's own tiers have it.

    Nothing of Forebay's raises into vLLM's scheduler: after a flaw all is computed, and one line of the log says so.
    """

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        _versions.look("vLLM", vllm.__version__)
        self._stride = self.block_size_bytes
        self._config = offloading_spec.config
        self._strict = settings.get("strict") is True
        self._is_off = False
        self._jobs = Jobs()
        given = self._served(lambda: _settings.checked(settings, _SETTINGS, "the tier's configuration"))
        can_be, given = given is not None, given or {}
        self._options: dict[str, Any] = {name: given[name] for name in _settings.LINK if name in given} | {"strict": self._strict}
        self._lookup_deadline_ms: float = given.get("lookup_deadline_ms", LOOKUP_DEADLINE_MS)
        self._transfer_deadline_ms: float = given.get("transfer_deadline_ms", TRANSFER_DEADLINE_MS)
        self.locality = given.get("locality")
        self._link: Link | None = None
        self._open_until = 0.0
        self._region = self._served(lambda: forebay.Region.borrow(primary_kv_view)) if can_be else None
        self._digest: str | None = given.get("weights_digest") if self._region is not None else None
        if self._region is not None and self._digest is None:
            # Here, because it may take minutes.
            self._digest = self._served(lambda: identity.tier_weights_digest(self._config.model.name))
        #: The link that was used until a flaw was found.
        self._ended: Link | None = None
        self._report: Report | None = None
        self._queue: forebay.CallQueue | None = None
        #: The namespace, once the node was reached.
        self._reached: forebay.Namespace | None = None
        self._touches = Touches()
        #: Behind every hash since the engine's weights may have changed, so that nothing older is found, and nothing of it by others.
        self._generation = b""
        #: Live requests that had begun before, maybe with the old ones: of these nothing is stored.
        self._outlived: set[str] = set()

        self._requests: dict[str, _Request] = {}
        #: Those that may have chunks to be asked for at the end of this step.
        self._to_ask: dict[str, _Request] = {}
        self._lookups: dict[int, _Lookup] = {}
        #: Jobs that are not over, by their tickets. What is still to be handed over is in `_line`.
        self._transfers: dict[int, _Transfer] = {}
        self._line: forebay.Jobs | None = None
        self._chunks_per_call = max(1, min(STEP_KEYS, CALL_BYTES // self._stride))
        self._store_bytes = 0
        self._finished: list[JobResult] = []
        events_on = given.get("enable_kv_events", False) and offloading_spec.kv_events_config.enable_kv_cache_events
        self._events: list[OffloadingEvent] | None = [] if events_on else None
        if self._strict:
            self._connect()

    def _connect(self) -> None:
        """Opens the namespace. Not in the constructor: the seed of the engine's hashes is drawn after it."""
        fingerprint = self._served(lambda: identity.of_offloading(self._config, self._stride, self._digest)) if self._digest is not None else None
        if fingerprint is None:
            # A link that was closed before it was opened: nothing is ever there.
            self._link = _Unlinked()
        else:
            self._link = Link(fingerprint, engine="vllm-tier", logger=logger, in_background=True, **self._options)
        self._open_until = time.monotonic() + self._lookup_deadline_ms / 1000
        self._report = Report(self._link, logger)

    def _served(self, find: Callable[[], _T]) -> _T | None:
        """What is found, unless it says that this engine cannot be served."""
        try:
            return find()
        except (identity.CannotServe, forebay.ForebayError, OSError) as error:
            if self._strict:
                raise
            logger.error("forebay: %s; all is computed", error)
            return None

    def _failed(self, hook: str) -> None:
        """A flaw of ours in a hook, while it is handled: it is said once, and from here on nothing is found or stored."""
        if self._strict:
            raise
        if self._is_off:
            return
        self._is_off = True
        logger.exception("forebay: %s failed in the tier; from here on all is computed, until the engine starts again", hook)
        queue, self._queue = self._queue, None
        self._ended, self._link = self._link, _Unlinked()
        line, self._line, self._reached = self._line, None, None
        self._requests, self._to_ask, self._lookups, self._transfers = {}, {}, {}, {}
        if line is not None:
            with contextlib.suppress(Exception):
                line.drop_rest()
        self._touches = Touches()
        self._jobs.give_up(queue, self._transfer_deadline_ms / 1000 + 1)

    def _all_failed(self, *args: Any) -> list[JobResult]:
        """After that: what is to be reported of jobs."""
        del args
        finished, self._finished = self._finished, []
        self._jobs.reported(finished)
        return finished + self._jobs.failed()

    def _space(self) -> forebay.Namespace | None:
        """The namespace, if the node is there."""
        link = self._link
        if self._reached is None and link is not None and link.namespace is not None and link.client is not None and self._region is not None:
            self._reached = link.namespace
            self._queue = link.client.queue(calls_max=CALLS_MAX, patient=True)
            self._line = forebay.Jobs(self._queue, self._region, self._stride, call_blocks=self._chunks_per_call, calls_max=STEP_CALLS)
        return self._reached

    # Lookups.

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        # Guarded here: another call around it would be a quarter of what it may take.
        try:
            request = self._to_ask.get(req_context.req_id)
            if request is not None:
                return _RESULTS[request.state(key)]  # type: ignore[misc]
            return self._first_lookup(key, req_context)
        except Exception:
            self._failed("lookup")
            return LookupResult.MISS

    def _first_lookup(self, key: OffloadKey, context: ReqContext) -> LookupResult:
        """The first one of a request in a step."""
        request = self._requests.get(context.req_id)
        if self._queue is None and self._space() is None:
            # While the namespace is being opened a request waits for it as long as it would for its lookup.
            is_opening = self._link is not None and self._link.is_opening and time.monotonic() < self._open_until
            return LookupResult.RETRY if is_opening else LookupResult.MISS
        if request is None:
            # Somebody else's, through this engine.
            request = self._requests[context.req_id] = _Request(context, wishes(context.kv_transfer_params))
        if request.wishes.skip_read:
            return LookupResult.MISS
        if request.presence is None:
            generation = self._generation
            request.presence = forebay.Presence(len(key) + len(generation))
            state = request.presence.state
            request.state = (lambda key: state(key + generation)) if generation else state
        self._to_ask[context.req_id] = request
        return _RESULTS[request.state(key)]  # type: ignore[misc]

    @guarded(nothing)
    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        for request_id in context.preempted_req_ids:
            # It comes again, and much may have been stored until then.
            request = self._requests.get(request_id)
            if request is not None:
                self._requests[request_id] = _Request(request.context, request.wishes)
        if self._to_ask:
            self._ask()
        if self._transfers:
            self._pump()
        if context.new_req_ids or self._touches:
            space, queue = self._reached or self._space(), self._queue
            if space is not None and queue is not None:
                for request_id in context.new_req_ids:
                    self._touch_own(request_id)
                if self._touches:
                    self._touches.tell(queue, space)
        if self._report is not None:
            self._report.tick()

    def _ask(self) -> None:
        requests, self._to_ask = self._to_ask, {}
        asked: dict[int, tuple[list[tuple[forebay.Presence, int, int]], list[forebay.Hashes]]] = {}
        for request in requests.values():
            presence = request.presence
            question = presence.question() if presence is not None else None
            # It may be gone before its question was asked.
            if presence is None or question is None or self._requests.get(request.context.req_id) is not request:
                continue
            parts, questions = asked.setdefault(question.width, ([], []))
            count = len(question)
            parts.append((presence, request.asked, count))
            questions.append(question)
            request.asked += count
        for parts, questions in asked.values():
            until = time.monotonic() + self._lookup_deadline_ms / 1000
            hashes = questions[0] if len(questions) == 1 else forebay.Hashes.joined(*questions)
            self._ask_for(_Lookup(parts, len(hashes), until), hashes)

    def _ask_for(self, lookup: _Lookup, hashes: forebay.Hashes) -> None:
        space, queue = self._reached or self._space(), self._queue
        if space is None or queue is None or self._is_behind():
            self._answer(lookup, b"")
            return
        ticket = queue.submit_contains(space, hashes, deadline_ms=self._lookup_deadline_ms, packed=True)
        self._lookups[ticket] = lookup

    def _answer(self, lookup: _Lookup, found: bytes) -> None:
        """Writes down what was found; keys without an answer are missing."""
        if len(found) < lookup.count:
            found = found.ljust(lookup.count, b"\0")
        at = hits = 0
        for presence, first, count in lookup.asked:
            hits += presence.answer(first, found if count == lookup.count else found[at : at + count])
            at += count
        if self._report is not None:
            counts = self._report.counts
            counts["asked"] += lookup.count
            counts["hits"] += hits

    def _touch_own(self, request_id: str) -> None:
        """What the engine and the CPU tier have of a request is never asked for: it lies before the first chunk that was."""
        request = self._requests.get(request_id)
        positions = _positions(request.context) if request is not None else None
        if request is None or not positions:
            return
        first = request.presence.first if request.presence is not None else None
        suffixes = (self._generation,)
        if first is None:
            self._touches.add(positions, len(positions), next(reversed(positions)), suffixes, time.monotonic())
            return
        until = positions.get(OffloadKey(first[: len(first) - len(self._generation)]), 0)
        if len(self._config.groups) > 1:
            keys = [key for key in positions if positions[key] < until]
            self._touches.add(keys, len(keys), first, suffixes, time.monotonic())
        else:
            self._touches.add(positions, max(0, until // self._chunk_tokens() - 1), first, suffixes, time.monotonic())

    # Transfers.

    @submits
    def submit_store(self, job_metadata: TransferJob) -> None:
        keys = _listed(job_metadata.keys)
        nbytes = len(keys) * self._stride
        space = self._reached or self._space()
        params = job_metadata.req_context.kv_transfer_params
        wish = wishes(params) if params else NONE
        if wish.skip_write or job_metadata.req_context.req_id in self._outlived:
            self._finished.append(JobResult(job_metadata.job_id, success=False))
            return
        if space is None or self._line is None or self._is_behind() or self._store_bytes + nbytes > STORE_BYTES_MAX:
            if self._report is not None:
                self._report.add(dropped=len(keys))
            self._finished.append(JobResult(job_metadata.job_id, success=False))
            return
        chain, parent = self._place_in_chain(job_metadata, keys)
        hint: Any = wish.hint
        # No name of its own: what a flaw leaves in a traceback would keep vLLM's mapping exported.
        ticket = self._line.put(
            space,
            keys,
            job_metadata.chunk_ids,
            suffix=self._generation,
            tokens=self._chunk_tokens(),
            chain=chain,
            parent=parent,
            ends=_positions(job_metadata.req_context) if chain else None,
            reuse=hint,
            deadline_ms=self._transfer_deadline_ms,
            caller_keeps=True,
        )
        self._store_bytes += nbytes
        self._transfers[ticket] = _Transfer(job_metadata, keys, False, time.monotonic())

    def _place_in_chain(self, job: TransferJob, keys: Sequence[OffloadKey]) -> tuple[int, OffloadKey | None]:
        """Whose chunks these are, as 64 bits that name the sequence, and which one is before them, where that is known. Groups of several kinds have no
        one order, and so no chain."""
        context = job.req_context
        positions = _positions(context)
        if not keys or not positions or len(self._config.groups) > 1:
            return 0, None
        tokens = self._chunk_tokens()
        root = next(iter(positions))
        if positions[root] != tokens:
            return 0, None
        before = positions.get(keys[0], 0) // tokens - 1
        request = self._requests.get(context.req_id)
        last = request.stored_until if request is not None else None
        parent = None
        if before > 0:
            if last is None or positions.get(last) != before * tokens:
                last = _number(positions, before - 1)
            if last is not None and positions[last] == before * tokens:
                parent = last
        if request is not None:
            request.stored_until = keys[-1]
        return int.from_bytes(root[:8], "big"), parent

    @submits
    def submit_load(self, job_metadata: TransferJob) -> None:
        keys = _listed(job_metadata.keys)
        space = self._reached or self._space()
        if space is None or self._line is None or self._is_behind():
            self._load_failed(keys)
            self._finished.append(JobResult(job_metadata.job_id, success=False))
            return
        params = job_metadata.req_context.kv_transfer_params
        hint: Any = wishes(params).hint if params else None
        ticket = self._line.get(space, keys, job_metadata.chunk_ids, suffix=self._generation, deadline_ms=self._transfer_deadline_ms, reuse=hint)
        self._transfers[ticket] = _Transfer(job_metadata, keys, True, time.monotonic())

    def _pump(self) -> None:
        """Hands over as much as a step may. At the step's end, and at once: each time costs the step, however much it is."""
        if self._line is not None:
            self._line.hand_over(STEP_KEYS)

    def _chunk_tokens(self) -> int:
        return int(self._config.cache.tokens_per_hash * self._config.cache.blocks_per_chunk)

    @guarded(_all_failed)
    def get_finished_jobs(self) -> Iterable[JobResult]:
        if self._is_off:
            return self._all_failed()
        self._drain()
        finished, self._finished = self._finished, []
        self._jobs.reported(finished)
        return finished

    def has_pending_work(self) -> bool:
        return bool(self._finished) or (self._is_off and bool(self._jobs.open))

    def _drain(self) -> None:
        """Takes what the client has finished. Never waits."""
        queue = self._queue
        if queue is None:
            return
        for ticket, answer in queue.drain():
            # A call that failed is one that did nothing.
            packed = answer if isinstance(answer, bytes) else b""
            lookup = self._lookups.pop(ticket, None)
            if lookup is not None:
                self._answer(lookup, packed)
                continue
            transfer = self._transfers.pop(ticket, None)
            if transfer is not None:
                self._finish(transfer, packed)
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
                self._answer(lookup, b"")

    def _finish(self, transfer: _Transfer, done: bytes) -> None:
        """done: a byte for each chunk, 0 where it was not moved."""
        seconds = time.monotonic() - transfer.begun
        keys = transfer.keys
        count = len(keys)
        if len(done) < count:
            done = done.ljust(count, b"\0")
        bad = done.count(0)
        result = JobResult(transfer.job.job_id, not bad, None, seconds, (count - bad) * self._stride)
        good = keys
        if bad:
            # Whole chunks only: what is shorter was put by somebody with another layout.
            good = [key for key, outcome in zip(keys, done, strict=True) if outcome]
        report = self._report
        assert report is not None, "a transfer without a link"
        counts = report.counts
        if transfer.is_load:
            if bad:
                self._load_failed([key for key, outcome in zip(keys, done, strict=True) if not outcome])
                result.successful_keys = tuple(good) if good else None
                counts["load_failed"] += bad
            counts["loaded"] += count - bad
        else:
            self._store_bytes -= count * self._stride
            present = done.count(_EXISTS)
            counts["present"] += present
            counts["stored"] += count - bad - present
            if bad:
                counts["refused"] += bad
                report.refusals.look()
            if self._events is not None and good:
                self._events.append(OffloadingEvent(keys=good, medium=self.medium, removed=False, locality=self.locality))
        self._finished.append(result)

    def _load_failed(self, keys: Collection[OffloadKey]) -> None:
        """Such a chunk stays missing for those who ask for it now: a hit that fails, again and again, would never be computed."""
        for request in self._requests.values():
            if request.presence is not None:
                for key in keys:
                    request.presence.lost(key + self._generation)

    def _is_behind(self) -> bool:
        return len(self._transfers) + len(self._lookups) >= CALLS_MAX

    # Requests.

    @guarded(lambda self, req_context: RequestOffloadingContext())
    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        if self._link is None:
            self._connect()
        self._to_ask.pop(req_context.req_id, None)
        self._requests[req_context.req_id] = _Request(req_context, wishes(req_context.kv_transfer_params))
        return RequestOffloadingContext()

    @guarded(nothing)
    def on_request_finished(self, req_context: ReqContext) -> None:
        self._requests.pop(req_context.req_id, None)
        self._to_ask.pop(req_context.req_id, None)
        self._outlived.discard(req_context.req_id)

    @guarded(nothing)
    def touch(self, keys: Collection[OffloadKey], req_context: ReqContext) -> None:
        """vLLM 0.32 calls this nowhere; what it would say is found out in `_touch_own`."""
        del req_context
        if keys:
            told = list(keys)
            self._touches.add(told, len(told), told[-1], (self._generation,), time.monotonic())

    @guarded(lambda self: ())
    def take_events(self) -> Iterable[OffloadingEvent]:
        if self._events:
            events, self._events = self._events, []
            return events
        return ()

    # Metrics.

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, OffloadingMetricMetadata]:
        del extra_config
        documentation = f"Chunks that ForebayTier had to do with, by outcome: {OUTCOMES}."
        return {TIER_CHUNKS: OffloadingCounterMetadata(documentation, labelnames=("tier", "outcome"))}

    @guarded(nothing)
    def get_stats(self) -> OffloadingConnectorStats | None:
        fresh = self._report.fresh() if self._report is not None else None
        if not fresh:
            return None
        stats = OffloadingConnectorStats()
        for outcome, count in fresh.items():
            stats.increase_counter(TIER_CHUNKS, count, (self.tier_type, outcome))
        return stats

    # The end.

    def _wait_until_failed(self) -> None:
        """After a flaw: until nothing touches the CPU tier any more."""
        self._finished += self._jobs.failed(wait=True)

    @guarded(_wait_until_failed)
    def drain_jobs(self) -> None:
        """Called when vLLM's caches are reset, because weights may have changed in memory: after an update, before a sleep. No other hook of a tier
        tells it of that."""
        if self._is_off:
            self._wait_until_failed()
            return
        self._end_transfers()
        self._renew()

    def _renew(self) -> None:
        """The engine's weights may be others now: its chunks are another generation, that no other engine finds."""
        self._generation = os.urandom(GENERATION_BYTES)
        self._outlived.update(self._requests)
        self._to_ask.clear()
        for request_id, request in self._requests.items():
            self._requests[request_id] = _Request(request.context, request.wishes)
        logger.info("forebay: the engine's caches were reset, so its weights may be others: what was stored before is not used any more")

    def _end_transfers(self) -> None:
        """Waits until nothing touches the CPU tier any more: each call ends by its deadline, and writes nothing after it."""
        self._pump()
        if self._line is not None:
            # What is more than a step may hand over is over.
            self._line.drop_rest()
        while self._transfers and self._queue is not None:
            self._queue.wait(timeout_ms=1000.0)
            self._drain()

    def _let_go(self) -> None:
        if self._is_off:
            self._wait_until_failed()
        # vLLM closes the mapping next, which it cannot while somebody has it exported.
        self._region = None
        self._line = self._queue = self._reached = None
        for link in (self._link, self._ended):
            if link is not None:
                link.close()

    @guarded(_let_go)
    def shutdown(self) -> None:
        queue = self._queue
        if queue is not None:
            for ticket, transfer in self._transfers.items():
                # A load is for nobody now. A store is still worth its deadline.
                if transfer.is_load:
                    queue.cancel(ticket)
            self._end_transfers()
            while queue.pending:
                queue.wait(timeout_ms=1000.0)
                queue.drain()
        if self._report is not None:
            self._report.say()
        self._let_go()


def _positions(context: ReqContext) -> dict[OffloadKey, int] | None:
    """Where each chunk of a request ends, in tokens, in the order of the sequence. vLLM has no public name for all of them."""
    return getattr(context, "_offload_key_positions", None)


def _number(positions: dict[OffloadKey, int], number: int) -> OffloadKey | None:
    """A chunk by its number, if it is not far from either end."""
    behind = len(positions) - 1 - number
    if behind < 0 or min(number, behind) > PARENT_STEPS_MAX:
        return None
    return next(itertools.islice(positions, number, None) if number <= behind else itertools.islice(reversed(positions), behind, None))


def _listed(keys: Collection[OffloadKey]) -> list[OffloadKey] | tuple[OffloadKey, ...]:
    """As a sequence; as it is, if it is one."""
    return keys if isinstance(keys, (list, tuple)) else list(keys)


class _Unlinked(Link):
    """Of an engine whose blocks cannot be shared."""

    def __init__(self) -> None:
        self.fingerprint = forebay.Fingerprint()
        self.name = "none"
        self.address = ""
        self.client = None
        self.namespace = None
        self.is_opening = False

    def close(self) -> None:
        pass
