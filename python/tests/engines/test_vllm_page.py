"""docs/engines/vllm.md, walked by a newcomer: what stands there is what is run."""

from __future__ import annotations

import json
import re
import shlex
import socket
from pathlib import Path

from pages import ROOT, Start, blocks
from support import BLOCK_TOKENS, IN_PROCESSES, VLLM, run_script

import forebay

#: Tokens that the second run loads of the 900 that the page speaks of.
LOADED = 899 // BLOCK_TOKENS * BLOCK_TOKENS
#: On a machine with two cores, as the page says of such.
IN_ONE = IN_PROCESSES | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def test_a_newcomer_reaches_a_warm_second_run(model_folder: Path, place: Path) -> None:
    """From the first block to `vllm serve`, which loads what the examples stored. Its processes are vLLM's own; those of the examples are one each,
    since what is shown here is the same."""
    start = Start("vllm.md", place, MODEL=str(model_folder))
    with start.serving():
        cold, warm = (run_script(*program, modules=VLLM, **IN_ONE) for program in start.programs())
        told = [re.search(r"^(\d+) of 900 tokens were loaded, .* then (.*)$", text, re.MULTILINE) for text in (cold, warm)]
        assert all(told), cold + warm
        assert [int(match[1]) for match in told] == [0, LOADED]
        assert told[0][2] == told[1][2], "and the same tokens behind it"
        # "the first run ends with", says the page.
        assert "0 of 900 tokens were loaded" in (ROOT / "docs/engines/vllm.md").read_text()

        (words,) = [text for text in blocks("vllm.md", "The connector") if "vllm serve" in text and "MultiConnector" not in text]
        serve = words[words.index("vllm serve") :].replace("/run/user/1000/forebay.sock", f"{place}/forebay.sock")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        said = run_script("vllm_served.py", str(port), *shlex.split(start.here(serve)), modules=VLLM, **IN_PROCESSES)
        (answer,) = (json.loads(line) for line in re.findall(r"^RESULT (.*)$", said, re.MULTILINE))
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == LOADED, answer
        assert str(answer["choices"][0]["token_ids"]) == told[0][2]
        names = [space["name"] for space in forebay.Client(start.address).node_stats()["namespaces"] if space["put"]["stored"]]
        assert len(names) == 1, "all three runs share"


def test_the_environment_of_the_page_is_the_one_of_the_tests(place: Path) -> None:
    Start("vllm.md", place).environment()
