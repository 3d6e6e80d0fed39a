"""vLLM with `ForebayConnector` on real text: the bytes that were stored are the bytes that are loaded, and what the engine says is what it says without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from support import BLOCK_TOKENS, VLLM, Node, run_script
from test_vllm_connector import transfer

#: Tokens of the prompts of vllm_text.py.
LENGTHS = (512, 2048, 2304, 4096, 8192)
#: Of each the tokens that are found in any case; as a rule all are, since all end with a block.
LOADABLE = [(length - 1) // BLOCK_TOKENS * BLOCK_TOKENS for length in LENGTHS]
#: Where the two likeliest tokens are nearer than this, another way to add up the same numbers may choose the other one.
MARGIN_MIN = 1e-3


def life(model_folder: Path, *args: str, transfer: dict[str, Any] | None = None) -> dict[str, Any]:
    """What vllm_text.py says at its end."""
    more = ["--transfer", json.dumps(transfer)] if transfer else []
    said = run_script("vllm_text.py", "--model", str(model_folder), *more, *args, modules=VLLM)
    (line,) = re.findall(r"^RESULT (.*)$", said, re.MULTILINE)
    return json.loads(line)


def sure_tokens(turn: dict[str, Any]) -> list[int]:
    """How many tokens of each prompt there are before the first that the engine was not sure of."""
    return [next((at for at, margin in enumerate(margins) if margin < MARGIN_MIN), len(margins)) for margins in turn["margins"]]


def first_difference(reference: dict[str, Any], other: dict[str, Any]) -> list[int | None]:
    """For each prompt, the first token that differs where the reference was sure of it; behind one that it was not sure of nothing is compared."""
    found: list[int | None] = []
    for ours, sure, theirs in zip(reference["tokens"], sure_tokens(reference), other["tokens"], strict=True):
        found.append(next((at for at in range(sure) if ours[at] != theirs[at]), None))
    return found


def test_real_text_is_loaded_bit_for_bit_and_says_the_same(model_folder: Path, node: Node) -> None:
    same = [None] * len(LENGTHS)
    (plain,) = life(model_folder)["turns"]
    sure = sure_tokens(plain)
    assert sum(sure) >= 2 * len(LENGTHS) and sum(map(bool, sure)) >= 3, f"only {sure} tokens are sure: this compares nothing"
    # Without Forebay, in other pieces: what may differ at all.
    (control,) = life(model_folder, "--step-tokens", "512")["turns"]
    assert first_difference(plain, control) == same

    first = life(model_folder, "--turns", "2", transfer=transfer(node))
    cold, again = first["turns"]
    # Prompts two and three begin alike.
    blocks = sum(length // BLOCK_TOKENS for length in LENGTHS) - 1024 // BLOCK_TOKENS
    assert cold["counts"]["stored"] == blocks == len(first["saved"]) and cold["counts"]["loaded"] == 0
    assert first_difference(plain, cold) == first_difference(plain, again) == same
    assert all(tokens in (least, length) for tokens, least, length in zip(again["cached"], LOADABLE, LENGTHS, strict=True)), again["cached"]

    # Another engine, whose memory holds no two of the longest prompts, which keeps no prefixes itself, and which computes in small pieces.
    more = ("--no-prefix-caching", "--blocks", "72", "--step-tokens", "512")
    second = life(model_folder, *more, "--turns", "2", "--then-zeroes", transfer=transfer(node))
    warm, zeroed = second["turns"]
    assert warm["counts"]["load_failed"] == 0 and warm["counts"]["loaded"] >= sum(LOADABLE) // BLOCK_TOKENS, warm
    assert first_difference(plain, warm) == same
    # All of it, and bit for bit, in this engine's memory and in the other's.
    assert set(second["loaded"]) <= set(first["saved"]) and len(second["loaded"]) >= sum(LOADABLE) // BLOCK_TOKENS - 1024 // BLOCK_TOKENS
    assert all(first["loaded"][name] == digest for name, digest in first["saved"].items() if name in first["loaded"])
    # And had the bytes been others, the engine would have said something else.
    changed = [at is not None for at, tokens in zip(first_difference(plain, zeroed), sure, strict=True) if tokens]
    assert sum(changed) >= len(changed) - 1, f"zeroed blocks change {changed}: this could not fail"
    assert second["preempted"] > 0, "a request had to give its memory back to another one"
