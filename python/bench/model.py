"""The model that engines are measured with, made on the spot: a Llama with random weights and a tokenizer trained on this repository's own text.

No hub is asked. Weights do not matter for time: shapes do. `python python/bench/model.py FOLDER` makes one for whoever wants to try an engine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchlib import texts

VOCABULARY = 2048
LAYERS, KV_HEADS, HEAD = 12, 4, 64
#: Bytes of keys and values, two each.
KV_BYTES_PER_TOKEN = LAYERS * KV_HEADS * HEAD * 2 * 2


def make(folder: Path) -> None:
    """77 M parameters in bfloat16: hidden 768, 12 layers, 12 heads, 4 of KV with 64 each."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=131_072,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def prompts(tokens: int, count: int) -> list[list[int]]:
    """Prompts of real text, so many tokens each, no two of which begin alike."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    text = texts()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text[:1_000_000]], trainer)
    ids: list[int] = []
    for at in range(0, len(text), 1 << 16):
        ids += tokenizer.encode(text[at : at + (1 << 16)]).ids
        if len(ids) >= tokens * count:
            break
    if len(ids) < tokens * count:
        raise RuntimeError(f"the repository's text makes {len(ids)} tokens, and {tokens * count} are needed")
    return [ids[at * tokens : (at + 1) * tokens] for at in range(count)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python python/bench/model.py FOLDER")
    make(Path(sys.argv[1]))
    print(f"a Llama of 77 M random parameters is in {sys.argv[1]}")
