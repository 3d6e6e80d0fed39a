"""SGLang: a storage backend of its hierarchical cache (HiCache), for pages that host memory has let go.

    --enable-hierarchical-cache --hicache-mem-layout page_first --hicache-storage-backend dynamic
    --hicache-storage-backend-extra-config '{"backend_name": "forebay", "module_path": "forebay.integrations.sglang",
        "class_name": "ForebayHiCache", "interface_v1": 1, "address": "unix:/run/user/1000/forebay.sock"}'

A page of a host pool is one block, in whatever tensors it lies. Nothing here raises into the engine or holds it past a deadline: what fails is a
miss or a page that is not stored.
"""

from forebay.integrations.sglang.backend import ForebayHiCache

__all__ = ["ForebayHiCache"]
