"""`ForebayHiCache` under SGLang's own factory, host pools and cache controller: pages go out and come back bit for bit, or are misses in time.

The server needs CUDA. What runs here is all of it that lies between the server's tree and the store: `StorageBackendFactory`,
`MHATokenToKVPoolHost` and its kind, and `HiCacheController` with its threads, on the CPU.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sglang_stage as stage
import torch
from forebay.integrations.sglang import identity, touches
from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo, PoolHitPolicy, PoolName, PoolTransfer
from sglang.srt.runtime_context import get_context
from sglang_stage import PAGE, backend, hashes, mha, mla, pages_of
from pages import Start
from support import HERE, OF_A_FULL_QUOTA, OF_ANOTHER_VERSION, SGLANG, Lines, Node, NodeOfAnotherVersion, run_script, wait_for, write_over

import forebay

#: Longer than any deadline given here, by what a busy machine may take on top.
BOUND_S = 30.0


def written(pool: Any, seed: int, pages: int) -> torch.Tensor:
    """Pages of a pool, filled; their indices."""
    indices = pool.alloc(pages * PAGE)
    for at in range(pages):
        page = pool.get_data_page(int(indices[at * PAGE]))
        page_of_chance = torch.randn(page.shape, generator=torch.Generator().manual_seed(1000 * seed + at)).to(page.dtype)
        pool.set_from_flat_data_page(int(indices[at * PAGE]), page_of_chance)
    return indices


LAYOUTS = ("page_first", "layer_first", "page_first_direct")


@pytest.mark.parametrize(("make", "layout"), [*((make, layout) for make in (mha, mla) for layout in LAYOUTS), (mha, "page_head")])
def test_pages_come_back_bit_for_bit_in_other_places(node: Node, make: Any, layout: str) -> None:
    pool = make(layout)
    store = backend(node, pool)
    indices = written(pool, 1, 5)
    keys = hashes(5)
    want = pages_of(pool, indices)
    assert store.batch_exists(keys) == 0
    assert store.batch_set_v1(keys, indices) == [True] * 5
    assert store.batch_exists([*keys, "f" * 64]) == 5
    node.restart()
    # Another life of the engine: another pool, elsewhere.
    other = make(layout)
    again = backend(node, other)
    other.alloc(3 * PAGE)
    to = other.alloc(6 * PAGE)
    before = pages_of(other, to[5 * PAGE :])
    assert again.batch_exists(keys) == 5
    assert again.batch_get_v1([*keys, "f" * 64], to) == [True] * 5 + [False]
    assert all(torch.equal(a, b) for a, b in zip(pages_of(other, to), want, strict=False))
    assert torch.equal(pages_of(other, to[5 * PAGE :])[0], before[0]), "what is missed is not written"
    # A page is one block, in however many tensors it lies.
    assert again._link.client.stats()["get"]["asked"] == 6
    again.close()
    store.close()


def test_another_model_weights_type_or_layout_never_hits(node: Node) -> None:
    pool = mha("page_first")
    store = backend(node, pool)
    keys = hashes(3)
    assert store.batch_set_v1(keys, written(pool, 2, 3)) == [True] * 3
    others = {
        "weights": backend(node, mha("page_first"), weights_digest="two"),
        "model": backend(node, mha("page_first"), model_name="another"),
        "type": backend(node, mha("page_first", dtype=torch.float16)),
        "layout": backend(node, mha("layer_first")),
        "heads": backend(node, mha("page_first", heads=4)),
        "rank": backend(node, mha("page_first"), tp_rank=1, tp_size=2),
    }
    for what, other in others.items():
        assert other.batch_exists(keys) == 0, what
        assert not any(other.batch_get_v1(keys, other.mem_pool_host.alloc(3 * PAGE))), what
        other.close()
    assert store.batch_exists(keys) == 3
    store.close()


def test_what_the_server_does_to_the_weights_is_another_namespace(node: Node, tmp_path: Path) -> None:
    """Arguments as SGLang itself resolves and publishes them: each that changes KV and is in no weight file of the model."""
    folders = {}
    for name in ("model", "draft", "lora", "again"):
        (folder := tmp_path / name).mkdir()
        folders[name] = str(folder)
        (folder / "model.safetensors").write_bytes(name.replace("again", "model").encode())
        (folder / "config.json").write_text('{"rope_theta": 10000}')
    scales = tmp_path / "scales.json"
    scales.write_text("{}")
    pool = mha("page_first")

    def name_with(model: str = "model", **arguments: Any) -> str:
        with get_context().override_server_args(model_path=folders[model], **arguments):
            store = backend(node, pool, weights_digest=None, model_name="served")
            name = store._link.name
            store.close()
        return str(name)

    plain = name_with()
    assert name_with() == plain and name_with("again") == plain, "a copy elsewhere shares"
    drafted = {"speculative_algorithm": "EAGLE", "speculative_draft_model_path": folders["draft"]}

    def all_of_them() -> list[str]:
        return [
            name_with(),
            name_with(json_model_override_args='{"rope_theta": 5}'),
            name_with(quantization="fp8"),
            name_with(kv_cache_dtype="fp8_e4m3"),
            name_with(kv_cache_dtype="fp8_e4m3", quantization_param_path=str(scales)),
            name_with(lora_paths={"tuned": folders["lora"]}),
            name_with(**drafted),
        ]

    before = all_of_them()
    assert len(set(before)) == len(before)
    scales.write_text('{"layer": 2}')
    for name in ("draft", "lora"):
        (tmp_path / name / "model.safetensors").write_bytes(b"other")
    after = all_of_them()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, True, False, False, False]
    (tmp_path / "model" / "config.json").write_text('{"rope_theta": 20000}')
    assert name_with() != plain


def test_a_revision_is_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("forebay.integrations._model.found", lambda model, revision=None: asked.append((model, revision)))
    with get_context().override_server_args(model_path="somebody/model", revision="v2"):
        assert identity.folder(None, "somebody/model") is None
    assert asked == [("somebody/model", "v2")]


@pytest.mark.parametrize("update", ["from disk", "from the same folder", "as tensors"])
def test_weights_that_are_replaced_end_the_sharing(node: Node, update: str) -> None:
    """What SGLang's runner and scheduler publish when the weights were updated (their modules want CUDA, so it is said here as they say it)."""
    with get_context().override_server_args(model_path="/models/one"):
        pool = mha("page_first")
        store = backend(node, pool)
        keys, indices = hashes(2), written(pool, 2, 2)
        assert store.batch_set_v1(keys, indices) == [True] * 2 and store.batch_exists(keys) == 2
        if update == "as tensors":
            get_context().override("scheduler.weight_version", weight_version="step 5")
        else:
            at = "/models/one" if update == "from the same folder" else "/models/two"
            get_context().override("model_runner.update_model_fields", model_path=at, load_format="auto")
        with Lines("forebay") as lines:
            serves_without(store)
        lines.only("weights were replaced", "restart it")
        if update == "as tensors":
            # Nor does a storage that is attached after it take them for those of the files.
            with pytest.raises(ValueError, match="replaced before.*weights_digest"):
                backend(node, pool, weights_digest=None, strict=True)


def test_salts_are_in_the_chain_of_hashes() -> None:
    """SGLang seeds a request's chain with its salt and extra key, so that the keys we get are already apart."""
    from sglang.srt.mem_cache.utils import storage_namespace_seed

    seeds = {storage_namespace_seed(extra, salt) for extra in (None, "lora-a", "lora-b") for salt in (None, "tenant")}
    assert len(seeds) == 6


def test_ranks_have_pages_of_their_own_and_mla_has_one_writer(node: Node) -> None:
    pools = [mha("page_first") for _ in range(2)]
    ranks = [backend(node, pool, tp_rank=rank, tp_size=2) for rank, pool in enumerate(pools)]
    keys = hashes(2)
    indices = [written(pool, 10 + rank, 2) for rank, pool in enumerate(pools)]
    for rank, store in enumerate(ranks):
        assert store.batch_exists(keys) == 0
        assert store.batch_set_v1(keys, indices[rank]) == [True] * 2
    for rank, store in enumerate(ranks):
        to = pools[rank].alloc(2 * PAGE)
        assert store.batch_get_v1(keys, to) == [True] * 2
        assert all(torch.equal(a, b) for a, b in zip(pages_of(pools[rank], to), pages_of(pools[rank], indices[rank]), strict=True))
        store.close()
    pools = [mla("page_first") for _ in range(2)]
    writer, reader = (backend(node, pool, tp_rank=rank, tp_size=2, is_mla_model=True) for rank, pool in enumerate(pools))
    theirs = written(pools[1], 21, 2)
    assert reader.batch_set_v1(keys, theirs) == [True] * 2, "nothing is wrong, and nothing is written"
    assert writer.batch_exists(keys) == 0
    mine = written(pools[0], 20, 2)
    assert writer.batch_set_v1(keys, mine) == [True] * 2
    assert reader.batch_get_v1(keys, theirs) == [True] * 2
    assert all(torch.equal(a, b) for a, b in zip(pages_of(pools[1], theirs), pages_of(pools[0], mine), strict=True))
    writer.close()
    reader.close()


def transfer(name: PoolName, keys: list[str], indices: torch.Tensor | None, policy: PoolHitPolicy = PoolHitPolicy.ALL_PAGES, **more: Any) -> PoolTransfer:
    return PoolTransfer(name=name, keys=keys, host_indices=indices, hit_policy=policy, **more)


def test_pools_beside_the_kv_and_what_each_policy_asks_for(node: Node) -> None:
    kv, side, draft = mha("page_first"), mha("page_first", layers=1), mha("layer_first", layers=2)
    store = backend(node, kv)
    for pool, name in ((kv, PoolName.KV), (side, PoolName.SWA), (draft, PoolName.DRAFT)):
        store.register_mem_host_pool_v2(pool, name)
    store.on_host_pools_registered()
    keys = hashes(8)
    assert all(store.batch_set_v1(keys, written(kv, 3, 8)))
    swa, drafts = written(side, 4, 3), written(draft, 5, 6)
    # Windows that end at pages 2 and 6, and a draft model's KV of the first six pages.
    done = store.batch_set_v2([transfer(PoolName.SWA, [keys[1], keys[4], keys[5]], swa), transfer(PoolName.DRAFT, keys[:6], drafts)])
    assert done == {PoolName.SWA: [True] * 3, PoolName.DRAFT: [True] * 6}

    def asked(*transfers: PoolTransfer) -> tuple[int, dict[str, int], list[int]]:
        result = store.batch_exists_v2(keys, list(transfers))
        return result.kv_hit_pages, {str(name): pages for name, pages in result.extra_pool_hit_pages.items()}, result.restorable_prefix_pages

    every = list(range(1, 9))
    assert asked() == (8, {"kv": 8}, every)
    assert asked(transfer(PoolName.DRAFT, [], None)) == (6, {"kv": 8, "draft": 6}, every[:6])
    trailing = PoolHitPolicy.TRAILING_PAGES
    assert asked(transfer(PoolName.SWA, ["x"], None, trailing)) == (6, {"kv": 8, "swa": 6}, [2, 5, 6])
    assert asked(transfer(PoolName.SWA, ["x", "y"], None, trailing)) == (6, {"kv": 8, "swa": 6}, [6])
    assert asked(transfer(PoolName.DRAFT, [], None), transfer(PoolName.SWA, ["x", "y"], None, trailing))[0] == 6
    assert asked(transfer(PoolName.INDEXER, [], None)) == (0, {"kv": 8}, []), "a pool that is not there holds nothing"
    # Blocks of two pages, each with one key at its beginning: of the draft's pages 0, 2 and 4. It never holds the KV back.
    groups = transfer(PoolName.DRAFT, [], None, PoolHitPolicy.BLOCK_GROUPS, block_pages=2, group_pages=1)
    assert asked(groups) == (8, {"kv": 8, "draft": 6}, every)
    named = transfer(PoolName.SWA, [keys[4], keys[5], keys[0]], None, PoolHitPolicy.BLOCK_GROUPS, block_pages=4, group_pages=2)
    assert asked(named) == (8, {"kv": 8, "swa": 4}, every), "one whole group of two, and half of one"

    to, drafted = side.alloc(2 * PAGE), draft.alloc(2 * PAGE)
    got = store.batch_get_v2([transfer(PoolName.SWA, [keys[4], keys[7]], to), transfer(PoolName.DRAFT, keys[:2], drafted)])
    assert got == {PoolName.SWA: [True, False], PoolName.DRAFT: [True, True]}
    assert torch.equal(pages_of(side, to)[0], pages_of(side, swa)[1])
    assert torch.equal(pages_of(draft, drafted)[1], pages_of(draft, drafts)[1])
    wrong = store.batch_get_v2([transfer(PoolName.SWA, keys[:3], to), transfer(PoolName.MAMBA, keys[:1], to)])
    assert wrong == {PoolName.SWA: [False] * 3, PoolName.MAMBA: [False]}, "indices that do not belong to the keys, and a pool nobody registered"
    store.close()


def test_what_only_the_engine_uses_does_not_look_cold_in_the_store(small_node: Node) -> None:
    """SGLang asks for what comes behind the pages that it has. These outlive ten times the store's capacity, for they are the prefix of what is asked."""
    pool = mha("page_first")
    store = backend(small_node, pool)
    hot, cold = hashes(8), hashes(8, seed=1)
    for number, keys in enumerate((hot, cold)):
        assert all(store.batch_set_v1(keys, written(pool, number, 8)))
    asked = iter(range(10**9))
    # A prompt that goes on otherwise each time.
    write_over(small_node, store._link, lambda: store.batch_exists(hashes(1, seed=1000 + next(asked)), HiCacheStorageExtraInfo(prefix_keys=hot)))
    space = store._link.namespace
    assert not any(space.contains(store._keys(space, cold, "kv"))), "what nobody uses is gone, so the test can fail"
    assert all(space.contains(store._keys(space, hot, "kv")))
    store.close()


def test_a_prefix_is_told_ends_first_and_not_all_the_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touches, "CALL_PAGES", 3)
    monkeypatch.setattr(touches, "AGAIN_S", 60.0)
    told: list[list[str]] = []
    line = touches.Touches(lambda space, keys: [keys])
    space = SimpleNamespace(touch=told.append)
    keys = hashes(8)
    for _ in range(3):
        line.used(space, keys)
    line.known(keys[:5])
    line.used(space, keys[:5])
    line.used(space, None)
    line.close()
    assert told == [keys[6:], keys[3:6], keys[:3]]


@pytest.mark.parametrize("mode", ["cache", "buffer_only"])
def test_what_host_memory_has_is_not_kept_in_the_nodes_memory_as_well(node: Node, mode: str) -> None:
    with get_context().override_server_args(model_path="a/model", hicache_host_memory_mode=mode):
        pool = mha("page_first")
        store = backend(node, pool)
        keys, indices = hashes(16), written(pool, 12, 16)
        assert all(store.batch_set_v1(keys, indices)) and store.batch_set(keys, [torch.ones(100)] * 16)
        space, client = store._link.namespace, store._link.client
        there = store._keys(space, keys, "kv") + store._flat_keys(space, keys)
        if mode == "cache":
            wait_for(lambda: set(space.contains(there)) == {"nvme"})
            assert sum(shard["dram_duplicate_bytes"] for shard in client.node_stats()["shards"]) == 0
        else:
            node.await_writes()
            assert set(space.contains(there)) == {"dram"}, "nobody else has them"
        store.close()


def test_the_generic_path_keeps_whole_tensors(node: Node) -> None:
    store = backend(node, mha("page_first"))
    pages = [torch.randn(1000, generator=torch.Generator().manual_seed(n)).to(torch.bfloat16) for n in range(2)]
    keys = hashes(3)
    assert store.batch_set(keys[:2], pages) and store.exists(keys[0]) and not store.exists(keys[2])
    to = [torch.zeros(1000, dtype=torch.bfloat16) for _ in range(3)]
    got = store.batch_get(keys, to)
    assert [page is not None for page in got] == [True, True, False]
    assert torch.equal(to[0], pages[0]) and torch.equal(store.get(keys[1], to[2]), pages[1])
    store.close()


def test_what_is_cleared_is_gone_and_the_store_goes_on(node: Node) -> None:
    pool = mha("page_first")
    store = backend(node, pool, enable_storage_metrics=True)
    keys, indices = hashes(2), written(pool, 6, 2)
    assert store.batch_set_v1(keys, indices) == [True] * 2
    stats = store.get_stats()
    assert stats.backup_pgs == [2] and stats.backup_bandwidth[0] > 0 and stats.prefetch_pgs == []
    assert store.clear() is True
    assert store.batch_exists(keys) == 0
    assert store.batch_set_v1(keys, indices) == [True] * 2 and store.batch_exists(keys) == 2
    store.close()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_ends_in_mid_batch_is_false_in_time(node: Node, end: signal.Signals) -> None:
    pool = mha("page_first", tokens=4096)
    store = backend(node, pool, transfer_deadline_ms=1000, lookup_deadline_ms=200)
    keys, indices = hashes(128), written(pool, 7, 128)
    assert all(store.batch_set_v1(keys, indices))
    node.await_writes()
    to = pool.alloc(128 * PAGE)
    for number in range(3):
        timer = threading.Timer(0.002 * number, node.signal, (end,))
        timer.start()
        begun = time.monotonic()
        loaded = store.batch_get_v1(keys, to)
        kept = store.batch_set_v1([*hashes(10, seed=number), *keys], torch.cat([indices[: 10 * PAGE], indices]))
        there = store.batch_exists(keys)
        result = store.batch_exists_v2(keys, [transfer(PoolName.KV, [], None)])
        took = time.monotonic() - begun
        assert took < BOUND_S, f"{took} s"
        assert len(loaded) == 128 and len(kept) == 138 and 0 <= there <= 128 and 0 <= result.kv_hit_pages <= 128
        for got, page, was in zip(loaded, pages_of(pool, to), pages_of(pool, indices), strict=True):
            assert not got or torch.equal(page, was), "true is said of whole pages only"
        if number:
            assert not any(loaded) and there == 0, "nothing is there"
        if end == signal.SIGKILL and number == 2:
            break
        # On a fast machine the first batch is over before the signal has arrived.
        timer.join()
        if not number and end == signal.SIGKILL:
            os.waitid(os.P_PID, node.pid, os.WEXITED | os.WNOWAIT)
        elif not number:
            node.stop()
    after = pages_of(pool, to)
    node.signal(signal.SIGCONT)
    node.kill()
    node.start()
    assert store._link.client.wait_reachable(60_000)
    assert all(torch.equal(a, b) for a, b in zip(pages_of(pool, to), after, strict=True)), "nothing is written after a call"
    wait_for(lambda: store.batch_exists(keys) > 0, every_s=0.01)
    store.close()


def test_an_engine_starts_and_serves_without_a_node(node: Node) -> None:
    node.kill()
    pool = mha("page_first")
    store = backend(node, pool)
    keys, indices = hashes(2), written(pool, 8, 2)
    assert store.batch_exists(keys) == 0 and not any(store.batch_set_v1(keys, indices)) and not any(store.batch_get_v1(keys, indices))
    assert store.clear() is False
    node.start()
    until = time.monotonic() + BOUND_S
    while not all(store.batch_set_v1(keys, indices)):
        assert time.monotonic() < until
        time.sleep(0.1)
    store.close()


def test_what_cannot_be_kept_is_refused_by_name(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="weights_digest"):
        backend(node, mha("page_first"), weights_digest=None, model_name="nobody/knows", strict=True)
    store = backend(node, mha("page_first"), weights_digest=None, model_name="nobody/knows")
    assert store.batch_exists(hashes(1)) == 0
    assert "weights_digest" in caplog.text
    store.close()
    pool = mha("page_first")
    pool.get_page_buffer_meta = lambda indices: ([pool.kv_buffer.data_ptr()], [65 << 20])
    with pytest.raises(ValueError, match="--page-size"):
        backend(node, pool, strict=True)
    pool.get_page_buffer_meta = lambda indices: ([pool.kv_buffer.data_ptr() + pool.kv_buffer.nbytes - 8], [4096])
    assert not any(backend(node, pool).batch_get_v1(hashes(1), torch.arange(PAGE))), "no byte beside the pool is touched"


def serves_without(store: Any) -> None:
    """All is missed, with answers of the right length."""
    pool = store.mem_pool_host
    indices = written(pool, 3, 2)
    assert store.batch_set_v1(hashes(2), indices) == [False] * 2
    assert store.batch_exists(hashes(2)) == 0
    assert store.batch_get_v1(hashes(2), indices) == [False] * 2
    store.close()


def test_a_node_of_another_version_is_said_once_and_the_engine_serves(place: Path) -> None:
    with NodeOfAnotherVersion(place) as other:
        with Lines("forebay") as lines:
            serves_without(backend(other, mha("page_first")))
        lines.only(*OF_ANOTHER_VERSION)
        with pytest.raises(forebay.VersionMismatch):
            backend(other, mha("page_first"), strict=True)


def test_a_setting_that_cannot_be_is_said_once_and_the_engine_serves(node: Node) -> None:
    with Lines("forebay") as lines:
        serves_without(backend(node, mha("page_first"), transfer_deadline_ms="soon"))
    lines.only("transfer_deadline_ms", "milliseconds", "'soon'", "all is computed")
    with pytest.raises(ValueError, match="transfer_deadline_ms"):
        backend(node, mha("page_first"), transfer_deadline_ms="soon", strict=True)
    with Lines("forebay") as lines:
        store = backend(node, mha("page_first"), adress="unix:/x")
        assert store._link is not None
        store.close()
    lines.only("'adress'", "does not know", "address, ")


def test_a_full_quota_is_said_once_and_the_engine_serves(node: Node) -> None:
    with Lines("forebay") as lines:
        serves_without(backend(node, mha("page_first"), quota=4096))
    lines.only(*OF_A_FULL_QUOTA)


@pytest.fixture
def controller(node: Node, tmp_path: Path) -> Iterator[Any]:
    with stage.world(tmp_path):
        one = stage.controller(node, mha("page_first", tokens=1024))
        yield one
        one.detach_storage_backend()


def test_the_engines_own_controller_writes_and_prefetches(node: Node, controller: Any) -> None:
    pool = controller.mem_pool_host
    assert controller.page_get_func == controller._page_get_zero_copy
    tokens = list(range(20 * PAGE))
    indices = written(pool, 9, 20)
    want = pages_of(pool, indices)
    assert stage.write(controller, tokens, indices) == 20 * PAGE
    # Of a prompt that goes on otherwise, what is stored comes.
    got = stage.prefetch(controller, [*tokens[: 15 * PAGE], *range(5000, 5000 + 4 * PAGE)])
    assert len(got) == 15 * PAGE
    assert all(torch.equal(a, b) for a, b in zip(pages_of(pool, got), want, strict=False))


def test_the_engines_own_injection_of_delays_and_failures(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY", "0.02")
    monkeypatch.setenv("SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE", "0.3")
    with stage.world(tmp_path):
        one = stage.controller(node, mha("page_first", tokens=8192))
        assert type(one.storage_backend).__name__ == "HiCacheStorageFailureInjector"
        pool = one.mem_pool_host
        kept, loaded, failed = {}, 0, 0
        for number in range(30):
            tokens = list(range(1000 * number, 1000 * number + 4 * PAGE))
            if number % 3 == 0:
                indices = written(pool, 100 + number, 4)
                kept[number] = (tokens, pages_of(pool, indices), stage.write(one, tokens, indices))
                pool.free(indices)
            earlier = list(kept)[number // 3 % len(kept)]
            tokens, want, stored = kept[earlier]
            got = stage.prefetch(one, tokens)
            assert len(got) <= 4 * PAGE and all(torch.equal(a, b) for a, b in zip(pages_of(pool, got), want, strict=False))
            assert stored or not len(got), "what was not stored is not found"
            loaded, failed = loaded + bool(len(got)), failed + (not len(got))
            pool.free(got)
        assert loaded and failed, "both happened"
        one.detach_storage_backend()


def test_another_life_of_the_engine_finds_what_the_first_stored(node: Node) -> None:
    """The controller of two ranks, each a process, twice: they agree on what is loaded, and it is what was stored."""
    lives = []
    for _ in range(2):
        said = run_script("sglang_program.py", node.address, "2", modules=SGLANG)
        lives.append([json.loads(line) for line in re.findall(r"^RESULT (.*)$", said, re.MULTILINE)])
        node.restart()
    cold, warm = lives
    assert [rank["loaded"] for rank in cold] == [0, 0] and [rank["loaded"] for rank in warm] == [12 * PAGE] * 2
    assert [rank["digest"] for rank in warm] == [rank["digest"] for rank in cold]
    assert warm[0]["digest"] != warm[1]["digest"], "each rank has its own heads"


def test_the_document_says_what_runs(node: Node) -> None:
    """The configuration of docs/engines/sglang.md, word for word, through the server's own parser and factory."""
    text = (HERE.parents[2] / "docs/engines/sglang.md").read_text()
    (command,) = re.findall(r"```\n(python -m sglang.launch_server.*?)```", text, re.DOTALL)
    store = stage.from_command(command, node, mha("page_first"))
    keys, indices = hashes(1), written(store.mem_pool_host, 11, 1)
    assert store.batch_set_v1(keys, indices) == [True]
    store.close()


def test_a_newcomer_reaches_a_warm_second_run(place: Path) -> None:
    """The page's first steps, word for word."""
    start = Start("sglang.md", place)
    start.environment()
    with start.serving():
        said = [run_script(*program, modules=SGLANG) for program in start.programs()]
    assert "0 of 8 pages were there" in said[0] and "8 of 8 pages were there" in said[1]
