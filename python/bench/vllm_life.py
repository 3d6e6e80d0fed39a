"""One life of a vLLM engine on CPU, which answers lines of JSON: prompts in, time to first token and what was found out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

from benchlib import serve


def _hide_llvmlite_from_vllm() -> None:
    """vLLM 0.32 looks through every loaded module for kernels that it replaces, and stumbles over llvmlite's library, which LMCache loads: `vars` of it is
    no dictionary. There are none of vLLM's kernels in it."""
    import vllm.triton_utils.dispatcher as dispatcher

    rebind = dispatcher._rebind_kernels

    def rebind_elsewhere(overrides: Any) -> None:
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "llvmlite"}
        try:
            rebind(overrides)
        finally:
            sys.modules.update(hidden)

    dispatcher._rebind_kernels = rebind_elsewhere


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-tokens", type=int, required=True, help="of a prompt")
    parser.add_argument("--transfer", default=None, help="kv_transfer_config, as JSON")
    parser.add_argument("--beside", default=None, help="a folder of packages behind all others")
    asked = parser.parse_args()
    if asked.beside:
        # The engine's process begins with the same path.
        sys.path.append(asked.beside)
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)

        _hide_llvmlite_from_vllm()

    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(
        model=asked.model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=asked.max_tokens + 128,
        max_num_seqs=4,
        kv_transfer_config=json.loads(asked.transfer) if asked.transfer else None,
        disable_log_stats=True,
    )

    def prompt(tokens: list[int], params: dict[str, Any] | None = None) -> dict[str, Any]:
        extra = {"kv_transfer_params": params} if params is not None else None
        sampling = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, ignore_eos=True, extra_args=extra)
        begun = time.perf_counter()
        (output,) = llm.generate([TokensPrompt(prompt_token_ids=tokens)], sampling, use_tqdm=False)
        seconds = time.perf_counter() - begun
        return {"seconds": seconds, "cached": output.num_cached_tokens or 0, "tokens": list(output.outputs[0].token_ids)}

    serve({"prompt": prompt})
    llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    main()
