"""NIXL's POSIX backend, asked the same as Forebay: blocks in one file a set, written and read by transfers of NIXL."""

import importlib.metadata
import os
import pathlib
import sys
import time

from nixl._api import nixl_agent, nixl_agent_config

import lines

NAME = "bench"


class Peer:
    def __init__(self, folder):
        self.folder = folder
        self.agent = nixl_agent(NAME, nixl_agent_config(backends=["POSIX"]))
        self.memory = lines.aligned(256 << 20)
        self.agent.register_memory([(self.memory.ctypes.data, self.memory.size, 0, "")], "DRAM")

    def _path(self, number):
        return self.folder / f"set-{number}"

    def _move(self, how, fd, size, count):
        files = self.agent.register_memory([(0, size * count, fd, "")], "FILE")
        base = self.memory.ctypes.data
        start = time.perf_counter()
        for first in range(0, count, self.in_flight):
            some = range(first, min(first + self.in_flight, count))
            here = self.agent.get_xfer_descs([(base + i * size, size, 0) for i in some], "DRAM")
            there = self.agent.get_xfer_descs([(i * size, size, fd) for i in some], "FILE")
            handle = self.agent.initialize_xfer(how, here, there, NAME)
            state = self.agent.transfer(handle)
            while state == "PROC":
                state = self.agent.check_xfer_state(handle)
            if state != "DONE":
                raise RuntimeError(f"the transfer ended as {state}")
            self.agent.release_xfer_handle(handle)
        if how == "WRITE":
            os.fdatasync(fd)
        seconds = time.perf_counter() - start
        self.agent.deregister_memory(files)
        return seconds

    def put(self, size, count, number):
        lines.write_blocks(self.memory, size, count, number)
        fd = os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
        try:
            return self._move("WRITE", fd, size, count)
        finally:
            os.close(fd)

    def _get(self, flags, size, count, number):
        self.memory.fill(0)
        fd = os.open(self._path(number), os.O_RDONLY | flags)
        try:
            seconds = self._move("READ", fd, size, count)
        finally:
            os.close(fd)
        lines.check_blocks(self.memory, size, count, number)
        return seconds

    def cold(self, size, count, number):
        return self._get(os.O_DIRECT, size, count, number)

    def warm(self, size, count, number):
        """From the page cache: read once before."""
        self._get(0, size, count, number)
        return self._get(0, size, count, number)

    def forget(self, size, count, number):
        self._path(number).unlink()
        return 0.0


def main():
    # It writes to stdout when it likes.
    out = os.dup(1)
    os.dup2(2, 1)
    answers = os.fdopen(out, "w")
    lines.serve(Peer(pathlib.Path(sys.argv[1])), importlib.metadata.version("nixl"), answers)
    answers.flush()
    # Its destructors may crash.
    os._exit(0)


if __name__ == "__main__":
    main()
