"""Mooncake Store over TCP, asked the same as Forebay: a master, a process that holds the memory, and this one, which puts and gets.

Its transfer ports bind every address whatever it is told, so it runs in a network namespace of its own: start this with `unshare --net`.
"""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import time

import mooncake
from mooncake.store import MooncakeDistributedStore

import lines

MASTER = "127.0.0.1:50051"
SEGMENT_BYTES = 2 << 30
LOCAL_BUFFER_BYTES = 512 << 20


def setup(segment_bytes, local_bytes):
    store = MooncakeDistributedStore()
    code = store.setup("127.0.0.1", "P2PHANDSHAKE", segment_bytes, local_bytes, "tcp", "", MASTER)
    if code != 0:
        raise RuntimeError(f"setup answered {code}")
    return store


def hold():
    """The process that holds the memory."""
    store = setup(SEGMENT_BYTES, 16 << 20)
    print("holding", flush=True)
    sys.stdin.read()
    del store


class Peer:
    def __init__(self):
        self.store = setup(0, LOCAL_BUFFER_BYTES)
        self.source = self._registered(256 << 20)
        self.target = self._registered(256 << 20)

    def _registered(self, size):
        memory = lines.aligned(size)
        if self.store.register_buffer(memory.ctypes.data, size) != 0:
            raise RuntimeError("register_buffer failed")
        return memory

    def _batches(self, memory, size, count, number):
        base = memory.ctypes.data
        for first in range(0, count, self.in_flight):
            some = range(first, min(first + self.in_flight, count))
            yield [f"{number}/{i}" for i in some], [base + i * size for i in some], [size for _ in some]

    def put(self, size, count, number):
        lines.write_blocks(self.source, size, count, number)
        start = time.perf_counter()
        for keys, pointers, sizes in self._batches(self.source, size, count, number):
            codes = self.store.batch_put_from(keys, pointers, sizes)
            if any(code != 0 for code in codes):
                raise RuntimeError(f"batch_put_from answered {codes}")
        return time.perf_counter() - start

    def warm(self, size, count, number):
        self.target.fill(0)
        start = time.perf_counter()
        for keys, pointers, sizes in self._batches(self.target, size, count, number):
            codes = self.store.batch_get_into(keys, pointers, sizes)
            if codes != sizes:
                raise RuntimeError(f"batch_get_into answered {codes}")
        seconds = time.perf_counter() - start
        lines.check_blocks(self.target, size, count, number)
        return seconds

    def forget(self, size, count, number):
        for i in range(count):
            self.store.remove(f"{number}/{i}", True)
        return 0.0


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "preexec_fn": lines.end_with_parent}
    binary = pathlib.Path(mooncake.__file__).parent / "mooncake_master"
    flags = ["--rpc_address=127.0.0.1", "--rpc_port=50051", "--enable_http_metadata_server=false"]
    flags += ["--metrics_host=127.0.0.1", "--metrics_port=9103"]
    subprocess.Popen([binary, *flags], stdin=subprocess.DEVNULL, **quiet)
    time.sleep(1.0)
    holder = subprocess.Popen(
        [sys.executable, __file__, "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lines.end_with_parent,
    )
    # Its own words come before ours.
    while (line := holder.stdout.readline()) and line.strip() != b"holding":
        pass
    if not line:
        raise RuntimeError("the process that holds the memory ended")
    lines.serve(Peer(), importlib.metadata.version("mooncake-transfer-engine-non-cuda"))
    sys.stdout.flush()
    # Its threads do not end by themselves.
    os._exit(0)


if __name__ == "__main__":
    hold() if sys.argv[1:] == ["hold"] else main()
