"""LMCache's own server with `LmcacheClient` behind it, and vLLM's engine with LMCache's connector before it: two environments, as their users have
them, since each pins packages that the other does not like.

What the server's memory has is not asked for in the store. So the server ends, too, between the two engines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import BLOCK_TOKENS, HERE, IN_PROCESSES, LENGTHS, PATIENCE_S, Node, wait_for

import forebay


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def documented(begin: str) -> str:
    """The command of docs/engines/lmcache.md that begins like this."""
    text = (HERE.parents[2] / "docs/engines/lmcache.md").read_text()
    (command,) = re.findall(rf"```\n({begin} .*?)```", text, re.DOTALL)
    return str(command)


@contextmanager
def server(node: Node, model: Path, log: Path) -> Iterator[int]:
    """The command of docs/engines/lmcache.md, but for ports and paths, and with what it takes to run without a GPU. Its port."""
    port, http = free_port(), free_port()
    said = documented("lmcache server")
    assert said.count("5655") == 1
    said = said.replace("5655", str(port)).replace("unix:/run/user/1000/forebay.sock", node.address).replace("/models/my-model", str(model))
    _, *asked = shlex.split(said)
    command = [sys.executable, "-m", "lmcache.cli.main", *asked, "--supported-transfer-mode", "engine_driven"]
    command += ["--http-host", "127.0.0.1", "--http-port", str(http), "--prometheus-port", "0"]
    with log.open("a") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            # Its imports alone take half a minute of a busy core.
            wait_for(lambda: process.poll() is not None or answers(http), every_s=0.5, patience_s=5 * PATIENCE_S)
            assert process.poll() is None, log.read_text()[-4000:]
            yield port
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def life(model: Path, port: int) -> dict[str, Any]:
    """One life of vLLM's engine, in vLLM's environment; LMCache's packages lie behind all of its own. In processes of its own: what LMCache imports, vLLM
    0.32 stumbles over when it makes a worker in a process that has it already (`vars` of llvmlite's library is no dictionary)."""
    (transfer,) = (json.loads(word) for word in shlex.split(documented("vllm serve")) if word.startswith("{"))
    transfer["kv_connector_extra_config"]["lmcache.mp.port"] = port
    env = os.environ | {"PYTHONHASHSEED": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "FOREBAY_LAST_PATH": sysconfig.get_path("purelib")} | IN_PROCESSES
    command = [os.environ["FOREBAY_PYTHON_BESIDE"], str(HERE / "vllm_program.py"), "--model", str(model), "--transfer", json.dumps(transfer)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=10 * PATIENCE_S)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    (line,) = re.findall(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    return json.loads(line)


def test_what_an_engine_computed_is_loaded_through_lmcaches_server_by_the_next(model_folder: Path, node: Node, tmp_path: Path) -> None:
    blocks = sum(length // BLOCK_TOKENS for length in LENGTHS) - 4
    log = tmp_path / "server.log"
    client = forebay.Client(node.address, deadline_ms=60_000)

    def counted(what: str, outcome: str) -> int:
        return sum(space[what][outcome] for space in client.node_stats()["namespaces"])

    with server(node, model_folder, log) as port:
        cold = life(model_folder, port)
        # It stores beside what it answers.
        wait_for(lambda: counted("put", "stored") >= blocks)
    before = counted("get", "hits")
    with server(node, model_folder, log) as port:
        warm = life(model_folder, port)
    assert warm["tokens"] == cold["tokens"]
    assert sum(warm["cached"][0]) > sum(cold["cached"][0]) and counted("get", "hits") > before, (cold["cached"], warm["cached"])
