"""One life of a vLLM engine on CPU whose node is hurt, turn after turn: run by the tests in a process of its own, with a node of its own.

In each turn the same prompts are given to the engine, whose own prefix cache is empty. A line of JSON at the end has for each turn the tokens and
what the adapter counted, and how long the engine's steps took, and of these the adapter.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from support import HERE, Node, clear, stop_process
from vllm import LLM, SamplingParams
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.inputs import TokensPrompt
from vllm_program import prompts

import forebay
from forebay.integrations.vllm.scheduler import LOOKUP_DEADLINE_MS as DEFAULT_LOOKUP_DEADLINE_MS

#: Generous, so that nothing but the node's state decides what is found: this machine may do ten other things.
LOOKUP_DEADLINE_MS = 5000
LOAD_DEADLINE_MS = 3000
#: Bytes of a block of the small model: 128 tokens.
BLOCK_BYTES = 128 << 10


class Steps:
    """How long the engine's steps took, and what of it the adapter did in them."""

    def __init__(self) -> None:
        #: Seconds of each step, of these in calls of the adapter's, and whether tokens were computed in it. An engine whose requests all wait for
        #: loads makes many steps that do nothing.
        self.seen: list[tuple[float, float, bool]] = []
        self._own_s = 0.0
        self._is_inside = False

    def watch_engine(self, core: Any) -> None:
        """Each step of an engine in this process."""
        step = core.step_fn

        def watched() -> Any:
            self._own_s = 0.0
            begun = time.perf_counter()
            outputs, executed = step()
            self.seen.append((time.perf_counter() - begun, self._own_s, bool(executed)))
            return outputs, executed

        core.step_fn = watched

    def watch_adapter(self, adapter: type) -> None:
        """Each call of the engine to a class: whatever of its methods the base class has as well."""
        names = {name for base in adapter.__mro__[1:] for name in vars(base)}
        for name in names:
            method = adapter.__dict__.get(name)
            if callable(method) and not name.startswith("__"):
                setattr(adapter, name, self._watched(method))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return method(*args, **kwargs)
            self._is_inside = True
            begun = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._own_s += time.perf_counter() - begun
                self._is_inside = False

        return call


class Sleeper(threading.Thread):
    """A thread that merely sleeps: how much later than it asked for it goes on is what this machine does to everybody now."""

    EVERY_S = 0.002

    def __init__(self) -> None:
        super().__init__(daemon=True)
        #: Seconds that it was late, each time.
        self.late: list[float] = []
        self.start()

    def run(self) -> None:
        while True:
            begun = time.perf_counter()
            time.sleep(self.EVERY_S)
            self.late.append(time.perf_counter() - begun - self.EVERY_S)


class Complaints(logging.Handler):
    """What Forebay has logged as an exception: flaws of the adapter's that the engine was kept from."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage() + (f": {record.exc_info[1]!r}" if record.exc_info else ""))


class During:
    """Does something to the node at the very moment that the next load is asked for, so that the load is surely under way."""

    def __init__(self, asked_in: type, method: str) -> None:
        self._do: Callable[[], None] | None = None
        self.done = 0
        begin = getattr(asked_in, method)

        @functools.wraps(begin)
        def watched(half: Any, asked: Any) -> Any:
            if asked and self._do is not None:
                do, self._do = self._do, None
                self.done += 1
                do()
            return begin(half, asked)

        setattr(asked_in, method, watched)

    def next_load(self, do: Callable[[], None]) -> None:
        self._do = do


class Life:
    """The engine, its node, and what is done to it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        # It ends with this process, however that ends.
        before = ("setpriv", "--pdeathsig", "KILL", "--")
        self.folder = Path(asked.folder)
        self.is_tier = asked.kind == "tier"
        more: tuple[str, ...] = ()
        if asked.tcp:
            token = self.folder / "token"
            token.touch(0o600)
            token.write_text("0123456789abcdef" * 4)
            self.port = asked.tcp
            more = ("--listen", f"127.0.0.1:{self.port}", "--token-file", str(token))
        self.node = Node(self.folder, capacity_mib=96, segment_mib=4, more=more, before=before)
        # "Its parent" is the thread that started it, so all starts are this one's.
        self.starter = concurrent.futures.ThreadPoolExecutor(1)
        self.starter.submit(self.node.start).result()
        self.address, self.flips = self.node.address, None
        if asked.tcp:
            self.flips = subprocess.Popen([sys.executable, str(HERE / "flips.py"), str(self.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.address = f"tcp:127.0.0.1:{self.flips.stdout.readline().strip()}"
        self.steps, self.complaints, self.sleeper = Steps(), Complaints(), Sleeper()
        #: The shortest deadline of a turn.
        self.deadline_ms = min(LOOKUP_DEADLINE_MS, LOAD_DEADLINE_MS)
        for name in ("forebay", "vllm.forebay"):
            logging.getLogger(name).addHandler(self.complaints)
        self.turns: list[dict[str, Any]] = []
        quota = {"quota": 3 * (BLOCK_BYTES + 4096)} if asked.quota else {}
        self.llm = LLM(
            model=asked.model,
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=4,
            kv_transfer_config=self._transfer(quota),
            disable_log_stats=True,
        )
        core = self.llm.llm_engine.engine_core.engine_core
        self.steps.watch_engine(core)
        connector = core.scheduler.connector
        if self.is_tier:
            from forebay.integrations.vllm.tier import ForebayTier

            (tier,) = connector.connector_scheduler.manager.secondary_tiers
            self.half: Any = tier
            self.steps.watch_adapter(ForebayTier)
            self.during = During(ForebayTier, "submit_load")
        else:
            from forebay.integrations.vllm.connector import ForebayConnector
            from forebay.integrations.vllm.worker import WorkerHalf

            self.half = connector._scheduler
            self.steps.watch_adapter(ForebayConnector)
            self.during = During(WorkerHalf, "start_loads")

    def _transfer(self, quota: dict[str, int]) -> dict[str, Any]:
        token = {"token_file": str(self.folder / "token")} if self.flips else {}
        own = {"address": self.address, "lookup_deadline_ms": LOOKUP_DEADLINE_MS, **token, **quota}
        both = {"kv_role": "kv_both", "kv_load_failure_policy": "recompute"}
        if not self.is_tier:
            own |= {"load_deadline_ms": LOAD_DEADLINE_MS, "load_or_recompute": False}
            module = "forebay.integrations.vllm"
            return {"kv_connector": "ForebayConnector", "kv_connector_module_path": module, "kv_connector_extra_config": own, **both}
        tier = {"type": "ForebayTier", "module_path": "forebay.integrations.vllm", "transfer_deadline_ms": LOAD_DEADLINE_MS, **own}
        extra = {"spec_name": "CpuTieringSpec", "spec_module_path": "vllm_cpu_tiering", "cpu_bytes_to_use": 32 << 20, "secondary_tiers": [tier]}
        return {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": extra, **both}

    def turn(self, name: str, first: int | None = None) -> None:
        """All prompts once more, or so many of the first."""
        report = self.half._report
        before = dict(report.counts) if report is not None else {}
        begun, seen, slept = time.perf_counter(), len(self.steps.seen), len(self.sleeper.late)
        sampling = SamplingParams(temperature=0.0, max_tokens=4, detokenize=False, ignore_eos=True)
        outputs = self.llm.generate([TokensPrompt(prompt_token_ids=tokens) for tokens in prompts(2048)[:first]], sampling, use_tqdm=False)
        seconds = time.perf_counter() - begun
        self.settle()
        counts = {key: count - before.get(key, 0) for key, count in self.half._report.counts.items()}
        tokens = [list(output.outputs[0].token_ids) for output in outputs]
        said = {"name": name, "tokens": tokens, "counts": counts, "seconds": seconds}
        self.turns.append(said | {"steps": self.steps.seen[seen:], "deadline_ms": self.deadline_ms, "late": self.sleeper.late[slept:]})
        if self.is_tier:
            clear(self.half, lambda: self.llm.reset_prefix_cache(reset_connector=True))
        else:
            self.llm.reset_prefix_cache()

    def settle(self) -> None:
        """Until no put is under way, so that each turn's counts are its own."""
        until = time.monotonic() + 60
        if self.is_tier:
            manager = self.llm.llm_engine.engine_core.engine_core.scheduler.connector.connector_scheduler.manager
            while (self.half._transfers or manager.has_pending_work()) and time.monotonic() < until:
                self.half._drain()
                manager._process_finished_jobs()
                time.sleep(0.005)
            return
        worker = kv_transfer_state._KV_CONNECTOR_AGENT._worker
        while worker._calls and time.monotonic() < until:
            worker._drain()
            time.sleep(0.005)
        self.half.worker_said(worker.take_said())

    def reachable(self) -> None:
        """Until the adapter's clients have found the node again."""
        links = [self.half._link]
        if not self.is_tier:
            links.append(kv_transfer_state._KV_CONNECTOR_AGENT._worker.link)
        assert all(link.client.wait_reachable(60_000) for link in links)

    def end(self) -> dict[str, Any]:
        self.llm.llm_engine.engine_core.shutdown()
        self.node.kill()
        if self.flips is not None:
            self.flips.stdin.close()
            self.flips.wait(60)
        return {"turns": self.turns, "complaints": self.complaints.seen, "line": self.half._report.line(), "during": self.during.done}

    # What happens to the node.

    def is_stopped_in_mid_load(self) -> None:
        self.during.next_load(lambda: stop_process(self.node.pid))
        self.turn("stopped")
        os.kill(self.node.pid, signal.SIGCONT)
        self.reachable()

    def is_stopped_before_it_is_asked(self) -> None:
        """With the deadline of lookups that there is unless somebody sets another: nobody waits for an answer longer, and no step at all."""
        generous = self.half._lookup_deadline_ms
        self.half._lookup_deadline_ms = self.deadline_ms = DEFAULT_LOOKUP_DEADLINE_MS
        stop_process(self.node.pid)
        self.turn("silent")
        os.kill(self.node.pid, signal.SIGCONT)
        self.half._lookup_deadline_ms, self.deadline_ms = generous, min(LOOKUP_DEADLINE_MS, LOAD_DEADLINE_MS)
        self.reachable()

    def is_killed_in_mid_load(self) -> None:
        self.during.next_load(lambda: (stop_process(self.node.pid), threading.Timer(0.1, self.node.kill).start()))
        self.turn("killed")
        self.turn("dead")
        self.starter.submit(self.node.start).result()
        self.reachable()

    def is_restarted_in_mid_load(self) -> None:
        def restart() -> None:
            time.sleep(0.1)
            self.node.kill()
            self.node.start()

        self.during.next_load(lambda: (stop_process(self.node.pid), self.starter.submit(restart)))
        self.turn("restarted")
        # One start after the other: what was asked for before is over.
        self.starter.submit(lambda: None).result()
        self.reachable()

    def drive_is_full(self) -> forebay.Client:
        """Of what somebody else keeps for good."""
        other = forebay.Client(self.node.address, deadline_ms=60_000)
        space = other.namespace("kept", create=True, cls="durable")
        number = 0
        while True:
            keys = space.keys([f"{number} {at}".encode() for at in range(8)])
            number += 1
            if forebay.Refused.FULL in space.put(keys, [os.urandom(512 << 10)] * 8):
                return other

    def flip(self, mode: str) -> None:
        self.flips.stdin.write(mode + "\n")
        self.flips.stdin.flush()
        assert self.flips.stdout.readline() == "done\n"


def unix(life: Life) -> None:
    """Everything that can happen to a node on this machine."""
    other = life.drive_is_full()
    life.turn("full")
    other.delete_namespace("kept")
    life.turn("cold")
    life.node.await_writes()
    life.turn("warm")
    life.is_stopped_in_mid_load()
    life.turn("after stopped")
    life.is_stopped_before_it_is_asked()
    life.turn("after silent")
    life.is_killed_in_mid_load()
    life.turn("after killed")
    life.is_restarted_in_mid_load()
    life.turn("after restarted")


def tcp(life: Life) -> None:
    """What can happen on the way, and a quota that holds less than is stored."""
    life.turn("quota")
    held = forebay.Client(life.node.address).node_stats()["namespaces"]
    life.turns[-1]["held"] = sum(space["bytes"] for space in held)
    # Which of all blocks a quota of three holds depends on the order in which steps put them. Those of the first prompt, two, it holds when they came last.
    life.turn("cold", first=1)
    life.turn("warm", first=1)
    life.flip("payload")
    life.turn("payload", first=1)
    life.flip("all")
    life.turn("all", first=1)
    life.flip("pass")
    life.reachable()
    life.turn("after", first=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--folder", required=True, help="for the node")
    parser.add_argument("--kind", choices=("connector", "tier"), required=True)
    parser.add_argument("--tcp", type=int, default=None, help="a port for the node")
    parser.add_argument("--quota", action="store_true")
    asked = parser.parse_args()
    life = Life(asked)
    try:
        (tcp if asked.tcp else unix)(life)
    finally:
        said = life.end()
    sys.stdout.write("RESULT " + json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
