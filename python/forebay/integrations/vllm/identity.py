"""What makes a vLLM engine's KV bytes interchangeable with another's.

vLLM's block hashes cover tokens, LoRA name, images and salt. They cover neither the weights, nor how a block lies in memory, nor the seed they
start from: those are the fingerprint's. Layouts change between vLLM's versions and between attention backends without a word in any hash, so
both are in it too: an upgrade begins with a cold cache, and never with a wrong one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import vllm
from vllm.platforms import current_platform
from vllm.v1.core import kv_cache_utils

import forebay
from forebay import Fingerprint
from forebay.integrations import _model
from forebay.integrations._common import digest_text

#: Hashes whose seed is drawn for each process unless PYTHONHASHSEED is set.
_SEEDED_BY_CHANCE = ("xxhash", "xxhash_cbor")


class CannotServe(ValueError):
    """Something in the engine's configuration that a store of KV cannot go with. Says what, and what to do."""


def weights_digest(model: str, revision: str | None = None) -> str:
    """The digest of the weights that this name stands for on this machine: a folder, a file, or what the hub's cache holds.

    Raises CannotServe when they cannot be found here.
    """
    try:
        return forebay.fingerprint.weights_digest(_model.found(model, revision) or model)
    except forebay.InvalidArgument as error:
        raise CannotServe(
            f"the weights of {model!r} cannot be told from others, because {error}; set \"weights_digest\" in the configuration to something that "
            "changes whenever they do (a commit of the model's repository)"
        ) from error


def tier_weights_digest(model: str) -> str:
    """The same for a tier, which vLLM does not tell the revision. Raises CannotServe where this machine has several."""
    several = _model.snapshots(model)
    if len(several) > 1:
        raise CannotServe(
            f"the hub's cache holds {len(several)} revisions of {model!r}, and vLLM does not tell its tiers which one it serves: set \"weights_digest\" in the "
            "tier's configuration to something that changes whenever the weights do (the commit that --revision names)"
        )
    return weights_digest(model)


def name(model: str) -> str:
    """What a model is called in the fingerprint: the last part of its name, so that a folder and its copy share. The digest tells them apart."""
    return os.path.basename(os.path.normpath(model))[-200:]


def config_digest(model: str, overrides: object = None, revision: str | None = None) -> str:
    """What changes KV and is in no weight (rotary scaling and the like): the model's configuration, and what is laid over it."""
    return _model.config_digest(_model.found(model, revision), _model.overrides(overrides))


def hash_seed(algorithm: str | None) -> str:
    """Where the chain of block hashes starts. Raises CannotServe when no other process can start there."""
    seed = os.environ.get("PYTHONHASHSEED")
    if seed is not None:
        return f"PYTHONHASHSEED {seed}"
    drawn = algorithm in _SEEDED_BY_CHANCE if algorithm else _none_hash_was_drawn()
    if drawn:
        raise CannotServe(
            "this engine's block hashes start from a random seed, so nothing that it stores could ever be found again: set PYTHONHASHSEED to the "
            "same number for all engines, or use --prefix-caching-hash-algo sha256"
        )
    return str(getattr(kv_cache_utils, "DEFAULT_NONE_HASH_SEED", "vllm"))


def _none_hash_was_drawn() -> bool:
    known = getattr(kv_cache_utils, "_NONE_HASH_SEED", None)
    return known is not None and known != getattr(kv_cache_utils, "DEFAULT_NONE_HASH_SEED", known)


def machine() -> str:
    """What, beside the configuration, chooses an attention backend and with it the order of a block's bytes."""
    if current_platform.is_cuda_alike():
        capability = current_platform.get_device_capability()
        return f"{current_platform.device_type} {capability}"
    if current_platform.is_cpu():
        return f"cpu {_cpu_isa()}"
    return str(current_platform.device_type)


def _cpu_isa() -> str:
    """The kernels of the CPU backend pack keys as their instructions like it."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as info:
            line = next(line for line in info if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return "unknown"
    flags = set(line.split(":", 1)[1].split())
    return " ".join(flag for flag in ("amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd", "sve") if flag in flags) or "plain"


def release() -> str:
    """vLLM's version down to what may change a layout."""
    return ".".join(str(vllm.__version__).split("+")[0].split(".")[:2])


def look_at_weights(vllm_config: Any, given_digest: str | None) -> None:
    """Raises CannotServe where the weights that the engine computes with are not those whose digest is known, or will not be for long."""
    transfer = getattr(vllm_config, "weight_transfer_config", None)
    if transfer is not None:
        raise CannotServe(
            f"this engine is set up to get new weights in memory (weight_transfer_config, backend {transfer.backend!r}), and vLLM does not tell a "
            "connector when they have come: leave that out, or the connector"
        )
    load_format = getattr(getattr(vllm_config, "load_config", None), "load_format", None)
    if load_format == "dummy" and given_digest is None:
        raise CannotServe(
            'this engine fills its weights with random numbers (load_format "dummy"), so the files of the model are not what it computes with: set '
            '"weights_digest" in the configuration to something that stands for them'
        )
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        raise CannotServe(
            "this engine finds the scales of its KV while it runs (calculate_kv_scales), so another engine's blocks have others: use a checkpoint that "
            "has them, and leave calculate_kv_scales out"
        )


@dataclass(frozen=True)
class _Draft:
    """What a draft model with weights of its own adds to the fingerprint: its KV lies in the same blocks. Empty where there is none."""

    weights: str = ""
    layout: tuple[str, ...] = ()


def _draft_of(vllm_config: Any) -> _Draft:
    """Raises CannotServe when its weights cannot be found. A given digest stands for the model's own, and says nothing of these."""
    speculative, model = getattr(vllm_config, "speculative_config", None), vllm_config.model_config
    draft = getattr(speculative, "draft_model_config", None)
    # Drafts by n-grams have none, and layers that came with the model are in its files.
    if draft is None or (draft.model, draft.revision) == (model.model, model.revision):
        return _Draft()
    try:
        digest = weights_digest(draft.model, draft.revision)
    except CannotServe as error:
        raise CannotServe(
            f"the weights of the draft model {draft.model!r} cannot be found on this machine, and its KV is part of each block: put a folder with "
            "them here and name that in speculative_config, or leave speculative_config out"
        ) from error
    layout = ("draft", str(getattr(speculative, "method", "")), name(draft.model), config_digest(draft.model, None, draft.revision), str(draft.quantization or ""))
    return _Draft(f" draft {digest}", layout)


def of_engine(vllm_config: Any, kv_cache_config: Any, given_digest: str | None) -> Fingerprint:
    """The fingerprint of an engine behind `ForebayConnector`. Raises CannotServe."""
    look_at_weights(vllm_config, given_digest)
    draft = _draft_of(vllm_config)
    model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
    group = kv_cache_config.kv_cache_groups[0]
    backend = getattr(vllm_config.attention_config, "backend", None)
    layout = digest_text(
        release(),
        machine(),
        str(backend),
        str(kv_cache_config.kv_cache_layout),
        repr(group.kv_cache_spec),
        config_digest(model.model, model.hf_overrides, model.revision),
        *group.layer_names,
        *draft.layout,
    )
    return Fingerprint(
        model=name(model.model),
        weights=(given_digest or weights_digest(model.model, model.revision)) + draft.weights,
        dtype=f"{model.dtype} kv {cache.cache_dtype}".replace("torch.", ""),
        quant=str(model.quantization or ""),
        layout=f"vllm connector 1 {layout}",
        block_tokens=group.kv_cache_spec.block_size,
        hash=cache.prefix_caching_hash_algo,
        hash_seed=hash_seed(cache.prefix_caching_hash_algo),
        shape=f"tp{parallel.tensor_parallel_size} pp{parallel.pipeline_parallel_size} page {group.kv_cache_spec.page_size_bytes}",
    )


def of_offloading(config: Any, row_bytes: int, given_digest: str | None) -> Fingerprint:
    """The fingerprint of an engine behind `ForebayTier`. Raises CannotServe."""
    parallel = config.parallel
    shape = f"world{parallel.world_size} tp{parallel.tp_size} pp{parallel.pp_size} pcp{parallel.pcp_size} dcp{parallel.dcp_size}"
    if parallel.is_parallelism_agnostic or config.replicated_layout:
        shape = f"any parallelism, replicated {config.replicated_layout}"
    groups = (f"{group.group_id} {group.tokens_per_block} {' '.join(group.layer_names)}" for group in config.groups)
    # What --hf-overrides, --quantization and the weights of LoRA adapters change is not seen from here: docs/engines/vllm.md says what to do.
    config_file = config_digest(config.model.name)
    layout = digest_text(release(), machine(), str(config.kv_cache_layout), str(config.canonical_layout), config_file, *groups)
    none_hash = getattr(kv_cache_utils, "NONE_HASH", None)
    return Fingerprint(
        model=name(config.model.name),
        weights=given_digest or weights_digest(config.model.name),
        dtype=str(config.model.dtype).replace("torch.", ""),
        layout=f"vllm tier 1 {layout}",
        block_tokens=f"{config.cache.tokens_per_hash} x {config.cache.blocks_per_chunk}",
        # The first link of the chain is a hash of the seed by the very algorithm, so it stands for both.
        hash=f"first link {none_hash.hex()[:32]}" if none_hash is not None else "",
        hash_seed=hash_seed(None),
        shape=f"{shape}, {row_bytes} bytes",
    )
