"""`LmcacheClient` under LMCache's own adapter, keys and memory objects: what one process stored, another one finds and loads."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.l2_adapters.config import get_type_name_for_config
from lmcache.v1.distributed.l2_adapters.native_plugin_l2_adapter import NativePluginL2AdapterConfig, _create_native_plugin_l2_adapter
from lmcache.v1.distributed.l2_adapters.native_connector_l2_adapter import _object_key_to_string
from lmcache.v1.memory_allocators.ad_hoc_memory_allocator import AdHocMemoryAllocator
from pages import Start
from support import OF_A_FULL_QUOTA, OF_ANOTHER_VERSION, PATIENCE_S, Lines, Node, NodeOfAnotherVersion, wait_for

import forebay
from forebay.integrations import lmcache

SHAPE = torch.Size([2, 4, 16, 64])


def adapter(node: Node, **more: Any) -> Any:
    config = NativePluginL2AdapterConfig.from_dict(
        {
            "module_path": "forebay.integrations.lmcache",
            "class_name": "LmcacheClient",
            "adapter_params": {"address": node.address, "weights_digest": "one", **more},
        }
    )
    assert get_type_name_for_config(config) == "native_plugin"
    return _create_native_plugin_l2_adapter(config)


@pytest.fixture
def one(node: Node) -> Iterator[Any]:
    one = adapter(node)
    yield one
    one.close()


def chunk(seed: int | None) -> Any:
    memory = AdHocMemoryAllocator("cpu").allocate(SHAPE, torch.bfloat16)
    memory.tensor.copy_(torch.zeros(SHAPE) if seed is None else torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)))
    return memory


def keys(count: int, salt: str = "") -> list[ObjectKey]:
    return [ObjectKey(bytes([number]) * 16, "a/model", 0, cache_salt=salt) for number in range(count)]


def await_fd(fd: int, answer: Any) -> Any:
    """LMCache's way to wait: the descriptor, then the question."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(1000 * PATIENCE_S), "nothing came"
    os.read(fd, 8)
    return answer()


def store(to: Any, of: list[ObjectKey], chunks: list[Any]) -> bool:
    task = to.submit_store_task(of, chunks)
    return bool(await_fd(to.get_store_event_fd(), to.pop_completed_store_tasks)[task].is_successful())


def found(at: Any, of: list[ObjectKey]) -> list[bool]:
    task = at.submit_lookup_and_lock_task(of, {0: MemoryLayoutDesc([SHAPE], [torch.bfloat16])})
    bitmap = await_fd(at.get_lookup_and_lock_event_fd(), lambda: at.query_lookup_and_lock_result(task))
    return [bitmap.test(number) for number in range(len(of))]


def load(at: Any, of: list[ObjectKey], into: list[Any]) -> list[bool]:
    task = at.submit_load_task(of, into)
    bitmap = await_fd(at.get_load_event_fd(), lambda: at.query_load_result(task))
    return [bitmap.test(number) for number in range(len(of))]


def test_what_one_stored_another_finds_and_loads(node: Node, one: Any) -> None:
    chunks = [chunk(seed) for seed in range(3)]
    assert store(one, keys(3), chunks)
    node.restart()
    two = adapter(node)
    assert found(two, keys(4)) == [True, True, True, False]
    into = [chunk(None) for _ in range(4)]
    assert load(two, keys(4), into) == [True, True, True, False], "each key has its own answer"
    for ours, theirs in zip(into, chunks, strict=False):
        assert torch.equal(ours.tensor, theirs.tensor)
    two.close()


def test_salts_and_weights_do_not_mix(node: Node, one: Any) -> None:
    assert store(one, keys(1), [chunk(1)])
    assert found(one, keys(1, salt="somebody")) == [False]
    other = adapter(node, weights_digest="two")
    assert found(other, keys(1)) == [False]
    other.close()


def test_each_salt_is_a_namespace_with_a_quota_of_its_own(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmcache, "SALTS_MAX", 2)
    one = adapter(node, quota=8 << 20)
    salts = ("", "ada", "bob", "eve")
    mixed = [key for salt in salts for key in keys(2, salt)]
    chunks = [chunk(seed) for seed in range(len(mixed))]
    # Before any of them is open, and in one call: it is answered when all are.
    assert found(one, mixed) == [False] * 8
    assert store(one, mixed, chunks)
    into = [chunk(None) for _ in mixed]
    assert load(one, mixed, into) == [True] * 8
    assert all(torch.equal(ours.tensor, theirs.tensor) for ours, theirs in zip(into, chunks, strict=True))
    base = one._client._link.name
    counted = {space["name"]: space["put"]["stored"] for space in forebay.Client(node.address).node_stats()["namespaces"]}
    own = {salt: f"{base}-{hashlib.sha256(salt.encode()).hexdigest()[:16]}" for salt in salts}
    assert counted == {base: 4, own["ada"]: 2, own["bob"]: 2}, "the last one found none left, and shares"
    assert all(space["quota"] == 8 << 20 for space in forebay.Client(node.address).namespaces())
    one.delete([*keys(1, "ada"), *keys(1, "eve")])
    assert found(one, mixed) == [True, True, False, True, True, True, False, True]
    one.close()
    again = adapter(node, quota=8 << 20)
    assert found(again, keys(2, "bob")) == [True, True], "what another process stored is found at the first question"
    again.close()


def test_what_is_in_no_weight_is_another_namespace_too(node: Node, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    names = []
    for theta in (10_000, 10_000, 20_000):
        (tmp_path / "config.json").write_text(json.dumps({"rope_theta": theta}))
        client = lmcache.LmcacheClient(address=node.address, weights=str(tmp_path))
        names.append(client._link.name)
        client.close()
    assert names[0] == names[1] != names[2]


def test_what_is_deleted_is_gone(one: Any) -> None:
    assert store(one, keys(2), [chunk(1), chunk(2)])
    one.delete(keys(1))
    assert found(one, keys(2)) == [False, True]


def test_what_lmcaches_memory_has_is_not_kept_in_the_nodes_as_well(node: Node, one: Any) -> None:
    other = adapter(node, weights_digest="two", l1_keeps=False)
    for each, tiers in ((one, {"nvme"}), (other, {"dram"})):
        assert store(each, keys(8), [chunk(seed) for seed in range(8)])
        node.await_writes()
        space, client = each._client._link.namespace, each._client._link.client
        names = space.keys([_object_key_to_string(key).encode() for key in keys(8)])
        wait_for(lambda tiers=tiers, space=space, names=names: set(space.contains(names)) == tiers)
        assert sum(shard["dram_duplicate_bytes"] for shard in client.node_stats()["shards"]) == 0
    other.close()


def test_a_dead_node_is_a_miss(node: Node, one: Any) -> None:
    assert store(one, keys(1), [chunk(1)])
    node.kill()
    assert found(one, keys(1)) == [False]
    assert load(one, keys(1), [chunk(None)]) == [False]
    assert not store(one, keys(1), [chunk(1)])
    never = adapter(node)
    assert found(never, keys(1)) == [False] and not store(never, keys(1), [chunk(1)])
    never.close()


def serves_without(one: Any) -> None:
    """All is missed, and LMCache is told at once."""
    assert found(one, keys(2)) == [False, False]
    assert not store(one, keys(2), [chunk(1), chunk(2)])
    assert load(one, keys(2), [chunk(None), chunk(None)]) == [False, False]
    one.close()


def test_a_node_of_another_version_is_said_once_and_the_engine_serves(place: Path) -> None:
    with NodeOfAnotherVersion(place) as other:
        with Lines(lmcache._LOGGER.name) as lines:
            serves_without(adapter(other))
        lines.only(*OF_ANOTHER_VERSION)
        with pytest.raises(forebay.VersionMismatch):
            adapter(other, strict=True)


def test_a_full_quota_is_said_once_and_the_engine_serves(node: Node) -> None:
    with Lines(lmcache._LOGGER.name) as lines:
        serves_without(adapter(node, quota=4096))
    lines.only(*OF_A_FULL_QUOTA)


def test_lmcaches_own_checker_passes(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """The check of L2 adapters that ships in LMCache's wheel: absent, stored, found, loaded, and compared with what was stored."""
    config = {
        "type": "native_plugin",
        "module_path": "forebay.integrations.lmcache",
        "class_name": "LmcacheClient",
        "adapter_params": {"address": node.address, "weights_digest": "check"},
    }
    count = 16
    asked = ["--mode", "test_l2_adapter", "--num-keys", str(count), "--obj-size", str(1 << 18), "--l2-adapter", json.dumps(config)]
    said = ran([sys.executable, "-m", "lmcache.v1.basic_check", *asked])
    assert re.findall(r"Validation.*?: (\d+)/(\d+)", said) == [(str(count), str(count))] * 4, said
    assert "Batch store OK" in said and "FAIL" not in said.upper().replace("0 FAIL", ""), said
    with capsys.disabled():
        print(f"\nLMCache's check of its L2 adapters, {count} chunks of 1 MiB:")
        print("\n".join(line for line in said.splitlines() if re.search(r"LOOKUP|STORE|LOAD", line)))


def test_lmcaches_own_bench_reads_back_what_it_stored(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of docs/engines/lmcache.md, as it stands there but for the address."""
    text = (Path(__file__).parents[3] / "docs/engines/lmcache.md").read_text()
    (command,) = re.findall(r"```\n(lmcache bench l2 .*?)```", text, re.DOTALL)
    program, *asked = shlex.split(command.replace("unix:/run/user/1000/forebay.sock", node.address))
    assert program == "lmcache"
    said = ran([sys.executable, "-m", "lmcache.cli.main", *asked])
    assert re.search(r"\[Verify\] All \d+ keys data verified OK", said), said
    with capsys.disabled():
        print("\nLMCache's bench of its L2 adapters:")
        print("\n".join(line for line in said.splitlines() if "B/s" in line or "Verify" in line))


def test_a_newcomer_reaches_a_warm_second_run(place: Path) -> None:
    """The page's first steps, word for word."""
    start = Start("lmcache.md", place)
    start.environment()
    with start.serving():
        said = [ran([sys.executable, *program]) for program in start.programs()]
    assert "0 of 8 chunks were there" in said[0] and "8 of 8 chunks were there" in said[1]
    first = [re.search(r"the first chunk begins with (.*)", text) for text in said]
    assert all(first) and first[0].group(1) == first[1].group(1)
    assert "garbage collected" not in said[0] + said[1], "its memory is given back"


def ran(command: list[str]) -> str:
    """What it printed, if it ended well."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE_S)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, ("weights", "not named", "adapter_params")),
        ({"weights": "/nowhere/to/be/found"}, ("/nowhere/to/be/found", "weights_digest")),
        ({"weights": "a folder nobody may read"}, ("Permission denied", "weights_digest")),
        ({"weights_digest": "one", "adress": "unix:/x"}, ("'adress'", "does not know", "address, ")),
        ({"weights_digest": "one", "deadline_ms": "soon"}, ("deadline_ms", "milliseconds", "'soon'")),
    ],
)
def test_what_cannot_be_is_said_once_and_the_engine_serves(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: tuple[str, ...]
) -> None:
    if "Permission denied" in said:
        # Nothing is forbidden to who runs the tests as root.
        def refuse(path: str) -> str:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr("forebay.fingerprint.weights_digest", refuse)
    with Lines(lmcache._LOGGER.name) as lines:
        serves_without(adapter(node, **{"weights_digest": None, **given}))
    lines.only(*said, "serves without it")
    with pytest.raises(ValueError, match=re.escape(said[0])):
        adapter(node, **{"weights_digest": None, **given}, strict=True)


def test_it_says_how_it_goes_each_minute_in_which_something_happened_and_at_the_end(node: Node) -> None:
    with Lines(lmcache._LOGGER.name, logging.INFO) as lines:
        client = lmcache.LmcacheClient(address=node.address, weights_digest="one", model="llama")
        poll = select.poll()
        poll.register(client.event_fd(), select.POLLIN)

        def done() -> None:
            assert poll.poll(1000 * PATIENCE_S), "nothing came"
            assert all(whole for _, whole, _, _ in client.drain_completions())

        client.submit_batch_set(["a"], [memoryview(bytearray(b"chunk"))])
        done()
        client.submit_batch_get(["a", "b"], [memoryview(bytearray(5)), memoryview(bytearray(5))])
        done()
        own = [line for line in lines.said if line.startswith("forebay: namespace")]
        assert own == [], "a minute is not over"
        for _ in range(3):
            # It is, three times, and nothing happened in the second and third.
            client._report._next = 0.0
            client.drain_completions()
        client.close()
    own = [line for line in lines.said if line.startswith("forebay: namespace")]
    assert len(own) == 2 and own[0] == own[1], own
    name = client._link.name
    assert f"namespace {name} (model llama, weights one): " in own[0] and "50.0 % of 2 blocks asked for were hits, 1 loaded, 1 stored" in own[0], own
