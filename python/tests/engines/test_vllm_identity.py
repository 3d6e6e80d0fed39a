"""What `forebay.integrations.vllm` tells apart, and what it refuses by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import Lines
from prometheus_client import REGISTRY
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorLogging, KVConnectorProm
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec

from forebay import Fingerprint
from forebay.integrations._common import Link, Report
from forebay.integrations.vllm import identity
from forebay.integrations.vllm.connector import ForebayConnector, _digest_of_path, _only_group
from forebay.integrations.vllm.messages import Move


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


def connector(role: KVConnectorRole, groups: KVCacheConfig, **extra: object) -> ForebayConnector:
    """As vLLM's factory makes it, for an engine that comes no further than to what it is asked for here."""
    transfer = SimpleNamespace(kv_connector_extra_config=extra, kv_load_failure_policy="recompute")
    engine = SimpleNamespace(**vars(ENGINE), kv_transfer_config=transfer, scheduler_config=SimpleNamespace(max_num_batched_tokens=2048))
    return ForebayConnector(engine, role, groups)


def test_an_engine_that_cannot_be_served_is_named_once_and_runs_without_the_store() -> None:
    sliding = cache(full(sliding_window=64))
    with Lines("vllm.forebay") as lines:
        scheduler, worker = (connector(role, sliding) for role in (KVConnectorRole.SCHEDULER, KVConnectorRole.WORKER))
        request = SimpleNamespace(request_id="one", num_tokens=100, block_hashes=[b"hash"])
        scheduler.on_new_request(request)
        assert scheduler.get_num_new_matched_tokens(request, 0) == (0, False)
        scheduler.update_state_after_alloc(request, None, 0)
        step = scheduler.build_connector_meta(SimpleNamespace())
        worker.register_kv_caches({"layer 0": torch.zeros(8, 4)})
        worker.bind_connector_metadata(step)
        worker.start_load_kv(None)
        worker.wait_for_save()
        assert worker.get_finished(set()) == (None, None) and worker.get_block_ids_with_load_errors() == set()
        assert worker.build_connector_worker_meta() is None
        assert scheduler.request_finished(request, []) == (False, None) and list(scheduler.take_events()) == []
        for half in (scheduler, worker):
            half.shutdown()
    lines.only("a model keeps", "full attention", "use ForebayTier", "all is computed")
    with pytest.raises(identity.CannotServe, match="full attention"):
        connector(KVConnectorRole.SCHEDULER, sliding, strict=True)


def test_memory_in_which_blocks_cannot_be_told_apart_is_named_once_and_nothing_is_stored() -> None:
    of = {"weights_digest": "one", "address": "unix:/nowhere/forebay.sock"}
    parallel = SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1, rank=0)
    for strict in (False, True):
        transfer = SimpleNamespace(kv_connector_extra_config={**of, "strict": strict}, kv_load_failure_policy="recompute")
        scheduling = SimpleNamespace(max_num_batched_tokens=2048)
        engine = SimpleNamespace(model_config=ENGINE.model_config, parallel_config=parallel, kv_transfer_config=transfer, scheduler_config=scheduling)
        worker = ForebayConnector(engine, KVConnectorRole.WORKER, cache(full()))
        odd = {"layer 0": torch.zeros(5, 3)}
        if strict:
            with pytest.raises(ValueError, match="blocks cannot be found"):
                worker.register_kv_caches(odd)
            continue
        with Lines("vllm.forebay") as lines:
            worker.register_kv_caches(odd)
            assert worker._worker is not None
            worker._worker.start_loads([Move("one", [3, 4], b"hashhash", 0, 4, b"", 0, 0)])
            assert worker.get_finished(set()) == (None, {"one"}) and worker.get_block_ids_with_load_errors() == {3, 4}, "they are computed"
        lines.only("layer 0", "blocks cannot be found", "all is computed")
        worker.shutdown()


def test_what_the_connector_counts_is_in_vllms_metrics_and_its_log() -> None:
    """Through vLLM's own aggregation, from the scheduler's half and from several ranks."""
    transfer = KVTransferConfig(kv_connector="ForebayConnector", kv_connector_module_path="forebay.integrations.vllm", kv_role="kv_both")
    prometheus, log = KVConnectorProm(SimpleNamespace(kv_transfer_config=transfer), ["engine"], {0: ["0"]}), KVConnectorLogging(transfer)
    alone = connector(KVConnectorRole.WORKER, cache(full(sliding_window=64)))
    assert alone.get_kv_connector_stats() is None
    report = Report(Link(Fingerprint(model="metrics"), engine="test", address="unix:/nowhere/forebay.sock"))
    alone._scheduler = SimpleNamespace(fresh_counts=report.fresh, close=lambda: None)
    assert alone.get_kv_connector_stats() is None, "nothing was counted"
    for counts in ({"asked": 5, "hits": 3}, {"loaded": 2, "load_failed": 1}, {"asked": 1}):
        report.add(**counts)
        told = alone.get_kv_connector_stats()
        assert told is not None and not told.is_empty() and alone.get_kv_connector_stats() is None, "what was told is not told again"
        prometheus.observe(told.to_dict(), 0)
        log.observe(told.to_dict())
    names = {"asked": 6, "hits": 3, "loaded": 2, "load_failed": 1, "stored": None}
    assert {name: REGISTRY.get_sample_value("vllm:forebay_connector_blocks_total", {"engine": "0", "outcome": name}) for name in names} == names
    said: list[str] = []
    log.log(lambda text, *args: said.append(text % args))
    assert said == ["KV Transfer metrics: Forebay blocks asked=6, Forebay blocks hits=3, Forebay blocks loaded=2, Forebay blocks load_failed=1"]
    alone.shutdown()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"quota": 20}, "quota is a size"),
        ({"ttl_s": "3600"}, "ttl_s is a whole number of seconds"),
        ({"staging_bytes": "256 megs"}, "staging_bytes is a size"),
        ({"address": 5}, "address is a text"),
        ({"load_deadline_ms": None, "lookup_deadline_ms": -1}, "lookup_deadline_ms is a number of milliseconds"),
        ({"load_or_recompute": "no"}, "load_or_recompute is true or false"),
        ({"prefill_s": 1}, "prefill_s is three numbers"),
        ({"qouta": "1GiB"}, "kv_connector_extra_config has 'qouta'"),
    ],
)
def test_a_setting_that_cannot_be_is_said_once_and_the_engine_serves(wrong: dict[str, object], said: str) -> None:
    with Lines("vllm.forebay") as lines:
        halves = [connector(role, cache(full()), weights_digest="one", **wrong) for role in (KVConnectorRole.SCHEDULER, KVConnectorRole.WORKER)]
        assert halves[0].get_num_new_matched_tokens(SimpleNamespace(), 0) == (0, False)
        for half in halves:
            half.shutdown()
    lines.only(said, "all is computed")
    with pytest.raises(ValueError, match=said):
        connector(KVConnectorRole.SCHEDULER, cache(full()), weights_digest="one", strict=True, **wrong)


def test_weights_that_come_in_memory_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ENGINE, "weight_transfer_config", SimpleNamespace(backend="nccl"), raising=False)
    with Lines("vllm.forebay") as lines:
        scheduler = connector(KVConnectorRole.SCHEDULER, cache(full()), weights_digest="one")
        assert scheduler.get_num_new_matched_tokens(SimpleNamespace(), 0) == (0, False)
        assert scheduler.reset_cache() is True
        scheduler.shutdown()
    lines.only("weight_transfer_config", "nccl", "all is computed")
    with pytest.raises(identity.CannotServe, match="weight_transfer_config"):
        connector(KVConnectorRole.SCHEDULER, cache(full()), weights_digest="one", strict=True)


def engine(model: Path, **more: object) -> SimpleNamespace:
    """As much of a configuration as the fingerprint is made of."""
    config = {
        "model_config": SimpleNamespace(model=str(model), revision=None, hf_overrides={}, dtype="torch.bfloat16", quantization=None),
        "cache_config": SimpleNamespace(cache_dtype="auto", prefix_caching_hash_algo="sha256"),
        "parallel_config": SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
        "attention_config": SimpleNamespace(backend=None),
    }
    return SimpleNamespace(**config | more)


def folder(path: Path, content: bytes) -> Path:
    """A model's."""
    path.mkdir(exist_ok=True)
    (path / "model.safetensors").write_bytes(content)
    (path / "config.json").write_text("{}")
    return path


def of(config: SimpleNamespace, given: str | None = None) -> Fingerprint:
    groups = SimpleNamespace(kv_cache_groups=[KVCacheGroupSpec(["layer 0", "draft layer"], full())], kv_cache_layout="LBHNC")
    return identity.of_engine(config, groups, given)


def drafted(draft: Path, method: str = "eagle") -> SimpleNamespace:
    return SimpleNamespace(method=method, draft_model_config=SimpleNamespace(model=str(draft), revision=None, quantization=None))


def test_one_byte_of_a_draft_model_is_another_fingerprint(tmp_path: Path) -> None:
    """Its KV lies in the same blocks."""
    model, draft = folder(tmp_path / "model", b"model"), folder(tmp_path / "draft", b"draft")
    alone, with_draft = of(engine(model)), of(engine(model, speculative_config=drafted(draft)))
    assert with_draft != alone and with_draft == of(engine(model, speculative_config=drafted(draft)))
    given = of(engine(model, speculative_config=drafted(draft)), "given")
    folder(draft, b"drafT")
    assert of(engine(model, speculative_config=drafted(draft))) != with_draft
    assert of(engine(model, speculative_config=drafted(draft)), "given") != given, "a given digest is the model's own"
    # n-grams, and layers for drafts that came with the model.
    assert of(engine(model, speculative_config=drafted(model, "ngram"))) == alone
    assert of(engine(model, speculative_config=SimpleNamespace(method="suffix", draft_model_config=None))) == alone
    with pytest.raises(identity.CannotServe, match="draft model 'nobody/has-this-draft' cannot be found"):
        of(engine(model, speculative_config=drafted(Path("nobody/has-this-draft"))), "given")


def test_vllm_hears_whether_the_connector_was_reset() -> None:
    half = connector(KVConnectorRole.WORKER, cache(full(sliding_window=64)))
    renewed: list[int] = []
    half._scheduler = SimpleNamespace(renew=lambda: renewed.append(1), close=lambda: None)
    assert half.reset_cache() is True and renewed == [1]
    half._scheduler.renew = lambda: 1 / 0
    assert half.reset_cache() is False, "and no exception of ours"
    half.shutdown()


def test_weights_and_scales_that_are_in_no_file_are_refused_with_a_way_out(tmp_path: Path) -> None:
    model = folder(tmp_path / "model", b"model")
    dummy = engine(model, load_config=SimpleNamespace(load_format="dummy"))
    with pytest.raises(identity.CannotServe, match='"dummy".* set "weights_digest"'):
        of(dummy)
    assert of(dummy, "given").weights == "given"
    assert of(engine(model, load_config=SimpleNamespace(load_format="auto"))) == of(engine(model))
    # vLLM 0.32 has no such setting any more; others do.
    scales = engine(model)
    scales.cache_config.calculate_kv_scales = True
    with pytest.raises(identity.CannotServe, match="calculate_kv_scales"):
        of(scales, "given")


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


def test_a_tier_of_a_model_with_several_revisions_here_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    kept = tmp_path / "models--somebody--model"
    for revision in ("1" * 40, "2" * 40):
        (kept / "snapshots" / revision).mkdir(parents=True)
    (kept / "snapshots" / ("1" * 40) / "model.safetensors").write_bytes(b"1")
    monkeypatch.setattr("forebay.integrations._model.found", lambda model, revision=None: str(kept / "snapshots" / ("1" * 40)))
    assert identity.tier_weights_digest("somebody/model"), "the other one is a tokenizer"
    (kept / "snapshots" / ("2" * 40) / "model.safetensors").write_bytes(b"2")
    with pytest.raises(identity.CannotServe, match="2 revisions of 'somebody/model'.*set \"weights_digest\""):
        identity.tier_weights_digest("somebody/model")


def test_adapters_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    for name, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(content)
    one, two = (_digest_of_path(str(tmp_path / name)) for name in ("one", "two"))
    assert one and two and one != two
    assert _digest_of_path(str(tmp_path / "none")) is None, "an adapter without weights here is computed and not stored"
