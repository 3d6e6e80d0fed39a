"""The whole engine with `ForebayTier` behind its CPU tier: what one engine computed, the next one loads, and says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import BLOCK_TOKENS, LENGTHS, Node, documented
from support import vllm_life as live

#: Whole blocks of each prompt. Where that is all of it, vLLM's own scheduler computes the last token again.
WHOLE = [length // BLOCK_TOKENS * BLOCK_TOKENS for length in LENGTHS]


def transfer(node: Node) -> dict[str, Any]:
    """What the document says, but for the address, for memory of a test's size, and for the GPU's part, which the CPU backend's own KV memory plays."""
    config = documented("vllm.md", "OffloadingConnector")
    extra = config["kv_connector_extra_config"]
    (tier,) = extra["secondary_tiers"]
    assert extra["spec_name"] == "TieringOffloadingSpec"
    # No machine is too slow for these deadlines.
    tier |= {"address": node.address, "lookup_deadline_ms": 20_000, "transfer_deadline_ms": 60_000}
    extra |= {"spec_name": "CpuTieringSpec", "spec_module_path": "vllm_cpu_tiering", "cpu_bytes_to_use": 32 << 20}
    return config


def test_a_new_engine_finds_what_another_one_left_in_the_tier(model_folder: Path, node: Node) -> None:
    cold = live(model_folder, transfer=transfer(node))
    assert cold["tier"]["loaded"] == 0 and cold["tier"]["stored"] > 0
    node.restart()
    warm = live(model_folder, "--turns", "2", "--then-zeroes", transfer=transfer(node))
    assert warm["tokens"][0] == cold["tokens"][0]
    assert warm["tier"]["load_failed"] == 0
    # Prompts two and three share four blocks, which are in the CPU tier when the third asks.
    assert warm["tier"]["loaded"] >= 2 * (sum(WHOLE) // BLOCK_TOKENS - 4)
    assert warm["cached"] == [WHOLE, WHOLE]
    # Had the bytes been others, each prompt that has a whole block would have gone on otherwise.
    pairs = zip(cold["tokens"][0], warm["tokens"][1], WHOLE, strict=True)
    assert all((ours != theirs) == bool(whole) for ours, theirs, whole in pairs), "zeroed chunks change nothing: this could not fail"
    node.kill()
    dead = live(model_folder, transfer=transfer(node))
    assert dead["tokens"] == cold["tokens"] and dead["tier"]["loaded"] == 0
