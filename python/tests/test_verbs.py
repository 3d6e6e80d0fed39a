"""The verbs against a real node: what each answers, and in which words."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

import forebay
from forebay import Miss, Refused, Stored, Tier


def blocks(count: int, nbytes: int = 10_000) -> list[bytes]:
    return [os.urandom(nbytes) for _ in range(count)]


def test_what_is_put_is_got_and_what_was_not_is_a_miss(space: forebay.Namespace) -> None:
    keys = [space.key(f"block {n}".encode()) for n in range(5)]
    contents = blocks(4)
    assert space.put(keys[:4], contents) == [Stored.CACHED] * 4
    got = space.get(keys)
    assert [bytes(block) for block in got[:4]] == contents
    assert got[4] is Miss.ABSENT and not got[4]
    first = got[0]
    assert isinstance(first, forebay.Block) and first
    assert (first.key, first.nbytes, first.block_nbytes, first.offset) == (keys[0], 10_000, 10_000, 0)
    assert first.tier is Tier.DRAM and first.landing in forebay.Landing


def test_the_first_put_wins(space: forebay.Namespace) -> None:
    key = space.key(b"once")
    assert space.put([key], [b"first"]) == ["cached"]
    assert space.put([key], [b"second"]) == [Stored.EXISTS]
    assert [bytes(block) for block in space.get([key])] == [b"first"]


def test_keys_come_in_every_form(space: forebay.Namespace) -> None:
    rows = space.keys(f"form {n}".encode() for n in range(6))
    assert len(rows) == 6 * 16
    keys = [rows[at : at + 16] for at in range(0, len(rows), 16)]
    space.put(rows, blocks(6, 100))
    array = np.frombuffer(rows, dtype=np.uint8).reshape(6, 16)
    hexes = [key.hex() for key in keys]
    for form in [rows, keys, tuple(keys), hexes, array, list(array), bytearray(rows), memoryview(rows), iter(keys)]:
        assert space.contains(form) == [Tier.DRAM] * 6, type(form)


def test_a_key_that_is_none_is_told_what_is_wrong(space: forebay.Namespace) -> None:
    for wrong, words in [
        ([b"short"], "16 bytes and this has 5"),
        (b"x" * 17, "rows of 16 bytes"),
        (["zz" * 16], "lower-case hex"),
        ("ab" * 16, r"write \[key\]"),
    ]:
        with pytest.raises(forebay.InvalidArgument, match=words):
            space.contains(wrong)
    for wrong in [[1], 7, None]:
        with pytest.raises(TypeError):
            space.contains(wrong)


def test_a_match_ends_at_the_first_gap(space: forebay.Namespace) -> None:
    rows = space.keys(f"chain {n}".encode() for n in range(10))
    space.put(rows[: 7 * 16], blocks(7), chain=9, position=0, tokens=64)
    matched = space.match_prefix(rows)
    assert (matched.n, len(matched), matched.leased, matched.gap) == (7, 7, 7, Miss.ABSENT)
    assert matched.tiers == [Tier.DRAM] * 7
    assert space.match_prefix(rows[: 7 * 16], hold_ms=0).gap is None
    block = space.get([rows[:16]])[0]
    assert isinstance(block, forebay.Block) and block.tokens == 64


def test_of_no_keys_nothing_is_asked(space: forebay.Namespace) -> None:
    begun = time.monotonic()
    assert (space.match_prefix([]).n, space.match_prefix([]).gap) == (0, None)
    answers = (space.get([]), space.get([], into=[]), space.get_ranges([], []), space.put([], []), space.contains([]), space.forget([]))
    assert answers == ([],) * 6 and space.plan_fetch([]).missing == 0
    space.touch([])
    space.prefetch([])
    # The client's deadline is 60 s, and a match of no keys waited for it where the node has one shard.
    assert time.monotonic() - begun < 50


def test_a_group_is_one_block_with_parts(space: forebay.Namespace) -> None:
    key = space.key(b"group")
    assert space.put_group(key, {"kv": b"a" * 1000, "scales": np.arange(4, dtype=np.float32)}) is Stored.CACHED
    (block,) = space.get([key])
    assert isinstance(block, forebay.Block)
    assert block.parts == {"kv": (0, 1000), "scales": (1000, 16)}
    assert np.array_equal(np.frombuffer(block.part("scales"), np.float32), np.arange(4, dtype=np.float32))
    with pytest.raises(forebay.InvalidArgument, match="scales"):
        block.part("indexer")
    with pytest.raises(forebay.InvalidArgument):
        space.put_group(key, {})
    with pytest.raises(forebay.InvalidArgument, match="1 to 16 bytes"):
        space.put_group(key, {"a name that is too long": b"x"})


def test_ranges_are_cut_out_of_blocks(space: forebay.Namespace) -> None:
    key, content = space.key(b"range"), os.urandom(200_000)
    space.put([key], [content])
    cut, behind = space.get_ranges([key, key], [(70_000, 70_100), (199_990, 300_000)])
    assert bytes(cut) == content[70_000:70_100] and cut.offset == 70_000 and cut.block_nbytes == 200_000
    assert bytes(behind) == content[199_990:]
    with pytest.raises(forebay.InvalidArgument, match="1 keys and 0 ranges"):
        space.get_ranges([key], [])


def test_what_is_forgotten_is_gone(space: forebay.Namespace) -> None:
    keys = [space.key(b"kept"), space.key(b"forgotten")]
    space.put(keys, blocks(2))
    assert space.forget([keys[1], space.key(b"never there")]) == [True, False]
    assert space.contains(keys) == [Tier.DRAM, Miss.ABSENT]


def test_puts_are_refused_with_their_reason(space: forebay.Namespace) -> None:
    key = space.key(b"refused")
    outcomes = space.put([key, space.key(b"fine")], [b"", b"x"])
    assert outcomes == [Refused.TOO_LARGE, Stored.CACHED] and not outcomes[0] and outcomes[1]
    with pytest.raises(forebay.InvalidArgument, match="2 keys and 1 buffers"):
        space.put([key, key], [b"x"])


def test_what_expires_is_a_miss(space: forebay.Namespace) -> None:
    key = space.key(b"short-lived")
    for wrong in [0, -1, float("nan")]:
        with pytest.raises(forebay.InvalidArgument, match="time to live"):
            space.put([key], [b"x"], ttl_s=wrong)
    assert space.put([key], [b"x"], ttl_s=3600) == [Stored.CACHED]
    assert space.contains([key]) == [Tier.DRAM]


def test_hints_are_counted_and_plans_believe_what_they_have_seen(space: forebay.Namespace, client: forebay.Client) -> None:
    rows = space.keys(f"hint {n}".encode() for n in range(4))
    space.put(rows, blocks(4), reuse="tool")
    space.touch(rows, reuse="turn")
    space.touch(rows, reuse=30)
    space.prefetch(rows, within_ms=1000)
    with pytest.raises(forebay.InvalidArgument, match="reuse hint"):
        space.touch(rows, reuse="soon")  # type: ignore[arg-type]
    assert space.plan_fetch(rows).confidence == 0
    for _ in range(10):
        space.get(rows)
    plan = space.plan_fetch(rows + bytes(16))
    assert plan.missing == 1 and plan.dram_bytes > 0 and plan.seconds > 0 and plan.confidence > 0
    # Without asking: of what was never fetched nothing is known, until somebody else tells what it took.
    assert space.expect_fetch(nvme_bytes=1 << 20).confidence == 0
    for _ in range(8):
        space.learn_fetch(0.5, nvme_bytes=1 << 20)
    told = space.expect_fetch(nvme_bytes=1 << 20)
    # And what the last question queued for, which on a busy machine may be much.
    assert told.seconds >= 0.4 and told.nvme_bytes == 1 << 20 and told.confidence > 0.5
    both = space.expect_fetches([(0, 1 << 20), (0, 2 << 20)])
    assert all(seconds >= 0.4 and confidence > 0 for seconds, confidence in both) and both[0][1] > both[1][1], "of another size less is known"
    with pytest.raises(forebay.InvalidArgument, match="0 seconds or more"):
        space.learn_fetch(-1.0, dram_bytes=1)
    counted = client.stats()
    assert counted["touch"]["asked"] == 8 and counted["prefetch"]["asked"] == 4


def test_counters_add_up(space: forebay.Namespace, client: forebay.Client) -> None:
    rows = space.keys(f"counted {n}".encode() for n in range(8))
    space.put(rows[:64], blocks(4))
    space.get(rows)
    space.contains(rows)
    space.match_prefix(rows)
    counted = space.stats()["client"]
    assert counted == client.stats()
    for verb in ["get", "contains", "match"]:
        one = counted[verb]
        parts = [*one["hits_local"].values(), *one["hits_remote"].values(), *one["misses"].values(), one["not_asked"]]
        assert one["asked"] == sum(parts) == 8, verb
    assert counted["put"]["asked"] == counted["put"]["cached"] == 4
    assert counted["get_bytes"] == counted["put_bytes"] == 40_000
    assert client.node_stats()["get"]["asked"] >= 8


def test_content_has_a_key_of_its_own(space: forebay.Namespace) -> None:
    assert space.content_key(b"abc") == space.content_key(bytearray(b"abc")) != space.key(b"abc")
    assert space.keys([b"abc", b"def"]) == space.key(b"abc") + space.key(b"def")


def test_hashes_become_keys_where_the_call_is_made(space: forebay.Namespace, client: forebay.Client) -> None:
    hashes = [os.urandom(20) for _ in range(5)]
    two = forebay.Hashes(b"".join(hashes), 20, suffixes=[b"", b" rank 1"])
    keys = space.keys(hash_ + suffix for hash_ in hashes for suffix in (b"", b" rank 1"))
    assert len(two) == 10
    assert space.put(keys, blocks(10, 100)) == [Stored.CACHED] * 10
    one = forebay.Hashes(bytearray(b"".join(hashes)), 20)
    assert space.contains(one) == space.contains(two)[::2] == [Tier.DRAM] * 5
    assert [block.key for block in space.get(two)] == [keys[at : at + 16] for at in range(0, 160, 16)]
    assert space.match_prefix(one).n == 5 and space.plan_fetch(one).missing == 0
    assert space.forget(one) == [True] * 5 and space.contains(two)[1::2] == [Tier.DRAM] * 5
    for rows, width in [(b"seven b", 3), (b"", 0)]:
        with pytest.raises(forebay.InvalidArgument, match="no whole number"):
            forebay.Hashes(rows, width)
    with pytest.raises(forebay.InvalidArgument, match="without one there are no keys"):
        forebay.Hashes(b"abc", 3, suffixes=[])


def test_hashes_are_ranges_and_joined_without_a_copy(space: forebay.Namespace) -> None:
    hashes = [os.urandom(20) for _ in range(6)]
    space.put(space.keys(hashes[1:4]), blocks(3, 100))
    rows = b"".join(hashes)
    middle = forebay.Hashes(rows, 20, first=1, count=3)
    assert len(middle) == 3 and middle.width == 20 and space.contains(middle) == [Tier.DRAM] * 3
    ends = forebay.Hashes.joined(forebay.Hashes(rows, 20, count=2), forebay.Hashes(rows, 20, first=4), middle)
    assert [bool(seen) for seen in space.contains(ends)] == [False, True, False, False, True, True, True]
    for first, count in [(7, None), (5, 2), (0, 2**63)]:
        with pytest.raises(forebay.InvalidArgument, match="there are 6 hashes"):
            forebay.Hashes(rows, 20, first=first, count=count)
    with pytest.raises(forebay.InvalidArgument, match="one width"):
        forebay.Hashes.joined(middle, forebay.Hashes(rows, 40))
    with pytest.raises(forebay.InvalidArgument, match="nothing was given"):
        forebay.Hashes.joined()


def test_what_is_known_of_hashes(space: forebay.Namespace, client: forebay.Client) -> None:
    hashes = [os.urandom(36) for _ in range(5000)]
    space.put(space.keys(hashes[::2]), blocks(2500, 10))
    presence = forebay.Presence(36)
    assert presence.first is None and presence.question() is None
    assert [presence.state(hash_) for hash_ in hashes[:3000]] == [3] * 3000
    assert presence.state(b"of another length") == 0
    first = presence.question()
    assert first is not None and len(first) == 3000 and presence.question() is None
    # More are asked for while the first question is on its way.
    assert {presence.state(hash_) for hash_ in hashes} == {3} and len(presence) == 5000
    second = presence.question()
    assert second is not None and len(second) == 2000
    queue = client.queue()
    for question, number in ((first, 0), (second, 3000)):
        ticket = queue.submit_contains(space, question, packed=True, deadline_ms=60_000)
        assert queue.wait(60_000)
        ((drained, states),) = queue.drain()
        assert drained == ticket
        presence.answer(number, states)
    # In whichever tier: 1 for one, 2 for the other.
    assert [presence.state(hash_) in (1, 2) for hash_ in hashes] == [True, False] * 2500
    assert [presence.state(hash_) for hash_ in hashes[1::2]] == [0] * 2500
    assert presence.first == hashes[0]
    presence.lost(hashes[0])
    presence.lost(b"never seen")
    assert presence.state(hashes[0]) == 0 and presence.state(hashes[2]) in (1, 2)
    presence.state(b"n" * 36)
    presence.lost(b"n" * 36)
    assert presence.state(b"n" * 36) == 3, "what is asked for is answered first"
    with pytest.raises(forebay.InvalidArgument, match="more than were asked for"):
        presence.answer(5000, b"\0\0")
    with pytest.raises(forebay.InvalidArgument, match="at least 1 byte"):
        forebay.Presence(0)


def test_answers_of_a_queue_may_be_packed(space: forebay.Namespace, client: forebay.Client) -> None:
    queue = client.queue()
    hashes = forebay.Hashes(os.urandom(5 * 8), 8)

    def answer(ticket: int) -> object:
        assert queue.wait(60_000)
        ((drained, found),) = queue.drain()
        assert drained == ticket
        return found

    region = forebay.Region.borrow(np.arange(6 * 64, dtype=np.uint8).reshape(6, 64))
    rows = region.rows(np.array([5, 0, 3, 1, 2], dtype=np.int64), 64)
    some = forebay.Hashes(os.urandom(3 * 8), 8)
    assert answer(queue.submit_put(space, hashes, rows, packed=True)) == bytes([1] * 5)
    assert answer(queue.submit_put(space, hashes, rows, packed=True)) == bytes([3] * 5)
    assert answer(queue.submit_contains(space, hashes, packed=True)) == bytes([1] * 5)
    assert answer(queue.submit_contains(space, some, packed=True)) == bytes(3)
    into = np.zeros((5, 64), dtype=np.uint8)
    assert answer(queue.submit_get(space, hashes, into=forebay.Region.borrow(into).rows(np.arange(5), 64), packed=True)) == bytes([1] * 5)
    assert (into[0] == np.arange(5 * 64, 6 * 64, dtype=np.int64).astype(np.uint8)).all() and (into[1] == np.arange(64)).all()
    # A block that does not fill its buffer is none of the caller's layout.
    wide = forebay.Region.borrow(np.zeros((5, 65), dtype=np.uint8))
    assert answer(queue.submit_get(space, hashes, into=wide.rows(np.arange(5), 65), packed=True)) == bytes(5)
    plan = answer(queue.submit_plan(space, hashes))
    assert isinstance(plan, forebay.Plan) and plan.missing == 0
    with pytest.raises(forebay.InvalidArgument, match="not inside"):
        region.rows(np.array([6], dtype=np.int64), 64)
    with pytest.raises(forebay.InvalidArgument, match="not inside"):
        region.rows(np.array([-1], dtype=np.int64), 64)
    with pytest.raises(forebay.InvalidArgument, match="64-bit"):
        region.rows(b"123", 64)
    with pytest.raises(forebay.InvalidArgument, match="into"):
        queue.submit_get(space, hashes, packed=True)


def answers(queue: forebay.CallQueue, tickets: list[int]) -> list[object]:
    found: dict[int, object] = {}
    while len(found) < len(tickets):
        assert queue.wait(60_000)
        found.update(queue.drain())
    return [found.pop(ticket) for ticket in tickets]


def test_jobs_are_handed_over_some_at_a_time_and_each_is_answered_once(space: forebay.Namespace, client: forebay.Client) -> None:
    queue = client.queue()
    hashes = [os.urandom(36) for _ in range(9)]
    content = np.arange(16 * 64, dtype=np.int64).astype(np.uint8).reshape(16, 64)
    numbers = np.arange(15, 6, -1, dtype=np.int32)
    puts = forebay.Jobs(queue, forebay.Region.borrow(content), 64, call_blocks=2)
    ends = {hash: 16 * (at + 1) for at, hash in enumerate(hashes)}
    stored = puts.put(space, hashes[1:8], numbers[1:8], tokens=16, chain=1, parent=hashes[0], ends=ends)
    assert len(puts) == 7 and queue.pending == 1 and not queue.wait(10), "nothing is handed over by itself"
    assert [puts.hand_over(5), puts.hand_over(5), puts.hand_over(5)] == [5, 2, 0] and len(puts) == 0
    assert answers(queue, [stored]) == [bytes([1] * 7)]
    into = np.zeros((16, 64), dtype=np.uint8)
    gets = forebay.Jobs(queue, forebay.Region.borrow(into), 64)
    tickets = [gets.get(space, tuple(hashes), numbers.astype(np.int64)), gets.get(space, hashes[:0], numbers[:0]), gets.get(space, hashes[1:3], numbers[:2])]
    assert gets.hand_over(10) == 10 and gets.drop_rest() == 1, "of the last one the second block is not even asked for"
    assert answers(queue, tickets) == [bytes([0] + [1] * 7 + [0]), b"", bytes([1, 0])]
    # Hash 1 came from row 14, and went there and then to row 15.
    assert (into[8:15] == content[8:15]).all() and (into[15] == content[14]).all() and not into[:8].any()
    assert [bool(one) for one in space.contains(space.keys(hashes))] == [False] + [True] * 7 + [False]


def test_what_of_a_job_cannot_be_moved_is_missed_or_refused(space: forebay.Namespace, client: forebay.Client) -> None:
    queue = client.queue()
    hashes = [os.urandom(36) for _ in range(4)]
    region = forebay.Region.borrow(np.ones((4, 64), dtype=np.uint8))
    jobs = forebay.Jobs(queue, region, 64)
    assert space.put(space.keys(hashes), [b"1" * 64] * 4)

    def get(hashes: list[bytes], rows: list[int]) -> object:
        ticket = jobs.get(space, hashes, np.array(rows, dtype=np.int64))
        assert jobs.hand_over(100) == len(hashes)
        return answers(queue, [ticket])[0]

    assert get(hashes, [0, 1, 2, 4]) == bytes(4), "a row outside of the region"
    assert get(hashes, [0, 1, 2, -1]) == bytes(4)
    assert get(hashes, [0, 1, 2, 2]) == bytes(4), "two blocks in one row"
    assert get([*hashes[:3], b"short"], [0, 1, 2, 3]) == bytes(4)
    assert (np.frombuffer(region, dtype=np.uint8) == 1).all(), "nothing was written"
    changed = list(hashes)
    tickets = [jobs.get(space, changed, np.arange(4)), jobs.get(space, hashes, np.arange(4)), jobs.get(space, hashes, np.arange(4))]
    del changed[2:]
    assert queue.cancel(tickets[1]) and jobs.hand_over(100) == 12
    assert answers(queue, tickets) == [bytes(4), bytes(4), bytes([1] * 4)], "a list that was changed, one that was cancelled"
    with pytest.raises(forebay.InvalidArgument, match="4 hashes, and not as many"):
        jobs.get(space, hashes, np.arange(5))
    with pytest.raises(forebay.InvalidArgument, match="list or a tuple"):
        jobs.get(space, set(hashes), np.arange(4))  # type: ignore[arg-type]
    with pytest.raises(forebay.InvalidArgument, match="read-only"):
        forebay.Jobs(queue, forebay.Region.borrow(bytes(64)), 64).get(space, hashes[:1], np.arange(1))
    with pytest.raises(forebay.InvalidArgument, match="at least 1 block"):
        forebay.Jobs(queue, region, 64, call_blocks=0)
    # More than the queue has room for.
    small = client.queue(calls_max=1)
    jobs = forebay.Jobs(small, region, 64)
    tickets = [jobs.get(space, hashes, np.arange(4)) for _ in range(50)]
    assert jobs.hand_over(1000) == 200
    assert set(answers(small, tickets)) <= {bytes(4), bytes([1, 1, 0, 0]), bytes([1] * 4)}


def test_a_touch_needs_no_ticket(space: forebay.Namespace, client: forebay.Client) -> None:
    queue = client.queue()
    assert queue.touch(space, forebay.Hashes(b"0" * 64, 32)) and queue.pending == 0
    until = time.monotonic() + 60
    while client.stats()["touch"]["asked"] != 2:
        assert time.monotonic() < until


def test_hashes_may_be_objects() -> None:
    hashes = [os.urandom(36) for _ in range(9)]
    region = forebay.Region.borrow(np.zeros((16, 64), dtype=np.uint8))
    numbers = np.arange(15, -1, -1, dtype=np.int32)
    assert len(forebay.Hashes(hashes, 36, first=1, count=7)) == 7 and len(forebay.Hashes(tuple(hashes), 36)) == 9
    with pytest.raises(forebay.InvalidArgument, match="9 hashes, and not 9 from 1 on"):
        forebay.Hashes(hashes, 36, first=1, count=9)
    with pytest.raises(forebay.InvalidArgument, match="has 36 bytes, and should have 32"):
        forebay.Hashes(hashes, 32)
    with pytest.raises(TypeError):
        forebay.Hashes([1], 32)  # type: ignore[list-item]
    with pytest.raises(forebay.InvalidArgument, match="16 numbers of rows, and not 9 from 8 on"):
        region.rows(numbers, 64, first=8, count=9)
    with pytest.raises(forebay.InvalidArgument, match="not inside"):
        region.rows(np.array([-1], dtype=np.int32), 64)


def test_what_the_caller_keeps_is_on_the_drive_alone(space: forebay.Namespace) -> None:
    keys = space.keys([b"one", b"two"])
    assert space.put(keys, blocks(2), caller_keeps=True) == [Stored.CACHED] * 2
    until = time.monotonic() + 60
    while space.contains(keys) != [Tier.NVME] * 2:
        assert time.monotonic() < until
    assert all(space.get(keys))
