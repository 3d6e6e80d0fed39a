"""SGLang's own host pools and cache controller, put up on the CPU: shared by the tests and by the programs that they run.

What a running server would have published (parallel widths, of one rank here) is stated; the pools, the controller, its threads and queues, the
factory and the hashes are SGLang's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Its hashes are compiled when they are first asked for, with the ninja of this environment.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

import torch
import torch.distributed
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, MLATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.pool_host.mla import MLATokenToKVPoolHost
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory
from sglang.srt.runtime_context import get_parallel

#: Tokens of a page.
PAGE = 16
PATIENCE_S = 60.0
EXTRA = {"backend_name": "forebay", "module_path": "forebay.integrations.sglang", "class_name": "ForebayHiCache", "interface_v1": 1}


def mha(layout: str, *, tokens: int = 512, layers: int = 4, heads: int = 2, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A host pool of a model with attention of many heads."""
    device = MHATokenToKVPool(
        size=256, page_size=PAGE, dtype=dtype, head_num=heads, head_dim=32, layer_num=layers, device="cpu", enable_memory_saver=False
    )
    return _host(MHATokenToKVPoolHost, device, layout, tokens, layers)


def mla(layout: str, *, tokens: int = 512, layers: int = 4) -> Any:
    """A host pool of a model with latent attention, whose KV all ranks have alike."""
    device = MLATokenToKVPool(
        size=256, page_size=PAGE, dtype=torch.bfloat16, kv_lora_rank=64, qk_rope_head_dim=16, layer_num=layers, device="cpu", enable_memory_saver=False
    )
    return _host(MLATokenToKVPoolHost, device, layout, tokens, layers, target_layer_num=layers)


def _host(kind: type, device: Any, layout: str, tokens: int, layers: int, **more: Any) -> Any:
    (info,) = device.get_device_pool_infos()
    host = kind(
        info.buffer_info, 1.0, 0, PAGE, layout, pin_memory=False, device_capacity_tokens=tokens, start_layer=0, end_layer=layers, **more
    )
    # It speaks of the device's pool and takes no hold of it.
    host.of_device = device
    return host


def hashes(count: int, seed: int = 0) -> list[str]:
    """What SGLang calls its pages."""
    return [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(count)]


def pages_of(pool: Any, indices: torch.Tensor) -> list[torch.Tensor]:
    """Copies of pages, as the pool itself gives them."""
    return [pool.get_data_page(int(index)).clone() for index in indices[::PAGE]]


def config(**more: Any) -> HiCacheStorageConfig:
    """What the controller tells a backend."""
    plain = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1, "is_mla_model": False}
    named = {"enable_storage_metrics": False, "is_page_first_layout": True, "model_name": "a/model"}
    return HiCacheStorageConfig(**{**plain, **named, **more})


def backend(node: Any, pool: Any, **more: Any) -> Any:
    """The backend, from SGLang's factory, with a pool."""
    # No machine is too slow for these deadlines.
    extra = {**EXTRA, "address": node.address, "weights_digest": "one", "lookup_deadline_ms": 20_000, "transfer_deadline_ms": 60_000}
    for name in ("weights_digest", "weights", "transfer_deadline_ms", "lookup_deadline_ms", "strict", "region_bytes", "quota", "adress"):
        if name in more:
            extra[name] = more.pop(name)
    store = StorageBackendFactory.create_backend("dynamic", config(extra_config=extra, **more), pool)
    store.register_mem_pool_host(pool)
    store.on_host_pools_registered()
    return store


def from_command(command: str, node: Any, pool: Any) -> Any:
    """The backend as a server's command line configures it; of that the address is changed and a digest named."""
    words = shlex.split(command.replace("\\\n", " "))
    given = {word: words[at + 1] for at, word in enumerate(words[:-1]) if word.startswith("--")}
    assert given["--hicache-storage-backend"] == "dynamic" and "--enable-hierarchical-cache" in words
    assert given["--hicache-mem-layout"] == pool.layout
    extra = json.loads(given["--hicache-storage-backend-extra-config"])
    assert extra["interface_v1"] and extra["address"].startswith("unix:")
    extra |= {"address": node.address, "weights_digest": "one"}
    store = StorageBackendFactory.create_backend("dynamic", config(extra_config=extra), pool)
    store.register_mem_pool_host(pool)
    return store


@contextlib.contextmanager
def world(folder: Path, rank: int = 0, size: int = 1) -> Iterator[None]:
    """What a server sets up before its cache: process groups, and who this rank is."""
    store = torch.distributed.FileStore(str(folder / "ranks"), size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    one = {"pp_rank": 0, "pp_size": 1, "attn_dp_rank": 0, "attn_dp_size": 1, "attn_dcp_rank": 0, "attn_dcp_size": 1}
    try:
        with get_parallel().override(tp_rank=rank, tp_size=size, attn_tp_rank=rank, attn_tp_size=size, **one):
            yield
    finally:
        torch.distributed.destroy_process_group()


class _Allocator:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def get_kvcache(self) -> Any:
        return self._pool


def controller(node: Any, pool: Any) -> Any:
    """The controller of one rank, attached to the node."""
    from sglang.srt.managers.cache_controller import HiCacheController

    return HiCacheController(
        _Allocator(pool.of_device),
        pool,
        PAGE,
        torch.distributed.group.WORLD,
        threading.Event(),
        io_backend="direct",
        storage_backend="dynamic",
        model_name="a/model",
        storage_backend_extra_config={**EXTRA, "address": node.address, "weights_digest": "one"},
    )


def write(of: Any, tokens: list[int], indices: torch.Tensor) -> int:
    """Stores pages as the server's tree does; tokens that are stored."""
    of.write_storage(indices, tokens, of.get_hash_str(tokens, page_size=PAGE))
    return of.ack_backup_queue.get(timeout=PATIENCE_S).completed_tokens


def prefetch(of: Any, tokens: list[int]) -> torch.Tensor:
    """Prefetches a prompt as the server's tree does; indices of what came, which is the least of what all ranks have."""
    of.prefetch("a request", tokens)
    found = of.prefetch_hit_queue.get(timeout=PATIENCE_S)
    found.host_indices = of.mem_pool_host.alloc(found.storage_hit_count)
    of.prefetch_buffer.put(found)
    completed = 0
    while True:
        ack = of.ack_prefetch_queue.get(timeout=PATIENCE_S)
        if ack.completed_req:
            break
        completed = ack.completed_tokens
    of.mem_pool_host.free(found.host_indices[completed:])
    return found.host_indices[:completed]
