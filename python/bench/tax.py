"""What Forebay costs an engine that never finds anything: CPU seconds of engine and node together, against the engine alone.

Two engines live at once and take turns with the same prompts, each of which is new to all: one has no connector; the other has one, and each request
says whether it is looked up only, or stored too. CPU seconds, not time: so a busy machine matters less. Whoever goes first changes pair by pair. A process
may be a per cent dearer than its twin all its life, by where its memory came to lie, so both are started anew now and then. Beside it stands what the node
and the client's own threads took, which is a count and no difference; what hooks take in the engine's threads is not in it (see `calls`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchlib import HERE, Child, Node, cpu_s, descendants, ends_tidily, folder, measured, say, version
from model import VOCABULARY, make
from ttft import connector

TOKENS = 2048
#: Prompts of one turn.
PROMPTS = 2
#: What is on its way when a request ends is part of what it costs.
SETTLE_S = 0.3
#: It ends when the interval is narrower than this, in percent of the engine's CPU seconds, and not before so many pairs.
WIDTH_PERCENT, PAIRS_MIN = 1.0, 12
#: Pairs of two engines' lives.
LIFE_PAIRS = 6

MODES: dict[str, dict[str, Any] | None] = {
    "alone": None,
    "lookups alone": {"forebay": {"skip_write": True}},
    "with puts": {"forebay": {}},
}


def engine(name: str, transfer: dict[str, Any] | None) -> Child:
    """One process each, with the smallest KV memory there is: two live at once."""
    say(f"tax: an engine, {name}")
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([os.environ["FOREBAY_SITE"], str(HERE)]),
        "PYTHONHASHSEED": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, str(HERE / "vllm_life.py"), "--model", str(folder() / "model"), "--max-tokens", str(TOKENS)]
    return Child(name, command + (["--transfer", json.dumps(transfer)] if transfer else []), env)


def interval(samples: list[float]) -> tuple[float, float, float]:
    """Mean, and its 95 % interval by Student's t."""
    mean = statistics.fmean(samples)
    if len(samples) < 2:
        return mean, -math.inf, math.inf
    # The 97.5 % quantile of t, to three digits from 4 degrees of freedom on (Cornish-Fisher around the normal's).
    n, z = len(samples) - 1, 1.959964
    t = z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2) + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    half = t * statistics.stdev(samples) / math.sqrt(len(samples))
    return mean, mean - half, mean + half


def own_s(engine_pids: list[int], node_pid: int) -> float:
    """CPU seconds of the node and of the client's threads in the engine. A thread that has ended is not in it."""
    total = cpu_s([node_pid])
    for pid in engine_pids:
        for task in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                if (task / "comm").read_text().startswith("forebay"):
                    total += int((task / "schedstat").read_text().split()[0]) / 1e9
    return total


class Tax:
    """See the module."""

    def __init__(self) -> None:
        make(folder() / "model")
        self.node = Node("node-tax")
        self.engines: dict[str, Child] = {}
        self.chance = random.Random(11)
        #: Percent of the engine's CPU seconds, by mode.
        self.taxes: dict[str, list[float]] = {mode: [] for mode in MODES if mode != "alone"}
        self.alone_s: list[float] = []
        #: The same of what the node and the client's threads took.
        self.own: dict[str, list[float]] = {mode: [] for mode in self.taxes}

    def begin(self, is_alone_first: bool) -> None:
        """Two new engines, and a pair that does not count: the first turns of a process are slower, whoever's they are."""
        self.end_engines()
        names = ["alone", "forebay"] if is_alone_first else ["forebay", "alone"]
        self.engines = {name: engine(name, None if name == "alone" else connector(self.node.address)) for name in names}
        self.pair(-1)

    def end_engines(self) -> None:
        """In order."""
        for life in self.engines.values():
            life.end()
        self.engines = {}

    def turn(self, mode: str, prompts: list[list[int]]) -> tuple[float, float]:
        """CPU seconds of some prompts, and how many of them were the node's and the client's threads'."""
        life = self.engines["alone" if mode == "alone" else "forebay"]
        engine_pids = descendants(life.pid)
        pids = engine_pids + ([] if mode == "alone" else [self.node.pid])
        begun, own_begun = cpu_s(pids), own_s(engine_pids, self.node.pid)
        for tokens in prompts:
            said = life.ask(op="prompt", tokens=tokens, params=MODES[mode])
            if said["cached"]:
                raise RuntimeError(f"{mode}: {said['cached']} tokens were found, and nothing should have been")
        time.sleep(SETTLE_S)
        return cpu_s(pids) - begun, own_s(engine_pids, self.node.pid) - own_begun

    def pair(self, number: int) -> None:
        """Every mode, with the same prompts. What one mode has stored no other may find: the first tokens differ."""
        prompts = [[self.chance.randrange(3, VOCABULARY) for _ in range(TOKENS)] for _ in range(PROMPTS)]
        modes = list(MODES)
        modes = modes[number % 3 :] + modes[: number % 3]
        spent = {mode: self.turn(mode, [[3 + list(MODES).index(mode), *tokens[1:]] for tokens in prompts]) for mode in modes}
        if number < 0:
            return
        alone_s = spent["alone"][0]
        self.alone_s.append(alone_s)
        for mode, taxes in self.taxes.items():
            taxes.append(100 * (spent[mode][0] / alone_s - 1))
            self.own[mode].append(100 * spent[mode][1] / alone_s)

    def known(self) -> bool:
        """Whether more pairs would tell nothing new."""
        some = list(self.taxes.values())
        return len(some[0]) >= PAIRS_MIN and all(interval(taxes)[2] - interval(taxes)[1] < WIDTH_PERCENT for taxes in some)

    def end(self) -> None:
        """In order."""
        self.end_engines()
        self.node.end()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    asked = parser.parse_args()
    ends_tidily()
    tax = Tax()
    with measured("tax"):
        for number in range(asked.pairs):
            if number % LIFE_PAIRS == 0:
                tax.begin(is_alone_first=number % (2 * LIFE_PAIRS) == 0)
            tax.pair(number)
            said = {mode: f"{interval(taxes)[0]:.2f} % ({interval(taxes)[1]:.2f} to {interval(taxes)[2]:.2f})" for mode, taxes in tax.taxes.items()}
            say(f"tax: pair {number + 1}: {said}")
            if tax.known():
                break
    tax.end()
    rows = []
    for mode, taxes in tax.taxes.items():
        mean, low, high = interval(taxes)
        rows.append({"path": mode, "mean": mean, "low": low, "high": high, "pairs": len(taxes), "mean_samples": taxes})
    for mode, shares in tax.own.items():
        rows.append({"path": f"{mode}: the node and the client's threads", "mean": statistics.fmean(shares), "pairs": len(shares), "mean_samples": shares})
    rows.append({"path": "the engine alone, CPU s a turn", "mean": statistics.fmean(tax.alone_s), "pairs": len(tax.alone_s), "mean_samples": tax.alone_s})
    print(json.dumps({"rows": rows, "tools": {"vllm-cpu": version(sys.executable, "vllm-cpu")}}))


if __name__ == "__main__":
    main()
