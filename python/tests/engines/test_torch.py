"""Blocks and regions as tensors of torch, which is where engines are. Nothing is copied on the way."""

from __future__ import annotations

import torch
from support import PATIENCE_S, Node

import forebay
from forebay import Stored


def test_torch_sees_the_same_memory(node: Node) -> None:
    client = forebay.Client(node.address, deadline_ms=1000 * PATIENCE_S)
    space = client.namespace("torch", create=True)
    numbers = torch.arange(10_000, dtype=torch.int32)
    key = space.key(b"torch")
    # A tensor goes in as it is, by the buffer that NumPy shows of it.
    assert space.put([key], [numbers.numpy()]) == [Stored.CACHED]
    (block,) = space.get([key])
    assert isinstance(block, forebay.Block)
    by_buffer, by_dlpack = torch.frombuffer(block, dtype=torch.int32), torch.from_dlpack(block)
    assert torch.equal(by_buffer, numbers) and by_dlpack.dtype == torch.uint8 and by_dlpack.shape == (40_000,)
    assert by_dlpack.data_ptr() == by_buffer.data_ptr() == torch.frombuffer(memoryview(block), dtype=torch.uint8).data_ptr()
    # Written through one, read through the other; and the memory is the tensor's as long as there is one.
    by_dlpack[:4] = 255
    assert by_buffer[0] == -1
    del block, by_buffer
    for _ in range(10):
        space.get([key])
    assert torch.equal(by_dlpack[4:].view(torch.int32), numbers[1:])


def test_a_region_is_a_tensor_that_blocks_are_put_from_and_got_into(node: Node) -> None:
    client = forebay.Client(node.address, deadline_ms=1000 * PATIENCE_S)
    space = client.namespace("torch", create=True)
    row_bytes = 65_536
    rows = space.keys([b"row 0", b"row 1", b"row 2"])
    owned = client.region(4 * row_bytes)
    pool = torch.from_dlpack(owned).view(4, row_bytes)
    pool[:] = torch.randint(0, 256, pool.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert space.put(rows, owned.spans([0, row_bytes, 3 * row_bytes], row_bytes)) == [Stored.CACHED] * 3
    # The engine's own memory: a tensor, borrowed.
    cache = torch.zeros(8, row_bytes, dtype=torch.uint8)
    region = forebay.Region.borrow(cache.numpy())
    assert torch.from_dlpack(region).data_ptr() == cache.data_ptr()
    assert space.get(rows, into=region.rows(torch.tensor([6, 1, 3]).numpy(), row_bytes)) == [row_bytes] * 3
    for at, row in ((6, 0), (1, 1), (3, 3)):
        assert torch.equal(cache[at], pool[row])
    assert int(cache[[0, 2, 4, 5, 7]].max()) == 0
