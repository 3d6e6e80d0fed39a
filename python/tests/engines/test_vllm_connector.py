"""vLLM on CPU with `ForebayConnector`: the tokens of an engine without it, whatever is stored and whatever happens to the node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from support import BLOCK_TOKENS, HERE, LENGTHS, VLLM, Node, run_script
from support import vllm_life as live

#: Whole blocks of each prompt, less one where nothing would be left to compute.
LOADABLE = [(length - 1) // BLOCK_TOKENS * BLOCK_TOKENS for length in LENGTHS]


def transfer(node: Node, **extra: Any) -> dict[str, Any]:
    return {
        "kv_connector": "ForebayConnector",
        "kv_connector_module_path": "forebay.integrations.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        # What is loaded is what is stored: a model so small computes as fast as it loads.
        "kv_connector_extra_config": {"address": node.address, "load_or_recompute": False, **extra},
    }


def test_a_new_engine_loads_all_whole_blocks_and_says_the_same(model_folder: Path, node: Node, plain: list[list[int]]) -> None:
    cold = live(model_folder, transfer=transfer(node))
    assert cold["tokens"] == [plain]
    assert cold["counts"]["loaded"] == 0 and cold["counts"]["refused"] == 0
    # Prompts two and three share four blocks.
    stored = sum(LENGTHS[i] // BLOCK_TOKENS for i in range(4)) - 4
    assert cold["counts"]["stored"] == stored, cold["line"]
    node.kill()
    node.start()
    warm = live(model_folder, transfer=transfer(node))
    assert warm["tokens"] == [plain]
    assert warm["cached"] == [LOADABLE]
    assert warm["counts"]["load_failed"] == 0 and warm["counts"]["loaded"] >= sum(LOADABLE) // BLOCK_TOKENS - 4, warm["line"]
    # And the node is killed while the next engine loads: what was promised is computed, and said all the same, in this turn and after it.
    killed = live(model_folder, "--kill-during-load", str(node.pid), "--turns", "2", transfer=transfer(node, load_deadline_ms=2000))
    assert killed["tokens"] == [plain, plain]
    assert killed["counts"]["load_failed"] > 0, "the node was killed in the middle of a load"


def test_an_engine_starts_and_serves_without_a_node(model_folder: Path, node: Node, plain: list[list[int]]) -> None:
    node.kill()
    alone = live(model_folder, transfer=transfer(node))
    assert alone["tokens"] == [plain]
    assert "the node is not there" in alone["line"]


def test_the_example_loads_the_second_time_it_is_run(model_folder: Path, node: Node) -> None:
    """With the engine in a process of its own, as vLLM has it unless it is told otherwise."""
    example = HERE.parents[2] / "examples/vllm_connector.py"
    said = [run_script(str(example), "--model", str(model_folder), "--connect", node.address, modules=VLLM) for _ in range(2)]
    told = [re.search(r"^(\d+) of 900 tokens were loaded, .* then (.*)$", text, re.MULTILINE) for text in said]
    assert all(told)
    assert [int(match.group(1)) for match in told] == [0, 899 // BLOCK_TOKENS * BLOCK_TOKENS]
    assert told[0].group(2) == told[1].group(2)
