"""SGLang's hierarchical cache over Forebay, without a server: pages of a host pool are stored, and found by the next run.

    forebay serve --data /tmp/forebay --capacity 1GiB --memory 256MiB --socket /tmp/forebay.sock
    python examples/sglang_hicache.py --connect unix:/tmp/forebay.sock
    python examples/sglang_hicache.py --connect unix:/tmp/forebay.sock     # finds them

The pool, its layout and the factory that loads the backend are SGLang's, as in a server; what a server adds is docs/engines/sglang.md.
"""

from __future__ import annotations

import argparse
import hashlib

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageConfig
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.mem_cache.pool_host.mha import MHATokenToKVPoolHost
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

PAGE, PAGES, LAYERS = 64, 8, 8


def main() -> None:
    """Stores pages, or loads them if they are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--connect", default=None, help="address of the node; FOREBAY_CONNECT or the default socket if left out")
    asked = parser.parse_args()
    device = MHATokenToKVPool(
        size=1024, page_size=PAGE, dtype=torch.bfloat16, head_num=8, head_dim=64, layer_num=LAYERS, device="cpu", enable_memory_saver=False
    )
    (info,) = device.get_device_pool_infos()
    pool = MHATokenToKVPoolHost(
        info.buffer_info, 1.0, 0, PAGE, "page_first", pin_memory=False, device_capacity_tokens=1024, start_layer=0, end_layer=LAYERS
    )
    extra = {"backend_name": "forebay", "module_path": "forebay.integrations.sglang", "class_name": "ForebayHiCache", "interface_v1": 1}
    extra |= {"address": asked.connect, "weights_digest": "random numbers of seed 1"}
    config = HiCacheStorageConfig(0, 1, 0, 1, 0, 1, False, False, True, "example", extra_config=extra)
    store = StorageBackendFactory.create_backend("dynamic", config, pool)
    store.register_mem_pool_host(pool)

    indices = pool.alloc(PAGES * PAGE)
    keys = [hashlib.sha256(f"page {number}".encode()).hexdigest() for number in range(PAGES)]
    found = store.batch_exists(keys)
    print(f"{found} of {PAGES} pages were there")
    if found == PAGES:
        assert all(store.batch_get_v1(keys, indices)), "what was found is held for the load"
    else:
        pool.kv_buffer.copy_(torch.randn(pool.kv_buffer.shape, generator=torch.Generator().manual_seed(1)))
        assert all(store.batch_set_v1(keys, indices)), "not all pages were kept: is there room?"
    page = pool.get_data_page(int(indices[0])).float()
    print(f"the first page begins with {page[:3].tolist()}")
    store.close()


if __name__ == "__main__":
    main()
