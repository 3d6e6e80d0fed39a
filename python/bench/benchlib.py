"""What the parts of `cargo xtask bench engines` share: a node on a drive of its own, children that answer lines of JSON, and medians.

Each part is a program that says its rows as one line of JSON on stdout, and what it is doing on stderr. The chore gives the environment:
FOREBAY_BINARY, FOREBAY_BENCH_DIR (a folder on the drive to be measured), FOREBAY_SITE (the unpacked wheel), FOREBAY_ENGINES_VLLM and
FOREBAY_ENGINES_LMCACHE (interpreters).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: The longest that anything takes here, on a machine that does ten other things.
PATIENCE_S = 300.0


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def measured(what: str) -> Iterator[None]:
    """Around what is timed: says how busy the machine is with others' work, which whoever reads the times should know."""
    begun, busy = time.monotonic(), _busy_s()
    yield
    seconds = time.monotonic() - begun
    say(f"{what}: measured for {seconds:.0f} s; all programs together took {(_busy_s() - busy) / seconds:.1f} cores meanwhile")


def _busy_s() -> float:
    """CPU seconds of the whole machine so far."""
    fields = [float(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def _end_all() -> None:
    """Engines start processes of their own, which a killed parent leaves behind."""
    for pid in descendants(os.getpid())[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ends_tidily() -> None:
    """Whatever was started here ends with this program, also when it is told to end."""
    atexit.register(_end_all)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def folder() -> Path:
    """Where drives and models lie."""
    return Path(os.environ["FOREBAY_BENCH_DIR"])


def median(samples: list[float]) -> float:
    """Nearest rank."""
    return percentile(samples, 0.5)


def percentile(samples: list[float], share: float) -> float:
    """The value below which `share` of the samples lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, -int(-len(ordered) * share // 1) - 1))]


def end_with_parent() -> None:
    """For a child between fork and exec: it is killed when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Node:
    """`forebay serve` on a drive in a folder of its own, with the flags anybody can give."""

    def __init__(self, name: str, capacity: str = "4GiB", memory: str = "512MiB") -> None:
        self.folder = folder() / name
        self.folder.mkdir(parents=True)
        self.address = f"unix:{self.folder}/s"
        self._flags = ["--data", "drive", "--capacity", capacity, "--memory", memory, "--socket", "s", "--prewrite"]
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it serves."""
        # A node complains of settings it does not know.
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        with open(self.folder / "log", "a") as log:
            self._process = subprocess.Popen(
                [os.environ["FOREBAY_BINARY"], "serve", *self._flags],
                cwd=self.folder,
                env=plain | {"HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=end_with_parent,
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the node did not start:\n{(self.folder / 'log').read_text()}")

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def end(self) -> None:
        """In order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE_S)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def restart(self) -> None:
        """Everything is there afterwards, and nothing of it in DRAM."""
        self.end()
        self.start()


class Child:
    """A program that answers lines of JSON with lines of JSON, and says `{"ready": true}` first."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self.name = name
        self._log: IO[str] = open(folder() / f"{name}.log", "a")
        self._process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, preexec_fn=end_with_parent
        )
        self._came = b""
        self._hear(PATIENCE_S * 2)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, timeout_s: float = PATIENCE_S, **asked: Any) -> dict[str, Any]:
        """Its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._hear(timeout_s)

    def _hear(self, timeout_s: float) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while True:
            line = self._line(until)
            if line is None:
                raise RuntimeError(f"{self.name} ended ({self._process.wait()}):\n{self.said()}")
            # Engines print what they like.
            if line.startswith(b"{"):
                return json.loads(line)

    def _line(self, until: float) -> bytes | None:
        """The next line; None at the end. Lines that came together are kept here: `select` does not see what a file object has read already."""
        assert self._process.stdout is not None
        while b"\n" not in self._came:
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"{self.name} has not answered in time")
            more = os.read(self._process.stdout.fileno(), 1 << 16)
            if not more:
                return None
            self._came += more
        line, _, self._came = self._came.partition(b"\n")
        return line

    def said(self) -> str:
        """The end of its log."""
        self._log.flush()
        return (folder() / f"{self.name}.log").read_text(errors="replace")[-4000:]

    def end(self) -> None:
        """It ends by itself when its stdin does."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()


def serve(ops: dict[str, Any]) -> None:
    """The other end of `Child`: answers until stdin ends. An op is called with what was asked and answers a dictionary."""
    out = os.fdopen(os.dup(1), "w")
    # Whatever an engine prints goes to the log.
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(ops[asked.pop("op")](**asked)), file=out, flush=True)


def descendants(pid: int) -> list[int]:
    """A process and all that it started and that still run."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parent = int(text.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, ()))
    return found


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of processes, in nanoseconds' steps: all their threads, those that have ended too."""
    # The clock of another process is its number, inverted, above three bits that say which of its clocks.
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def version(python: str, package: str) -> str:
    """The installed version of a package."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def texts() -> str:
    """This repository's own documents, and after them its sources: text that people wrote."""
    listed = subprocess.run(["git", "ls-files", "*.md", "crates/*.rs"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = sorted(listed.stdout.split(), key=lambda path: (path.endswith(".rs"), path))
    return "\n".join(re.sub(r"[ \t]+", " ", (ROOT / path).read_text(errors="replace")) for path in paths)
