"""The record of an engine's requests, and that `forebay plan` reads it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import binary
from forebay.integrations import _record
from forebay.integrations._record import Record

BLOCK = 128


def rows(of: str, tokens: int) -> bytes:
    """Chained hashes, as an engine makes them: those of prompts that begin alike begin alike."""
    return b"".join(hashlib.sha256(f"{of} {block}".encode()).digest() for block in range(tokens // BLOCK))


def lines(record: Record) -> list[dict[str, Any]]:
    """What was written."""
    return [json.loads(line) for line in record.path.read_text().splitlines()]


def test_requests_are_written_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    record = Record(str(tmp_path / "new"), BLOCK)
    for name, tokens in [("long", 1500), ("short", 1024), ("gone", 300)]:
        record.arrived(name, tokens, rows("same", tokens), 32)
    record.finished("short", 7)
    record.finished("long", 100)
    record.finished("unknown", 1)
    record.close()
    long, short = lines(record)
    assert (long["input_length"], long["output_length"], short["input_length"], short["output_length"]) == (1500, 100, 1024, 7)
    # Two whole blocks and what is left of 1,500 tokens: eleven of the engine's blocks.
    assert len(long["hash_ids"]) == 3 and len(short["hash_ids"]) == 2
    assert long["hash_ids"][:2] == short["hash_ids"] and len(set(long["hash_ids"])) == 3
    assert all(0 <= number < 1 << 63 for number in long["hash_ids"]) and long["timestamp"] <= short["timestamp"]
    assert record.left_out == 1, "what lives when it is closed"


def test_it_ends_somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_record, "KEPT_MAX", 3)
    record = Record(str(tmp_path), BLOCK, bytes_max=200)
    for number in range(5):
        record.arrived(str(number), 512, rows("same", 512), 32)
    for number in reversed(range(5)):
        record.finished(str(number), 1)
    record.close()
    # The first two lived longer than three others; the file has room for two lines.
    assert len(lines(record)) == 2 and record.left_out == 3
    assert "has reached its limit" in caplog.text and record.path.stat().st_size <= 200
    with pytest.raises(ValueError, match="no multiple of the engine's 96"):
        Record(str(tmp_path), 96)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Record(str(tmp_path / "file"), BLOCK)


def test_a_plan_is_made_of_it(tmp_path: Path) -> None:
    record = Record(str(tmp_path), BLOCK)
    for number in range(40):
        of, tokens = number % 4, 1024 + 512 * (number // 4)
        record.arrived(str(number), tokens, rows(str(of), tokens), 32)
        record.finished(str(number), 20)
    record.close()
    command = [binary(), "plan", "--trace", str(record.path), "--policy", "lru", "--capacity", "100%", "--replay", "instant", "--json"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    # Ten prompts of each of four conversations, each with one block more: all but the new one is found.
    blocks = 4 * sum(2 + turn for turn in range(10))
    assert said["hit_rate"] == pytest.approx((blocks - 4 * (2 + 9)) / blocks)
