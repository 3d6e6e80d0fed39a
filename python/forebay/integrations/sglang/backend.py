"""The storage backend that SGLang's cache controller drives from its own threads: a few calls of up to 128 pages at a time.

Every rank asks for itself and the engine takes the least of what they say, so an answer is always of the right length and there by its deadline,
whatever the node does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, TypeVar

import torch
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
    PoolTransferResult,
)

import forebay
from forebay import Fingerprint
from forebay.integrations import _settings, _versions
from forebay.integrations._common import Link, Report
from forebay.integrations.sglang import identity
from forebay.integrations.sglang.pools import CannotServe, LentPool, flat
from forebay.integrations.sglang.touches import Touches

#: How long a question for pages may take.
LOOKUP_DEADLINE_MS = 250.0
#: How long a batch of pages may take, in either direction. The engine waits a second and a quarter for each page, and computes what has not come.
TRANSFER_DEADLINE_MS = 2000.0
#: How long found pages are held for the load that follows.
HOLD_MS = 10_000.0
#: Seconds between two lines about the same trouble.
SAY_AGAIN_S = 60.0
#: Pools whose bytes differ by rank also where the model's KV does not.
_SHARDED = ("MHATokenToKVPoolHost", "MHATokenToKOnlyPoolHost", "MambaPoolHost")

#: Of the backend's configuration: what SGLang leaves there for itself, and what is ours.
_OF_SGLANG = {"backend_name", "module_path", "class_name", "interface_v1"}
_SETTINGS: dict[str, _settings.Check] = {
    **_settings.LINK,
    "weights": _settings.text,
    "weights_digest": _settings.text,
    "lookup_deadline_ms": _settings.milliseconds,
    "transfer_deadline_ms": _settings.milliseconds,
    "strict": _settings.flag,
}

_LOGGER = logging.getLogger("forebay")
_T = TypeVar("_T")


class ForebayHiCache(HiCacheStorage):
    """A `dynamic` storage backend.

    Of `--hicache-storage-backend-extra-config`, beside `backend_name`, `module_path`, `class_name` and `interface_v1`:
        address: of the node; `FOREBAY_CONNECT` or the default socket if left out.
        token_file: with the credential for TCP; `FOREBAY_TOKEN_FILE` if left out.
        weights: the model's folder, where it is not the one that the server was started with; or `weights_digest`, a text that changes whenever
            the weights do, where they are not files on this machine.
        namespace, quota, ttl_s: as for the other adapters.
        lookup_deadline_ms, transfer_deadline_ms: see the module's constants.
        region_bytes: memory of the client for what is on its way.
        strict: raise at the start when the node is not there or pages cannot be kept, instead of serving without it.
    """

    def __init__(self, storage_config: HiCacheStorageConfig, kwargs: dict[str, Any] | None = None) -> None:
        del kwargs
        if _release() != "unknown":
            _versions.look("SGLang", _release())
        self._config = storage_config
        given = storage_config.extra_config or {}
        self._strict = given.get("strict") is True
        #: Nothing is kept where a setting cannot be.
        self._is_wrong = False
        extra = self._settings(given)
        self._lookup_ms: float = extra.get("lookup_deadline_ms", LOOKUP_DEADLINE_MS)
        self._transfer_ms: float = extra.get("transfer_deadline_ms", TRANSFER_DEADLINE_MS)
        self._options = {name: extra[name] for name in _settings.LINK if name in extra}
        self._weights: tuple[str | None, str | None] = (extra.get("weights"), extra.get("weights_digest"))
        self._served = identity.state()
        # Of pages that host memory has; where it is a buffer on the way to the storage, they are the node's alone.
        self._host_keeps = identity.argument("hicache_host_memory_mode") != "buffer_only"
        self._link: Link | None = None
        self._report: Report | None = None
        self._pools: dict[str, LentPool] = {}
        self._suffixes: dict[str, str] = {}
        self._kv_is_anchor_only = False
        self._touches = Touches(self._of_all_pools)
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        self._moved = {"prefetch_pgs": [], "backup_pgs": [], "prefetch_bandwidth": [], "backup_bandwidth": []}  # type: dict[str, list[Any]]

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        for name in sorted(set(given) - set(_SETTINGS) - _OF_SGLANG):
            _LOGGER.warning("forebay: --hicache-storage-backend-extra-config has %r, which Forebay does not know and ignores; it knows %s", name, ", ".join(_SETTINGS))
        try:
            return _settings.checked({name: value for name, value in given.items() if name in _SETTINGS}, _SETTINGS, "--hicache-storage-backend-extra-config")
        except forebay.InvalidArgument as error:
            if self._strict:
                raise
            _LOGGER.error("forebay: %s; all is computed", error)
            self._is_wrong = True
            return {}

    # Pools.

    def register_mem_pool_host(self, mem_pool_host: Any) -> None:
        """Borrows the memory of the KV pool, and opens the namespace for what it keeps."""
        self.mem_pool_host = mem_pool_host
        # A pool that only hands out indices: what there is to keep lies in the pools beside it.
        self._kv_is_anchor_only = getattr(mem_pool_host, "kv_buffer", None) is None
        if self._kv_is_anchor_only:
            self._connect(None)
            return
        pool = self._lend(mem_pool_host, str(PoolName.KV))
        if pool is not None:
            self._connect(pool)

    def register_mem_host_pool_v2(self, host_pool: Any, host_pool_name: Any) -> None:
        """Borrows the memory of a pool beside the KV."""
        super().register_mem_host_pool_v2(host_pool, host_pool_name)
        name = str(host_pool_name)
        if name not in self._pools and not (name == str(PoolName.KV) and self._kv_is_anchor_only):
            self._lend(host_pool, name)

    def _lend(self, host_pool: Any, name: str) -> LentPool | None:
        try:
            pool = LentPool(host_pool, name)
        except CannotServe as error:
            if self._strict:
                raise
            _LOGGER.error("forebay: %s; it is computed", error)
            return None
        self._pools[name] = pool
        self._suffixes[name] = f" {name} {pool.layout()} {self._shard(host_pool, name)}"
        return pool

    def _shard(self, host_pool: Any, name: str) -> str:
        """Which part of a page's bytes this rank has: what differs between ranks is never found by another."""
        config = self._config
        part = f"pp{config.pp_rank}/{config.pp_size} cp{config.attn_cp_rank}/{config.attn_cp_size} dcp{config.dcp_rank}/{config.dcp_size}"
        kinds = [kind.__name__ for kind in type(host_pool).__mro__]
        if not config.is_mla_model or name == str(PoolName.MAMBA) or any(kind in _SHARDED for kind in kinds):
            part += f" tp{config.tp_rank}/{config.tp_size}"
        return part

    def _connect(self, pool: LentPool | None) -> None:
        if self._is_wrong:
            return
        try:
            fingerprint = self._fingerprint(pool)
        except (CannotServe, OSError, ValueError) as error:
            if self._strict:
                raise
            _LOGGER.error("forebay: %s; all is computed", error)
            return
        self._link = Link(fingerprint, engine="sglang", strict=self._strict, logger=_LOGGER, **self._options)
        self._report = Report(self._link, _LOGGER)

    def _fingerprint(self, pool: LentPool | None) -> Fingerprint:
        config, (named, digest) = self._config, self._weights
        identity.refuse_what_is_not_seen(digest)
        model = str(identity.argument("model_path") or named or config.model_name or "")
        at = identity.folder(named, model)
        name = config.model_name or model or "named by its weights"
        layout = f"sglang hicache 1, release {_release()}, {pool.layout() if pool else 'pools by name'}, config {identity.config(at)}"
        shape = f"tp{1 if config.is_mla_model else config.tp_size} pp{config.pp_size} cp{config.attn_cp_size} dcp{config.dcp_size}"
        drafted = identity.draft(digest)
        return Fingerprint(
            # A folder by its last part, so that two paths to the same one share.
            model=(os.path.basename(os.path.normpath(name)) if os.path.exists(name) else name)[-200:],
            weights=identity.weights(model, at, digest)[:256],
            lora=identity.loras(digest),
            dtype=str(getattr(self.mem_pool_host, "dtype", "")).replace("torch.", ""),
            quant=identity.quant(digest),
            layout=layout,
            block_tokens=int(getattr(self.mem_pool_host, "page_size", 0)),
            hash="sglang sha256 chain",
            shape=f"{shape} draft {drafted}" if drafted else shape,
        )

    # Zero-copy: the KV pool.

    def batch_exists(self, keys: list[str], extra_info: HiCacheStorageExtraInfo | None = None) -> int:
        """How many of the first pages are there; they are held for the load that follows."""
        return self._answer(0, lambda space: self._leading(space, keys, str(PoolName.KV), extra_info))

    def batch_get_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None) -> list[bool]:
        """Loads pages; true for each that is whole and verified in the pool."""
        del extra_info
        return self._answer([False] * len(keys), lambda space: self._get(space, str(PoolName.KV), keys, host_indices))

    def batch_set_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None = None) -> list[bool]:
        """Stores pages; true for each that is kept now."""
        if not self._config.is_storage_writer:
            # Another rank has the same bytes and writes them.
            return [True] * len(keys)
        return self._answer([False] * len(keys), lambda space: self._put(space, str(PoolName.KV), keys, host_indices, extra_info))

    # Zero-copy: all pools.

    def batch_exists_v2(
        self, keys: list[str], pool_transfers: list[PoolTransfer] | None = None, extra_info: HiCacheStorageExtraInfo | None = None
    ) -> PoolTransferResult:
        """How long a prefix can be restored from all pools, what each has by itself, and every length that all have."""
        return self._answer(PoolTransferResult(0, {}, []), lambda space: self._restorable(space, keys, pool_transfers or [], extra_info))

    def batch_get_v2(self, transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None = None) -> dict[str, list[bool]]:
        """Loads pages of several pools."""
        del extra_info
        return self._each(transfers, lambda space, name, keys, indices: self._get(space, name, keys, indices))

    def batch_set_v2(self, transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None = None) -> dict[str, list[bool]]:
        """Stores pages of several pools."""

        def put(space: forebay.Namespace, name: str, keys: list[str], indices: torch.Tensor) -> list[bool]:
            return self._put(space, name, keys, indices, extra_info if name == str(PoolName.KV) else None)

        return self._each(transfers, put)

    def _each(
        self, transfers: list[PoolTransfer], make: Callable[[forebay.Namespace, str, list[str], torch.Tensor], list[bool]]
    ) -> dict[str, list[bool]]:
        results: dict[str, list[bool]] = {}
        for transfer in transfers:
            name, keys, indices = str(transfer.name), transfer.keys or [], transfer.host_indices
            missed = [False] * len(keys)
            results[transfer.name] = missed
            if keys and indices is not None:
                results[transfer.name] = self._answer(missed, lambda space, n=name, k=keys, i=indices: make(space, n, k, i))  # type: ignore[misc]
        return results

    def _leading(self, space: forebay.Namespace, keys: Sequence[str], name: str, extra_info: HiCacheStorageExtraInfo | None) -> int:
        if name not in self._pools:
            return 0
        self._touches.used(space, getattr(extra_info, "prefix_keys", None))
        self._touches.known(keys)
        found = space.match_prefix(self._keys(space, keys, name), hold_ms=HOLD_MS, deadline_ms=self._lookup_ms).n
        self._count(asked=len(keys), hits=found)
        return found

    def _restorable(
        self, space: forebay.Namespace, keys: list[str], transfers: list[PoolTransfer], extra_info: HiCacheStorageExtraInfo | None
    ) -> PoolTransferResult:
        pages = len(keys) if self._kv_is_anchor_only else self._leading(space, keys, str(PoolName.KV), extra_info)
        hits: dict[str, int] = {PoolName.KV: pages} if pages else {}
        lengths = set(range(1, pages + 1))
        for transfer in transfers:
            if not lengths:
                break
            name = str(transfer.name)
            if transfer.hit_policy == PoolHitPolicy.BLOCK_GROUPS:
                # A second form of pages that are there anyway: it says how far it goes, and holds nothing back.
                boundary = self._whole_groups(space, transfer, keys[:pages])
            else:
                there = self._present(space, keys[:pages], name)
                mine = _lengths(there, transfer)
                boundary = max(mine, default=0)
                lengths &= mine
            if boundary:
                hits[transfer.name] = boundary
        restorable = sorted(lengths)
        return PoolTransferResult(restorable[-1] if restorable else 0, hits, restorable)

    def _present(self, space: forebay.Namespace, keys: Sequence[str], name: str) -> list[bool]:
        if name not in self._pools or not keys:
            return [False] * len(keys)
        return [bool(seen) for seen in space.contains(self._keys(space, keys, name), deadline_ms=self._lookup_ms)]

    def _whole_groups(self, space: forebay.Namespace, transfer: PoolTransfer, keys: list[str]) -> int:
        """Pages that the first complete groups of keys stand for: a group for each block of pages, at the block's beginning unless said."""
        block, group = transfer.block_pages, transfer.group_pages
        if block <= 0 or group <= 0:
            return 0
        blocks = len(keys) // block
        of_groups = transfer.keys or [key for first in range(blocks) for key in keys[first * block : first * block + group]]
        there = self._present(space, of_groups, str(transfer.name))
        whole = 0
        while whole < blocks and len(there) >= (whole + 1) * group and all(there[whole * group : (whole + 1) * group]):
            whole += 1
        return whole * block

    # Pages.

    def _keys(self, space: forebay.Namespace, keys: Sequence[str], name: str) -> bytes:
        suffix = self._suffixes[name]
        return space.keys([(key + suffix).encode() for key in keys])

    def _places(self, name: str, keys: Sequence[str], host_indices: torch.Tensor) -> tuple[LentPool, forebay.Spans]:
        pool = self._pools.get(name)
        if pool is None:
            raise CannotServe(f"the pool {name!r} is not kept")
        if host_indices.numel() != len(keys) * pool.page_size:
            raise CannotServe(f"{len(keys)} pages of the pool {name!r} and {host_indices.numel()} indices do not belong together")
        return pool, pool.places(host_indices)

    def _get(self, space: forebay.Namespace, name: str, keys: list[str], host_indices: torch.Tensor) -> list[bool]:
        pool, places = self._places(name, keys, host_indices)
        begun = time.monotonic()
        answers = space.get(self._keys(space, keys, name), into=places, deadline_ms=self._transfer_ms)
        good = [answer == pool.page_nbytes for answer in answers]
        loaded = sum(good)
        self._count(loaded=loaded, load_failed=len(keys) - loaded)
        self._moved_pages("prefetch", loaded, loaded * pool.page_nbytes, time.monotonic() - begun)
        return good

    def _put(
        self, space: forebay.Namespace, name: str, keys: list[str], host_indices: torch.Tensor, extra_info: HiCacheStorageExtraInfo | None
    ) -> list[bool]:
        pool, places = self._places(name, keys, host_indices)
        begun = time.monotonic()
        chain: dict[str, Any] = {}
        before = getattr(extra_info, "prefix_keys", None)
        if before is not None:
            self._touches.used(space, before)
            self._touches.known(keys)
            first = self._keys(space, [(before or keys)[0]], name)
            chain = {"chain": int.from_bytes(first[:8], "little"), "position": len(before)}
            if before:
                chain["parent"] = self._keys(space, before[-1:], name)
        answers = space.put(
            self._keys(space, keys, name), places, tokens=pool.page_size, deadline_ms=self._transfer_ms, caller_keeps=self._host_keeps, **chain
        )
        if self._report is not None:
            self._report.put(answers)
        kept = [bool(answer) for answer in answers]
        self._moved_pages("backup", sum(kept), sum(kept) * pool.page_nbytes, time.monotonic() - begun)
        return kept

    def _of_all_pools(self, space: forebay.Namespace, keys: Sequence[str]) -> list[bytes]:
        return [self._keys(space, keys, name) for name in list(self._pools)]

    # The generic path, where `interface_v1` was left out: one page at a time, through tensors of the engine's.

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> torch.Tensor | None:
        """Fills a tensor with a page; None where there is none."""
        del target_sizes
        return self.batch_get([key], [target_location])[0]

    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[torch.Tensor | None]:
        """Fills tensors with pages."""
        del target_sizes

        def filled(space: forebay.Namespace) -> list[torch.Tensor | None]:
            places = [flat(target) for target in target_locations]
            answers = space.get(self._flat_keys(space, keys), into=places, deadline_ms=self._transfer_ms)
            good = [answer == len(place) for answer, place in zip(answers, places, strict=True)]
            self._count(loaded=sum(good), load_failed=len(good) - sum(good))
            return [target if got else None for target, got in zip(target_locations, good, strict=True)]

        nothing: list[torch.Tensor | None] = [None] * len(keys)
        return nothing if target_locations is None else self._answer(nothing, filled)

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        """Stores a page; true if it is kept now."""
        del target_location, target_sizes
        return self.batch_set([key], [value])

    def batch_set(self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None) -> bool:
        """Stores pages; true if all are kept now."""
        del target_locations, target_sizes
        if not self._config.is_storage_writer:
            return True

        def put(space: forebay.Namespace) -> bool:
            pages = [flat(value.contiguous()) for value in values]
            answers = space.put(self._flat_keys(space, keys), pages, deadline_ms=self._transfer_ms, caller_keeps=self._host_keeps)
            if self._report is not None:
                self._report.put(answers)
            return all(answers)

        return False if values is None else self._answer(False, put)

    def exists(self, key: str) -> bool:
        """Whether a page is there."""

        def found(space: forebay.Namespace) -> bool:
            return bool(space.contains(self._flat_keys(space, [key]), deadline_ms=self._lookup_ms)[0])

        return self._answer(False, found)

    def _flat_keys(self, space: forebay.Namespace, keys: Sequence[str]) -> bytes:
        """Of pages as one tensor, whose bytes may be in another order than the pool's."""
        suffix = " flat" + self._suffixes.get(str(PoolName.KV), "")
        return space.keys([(key + suffix).encode() for key in keys])

    # The rest.

    def clear(self) -> bool:
        """Forgets what this model has stored, for all engines that share it. False where the node did not do it."""
        link = self._link
        if link is None or link.client is None or link.namespace is None:
            return False
        try:
            link.client.delete_namespace(link.name)
            link.reopen()
        except forebay.ForebayError as error:
            self._say("clear", "the store was not cleared: %s", error)
            return False
        return True

    def get_stats(self) -> Any:
        """What moved since the last question, for the engine's own metrics."""
        try:
            from sglang.srt.observability.metrics_collector import StorageMetrics
        except ImportError:
            return None
        with self._lock:
            moved, self._moved = self._moved, {name: [] for name in self._moved}
        return StorageMetrics(**moved)

    def close(self) -> None:
        """Says how it went, and lets the pools' memory go."""
        if self._report is not None:
            self._report.say()
        self._touches.close()
        if self._link is not None:
            self._link.close()
        self._pools = {}

    def _answer(self, missed: _T, make: Callable[[forebay.Namespace], _T]) -> _T:
        """What `make` says, or a miss: nothing raises into the engine's threads."""
        link, report = self._link, self._report
        if report is not None:
            report.tick()
        space = link.namespace if link is not None else None
        if space is None:
            return missed
        if identity.state() != self._served:
            self._say("weights", "the weights were replaced while the server ran, so nothing is loaded or stored any more: restart it")
            return missed
        try:
            return make(space)
        except Exception as error:
            if self._strict:
                raise
            self._say(type(error).__name__, "%s; it is computed", error)
            return missed

    def _say(self, about: str, text: str, *args: Any) -> None:
        """Says it, once a minute."""
        now = time.monotonic()
        if now >= self._said.get(about, 0.0):
            self._said[about] = now + SAY_AGAIN_S
            _LOGGER.error("forebay: " + text, *args)

    def _count(self, **counts: int) -> None:
        if self._report is not None:
            with self._lock:
                self._report.add(**counts)

    def _moved_pages(self, way: str, pages: int, nbytes: int, seconds: float) -> None:
        if not self._config.enable_storage_metrics or not pages:
            return
        with self._lock:
            self._moved[f"{way}_pgs"].append(pages)
            self._moved[f"{way}_bandwidth"].append(nbytes / (1 << 30) / max(seconds, 1e-9))


def _lengths(there: list[bool], transfer: PoolTransfer) -> set[int]:
    """Lengths of a prefix that a pool can restore."""
    if transfer.hit_policy == PoolHitPolicy.ALL_PAGES:
        leading = there.index(False) if False in there else len(there)
        return set(range(1, leading + 1))
    window = max(1, len(transfer.keys) if transfer.keys else 1)
    return {length for length in range(1, len(there) + 1) if all(there[max(0, length - window) : length])}


def _release() -> str:
    try:
        return ".".join(metadata.version("sglang").split(".")[:3])
    except metadata.PackageNotFoundError:
        return "unknown"
