"""`forebay why` with a real node: a run that never hits is told what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest
from conftest import Node, binary

import forebay

FIELDS = {"model": "llama", "weights": "ab" * 32, "block_tokens": 128, "hash": "xxhash"}


def run(node: Node, verb: str, *args: str, as_user: int | None = None) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    # Through a descriptor: another user may not see where the binary lies.
    with open(binary(), "rb") as opened:
        command = [f"/proc/self/fd/{opened.fileno()}", verb, "--connect", node.address, *args]
        return subprocess.run(
            command, env=plain, cwd="/", user=as_user, pass_fds=[opened.fileno()], capture_output=True, text=True, timeout=60
        )


def why(node: Node, *args: str) -> subprocess.CompletedProcess[str]:
    return run(node, "why", *args)


def told(node: Node, name: str) -> dict[str, Any]:
    done = why(node, "--namespace", name, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_with_another_seed_is_told_which_and_what_to_do(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000)
    first, second = (
        client.namespace(f"vllm-{seed}", create=True, fingerprint=forebay.Fingerprint(**FIELDS, hash_seed=f"PYTHONHASHSEED {seed}")) for seed in (0, 1)
    )
    keys = [first.key(f"block {number}".encode()) for number in range(40)]
    assert all(first.put(keys, [os.urandom(4096)] * 40))
    for _ in range(10):
        assert second.match_prefix(keys[:30]).n == 0
        assert first.match_prefix(keys).n == 40
    until = time.monotonic() + 60
    while told(own_node, "vllm-1")["lookups"] < 10:
        # A node publishes its figures a few times a second.
        assert time.monotonic() < until
        time.sleep(0.05)
    missing = told(own_node, "vllm-1")
    assert (missing["lookups"], missing["hits"], missing["stored"]) == (10, 0, 0), "what lies behind a gap is not asked"
    (near, *_) = missing["findings"]
    assert near["kind"] == "near_miss"
    assert near["what"].startswith("10 lookups match the existing namespace vllm-0 in all but `hash_seed`: hash_seed is")
    assert "PYTHONHASHSEED" in near["next"] and "sha256" in near["next"]
    assert [finding["kind"] for finding in told(own_node, "vllm-0")["findings"]] == ["nothing"]

    shown = why(own_node, "--namespace", "vllm-1").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "0 of 10 lookups hit (0.0 %); 0 put, 0 B held" in shown and "  1. 10 lookups match" in shown and "  -> Set PYTHONHASHSEED" in shown
    # All that were asked for, without naming one.
    assert [line for line in why(own_node).stdout.splitlines() if line.startswith("vllm-")] == ["vllm-0", "vllm-1"]


def test_a_namespace_that_is_not_there_is_told_with_those_that_are(own_node: Node) -> None:
    forebay.Client(own_node.address).namespace("there", create=True)
    done = why(own_node, "--namespace", "elsewhere")
    assert done.returncode == 1 and "there is no namespace" in done.stderr and "there" in done.stderr
    unasked = told(own_node, "there")
    assert [finding["kind"] for finding in unasked["findings"]] == ["unasked"]


def test_what_was_evicted_is_told_apart_from_what_never_was(own_node: Node) -> None:
    mine = forebay.Client(own_node.address, deadline_ms=60_000)
    space = mine.namespace("small", create=True, quota=4 << 20)
    keys = [space.key(f"block {number}".encode()) for number in range(300)]
    for at in range(0, 300, 10):
        assert all(space.put(keys[at : at + 10], [os.urandom(64 << 10)] * 10))
    until = time.monotonic() + 60
    while "evicted" not in {finding["kind"] for finding in told(own_node, "small")["findings"]}:
        assert time.monotonic() < until
        space.contains(keys)
    (evicted,) = [finding for finding in told(own_node, "small")["findings"] if finding["kind"] == "evicted"]
    assert "quota" in evicted["next"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as another user")
def test_another_tenants_namespaces_are_not_told(own_node: Node) -> None:
    """The tenant is the user at the other end of the socket. Who may open the socket at all is a question of its mode, which is 0600; here all may."""
    mine = forebay.Client(own_node.address, deadline_ms=60_000).namespace("mine", create=True)
    assert all(mine.put([mine.key(b"block")], [b"kv"])) and mine.match_prefix([mine.key(b"block")]).n == 1
    for path, mode in ((own_node.place / "s", 0o666), (own_node.place, 0o755), (own_node.place.parent, 0o755)):
        path.chmod(mode)
    others = 65_534
    file = own_node.place / "file"
    file.write_bytes(b"theirs")
    file.chmod(0o644)
    stored = run(own_node, "put", str(file), as_user=others)
    assert stored.returncode == 0, stored.stderr
    asked = run(own_node, "why", "--namespace", "mine", as_user=others)
    assert asked.returncode == 1 and "there is no namespace" in asked.stderr and "there are default" in asked.stderr, asked.stderr

    def counted(as_user: int | None) -> set[str]:
        """Namespaces whose counts the node tells this user: what `why` is made of."""
        stats = json.loads(run(own_node, "stat", "--json", as_user=as_user).stdout)
        return {space["name"] for space in stats["namespaces"]}

    until = time.monotonic() + 60
    while counted(None) != {"mine"} or counted(others) != {"default"}:
        assert time.monotonic() < until, (counted(None), counted(others))
        time.sleep(0.05)
    assert told(own_node, "mine")["stored"] == 1
