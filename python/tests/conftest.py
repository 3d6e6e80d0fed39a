"""Real nodes for tests: the built binary, in folders of their own, gone when the test is.

FOREBAY_BINARY names the binary; without it the workspace's debug build is taken.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forebay

ROOT = Path(__file__).resolve().parents[2]


def binary() -> str:
    """The binary under test."""
    return os.environ.get("FOREBAY_BINARY") or str(ROOT / "target" / "debug" / "forebay")


class Node:
    """One node on a drive and a socket in `place`. It can be killed, stopped and started again."""

    def __init__(self, place: Path, *more: str) -> None:
        self.place = place
        self.address = f"unix:{place / 's'}"
        self.more = more
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        given = ("--data", "drive", "--capacity", "96MiB", "--memory", "64MiB", "--socket", "s")
        # The I/O engine that a person asks for is the node's too; other settings of theirs are not.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FOREBAY_") or k == "FOREBAY_IO"}
        environment["HOME"] = str(self.place)
        self.process = subprocess.Popen(
            [binary(), "serve", *given, *self.more],
            cwd=self.place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.place / "log").open("a"),
            text=True,
        )
        assert self.process.stdout is not None
        ready = self.process.stdout.readline()
        assert ready, (self.place / "log").read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """SIGSTOP, and none of its threads runs any more when this returns."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.process.pid}/task")
        while any(stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in threads.glob("*/stat")):
            time.sleep(0.001)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None


@pytest.fixture(scope="session")
def place() -> Iterator[Callable[[], Path]]:
    """Makes short folders: sockets lie in them."""
    base = Path(tempfile.mkdtemp(prefix="fbpy-"))
    numbers = itertools.count()

    def make() -> Path:
        path = base / str(next(numbers))
        path.mkdir()
        return path

    yield make
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_node(place: Callable[[], Path]) -> Iterator[Node]:
    """One node for all tests that leave it as it is."""
    node = Node(place())
    yield node
    node.kill()


@pytest.fixture
def own_node(place: Callable[[], Path]) -> Iterator[Node]:
    """A node for one test, to be hurt."""
    node = Node(place())
    yield node
    node.kill()


@pytest.fixture
def client(shared_node: Node) -> forebay.Client:
    # No test is about time unless it says so: a busy machine makes everything ten times slower.
    return forebay.Client(shared_node.address, deadline_ms=60_000)


_names = itertools.count()


@pytest.fixture
def space(client: forebay.Client) -> Iterator[forebay.Namespace]:
    """A namespace of the test's own."""
    name = f"test-{next(_names)}"
    yield client.namespace(name, create=True)
    client.delete_namespace(name)
