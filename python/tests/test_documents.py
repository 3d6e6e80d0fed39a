"""What documents say of the adapters is true: each test that docs/testing.md names is there, and the README names the versions that are tested."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from forebay.integrations._wishes import wishes

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


#: How the blocks of docs/engines begin, and the test that runs what begins so.
RUN = {
    "cargo build --release": "a_newcomer_reaches_a_warm_second_run",
    "python examples/": "a_newcomer_reaches_a_warm_second_run",
    "python3.11 -m venv": "a_newcomer_reaches_a_warm_second_run",
    "forebay serve": "each_serve_line_of_the_pages_serves",
    "vllm serve": "a_new_engine_finds_what_another_one_left_in_the_tier|through_lmcaches_server_by_the_next",
    '"kv_transfer_params"': "what_the_page_says_a_request_can_say_is_understood",
    "--kv-transfer-config": "beside_another_connector_each_loads_what_it_has",
    "python -m sglang.launch_server": "the_document_says_what_runs",
    "lmcache server": "through_lmcaches_server_by_the_next",
    "lmcache bench": "lmcaches_own_bench_reads_back_what_it_stored",
    "import torch": "the_document_says_what_runs",
    # What is seen, and not run.
    "forebay: namespace": "a_report_says_what_happened",
}
PAGES = {page.name: page.read_text() for page in sorted((ROOT / "docs/engines").glob("*.md")) if page.name != "README.md"}


def blocks(page: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)


def test_each_block_of_the_engines_pages_is_run_by_a_test() -> None:
    assert len(PAGES) == 4 and sum(len(blocks(page)) for page in PAGES) > 20
    tests = "".join(path.read_text() for path in (*HERE.glob("test_*.py"), *HERE.glob("engines/test_*.py")))
    for page in PAGES:
        for block in blocks(page):
            (by,) = {by for begin, by in RUN.items() if block.startswith(begin)} or {None}
            assert by is not None, f"nobody runs this block of {page}:\n{block}"
            assert all(re.search(rf"def test_\w*{name}\(", tests) for name in by.split("|")), by


def test_what_the_page_says_a_request_can_say_is_understood(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = [block for block in blocks("vllm.md") if block.startswith('"kv_transfer_params"')]
    asked = json.loads("{" + said + "}")["kv_transfer_params"]
    understood = wishes(asked)
    assert (understood.hint, understood.skip_read, understood.skip_write, understood.deadline_ms) == ("tool", False, False, 500)
    assert caplog.messages == []


@pytest.mark.parametrize("page", PAGES)
def test_each_serve_line_of_the_pages_serves(page: str, place: Callable[[], Path]) -> None:
    """As it stands there, but for where its drive and its socket lie. What it holds is smaller: a drive of 64 GiB is not to be had everywhere."""
    binary = os.environ.get("FOREBAY_BINARY") or str(ROOT / "target" / "debug" / "forebay")
    lines = {line for block in blocks(page) for line in block.splitlines() if re.match(r"\S*forebay serve ", line)}
    assert lines
    for line in lines:
        folder = place()
        here = re.sub(r"/mnt/nvme/forebay|/tmp/forebay-drive", f"{folder}/drive", line)
        here = re.sub(r"/run/user/1000/forebay.sock|/tmp/forebay.sock", f"{folder}/s", here)
        here = re.sub(r"(--capacity) \d+GiB (--memory) \d+GiB", r"\1 96MiB \2 64MiB", here)
        _, *args = shlex.split(here)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")} | {"HOME": str(folder)}
        node = subprocess.Popen([binary, *args], cwd=folder, env=plain, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert node.stdout is not None and node.stderr is not None
            assert node.stdout.readline() == "ready\n", f"{line}: {node.stderr.read()}"
        finally:
            node.kill()
            node.communicate()
