"""One life of a vLLM engine on CPU, run by the tests in a process of its own: prompts in, tokens and counts out, as one line of JSON.

`--kill-during-load PID` stops that node before the engine's first load is asked for, so that the load is surely under way, and then kills it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from support import LENGTHS
from vllm import LLM, SamplingParams
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.inputs import TokensPrompt


def prompts(vocabulary: int) -> list[list[int]]:
    """Tokens that are the same in every life."""
    import random

    chance = random.Random(5)
    many = [[chance.randrange(3, vocabulary) for _ in range(length)] for length in LENGTHS]
    many[2][:512] = many[1][:512]
    return many


def kill_during_load(pid: int) -> None:
    """See the module."""
    from forebay.integrations.vllm.worker import WorkerHalf

    begin = WorkerHalf.start_loads

    def start_loads(self: WorkerHalf, moves: list[Any]) -> None:
        if moves:
            WorkerHalf.start_loads = begin
            os.kill(pid, signal.SIGSTOP)
            # While the engine waits for it.
            threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
        begin(self, moves)

    WorkerHalf.start_loads = start_loads


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--transfer", default=None, help="kv_transfer_config, as JSON")
    parser.add_argument("--kill-during-load", type=int, default=None)
    parser.add_argument("--turns", type=int, default=1)
    asked = parser.parse_args()
    if asked.kill_during_load:
        kill_during_load(asked.kill_during_load)
    llm = LLM(
        model=asked.model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=4,
        kv_transfer_config=json.loads(asked.transfer) if asked.transfer else None,
        disable_log_stats=True,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=8, detokenize=False, ignore_eos=True)
    result: dict[str, Any] = {"tokens": [], "cached": []}
    for _ in range(asked.turns):
        outputs = llm.generate([TokensPrompt(prompt_token_ids=tokens) for tokens in prompts(2048)], sampling, use_tqdm=False)
        result["tokens"].append([list(output.outputs[0].token_ids) for output in outputs])
        result["cached"].append([output.num_cached_tokens for output in outputs])
        llm.reset_prefix_cache()
    core = llm.llm_engine.engine_core
    connector = getattr(getattr(core, "engine_core", None), "scheduler", None)
    connector = getattr(connector, "connector", None)
    worker = getattr(kv_transfer_state._KV_CONNECTOR_AGENT, "_worker", None)
    llm.llm_engine.engine_core.shutdown()
    half = getattr(connector, "_scheduler", None)
    if worker is not None and half is not None:
        # What was still under way after the last step.
        half._report.add(**worker._said.outcomes)
    offloading = getattr(connector, "connector_scheduler", None)
    if offloading is not None:
        (tier,) = offloading.manager.secondary_tiers
        result["tier"] = tier._report.counts
    if half is not None:
        result["counts"] = half._report.counts
        result["line"] = half._report.line()
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
