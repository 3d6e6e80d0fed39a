"""Memory that the engine lends: blocks come into places of it, and no place is the engine's while something may write there."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Node

import forebay
from forebay import Miss, Stored
from forebay.aio import AsyncClient

MIB = 1 << 20
ROOM = forebay.LentMemory.room_for(MIB)


class Pool:
    """The engine's memory: places for `count` blocks of 1 MiB, mapped by the engine itself."""

    def __init__(self, count: int) -> None:
        self.nbytes = count * ROOM
        self.fd = os.memfd_create("engine", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.nbytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.own = mmap.mmap(self.fd, self.nbytes)

    def lend(self, client: forebay.Client, how: str) -> forebay.LentMemory:
        return client.lend(self.fd, self.nbytes, how=how)  # type: ignore[arg-type]


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(4)
    yield pool
    os.close(pool.fd)


@pytest.fixture
def landing_node(place: Callable[[], Path]) -> Iterator[Node]:
    node = Node(place(), "--landing", "direct")
    yield node
    node.kill()


def test_blocks_land_in_the_engines_memory(landing_node: Node, pool: Pool) -> None:
    contents = [os.urandom(MIB) for _ in range(4)]
    client = forebay.Client(landing_node.address, deadline_ms=60_000)
    space = client.namespace("kept", create=True, cls="durable")
    rows = space.keys(str(n).encode() for n in range(4))
    assert space.put(rows, contents) == [Stored.DURABLE] * 4
    # What was put lies in DRAM; after a start it lies on the drive alone.
    landing_node.kill()
    landing_node.start()
    client = forebay.Client(landing_node.address, deadline_ms=60_000, block_bytes_hint=MIB)
    space = client.namespace("kept")
    for how in ("direct", "copied"):
        pool.own[:] = bytes(pool.nbytes)
        memory = pool.lend(client, how)
        places = [memory.place(n * ROOM, ROOM) for n in range(4)]
        assert space.get_lent(rows, places) == [MIB] * 4
        for n, content in enumerate(contents):
            assert pool.own[n * ROOM : n * ROOM + MIB] == content
            assert np.frombuffer(places[n], np.uint8)[:MIB].tobytes() == content
        assert not any(place.is_withheld for place in places) and memory.withheld_nbytes == 0
    stats = client.stats()
    assert stats["lent_landings"]["direct"] == 4, stats
    assert (stats["lent_copied"], stats["lent_withheld"]) == (4, 0)
    assert client.node_stats()["landing_lent"]["direct"] == 4


def test_a_place_has_one_owner(client: forebay.Client, space: forebay.Namespace, pool: Pool) -> None:
    key, content = space.key(b"held"), os.urandom(5000)
    space.put([key], [content])
    memory = pool.lend(client, "copied")
    place = memory.place(8192, 8192)
    assert (place.offset, place.nbytes, len(place)) == (8192, 8192, 8192)
    for offset, nbytes in [(8192, 1), (12_288, 1), (0, MIB), (1, 10), (pool.nbytes, 1), (0, pool.nbytes + 1)]:
        with pytest.raises(forebay.InvalidArgument):
            memory.place(offset, nbytes)
    # What is looked at cannot be landed in, nor can one place take two blocks.
    with memoryview(place) as view, pytest.raises(forebay.InvalidArgument, match="looked at"):
        view[0] = 7
        space.get_lent([key], [place])
    assert pool.own[8192] == 7
    with pytest.raises(forebay.InvalidArgument, match="in a call"):
        space.get_lent([key, key], [place, place])
    with pytest.raises(forebay.InvalidArgument, match="1 keys and 0 places"):
        space.get_lent([key], [])
    # None of that took it away.
    assert space.get_lent([key], [place]) == [5000]
    assert memoryview(place)[:5000] == content
    small = memory.place(0, 4096)
    assert space.get_lent([key, b"0" * 16], [small, place]) == [forebay.TooSmall(5000), Miss.ABSENT]
    del place, small
    assert memory.place(0, pool.nbytes).nbytes == pool.nbytes


def test_only_sealed_memory_can_be_lent(client: forebay.Client, tmp_path: Path) -> None:
    fd = os.memfd_create("loose")
    os.ftruncate(fd, MIB)
    for wrong, nbytes in [(fd, MIB), (-1, MIB), (10_000, MIB)]:
        with pytest.raises(forebay.InvalidArgument):
            client.lend(wrong, nbytes)
    os.close(fd)
    with pytest.raises(forebay.InvalidArgument, match=r"copied.*direct"):
        client.lend(0, MIB, how="somehow")  # type: ignore[arg-type]


def test_what_a_stopped_node_may_still_write_is_withheld_until_it_is_back(landing_node: Node, pool: Pool) -> None:
    client = forebay.Client(landing_node.address, deadline_ms=60_000, block_bytes_hint=MIB)
    space = client.namespace("default")
    key, content = space.key(b"late"), os.urandom(MIB)
    space.put([key], [content])
    memory = pool.lend(client, "direct")
    place = memory.place(0, ROOM)
    assert space.get_lent([key], [place]) == [MIB]
    landing_node.stop()
    (answer,) = space.get_lent([key], [place], deadline_ms=200)
    assert answer in (Miss.DEADLINE, Miss.UNAVAILABLE) and place.is_withheld
    assert memory.withheld_nbytes == ROOM
    with pytest.raises(BufferError, match="withheld"):
        memoryview(place)
    with pytest.raises(forebay.InvalidArgument, match="withheld"):
        space.get_lent([key], [place])
    with pytest.raises(forebay.InvalidArgument):
        memory.place(0, ROOM)
    landing_node.signal(signal.SIGCONT)
    assert client.wait_reachable(60_000)
    end = time.monotonic() + 60
    while True:
        space.contains([key])
        try:
            again = memory.place(0, ROOM)
            break
        except forebay.InvalidArgument:
            assert time.monotonic() < end, "the place never came back"
    assert space.get_lent([key], [again]) == [MIB]
    assert pool.own[:MIB] == content


def test_coroutines_land_blocks_too(shared_node: Node, pool: Pool) -> None:
    async def run() -> None:
        client = await AsyncClient.connect(shared_node.address, deadline_ms=60_000)
        space = await client.namespace("default")
        key = space.blocking.key(b"by a coroutine")
        await space.put([key], [b"bytes"])
        place = pool.lend(client.blocking, "direct").place(0, 4096)
        assert await space.get_lent([key], [place]) == [5]
        assert memoryview(place)[:5] == b"bytes"

    asyncio.run(run())
