"""SGLang's storage interface is the one that the backend was written against, and the table of versions is true: see signatures.py."""

from __future__ import annotations

import inspect
from typing import Any

import signatures
from forebay.integrations.sglang import ForebayHiCache
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolTransfer,
    PoolTransferResult,
)
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory
from sglang.srt.observability.metrics_collector import StorageMetrics

HOOKS: list[tuple[str, type, type]] = [("ForebayHiCache", HiCacheStorage, ForebayHiCache)]
VALUES: list[Any] = [
    *(HiCacheStorageConfig, HiCacheStorageExtraInfo, PoolHitPolicy, PoolTransfer, PoolTransferResult, StorageMetrics),
    StorageBackendFactory._create_dynamic_backend,
]


def test_the_interface_is_the_one_the_backend_was_written_against() -> None:
    signatures.check("sglang", signatures.interface(HOOKS, VALUES))


def test_each_method_takes_what_the_interface_gives_it() -> None:
    signatures.check_arguments(HOOKS)
    assert not inspect.isabstract(ForebayHiCache)


def test_the_document_names_the_version_that_is_tested() -> None:
    signatures.check_row("SGLang", "sglang", "sglang", "sglang.ForebayHiCache", "`HiCacheStorage`, `interface_v1` and v2")
