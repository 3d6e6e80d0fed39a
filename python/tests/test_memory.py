"""Memory is shared, not copied: blocks, owned regions, and the engine's own buffers."""

from __future__ import annotations

import gc
import mmap
import os

import numpy as np
import pytest

import forebay
from forebay import Miss, Stored

MIB = 1 << 20


def test_a_block_is_seen_without_a_copy_and_lives_as_long_as_a_view(space: forebay.Namespace) -> None:
    key, content = space.key(b"view"), os.urandom(100_000)
    space.put([key], [content])
    (block,) = space.get([key])
    assert isinstance(block, forebay.Block) and len(block) == 100_000
    by_buffer = np.frombuffer(block, np.uint8)
    by_dlpack = np.from_dlpack(block)
    assert by_buffer.ctypes.data == by_dlpack.ctypes.data
    assert by_buffer.flags.writeable and block.__dlpack_device__() == (1, 0)
    by_buffer[0] ^= 255
    assert by_dlpack[0] == content[0] ^ 255 and memoryview(block)[0] == content[0] ^ 255
    del block, by_buffer
    gc.collect()
    # Ten more gets land elsewhere while the tensor lives.
    for _ in range(10):
        space.get([key])
    assert by_dlpack[1:].tobytes() == content[1:]


def test_a_dlpack_capsule_nobody_takes_is_freed(space: forebay.Namespace, client: forebay.Client) -> None:
    key = space.key(b"capsule")
    space.put([key], [os.urandom(MIB)])
    for _ in range(1000):
        (block,) = space.get([key])
        assert isinstance(block, forebay.Block)
        block.__dlpack__()
        block.__dlpack__(max_version=(1, 0))
    # Were one of them leaked, its memory would be too: 1,000 MiB in a client of 256.
    assert client.stats()["no_room"] == 0


def test_dlpack_refuses_what_it_cannot_do(space: forebay.Namespace) -> None:
    region = forebay.Region.borrow(b"read-only")
    with pytest.raises(BufferError, match="read-only"):
        region.__dlpack__()
    assert not np.from_dlpack(region).flags.writeable
    key = space.key(b"refuses")
    space.put([key], [b"x"])
    (block,) = space.get([key])
    for wrong in [{"stream": 1}, {"dl_device": (2, 0)}, {"copy": True}]:
        with pytest.raises(BufferError):
            block.__dlpack__(**wrong)  # type: ignore[union-attr]


def test_blocks_are_copied_into_the_callers_memory(space: forebay.Namespace) -> None:
    rows = space.keys([b"into 0", b"into 1", b"into 2", b"not there"])
    contents = [os.urandom(n) for n in (5000, 70_000, 200_000)]
    space.put(rows[:48], contents)
    pool = np.zeros((4, 200_000), np.uint8)
    answers = space.get(rows, into=list(pool))
    assert answers == [5000, 70_000, 200_000, Miss.ABSENT]
    for row, content in zip(pool, contents, strict=False):
        assert row[: len(content)].tobytes() == content
    small = [bytearray(5000), bytearray(10)]
    done, short = space.get(rows[:32], into=small)
    assert done == 5000 and bytes(small[0]) == contents[0]
    assert short == forebay.TooSmall(70_000) and not short


def test_memory_that_blocks_cannot_go_to_is_refused(space: forebay.Namespace) -> None:
    rows = space.keys([b"a", b"b"])
    pool = bytearray(100)
    for wrong, words in [
        ([b"read-only", bytearray(9)], "read-only"),
        ([memoryview(pool)[:60], memoryview(pool)[50:]], "overlap"),
        ([pool], "2 keys and 1 buffers"),
    ]:
        with pytest.raises(forebay.InvalidArgument, match=words):
            space.get(rows, into=wrong)
    with pytest.raises(BufferError, match="contiguous"):
        space.put(rows[:16], [np.zeros((4, 4))[:, 1]])
    with pytest.raises(TypeError):
        space.put(rows[:16], [12])  # type: ignore[list-item]


def test_an_owned_region_is_put_from_where_it_is(client: forebay.Client, space: forebay.Namespace) -> None:
    region = client.region(4 * MIB)
    assert region.is_owned and len(region) == region.nbytes == 4 * MIB
    pool = np.frombuffer(region, np.uint8).reshape(4, MIB)
    pool[:] = np.random.default_rng(1).integers(0, 256, pool.shape, np.uint8)
    rows = space.keys(f"owned {n}".encode() for n in range(4))
    # As NumPy rows, as memoryviews and as spans: the same places of the region.
    assert space.put(rows[:16], [pool[0]]) == [Stored.CACHED]
    assert space.put(rows[16:32], [region.view(MIB, MIB)]) == [Stored.CACHED]
    assert space.put(rows[32:], region.spans([2 * MIB, 3 * MIB], MIB)) == [Stored.CACHED] * 2
    for block, row in zip(space.get(rows), pool, strict=True):
        assert bytes(block) == row.tobytes()  # type: ignore[arg-type]
    with pytest.raises(forebay.InvalidArgument, match="not inside"):
        region.view(4 * MIB - 1, 2)
    with pytest.raises(forebay.InvalidArgument, match="not inside"):
        region.spans([0, 4 * MIB], 1)


def test_a_region_holds_its_memory_while_it_is_seen_and_not_longer(shared_node) -> None:  # type: ignore[no-untyped-def]
    client = forebay.Client(shared_node.address, region_bytes=16 * MIB)
    view = memoryview(client.region(9 * MIB))
    with pytest.raises(forebay.RegionFull, match="region_bytes"):
        client.region(9 * MIB)
    view.release()
    assert client.region(9 * MIB).nbytes == 9 * MIB


def test_an_engines_pool_is_borrowed_whatever_its_shape(space: forebay.Namespace) -> None:
    with mmap.mmap(-1, 8 * 65_536) as pool:
        # As engines give it: two dimensions, signed bytes.
        view = memoryview(pool).cast("b", (8, 65_536))
        region = forebay.Region.borrow(view)
        assert not region.is_owned and region.nbytes == 8 * 65_536
        flat = np.frombuffer(region, np.uint8)
        flat[:] = np.random.default_rng(2).integers(0, 256, flat.shape, np.uint8)
        before = flat.tobytes()
        rows = space.keys(f"chunk {n}".encode() for n in range(3))
        places = region.spans([0, 3 * 65_536, 7 * 65_536], 65_536)
        assert len(places) == 3 and places.regions == [region]
        assert space.put(rows, places) == [Stored.CACHED] * 3
        flat[:] = 0
        assert space.get(rows, into=places) == [65_536] * 3
        for chunk in range(8):
            span = slice(chunk * 65_536, (chunk + 1) * 65_536)
            assert flat[span].tobytes() == (before[span] if chunk in (0, 3, 7) else bytes(65_536)), chunk
        del flat, places, region
        view.release()


def test_a_page_in_several_tensors_is_one_block(space: forebay.Namespace) -> None:
    # As engines keep them: keys in one tensor, values in another, scales that are shorter, and memory between.
    chance = np.random.default_rng(4)
    pools = [chance.integers(0, 256, 10 * step, np.uint8) for step in (70_000, 70_000, 100)]
    steps = [70_000, 70_000, 100]
    pages = [7, 2, 5]
    before = [pool.copy() for pool in pools]
    regions = [forebay.Region.borrow(pool) for pool in pools]
    parts = [region.spans([page * step for page in pages], step) for region, step in zip(regions, steps, strict=True)]
    places = forebay.Spans.joined(*parts)
    assert len(places) == 3 and places.regions == regions
    rows = space.keys(f"page {page}".encode() for page in pages)
    assert space.put(rows, places) == [Stored.CACHED] * 3
    for block, page in zip(space.get(rows), pages, strict=True):
        want = b"".join(pool[page * step : (page + 1) * step].tobytes() for pool, step in zip(before, steps, strict=True))
        assert bytes(block) == want  # type: ignore[arg-type]
    for pool in pools:
        pool[:] = 0
    assert space.get(rows, into=places) == [140_100] * 3
    for pool, was, step in zip(pools, before, steps, strict=True):
        for page in range(10):
            span = slice(page * step, (page + 1) * step)
            assert pool[span].tobytes() == (was[span].tobytes() if page in pages else bytes(step)), page
    with pytest.raises(forebay.InvalidArgument, match=r"3, 1"):
        forebay.Spans.joined(parts[0], regions[1].spans([0], 10))
    with pytest.raises(forebay.InvalidArgument, match="overlap"):
        space.get(rows, into=forebay.Spans.joined(parts[0], parts[0]))
    short = forebay.Spans.joined(parts[0], parts[2])
    assert space.get(rows, into=short) == [forebay.TooSmall(140_100)] * 3
