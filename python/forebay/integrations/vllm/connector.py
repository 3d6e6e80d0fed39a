"""`ForebayConnector`: a `KVConnectorBase_V1` of vLLM, on CPU and GPU.

Here is only the interface: what the scheduler asks is answered in scheduler.py, what the worker does in worker.py. Nothing of Forebay's raises
into the engine: what goes wrong after the start is logged and is a miss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.metrics.cache_hit_source import CacheHitSource

import forebay
from forebay import Fingerprint
from forebay.integrations import _settings, _versions
from forebay.integrations._common import Link, Report
from forebay.integrations._decide import Prefill
from forebay.integrations._record import Record
from forebay.integrations.vllm import identity
from forebay.integrations.vllm.log import logger
from forebay.integrations.vllm.messages import Step, Stored
from forebay.integrations.vllm.metrics import ForebayMetrics, ForebayStats
from forebay.integrations.vllm.pace import Pace
from forebay.integrations.vllm.scheduler import LOOKUP_DEADLINE_MS, SchedulerHalf
from forebay.integrations.vllm.worker import LOAD_DEADLINE_MS, STAGING_BYTES, WorkerHalf

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_events import KVCacheEvent
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
    from vllm.forward_context import ForwardContext
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

#: What `kv_connector_extra_config` may say.
_SETTINGS: dict[str, _settings.Check] = {
    "address": _settings.text,
    "token_file": _settings.text,
    "namespace": _settings.text,
    "quota": _settings.quota,
    "ttl_s": _settings.seconds,
    "weights_digest": _settings.text,
    "staging_bytes": _settings.size,
    "lookup_deadline_ms": _settings.milliseconds,
    "load_deadline_ms": _settings.milliseconds,
    "load_or_recompute": _settings.flag,
    "prefill_s": _settings.anything,
    "record": _settings.anything,
    "strict": _settings.flag,
}

_T = TypeVar("_T")


def _never_raises(otherwise: Callable[[], Any]) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """What the engine calls: a flaw of the adapter is logged, and answered as if nothing were stored."""

    def around(method: Callable[..., _T]) -> Callable[..., _T]:
        @functools.wraps(method)
        def call(self: ForebayConnector, *args: Any, **kwargs: Any) -> _T:
            try:
                return method(self, *args, **kwargs)
            except Exception:
                if self._strict:
                    raise
                logger.exception("forebay: %s failed; computed instead", method.__name__)
                return otherwise()

        return call

    return around


class ForebayConnector(KVConnectorBase_V1, SupportsHMA):
    """Loads the longest stored prefix of each request, asynchronously, and stores what the engine computes.

    `kv_connector_extra_config` may say:
        address: of the node; `FOREBAY_CONNECT` or the default socket if left out.
        token_file: with the credential for TCP; `FOREBAY_TOKEN_FILE` if left out.
        namespace: instead of the one that is named after the fingerprint.
        quota, ttl_s: of the namespace, when it is made.
        weights_digest: what tells these weights from others, where they are not files on this machine.
        staging_bytes: memory that blocks pass through, for each direction.
        lookup_deadline_ms, load_deadline_ms: how long a request waits for a lookup, and for a load.
        load_or_recompute: load what is stored only when that is worth it (on unless told otherwise); see `_decide`.
        prefill_s: what prefill costs, as [seconds a step, a token, a pair of tokens], instead of learning it.
        record: a folder in which the requests are written down for `forebay plan`; see `_record`.
        strict: raise instead of computing, for tests.

    Models that it cannot serve (more than one kind of attention, state that is not keys and values) are named in one line of the log, and all is
    computed; with `strict` it raises identity.CannotServe. So are settings that cannot be, which then raise InvalidArgument.
    """

    _cache_hit_source = CacheHitSource.DISK

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        _versions.look("vLLM", vllm.__version__)
        given = dict(self._kv_transfer_config.kv_connector_extra_config or {})
        self._strict = given.get("strict") is True
        self._scheduler: SchedulerHalf | None = None
        self._worker: WorkerHalf | None = None
        self._record: Record | None = None
        is_scheduler = role is KVConnectorRole.SCHEDULER
        try:
            extra = _settings.checked(given, _SETTINGS, "kv_connector_extra_config")
            pace = _pace(vllm_config, extra)
            spec = _only_group(vllm_config, kv_cache_config)
            fingerprint = identity.of_engine(vllm_config, kv_cache_config, extra.get("weights_digest")) if is_scheduler else None
        except (identity.CannotServe, forebay.InvalidArgument, OSError) as error:
            if self._strict:
                raise
            if is_scheduler:
                logger.error("forebay: %s; all is computed", error)
            return
        if self._kv_transfer_config.kv_load_failure_policy != "recompute" and not self._strict:
            logger.warning("forebay: kv_load_failure_policy is %r; it is set to 'recompute', so that a failed load is computed and no request fails", self._kv_transfer_config.kv_load_failure_policy)
            self._kv_transfer_config.kv_load_failure_policy = "recompute"
        parallel = vllm_config.parallel_config
        world = parallel.tensor_parallel_size * parallel.pipeline_parallel_size
        staging = extra.get("staging_bytes", STAGING_BYTES)
        self._link_options: dict[str, Any] = {
            "engine": "vllm",
            "address": extra.get("address"),
            "token_file": extra.get("token_file"),
            "namespace": extra.get("namespace"),
            "quota": extra.get("quota"),
            "ttl_s": extra.get("ttl_s"),
            "strict": self._strict,
            "logger": logger,
            # Both stagings, and as much again for what is on its way. The scheduler moves no bytes.
            "region_bytes": 4 << 20 if is_scheduler else 4 * staging,
        }
        # The worker's half knows its namespace from the first step on.
        self._is_open = False
        if fingerprint is not None:
            link = Link(fingerprint, **self._link_options)
            self._record = self._recording(extra.get("record"), spec.block_size)
            events = vllm_config.kv_events_config
            self._scheduler = SchedulerHalf(
                link,
                Report(link, logger),
                block_tokens=spec.block_size,
                world=world,
                lora_digest=_lora_digest,
                events=bool(events is not None and events.enable_kv_cache_events),
                lookup_deadline_ms=extra.get("lookup_deadline_ms", LOOKUP_DEADLINE_MS),
                load_deadline_ms=extra.get("load_deadline_ms", LOAD_DEADLINE_MS),
                pace=pace,
                block_bytes=world * spec.page_size_bytes * len(kv_cache_config.kv_cache_groups[0].layer_names),
            )
        else:
            self._worker = WorkerHalf(
                None,
                rank=_rank(parallel),
                world=world,
                block_tokens=spec.block_size,
                staging_bytes=staging,
                load_deadline_ms=extra.get("load_deadline_ms", LOAD_DEADLINE_MS),
            )

    def _recording(self, folder: str | None, block_tokens: int) -> Record | None:
        if folder is None:
            return None
        try:
            record = Record(folder, block_tokens, logger)
        except (OSError, TypeError, ValueError) as error:
            if self._strict:
                raise identity.CannotServe(f"no record in {folder!r}: {error}") from error
            logger.error("forebay: requests are not recorded in %r: %s", folder, error)
            return None
        logger.info("forebay: requests are recorded in %s", record.path)
        return record

    @property
    def requires_kv_delivery(self) -> bool:
        """A cache: what is not saved is a miss."""
        return False

    # The worker's side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        if self._worker is None:
            return
        try:
            self._worker.register(kv_caches, self._kv_cache_config.num_blocks)
        except ValueError as error:
            if self._strict:
                raise
            logger.error("forebay: %s; all is computed", error)
            self._worker.turn_off()

    @_never_raises(lambda: None)
    def start_load_kv(self, forward_context: ForwardContext, **kwargs: Any) -> None:
        del forward_context, kwargs
        step = self._connector_metadata
        if self._worker is None or not isinstance(step, Step):
            return
        if not self._is_open and step.fingerprint:
            self._is_open = True
            fingerprint = Fingerprint(**step.fingerprint)
            if self._strict:
                self._worker.link = Link(fingerprint, **self._link_options)
            else:
                self._worker.open(lambda: Link(fingerprint, **self._link_options))
        self._worker.start_loads(step.loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Loads are over before their request is scheduled."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Blocks are copied whole, after the last layer."""

    @_never_raises(lambda: None)
    def wait_for_save(self) -> None:
        if self._worker is not None and isinstance(self._connector_metadata, Step):
            self._worker.save(self._connector_metadata.saves)

    @_never_raises(lambda: (None, None))
    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        del finished_req_ids
        return None, (self._worker.finished_loads() or None) if self._worker is not None else None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.take_bad_blocks() if self._worker is not None else set()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._worker.take_said() if self._worker is not None else None

    # The scheduler's side.

    @_never_raises(lambda: None)
    def on_new_request(self, request: Request) -> None:
        if self._scheduler is None:
            return
        rows = self._scheduler.arrived(request)
        if self._record is not None:
            self._record.arrived(request.request_id, request.num_prompt_tokens, rows, len(request.block_hashes[0]) if rows else 0)

    @_never_raises(lambda: (0, False))
    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._scheduler.matched_tokens(request, num_computed_tokens) if self._scheduler is not None else (0, False)

    @_never_raises(lambda: None)
    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        if self._scheduler is not None:
            self._scheduler.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        if self._scheduler is None:
            return Step()
        step = self._step(scheduler_output)
        # Whatever else went wrong: requests wait for these.
        step.loads = self._scheduler.take_loads()
        return step

    @_never_raises(Step)
    def _step(self, scheduler_output: SchedulerOutput) -> Step:
        assert self._scheduler is not None
        return self._scheduler.step(scheduler_output)

    @_never_raises(lambda: None)
    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        said = connector_output.kv_connector_worker_meta
        if self._scheduler is not None and isinstance(said, Stored):
            self._scheduler.worker_said(said)

    @_never_raises(lambda: (False, None))
    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        del block_ids
        if self._record is not None:
            self._record.finished(request.request_id, request.num_output_tokens)
        if self._scheduler is not None:
            self._scheduler.finished(request)
        return False, None

    def request_finished_all_groups(self, request: Request, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished(request, block_ids[0])

    @_never_raises(tuple)
    def take_events(self) -> Iterable[KVCacheEvent]:
        return self._scheduler.take_events() if self._scheduler is not None else ()

    @_never_raises(lambda: None)
    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        # The scheduler's half is told all by the workers'.
        fresh = self._scheduler.fresh_counts() if self._scheduler is not None else None
        return ForebayStats(data=fresh) if fresh else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return ForebayStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: VllmConfig, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]) -> KVConnectorPromMetrics:
        return ForebayMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    @_never_raises(lambda: False)
    def reset_cache(self) -> bool | None:
        """Called when weights may have changed in memory, which the digest of their files cannot know: from here on the engine's blocks are another
        generation, that no other engine finds."""
        if self._scheduler is not None:
            self._scheduler.renew()
            logger.info("forebay: the engine's caches were reset, so its weights may be others: what was stored before is not used any more")
        return True

    def shutdown(self) -> None:
        for part in (self._record, self._scheduler, self._worker):
            if part is not None:
                part.close()


def _only_group(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> Any:
    """The one kind of KV there is. Raises identity.CannotServe for anything else, by name."""
    kinds = sorted({type(group.kv_cache_spec).__name__ for group in kv_cache_config.kv_cache_groups})
    name = vllm_config.model_config.model
    if len(kv_cache_config.kv_cache_groups) != 1:
        raise identity.CannotServe(f"{name} keeps several kinds of KV ({', '.join(kinds)}), and ForebayConnector serves one; use ForebayTier, which serves all that vLLM's own CPU tier does")
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    if not isinstance(spec, FullAttentionSpec) or spec.sliding_window or spec.attention_chunk_size:
        raise identity.CannotServe(f"{name} keeps {kinds[0]}, and ForebayConnector serves full attention; use ForebayTier")
    parallel = vllm_config.parallel_config
    for what in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, what, 1) > 1:
            raise identity.CannotServe(f"{what} is {getattr(parallel, what)}, which ForebayConnector does not serve; use ForebayTier")
    if kv_cache_config.hash_block_size not in (None, spec.block_size):
        raise identity.CannotServe(f"blocks have {spec.block_size} tokens and hashes {kv_cache_config.hash_block_size}, which ForebayConnector does not serve; use ForebayTier")
    return spec


def _pace(vllm_config: VllmConfig, extra: dict[str, Any]) -> Pace | None:
    """Raises identity.CannotServe for costs that are none."""
    if not extra.get("load_or_recompute", True):
        return None
    step_tokens = int(vllm_config.scheduler_config.max_num_batched_tokens)
    costs = extra.get("prefill_s")
    if costs is None:
        return Pace(step_tokens)
    if not (isinstance(costs, list) and len(costs) == 3 and all(isinstance(cost, (int, float)) and cost >= 0 for cost in costs)):
        raise identity.CannotServe(f"prefill_s is three numbers, the seconds of a step, a token and a pair of tokens, not {costs!r}")
    step_s, token_s, pair_s = map(float, costs)
    return Pace(step_tokens, Prefill(step_s, token_s, pair_s, step_tokens))


def _rank(parallel: Any) -> int:
    """This worker's number among the engine's."""
    return int(parallel.rank) % (parallel.tensor_parallel_size * parallel.pipeline_parallel_size)


@functools.lru_cache(maxsize=1024)
def _digest_of_path(path: str) -> bytes | None:
    try:
        return bytes.fromhex(identity.weights_digest(path))
    except (identity.CannotServe, OSError) as error:
        logger.warning("forebay: the adapter %s is computed and not stored: %s", path, error)
        return None


def _lora_digest(lora_request: Any) -> bytes | None:
    """vLLM's hashes know an adapter by its name; the store knows it by its weights."""
    return _digest_of_path(lora_request.lora_path)
