"""A model's folder on this machine: where it lies, and what in it changes KV and is no weight."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from forebay.fingerprint import _weight_files
from forebay.integrations._common import digest_text

#: Files that say how a model computes: its shape and rotary scaling, and how its weights are quantised.
_CONFIGS = ("config.json", "params.json", "hf_quant_config.json", "quantize_config.json")


def found(model: str, revision: str | None = None) -> str | None:
    """The folder or file that this name stands for: as it is, or in the hub's cache; None where it is not on this machine."""
    if os.path.exists(model):
        return model
    try:
        from huggingface_hub import snapshot_download

        return str(snapshot_download(model, revision=revision, local_files_only=True))
    except Exception:
        return None


def snapshots(model: str) -> list[str]:
    """Which revisions of it, with weights, the hub's cache holds. None of a model that is a folder."""
    if os.path.exists(model):
        return []
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return []
    folder = Path(HF_HUB_CACHE, f"models--{model.replace('/', '--')}", "snapshots")
    with contextlib.suppress(OSError):
        return sorted(each.name for each in folder.iterdir() if each.is_dir() and any(True for _ in _weight_files(each)))
    return []


def config_digest(path: str | None, *laid_over: str) -> str:
    """What changes KV and is in no weight (rotary scaling and the like): the configuration in a model's folder, code that comes with the model, and texts
    that are laid over it. path: the folder, or a file in it; None where it is not on this machine."""
    folder = None if path is None else Path(path) if os.path.isdir(path) else Path(path).parent
    texts = ["" if folder is None else _text(folder / _CONFIGS[0])]
    if folder is not None:
        for file in (*(folder / name for name in _CONFIGS[1:]), *sorted(folder.glob("*.py"))):
            if text := _text(file):
                texts += [file.name, text]
    return digest_text(*texts, *laid_over)


def overrides(given: object) -> str:
    """Settings that are laid over a model's configuration, as a text that is the same for the same settings."""
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    return getattr(given, "__qualname__", None) or json.dumps(given or {}, sort_keys=True, default=str)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
