"""A whole vLLM engine whose node is hurt: it says what it would say without Forebay, nothing of Forebay's raises into it, and no step waits."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from support import VLLM, run_script

#: Seconds that the adapter may take of one step. It never waits for the node in one, and its shortest deadline is 3 s; a machine that does ten
#: other things stretches what it does do.
STEP_S_MAX = 1.5


def life(model_folder: Path, folder: Path, *args: str) -> dict[str, Any]:
    """What vllm_faults.py says at its end."""
    said = run_script("vllm_faults.py", "--model", str(model_folder), "--folder", str(folder), *args, modules=VLLM)
    (line,) = re.findall(r"^RESULT (.*)$", said, re.MULTILINE)
    return json.loads(line)


def check(said: dict[str, Any], plain: list[list[int]], what: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """What holds in each turn, whatever happened in it. Its counts, by its name."""
    for turn in said["turns"]:
        assert turn["tokens"] == [tokens[:4] for tokens in plain[: len(turn["tokens"])]], f"other tokens when {turn['name']}"
    assert said["complaints"] == [], "something of Forebay's raised"
    steps = [step for turn in said["turns"] for step in turn["steps"]]
    own = sorted(own for _, own, _ in steps)
    computing = sorted(own for _, own, executed in steps if executed)
    p99, p99_computing = (some[len(some) * 99 // 100] for some in (own, computing))
    slowest = max(said["turns"], key=lambda turn: turn["seconds"])
    with capsys.disabled():
        print(
            f"\n{what} under faults: {len(steps)} steps, {len(computing)} of them with tokens, the slowest "
            f"{1000 * max(step for step, _, _ in steps):.1f} ms; of a step the adapter took {1000 * p99:.2f} ms at p99 "
            f"({1000 * p99_computing:.2f} ms of those with tokens) and {1000 * own[-1]:.2f} ms at most; the slowest turn ({slowest['name']}) "
            f"{slowest['seconds']:.2f} s"
        )
    assert own[-1] < STEP_S_MAX
    return {turn["name"]: turn["counts"] | {"held": turn.get("held")} for turn in said["turns"]}


@pytest.mark.parametrize("kind", ["connector", "tier"])
def test_the_node_is_full_stopped_killed_and_restarted(kind: str, model_folder: Path, plain: list[list[int]], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = life(model_folder, place, "--kind", kind)
    turns = check(said, plain, f"the {kind}", capsys)
    assert turns["full"]["refused"] > 0 and turns["full"]["stored"] == 0
    assert turns["cold"]["stored"] > 0 and turns["cold"]["refused"] == 0, "and is written to again when there is room"
    warm = turns["warm"]["loaded"]
    assert warm > 0
    for hurt in ("stopped", "killed"):
        assert turns[hurt]["load_failed"] > 0, "it was under way"
    assert turns["dead"]["loaded"] == 0
    for name in ("after stopped", "after killed", "after restarted"):
        assert turns[name]["loaded"] == warm and turns[name]["load_failed"] == 0, f"{name}: {turns[name]}"
    assert said["during"] == 3


def test_bits_change_on_the_way_and_the_quota_is_small(model_folder: Path, plain: list[list[int]], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over TCP, through somebody who flips bits in what the node says."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = life(model_folder, place, "--kind", "connector", "--tcp", str(port), "--quota")
    turns = check(said, plain, "the connector over TCP", capsys)
    assert 0 < turns["quota"]["held"] <= 3 * (132 << 10) and turns["quota"]["stored"] > 3, turns["quota"]
    assert turns["warm"]["loaded"] > 0
    assert turns["payload"]["load_failed"] > 0, "what is wrong is computed, and not used"
    assert turns["all"]["loaded"] == 0
    assert turns["after"]["loaded"] > 0 and turns["after"]["load_failed"] == 0, "and the next connection is as good as the first"
