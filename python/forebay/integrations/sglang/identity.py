"""What the server around the backend says of its model: all that makes the KV of two servers interchangeable beside their pools, and whether it changes
while the server runs. Nothing here knows the node or a pool."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import forebay
from forebay.integrations import _model
from forebay.integrations._common import digest_text
from forebay.integrations.sglang.pools import CannotServe

#: `--load-format`s whose weights are not those of the files.
_NOT_FROM_FILES = ("dummy", "flash_rl", "private", "remote", "remote_instance")
#: Arguments under which a trainer writes into the weights of the running server.
_TRAINED = {"rl_on_policy_target": "--rl-on-policy-target", "custom_weight_loader": "--custom-weight-loader"}

#: Letters of a field of the fingerprint that are read by people; longer ones are a digest.
QUANT_MAX = 200
_HOW = "to --hicache-storage-backend-extra-config"


def argument(name: str, default: Any = None) -> Any:
    """What the server around us has resolved this argument to; the default where there is no server, or it knows no such argument."""
    try:
        from sglang.srt.runtime_context import get_context

        return get_context().config_leaf(name)
    except Exception:
        return default


def state() -> tuple[object, ...]:
    """Changes whenever the server says that its weights did: loaded from disk, also from the same folder, or under another `weight_version`."""
    return argument("model_path"), argument("weight_version"), _changes("model_path"), _changes("weight_version")


def _changes(name: str) -> int:
    """How often this argument was given a new value while the server runs."""
    try:
        from sglang.srt.runtime_context import get_context

        return sum(name in fields for _, fields in get_context().overrides_log())
    except Exception:
        return 0


def refuse_what_is_not_seen(digest: str | None) -> None:
    """Raises CannotServe where the arguments say that the weights are others than those of the files, or change unseen."""
    for name, flag in _TRAINED.items():
        if argument(name):
            raise CannotServe(f"with {flag} the weights are replaced in memory while the server runs, which cannot be seen from here: run it without this storage")
    if digest is None and _changes("weight_version"):
        raise CannotServe(
            'the weights were replaced before this storage was attached, so they are not those of the files: add "weights_digest" (a text that changes whenever '
            f"they do) {_HOW}, or restart the server"
        )
    loads = argument("load_format")
    from_others = argument("checkpoint_engine_wait_weights_before_ready") or (argument("weight_cache_mode") or "off") != "off"
    if digest is None and (loads in _NOT_FROM_FILES or from_others):
        by = f"--load-format {loads}" if loads in _NOT_FROM_FILES else "another process"
        raise CannotServe(f'the weights come by {by} and not from files, so nothing tells them from others: add "weights_digest" (a text that changes whenever they do) {_HOW}')


def folder(named: str | None, model: str) -> str | None:
    """Where the model lies on this machine. named: in the backend's own configuration."""
    return _model.found(named) if named else _model.found(model, argument("revision"))


def weights(model: str, at: str | None, digest: str | None) -> str:
    """The digest of the weights. Raises CannotServe where they are not here."""
    if digest:
        return digest
    if at is None:
        raise CannotServe(
            f'the weights of {model!r} are not files on this machine, so nothing tells them from others: add "weights" (a folder) or '
            f'"weights_digest" (a text that changes whenever they do) {_HOW}'
        )
    return forebay.fingerprint.weights_digest(at)


def config(at: str | None) -> str:
    """See `_model.config_digest`."""
    return _model.config_digest(at, _model.overrides(argument("json_model_override_args")), *_set("model_config_parser", "model_impl"))


def quant(digest: str | None) -> str:
    """How weights are quantised while they are loaded, and how the KV is, with its scales. Raises CannotServe."""
    said = _set("quantization", "kv_cache_dtype", "qsa_indexer_dtype", "modelopt_quant", "quantize_and_serve")
    for name in ("quantization_param_path", "modelopt_checkpoint_restore_path"):
        if path := argument(name):
            said.append(f"{name} {_of_files(str(path), digest)}")
    text = ", ".join(said)
    return text if len(text) <= QUANT_MAX else digest_text(text)


def loras(digest: str | None) -> str:
    """The adapters of `--lora-paths`, whose names and paths are in the hashes of requests and whose weights are not. Those that are loaded later have
    names of chance there. Raises CannotServe."""
    given = argument("lora_paths") or ()
    pairs: Iterable[tuple[str, str]] = given.items() if isinstance(given, Mapping) else map(_pair, given)
    named = sorted(f"{name} {_of_files(path, digest)}" for name, path in pairs)
    return digest_text(*named) if named else ""


def draft(digest: str | None) -> str:
    """The draft model, whose KV lies beside the model's and, in some pools, in the same pages. Raises CannotServe."""
    algorithm, path = argument("speculative_algorithm"), argument("speculative_draft_model_path")
    if not algorithm or not path:
        return str(algorithm or "")
    at = _model.found(str(path), argument("speculative_draft_model_revision"))
    more = _set("speculative_draft_model_quantization", "speculative_draft_kv_cache_dtype", "speculative_draft_load_format")
    return digest_text(str(algorithm), _of_files(str(path) if at is None else at, digest), _model.config_digest(at), *more)


def _set(*names: str) -> list[str]:
    return [f"{name} {value}" for name in names if (value := argument(name)) not in (None, False, "", "auto")]


def _pair(each: Any) -> tuple[str, str]:
    if isinstance(each, Mapping):
        return str(each.get("lora_name")), str(each.get("lora_path"))
    if isinstance(each, str):
        name, _, path = each.rpartition("=")
        return name or path, path
    return str(each.lora_name), str(each.lora_path)


def _of_files(path: str, digest: str | None) -> str:
    """What these files hold. Where they are not here, their name stands for them if `weights_digest` does for all."""
    at = _model.found(path)
    if at is None:
        if digest:
            return path
        raise CannotServe(f'{path!r} is not on this machine, so nothing tells it from others: add "weights_digest" (a text that changes whenever it or the weights do) {_HOW}')
    if os.path.isfile(at):
        return forebay.fingerprint.weights_digest(at)
    return digest_text(forebay.fingerprint.weights_digest(at), _model.config_digest(at))
