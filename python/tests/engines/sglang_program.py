"""One life of SGLang's cache on CPU, with as many ranks as are asked for, each a process: prefetches a prompt, and writes it where it was not there."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from types import SimpleNamespace

import sglang_stage as stage
import torch


def rank(address: str, number: int, size: int, folder: Path) -> None:
    """One rank. Its KV is its own, and the same in each life."""
    pool = stage.mha("page_first")
    tokens = list(range(3, 3 + 12 * stage.PAGE))
    with stage.world(folder, number, size):
        cache = stage.controller(SimpleNamespace(address=address), pool)
        indices = stage.prefetch(cache, tokens)
        loaded = len(indices)
        if not loaded:
            indices = pool.alloc(len(tokens))
            for at, index in enumerate(indices[:: stage.PAGE]):
                chance = torch.Generator().manual_seed(100 * number + at)
                page = pool.get_data_page(int(index))
                pool.set_from_flat_data_page(int(index), torch.randn(page.shape, generator=chance).to(page.dtype))
            assert stage.write(cache, tokens, indices) == len(tokens)
        pages = b"".join(page.view(torch.uint8).numpy().tobytes() for page in stage.pages_of(pool, indices))
        # All are done before one takes the group away.
        torch.distributed.barrier()
        cache.detach_storage_backend()
    digest = hashlib.sha256(pages).hexdigest()
    line = json.dumps({"rank": number, "loaded": loaded, "digest": digest})
    (folder / f"said-{number}").write_text(line)


def main() -> None:
    """The ranks, told in order."""
    address, size = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = []
        for number in range(size):
            child = os.fork()
            if child == 0:
                try:
                    rank(address, number, size, folder)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                # The folder is the parent's to take away.
                os._exit(0)
            children.append(child)
        assert all(os.waitpid(child, 0)[1] == 0 for child in children), "a rank failed"
        for number in range(size):
            sys.stdout.write("RESULT " + (folder / f"said-{number}").read_text() + "\n")


if __name__ == "__main__":
    main()
