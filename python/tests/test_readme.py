"""The snippets of the README run as they stand, in order, against a node."""

from __future__ import annotations

import re
from pathlib import Path

from conftest import Node

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readme_runs(shared_node: Node, tmp_path: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippets) >= 5
    known: dict[str, object] = {}
    for number, snippet in enumerate(snippets):
        here = snippet.replace("unix:/tmp/forebay.sock", shared_node.address).replace("/tmp/model", str(tmp_path / "model"))
        exec(compile(here, f"README snippet {number}", "exec"), known)
