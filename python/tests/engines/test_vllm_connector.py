"""vLLM on CPU with `ForebayConnector`: the tokens of an engine without it, whatever is stored and whatever happens to the node."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from support import BLOCK_TOKENS, IN_PROCESSES, LENGTHS, OF_ANOTHER_VERSION, PATIENCE_S, Node, NodeOfAnotherVersion, documented, puts_on_drive
from support import vllm_life as live

import forebay
from forebay.integrations._decide import Reason

#: Tokens of each prompt's whole blocks; and of those that are found in any case: an engine that has all but a prompt's last block computes that one.
WHOLE = [length // BLOCK_TOKENS * BLOCK_TOKENS for length in LENGTHS]
LOADABLE = [(length - 1) // BLOCK_TOKENS * BLOCK_TOKENS for length in LENGTHS]


def is_all(cached: list[int]) -> bool:
    """Whether a turn found all there is. The third prompt is the second's beginning and one block more."""
    return all(tokens in (least, most) for tokens, least, most in zip(cached, LOADABLE, WHOLE, strict=True))


def reconciled(node: Node, cached: int) -> dict[str, int]:
    """What `forebay stat` makes of the engine's own sum of cached tokens, as soon as all of it is explained: adapters report once a second."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    command = [os.environ["FOREBAY_BINARY"], "stat", "--usage", "--json", "--connect", node.address, "--cached-tokens", str(cached)]
    until = time.monotonic() + PATIENCE_S
    while True:
        told: dict[str, int] = json.loads(subprocess.run(command, env=plain, check=True, capture_output=True, text=True).stdout)["reconciled"]
        if told["difference_tokens"] == 0 or time.monotonic() > until:
            return told
        time.sleep(0.1)


def transfer(node: Node, **extra: Any) -> dict[str, Any]:
    return {
        "kv_connector": "ForebayConnector",
        "kv_connector_module_path": "forebay.integrations.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        # What is loaded is what is stored: a model so small computes as fast as it loads, and no machine is too slow for these deadlines.
        "kv_connector_extra_config": {"address": node.address, "load_or_recompute": False, "lookup_deadline_ms": 20_000, "load_deadline_ms": 60_000, **extra},
    }


def test_a_new_engine_loads_all_whole_blocks_and_says_the_same(model_folder: Path, node: Node, place: Path, plain: list[list[int]]) -> None:
    # What the document says, but for the address.
    said = documented("vllm.md", "ForebayConnector")
    said["kv_connector_extra_config"]["address"] = node.address
    # What was stored is told with the next turn's steps, and after the one before the last its weights may be others.
    cold = live(model_folder, "--turns", "3", "--then-reset", "--events", str(place), transfer=said)
    assert cold["tokens"] == [plain, plain, plain]
    assert cold["loaded"][0] == 0 and cold["counts"]["refused"] == 0
    # Prompts two and three share four blocks.
    stored = sum(LENGTHS[i] // BLOCK_TOKENS for i in range(4)) - 4
    assert cold["counts"]["stored"] == 2 * stored and cold["loaded"][2] == cold["loaded"][1] and cold["cached"][2][:2] == [0, 0], cold
    # In vLLM's own batches, each with the number behind the one before: a router sees what it missed.
    assert cold["events"]["unknown"] == 0, "blocks have the names that vLLM's own events give them"
    assert cold["events"]["stored"] >= stored and len(cold["events"]["numbers"]) > 1, cold["events"]
    assert cold["events"]["numbers"] == list(range(len(cold["events"]["numbers"]))), cold["events"]
    # vLLM's own count of cached tokens is what the adapter reported, to the token: what was loaded is used, the rest the engine had.
    cached, used = sum(map(sum, cold["cached"])), cold["counts"]["loaded"] * BLOCK_TOKENS
    assert reconciled(node, cached) == {"api_cached_tokens": cached, "engine_tokens": cached - used, "used_tokens": used, "difference_tokens": 0}
    node.restart()
    warm = live(model_folder, transfer=transfer(node, record=str(place / "record")))
    assert warm["tokens"] == [plain]
    (record,) = (place / "record").iterdir()
    recorded = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["input_length"] for line in recorded] == list(LENGTHS) and [line["output_length"] for line in recorded] == [len(tokens) for tokens in plain]
    assert [len(line["hash_ids"]) for line in recorded] == [-(-(length // BLOCK_TOKENS * BLOCK_TOKENS) // 512) for length in LENGTHS]
    assert all(map(is_all, warm["cached"])), warm["cached"]
    assert warm["counts"]["load_failed"] == 0 and warm["counts"]["loaded"] >= sum(LOADABLE) // BLOCK_TOKENS - 4, warm["line"]
    # And over two engines and a node that was killed between them nothing is left to explain.
    cached, used = cached + sum(warm["cached"][0]), used + warm["counts"]["loaded"] * BLOCK_TOKENS
    assert reconciled(node, cached) == {"api_cached_tokens": cached, "engine_tokens": cached - used, "used_tokens": used, "difference_tokens": 0}
    # As much as is worth it and as fits a request's deadline: of what takes 0.1 s a block, two in 250 ms, or one where the lookup stood in line.
    decided = live(model_folder, "--turns", "2", "--then-slow", transfer=transfer(node, load_or_recompute=True, lookup_deadline_ms=250, prefill_s=[0, 10, 0]))
    assert decided["tokens"] == [plain, plain]
    assert is_all(decided["cached"][0]) and max(decided["cached"][1][:3]) <= 2 * BLOCK_TOKENS
    assert decided["reasons"][Reason.UNKNOWN] == 3 and sum(decided["reasons"].values()) == 6, decided["reasons"]
    assert decided["reasons"][Reason.PART] >= 2, decided["reasons"]
    # And the node is killed while the next engine loads: what was promised is computed, and said all the same, in this turn and after it.
    killed = live(model_folder, "--kill-during-load", str(node.pid), "--turns", "2", transfer=transfer(node, load_deadline_ms=2000))
    assert killed["tokens"] == [plain, plain]
    assert killed["counts"]["load_failed"] > 0, "the node was killed in the middle of a load"


def test_an_engine_starts_and_serves_without_a_node_or_with_one_of_another_version(model_folder: Path, node: Node, place: Path, plain: list[list[int]]) -> None:
    node.kill()
    alone = live(model_folder, transfer=transfer(node))
    assert alone["tokens"] == [plain]
    assert "the node is not there" in alone["line"]
    with NodeOfAnotherVersion(place) as other:
        refused = live(model_folder, transfer=transfer(other))
    assert refused["tokens"] == [plain]
    (said,) = [line for line in refused["said"] if OF_ANOTHER_VERSION[0] in line]
    assert all(part in said for part in OF_ANOTHER_VERSION), said


def test_each_rank_loads_its_own_part_and_another_number_of_ranks_loads_none(model_folder: Path, node: Node, plain: list[list[int]]) -> None:
    """Scheduler and workers in processes of their own, as vLLM has them unless it is told otherwise."""
    blocks = sum(LENGTHS[i] // BLOCK_TOKENS for i in range(4)) - 4
    stored = ("--then-stored", node.address, str(2 * blocks))
    two = live(model_folder, "--tp", "2", "--turns", "2", *stored, transfer=transfer(node), **IN_PROCESSES)
    assert is_all(two["cached"][1]), two["cached"]
    assert two["tokens"][0] == two["tokens"][1]
    one = live(model_folder, transfer=transfer(node))
    assert one["tokens"] == [plain] and one["counts"]["loaded"] == 0, "heads are dealt out otherwise"
    assert one["counts"]["stored"] == blocks
    names = {space["name"]: space["put"]["stored"] for space in forebay.Client(node.address).node_stats()["namespaces"]}
    assert sorted(names.values()) == [blocks, 2 * blocks], names
    node.end()
    puts = puts_on_drive(node)
    assert len(puts) == 3 * blocks and all(put.tokens == BLOCK_TOKENS and put.chain for put in puts.values())
    # Each but the heads is behind one that is there, of the same sequence and one place before it: the store sees chains, not single blocks.
    before = {(put.namespace, stored[:8]): put for (_, stored), put in puts.items()}
    behind = [put for put in puts.values() if put.position]
    assert len(behind) == 3 * (blocks - 2), "three prompts have whole blocks, and two of them begin alike"
    for put in behind:
        parent = before[put.namespace, put.parent]
        assert (parent.chain, parent.position) == (put.chain, put.position - 1)


def test_beside_another_connector_each_loads_what_it_has(model_folder: Path, node: Node, place: Path, plain: list[list[int]]) -> None:
    """vLLM's `MultiConnector` with a connector that takes over whole prompts, as one between prefill and decode does, and ours behind it."""
    shared = place / "shared"
    shared.mkdir()
    # What the document says, but for the address, and with vLLM's own example in the place of NIXL's, which needs its library and a peer.
    both = documented("vllm.md", "MultiConnector")
    other, mine = both["kv_connector_extra_config"]["connectors"]
    other |= {"kv_connector": "ExampleConnector", "kv_connector_extra_config": {"shared_storage_path": str(shared)}}
    mine["kv_connector_extra_config"] |= {"address": node.address, "load_or_recompute": False}
    blocks = sum(LENGTHS[i] // BLOCK_TOKENS for i in range(4)) - 4
    stored = ("--then-stored", node.address, str(blocks), "--then-empty", str(shared))
    said = live(model_folder, "--turns", "3", *stored, transfer=both)
    assert said["tokens"] == [plain, plain, plain]
    # The other has forgotten everything in the second turn, and has all of it again in the third.
    first, second, third = said["loaded"]
    # Prompts two and three share four blocks, which the engine may have itself when the third asks.
    assert all(map(is_all, said["cached"][1:])) and first == 0 and second >= sum(LOADABLE) // BLOCK_TOKENS - 4, said
    assert third == second, said
    assert said["counts"]["load_failed"] == 0
