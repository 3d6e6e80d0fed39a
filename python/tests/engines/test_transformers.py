"""A prompt that was computed once is loaded: across processes' ends, bit for bit, and never under other weights."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import Start
from support import HERE, OF_A_FULL_QUOTA, OF_ANOTHER_VERSION, TRANSFORMERS, Lines, Node, NodeOfAnotherVersion, run_script

import forebay
from forebay.integrations._decide import Reason
from forebay.integrations.transformers import PrefixCache, Unsupported, generate, weights_digest

CHUNK = 16


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    # In float32 two ways to the same number differ by rounding only, so that tokens can be compared.
    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


def prompt(tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 2048, (1, tokens), generator=torch.Generator().manual_seed(seed))


def go_on(cache_or_model: Any, ids: torch.Tensor, **more: Any) -> Any:
    options = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True, "pad_token_id": 0}
    return cache_or_model.generate(ids, **options, **more)


def test_a_restarted_node_gives_the_same_logits_as_a_cold_run(model: Any, node: Node) -> None:
    ids = prompt(201)
    cold = go_on(model, ids)
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    first = go_on(cache, ids)
    assert cache.last.loaded_tokens == 0
    # Of 201 + 8 tokens all but the last have KV.
    assert cache.last.stored_chunks == 208 // CHUNK
    cache.close()
    node.restart()
    again = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    warm = go_on(again, ids)
    assert again.last.loaded_tokens == 192, "the whole chunks of all but the prompt's last token"
    for run in (first, warm):
        assert torch.equal(run.sequences, cold.sequences)
        for ours, theirs in zip(run.logits, cold.logits, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_is_loaded_is_bit_for_bit_what_was_computed(model: Any, node: Node) -> None:
    ids = prompt(130)
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    computed = go_on(cache, ids).past_key_values
    loaded = cache.prefill(ids)
    assert loaded.get_seq_length() == 128
    for ours, theirs in zip(loaded.layers, computed.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys[:, :, :128])
        assert torch.equal(ours.values, theirs.values[:, :, :128])
    # And so the logits behind it are the very same as behind the cache that never left the process.
    kept = copy.deepcopy(computed)
    kept.crop(128 - kept.get_seq_length())
    with torch.no_grad():
        behind = [model(ids[:, 128:], past_key_values=past, use_cache=True).logits for past in (loaded, kept)]
    assert torch.equal(behind[0], behind[1])


def test_a_longer_conversation_goes_on_behind_what_was_stored(model: Any, node: Node) -> None:
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    first = go_on(cache, prompt(100))
    follow_up = torch.cat([first.sequences, prompt(60, seed=2)], dim=1)
    cold = go_on(model, follow_up)
    warm = go_on(cache, follow_up)
    assert cache.last.loaded_tokens == 96
    assert torch.equal(warm.sequences, cold.sequences)
    go_on(cache, torch.cat([prompt(50), prompt(60, seed=3)], dim=1))
    assert cache.last.loaded_tokens == 48, "a prompt that parts from the stored one in the middle of a chunk is loaded up to that chunk"


def test_one_changed_element_of_any_weight_is_a_miss(model: Any, node: Node) -> None:
    ids = prompt(80)
    go_on(PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True), ids)
    digests = {weights_digest(model)}
    named = list(model.named_parameters())
    for name, parameter in named:
        with torch.no_grad():
            at = tuple(size // 2 for size in parameter.shape)
            before = parameter[at].item()
            parameter[at] = before + 0.5
            digests.add(weights_digest(model))
            if name in (named[0][0], named[-1][0]):
                changed = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
                go_on(changed, ids)
                assert changed.last.loaded_tokens == 0, f"KV of other weights was loaded after {name} changed"
            parameter[at] = before
    assert len(digests) == len(named) + 1, "each parameter counts"
    back = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    go_on(back, ids)
    assert back.last.loaded_tokens == 64, "the weights are what they were"


def test_a_change_of_weights_under_a_cache_in_use_is_noticed(model: Any, node: Node) -> None:
    ids = prompt(80)
    own = copy.deepcopy(model)
    cache = PrefixCache(own, node.address, chunk_tokens=CHUNK, strict=True)
    go_on(cache, ids)
    with torch.no_grad():
        own.lm_head.weight[0, 0] += 1
    go_on(cache, ids)
    assert cache.last.loaded_tokens == 0


def test_one_folder_by_two_paths_shares(model_folder: Path, node: Node, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (tmp_path / "link").symlink_to(model_folder)
    names = []
    for path in (model_folder, tmp_path / "link"):
        cache = PrefixCache(AutoModelForCausalLM.from_pretrained(path).eval(), node.address)
        names.append(cache.namespace)
        cache.close()
    assert names[0] == names[1]


def test_a_call_says_what_is_done_with_its_chunks(model: Any, node: Node) -> None:
    ids = prompt(100)
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    cold = go_on(cache, ids, skip_write=True)
    assert cache.last.stored_chunks == 0
    go_on(cache, ids, reuse="done")
    assert (cache.last.loaded_tokens, cache.last.stored_chunks) == (0, 107 // CHUNK), "nothing was stored before"
    with Lines("forebay") as lines:
        again = go_on(cache, ids, skip_read=True, reuse="tomorrow")
        lines.only("hint", "'tomorrow'", "ignored")
    assert cache.last.loaded_tokens == 0 and torch.equal(again.sequences, cold.sequences)
    go_on(cache, ids)
    assert cache.last.loaded_tokens == 96
    # What hints do is the node's affair; that they come there is seen on the way.
    said: list[Any] = []

    class Space:
        def __getattr__(self, name: str) -> Any:
            verb = getattr(space, name)
            return verb if name not in ("get", "put") else lambda *args, **more: (said.append((name, more["reuse"])), verb(*args, **more))[1]

    space, cache._link.namespace = cache._link.namespace, Space()
    go_on(cache, torch.cat([ids, prompt(60, seed=3)], dim=1), reuse=90)
    assert said == [("get", 90.0), ("put", 90.0)]
    cache.close()


def test_a_dead_node_is_computed_around(model: Any, node: Node) -> None:
    ids = prompt(80)
    cold = go_on(model, ids)
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK)
    go_on(cache, ids)
    node.kill()
    dead = go_on(cache, ids)
    assert cache.last.loaded_tokens == 0 and torch.equal(dead.sequences, cold.sequences)
    never = PrefixCache(model, "unix:/nowhere/forebay.sock", chunk_tokens=CHUNK)
    assert torch.equal(go_on(never, ids).sequences, cold.sequences)
    never.close()
    with pytest.raises(forebay.ConnectionFailed):
        PrefixCache(model, "unix:/nowhere/forebay.sock", chunk_tokens=CHUNK, strict=True)


def test_a_node_of_another_version_is_said_once_and_all_is_computed(model: Any, place: Path) -> None:
    ids = prompt(80)
    cold = go_on(model, ids)
    with NodeOfAnotherVersion(place) as other:
        with Lines("forebay") as lines:
            cache = PrefixCache(model, other.address, chunk_tokens=CHUNK)
            for _ in range(2):
                assert torch.equal(go_on(cache, ids).sequences, cold.sequences) and cache.last.loaded_tokens == 0
        lines.only(*OF_ANOTHER_VERSION)
        cache.close()
        with pytest.raises(forebay.VersionMismatch):
            PrefixCache(model, other.address, chunk_tokens=CHUNK, strict=True)


def test_a_full_quota_is_said_once_and_all_is_computed(model: Any, node: Node) -> None:
    ids = prompt(80)
    cold = go_on(model, ids)
    with Lines("forebay") as lines:
        cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, quota=4096)
        for _ in range(2):
            assert torch.equal(go_on(cache, ids).sequences, cold.sequences)
            assert (cache.last.loaded_tokens, cache.last.stored_chunks) == (0, 0)
    lines.only(*OF_A_FULL_QUOTA)
    cache.close()


def test_what_is_sooner_computed_is_computed_and_each_decision_is_counted(model: Any, node: Node) -> None:
    """With prefill that costs nothing, and with one that costs ten seconds a token, whatever this machine does."""
    ids = prompt(200)
    cold = go_on(model, ids)
    go_on(PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True), ids)
    for token_s, loaded, reason in ((0.0, 0, Reason.SLOWER), (10.0, 192, Reason.FASTER)):
        cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True, prefill_s=(0.0, token_s, 0.0))
        for _ in range(3):
            go_on(cache, ids)
            assert (cache.last.loaded_tokens, cache.last.reason) == (192, Reason.UNKNOWN), "nothing is known of loads yet"
        assert torch.equal(go_on(cache, ids).sequences, cold.sequences)
        assert (cache.last.loaded_tokens, cache.last.reason) == (loaded, reason)
        assert cache.report.reasons == {Reason.UNKNOWN: 3, reason: 1} and f"1 {reason}" in cache.report.line()
        assert cache.prefill(ids).get_seq_length() == 192, "who asks for what is stored gets it"
        cache.close()
    with pytest.raises(ValueError, match="three numbers"):
        PrefixCache(model, node.address, prefill_s=(1.0,))


def test_prefill_is_learned_from_the_first_forward_pass_of_each_call(model: Any, node: Node) -> None:
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK, strict=True)
    for number in range(4):
        go_on(cache, prompt(300 + 100 * number, seed=number))
    known = cache._prefill.known()
    assert known is not None and known.seconds(0, 500) > 0
    assert cache._prefill.seen == 4, "and not from the steps that decode"
    assert not model._forward_hooks and not model._forward_pre_hooks, "the model is left as it was"


def test_models_with_other_state_are_refused_by_name(node: Node) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    sliding = Gemma2ForCausalLM(
        Gemma2Config(**sizes, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, sliding_window=8)
    )
    with pytest.raises(Unsupported, match="layer 0 of Gemma2ForCausalLM keeps a DynamicSlidingWindowLayer"):
        PrefixCache(sliding, node.address)
    with pytest.raises(Unsupported, match="Mamba"):
        PrefixCache(MambaForCausalLM(MambaConfig(**sizes, state_size=4)), node.address)


def test_ways_to_generate_that_have_no_single_prefix_are_refused_by_name(model: Any, node: Node) -> None:
    cache = PrefixCache(model, node.address, chunk_tokens=CHUNK)
    ids = prompt(40)
    with pytest.raises(Unsupported, match="one sequence"):
        go_on(cache, ids.repeat(2, 1))
    with pytest.raises(Unsupported, match="mask"):
        go_on(cache, ids, attention_mask=torch.cat([torch.zeros(1, 1), torch.ones(1, 39)], dim=1))
    with pytest.raises(Unsupported, match="num_beams"):
        go_on(cache, ids, num_beams=2)


def test_the_document_says_what_runs(model_folder: Path, node: Node) -> None:
    """The snippet of docs/engines/transformers.md, as it stands there: twice, in processes of their own."""
    text = (Path(__file__).parents[3] / "docs/engines/transformers.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program = snippet.replace("unix:/run/user/1000/forebay.sock", node.address).replace("path/to/model", str(model_folder))
    assert program != snippet
    script = node.folder / "snippet.py"
    script.write_text(program)
    loaded = [re.search(r"(\d+) of (\d+) tokens", run_script(str(script), modules=TRANSFORMERS)) for _ in range(2)]
    assert all(loaded), "the snippet says how much was loaded"
    assert loaded[0].group(1) == "0"
    assert int(loaded[1].group(1)) > 0


def test_a_newcomer_reaches_a_warm_second_run(model_folder: Path, place: Path) -> None:
    """The page's first steps, word for word."""
    start = Start("transformers.md", place, MODEL=str(model_folder))
    start.environment()
    with start.serving():
        said = [run_script(*program, modules=TRANSFORMERS) for program in start.programs()]
    assert "loaded 0 of" in said[0] and "loaded 0 of" not in said[1]


def test_the_short_form_keeps_its_cache_for_the_next_call(model: Any, node: Node) -> None:
    client = forebay.Client(node.address)
    cold = go_on(model, prompt(200))
    for _ in range(2):
        output = generate(model, prompt(200), client=client, max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert torch.equal(output, cold.sequences)
    stats = client.stats()
    assert stats["match"]["asked"] == 2 * (199 // 64)
    assert stats["get_bytes"] > 0, "the second call loaded what the first one stored"


def test_the_program_for_gpus_goes_the_same_way_without_one() -> None:
    """All but the registration of memory and the GPU's own copies: layers land in order while the first ones run, from NVMe and from DRAM."""
    program = str(HERE.parents[1] / "bench/gpu_ttft.py")
    said = run_script(program, "--device", "cpu", "--shape", "tiny", "--rounds", "1", "--staging-mib", "2", modules=TRANSFORMERS)
    for line in ("1,024 tokens", "2,500 tokens", "from DRAM", "from NVMe", "weak baseline", "the same token; KV bit for bit"):
        assert line in said, said
    if not torch.cuda.is_available():
        assert "skipped: there is no CUDA GPU here" in run_script(program, modules=TRANSFORMERS)
