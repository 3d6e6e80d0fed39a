"""The usage log as Parquet, read by pyarrow: its sums are the counters that the node tells."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest
from conftest import Node, binary

import forebay

TOKENS = 32


def stat(node: Node, *args: str) -> str:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    done = subprocess.run([binary(), "stat", "--usage", *args], env=plain, cwd=node.place, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def recorded(node: Node, expected: dict[str, int]) -> dict[str, Any]:
    """What the node tells, once it has recorded all of this."""
    until = time.monotonic() + 120
    while True:
        told: dict[str, Any] = json.loads(stat(node, "--connect", node.address, "--json"))
        if all(told["all"][name] == count for name, count in expected.items()):
            return told
        assert time.monotonic() < until, told
        time.sleep(0.1)


def test_parquet_says_what_the_node_says_also_after_a_kill(own_node: Node) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    blocks = 10
    expected = {name: 0 for name in ("offered_tokens", "missed_tokens", "written_tokens")}
    for life in range(2):
        client = forebay.Client(own_node.address, deadline_ms=60_000)
        for name in ("agents", "chats"):
            space = client.namespace(name, create=True)
            keys = [space.key(f"{life} {number}".encode()) for number in range(blocks)]
            assert all(space.put(keys, [os.urandom(8192)] * blocks, tokens=TOKENS))
            assert all(space.get(keys))
            assert not any(space.get([space.key(b"never")] * 3))
            expected["written_tokens"] += blocks * TOKENS
            expected["offered_tokens"] += (blocks + 3) * TOKENS
            expected["missed_tokens"] += 3 * TOKENS
        told = recorded(own_node, expected)
        own_node.kill()
        # Of the log itself, without a node.
        stat(own_node, "--log", "drive.usage", "--parquet", "usage.parquet")
        table = parquet.read_table(own_node.place / "usage.parquet")
        assert table.schema.field("from_utc").type.tz == "UTC"
        assert {column.null_count for column in table.columns} == {0}
        rows = table.to_pylist()
        assert {row["tenant"] for row in rows} == {os.geteuid()}
        assert all(row["from_utc"] <= row["until_utc"] for row in rows)
        for one in told["namespaces"]:
            own = [row for row in rows if row["namespace"] == one["namespace"]]
            sums = {name: sum(row[name] for row in own) for name in one["usage"]}
            # It went on holding blocks while it was asked.
            held = one["usage"].pop("held_token_s")
            assert sums.pop("held_token_s") >= held
            assert sums == one["usage"]
        own_node.start()


def test_an_export_of_a_running_node_and_of_nothing(own_node: Node) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    stat(own_node, "--connect", own_node.address, "--parquet", "empty.parquet")
    table = parquet.read_table(own_node.place / "empty.parquet")
    assert table.num_rows == 0 and "offered_tokens" in table.column_names


def test_what_adapters_report_is_in_the_log_and_an_apis_count_is_explained(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000)
    space = client.namespace("agents", create=True)
    # Of 1,000 prompt tokens the engine had 300 and took 400 from the node, of 500 it took none.
    until = time.monotonic() + 60
    while not space.report(prompt_tokens=1000, engine_tokens=300, used_tokens=400):
        assert time.monotonic() < until
    while not space.report(prompt_tokens=500, requests=2):
        assert time.monotonic() < until
    expected = {"reported_requests": 3, "reported_prompt_tokens": 1500, "reported_engine_tokens": 300, "used_tokens": 400}
    told = recorded(own_node, expected)
    assert {name: told["all"][name] for name in expected} == expected
    # The API says 64 more than that: a request without an adapter.
    shown = json.loads(stat(own_node, "--connect", own_node.address, "--json", "--cached-tokens", "764"))
    assert shown["reconciled"] == {"api_cached_tokens": 764, "engine_tokens": 300, "used_tokens": 400, "difference_tokens": 64}
    own_node.kill()
    own_node.start()
    assert recorded(own_node, expected)["all"]["used_tokens"] == 400
    with pytest.raises(forebay.InvalidArgument, match="too many"):
        space.report(prompt_tokens=10, engine_tokens=6, used_tokens=5)


def test_a_report_that_was_not_said_is_said_with_the_next(own_node: Node) -> None:
    from forebay.integrations._common import Prompts

    client = forebay.Client(own_node.address, deadline_ms=60_000)
    space = client.namespace("agents", create=True)
    prompts = Prompts()
    own_node.kill()
    # The connection may still take one before it is known to be dead; that one is lost and never counted twice.
    until, waiting = time.monotonic() + 60, 0
    while not waiting:
        prompts.add(100, used_tokens=40)
        prompts.tell(space, at_once=True)
        waiting = prompts._counts["requests"]
        assert time.monotonic() < until
    own_node.start()
    while prompts._counts["requests"]:
        prompts.tell(space, at_once=True)
        assert time.monotonic() < until
        time.sleep(0.05)
    told = recorded(own_node, {"reported_requests": waiting})["all"]
    assert (told["reported_prompt_tokens"], told["used_tokens"]) == (100 * waiting, 40 * waiting)


def test_an_apis_count_stands_beside_what_was_metered(own_node: Node) -> None:
    shown = stat(own_node, "--connect", own_node.address, "--cached-tokens", "1234")
    (line,) = [line for line in shown.splitlines() if "difference" in line]
    assert line.split()[-1] == "1234"
