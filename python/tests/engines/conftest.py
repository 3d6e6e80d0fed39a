"""Tests with the engines' own wheels. `cargo xtask test --engines` makes the environment that has them and runs these; without it none is collected.

Nothing here is skipped: what cannot run fails, and `--allow-skip` of the chore is where a person says that it may.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import CLOSING, Node, vllm_life

collect_ignore_glob = [] if os.environ.get("FOREBAY_ENGINES") == "1" else ["*"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


#: Behind this moment no test begins (seconds since 1970), so that a run ends when it must; what was left out is said at its end, by name.
UNTIL = float(os.environ.get("FOREBAY_ENGINES_UNTIL", "inf"))
_left_out: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """No fixture of a test that does not begin is made, either."""
    if time.time() > UNTIL:
        _left_out.append(f"{item.path.name}::{item.name}")
        pytest.skip("there is no time left for it")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`cargo xtask test` repeats these lines at its end."""
    for line in CLOSING:
        terminalreporter.write_line(line)
    if _left_out:
        terminalreporter.write_line(f"not run for lack of time: {', '.join(_left_out)}")


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder: a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="forebay-engines-") as folder:
        yield Path(folder)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node that serves."""
    with tempfile.TemporaryDirectory(prefix="forebay-engines-") as folder:
        node = Node(Path(folder))
        node.start()
        yield node
        node.kill()


@pytest.fixture
def small_node() -> Iterator[Node]:
    """A node whose drive is soon written ten times over."""
    with tempfile.TemporaryDirectory(prefix="forebay-engines-") as folder:
        node = Node(Path(folder), capacity_mib=96, segment_mib=4)
        node.start()
        yield node
        node.kill()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with random weights: no hub, no tokenizer, the architecture of the real ones."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=16_384,
        bos_token_id=1,
        eos_token_id=2,
    )
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain(model_folder: Path) -> list[list[int]]:
    """What vLLM says to the prompts of vllm_program.py without Forebay."""
    return vllm_life(model_folder)["tokens"][0]
