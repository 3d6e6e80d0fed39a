"""SGLang's storage backend of files, asked the same as Forebay: a page is a file, written and read through the page cache, one after the other.

It flushes nothing itself, so what it has written is flushed inside the timed part; before cold reads its files are dropped from the page cache.
"""

import importlib.metadata
import os
import pathlib
import sys
import time

import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheFile, HiCacheStorageConfig

import lines

CONFIG = {
    "tp_rank": 0,
    "tp_size": 1,
    "pp_rank": 0,
    "pp_size": 1,
    "attn_cp_rank": 0,
    "attn_cp_size": 1,
    "is_mla_model": False,
    "enable_storage_metrics": False,
    "is_page_first_layout": True,
    "model_name": "bench",
}


class Peer:
    def __init__(self, folder):
        self.folder = folder
        self.store = HiCacheFile(HiCacheStorageConfig(**CONFIG), str(folder))
        self.memory = lines.aligned(256 << 20)

    def _blocks(self, size, count, number):
        tensor = torch.from_numpy(self.memory)
        return [f"{number}-{i}" for i in range(count)], [tensor[i * size : (i + 1) * size] for i in range(count)]

    def _files(self, flags, how):
        for path in self.folder.glob("*.bin"):
            fd = os.open(path, flags)
            try:
                how(fd)
            finally:
                os.close(fd)

    def put(self, size, count, number):
        lines.write_blocks(self.memory, size, count, number)
        keys, values = self._blocks(size, count, number)
        start = time.perf_counter()
        if not self.store.batch_set(keys, values):
            raise RuntimeError("batch_set answered false")
        self._files(os.O_WRONLY, os.fdatasync)
        return time.perf_counter() - start

    def _get(self, size, count, number):
        self.memory.fill(0)
        keys, places = self._blocks(size, count, number)
        start = time.perf_counter()
        got = self.store.batch_get(keys, places)
        seconds = time.perf_counter() - start
        if any(one is None for one in got):
            raise RuntimeError("batch_get lacks a page")
        lines.check_blocks(self.memory, size, count, number)
        return seconds

    def cold(self, size, count, number):
        self._files(os.O_RDONLY, lambda fd: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))
        return self._get(size, count, number)

    def warm(self, size, count, number):
        """From the page cache: read once before."""
        self._get(size, count, number)
        return self._get(size, count, number)

    def forget(self, size, count, number):
        for path in self.folder.glob("*.bin"):
            path.unlink()
        return 0.0


def main():
    # It writes to stdout when it likes.
    out = os.dup(1)
    os.dup2(2, 1)
    answers = os.fdopen(out, "w")
    lines.serve(Peer(pathlib.Path(sys.argv[1])), importlib.metadata.version("sglang"), answers)
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
