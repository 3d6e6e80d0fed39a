"""The scheduler's half of `ForebayConnector`: what is there, what to load, what to save. It moves no bytes and never waits.

A request is looked up once, by a question that is answered while the scheduler goes on with others; until then it is told to ask again later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_events import BlockStored, KVCacheEvent
from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

import forebay
from forebay.integrations._common import Link, Prompts, Report
from forebay.integrations._decide import LoadSpeed, decide
from forebay.integrations._wishes import Wishes, wishes
from forebay.integrations.vllm.messages import Move, Step, Stored, suffix_of
from forebay.integrations.vllm.pace import Pace
from forebay.integrations.vllm.touches import Touches

#: How long a request may wait for its lookup before it is computed.
LOOKUP_DEADLINE_MS = 250.0
#: How long found blocks are held for their load: a request may wait for memory in between.
HOLD_MS = 10_000.0
#: An answer that is older is asked for anew before blocks are allocated for it.
ANSWER_S_MAX = 5.0
#: Lookups under way. A request beyond is computed.
LOOKUPS_MAX = 128
#: Of a generation of weights: two engines never draw the same.
GENERATION_BYTES = 16
#: Stored blocks whose event is not taken yet.
EVENTS_MAX = 65_536


#: Requests that wait and whose blocks are brought to DRAM meanwhile, and blocks of each.
PREFETCHED_MAX, PREFETCH_BLOCKS_MAX = 16, 4096
#: How long they may wait there.
PREFETCH_MS = 10_000.0


@dataclass(slots=True)
class _Match:
    """A lookup of one request behind its first `first` blocks."""

    first: int
    asked_at: float
    ticket: int | None
    #: What is stored: for each block, 1 if part of it is on NVMe. Of these, so many are to be loaded; None until that is decided.
    tiers: bytes = b""
    blocks: int | None = None
    #: How many of all that are stored are on NVMe.
    nvme: int = 0


@dataclass(slots=True)
class _Waiting:
    """A request that waits, and that the engine has not looked at yet."""

    request: Any
    steps: int = 0


class _BlockIds:
    """Of a request's blocks: vLLM's own list, which only ever grows, as it was when it was given, and what came since. Thousands are not copied in a
    step."""

    __slots__ = ("_count", "_given", "_more")

    def __init__(self, given: list[int]) -> None:
        self._given, self._count, self._more = given, len(given), list[int]()

    def __len__(self) -> int:
        return self._count + len(self._more)

    def extend(self, ids: list[int]) -> None:
        """Blocks behind them."""
        self._more.extend(ids)

    def some(self, begin: int, end: int) -> list[int]:
        """Those from number `begin` on, before `end`."""
        count = self._count
        return self._given[begin : min(end, count)] + self._more[max(0, begin - count) : max(0, end - count)]


@dataclass(slots=True)
class _Tracked:
    """A request that lives."""

    request: Any
    salt: bytes
    block_ids: _BlockIds
    wishes: Wishes
    #: Blocks of it that are in the store, or were given to the worker to be put there.
    saved: int = 0
    #: Where its last load ends, in tokens.
    loaded_until: int = 0


class SchedulerHalf:
    """See the module."""

    def __init__(self, link: Link, report: Report, *, block_tokens: int, world: int, lora_digest: Any, events: bool, lookup_deadline_ms: float, load_deadline_ms: float = 5000.0, pace: Pace | None = None, block_bytes: int = 0) -> None:
        """block_bytes: of a block of all ranks together; plans are made by it."""
        self._link, self._report = link, report
        self._fingerprint = link.fingerprint.as_dict()
        self._block_bytes = block_bytes
        self._block_tokens, self._world = block_tokens, world
        self._lora_digest = lora_digest
        # In every key since the engine's weights may have changed: nothing older is found, and nothing of it by others.
        self._generation = b""
        self._lookup_deadline_ms, self._load_deadline_ms = lookup_deadline_ms, load_deadline_ms
        #: None: whatever is stored is loaded.
        self._pace = pace
        self._load_speed = LoadSpeed(planned=self._planned)
        self._loading: dict[str, tuple[int, int]] = {}
        # Requests whose load failed: what is there and does not arrive would be found, asked for and missed again, for ever.
        self._failed: set[str] = set()
        self._waiting: dict[str, _Waiting] = {}
        # Requests that blocks were prefetched for and that still wait.
        self._prefetched: set[str] = set()
        self._queue: forebay.CallQueue | None = None
        # Hashes of live requests' blocks, one behind the other, as many as they had when they came.
        self._rows: dict[str, bytes] = {}
        self._matches: dict[str, _Match] = {}
        self._tickets: dict[int, str] = {}
        self._tracked: dict[str, _Tracked] = {}
        # Blocks of waiting requests that the engine has in its own memory, as it said last.
        self._own: dict[str, int] = {}
        self._loads: list[Move] = []
        self._events: list[KVCacheEvent] | None = [] if events else None
        # Requests that ended while puts of theirs were under way, for their events.
        self._ended: dict[str, _Tracked] = {}
        self._touches = Touches()
        self._prompts = Prompts()
        # The report of prompts that is under way: its ticket, and what it says.
        self._told: tuple[int, dict[str, int]] | None = None

    def _space(self) -> forebay.Namespace | None:
        space, client = self._link.namespace, self._link.client
        if space is not None and client is not None and self._queue is None:
            self._queue = client.queue(calls_max=LOOKUPS_MAX, patient=True)
        return space if self._queue is not None else None

    def _salt(self, request: Any) -> bytes | None:
        """What goes into a request's keys beside vLLM's own hash, which knows adapters by name only. None: it cannot be stored."""
        lora = request.lora_request
        digest = b"" if lora is None else self._lora_digest(lora)
        return None if digest is None else self._generation + digest

    def renew(self) -> None:
        """The engine's weights may be others now. What was stored before is not found any more, and requests that have begun, maybe with the old
        ones, neither load nor store."""
        self._generation = os.urandom(GENERATION_BYTES)
        for name, tracked in self._tracked.items():
            tracked.wishes = dataclasses.replace(tracked.wishes, skip_write=True)
            self._failed.add(name)
        for match in self._matches.values():
            if match.ticket is not None and self._queue is not None:
                self._queue.cancel(match.ticket)
        self._matches.clear()
        self._tickets.clear()

    def _suffixes(self, salt: bytes) -> tuple[bytes, ...]:
        """What the keys of a block, one for each rank, have behind its hash."""
        if self._world == 1:
            return (suffix_of(salt, 0, 1),)
        return tuple(suffix_of(salt, rank, self._world) for rank in range(self._world))

    def _rows_of(self, request: Any) -> bytes:
        """Made once, and not in a step: joining thousands takes longer than a step should."""
        rows = self._rows.get(request.request_id)
        if rows is None:
            rows = self._rows[request.request_id] = b"".join(request.block_hashes)
        return rows

    def _hashes(self, request: Any, first: int, end: int, salt: bytes) -> forebay.Hashes:
        """Of a request's blocks."""
        rows, width = self._rows_of(request), len(request.block_hashes[0])
        if len(rows) < end * width:
            rows = self._rows[request.request_id] = b"".join(request.block_hashes)
        return forebay.Hashes(rows, width, suffixes=self._suffixes(salt), first=first, count=end - first)

    # Waiting.

    def arrived(self, request: Any) -> bytes:
        """A request came; the engine looks at it when it has a place for it. The hashes of its whole blocks, one behind the other."""
        self._waiting[request.request_id] = _Waiting(request)
        return self._rows_of(request)

    def _prefetch(self, space: forebay.Namespace, queue: forebay.CallQueue) -> None:
        """What stands in line has time: its blocks are brought from NVMe to DRAM until its turn comes."""
        for request_id, waiting in list(self._waiting.items()):
            if len(self._prefetched) >= PREFETCHED_MAX:
                return
            waiting.steps += 1
            if waiting.steps < 2:
                # It came after this step had begun, or is looked at in the next.
                continue
            del self._waiting[request_id]
            request = waiting.request
            salt = self._salt(request)
            if salt is not None and request.block_hashes and not wishes(request.kv_transfer_params).skip_read:
                self._prefetched.add(request_id)
                count = min(len(request.block_hashes), PREFETCH_BLOCKS_MAX)
                queue.submit_prefetch(space, self._hashes(request, 0, count, salt), within_ms=PREFETCH_MS)
                self._report.add(prefetched=count)

    # Looking up.

    def matched_tokens(self, request: Any, computed_tokens: int) -> tuple[int | None, bool]:
        """Tokens to be loaded behind the computed ones; None while that is not known yet."""
        self._drain()
        first = computed_tokens // self._block_tokens
        self._own[request.request_id] = first
        self._waiting.pop(request.request_id, None)
        wish = wishes(request.kv_transfer_params)
        if wish.skip_read or request.request_id in self._failed:
            return 0, False
        space, queue = self._space(), self._queue
        # At least one token is computed: its logits are what generation goes on from. So nothing is asked where all that is missing is the block with
        # that token: computing it is the step that would be waited for.
        if space is None or queue is None or (request.num_tokens - 1) // self._block_tokens <= first or computed_tokens % self._block_tokens:
            return 0, False
        # With others before it that block is loaded, too, where it is whole: vLLM then computes the last token alone.
        last = min(request.num_tokens // self._block_tokens, len(request.block_hashes))
        if last <= first:
            return 0, False
        match = self._matches.get(request.request_id)
        now = time.monotonic()
        if match is not None and match.ticket is None and (match.first != first or now - match.asked_at > ANSWER_S_MAX):
            # Asked about something else, or too long ago.
            match = None
        if match is None:
            salt = self._salt(request)
            if salt is None or queue.pending >= LOOKUPS_MAX:
                return 0, False
            hashes = self._hashes(request, first, last, salt)
            ticket = queue.submit_match(space, hashes, hold_ms=HOLD_MS, deadline_ms=self._lookup_deadline_ms)
            self._matches[request.request_id] = _Match(first, now, ticket)
            self._tickets[ticket] = request.request_id
            self._report.counts["asked"] += last - first
            return None, False
        if match.ticket is not None:
            if now - match.asked_at <= 2 * self._lookup_deadline_ms / 1000:
                return None, False
            # The question waits in line behind others. It is not worth more waiting.
            queue.cancel(match.ticket)
            self._tickets.pop(match.ticket, None)
            match.ticket = None
        if match.blocks is None:
            match.blocks = self._decide(request, match, wish)
        tokens = match.blocks * self._block_tokens
        return tokens, tokens > 0

    def _decide(self, request: Any, match: _Match, wish: Wishes) -> int:
        """How many of the blocks that are stored are loaded."""
        if self._pace is None or not match.tiers:
            return len(match.tiers)
        deadline_s = (wish.deadline_ms or self._load_deadline_ms) / 1000
        now = self._pace.now(request.request_id, deadline_s)
        known = self._pace.speed.known()
        decision = decide(known, self._load_speed, match.tiers, match.first, self._block_tokens, request.num_tokens, now, match.nvme)
        self._report.decided(decision.reason)
        return decision.blocks

    def _planned(self, loads: Sequence[tuple[int, int]]) -> Sequence[tuple[float, float]]:
        """What loads of (DRAM, NVMe) blocks would take now: by what the workers' loads took, and by how long the lookup stood in line."""
        space, nbytes = self._link.namespace, self._block_bytes
        if space is None or not nbytes:
            return [(0.0, 0.0)] * len(loads)
        return space.expect_fetches([(dram * nbytes, nvme * nbytes) for dram, nvme in loads])

    def _learn(self, blocks: tuple[int, int], seconds: float, stall_s: float) -> None:
        """A worker's load took so long. The scheduler's own client makes none, so it is told."""
        self._load_speed.saw(blocks, seconds, stall_s)
        space = self._link.namespace
        if space is not None and seconds > 0:
            space.learn_fetch(seconds, dram_bytes=blocks[0] * self._block_bytes, nvme_bytes=blocks[1] * self._block_bytes)

    def _drain(self) -> None:
        if self._queue is None:
            return
        for ticket, answer in self._queue.drain():
            if self._told is not None and ticket == self._told[0]:
                if answer is not True:
                    self._prompts.back(self._told[1])
                self._told = None
                continue
            match = self._matches.get(self._tickets.pop(ticket, ""))
            if match is None or match.ticket != ticket:
                continue
            match.ticket = None
            match.asked_at = time.monotonic()
            if not isinstance(answer, Exception):
                # A block is there when all ranks' parts are.
                stored = answer.n // self._world
                packed = answer.packed_tiers
                self._report.counts["hits"] += stored
                if self._world == 1:
                    match.tiers, match.nvme = packed, answer.nvme
                    continue
                ranks = [int.from_bytes(packed[rank : stored * self._world : self._world], "big") for rank in range(self._world)]
                match.tiers = functools.reduce(operator.or_, ranks).to_bytes(stored, "big")
                match.nvme = match.tiers.count(1)

    # Allocation.

    def allocated(self, request: Any, block_ids: list[int], external_tokens: int) -> None:
        """Blocks were allocated; some of them are to be loaded."""
        request_id = request.request_id
        tracked = self._tracked.get(request_id)
        if tracked is None:
            salt = self._salt(request)
            if salt is None:
                return
            # Its blocks are told again when it is scheduled.
            tracked = self._tracked[request_id] = _Tracked(request, salt, _BlockIds([]), wishes(request.kv_transfer_params))
        self._prefetched.discard(request_id)
        match = self._matches.pop(request_id, None)
        if external_tokens <= 0:
            return
        first = match.first if match is not None else 0
        blocks = external_tokens // self._block_tokens
        # In line before anything can go wrong: the request waits for this load, and one without hashes fails and is computed.
        load = self._move(tracked, block_ids, first, begin=first, count=min(blocks, len(block_ids) - first))
        if match is not None:
            nvme = match.nvme if blocks == len(match.tiers) else match.tiers.count(1, 0, blocks)
            self._loading[request_id] = (blocks - nvme, nvme)
            load.rows = self._rows_of(request)
        self._loads.append(load)
        tracked.saved = max(tracked.saved, first + blocks)
        tracked.loaded_until = (first + blocks) * self._block_tokens

    def _move(self, tracked: _Tracked, block_ids: list[int], position: int, rows: bytes = b"", first: int | None = None, begin: int = 0, count: int = -1) -> Move:
        """Blocks of a request from one on: `count` of these from number `begin` on. rows: their hashes, from number `first` on, which is their position
        unless said otherwise."""
        width = len(tracked.request.block_hashes[0]) if tracked.request.block_hashes else 1
        return Move(
            tracked.request.request_id,
            block_ids,
            rows,
            position if first is None else first,
            width,
            tracked.salt,
            position,
            self._chain(tracked),
            hint=tracked.wishes.hint,
            begin=begin,
            count=count,
        )

    def take_loads(self) -> list[Move]:
        """Loads to be given to the worker in this step."""
        loads, self._loads = self._loads, []
        return loads

    def _chain(self, tracked: _Tracked) -> int:
        return int.from_bytes(tracked.request.block_hashes[0][:8], "big") if tracked.request.block_hashes else 0

    # Each step.

    def step(self, output: Any) -> Step:
        """What the worker is to do in this step."""
        # What is wrong with the node is said here, and not by each worker again.
        step = Step(fingerprint=self._fingerprint if self._link.namespace is not None else {})
        for new in output.scheduled_new_reqs:
            tracked = self._tracked.get(new.req_id)
            own = self._own.pop(new.req_id, 0)
            if tracked is not None:
                # As many as vLLM itself calls cached; what of a load failed is computed and not among them.
                held = self._held(tracked, new.num_computed_tokens)
                engine_tokens = min(own * self._block_tokens, held)
                used_tokens = held - engine_tokens
                self._prompts.add(tracked.request.num_tokens, engine_tokens=engine_tokens, used_tokens=used_tokens)
                tracked.block_ids = _BlockIds(new.block_ids[0])
                hashes = tracked.request.block_hashes
                if 0 < own <= len(hashes):
                    self._touches.add(hashes, own, hashes[own - 1], self._suffixes(tracked.salt), time.monotonic())
                self._save(step, tracked, new.num_computed_tokens, output, held)
        cached = output.scheduled_cached_reqs
        for request_id, new_ids, computed in zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True):
            tracked = self._tracked.get(request_id)
            if tracked is None:
                continue
            if request_id in cached.resumed_req_ids:
                tracked.block_ids = _BlockIds(new_ids[0] if new_ids else [])
            elif new_ids:
                tracked.block_ids.extend(new_ids[0])
            self._save(step, tracked, computed, output, None)
        space, queue = self._space(), self._queue
        if space is not None and queue is not None:
            self._touches.tell(queue, space)
            self._prefetch(space, queue)
            self._tell_prompts(space, queue)
        if self._pace is not None:
            self._pace.began(output, {name: tracked.request.num_tokens for name, tracked in self._tracked.items()})
        self._report.tick()
        return step

    def _held(self, tracked: _Tracked, computed: int) -> int:
        """Tokens that a request begins with. Of one that was loaded to its end vLLM computes the last token again, and that one is there as well."""
        was_loaded = computed + 1 == tracked.loaded_until and tracked.request.request_id not in self._failed
        return tracked.loaded_until if was_loaded else computed

    def _tell_prompts(self, space: forebay.Namespace, queue: forebay.CallQueue) -> None:
        """One report at a time: the next has what this one could not say."""
        counts = self._prompts.take() if self._told is None else None
        if counts is not None:
            self._told = queue.submit_report(space, **counts), counts

    def _save(self, step: Step, tracked: _Tracked, computed: int, output: Any, begins_at: int | None) -> None:
        """Whatever blocks of this request are whole after this step and were not given to the worker before."""
        if begins_at is not None:
            # What the engine's own prefix cache had was stored when it was computed. Less than was to be loaded, if some of it failed.
            tracked.saved = begins_at // self._block_tokens
        request = tracked.request
        after = computed + output.num_scheduled_tokens.get(request.request_id, 0)
        # A block has a hash when its tokens are certain, so speculative ones are left for later.
        whole = min(after // self._block_tokens, len(request.block_hashes), len(tracked.block_ids))
        space = self._space()
        if space is None or whole <= tracked.saved or tracked.wishes.skip_write:
            if space is None or tracked.wishes.skip_write:
                # Blocks that were computed while the node was away are not looked for again.
                tracked.saved = max(tracked.saved, whole)
            return
        first, tracked.saved = tracked.saved, whole
        save = self._move(tracked, tracked.block_ids.some(first, whole), first, b"".join(request.block_hashes[first:whole]), 0)
        save.parent = request.block_hashes[first - 1] if first else None
        step.saves.append(save)

    def worker_said(self, said: Stored | None) -> None:
        """What the workers have done since the last step."""
        if said is None:
            return
        self._report.add(loaded=said.loaded, load_failed=said.load_failed, **said.outcomes)
        # One that ended meanwhile is not remembered.
        self._failed.update(name for name in said.failed if name in self._tracked)
        for name, (seconds, stall_s) in said.loads.items():
            loaded = self._loading.pop(name, None)
            if loaded is not None:
                self._learn(loaded, seconds, stall_s)
        if self._events is None:
            return
        for request_id, position in sorted(said.blocks):
            tracked = self._tracked.get(request_id) or self._ended.get(request_id)
            if tracked is not None and len(self._events) < EVENTS_MAX:
                self._events.append(self._event(tracked.request, position))

    def _event(self, request: Any, position: int) -> BlockStored:
        tokens, hashes = self._block_tokens, request.block_hashes
        return BlockStored(
            # As vLLM's own events name them: 64 bits, unless it is told otherwise.
            block_hashes=[maybe_convert_block_hash(hashes[position])],
            parent_block_hash=maybe_convert_block_hash(hashes[position - 1]) if position else None,
            token_ids=list(request.all_token_ids[position * tokens : (position + 1) * tokens]),
            block_size=tokens,
            lora_id=request.lora_request.adapter_id if request.lora_request else None,
            medium="FOREBAY",
            lora_name=request.lora_request.name if request.lora_request else None,
        )

    def take_events(self) -> list[KVCacheEvent]:
        """The events since the last call. vLLM takes them when a step has ended."""
        if self._pace is not None:
            self._pace.ended()
        if not self._events:
            return []
        events, self._events = self._events, []
        return events

    def fresh_counts(self) -> dict[str, int]:
        """What was counted since the last call."""
        return self._report.fresh()

    def finished(self, request: Any) -> None:
        """The request is over. Its saves were copied in their steps, so its blocks may go at once."""
        for known in (self._own, self._waiting, self._loading, self._rows):
            known.pop(request.request_id, None)
        for names in (self._prefetched, self._failed):
            names.discard(request.request_id)
        if self._pace is not None:
            self._pace.gone(request.request_id)
        match = self._matches.pop(request.request_id, None)
        if match is not None and match.ticket is not None and self._queue is not None:
            self._queue.cancel(match.ticket)
        tracked = self._tracked.pop(request.request_id, None)
        if tracked is not None and self._events is not None:
            self._ended[request.request_id] = tracked
            while len(self._ended) > LOOKUPS_MAX:
                del self._ended[next(iter(self._ended))]

    def close(self) -> None:
        """Ends what is under way."""
        if self._queue is not None:
            for ticket in self._tickets:
                self._queue.cancel(ticket)
            if self._told is not None and self._queue.wait(timeout_ms=100.0):
                self._drain()
        self._report.say()
        with contextlib.suppress(forebay.ForebayError):
            self._prompts.tell(self._link.namespace, at_once=True)
        self._queue = None
        self._link.close()
