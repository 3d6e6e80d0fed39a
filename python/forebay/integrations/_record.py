"""Writes down which requests an engine had, for `forebay plan`: when each came, how long it was, which blocks it began with. No token and no text.

Only an engine's adapter sees requests whole: a node sees the blocks that it is asked for, and what an engine finds in its own memory never reaches it.
The file is of the open trace format that `forebay plan --trace` reads, one request a line in the order in which they came, blocks of 512 tokens each
told by 63 bits of the hash of all up to its end.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: Tokens of a block of the format.
TRACE_BLOCK_TOKENS = 512
#: Of one file. A request of 100,000 tokens takes 4 KB, so that is some hundred thousand of the long ones.
BYTES_MAX = 1 << 30
#: Requests that are kept until those that came before them are over. A request that lives longer than so many others is left out.
KEPT_MAX = 4096
#: Requests that the writer has not written yet; what comes on top is left out.
LINE_MAX = 1024


@dataclass(slots=True)
class _Request:
    at_ms: float
    prompt_tokens: int
    #: Hashes of its whole blocks as the engine cuts them, one behind the other, and bytes of each.
    rows: bytes
    width: int
    output_tokens: int | None = None
    is_left_out: bool = False


class Record:
    """A file of requests in a folder. Everything that takes time is done by a thread of its own; what goes wrong is said once and ends the record."""

    def __init__(self, folder: str, block_tokens: int, logger: logging.Logger | None = None, bytes_max: int = BYTES_MAX) -> None:
        """block_tokens: of the engine's blocks; 512 must be a multiple of it.

        Raises:
            ValueError: it is not.
            OSError: there is no writing to the folder.
        """
        if TRACE_BLOCK_TOKENS % block_tokens:
            raise ValueError(f"requests are recorded in blocks of {TRACE_BLOCK_TOKENS} tokens, which is no multiple of the engine's {block_tokens}")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.path = Path(folder) / f"requests-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.jsonl"
        self._file: IO[bytes] | None = self.path.open("xb")
        self._each = TRACE_BLOCK_TOKENS // block_tokens
        self._logger = logger or logging.getLogger("forebay")
        self._bytes_left = bytes_max
        self._begun = time.monotonic()
        #: In the order in which they came.
        self._kept: deque[_Request] = deque()
        self._live: dict[str, _Request] = {}
        self.left_out = 0
        self._line: queue.Queue[_Request | None] = queue.Queue(LINE_MAX)
        self._thread = threading.Thread(target=self._write_all, name="forebay-record", daemon=True)
        self._thread.start()

    def arrived(self, name: str, prompt_tokens: int, rows: bytes, width: int) -> None:
        """A request came; `rows` are the hashes of its whole blocks, `width` bytes each."""
        request = _Request((time.monotonic() - self._begun) * 1e3, prompt_tokens, rows, width)
        self._live[name] = request
        self._kept.append(request)
        if len(self._kept) > KEPT_MAX:
            self._kept[0].is_left_out = True
            self._pass_on()

    def finished(self, name: str, output_tokens: int) -> None:
        """It is over, with so many tokens made."""
        request = self._live.pop(name, None)
        if request is not None:
            request.output_tokens = output_tokens
            self._pass_on()

    def close(self) -> None:
        """Writes what is over, and ends. What still lives is left out."""
        for request in self._live.values():
            request.is_left_out = True
        self._live = {}
        self._pass_on()
        try:
            self._line.put(None, timeout=5.0)
        except queue.Full:
            return
        self._thread.join(5.0)

    def _pass_on(self) -> None:
        kept = self._kept
        while kept and (kept[0].is_left_out or kept[0].output_tokens is not None):
            request = kept.popleft()
            try:
                if request.is_left_out:
                    self.left_out += 1
                else:
                    self._line.put_nowait(request)
            except queue.Full:
                self.left_out += 1

    # The thread's.

    def _write_all(self) -> None:
        while (request := self._line.get()) is not None:
            try:
                self._write(request)
            except OSError as error:
                self._end(f"writing {self.path} failed ({error}); requests are not recorded any more")
        self._end(None)

    def _write(self, request: _Request) -> None:
        if self._file is None:
            self.left_out += 1
            return
        line = self._text(request)
        if len(line) > self._bytes_left:
            self._end(f"{self.path} has reached its limit; requests are not recorded any more")
            self.left_out += 1
            return
        self._file.write(line)
        if self._line.empty():
            self._file.flush()
        self._bytes_left -= len(line)

    def _text(self, request: _Request) -> bytes:
        """The hash of an engine's block tells all before it, so each block here is told by its last one; the rest of a prompt by the last there is."""
        width, blocks = request.width, len(request.rows) // max(request.width, 1)
        ends = list(range(self._each, blocks + 1, self._each))
        if blocks % self._each:
            ends.append(blocks)
        ids = [int.from_bytes(request.rows[end * width - width : end * width][:8], "little") >> 1 for end in ends]
        said = {"timestamp": round(request.at_ms), "input_length": request.prompt_tokens, "output_length": request.output_tokens, "hash_ids": ids}
        return json.dumps(said, separators=(",", ":")).encode() + b"\n"

    def _end(self, reason: str | None) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
        except OSError as error:
            reason = reason or f"closing {self.path} failed: {error}"
        if reason is not None:
            self._logger.warning("forebay: %s", reason)
