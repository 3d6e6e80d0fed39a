"""The first steps of the pages of docs/engines, walked as they stand: blocks are taken word for word, and only what is another on this machine is put
in its place: where the drive, the socket and the environment lie, the model, and what was built already (the binary, the wheel)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import HERE, PATIENCE_S

ROOT = HERE.parents[2]
#: What a newcomer builds, line by line, and this machine has: the binary of FOREBAY_BINARY, and the package that the test imports.
BUILT = (
    "cargo build --release -p forebay",
    "pip wheel --no-deps --wheel-dir target/wheels ./python",
    "pip install target/wheels/forebay-*.whl",
)


def blocks(page: str, heading: str) -> list[str]:
    """The blocks of one part of a page."""
    text = (ROOT / "docs/engines" / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has nothing to run under {heading!r}"
    return found


class Start:
    """The part of a page that is called Start: what is built and served, programs to be run, and an environment."""

    def __init__(self, page: str, place: Path, **given: str) -> None:
        """given: what stands for words of the page, as MODEL."""
        self.page, self.place = page, place
        self.address = f"unix:{place}/forebay.sock"
        self._given = {"/tmp/forebay-drive": f"{place}/drive", "/tmp/forebay.sock": f"{place}/forebay.sock", **given}
        serve, run, self._environment = blocks(page, "Start")
        *built, self._serve = serve.splitlines()
        assert tuple(built) == BUILT, "the page builds otherwise: does this still stand for it?"
        self._run = run.splitlines()

    def here(self, words: str) -> str:
        """A command as it is on this machine."""
        for there, here in self._given.items():
            words = words.replace(there, here)
        return words

    def programs(self) -> list[list[str]]:
        """The programs of the second terminal, each with its arguments."""
        said = [shlex.split(self.here(line)) for line in self._run]
        assert len(said) == 2 and said[0] == said[1], "twice the same"
        assert all(program == "python" for program, *_ in said)
        return [[str(ROOT / script), *args] for _, script, *args in said]

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The node of the first terminal, from the moment on that it says so."""
        program, *args = shlex.split(self.here(self._serve))
        assert program == "target/release/forebay"
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        with (self.place / "node.log").open("w") as log:
            command = ["setpriv", "--pdeathsig", "KILL", "--", os.environ["FOREBAY_BINARY"], *args]
            node = subprocess.Popen(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert node.stdout is not None
            assert node.stdout.readline() == "ready\n", (self.place / "node.log").read_text()
            yield
        finally:
            node.terminate()
            node.wait(PATIENCE_S)

    def environment(self) -> None:
        """Its block makes an environment, activates it, and asks for the list that this very environment was made of. What it asks the network for is
        looked at, not fetched."""
        (name,) = set(re.findall(r"\bforebay-\w+", self._environment))
        network = 'pip() { [ "$*" = "install uv" ]; }; uv() { printf "asked %s\\n" "$*"; }'
        ends = 'python -c "import sys; print(\'prefix\', sys.prefix)"'
        script = f"set -e\n{network}\n{self._environment.replace(name, str(self.place / name))}\n{ends}\n"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PATH": path}
        done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=10 * PATIENCE_S)
        assert done.returncode == 0, done.stderr
        asked, prefix = done.stdout.splitlines()
        assert Path(prefix.partition(" ")[2]) == (self.place / name).resolve()
        match = re.fullmatch(r"asked pip install --no-deps -r (\S+)", asked)
        assert match, asked
        pinned = re.findall(r"^([\w.-]+)==([\w.+!-]+)", (ROOT / match[1]).read_text(), re.MULTILINE)
        others = [f"{package}=={version}" for package, version in pinned if importlib.metadata.version(package) != version]
        assert len(pinned) > 10 and others == [], f"{self.page} names a list that the tests do not run with"
