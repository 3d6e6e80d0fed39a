"""A prompt, twice: run it again, or in another process, and its prefix is loaded instead of computed.

    forebay serve --data /tmp/drive --capacity 1GiB --socket /tmp/forebay.sock &
    python examples/transformers_prefix.py --model path/to/model --connect unix:/tmp/forebay.sock

The model is a folder (or a name in the hub's cache) of any causal language model with full attention. Tokens are drawn at random from a seed: the
point is time, not text.
"""

from __future__ import annotations

import argparse
import time

import torch
from transformers import AutoModelForCausalLM

from forebay.integrations.transformers import PrefixCache

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True)
parser.add_argument("--connect", default=None, help="the node's address; FOREBAY_CONNECT or the default socket if left out")
parser.add_argument("--tokens", type=int, default=512, help="length of the prompt")
asked = parser.parse_args()

model = AutoModelForCausalLM.from_pretrained(asked.model, dtype="auto").eval()
cache = PrefixCache(model, asked.connect)
prompt = torch.randint(3, model.config.vocab_size, (1, asked.tokens), generator=torch.Generator().manual_seed(1))

for turn in range(2):
    begun = time.perf_counter()
    output = cache.generate(prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)
    seconds = time.perf_counter() - begun
    print(f"turn {turn}: loaded {cache.last.loaded_tokens} of {cache.last.prompt_tokens} tokens, {seconds:.3f} s, ends in {output[0, -4:].tolist()}")
    if turn == 0:
        # What the model said and a next question: all of it but the question is stored by now.
        question = torch.randint(3, model.config.vocab_size, (1, 32), generator=torch.Generator().manual_seed(2))
        prompt = torch.cat([output, question], dim=1)
cache.close()
