"""LMCache's L2 adapters, measured by LMCache's own `lmcache bench l2`, called in one process so that it is imported once.

Its figures are its own; here they are only read. It puts and loads in rounds of one batch each, and verifies what it loads.
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import sys

from lmcache.cli.main import main as lmcache

import lines

BATCH_BYTES = 32 << 20


class Peer:
    def __init__(self, folder):
        self.folder = folder
        self.load_seconds = None

    def _bench(self, adapter, direct, size, count):
        """Seconds of its stores and loads for as many bytes as `count` blocks have."""
        shutil.rmtree(self.folder, ignore_errors=True)  # It skips what it has.
        self.folder.mkdir()
        spec = {"type": adapter, "base_path": str(self.folder), "use_odirect": direct}
        keys = min(max(BATCH_BYTES // size, self.in_flight), count)
        report = self.folder.with_suffix(".json")
        command = ["bench", "l2", "--l2-adapter", json.dumps(spec), "--l1-align-bytes", "4096", "--no-skip-verify"]
        command += ["--num-keys", str(keys), "--data-size-kb", str(size >> 10), "--rounds", str(count // keys)]
        command += ["--warmup-rounds", "1", "--format", "json", "--output", str(report)]
        try:
            lmcache(command)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"lmcache bench l2 ended with {end.code}") from None
        found = {one["operation"]: one for one in _operations(json.loads(report.read_text()))}
        report.unlink()
        shutil.rmtree(self.folder)
        for name in ("Store", "Load"):
            one = found[name]
            if one["total_success"] < one["total_keys"]:
                raise RuntimeError(f"{name}: {one['total_success']} of {one['total_keys']} keys")
        scale = count / keys / 1e3
        return found["Store"]["duration_avg_ms"] * scale, found["Load"]["duration_avg_ms"] * scale

    def put(self, size, count, number):
        stored, self.load_seconds = self._bench("fs_native", True, size, count)
        return stored

    def put_fs(self, size, count, number):
        stored, self.load_seconds = self._bench("fs", True, size, count)
        return stored

    def cold(self, size, count, number):
        """The loads of the bench before."""
        return self.load_seconds

    def warm(self, size, count, number):
        return self._bench("fs_native", False, size, count)[1]

    def forget(self, size, count, number):
        return 0.0


def _operations(value):
    """Every object that tells of an operation, wherever the report keeps it."""
    if isinstance(value, dict):
        if "operation" in value:
            yield value
        else:
            for inner in value.values():
                yield from _operations(inner)


def main():
    # It writes to stdout when it likes.
    out = os.dup(1)
    os.dup2(2, 1)
    answers = os.fdopen(out, "w")
    lines.serve(Peer(pathlib.Path(sys.argv[1])), importlib.metadata.version("lmcache"), answers)
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
