"""Time to first token of vLLM on CPU: computed, from the engine's own prefix cache, and loaded by a new engine process from a node whose DRAM is
cold, by Forebay's connector, Forebay's tier, and LMCache.

Each engine is warmed by a prompt that has nothing in common with the others. What is loaded gives the token that computing gives, and as many
tokens as the engine's own cache holds, or the run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchlib import HERE, Child, Node, end_with_parent, ends_tidily, folder, measured, median, say, version
from model import KV_BYTES_PER_TOKEN, make, prompts

TOKENS = 8192
BLOCK_TOKENS = 128
#: At least one token is computed, so the last block is.
LOADED = (TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS


def connector(address: str) -> dict[str, Any]:
    """Forebay's connector, as docs/engines/vllm.md has it."""
    return {
        "kv_connector": "ForebayConnector",
        "kv_connector_module_path": "forebay.integrations.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"address": address},
    }


def tier(address: str) -> dict[str, Any]:
    """Forebay's tier. vLLM's CPU tier asks for a GPU; the CPU backend's own KV memory plays its part."""
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            "spec_name": "CpuTieringSpec",
            "spec_module_path": "vllm_cpu_tiering",
            "cpu_bytes_to_use": 1 << 30,
            "secondary_tiers": [{"type": "ForebayTier", "module_path": "forebay.integrations.vllm", "address": address}],
        },
    }


def start(name: str, model: Path, transfer: dict[str, Any] | None = None, beside: str | None = None) -> Child:
    """A new engine."""
    say(f"ttft: an engine for {name}")
    paths = [os.environ["FOREBAY_SITE"], str(HERE.parent / "tests/engines"), str(HERE)]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        # Engine and caller in one process: less to start, and nothing between them in the time that is taken.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [sys.executable, str(HERE / "vllm_life.py"), "--model", str(model), "--max-tokens", str(TOKENS)]
    if transfer:
        command += ["--transfer", json.dumps(transfer)]
    if beside:
        command += ["--beside", beside]
    return Child(name, command, env)


class Lmcache:
    """LMCache's server with its native file system adapter, O_DIRECT, and a vLLM connector of its own."""

    def __init__(self) -> None:
        self._python = os.environ["FOREBAY_ENGINES_LMCACHE"]
        self._folder = folder() / "lmcache"
        self._folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None
        code = "import lmcache, pathlib; print(pathlib.Path(lmcache.__file__).parents[1])"
        self.beside = subprocess.run([self._python, "-c", code], capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        self.port, http = _free_port(), _free_port()
        adapter = {"type": "fs_native", "base_path": str(self._folder), "use_odirect": True}
        command = [str(Path(self._python).parent / "lmcache"), "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--http-host", "127.0.0.1", "--http-port", str(http), "--prometheus-port", "0", "--l1-size-gb", "1", "--eviction-policy", "LRU"]
        command += ["--chunk-size", str(BLOCK_TOKENS), "--supported-transfer-mode", "engine_driven", "--l1-align-bytes", "4096"]
        command += ["--l2-adapter", json.dumps(adapter)]
        with open(folder() / "lmcache-server.log", "a") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=end_with_parent)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise RuntimeError("LMCache's server did not start:\n" + (folder() / "lmcache-server.log").read_text()[-2000:])

    def restart(self) -> None:
        """Nothing of what it kept is in its memory afterwards."""
        self.end()
        self.start()

    def end(self) -> None:
        """In order."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def transfer(self) -> dict[str, Any]:
        """Of vLLM."""
        extra = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": self.port}
        return {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ttft:
    """See the module."""

    def __init__(self, samples: int) -> None:
        self.model = folder() / "model"
        make(self.model)
        self.warm, *self.prompts = prompts(TOKENS, samples + 1)
        self.computed: list[float] = []
        self.own: list[float] = []
        self.first: list[list[int]] = []

    def alone(self) -> None:
        """Computed, and from the engine's own cache."""
        life = start("alone", self.model)
        with measured("alone"):
            life.ask(op="prompt", tokens=self.warm)
            for tokens in self.prompts:
                cold = life.ask(op="prompt", tokens=tokens)
                again = life.ask(op="prompt", tokens=tokens)
                if cold["cached"] or again["cached"] != LOADED:
                    raise RuntimeError(f"vLLM's own cache held {cold['cached']} and {again['cached']} of {TOKENS} tokens")
                self.computed.append(cold["seconds"])
                self.own.append(again["seconds"])
                self.first.append(cold["tokens"])
        life.end()

    def loaded(self, name: str, store: Any, transfer: Any, beside: str | None = None, settle_s: float = 1.0) -> list[float]:
        """One engine stores, the store is started anew, another engine loads."""
        life = start(f"{name}-stores", self.model, transfer(), beside)
        for tokens in self.prompts:
            life.ask(op="prompt", tokens=tokens)
        # vLLM's tiering copies what a step computed when it plans the next one: a short prompt gives the last long one its next step.
        life.ask(op="prompt", tokens=self.warm[:BLOCK_TOKENS])
        # What is on its way is stored a moment after the answer.
        time.sleep(settle_s)
        life.end()
        store.restart()
        life = start(f"{name}-loads", self.model, transfer(), beside)
        times = []
        with measured(name):
            warms = [life.ask(op="prompt", tokens=tokens) for tokens in (self.warm, *self.prompts)][1:]
        for warm, first in zip(warms, self.first, strict=True):
            say(f"ttft: {name}: {warm['seconds']:.3f} s, {warm['cached']} tokens loaded")
            if warm["cached"] < LOADED:
                raise RuntimeError(f"{name}: {warm['cached']} of {LOADED} tokens were loaded:\n{life.said()}")
            if warm["tokens"] != first:
                raise RuntimeError(f"{name}: the first token is another one")
            times.append(warm["seconds"])
        life.end()
        return times

    def forebay(self, name: str, transfer: Any) -> list[float]:
        """By one of Forebay's two."""
        node = Node(f"node-{name}")
        try:
            return self.loaded(name, node, lambda: transfer(node.address))
        finally:
            node.end()

    def lmcache(self) -> list[float]:
        """By LMCache."""
        server = Lmcache()
        try:
            return self.loaded("lmcache", server, server.transfer, server.beside, settle_s=5.0)
        finally:
            server.end()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--only", default="", help="of the ways to load, those with this in their name")
    asked = parser.parse_args()
    ends_tidily()
    bench = Ttft(asked.samples)
    bench.alone()
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}

    def add(path: str, times: list[float]) -> None:
        rows.append({"path": path, "seconds": median(times), "seconds_samples": times, "faster": median(bench.computed) / median(times)})

    add("recompute", bench.computed)
    add("own prefix cache", bench.own)
    for path, run in (
        ("forebay connector", lambda: bench.forebay("connector", connector)),
        ("forebay tier", lambda: bench.forebay("tier", tier)),
        ("lmcache fs_native, O_DIRECT", bench.lmcache),
    ):
        if asked.only not in path:
            continue
        try:
            add(path, run())
        except Exception as error:
            say(f"ttft: {path}: {error}")
            skipped[path] = str(error).splitlines()[0]
    tools = {"vllm-cpu": version(sys.executable, "vllm-cpu"), "lmcache": version(os.environ["FOREBAY_ENGINES_LMCACHE"], "lmcache")}
    print(json.dumps({"rows": rows, "kv_bytes": LOADED * KV_BYTES_PER_TOKEN, "skipped": skipped, "tools": tools}))


if __name__ == "__main__":
    main()
