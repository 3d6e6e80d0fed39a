"""What makes KV bytes interchangeable, and the digest of weights that belongs to it.

Two models whose names are the same and whose weights are not compute other KV for the same tokens. A namespace made with a ``Fingerprint`` refuses
whoever comes with another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ._errors import InvalidArgument
from ._forebay import hash_bytes, hash_file

__all__ = ["Fingerprint", "weights_digest"]

_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".npz", ".h5", ".msgpack", ".onnx", ".tensors"}
)
"""Files of these kinds are weights. Others in a model's folder (tokenizer, configuration, readme) change no KV that the engine's hash does not."""
_REMEMBERED_MAX = 4096
"""Files whose hashes are remembered: some hundred large models. The oldest go first."""
_SETTLED_S = 2.0
"""A file that changed less than this before it was hashed may change again without its time saying so, and is not remembered."""
_AT_ONCE_MAX = 4
"""Files hashed side by side: drives gain little from more."""
_NAME_BYTES_MAX = 64
"""Longest name of a namespace."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """Everything that makes KV bytes interchangeable. Fields that are unset or empty are the same; any other difference is another namespace.

    Values are turned into text of at most 256 bytes.
    """

    model: str = ""
    """Model id, as ``meta-llama/Llama-3.1-8B-Instruct``."""
    weights: str = ""
    """``weights_digest`` of the weights."""
    lora: str = ""
    """``weights_digest`` of the adapter, if there is one."""
    dtype: str = ""
    """Type of the KV's elements, as ``bfloat16``."""
    quant: str = ""
    """How the KV is quantised, with the format of its scales."""
    layout: str = ""
    """Order of the dimensions in a block, and how it is split over ranks."""
    block_tokens: int | str = ""
    """Tokens a block holds."""
    hash: str = ""
    """Algorithm of the engine's block hashes."""
    hash_seed: str = ""
    """Their seed."""
    shape: str = ""
    """Layers, heads, head size: whatever fixes a block's length."""

    def as_dict(self) -> dict[str, str]:
        """The fields that are set."""
        fields = ((field.name, str(getattr(self, field.name))) for field in dataclasses.fields(self))
        return {name: value for name, value in fields if value}

    @property
    def digest(self) -> str:
        """64 hexadecimal digits that differ when any field does."""
        return hash_bytes(json.dumps(self.as_dict(), sort_keys=True).encode())

    def namespace_name(self, prefix: str = "") -> str:
        """A name for the namespace of this fingerprint: ``prefix`` (by default the model's name), and 16 digits of the digest."""
        readable = re.sub(r"[^A-Za-z0-9_./:-]+", "-", prefix or self.model.rsplit("/", 1)[-1]).strip("-")
        digest = self.digest[:16]
        return f"{readable[: _NAME_BYTES_MAX - 17]}-{digest}" if readable else digest


def weights_digest(path: str | os.PathLike[str], *, cache: bool = True) -> str:
    """BLAKE3 of weights: 64 hexadecimal digits that change when a byte of them does.

    path: one file, or a folder, whose weight files (``.safetensors``, ``.bin``, ``.gguf`` ...) count with their names, in order, links followed.
    cache: remember each file's hash in the user's cache folder, by path, inode, size and time of change, so that only the first call reads
        hundreds of gigabytes.

    Files are read without the GIL, some side by side. Raises InvalidArgument when there are no weights there, OSError when one cannot be read.
    """
    root = Path(path)
    if root.is_dir():
        files = sorted(_weight_files(root))
        if not files:
            raise InvalidArgument(
                f"there are no weights in {root}: no file there ends in {', '.join(sorted(_SUFFIXES))}; give the folder that has them, or one file"
            )
    elif root.is_file():
        files = [("", root)]
    else:
        raise InvalidArgument(f"there are no weights at {root}: it is neither a file nor a folder")
    remembered = _Remembered(_cache_path()) if cache else None
    with ThreadPoolExecutor(_AT_ONCE_MAX, thread_name_prefix="forebay-digest") as pool:
        hashes = list(pool.map(lambda file: _hashed(file[1], remembered), files))
    if remembered is not None:
        remembered.save()
    if files[0][0] == "":
        return hashes[0]
    listing = "".join(f"{name}\0{digest}\n" for (name, _), digest in zip(files, hashes, strict=True))
    return hash_bytes(listing.encode())


def _weight_files(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if Path(name).suffix in _SUFFIXES and not name.startswith("."):
                file = Path(folder, name)
                yield file.relative_to(root).as_posix(), file


def _hashed(file: Path, remembered: _Remembered | None) -> str:
    real = file.resolve(strict=True)
    before = _State.of(real)
    if remembered is not None and (known := remembered.get(real, before)) is not None:
        return known
    digest = hash_file(real)
    if remembered is not None and _State.of(real) == before and time.time() - before.changed_ns / 1e9 > _SETTLED_S:
        remembered.put(real, before, digest)
    return digest


@dataclasses.dataclass(frozen=True, slots=True)
class _State:
    """What tells that a file is the one that was hashed."""

    device: int
    inode: int
    nbytes: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: Path) -> _State:
        stat = file.stat()
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


class _Remembered:
    """Hashes of files in the user's cache folder. A cache that cannot be read or written is as good as none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, list[object]] = {}
        self._fresh: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(path.read_text())
            if isinstance(known, dict):
                self._known = known

    def get(self, file: Path, state: _State) -> str | None:
        match self._known.get(str(file)):
            case [list() as known, str() as digest] if known == list(dataclasses.astuple(state)):
                return digest
        return None

    def put(self, file: Path, state: _State, digest: str) -> None:
        self._fresh[str(file)] = [list(dataclasses.astuple(state)), digest]

    def save(self) -> None:
        if not self._fresh:
            return
        kept = {file: entry for file, entry in self._known.items() if file not in self._fresh} | self._fresh
        kept = dict(list(kept.items())[-_REMEMBERED_MAX:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Written aside and renamed, so that whoever reads meanwhile reads the old one whole.
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as aside:
                json.dump(kept, aside)
            os.replace(aside.name, self._path)


def _cache_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "forebay", "weights.json")
