"""What `forebay.integrations.vllm` tells apart, and what it refuses by name at the start."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec

from forebay.integrations.vllm import identity
from forebay.integrations.vllm.connector import _digest_of_path, _only_group


def full(**more: object) -> FullAttentionSpec:
    return FullAttentionSpec(block_size=16, num_kv_heads=2, head_size=32, dtype=torch.bfloat16, **more)


def cache(*specs: object) -> KVCacheConfig:
    groups = [KVCacheGroupSpec([f"layer {number}"], spec) for number, spec in enumerate(specs)]
    return KVCacheConfig(num_blocks=8, kv_cache_tensors=[], kv_cache_groups=groups)


ENGINE = SimpleNamespace(model_config=SimpleNamespace(model="a model"), parallel_config=SimpleNamespace())


def test_one_group_of_full_attention_is_served() -> None:
    assert _only_group(ENGINE, cache(full())).block_size == 16


def test_other_kinds_of_kv_are_refused_by_name() -> None:
    sliding = SlidingWindowSpec(block_size=16, num_kv_heads=2, head_size=32, dtype=torch.bfloat16, sliding_window=64)
    with pytest.raises(identity.CannotServe, match="a model keeps several kinds of KV .FullAttentionSpec, SlidingWindowSpec."):
        _only_group(ENGINE, cache(full(), sliding))
    with pytest.raises(identity.CannotServe, match="SlidingWindowSpec"):
        _only_group(ENGINE, cache(sliding))
    with pytest.raises(identity.CannotServe, match="full attention"):
        _only_group(ENGINE, cache(full(sliding_window=64)))


def test_a_seed_that_is_drawn_for_each_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(identity.CannotServe, match="PYTHONHASHSEED"):
        identity.hash_seed("xxhash")
    deterministic = identity.hash_seed("sha256")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert identity.hash_seed("xxhash") == identity.hash_seed("sha256") != deterministic


def test_one_byte_of_the_weights_changes_their_digest(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1000))
    before = identity.weights_digest(str(tmp_path))
    weights.write_bytes(bytes(999) + b"\1")
    assert identity.weights_digest(str(tmp_path)) != before


def test_what_is_in_no_weight_counts_too(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"rope_theta": 10000}')
    before = identity.config_digest(str(tmp_path))
    assert identity.config_digest(str(tmp_path), {"rope_theta": 5}) != before
    config.write_text('{"rope_theta": 20000}')
    assert identity.config_digest(str(tmp_path)) != before


def test_weights_that_are_not_here_are_refused_with_a_way_out() -> None:
    with pytest.raises(identity.CannotServe, match="set \"weights_digest\""):
        identity.weights_digest("nobody/has-this-model")


def test_adapters_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(content)
    one, two = (_digest_of_path(str(tmp_path / name)) for name in ("one", "two"))
    assert one and two and one != two
    assert _digest_of_path(str(tmp_path / "none")) is None, "an adapter without weights here is computed and not stored"
