"""Digests of weights, and what a fingerprint tells apart."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

import forebay
from forebay import fingerprint
from forebay.fingerprint import Fingerprint, weights_digest

BLAKE3_OF_ABC = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "forebay" / "weights.json"


def model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"abc")
    (folder / "sub").mkdir()
    (folder / "sub" / "b.safetensors").write_bytes(b"def")
    (folder / "config.json").write_text("{}")
    return folder


def test_a_files_digest_is_its_blake3(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    assert weights_digest(tmp_path / "w") == BLAKE3_OF_ABC
    assert weights_digest(str(tmp_path / "w"), cache=False) == BLAKE3_OF_ABC


def test_a_folders_digest_changes_with_its_weights_and_with_nothing_else(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    digest = weights_digest(folder)
    assert digest == weights_digest(model(tmp_path / "same"))
    (folder / "config.json").write_text('{"a": 1}')
    assert weights_digest(folder) == digest
    (folder / "sub" / "b.safetensors").write_bytes(b"deg")
    changed = weights_digest(folder)
    (folder / "a.safetensors").rename(folder / "c.safetensors")
    assert len({digest, changed, weights_digest(folder)}) == 3


def test_links_are_followed_as_model_hubs_lay_them(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    linked = tmp_path / "linked"
    (linked / "sub").mkdir(parents=True)
    (linked / "a.safetensors").symlink_to(folder / "a.safetensors")
    (linked / "sub" / "b.safetensors").symlink_to(folder / "sub" / "b.safetensors")
    assert weights_digest(linked) == weights_digest(folder)


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"abc")
    # What changed just now is not remembered: it could change again within its timestamp.
    weights_digest(file)
    assert not own_cache.exists()
    later = time.time() + 10
    monkeypatch.setattr(fingerprint.time, "time", lambda: later)
    weights_digest(file)
    hashed: list[object] = []
    real = fingerprint.hash_file
    monkeypatch.setattr(fingerprint, "hash_file", lambda path: hashed.append(path) or real(path))
    assert weights_digest(file) == BLAKE3_OF_ABC and hashed == []
    stat = file.stat()
    file.write_bytes(b"abd")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights_digest(file) != BLAKE3_OF_ABC and len(hashed) == 1


@pytest.mark.parametrize("rubbish", ["", "[]", "{", '{"x": 7}', '{"x": [[1], 2]}'])
def test_a_broken_cache_is_as_good_as_none(tmp_path: Path, own_cache: Path, rubbish: str) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text(rubbish)
    (tmp_path / "w").write_bytes(b"abc")
    assert weights_digest(tmp_path / "w") == BLAKE3_OF_ABC


def test_what_is_no_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(forebay.InvalidArgument, match="safetensors"):
        weights_digest(tmp_path)
    with pytest.raises(forebay.InvalidArgument, match="neither a file nor a folder"):
        weights_digest(tmp_path / "nowhere")


def test_any_field_makes_another_fingerprint() -> None:
    one = Fingerprint(model="org/some model", block_tokens=64)
    assert one == Fingerprint(model="org/some model", block_tokens=64)
    others = [dataclasses.replace(one, **{field.name: "other"}) for field in dataclasses.fields(one)]
    digests = {one.digest, *(other.digest for other in others)}
    assert len(digests) == 1 + len(others) == 11
    assert one.namespace_name().startswith("some-model-") and one.namespace_name("p" * 99).startswith("p" * 47 + "-")
    assert one.as_dict() == {"model": "org/some model", "block_tokens": "64"}
    assert json.dumps(one.as_dict())
    for name in ({one.namespace_name(), Fingerprint(model="///").namespace_name(), Fingerprint().namespace_name("é")}):
        assert 0 < len(name) <= 64


def test_fields_are_those_the_node_knows(client: forebay.Client) -> None:
    full = Fingerprint(**{field.name: f"a {field.name}" for field in dataclasses.fields(Fingerprint)})
    space = client.namespace("full-fingerprint", create=True, fingerprint=full)
    assert space.describe()["fingerprint"] == full.as_dict() and len(full.as_dict()) == 10
    client.delete_namespace("full-fingerprint")
