"""`forebay why` with a real node: a run that never hits is told what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

from conftest import ROOT, Node

import forebay

FIELDS = {"model": "llama", "weights": "ab" * 32, "block_tokens": 128, "hash": "xxhash"}


def why(node: Node, *args: str) -> subprocess.CompletedProcess[str]:
    binary = os.environ.get("FOREBAY_BINARY") or str(ROOT / "target" / "debug" / "forebay")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    return subprocess.run([binary, "why", "--connect", node.address, *args], env=plain, capture_output=True, text=True, timeout=60)


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
