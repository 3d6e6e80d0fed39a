"""Calls that nobody blocks in: the queue behind a descriptor, and coroutines."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import re
import select
import signal

import pytest
from conftest import Node

import forebay
from forebay import Miss, Refused, Stored, Tier, aio
from forebay.aio import AsyncClient, AsyncNamespace

MIB = 1 << 20


def drained(queue: forebay.CallQueue, count: int) -> dict[int, object]:
    """All of `count` answers, waited for by the descriptor as an event loop would."""
    answers: dict[int, object] = {}
    while len(answers) < count:
        assert select.select([queue.fileno()], [], [], 60)[0], "nothing came"
        answers.update(queue.drain())
    return answers


def test_tickets_are_answered_as_the_verbs_answer(client: forebay.Client, space: forebay.Namespace) -> None:
    queue = client.queue()
    rows = space.keys(f"ticket {n}".encode() for n in range(3))
    contents = [os.urandom(50_000) for _ in range(3)]
    put = queue.submit_put(space, rows, contents)
    assert drained(queue, 1) == {put: [Stored.CACHED] * 3}
    memory = [bytearray(50_000) for _ in range(3)]
    get, into = queue.submit_get(space, rows), queue.submit_get(space, rows, into=memory)
    contains, match = queue.submit_contains(space, rows + bytes(16)), queue.submit_match(space, rows + bytes(16))
    assert queue.pending == 4
    answers = drained(queue, 4)
    assert queue.pending == 0 and queue.drain() == []
    assert [bytes(block) for block in answers[get]] == contents  # type: ignore[attr-defined]
    assert answers[into] == [50_000] * 3 and [bytes(m) for m in memory] == contents
    assert answers[contains] == [Tier.DRAM] * 3 + [Miss.ABSENT]
    assert answers[match].n == 3 and answers[match].gap is Miss.ABSENT  # type: ignore[attr-defined]
    hints = {queue.submit_touch(space, rows, reuse="turn"): None, queue.submit_prefetch(space, rows): None}
    assert drained(queue, 2) == hints
    report = queue.submit_report(space, prompt_tokens=100, engine_tokens=40, used_tokens=60)
    assert drained(queue, 1) == {report: True}
    counted = client.stats()
    assert counted["touch"]["sent"] == counted["prefetch"]["sent"] == 3
    forget = queue.submit_forget(space, rows)
    assert drained(queue, 1) == {forget: [True] * 3}
    assert space.contains(rows) == [Miss.ABSENT] * 3


def test_the_descriptor_is_readable_only_while_there_is_something(client: forebay.Client, space: forebay.Namespace) -> None:
    queue = client.queue()
    for n in range(50):
        ticket = queue.submit_contains(space, [bytes(16)])
        assert queue.wait(60_000)
        assert queue.drain() == [(ticket, [Miss.ABSENT])], n
        assert not select.select([queue.fileno()], [], [], 0)[0]


def test_one_too_many_is_busy_at_once(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000)
    space = client.namespace("default")
    queue = client.queue(calls_max=2)
    own_node.stop()
    first = [queue.submit_get(space, [bytes(16)]) for _ in range(2)]
    busy = {
        queue.submit_get(space, [bytes(16)]): [Miss.BUSY],
        queue.submit_get(space, [bytes(16)], into=[bytearray(1)]): [Miss.BUSY],
        queue.submit_put(space, [bytes(16)], [b"x"]): [Refused.BUSY],
        queue.submit_contains(space, [bytes(16)] * 2): [Miss.BUSY] * 2,
        queue.submit_put_group(space, bytes(16), {"a": b"x"}): Refused.BUSY,
        queue.submit_get_ranges(space, [bytes(16)] * 2, [(0, 1)] * 2): [Miss.BUSY] * 2,
    }
    assert drained(queue, 6) == busy
    forget = queue.submit_forget(space, [bytes(16)])
    # As the blocking verb raises it, not raised.
    assert isinstance(drained(queue, 1)[forget], forebay.InvalidArgument)
    own_node.signal(signal.SIGCONT)
    assert drained(queue, 2) == {ticket: [Miss.ABSENT] for ticket in first}


def test_a_cancelled_call_ends_soon_and_its_memory_is_its_own_until_then(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=60_000)
    space = client.namespace("default")
    key = space.key(b"x")
    space.put([key], [os.urandom(MIB)])
    queue = client.queue()
    own_node.stop()
    memory = bytearray(MIB)
    running = queue.submit_get(space, [key], into=[memory])
    # The export is the call's: the memory cannot be moved meanwhile.
    with pytest.raises(BufferError):
        memory.extend(b"x")
    assert not queue.wait(300)
    assert queue.cancel(running) and not queue.cancel(10_000)
    assert drained(queue, 1) == {running: [Miss.DEADLINE]}
    memory.extend(b"x")
    own_node.signal(signal.SIGCONT)
    assert client.wait_reachable(60_000)
    again = queue.submit_get(space, [key], into=[memory])
    assert drained(queue, 1) == {again: [MIB]}


def test_a_queue_that_is_dropped_in_the_middle_does_no_harm(own_node: Node) -> None:
    client = forebay.Client(own_node.address, deadline_ms=1000)
    space = client.namespace("default")
    own_node.stop()
    queue = client.queue()
    for _ in range(40):
        queue.submit_get(space, [bytes(16)], into=[bytearray(1000)])
        queue.submit_put(space, [bytes(16)], [bytearray(1000)])
    del queue
    gc.collect()
    own_node.signal(signal.SIGCONT)
    assert client.wait_reachable(60_000)
    assert space.contains([b"y" * 16], deadline_ms=60_000) == [Miss.ABSENT]


def run(story) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(story, 120))


def test_coroutines_answer_as_the_verbs_do(shared_node: Node, space: forebay.Namespace) -> None:
    async def story() -> None:
        client = await AsyncClient.connect(shared_node.address, deadline_ms=60_000)
        same = await client.namespace(space.name)
        rows = space.keys(f"async {n}".encode() for n in range(40))
        contents = [os.urandom(1000 + n) for n in range(40)]
        puts = [same.put(rows[16 * n : 16 * n + 16], [contents[n]]) for n in range(40)]
        assert await asyncio.gather(*puts) == [[Stored.CACHED]] * 40
        assert [bytes(block) for block in await same.get(rows)] == contents
        memory = bytearray(1000)
        assert await same.get(rows[:16], into=[memory]) == [1000] and bytes(memory) == contents[0]
        assert (await same.match_prefix(rows)).n == 40
        assert await same.contains(rows[:16]) == [Tier.DRAM]
        assert await same.put_group(space.key(b"async group"), {"a": b"1"}) is Stored.CACHED
        (cut,) = await same.get_ranges(rows[:16], [(10, 20)])
        assert bytes(cut) == contents[0][10:20]  # type: ignore[arg-type]
        await same.touch(rows, reuse="turn")
        assert await same.report(prompt_tokens=100, used_tokens=60)
        await same.prefetch(rows, within_ms=1000)
        assert (await same.plan_fetch(rows)).missing == 0
        counted = client.blocking.stats()
        assert counted["touch"]["asked"] == counted["prefetch"]["asked"] == 40
        assert await same.forget(rows[:16]) == [True]
        with pytest.raises(forebay.InvalidArgument):
            await same.get([b"short"])
        # Said by the call itself, not by its arguments.
        with pytest.raises(forebay.InvalidArgument, match="name"):
            await same.put_group(space.key(b"other"), {"a name of more than 16 bytes": b"1"})
        assert await client.wait_reachable(60_000)
        assert (await client.node_stats()).keys() == client.blocking.node_stats().keys()
        await client.namespace("async-only", create=True)
        assert "async-only" in [each["name"] for each in await client.namespaces()]
        await client.delete_namespace("async-only")
        with pytest.raises(forebay.NamespaceUnknown):
            await client.delete_namespace("async-only")
        with pytest.raises(forebay.NamespaceUnknown):
            await client.namespace("not-there")

    run(story())


def test_a_client_works_in_one_loop_after_another(client: forebay.Client, space: forebay.Namespace) -> None:
    same = AsyncNamespace(AsyncClient(client), space)
    for _ in range(3):
        assert asyncio.run(same.contains([bytes(16)])) == [Miss.ABSENT]


def test_the_loop_runs_while_a_call_waits_and_a_cancelled_call_gives_its_memory_back(own_node: Node) -> None:
    async def story() -> None:
        client = await AsyncClient.connect(own_node.address, deadline_ms=60_000)
        space = await client.namespace("default")
        own_node.stop()
        memory = bytearray(1000)
        waiting = asyncio.create_task(space.get([bytes(16)], into=[memory]))
        looking = asyncio.create_task(space.contains([bytes(16)]))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        waiting.cancel()
        looking.cancel()
        for task in (waiting, looking):
            with pytest.raises(asyncio.CancelledError):
                await task
        # It has ended: nobody holds the memory any more.
        memory.extend(b"x")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await space.get([bytes(16)], into=[memory])
        memory.extend(b"x")
        # So do the parts of a group.
        part = bytearray(MIB)
        grouping = asyncio.create_task(space.put_group(bytes(16), {"a": b"x", "b": part}))
        await asyncio.sleep(0.1)
        with pytest.raises(BufferError):
            part.extend(b"x")
        grouping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await grouping
        part.extend(b"x")
        own_node.signal(signal.SIGCONT)
        assert await client.wait_reachable(60_000)
        assert await space.get([b"y" * 16]) == [Miss.ABSENT]

    run(story())


def test_every_verb_that_may_wait_has_a_twin() -> None:
    told = set(re.findall(r"``(\w+)``", (aio.__doc__ or "").partition("does no I/O")[2]))
    for blocking, twin in ((forebay.Client, AsyncClient), (forebay.Namespace, AsyncNamespace)):
        verbs = {name for name, it in vars(blocking).items() if not name.startswith("_") and callable(it)}
        without = {name for name in verbs if not inspect.iscoroutinefunction(getattr(twin, name, None))}
        assert without <= told, f"{blocking.__name__}: {without - told}"
