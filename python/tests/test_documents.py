"""What documents say of the adapters is true: each test that docs/testing.md names is there, and the README names the versions that are tested."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
HEADING = "## Engines: what is promised, and the test"


def test_every_test_that_the_table_of_engines_names_is_there() -> None:
    text = (HERE.parents[1] / "docs/testing.md").read_text()
    table = text.partition(HEADING)[2].partition("\n## ")[0]
    named = re.findall(r"`(test_\w+)::(test_\w+)`", table)
    assert len(named) > 40, "the table has moved"
    files = {path.stem: path.read_text() for path in (*HERE.glob("test_*.py"), *HERE.glob("engines/test_*.py"))}
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in files.get(file, "")]
    assert missing == [], "was it renamed, or deleted without another in its place?"
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert all("::" in row for row in rows), "a promise without a test"


def test_the_readme_names_the_versions_that_the_engines_tests_have_written_down() -> None:
    def versions(text: str, engine: int, version: int) -> set[tuple[str, str]]:
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
        return {(row[engine].partition(",")[0], row[version]) for row in rows if len(row) > version and re.fullmatch(r"[\d.]+", row[version])}

    # What `test_*_signatures.py` compare with the installed wheels.
    written = versions((HERE.parents[1] / "docs/engines/README.md").read_text(), 0, 2)
    told = versions((HERE.parents[1] / "README.md").read_text().partition("| engine | version tested |")[2], 0, 1)
    assert len(written) >= 4 and told == written
