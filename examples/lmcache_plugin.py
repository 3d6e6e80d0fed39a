"""LMCache's own L2 adapter over Forebay, without a server: chunks are stored, and found by the next run.

    forebay serve --data /tmp/forebay --capacity 1GiB --memory 256MiB --socket /tmp/forebay.sock
    python examples/lmcache_plugin.py --connect unix:/tmp/forebay.sock
    python examples/lmcache_plugin.py --connect unix:/tmp/forebay.sock     # finds them

The adapter, its keys and its memory are LMCache's, as in its server; what a server adds is docs/engines/lmcache.md.
"""

from __future__ import annotations

import argparse
import os
import select
from collections.abc import Callable
from typing import Any

import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.l2_adapters.native_plugin_l2_adapter import NativePluginL2AdapterConfig, _create_native_plugin_l2_adapter
from lmcache.v1.memory_allocators.ad_hoc_memory_allocator import AdHocMemoryAllocator

#: Keys and values, layers, tokens, values of a token.
CHUNKS, SHAPE = 8, torch.Size([2, 8, 256, 128])


def answered(fd: int, ask: Callable[[], Any]) -> Any:
    """Waits for the descriptor, as LMCache's server does."""
    select.select([fd], [], [])
    os.read(fd, 8)
    return ask()


def main() -> None:
    """Stores chunks, or loads them if they are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connect", default=None, help="address of the node; FOREBAY_CONNECT or the default socket if left out")
    asked = parser.parse_args()
    params = {"address": asked.connect, "weights_digest": "random numbers of seed 1"}
    config = {"module_path": "forebay.integrations.lmcache", "class_name": "LmcacheClient", "adapter_params": params}
    adapter = _create_native_plugin_l2_adapter(NativePluginL2AdapterConfig.from_dict(config))

    memory = AdHocMemoryAllocator("cpu")
    chunks = [memory.allocate(SHAPE, torch.bfloat16) for _ in range(CHUNKS)]
    keys = [ObjectKey(bytes([number]) * 16, "example", 0) for number in range(CHUNKS)]
    task = adapter.submit_lookup_and_lock_task(keys, {0: MemoryLayoutDesc([SHAPE], [torch.bfloat16])})
    seen = answered(adapter.get_lookup_and_lock_event_fd(), lambda: adapter.query_lookup_and_lock_result(task))
    found = sum(seen.test(number) for number in range(CHUNKS))
    print(f"{found} of {CHUNKS} chunks were there")
    if found == CHUNKS:
        task = adapter.submit_load_task(keys, chunks)
        loaded = answered(adapter.get_load_event_fd(), lambda: adapter.query_load_result(task))
        assert all(loaded.test(number) for number in range(CHUNKS)), "what was found was gone"
    else:
        chance = torch.Generator().manual_seed(1)
        for chunk in chunks:
            chunk.tensor.copy_(torch.randn(SHAPE, generator=chance))
        task = adapter.submit_store_task(keys, chunks)
        stored = answered(adapter.get_store_event_fd(), adapter.pop_completed_store_tasks)
        assert stored[task].is_successful(), "not all chunks were kept: is the node there, and is there room?"
    print(f"the first chunk begins with {chunks[0].tensor.flatten()[:3].tolist()}")
    adapter.close()
    for chunk in chunks:
        chunk.ref_count_down()


if __name__ == "__main__":
    main()
