"""What all adapters share, without an engine: the link to a node that may not be there, hints that nobody waits for, and the line of the report."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from another_version import TEXT, NodeOfAnotherVersion, error_frame
from conftest import ROOT, Node

import forebay
from forebay import Fingerprint
from forebay.integrations import _settings, _versions
from forebay.integrations._common import Hints, Link, Report, default_address

PRINT = Fingerprint(model="a model", weights="0123456789abcdef", dtype="bfloat16", block_tokens=16)


def come_true(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_link_opens_the_namespace_of_its_fingerprint(shared_node: Node) -> None:
    link = Link(PRINT, engine="test", address=shared_node.address)
    assert link.namespace is not None and link.name == PRINT.namespace_name("test")
    other = Link(Fingerprint(model="a model", weights="other"), engine="test", address=shared_node.address)
    assert other.name != link.name, "other weights are another namespace"
    for each in (link, other):
        each.close()
    assert link.namespace is None


def test_a_link_waits_for_a_node_that_is_not_there_without_holding_anybody_up(own_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    own_node.kill()
    with caplog.at_level(logging.INFO, "forebay"):
        link = Link(PRINT, engine="test", address=own_node.address)
        assert link.namespace is None
        own_node.start()
        come_true(lambda: link.namespace is not None)
    assert "until the node is there, all is computed" in caplog.text
    come_true(lambda: "is there" in caplog.messages[-1])
    link.close()


def test_a_node_on_tcp_is_shown_the_token_from_a_file(place: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    folder = place()
    token = folder / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef" * 4)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    node = Node(folder, "--listen", f"127.0.0.1:{port}", "--token-file", "token")
    try:
        address = f"tcp:127.0.0.1:{port}"
        monkeypatch.setenv("FOREBAY_TOKEN_FILE", str(folder / "none"))
        given = Link(PRINT, engine="test", address=address, token_file=str(token))
        assert given.namespace is not None, "what is said goes before what the environment says"
        without = Link(PRINT, engine="test", address=address)
        assert without.namespace is None and "token" in caplog.text
        monkeypatch.setenv("FOREBAY_TOKEN_FILE", str(token))
        found = Link(PRINT, engine="test", address=address)
        assert found.namespace is not None
        for each in (given, without, found):
            each.close()
    finally:
        node.kill()


def test_a_release_that_was_never_tested_is_said_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_versions.KNOWN, "an engine", ("0.32", "0.33"))
    known = {version: _versions.is_known("an engine", version) for version in ("0.31.9", "0.32.0", "0.33.7+cpu", "0.34.0", "1.0", "odd")}
    assert known == {"0.31.9": False, "0.32.0": True, "0.33.7+cpu": True, "0.34.0": False, "1.0": False, "odd": False}
    for version in ("0.33.1", "0.34.0", "0.34.0"):
        _versions.look("an engine", version)
    (said,) = caplog.messages
    assert "this is an engine 0.34.0, and the adapter is tested with 0.32 to 0.33" in said


def test_a_strict_link_raises(own_node: Node) -> None:
    own_node.kill()
    with pytest.raises(forebay.ConnectionFailed):
        Link(PRINT, engine="test", address=own_node.address, strict=True)


@pytest.mark.parametrize("address", ["localhost:5600", "tcp:localhost", "unix:"])
def test_an_address_that_is_none_is_said_once_and_the_engine_serves_without(address: str, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(PRINT, engine="test", address=address)
    assert link.namespace is None
    (message,) = caplog.messages
    assert repr(address)[1:-1] in message and "all is computed" in message and "\n" not in message, message
    assert "unix:" in message and "tcp:" in message, "and what an address looks like"
    link.close()
    with pytest.raises(forebay.ForebayError):
        Link(PRINT, engine="test", address=address, strict=True)


def test_a_namespace_that_is_not_there_is_said_once_where_it_is_not_to_be_made(shared_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(PRINT, engine="test", address=shared_node.address, namespace="nobody-made-it", create=False)
    assert link.namespace is None
    (message,) = caplog.messages
    assert "nobody-made-it" in message and "all is computed" in message, message
    link.close()
    with pytest.raises(forebay.ForebayError):
        Link(PRINT, engine="test", address=shared_node.address, namespace="nobody-made-it", create=False, strict=True)


def test_a_namespace_of_another_fingerprint_is_not_used_and_said_once(shared_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    first = Link(PRINT, engine="test", address=shared_node.address, namespace="by-hand")
    assert first.namespace is not None
    second = Link(Fingerprint(model="a model", weights="new"), engine="test", address=shared_node.address, namespace="by-hand")
    assert second.namespace is None
    assert len([message for message in caplog.messages if "by-hand" in message]) == 1
    for each in (first, second):
        each.close()


def test_a_node_of_another_version_is_said_once_with_what_to_do(place: Callable[[], Path], caplog: pytest.LogCaptureFixture) -> None:
    golden = bytes.fromhex("".join((ROOT / "crates/forebay-wire/tests/golden/error.hex").read_text().split()))
    assert error_frame(7, golden[36:].decode(), request=9) == golden, "what it says is what a node would say"
    with NodeOfAnotherVersion(place()) as node:
        link = Link(PRINT, engine="test", address=node.address)
        assert link.namespace is None and node.greeted > 0
        (message,) = caplog.messages
        assert TEXT in message and "all is computed" in message and "use builds of neighbouring versions" in message and "\n" not in message, message
        link.close()
        with pytest.raises(forebay.VersionMismatch, match="neighbouring versions"):
            Link(PRINT, engine="test", address=node.address, strict=True)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"quota": "20 gigs"}, 'quota is a size, as "20GiB" or a number of bytes, of at least 4,096, not \'20 gigs\''),
        ({"quota": 20}, "quota is a size"),
        ({"quota": -1}, "quota is a size"),
        ({"quota": True}, "quota is a size"),
        ({"ttl_s": "3600"}, "ttl_s is a whole number of seconds from 1 on, not '3600'"),
        ({"ttl_s": 0}, "ttl_s is a whole number of seconds"),
        ({"region_bytes": "1 GIB"}, "region_bytes is a size"),
        ({"address": 5}, "address is a text, not 5"),
        ({"namespace": ""}, "namespace is a text"),
    ],
)
def test_a_setting_that_cannot_be_is_said_once_and_the_engine_serves_without(wrong: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(PRINT, engine="test", **wrong)
    assert link.namespace is None
    (message,) = caplog.messages
    assert said in message and "all is computed" in message and "\n" not in message, message
    link.close()
    with pytest.raises(forebay.InvalidArgument):
        Link(PRINT, engine="test", strict=True, **wrong)


def test_sizes_are_what_the_command_line_takes(shared_node: Node) -> None:
    sizes = {"20GiB": 20 << 30, "1.5 kB": 1500, "5000 B": 5000, " 1TB ": 10**12, 7: 7}
    assert {text: _settings.size("a size", text) for text in sizes} == sizes
    for wrong in ("12", "", "GiB", "1.2.3GiB", "12 gib", "-4GiB", "99999999999TiB", ".5GiB", 0, 1.5, None, [1]):
        with pytest.raises(forebay.InvalidArgument, match="a size is a size"):
            _settings.size("a size", wrong)
    link = Link(PRINT, engine="test", address=shared_node.address, namespace="of-a-size", quota="1GiB", region_bytes="32MiB")
    assert link.client is not None and link.namespace is not None
    with pytest.raises(forebay.NamespaceExists):
        link.client.namespace("of-a-size", fingerprint=PRINT, create=True, quota=2 << 30)
    link.client.namespace("of-a-size", fingerprint=PRINT, create=True, quota=1 << 30)
    link.close()


def test_a_quota_that_is_full_is_said_once_with_what_to_do(shared_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(PRINT, engine="test", address=shared_node.address, namespace="a-small-quota", quota=4096)
    report, space = Report(link), link.namespace
    assert space is not None
    for number in range(2):
        outcomes = space.put(space.keys([f"{number} {at}".encode() for at in range(3)]), [bytes(20_000)] * 3)
        assert outcomes == [forebay.Refused.QUOTA] * 3
        report.put(outcomes)
        # Where answers say only that a block was refused, the client's counts say why.
        report.refusals.look()
    (message,) = caplog.messages
    assert "a-small-quota" in message and "quota is full" in message and "`forebay namespace delete`" in message and "\n" not in message, message
    assert report.counts["refused"] == 6
    link.close()


def test_refusals_that_pass_by_themselves_are_counted_and_not_complained_of(shared_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(PRINT, engine="test", address=shared_node.address)
    report = Report(link)
    report.put([forebay.Refused.BUSY, forebay.Refused.DEADLINE, forebay.Refused.ADMISSION, forebay.Refused.UNAVAILABLE])
    assert caplog.messages == [] and report.counts["refused"] == 4
    report.put([forebay.Refused.FULL, forebay.Refused.TOO_LARGE, forebay.Refused.NAMESPACE])
    assert len(caplog.messages) == 3 and all(link.name in message for message in caplog.messages)
    link.close()


def test_hints_are_dropped_when_the_line_is_full() -> None:
    hints = Hints(length=2)
    hold, begun, made = threading.Event(), threading.Event(), []
    assert hints.give(lambda: (begun.set(), hold.wait()))
    begun.wait()
    assert [hints.give(lambda: made.append(1)) for _ in range(3)] == [True, True, False]
    assert hints.dropped == 1
    hold.set()
    hints.close(timeout_s=60)
    assert made == [1, 1]


def test_a_hint_that_fails_does_not_end_the_others() -> None:
    hints, made = Hints(), []
    hints.give(lambda: 1 / 0)
    hints.give(lambda: made.append(1))
    hints.close(timeout_s=60)
    assert made == [1]


def test_a_report_says_what_happened(shared_node: Node, caplog: pytest.LogCaptureFixture) -> None:
    link = Link(PRINT, engine="test", address=shared_node.address)
    report = Report(link, every_s=0.0)
    report.add(asked=8, hits=6, loaded=5, load_failed=1)
    report.put([forebay.Stored.CACHED, forebay.Stored.EXISTS, forebay.Refused.BUSY])
    line = report.line()
    assert link.name in line and "a model" in line and "0123456789ab" in line
    assert "bfloat16, blocks of 16 tokens)" in line
    # What an engine does not tell is not made up.
    few = Report(Link(Fingerprint(model="m", weights="w"), engine="test", address=shared_node.address))
    assert "(model m, weights w): " in few.line()
    few._link.close()
    for part in ("75.0 % of 8 blocks", "5 loaded", "1 failed to load", "1 stored", "1 there already", "1 refused"):
        assert part in line, line
    with caplog.at_level(logging.INFO, "forebay"):
        report.tick()
        report.tick()
    assert len(caplog.messages) == 1, "nothing happened since the first line"
    link.close()


def test_the_default_address_is_the_one_of_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FOREBAY_CONNECT", "unix:/x")
    assert default_address() == "unix:/x"
    monkeypatch.delenv("FOREBAY_CONNECT")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_address() == f"unix:{tmp_path}/forebay.sock"
