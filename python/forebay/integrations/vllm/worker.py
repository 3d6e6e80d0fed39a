"""The worker's half of `ForebayConnector`: blocks between the engine's KV memory and the store.

A block of the store is one block of all layers, layer after layer, as they lie in the engine. Loads land in memory of the client's own first
and are copied to the engine's when they are whole and verified: a late write, whatever the node does, can never reach a block that the engine has
given to somebody else. Saves are copied out in their own step, before the engine can reuse the blocks, and put from there by other threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

import forebay
from forebay.integrations._common import Hints, Link, Refusals
from forebay.integrations.vllm.log import logger
from forebay.integrations.vllm.messages import Move, Stored, suffix_of

#: Bytes of memory that blocks pass through, for each direction, unless asked otherwise.
STAGING_BYTES = 128 << 20
#: How long a load may take in all, from the step that asks for it. What is not there by then is computed.
LOAD_DEADLINE_MS = 5000.0
#: How long a put may take.
SAVE_DEADLINE_MS = 5000.0
#: Bytes of one call: several are under way at once, so that copies overlap with them.
CALL_BYTES = 16 << 20


class Staging:
    """Rows of one region: memory of the client's for blocks on their way."""

    def __init__(self, client: forebay.Client, row_bytes: int, nbytes: int) -> None:
        self.rows = max(1, nbytes // row_bytes)
        self.region = client.region(self.rows * row_bytes)
        self.memory = torch.frombuffer(self.region, dtype=torch.uint8).view(self.rows, row_bytes)
        self._row_bytes = row_bytes
        self._free = list(range(self.rows - 1, -1, -1))

    def take(self, at_most: int) -> list[int]:
        """Free rows, at most so many."""
        count = min(at_most, len(self._free))
        return [self._free.pop() for _ in range(count)]

    def give(self, rows: list[int]) -> None:
        """They are free again, and taken in order: neighbours are copied at once."""
        self._free.extend(reversed(rows))

    def spans(self, rows: list[int]) -> forebay.Spans:
        """Their places."""
        return self.region.spans([row * self._row_bytes for row in rows], self._row_bytes)


@dataclass(slots=True)
class _Load:
    move: Move
    until: float
    #: Blocks that were asked for, and calls that are not answered yet.
    asked: int = 0
    waiting: int = 0
    #: First block that failed; what lies behind it is of no use.
    failed_at: int | None = None
    begun: float = 0.0
    #: Seconds of the engine's own thread.
    stall_s: float = 0.0

    @property
    def blocks(self) -> int:
        return self.move.count

    @property
    def is_over(self) -> bool:
        return self.waiting == 0 and (self.failed_at is not None or self.asked == self.blocks)


@dataclass(slots=True)
class _Call:
    rows: list[int]
    load: _Load | None = None
    first: int = 0
    save: Move | None = None


@dataclass(slots=True)
class _Layer:
    """One layer's KV memory, with blocks as its first dimension."""

    blocks: torch.Tensor
    start: int
    nbytes: int

    def of(self, block_id: int, count: int) -> torch.Tensor:
        """Neighbouring blocks."""
        return self.blocks[block_id : block_id + count]

    def shaped(self, part: torch.Tensor) -> torch.Tensor:
        """Bytes of blocks, a row each, as what they are."""
        return part.view(self.blocks.dtype).view(len(part), *self.blocks.shape[1:])


def _runs(rows: list[int], block_ids: list[int]) -> Iterator[tuple[int, int, int]]:
    """Where rows and blocks both follow one another: the first of each, and how many. Each run is one copy for each layer."""
    begin = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at] != rows[at - 1] + 1 or block_ids[at] != block_ids[at - 1] + 1:
            yield rows[begin], block_ids[begin], at - begin
            begin = at


@dataclass
class WorkerHalf:
    """See the module."""

    #: None until the scheduler has said which namespace it is.
    link: Link | None
    rank: int
    world: int
    block_tokens: int
    staging_bytes: int = STAGING_BYTES
    load_deadline_ms: float = LOAD_DEADLINE_MS
    _layers: list[_Layer] = field(default_factory=list)
    _row_bytes: int = 0
    _is_off: bool = False
    #: What takes longer than a step should: a connection, and hundreds of megabytes of memory.
    _opening: threading.Thread | None = None
    _opened_at: float = 0.0
    _queue: forebay.CallQueue | None = None
    _load_rows: Staging | None = None
    _save_rows: Staging | None = None
    # Tickets and what they stand for. Behind a lock, because puts of a GPU's blocks are submitted by the thread that waited for their copy.
    _calls: dict[int, _Call] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loads: list[_Load] = field(default_factory=list)
    _bad_blocks: set[int] = field(default_factory=set)
    _said: Stored = field(default_factory=Stored)
    _refusals: Refusals | None = None
    _copies: Hints = field(default_factory=lambda: Hints("forebay-save"))

    def register(self, kv_caches: dict[str, torch.Tensor], block_count: int) -> None:
        """Learns where the engine's KV lies. Raises ValueError for a layout whose blocks cannot be told apart."""
        start = 0
        for name, tensor in kv_caches.items():
            if not isinstance(tensor, torch.Tensor):
                raise ValueError(f"the layer {name} keeps several tensors; ForebayConnector serves attention layers with one")
            if tensor.shape[0] == block_count:
                blocks = tensor
            elif tensor.dim() > 1 and tensor.shape[1] == block_count:
                # Keys of all blocks, then values of all blocks.
                blocks = tensor.movedim(1, 0)
            else:
                raise ValueError(f"the layer {name} keeps a tensor of shape {tuple(tensor.shape)}, in which {block_count} blocks cannot be found")
            if blocks.stride(-1) == 1:
                # Copies need no arithmetic, and not every type of KV has it.
                blocks = blocks.view(torch.uint8)
            nbytes = blocks[0].numel() * blocks.element_size()
            self._layers.append(_Layer(blocks, start, nbytes))
            start += nbytes
        self._row_bytes = start

    def turn_off(self) -> None:
        """Nothing is loaded or stored any more."""
        self._is_off = True

    def _space(self) -> forebay.Namespace | None:
        return self.link.namespace if self.link is not None else None

    def open(self, make: Callable[[], Link]) -> None:
        """Opens the namespace, beside the engine's steps."""

        def run() -> None:
            try:
                self.link = make()
                self._take_memory()
            except Exception:
                self._is_off = True
                logger.exception("forebay: the namespace cannot be opened, so all is computed")

        self._begin(run)

    def _begin(self, run: Callable[[], None]) -> None:
        self._opening = threading.Thread(target=run, name="forebay-open", daemon=True)
        self._opening.start()

    def _has_space(self) -> bool:
        link = self.link
        return link is not None and link.namespace is not None and link.client is not None and bool(self._layers) and not self._is_off

    def _ready(self, wait_s: float = 0.0) -> bool:
        """Whether the node is there and the memory for it; the first time that is waited for at most so long."""
        if self._opening is None and self._queue is None and self._has_space():
            # It was not there when the engine started.
            self._begin(self._take_memory)
        if self._opening is not None:
            self._opening.join(wait_s)
            if self._opening.is_alive():
                return False
            self._opening, self._opened_at = None, time.monotonic()
        return self._queue is not None and self._has_space()

    def _take_memory(self) -> None:
        if self._queue is not None or not self._has_space():
            return
        assert self.link is not None and self.link.client is not None
        client = self.link.client
        try:
            self._load_rows = Staging(client, self._row_bytes, self.staging_bytes)
            self._save_rows = Staging(client, self._row_bytes, self.staging_bytes)
            self._pin()
            # Last: whoever sees it sees all.
            self._queue = client.queue()
        except Exception:
            self._is_off = True
            logger.exception("forebay: there is no memory for blocks on their way (staging_bytes), so all is computed")

    def _suffix(self, move: Move) -> bytes:
        return suffix_of(move.salt, self.rank, self.world)

    def _pin(self) -> None:
        """Lets a GPU copy to and from the staging without waiting. Untested where there is no GPU; without it copies are slower, not wrong."""
        device = self._layers[0].blocks.device
        if device.type != "cuda":
            return
        # A thread of its own begins with the first device.
        with torch.cuda.device(device):
            for staging in (self._load_rows, self._save_rows):
                assert staging is not None
                done = torch.cuda.cudart().cudaHostRegister(staging.memory.data_ptr(), staging.memory.numel(), 0)
                if int(done) != 0:
                    logger.warning("forebay: %d bytes cannot be registered with the GPU; copies to and from it are slower", staging.memory.numel())

    # Loads.

    def start_loads(self, moves: list[Move]) -> None:
        """Asks for blocks. What cannot be asked for is reported as failed with the next results."""
        if not moves:
            return
        until = time.monotonic() + self.load_deadline_ms / 1000
        is_ready = self._ready()
        for move in moves:
            load = _Load(move, until, begun=time.monotonic())
            # While the namespace is being opened they wait for it, as they would wait for the node.
            if not (is_ready or self._opening) or len(move.rows) < (move.first + load.blocks) * move.width:
                load.failed_at = 0
            self._loads.append(load)
        self._pump()

    def _pump(self) -> None:
        """Asks for as much as there is memory for."""
        space = self._space()
        if not self._ready() or self._queue is None or self._load_rows is None or space is None:
            for load in self._loads:
                if load.failed_at is None and load.waiting == 0 and (self._opening is None or time.monotonic() >= load.until):
                    load.failed_at = load.asked
            return
        per_call = max(1, CALL_BYTES // self._row_bytes)
        for load in self._loads:
            while load.failed_at is None and load.asked < load.blocks:
                left_ms = (load.until - time.monotonic()) * 1000
                if left_ms <= 0:
                    load.failed_at = load.asked
                    break
                rows = self._load_rows.take(min(per_call, load.blocks - load.asked))
                if not rows:
                    return
                spans = self._load_rows.spans(rows)
                try:
                    hashes = load.move.hashes(self._suffix(load.move), load.asked, len(rows))
                    with self._lock:
                        ticket = self._queue.submit_get(space, hashes, into=spans, deadline_ms=left_ms, reuse=load.move.hint)
                        self._calls[ticket] = _Call(rows, load=load, first=load.asked)
                except Exception:
                    logger.exception("forebay: a load cannot be asked for; computed instead")
                    self._load_rows.give(rows)
                    load.failed_at = load.asked
                    break
                load.asked += len(rows)
                load.waiting += 1

    def _landed(self, call: _Call, answer: Any) -> None:
        load = call.load
        assert load is not None and self._load_rows is not None
        load.waiting -= 1
        sizes = [] if isinstance(answer, Exception) else answer
        good = 0
        while good < len(sizes) and sizes[good] == self._row_bytes:
            good += 1
        if good < len(call.rows):
            load.failed_at = min(call.first + good, load.blocks if load.failed_at is None else load.failed_at)
        if good and (load.failed_at is None or call.first < load.failed_at):
            begun = time.monotonic()
            try:
                self._copy_in(call.rows[:good], load.move.some_ids(call.first, good))
            except Exception:
                logger.exception("forebay: loaded blocks cannot be copied to the engine's memory; computed instead")
                load.failed_at = call.first
            load.stall_s += time.monotonic() - begun
        self._load_rows.give(call.rows)

    def _copy_in(self, rows: list[int], block_ids: list[int]) -> None:
        """From the staging into the engine's memory, layer by layer."""
        assert self._load_rows is not None
        if self._layers[0].blocks.device.type == "cpu":
            for row, block_id, count in _runs(rows, block_ids):
                for layer in self._layers:
                    part = self._load_rows.memory[row : row + count, layer.start : layer.start + layer.nbytes]
                    layer.of(block_id, count).copy_(layer.shaped(part))
            return
        memory = self._load_rows.memory[rows[0] : rows[0] + len(rows)]
        if rows != list(range(rows[0], rows[0] + len(rows))):
            memory = self._load_rows.memory[torch.tensor(rows)]
        for layer in self._layers:
            device = layer.blocks.device
            part = memory[:, layer.start : layer.start + layer.nbytes].contiguous().view(layer.blocks.dtype)
            part = part.view(len(rows), *layer.blocks.shape[1:]).to(device, non_blocking=True)
            layer.blocks.index_copy_(0, torch.tensor(block_ids, device=device), part)
        if self._layers[0].blocks.device.type == "cuda":
            # The rows are given away after this.
            torch.cuda.current_stream().synchronize()

    # Saves.

    def save(self, moves: list[Move]) -> None:
        """Copies blocks out and puts them. What there is no memory for is not stored: a cache may forget."""
        # The first step that has blocks waits for what is being opened since it began, as long as it would wait for the node.
        if not moves or not self._ready(self.load_deadline_ms / 1000):
            return
        assert self._save_rows is not None
        self._drain()
        per_call = max(1, CALL_BYTES // self._row_bytes)
        for move in moves:
            at = 0
            while at < move.count:
                rows = self._save_rows.take(min(per_call, move.count - at))
                if not rows:
                    # A block is of no use behind a gap.
                    self._outcome("dropped", move.count - at)
                    break
                self._copy_out(rows, move, at)
                at += len(rows)

    def _copy_out(self, rows: list[int], move: Move, at: int) -> None:
        assert self._save_rows is not None
        if self._layers[0].blocks.device.type == "cpu":
            for row, block_id, count in _runs(rows, move.some_ids(at, len(rows))):
                for layer in self._layers:
                    part = self._save_rows.memory[row : row + count, layer.start : layer.start + layer.nbytes]
                    layer.shaped(part).copy_(layer.of(block_id, count))
            self._put(rows, move, at)
            return
        block_ids = torch.tensor(move.some_ids(at, len(rows)), device=self._layers[0].blocks.device)
        where = torch.tensor(rows)
        gathered = torch.empty((len(rows), self._row_bytes), dtype=torch.uint8, device=block_ids.device)
        for layer in self._layers:
            part = layer.blocks.index_select(0, block_ids).reshape(len(rows), -1).view(torch.uint8)
            gathered[:, layer.start : layer.start + layer.nbytes].copy_(part)
        if block_ids.device.type != "cuda":
            self._save_rows.memory.index_copy_(0, where, gathered.to("cpu"))
            self._put(rows, move, at)
            return
        # The gather is in line behind the forward pass and before whatever overwrites the blocks. Only the copy to the host is waited for,
        # and not here.
        begin, end = rows[0], rows[-1]
        ascending = rows == list(range(begin, end + 1))
        target = self._save_rows.memory[begin : end + 1] if ascending else None
        host = target.copy_(gathered, non_blocking=True) if target is not None else gathered.to("cpu", non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def put() -> None:
            try:
                done.synchronize()
                if not ascending and self._save_rows is not None:
                    self._save_rows.memory.index_copy_(0, where, host)
                self._put(rows, move, at)
            except Exception:
                logger.exception("forebay: blocks could not be put")

        if not self._copies.give(put):
            done.synchronize()
            self._save_rows.give(rows)
            self._outcome("dropped", len(rows))

    def _put(self, rows: list[int], move: Move, at: int) -> None:
        queue, space, staging = self._queue, self._space(), self._save_rows
        if queue is None or space is None or staging is None:
            return
        suffix = self._suffix(move)
        begin = (move.first + at) * move.width
        parent = move.rows[begin - move.width : begin] if at else move.parent
        with self._lock:
            ticket = queue.submit_put(
                space,
                move.hashes(suffix, at, len(rows)),
                staging.spans(rows),
                tokens=self.block_tokens,
                chain=move.chain,
                parent=space.key(parent + suffix) if parent is not None else None,
                position=move.position + at,
                reuse=move.hint,
                deadline_ms=SAVE_DEADLINE_MS,
            )
            self._calls[ticket] = _Call(rows, save=move, first=at)

    def _stored(self, call: _Call, answer: Any) -> None:
        move = call.save
        assert move is not None and self._save_rows is not None
        self._save_rows.give(call.rows)
        outcomes = [] if isinstance(answer, Exception) else answer
        for at, outcome in enumerate(outcomes):
            if isinstance(outcome, forebay.Refused):
                self._outcome("refused", 1)
                self._refused(outcome.value)
            elif outcome is forebay.Stored.EXISTS:
                self._outcome("present", 1)
            else:
                self._outcome("stored", 1)
                self._said.blocks.add((move.request, move.position + call.first + at))

    def _refused(self, reason: str) -> None:
        if self._refusals is None and self.link is not None:
            self._refusals = Refusals(self.link, logger)
        if self._refusals is not None:
            self._refusals.saw(reason)

    def _outcome(self, name: str, count: int) -> None:
        self._said.outcomes[name] = self._said.outcomes.get(name, 0) + count

    # Results.

    def _drain(self) -> None:
        if self._queue is None:
            return
        with self._lock:
            done = [(self._calls.pop(ticket, None), answer) for ticket, answer in self._queue.drain()]
        for call, answer in done:
            if call is None:
                continue
            if call.load is not None:
                self._landed(call, answer)
            else:
                self._stored(call, answer)

    def finished_loads(self) -> set[str]:
        """Requests whose load is over, well or not. Blocks that failed come out of `take_bad_blocks` in the same step."""
        self._drain()
        self._pump()
        over: set[str] = set()
        for load in self._loads:
            if not load.is_over:
                continue
            over.add(load.move.request)
            good = load.blocks if load.failed_at is None else load.failed_at
            self._bad_blocks.update(load.move.some_ids(good, load.blocks - good))
            self._said.loaded += good
            if good == load.blocks:
                # Not what was waited for before anything could be asked.
                self._said.loads[load.move.request] = (time.monotonic() - max(load.begun, self._opened_at), load.stall_s)
            else:
                self._said.failed.add(load.move.request)
            self._said.load_failed += load.blocks - good
        if over:
            self._loads = [load for load in self._loads if not load.is_over]
        return over

    def take_bad_blocks(self) -> set[int]:
        """Blocks that were not loaded, since the last call."""
        bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_said(self) -> Stored | None:
        """What the scheduler should know, since the last call."""
        if self._said == Stored():
            return None
        said, self._said = self._said, Stored()
        return said

    def close(self) -> None:
        """Waits for puts under way, each at most its deadline; loads are for nobody any more."""
        self._copies.close()
        if self._opening is not None:
            self._opening.join(self.load_deadline_ms / 1000)
        queue = self._queue
        if queue is not None:
            for ticket, call in self._calls.items():
                if call.load is not None:
                    queue.cancel(ticket)
            until = time.monotonic() + SAVE_DEADLINE_MS / 1000
            while queue.pending and time.monotonic() < until:
                queue.wait(timeout_ms=200.0)
                self._drain()
        self._queue = None
        self._load_rows = self._save_rows = None
        if self.link is not None:
            self.link.close()
