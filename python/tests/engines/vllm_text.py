"""One life of a vLLM engine on CPU with prompts of real text: tokens with their margins, and what lies in the engine's memory, as a line of JSON.

Prompts are this repository's documents, a token for each byte: 512 to 8,192 tokens, two of them with a beginning in common, all at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from support import HERE, wait_for
from vllm import LLM, SamplingParams
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.inputs import TokensPrompt
from vllm.v1.core.sched.scheduler import Scheduler

from forebay.integrations.vllm.worker import WorkerHalf

LENGTHS = (512, 2048, 2304, 4096, 8192)
#: What prompts two and three share.
SHARED = 1024
#: Tokens that are generated.
NEW = 16


def prompts() -> list[list[int]]:
    """Tokens 0 to 2 are special in the model."""
    documents = sorted((HERE.parents[2] / "docs").glob("*.md"))
    text = b"\n".join(path.read_bytes() for path in documents)
    many, at = [], 0
    for length in LENGTHS:
        many.append([3 + byte for byte in text[at : at + length]])
        at += length
    many[2][:SHARED] = many[1][:SHARED]
    return many


class Memory:
    """Digests of blocks as they lie in the engine's own memory: when they were stored, and when they were loaded, by vLLM's hash."""

    def __init__(self) -> None:
        self.saved: dict[str, str] = {}
        self.loaded: dict[str, str] = {}
        self.zeroes = False
        copy_out, landed, copy_in = WorkerHalf._copy_out, WorkerHalf._landed, WorkerHalf._copy_in

        def watched_out(half: WorkerHalf, rows: list[int], move: Any, at: int) -> None:
            for number in range(at, at + len(rows)):
                self.saved[_name(move, number)] = _digest(half, move.block_ids[number])
            copy_out(half, rows, move, at)

        def watched_in(half: WorkerHalf, rows: list[int], block_ids: list[int]) -> None:
            copy_in(half, rows, block_ids)
            for block_id in block_ids if self.zeroes else ():
                for layer in half._layers:
                    layer.of(block_id, 1).zero_()

        def watched_landing(half: WorkerHalf, call: Any, answer: Any) -> None:
            landed(half, call, answer)
            end = len(call.rows) if call.load.failed_at is None else max(0, call.load.failed_at - call.first)
            for number in range(call.first, call.first + min(end, len(call.rows))):
                self.loaded[_name(call.load.move, number)] = _digest(half, call.load.move.block_ids[number])

        WorkerHalf._copy_out, WorkerHalf._landed, WorkerHalf._copy_in = watched_out, watched_landing, watched_in


def _name(move: Any, number: int) -> str:
    at = (move.first + number) * move.width
    return move.rows[at : at + move.width].hex()


def _digest(half: WorkerHalf, block_id: int) -> str:
    """Of a block's bytes in all layers."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in half._layers:
        digest.update(layer.of(block_id, 1).contiguous().numpy().tobytes())
    return digest.hexdigest()


def count_preemptions() -> list[int]:
    """How often a request had to give its memory back, in a list of one."""
    preempt, seen = Scheduler._preempt_request, [0]

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        return preempt(*args, **kwargs)

    Scheduler._preempt_request = watched
    return seen


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--transfer", default=None, help="kv_transfer_config, as JSON")
    parser.add_argument("--step-tokens", type=int, default=8192, help="of a step, at most: longer prompts are cut")
    parser.add_argument("--no-prefix-caching", action="store_true")
    parser.add_argument("--blocks", type=int, default=None, help="of the engine's KV memory, instead of all there is room for")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--then-zeroes", action="store_true", help="what is loaded in the last turn is zeroed behind its verification")
    asked = parser.parse_args()
    memory, preempted = Memory(), count_preemptions()
    llm = LLM(
        model=asked.model,
        skip_tokenizer_init=True,
        # Logits of bfloat16 lie so far apart that the next one is the nearest: margins would say nothing.
        dtype="float32",
        enforce_eager=True,
        max_model_len=max(LENGTHS) + 128,
        max_num_batched_tokens=asked.step_tokens,
        max_num_seqs=len(LENGTHS),
        enable_prefix_caching=not asked.no_prefix_caching,
        num_gpu_blocks_override=asked.blocks,
        kv_transfer_config=json.loads(asked.transfer) if asked.transfer else None,
        disable_log_stats=True,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=NEW, logprobs=2, detokenize=False, ignore_eos=True)
    turns: list[dict[str, Any]] = []
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    half = getattr(scheduler.connector, "_scheduler", None)
    for turn in range(asked.turns):
        memory.zeroes = asked.then_zeroes and turn == asked.turns - 1
        before = dict(half._report.counts) if half is not None else {}
        outputs = llm.generate([TokensPrompt(prompt_token_ids=tokens) for tokens in prompts()], sampling, use_tqdm=False)
        said = [output.outputs[0] for output in outputs]
        margins = []
        for one in said:
            tops = [sorted((logprob.logprob for logprob in step.values()), reverse=True)[:2] for step in one.logprobs]
            margins.append([first - second for first, second in tops])
        if half is not None:
            worker = kv_transfer_state._KV_CONNECTOR_AGENT._worker
            wait_for(lambda worker=worker: (worker._drain(), not worker._calls)[1])
            half.worker_said(worker.take_said())
        counts = {name: count - before[name] for name, count in half._report.counts.items()} if half is not None else {}
        turns.append({"tokens": [list(one.token_ids) for one in said], "margins": margins, "counts": counts, "cached": [output.num_cached_tokens for output in outputs]})
        llm.reset_prefix_cache()
    llm.llm_engine.engine_core.shutdown()
    sys.stdout.write("RESULT " + json.dumps({"turns": turns, "saved": memory.saved, "loaded": memory.loaded, "preempted": preempted[0]}) + "\n")


if __name__ == "__main__":
    main()
