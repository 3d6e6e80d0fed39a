"""A node for a test of its own, and engines in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: A start and a stop of a node on a machine that does ten other things.
PATIENCE_S = 60.0
#: Tokens of a block of vLLM's CPU backend.
BLOCK_TOKENS = 128
#: Tokens of the prompts that vLLM is given: whole blocks and a rest; two that begin alike; one shorter than a block.
LENGTHS = (300, 700, 640, 40)


class Node:
    """A node of `forebay serve` on a drive in a temporary folder."""

    def __init__(self, folder: Path, capacity_mib: int = 512, segment_mib: int = 16) -> None:
        self.folder = folder
        self.capacity = capacity_mib << 20
        self._segment_mib = segment_mib
        self.address = f"unix:{folder}/forebay.sock"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it, and returns when it serves."""
        binary = os.environ["FOREBAY_BINARY"]
        command = [binary, "serve", "--data", f"{self.folder}/drive", "--memory", "96MiB"]
        command += ["--capacity", f"{self.capacity >> 20}MiB", "--segment", f"{self._segment_mib}MiB"]
        # A node complains of settings it does not know.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        log = open(f"{self.folder}/node.log", "a")
        self._process = subprocess.Popen([*command, "--socket", f"{self.folder}/forebay.sock"], stdout=subprocess.PIPE, stderr=log, text=True, env=plain)
        log.close()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip() == "ready", Path(f"{self.folder}/node.log").read_text()

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid


def run_script(name: str, *args: str, timeout_s: float = 480.0, **environment: str) -> str:
    """Runs a program of this folder in a process of its own, as an engine's restart is one; what it printed."""
    env = os.environ | {"PYTHONHASHSEED": "0", "VLLM_CPU_KVCACHE_SPACE": "1"} | environment
    done = subprocess.run([sys.executable, str(HERE / name), *args], env=env, text=True, capture_output=True, timeout=timeout_s)
    assert done.returncode == 0, f"{name} failed:\n{done.stdout[-4000:]}\n{done.stderr[-12000:]}"
    return done.stdout


def wait_for(what: Callable[[], object], *, every_s: float = 0.05) -> None:
    """Waits until a function answers something true."""
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(every_s)


def vllm_life(model_folder: Path, *args: str, transfer: dict[str, Any] | None = None, **environment: str) -> dict[str, Any]:
    """One life of a vLLM engine: what vllm_program.py says at its end."""
    more = ["--transfer", json.dumps(transfer)] if transfer else []
    said = run_script("vllm_program.py", "--model", str(model_folder), *more, *args, **environment)
    (line,) = re.findall(r"^RESULT (.*)$", said, re.MULTILINE)
    return json.loads(line)
