"""One prompt through vLLM with ForebayConnector: run it twice, and the second engine loads what the first one computed.

    forebay serve --data /tmp/drive --capacity 1GiB --socket /tmp/forebay.sock &
    python examples/vllm_connector.py --model path/to/model --connect unix:/tmp/forebay.sock
"""

from __future__ import annotations

import argparse
import random
import time

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, or a name in the hub's cache")
    parser.add_argument("--connect", default=None, help="the node's address; FOREBAY_CONNECT or the default socket if left out")
    parser.add_argument("--tokens", type=int, default=900, help="length of the prompt")
    asked = parser.parse_args()
    llm = LLM(
        model=asked.model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=asked.tokens + 64,
        kv_transfer_config={
            "kv_connector": "ForebayConnector",
            "kv_connector_module_path": "forebay.integrations.vllm",
            "kv_role": "kv_both",
            "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": {"address": asked.connect} if asked.connect else {},
        },
    )
    chance = random.Random(1)
    prompt = TokensPrompt(prompt_token_ids=[chance.randrange(3, 1000) for _ in range(asked.tokens)])
    begun = time.perf_counter()
    (output,) = llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=8, detokenize=False), use_tqdm=False)
    seconds = time.perf_counter() - begun
    print(f"{output.num_cached_tokens or 0} of {asked.tokens} tokens were loaded, {seconds:.3f} s, then {list(output.outputs[0].token_ids)}")


if __name__ == "__main__":
    main()
