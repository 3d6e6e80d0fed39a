"""A client's life: namespaces, errors in words, dead and silent nodes, Ctrl-C, threads, forks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from conftest import Node

import forebay
from forebay import Miss, Refused


def test_a_namespace_is_what_it_was_made_for(client: forebay.Client) -> None:
    fingerprint = forebay.Fingerprint(model="m", dtype="bf16", block_tokens=64)
    name = fingerprint.namespace_name()
    made = client.namespace(name, create=True, fingerprint=fingerprint, cls="durable", quota=1 << 20, ttl_s=3600)
    described = {"name": name, "cls": "durable", "quota": 1 << 20, "ttl_s": 3600, "fingerprint": fingerprint.as_dict()}
    assert made.describe() == described and described in client.namespaces()
    assert client.namespace(name, fingerprint={"model": "m", "dtype": "bf16", "block_tokens": 64}).name == name
    assert made.put([made.key(b"x")], [b"x"]) == [forebay.Stored.DURABLE]
    with pytest.raises(forebay.NamespaceDiffers, match="dtype"):
        client.namespace(name, fingerprint=forebay.Fingerprint(model="m", dtype="fp8", block_tokens=64))
    with pytest.raises(forebay.NamespaceExists):
        client.namespace(name, create=True, fingerprint=fingerprint, cls="cache")
    client.delete_namespace(name)
    assert made.get([made.key(b"x")]) == [Miss.NAMESPACE]
    assert made.put([made.key(b"x")], [b"x"]) == [Refused.NAMESPACE]
    with pytest.raises(forebay.NamespaceUnknown, match="forebay namespace create"):
        client.namespace(name)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda c: c.namespace("a b"), forebay.InvalidArgument, "letters, digits"),
        (lambda c: c.namespace("n", cls="durible"), forebay.InvalidArgument, "durable"),
        (lambda c: c.namespace("n", create=True, fingerprint={"modell": "x"}), forebay.InvalidArgument, "no field"),
        (lambda c: c.queue(calls_max=0), forebay.InvalidArgument, "at least 1"),
        (lambda c: c.region(0), forebay.InvalidArgument, "at least 1 byte"),
        (lambda c: forebay.Client("/tmp/s"), forebay.InvalidArgument, "unix:PATH"),
        (lambda c: forebay.Client(c.address, deadline_ms=0), forebay.InvalidArgument, "deadline"),
        (lambda c: forebay.Client("unix:/nowhere/s"), forebay.ConnectionFailed, "forebay serve --socket /nowhere/s"),
        (lambda c: forebay.Client("unix:/nowhere/s"), ConnectionError, "forebay serve"),
        (lambda c: forebay.Client(c.address, token_file="/nowhere/t"), forebay.InvalidArgument, "token file"),
    ],
)
def test_errors_say_what_to_try(client, make, error, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=words):
        make(client)


def test_a_dead_node_is_a_miss_and_found_again(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000, patience_ms=50)
    space = client.namespace("default")
    key = space.key(b"x")
    assert space.put([key], [b"x" * 1000])
    own_node.kill()
    assert space.get([key]) == [Miss.UNAVAILABLE]
    assert space.put([key], [b"x"]) == [Refused.UNAVAILABLE]
    assert space.match_prefix([key]).gap is Miss.UNAVAILABLE
    with pytest.raises(forebay.ConnectionFailed):
        client.node_stats()
    assert not client.wait_reachable(60)
    own_node.start()
    assert client.wait_reachable(60_000)
    assert space.get([key])[0] in (Miss.ABSENT, Miss.EVICTED) or bytes(space.get([key])[0]) == b"x" * 1000  # type: ignore[arg-type]
    assert client.stats()["restarts"] == 1


def test_a_silent_node_costs_the_deadline(own_node: Node) -> None:
    client = forebay.Client(own_node.address)
    space = client.namespace("default")
    space.put([space.key(b"x")], [b"x"])
    own_node.stop()
    assert space.get([space.key(b"x")], deadline_ms=100) == [Miss.DEADLINE]
    with pytest.raises(forebay.DeadlineExceeded):
        forebay.Client(own_node.address, deadline_ms=100)


_INTERRUPTED = """
import fcntl, forebay, os, pathlib, signal, sys, threading, time
# Where tests run in the background of a shell, it is ignored by all they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
client = forebay.Client(sys.argv[1], deadline_ms=60_000)
space = client.namespace("default")
space.put([space.key(b"x")], [b"x"])
lent = os.memfd_create("lent", os.MFD_ALLOW_SEALING)
os.ftruncate(lent, 1 << 20)
fcntl.fcntl(lent, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
place = client.lend(lent, 1 << 20).place(0, 8192)
os.kill(int(sys.argv[2]), signal.SIGSTOP)
# A thread of it that runs on another core still answers until the signal has reached it.
threads = pathlib.Path("/proc", sys.argv[2], "task")
while any(stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in threads.glob("*/stat")):
    time.sleep(0.001)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
begun = time.monotonic()
try:
    {call}
except KeyboardInterrupt:
    # The client is whole: the next call is answered in its own time.
    os.kill(int(sys.argv[2]), signal.SIGCONT)
    assert client.wait_reachable(60_000)
    assert bytes(space.get([space.key(b"x")])[0]) == b"x"
    print("interrupted", time.monotonic() - begun < 50)
"""


@pytest.mark.parametrize(
    "call",
    [
        "space.get([space.key(b'x')])",
        "space.get([space.key(b'x')], into=[bytearray(1)])",
        "space.put([space.key(b'y')], [b'y'])",
        "space.put_group(space.key(b'y'), {'a': b'y'})",
        "space.get_ranges([space.key(b'x')], [(0, 1)])",
        "space.get_lent([space.key(b'x')], [place])",
        "space.contains([space.key(b'x')])",
        "space.plan_fetch([space.key(b'x')])",
        "space.match_prefix([space.key(b'x')])",
        "space.forget([space.key(b'z')])",
        "client.namespace('default')",
        "client.node_stats()",
        "forebay.Client(sys.argv[1], deadline_ms=60_000)",
        "client.queue().wait(60_000)",
        # They return within 20 ms: of many, one is interrupted, or the moment between two.
        "while True: space.touch([space.key(b'x')])",
        "while True: space.prefetch([space.key(b'x')])",
    ],
)
def test_ctrl_c_ends_any_call(own_node: Node, call: str) -> None:
    assert own_node.process is not None
    program = [sys.executable, "-P", "-c", _INTERRUPTED.format(call=call), own_node.address, str(own_node.process.pid)]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert ran.stdout == "interrupted True\n", ran.stderr


def test_what_a_signal_handler_raises_comes_out_and_what_it_calls_works(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000)
    space = client.namespace("default")
    seen: list[object] = []

    class Alarm(Exception):
        pass

    def ring(_number: int, _frame: object) -> None:
        own_node.signal(signal.SIGCONT)
        seen.append(space.contains([space.key(b"nothing")]))
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        own_node.stop()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            space.get([space.key(b"x")])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen == [[Miss.ABSENT]]


def test_calls_release_the_gil(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000)
    space = client.namespace("default")
    own_node.stop()
    went_on = threading.Event()
    waiting = threading.Thread(target=lambda: space.get([space.key(b"x")]))
    waiting.start()
    threading.Thread(target=went_on.set).start()
    assert went_on.wait(60) and waiting.is_alive()
    own_node.signal(signal.SIGCONT)
    waiting.join()


def test_one_client_serves_many_threads(client: forebay.Client, space: forebay.Namespace) -> None:
    errors: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for n in range(30):
                rows = space.keys(f"{who} {n} {m}".encode() for m in range(4))
                contents = [os.urandom(1000 + 100 * m) for m in range(4)]
                assert all(space.put(rows, contents))
                assert [bytes(block) for block in space.get(rows)] == contents  # type: ignore[arg-type]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def test_many_clients_live_in_one_process(shared_node: Node, space: forebay.Namespace) -> None:
    key = space.key(b"shared")
    space.put([key], [b"by one"])
    clients = [forebay.Client(shared_node.address, deadline_ms=60_000) for _ in range(20)]
    for client in clients:
        assert [bytes(b) for b in client.namespace(space.name).get([key])] == [b"by one"]  # type: ignore[arg-type]


def _in_child(address: str, name: str, space: forebay.Namespace, block: forebay.Block, pipe: Connection) -> None:
    try:
        space.get([b"x" * 16])
    except forebay.ForkedClient as error:
        pipe.send(str(error))
    # What the parent got is still to be looked at, and dropping it does no harm.
    pipe.send(bytes(block))
    del block
    own = forebay.Client(address, deadline_ms=60_000).namespace(name)
    pipe.send([bytes(b) for b in own.get([own.key(b"forked")])])  # type: ignore[arg-type]
    pipe.close()


def test_a_forked_child_is_refused_and_can_have_its_own(shared_node: Node, space: forebay.Namespace) -> None:
    key = space.key(b"forked")
    space.put([key], [b"before"])
    (block,) = space.get([key])
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(shared_node.address, space.name, space, block, theirs))
    child.start()
    theirs.close()
    said = [ours.recv() for _ in range(3)]
    child.join()
    assert "make a new forebay.Client in the child" in said[0]
    assert said[1:] == [b"before", [b"before"]] and child.exitcode == 0
    assert [bytes(b) for b in space.get([key])] == [b"before"]  # type: ignore[arg-type]


def test_tcp_needs_the_token(place) -> None:  # type: ignore[no-untyped-def]
    folder: Path = place()
    token = folder / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    node = Node(folder, "--listen", f"127.0.0.1:{port}", "--token-file", str(token))
    try:
        address = f"tcp:127.0.0.1:{port}"
        client = forebay.Client(address, token_file=token, deadline_ms=60_000)
        space = client.namespace("default")
        content = os.urandom(300_000)
        assert space.put([space.key(b"x")], [content])
        (block,) = space.get([space.key(b"x")])
        assert bytes(block) == content and block.landing is forebay.Landing.STREAM  # type: ignore[arg-type,union-attr]
        with pytest.raises(forebay.CredentialRefused, match="token"):
            forebay.Client(address)
    finally:
        node.kill()


def test_time_to_wait_is_waited(client: forebay.Client) -> None:
    begun = time.monotonic()
    assert not client.queue().wait(120)
    assert time.monotonic() - begun >= 0.12
