"""The worker's half of `ForebayConnector` on KV memory of its own: blocks go out and come back bit for bit, or are reported as not loaded."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterator

import pytest
import torch
from support import OF_A_FULL_QUOTA, Lines, Node, wait_for

from forebay import Fingerprint
from forebay.integrations._common import Link
from forebay.integrations.vllm.messages import Move, suffix_of
from forebay.integrations.vllm.worker import WorkerHalf, _runs

BLOCKS, HEADS, TOKENS, SIZE, LAYERS = 64, 2, 16, 32, 3
ROW_BYTES = LAYERS * HEADS * TOKENS * 2 * SIZE * 2


def name(number: int) -> bytes:
    """vLLM's hash of a block."""
    return f"block {number:08}".encode()


class Worker:
    """A worker and the KV memory of its engine."""

    def __init__(self, node: Node, seed: int | None, *, rows: int = 16, rank: int = 0, world: int = 1, dtype: torch.dtype = torch.bfloat16, quota: int | None = None) -> None:
        link = Link(Fingerprint(model="worker", dtype=str(dtype)), engine="test", address=node.address, region_bytes=16 << 20, quota=quota)
        self.half = WorkerHalf(link, rank, world, TOKENS, staging_bytes=rows * ROW_BYTES, load_deadline_ms=3000)
        shape = (BLOCKS, HEADS, TOKENS, 2 * SIZE)
        chance = torch.Generator().manual_seed(seed or 0)
        self.layers = {
            f"layer {number}": (torch.randn(shape, generator=chance) if seed else torch.zeros(shape)).to(dtype) for number in range(LAYERS)
        }
        self.half.register(self.layers, BLOCKS)

    def keys(self, numbers: range) -> bytes:
        space = self.half.link.namespace
        assert space is not None
        suffixes = [suffix_of(b"salt", rank, self.half.world) for rank in range(self.half.world)]
        return space.keys([name(number) + suffix for number in numbers for suffix in suffixes])

    def move(self, numbers: range, block_ids: list[int], rows: bytes | None = None) -> Move:
        """As it comes out of another process."""
        before = b"".join(map(name, range(numbers.start)))
        rows = before + b"".join(map(name, numbers)) if rows is None else rows
        move = Move("request", block_ids, rows, numbers.start, len(name(0)), b"salt", numbers.start, 7)
        sent: Move = pickle.loads(pickle.dumps(move))
        assert sent.first == 0 and len(sent.rows) <= len(name(0)) * len(block_ids)
        return sent

    def save(self, numbers: range, block_ids: list[int]) -> None:
        self.half.save([self.move(numbers, block_ids)])
        wait_for(lambda: (self.half._drain(), not self.half._calls)[1])

    def load(self, numbers: range, block_ids: list[int], rows: bytes | None = None) -> set[int]:
        """Block ids that were not loaded."""
        self.half.start_loads([self.move(numbers, block_ids, rows)])
        wait_for(lambda: self.half.finished_loads() == {"request"})
        return self.half.take_bad_blocks()


@pytest.fixture
def writer(node: Node) -> Iterator[Worker]:
    worker = Worker(node, seed=1)
    yield worker
    worker.half.close()


def same(ours: Worker, mine: list[int], theirs: Worker, yours: list[int]) -> bool:
    return all(torch.equal(ours.layers[name][mine].view(torch.uint8), theirs.layers[name][yours].view(torch.uint8)) for name in ours.layers)


def test_blocks_come_back_bit_for_bit_in_other_places(node: Node, writer: Worker) -> None:
    # More than the staging has rows for: they pass through it one after the other.
    out, back = list(range(3, 13)), list(range(40, 30, -1))
    writer.save(range(10), out)
    reader = Worker(node, seed=None, rows=3)
    before = {name: layer.clone() for name, layer in reader.layers.items()}
    assert reader.load(range(10), back) == set()
    assert same(writer, out, reader, back)
    rest = [block for block in range(BLOCKS) if block not in back]
    assert all(torch.equal(layer[rest], before[name][rest]) for name, layer in reader.layers.items()), "nothing else was touched"
    assert reader.half.take_said().loaded == 10
    reader.half.close()


def test_behind_the_first_block_that_is_missing_nothing_is_loaded(node: Node, writer: Worker) -> None:
    writer.save(range(8), list(range(8)))
    space = writer.half.link.namespace
    assert space is not None and space.forget(writer.keys(range(5, 6))) == [True]
    reader = Worker(node, seed=None)
    assert reader.load(range(8), list(range(20, 28))) == {25, 26, 27}
    assert same(writer, list(range(5)), reader, list(range(20, 25)))
    said = reader.half.take_said()
    assert (said.loaded, said.load_failed, said.failed) == (5, 3, {"request"})
    reader.half.close()


def test_what_finds_no_room_is_not_stored_and_counted(node: Node) -> None:
    worker = Worker(node, seed=1, rows=4)
    worker.save(range(6), list(range(6)))
    assert worker.half.take_said().outcomes == {"stored": 4, "dropped": 2}
    worker.half.close()


def test_each_rank_has_its_own_part(node: Node) -> None:
    ranks = [Worker(node, seed=rank + 1, rank=rank, world=2) for rank in range(2)]
    for rank in ranks:
        rank.save(range(4), list(range(4)))
    for rank in range(2):
        reader = Worker(node, seed=None, rank=rank, world=2)
        assert reader.load(range(4), list(range(4))) == set()
        assert same(ranks[rank], list(range(4)), reader, list(range(4)))
        reader.half.close()
    for rank in ranks:
        rank.half.close()


def test_types_without_arithmetic_are_bytes_too(node: Node) -> None:
    writer = Worker(node, seed=1, dtype=torch.float8_e4m3fn)
    writer.save(range(3), [0, 1, 2])
    reader = Worker(node, seed=None, dtype=torch.float8_e4m3fn)
    assert reader.load(range(3), [5, 6, 7]) == set()
    assert same(writer, [0, 1, 2], reader, [5, 6, 7])
    for each in (writer, reader):
        each.half.close()


def test_a_node_that_stands_still_fails_the_load_at_its_deadline_and_writes_nothing_later(node: Node, writer: Worker) -> None:
    writer.save(range(4), list(range(4)))
    reader = Worker(node, seed=None)
    assert reader.load(range(1), [0]) == set()
    node.stop()
    try:
        assert reader.load(range(4), [10, 11, 12, 13]) == {10, 11, 12, 13}
    finally:
        node.signal(signal.SIGCONT)
    assert not any(layer[10:14].any() for layer in reader.layers.values())
    # The engine has given the blocks to somebody else by now, and the node is back.
    wait_for(lambda: reader.load(range(4), [20, 21, 22, 23]) == set())
    assert not any(layer[10:14].any() for layer in reader.layers.values())
    reader.half.close()


def test_runs_are_as_long_as_rows_and_blocks_are_neighbours_and_hold_every_block_once() -> None:
    assert list(_runs([0, 1, 2], [7, 8, 9])) == [(0, 7, 3)]
    assert list(_runs([0, 1, 2, 3, 9], [7, 8, 3, 4, 5])) == [(0, 7, 2), (2, 3, 2), (9, 5, 1)]
    assert list(_runs([2, 1, 0], [1, 2, 3])) == [(2, 1, 1), (1, 2, 1), (0, 3, 1)]
    assert list(_runs([4], [0])) == [(4, 0, 1)] and list(_runs([], [])) == []


def test_a_load_without_hashes_or_without_a_node_fails_at_once(node: Node) -> None:
    worker = Worker(node, seed=None)
    assert worker.load(range(2), [1, 2], rows=b"") == {1, 2}
    node.kill()
    assert worker.load(range(2), [1, 2]) == {1, 2}
    worker.half.close()
    alone = Worker(node, seed=None)
    assert alone.load(range(2), [1, 2]) == {1, 2}
    alone.half.close()


def opened_later(node: Node, gate: threading.Event) -> Worker:
    """A worker whose namespace is opened as the connector does it, when the gate is."""
    later = Worker(node, seed=None)
    link, later.half.link = later.half.link, None
    assert link is not None

    def make() -> Link:
        gate.wait(60)
        return link

    later.half.open(make)
    return later


def test_a_load_that_is_asked_for_while_the_namespace_is_opened_waits_for_it(node: Node, writer: Worker) -> None:
    """A connection and the memory for blocks take longer than a step of the engine should."""
    writer.save(range(4), list(range(4)))
    gate = threading.Event()
    reader = opened_later(node, gate)
    reader.half.start_loads([writer.move(range(4), [10, 11, 12, 13])])
    assert reader.half.finished_loads() == set() and reader.half.take_bad_blocks() == set()
    gate.set()
    wait_for(lambda: reader.half.finished_loads() == {"request"})
    assert reader.half.take_bad_blocks() == set() and same(writer, list(range(4)), reader, [10, 11, 12, 13])
    reader.half.close()


def test_a_namespace_that_is_not_opened_in_time_fails_the_load_at_its_deadline(node: Node, writer: Worker) -> None:
    writer.save(range(2), [0, 1])
    gate = threading.Event()
    reader = opened_later(node, gate)
    reader.half.load_deadline_ms = 300
    reader.half.start_loads([writer.move(range(2), [10, 11])])
    wait_for(lambda: reader.half.finished_loads() == {"request"})
    assert reader.half.take_bad_blocks() == {10, 11}
    # Nor is anything stored that would have to wait longer.
    reader.half.save([writer.move(range(5, 7), [0, 1])])
    assert not reader.half._calls
    gate.set()
    reader.half.load_deadline_ms = 20_000
    wait_for(lambda: reader.load(range(2), [20, 21]) == set())
    reader.half.close()


def test_memory_in_which_blocks_cannot_be_told_apart_is_refused_by_name(node: Node) -> None:
    worker = Worker(node, seed=None)
    with pytest.raises(ValueError, match="the layer odd keeps a tensor of shape"):
        worker.half.register({"odd": torch.zeros(5, 7)}, BLOCKS)
    worker.half.close()


def test_a_full_quota_is_said_once_and_the_engine_goes_on(node: Node) -> None:
    worker = Worker(node, seed=1, quota=4096)
    with Lines("vllm.forebay") as lines:
        for first in (0, 4):
            worker.save(range(first, first + 4), list(range(4)))
        assert worker.load(range(4), list(range(4))) == set(range(4)), "and nothing is there to be loaded"
    lines.only(*OF_A_FULL_QUOTA)
    said = worker.half.take_said()
    assert said is not None and said.outcomes == {"refused": 8}
    worker.half.close()
