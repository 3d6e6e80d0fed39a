"""Where programs of the tests begin: a process that has imported an engine and done nothing else, and forks for each of them.

An engine's import takes 10 to 20 s of a core and is the same for all; what comes behind it, a program has for itself: its process, memory, files,
descriptors and end are its own. Started by `support.run_script`, one for each set of modules.

A line of JSON on stdin asks for a program (`argv`, `env`, `out`, `err`: files for what it prints); the answers are its process and, when it has
ended, its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import sys


def main() -> None:
    """Serves until stdin ends."""
    for module in sys.argv[1:]:
        name, _, attribute = module.partition(":")
        # Some import themselves only when they are asked for something.
        getattr(importlib.import_module(name), attribute or "__name__")
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            become(asked)
            return
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def become(asked: dict) -> None:  # type: ignore[type-arg]
    """Runs the program as Python's own command line would, and returns to an ordinary end of the process."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for name in ("out", "err"))
    for fd, stands_for in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(fd, stands_for)
        os.close(fd)
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = asked["argv"]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
