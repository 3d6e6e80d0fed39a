"""What the scheduler's half of the connector tells the worker's half, and back. Plain values: they may cross processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

import forebay


@dataclass(slots=True)
class Move:
    """Blocks of one request. Their keys are made by whoever calls: thousands of them would take the scheduler's time."""

    request: str
    #: The engine's blocks are `count` of these from number `begin` on: a list of thousands is not copied in a step.
    ids: list[int]
    #: vLLM's hashes of blocks, one behind the other, `width` bytes each; those of this move begin at `first`. Of another worker's process they
    #: are all that is sent.
    rows: bytes
    first: int
    width: int
    #: What goes into a key behind the hash, before the rank.
    salt: bytes
    #: Blocks of the sequence before the first of these.
    position: int
    #: 64 bits that name the sequence.
    chain: int
    #: For saves that have one: the hash of the block before the first.
    parent: bytes | None = None
    #: When the blocks will be used again, if the request says it.
    hint: Any = None
    begin: int = 0
    #: Unless said otherwise, all that there are.
    count: int = -1

    def __post_init__(self) -> None:
        if self.count < 0:
            self.count = len(self.ids) - self.begin

    def some_ids(self, at: int, count: int) -> list[int]:
        """Of `count` blocks from number `at` of this move on."""
        return self.ids[self.begin + at : self.begin + at + count]

    @property
    def block_ids(self) -> list[int]:
        """All of them."""
        return self.some_ids(0, self.count)

    def hashes(self, suffix: bytes, at: int, count: int) -> forebay.Hashes:
        """Those of `count` blocks from number `at` of this move on."""
        return forebay.Hashes(self.rows, self.width, suffixes=(suffix,), first=self.first + at, count=count)

    def __reduce__(self) -> tuple[Any, ...]:
        # Rows are shared inside a process; only what is meant goes to another one.
        mine = self.rows[self.first * self.width : (self.first + self.count) * self.width]
        return Move, (self.request, self.block_ids, mine, 0, self.width, self.salt, self.position, self.chain, self.parent, self.hint)


def suffix_of(salt: bytes, rank: int, world: int) -> bytes:
    """What the key of a rank's part of a block has behind its hash."""
    return salt if world == 1 else salt + rank.to_bytes(4, "big")


@dataclass
class Step(KVConnectorMetadata):
    """What is to be done in one step of the engine."""

    #: The scheduler's, from which the worker opens the same namespace: a worker that made its own might make another one.
    fingerprint: dict[str, str] = field(default_factory=dict)
    loads: list[Move] = field(default_factory=list)
    saves: list[Move] = field(default_factory=list)


@dataclass
class Stored(KVConnectorWorkerMetadata):
    """Blocks that a worker's puts have brought in, as (request, position of the block in it)."""

    blocks: set[tuple[str, int]] = field(default_factory=set)
    loaded: int = 0
    load_failed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    #: Loads that brought all they were asked for: seconds, and of these, on the engine's own thread.
    loads: dict[str, tuple[float, float]] = field(default_factory=dict)
    #: Requests whose loads did not.
    failed: set[str] = field(default_factory=set)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """A block is there when every rank's part of it is."""
        assert isinstance(other, Stored)
        outcomes = dict(self.outcomes)
        for name, count in other.outcomes.items():
            outcomes[name] = outcomes.get(name, 0) + count
        # A load is over when the slowest rank's is.
        loads = dict(self.loads)
        for name, (seconds, stall_s) in other.loads.items():
            mine = loads.get(name, (0.0, 0.0))
            loads[name] = (max(mine[0], seconds), max(mine[1], stall_s))
        return Stored(
            self.blocks & other.blocks,
            self.loaded + other.loaded,
            self.load_failed + other.load_failed,
            outcomes,
            loads,
            # One rank's failure fails the load.
            self.failed | other.failed,
        )
