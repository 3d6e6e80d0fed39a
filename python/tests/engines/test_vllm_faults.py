"""A whole vLLM engine whose node is hurt: it says what it would say without Forebay, nothing of Forebay's raises into it, and no step waits."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from support import CLOSING, VLLM, run_script

#: What a step may take beyond its deadline, at p99, on a machine that does nothing else.
BEYOND_MS = 10.0


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
    lines = [f"{'fault':16} {'deadline':>9} {'p99':>9} {'most':>9} {'asleep p99':>11} {'steps':>6} {'the slowest step':>17} {'turn':>8}"]
    waited, brief = [], []
    for turn in said["turns"]:
        own, late = sorted(1000 * own for _, own, _ in turn["steps"]), sorted(1000 * late for late in turn["late"])
        assert own and late, turn["name"]
        (own_p99, late_p99) = (some[len(some) * 99 // 100] for some in (own, late))
        slowest = 1000 * max(step for step, _, _ in turn["steps"])
        lines.append(
            f"{turn['name']:16} {turn['deadline_ms']:6.0f} ms {own_p99:6.2f} ms {own[-1]:6.2f} ms {late_p99:8.2f} ms {len(own):6} {slowest:14.1f} ms {turn['seconds']:6.2f} s"
        )
        brief.append(f"{turn['name']} {own_p99:.2f}, {own[-1]:.2f} ({turn['deadline_ms']:.0f})")
        if own_p99 > turn["deadline_ms"] + BEYOND_MS + late_p99:
            waited.append(turn["name"])
    with capsys.disabled():
        print(f"\n{what} under faults: what it took of the engine's steps, and how late a thread was that merely slept\n" + "\n".join(lines))
    CLOSING.append(f"{what} under faults, of a step at p99 and at most, and the deadline, in ms: {'; '.join(brief)}")
    assert waited == [], "a step waited"
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
    assert turns["silent"]["loaded"] == turns["silent"]["load_failed"] == 0, "it was not asked for anything that it could have promised"
    for name in ("after stopped", "after silent", "after killed", "after restarted"):
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
