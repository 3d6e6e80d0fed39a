"""A node for a test of its own, and engines in processes of their own."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

# Beside the tests of the package alone.
sys.path.append(str(Path(__file__).parents[1]))
from another_version import TEXT, NodeOfAnotherVersion

import forebay

__all__ = ["NodeOfAnotherVersion"]
HERE = Path(__file__).parent
#: A start and a stop of a node on a machine that does ten other things.
PATIENCE_S = 60.0
#: What `cargo xtask test` repeats when all is over, a line each.
CLOSING: list[str] = []
#: What programs with these engines begin with.
TRANSFORMERS = ("torch", "transformers:AutoModelForCausalLM")
VLLM = ("torch", "vllm:LLM")
SGLANG = ("torch", "sglang.srt.managers.cache_controller:HiCacheController")
#: For vLLM's own processes beside the test's. It would bind threads to cores of their own, which a machine with two has not: they would spin
#: against each other.
IN_PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
#: Tokens of a block of vLLM's CPU backend.
BLOCK_TOKENS = 128
#: Tokens of the prompts that vLLM is given: whole blocks and a rest; two that begin alike; one shorter than a block.
LENGTHS = (300, 700, 640, 40)


class Node:
    """A node of `forebay serve` on a drive in a temporary folder."""

    def __init__(self, folder: Path, capacity_mib: int = 512, segment_mib: int = 16, more: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> None:
        """more: flags of the node. before: a command that it is started by."""
        self.folder = folder
        self._more, self._before = more, before
        self.capacity = capacity_mib << 20
        self._segment_mib = segment_mib
        self.address = f"unix:{folder}/forebay.sock"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it, and returns when it serves."""
        binary = os.environ["FOREBAY_BINARY"]
        command = [*self._before, binary, "serve", "--data", f"{self.folder}/drive", "--memory", "96MiB", *self._more]
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

    def stop(self) -> None:
        """SIGSTOP; none of its threads runs any more when this returns."""
        stop_process(self.pid)

    def kill(self) -> None:
        """SIGKILL, and waits for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def await_writes(self) -> None:
        """Until what was acknowledged is on the drive. Puts of the cache are answered before that, and a SIGKILL may cost the last of them
        (docs/operations.md). Durable ones, some for each shard, are answered when what stands before them is written; twice, since a segment may just have
        been full."""
        space = forebay.Client(self.address, deadline_ms=1000 * PATIENCE_S).namespace("marks", create=True, cls="durable")
        for _ in range(2):
            keys = space.keys([os.urandom(16) for _ in range(64)])
            assert space.put(keys, [b"mark"] * 64) == [forebay.Stored.DURABLE] * 64

    def restart(self) -> None:
        """SIGKILL as soon as what was acknowledged is on the drive, and a start."""
        self.await_writes()
        self.kill()
        self.start()

    def end(self) -> None:
        """SIGTERM, and waits for its end: all that was put is on the drive then."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        self._process.wait(PATIENCE_S)
        self._process = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid


@dataclass
class Put:
    """What came with a block, as the drive has it."""

    namespace: int
    tokens: int
    chain: int
    #: The first half of the key before.
    parent: bytes
    position: int


def puts_on_drive(node: Node) -> dict[tuple[int, bytes], Put]:
    """Every block on the drive of a node that has ended, by namespace and key: read from the trailers of records (docs/disk-format.md)."""
    drive = (node.folder / "drive").read_bytes()
    found: dict[tuple[int, bytes], Put] = {}
    at = drive.find(b"fbyTRAIL")
    while at >= 0:
        (body_bytes, kind) = struct.unpack_from("<IB", drive, at + 28)
        body = drive[at + 64 : at + 64 + body_bytes]
        if kind == 1 and len(body) >= 104:
            namespace, tokens = struct.unpack_from("<II", body, 8)
            chain, parent, position = struct.unpack_from("<Q8sQ", body, 48)
            found[namespace, body[16:32]] = Put(namespace, tokens, chain, parent, position)
        at = drive.find(b"fbyTRAIL", at + 8)
    return found


def stop_process(pid: int) -> None:
    """SIGSTOP. A signal is sent before its receiver knows of it: what is asked in between may still be answered, so this waits for the last thread."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    wait_for(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads.glob("*/stat")), every_s=0.001)


class Lines(logging.Handler):
    """What is said to a logger while this is open: engines give theirs handlers of their own, and keep what they say from others."""

    def __init__(self, logger: str, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._logger = logging.getLogger(logger)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> Lines:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)

    def only(self, *parts: str) -> None:
        """One sentence was said, on one line, with all of this in it."""
        (line,) = self.said
        assert line.startswith("forebay: ") and "\n" not in line, line
        for part in parts:
            assert part in line, line


#: What is said of a node that no build of today understands, and of a quota that is full: what, and what next.
OF_ANOTHER_VERSION = (TEXT, "all is computed", "use builds of neighbouring versions")
OF_A_FULL_QUOTA = ("quota is full", "computed again", "`forebay namespace delete`")


class Nursery:
    """See nursery.py."""

    _of: ClassVar[dict[tuple[str, ...], Nursery]] = {}

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._modules = modules
        # Strings hash alike in all of them, as in engines that share block hashes.
        env = os.environ | {"PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "nursery.py"), *modules], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._heard = b""
        assert self._hear(PATIENCE_S * 10) == {"ready": True}

    @classmethod
    def of(cls, modules: tuple[str, ...]) -> Nursery:
        """The one that has imported these."""
        if modules not in cls._of:
            cls._of[modules] = cls(modules)
            atexit.register(cls._of[modules].close)
        return cls._of[modules]

    def run(self, argv: list[str], env: dict[str, str], timeout_s: float) -> tuple[int, str, str]:
        """Runs a program; its exit code and what it printed."""
        with tempfile.TemporaryDirectory(prefix="forebay-program-") as folder:
            out, err = (f"{folder}/{name}" for name in ("out", "err"))
            assert self._process.stdin is not None
            asked = {"argv": argv, "env": env, "out": out, "err": err}
            self._process.stdin.write(json.dumps(asked).encode() + b"\n")
            self._process.stdin.flush()
            pid = self._hear(PATIENCE_S)["pid"]
            try:
                code = self._hear(timeout_s)["code"]
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                code = self._hear(PATIENCE_S)["code"]
            texts = (Path(file).read_text(errors="replace") if os.path.exists(file) else "" for file in (out, err))
            return code, *texts  # type: ignore[return-value]

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        """Its next line of JSON. Modules may print some of their own while they are imported."""
        until = time.monotonic() + timeout_s
        while True:
            line, found, rest = self._heard.partition(b"\n")
            if found:
                self._heard = rest
                if line.startswith(b"{"):
                    return json.loads(line)
                continue
            assert self._process.stdout is not None
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, f"the process that imports {self._modules} has ended"
            self._heard += more

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)


def run_script(name: str, *args: str, timeout_s: float = 480.0, modules: tuple[str, ...] = (), **environment: str) -> str:
    """Runs a program of this folder in a process of its own, as an engine's restart is one; what it printed. Where it begins, these modules are
    imported already (`module`, or `module:attribute`)."""
    env = os.environ | {"PYTHONHASHSEED": "0", "VLLM_CPU_KVCACHE_SPACE": "1"} | environment
    code, out, err = Nursery.of(modules).run([str(HERE / name), *args], env, timeout_s)
    assert code == 0, f"{name} failed ({code}):\n{out[-4000:]}\n{err[-12000:]}"
    return out


def wait_for(what: Callable[[], object], *, every_s: float = 0.05, patience_s: float = PATIENCE_S) -> None:
    """Waits until a function answers something true."""
    until = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(every_s)


def vllm_life(model_folder: Path, *args: str, transfer: dict[str, Any] | None = None, **environment: str) -> dict[str, Any]:
    """One life of a vLLM engine: what vllm_program.py says at its end."""
    more = ["--transfer", json.dumps(transfer)] if transfer else []
    said = run_script("vllm_program.py", "--model", str(model_folder), *more, *args, modules=VLLM, **environment)
    (line,) = re.findall(r"^RESULT (.*)$", said, re.MULTILINE)
    if transfer and environment.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "1":
        # Processes of vLLM's own end without a word.
        assert "forebay: namespace " in said, "the line that says how it goes is seen by who runs the engine"
    return json.loads(line) | {"said": [text for text in said.splitlines() if "forebay: " in text]}


def clear(tier: Any, reset: Callable[[], object]) -> None:
    """Empties vLLM's CPU tier by calling this, and that alone. What vLLM has for it says to a tier that the weights may be others, too."""
    tier._renew = lambda: None
    try:
        reset()
    finally:
        del tier._renew


def documented(name: str, kind: str) -> dict[str, Any]:
    """The configuration that docs/engines/vllm.md gives for this connector, as it stands there."""
    text = (HERE.parents[2] / "docs/engines" / name).read_text()
    found = [json.loads(each) for each in re.findall(r"--kv-transfer-config '(\{.*?\n\})'", text, re.DOTALL)]
    (config,) = [each for each in found if each["kv_connector"] == kind]
    return config


def write_over(node: Node, link: Any, hit: Callable[[], None]) -> None:
    """Writes ten times the node's capacity, with a hundred hits for each time. Touches may be dropped when the machine is busy, so each tenth waits
    until one of its hits was told: what is tested is that they are told and what comes of it, not how fast this machine writes."""
    space, client = link.namespace, link.client
    told = 0
    for tenth in range(100):
        for _ in range(10):
            hit()
        wait_for(lambda told=told: (hit(), client.stats()["touch"]["sent"] > told)[1], every_s=0.01)
        told = client.stats()["touch"]["sent"]
        written = 0
        while written < node.capacity // 10:
            keys = space.keys([f"{tenth} {written} {number}".encode() for number in range(16)])
            written += sum(outcome == "cached" for outcome in space.put(keys, [os.urandom(64 << 10)] * 16)) * (64 << 10)
