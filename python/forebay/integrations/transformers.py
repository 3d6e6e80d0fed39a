"""Hugging Face transformers: the longest stored prefix of a prompt is loaded instead of computed, and what is new is stored.

    import forebay
    from forebay.integrations.transformers import PrefixCache

    cache = PrefixCache(model, forebay.Client("unix:/run/user/1000/forebay.sock"))
    output = cache.generate(input_ids, max_new_tokens=64)

Tokens are cut into chunks; a chunk's hash is chained to the one before, so that a chunk is found only behind the very tokens it was computed
behind. Its block holds keys and values of all layers. Models whose state is more than the keys and values of all earlier tokens (sliding
windows, linear attention, encoders) are refused by name.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.cache_utils import DynamicCache, DynamicLayer

import forebay
from forebay import Fingerprint, Region
from forebay._forebay import hash_bytes
from forebay.integrations import _versions
from forebay.integrations._common import Link, Prompts, Report, digest_text
from forebay.integrations._decide import LoadSpeed, Now, Prefill, PrefillSpeed, Reason, decide
from forebay.integrations._wishes import wishes

#: Tokens of a chunk unless asked otherwise: 8 MiB for an 8B model in bfloat16, well under the largest block of a default drive.
CHUNK_TOKENS = 64
#: Bytes of the block's memory taken at a time while storing, so that a long prompt does not need its whole KV twice.
STORE_BYTES_MAX = 64 << 20

#: A prompt is computed in one forward pass, unless its caller asks otherwise.
_STEP_TOKENS = 1 << 30

_DOMAIN = b"forebay transformers 1\0"
_LOGGER = logging.getLogger("forebay")


class Unsupported(ValueError):
    """A model, or a way to generate, whose state is not the keys and values of one sequence. Says which."""


@dataclass(frozen=True)
class Loaded:
    """What the last call of `generate` did: tokens of the prompt, tokens that were loaded, chunks that were stored, and why so many were loaded."""

    prompt_tokens: int
    loaded_tokens: int
    stored_chunks: int
    reason: str = ""


@dataclass(frozen=True)
class _Piece:
    """Keys or values of one layer inside a block: `shape` is heads x chunk tokens x head size."""

    layer: int
    is_value: bool
    start: int
    nbytes: int
    shape: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device


class PrefixCache:
    """Stored prefixes of one model.

    Args:
        model: a causal language model of transformers, in evaluation.
        client: a `forebay.Client`, or an address; None is `FOREBAY_CONNECT` or the default socket.
        model_id: what the model is called in the fingerprint; if left out, the name it was loaded by, of a folder its last part.
        chunk_tokens: tokens of a chunk.
        namespace: a namespace instead of the one that is named after the fingerprint.
        quota, ttl_s: of the namespace, when it is made.
        deadline_ms: how long a load, and how long a store, may take.
        load_or_recompute: load what is stored only when that is sooner than computing it; see `_decide`.
        prefill_s: what prefill costs, as [seconds a forward pass, a token, a pair of tokens], instead of learning it.
        strict: raise when the node is not there or refuses, instead of computing.

    Raises:
        Unsupported: the model keeps other state than keys and values of all tokens.
    """

    def __init__(
        self,
        model: Any,
        client: forebay.Client | str | None = None,
        *,
        model_id: str | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
        namespace: str | None = None,
        quota: int | None = None,
        ttl_s: int | None = None,
        deadline_ms: float = 5000.0,
        load_or_recompute: bool = True,
        prefill_s: Sequence[float] | None = None,
        strict: bool = False,
    ) -> None:
        if chunk_tokens < 1:
            raise ValueError(f"a chunk has at least 1 token, this is {chunk_tokens}")
        if prefill_s is not None and not (len(prefill_s) == 3 and min(prefill_s) >= 0):
            raise ValueError(f"prefill_s is three numbers, the seconds of a forward pass, a token and a pair of tokens, not {prefill_s!r}")
        self._decides = load_or_recompute
        given = None
        if prefill_s is not None:
            step_s, token_s, pair_s = map(float, prefill_s)
            given = Prefill(step_s, token_s, pair_s, _STEP_TOKENS)
        self._prefill = PrefillSpeed(_STEP_TOKENS, given)
        self._load_speed = LoadSpeed(planned=self._planned)
        self._reason = ""
        _versions.look("transformers", transformers.__version__)
        self._model = weakref.ref(model)
        self._chunk = chunk_tokens
        self._deadline_ms = deadline_ms
        self._strict = strict
        self._pieces = _probe(model, chunk_tokens)
        self.block_bytes = sum(piece.nbytes for piece in self._pieces)
        loaded_by = getattr(model.config, "_name_or_path", "") or type(model).__name__
        # A folder by its last part, so that two paths to it share; the weights' digest tells those of the same name apart.
        self._model_id = model_id or (os.path.basename(os.path.realpath(loaded_by)) if os.path.isdir(loaded_by) else loaded_by)
        self._link_options: dict[str, Any] = {"namespace": namespace, "quota": quota, "ttl_s": ttl_s, "strict": strict}
        self._client: forebay.Client | None = None
        self._address: str | None = None
        if isinstance(client, forebay.Client):
            self._client = client
        else:
            self._address = client
        self._marks: tuple[tuple[int, int], ...] = ()
        self._link: Link
        self.report: Report
        self._prompts = Prompts()
        self.last = Loaded(0, 0, 0)
        self._attach(model)

    def _attach(self, model: Any) -> None:
        """Opens the namespace that belongs to the weights as they are now."""
        self._marks = _marks(model)
        self._link = Link(
            self._fingerprint(model),
            engine="transformers",
            client=self._client,
            address=self._address,
            logger=_LOGGER,
            **self._link_options,
        )
        self.report = Report(self._link, _LOGGER)

    def _fingerprint(self, model: Any) -> Fingerprint:
        config = json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str)
        layout = digest_text(*(f"{p.layer} {p.is_value} {p.shape} {p.dtype}" for p in self._pieces))
        return Fingerprint(
            model=str(self._model_id)[-200:],
            weights=weights_digest(model),
            dtype=",".join(sorted({str(piece.dtype).removeprefix("torch.") for piece in self._pieces})),
            layout=f"transformers 1 {layout}",
            block_tokens=self._chunk,
            hash="sha256 chain of little-endian int64 tokens",
            # Rotary scaling, activations, quantisation: what changes KV and is in no weight.
            shape=digest_text(config),
        )

    @property
    def namespace(self) -> str:
        """Name of the namespace in use."""
        return self._link.name

    def refresh(self) -> None:
        """Looks at the weights anew. Changes that torch counts are noticed by themselves; writes through `.data` are not."""
        model = self._model()
        if model is not None:
            # They are the old namespace's.
            self._tell_prompts(at_once=True)
            self._link.close()
            self._attach(model)

    @torch.no_grad()
    def generate(
        self, input_ids: torch.Tensor, *, skip_read: bool = False, skip_write: bool = False, reuse: str | float | None = None, **generate_kwargs: Any
    ) -> Any:
        """As `model.generate(input_ids, ...)`, with the longest stored prefix loaded first and new whole chunks stored after.

        Args:
            input_ids: integers of shape 1 x tokens.
            skip_read: nothing that is stored is used for it.
            skip_write: nothing of it is stored.
            reuse: when its chunks will be used again: `"tool"` (after a tool call), `"turn"` (a person's turn), `"done"` (not at all), or seconds.
            generate_kwargs: as `model.generate` takes them.

        Raises:
            Unsupported: more than one sequence, padding, beams, embeddings or pixels instead of tokens.
        """
        model = self._model()
        if model is None:
            raise ReferenceError("the model of this PrefixCache is gone")
        _check_call(model, input_ids, generate_kwargs)
        wish = wishes({"forebay": {"skip_read": skip_read, "skip_write": skip_write, "hint": reuse}})
        if _marks(model) != self._marks:
            self.refresh()
        tokens = input_ids[0].to(device="cpu", dtype=torch.int64)
        hashes = _chain(tokens, self._chunk)
        cache: Any = DynamicCache(config=model.config)
        # The last token is always computed: its logits are what generation starts from.
        loadable = 0 if wish.skip_read else (len(tokens) - 1) // self._chunk
        self._reason = ""
        loaded = self._guarded(lambda: self._load(cache, hashes[:loadable], len(tokens), wish.hint), 0)
        with self._timed(model, loaded * self._chunk):
            output = model.generate(input_ids, past_key_values=cache, **generate_kwargs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        stored = 0 if wish.skip_write else self._guarded(lambda: self._store(cache, sequences[0], loaded, wish.hint), 0)
        self.last = Loaded(len(tokens), loaded * self._chunk, stored, self._reason)
        self._prompts.add(len(tokens), used_tokens=loaded * self._chunk)
        self._tell_prompts(at_once=False)
        self.report.tick()
        return output

    @contextlib.contextmanager
    def _timed(self, model: Any, begin: int) -> Iterator[None]:
        """Learns what prefill costs from the first forward pass of a call, which begins behind what was loaded."""
        if not self._decides:
            yield
            return
        begun: list[float] = []
        handles: list[Any] = []

        def before(_: Any, args: Any, kwargs: Any) -> None:
            del args, kwargs
            begun.append(time.monotonic())

        def after(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            del output
            while handles:
                handles.pop().remove()
            ids = kwargs.get("input_ids", args[0] if args else None)
            if ids is None or not begun:
                return
            if ids.device.type == "cuda":
                # Kernels are only in line so far.
                torch.cuda.synchronize(ids.device)
            self._prefill.saw([(begin, begin + int(ids.shape[1]))], time.monotonic() - begun[0])

        handles += [model.register_forward_pre_hook(before, with_kwargs=True), model.register_forward_hook(after, with_kwargs=True)]
        try:
            yield
        finally:
            while handles:
                handles.pop().remove()

    def _planned(self, loads: Sequence[tuple[int, int]]) -> Sequence[tuple[float, float]]:
        """What loads of (DRAM, NVMe) chunks would take now: what the client plans for the get, and making a cache of it."""
        space, nbytes, stall_s = self._link.namespace, self.block_bytes, self._load_speed.stall_block_s
        if space is None:
            return [(0.0, 0.0)] * len(loads)
        plans = space.expect_fetches([(dram * nbytes, nvme * nbytes) for dram, nvme in loads])
        return [(seconds + stall_s * sum(blocks), confidence) for (seconds, confidence), blocks in zip(plans, loads, strict=True)]

    def prefill(self, input_ids: torch.Tensor) -> DynamicCache:
        """The stored prefix of these tokens as a cache, at most all but the last token of it. Empty if nothing is stored."""
        model = self._model()
        if model is None:
            raise ReferenceError("the model of this PrefixCache is gone")
        _check_call(model, input_ids, {})
        tokens = input_ids[0].to(device="cpu", dtype=torch.int64)
        cache = DynamicCache(config=model.config)
        hashes = _chain(tokens, self._chunk)[: (len(tokens) - 1) // self._chunk]
        self._guarded(lambda: self._load(cache, hashes, len(tokens), decides=False), 0)
        return cache

    def close(self) -> None:
        """Says the last line and lets the connection go."""
        self.report.say()
        self._tell_prompts(at_once=True)
        self._link.close()

    def _tell_prompts(self, at_once: bool) -> None:
        with contextlib.suppress(forebay.ForebayError):
            self._prompts.tell(self._link.namespace, at_once=at_once)

    def _guarded(self, run: Any, otherwise: int) -> int:
        try:
            return run()
        except forebay.ForebayError as error:
            if self._strict:
                raise
            _LOGGER.warning("forebay: %s; computed instead", error)
            return otherwise

    def _load(self, cache: DynamicCache, hashes: list[bytes], tokens: int, hint: Any = None, decides: bool = True) -> int:
        """Fills the cache with as many of the first chunks of these as are stored and worth it; how many. tokens: of the whole prompt."""
        space = self._link.namespace
        if space is None or not hashes:
            return 0
        keys = space.keys(hashes)
        match = space.match_prefix(keys, deadline_ms=self._deadline_ms)
        found, tiers = match.n, match.packed_tiers
        self.report.add(asked=len(hashes), hits=found)
        if decides and self._decides:
            now = Now(wait_s=0.0, is_busy=False, deadline_s=self._deadline_ms / 1000)
            decision = decide(self._prefill.known(), self._load_speed, tiers, 0, self._chunk, tokens, now)
            found, self._reason = decision.blocks, decision.reason
            if decision.reason is not Reason.NOTHING:
                self.report.decided(decision.reason)
        if found == 0:
            return 0
        begun = time.monotonic()
        # Not the client's own memory, which is bounded: a long prompt's KV may be larger.
        blocks = torch.empty((found, self.block_bytes), dtype=torch.uint8)
        spans = Region.borrow(blocks.numpy()).spans([at * self.block_bytes for at in range(found)], self.block_bytes)
        results = space.get(keys[: 16 * found], into=spans, deadline_ms=self._deadline_ms, reuse=hint)
        landed = time.monotonic()
        whole = 0
        while whole < found and results[whole] == self.block_bytes:
            whole += 1
        self.report.add(loaded=whole, load_failed=found - whole)
        if whole == 0:
            return 0
        blocks = blocks[:whole]
        for keys_piece, values_piece in zip(self._pieces[::2], self._pieces[1::2], strict=True):
            cache.update(_unpack(blocks, keys_piece), _unpack(blocks, values_piece), keys_piece.layer)
        if whole == found:
            nvme = tiers.count(1, 0, whole)
            now_s = time.monotonic()
            self._load_speed.saw((whole - nvme, nvme), now_s - begun, now_s - landed)
        return whole

    def _store(self, cache: DynamicCache, sequence: torch.Tensor, loaded: int, hint: Any = None) -> int:
        """Puts the whole chunks behind the first `loaded` ones; how many are stored now."""
        space, client = self._link.namespace, self._link.client
        tokens = sequence.to(device="cpu", dtype=torch.int64)[: cache.get_seq_length()]
        hashes = _chain(tokens, self._chunk)
        if space is None or client is None or len(hashes) <= loaded:
            return 0
        keys = space.keys(hashes)
        at_once = max(1, min(len(hashes) - loaded, STORE_BYTES_MAX // self.block_bytes))
        region = client.region(at_once * self.block_bytes)
        memory = torch.frombuffer(region, dtype=torch.uint8)
        stored = 0
        for first in range(loaded, len(hashes), at_once):
            count = min(at_once, len(hashes) - first)
            blocks = memory[: count * self.block_bytes].view(count, self.block_bytes)
            for piece in self._pieces:
                _pack(blocks, piece, cache, first, count, self._chunk)
            outcomes = space.put(
                keys[16 * first : 16 * (first + count)],
                region.spans([at * self.block_bytes for at in range(count)], self.block_bytes),
                tokens=self._chunk,
                chain=int.from_bytes(hashes[0][:8], "little"),
                parent=keys[16 * (first - 1) : 16 * first] if first else None,
                position=first,
                reuse=hint,
                deadline_ms=self._deadline_ms,
            )
            self.report.put(outcomes)
            refused = [outcome for outcome in outcomes if isinstance(outcome, forebay.Refused)]
            stored += count - len(refused)
            if refused:
                # A chunk is of no use behind a gap.
                _LOGGER.debug("forebay: %d chunks were refused: %s", len(refused), refused[0])
                break
        return stored


def generate(model: Any, input_ids: torch.Tensor, *, client: forebay.Client | str | None = None, **generate_kwargs: Any) -> Any:
    """`PrefixCache(model, client).generate(input_ids, ...)`, with the `PrefixCache` kept for the model's next call."""
    kept = _KEPT.get(model)
    if kept is None or kept[0] is not client:
        kept = (client, PrefixCache(model, client))
        _KEPT[model] = kept
    return kept[1].generate(input_ids, **generate_kwargs)


_KEPT: weakref.WeakKeyDictionary[Any, tuple[Any, PrefixCache]] = weakref.WeakKeyDictionary()


def weights_digest(model: Any) -> str:
    """BLAKE3 over all parameters and buffers as they are in memory: names, types, shapes and bytes. One changed element changes it.

    Hashed side by side on up to 16 threads, several GB/s a core.
    """
    named = [*model.named_parameters(), *model.named_buffers()]

    def one(item: tuple[str, torch.Tensor]) -> str:
        name, tensor = item
        data = tensor.detach().to("cpu").contiguous()
        content = hash_bytes(data.reshape(-1).view(torch.uint8).numpy()) if data.numel() else ""
        return f"{name} {data.dtype} {tuple(data.shape)} {content}\n"

    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return hash_bytes("".join(pool.map(one, sorted(named, key=lambda item: item[0]))).encode())


def _marks(model: Any) -> tuple[tuple[int, int], ...]:
    """Changes whenever torch knows that a parameter or buffer was changed or replaced."""
    return tuple((tensor.data_ptr(), tensor._version) for tensor in (*model.parameters(), *model.buffers()))


def _probe(model: Any, chunk: int) -> list[_Piece]:
    """Where each layer's keys and values lie in a block: learned from one token's forward pass, which is right for any architecture."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise Unsupported(f"{type(model).__name__} has an encoder; only decoders whose state is keys and values are supported")
    cache: Any = DynamicCache(config=config)
    with torch.no_grad():
        token = torch.zeros((1, 1), dtype=torch.long, device=next(model.parameters()).device)
        output = model(input_ids=token, past_key_values=cache, use_cache=True)
    is_kept = getattr(output, "past_key_values", None) is cache
    if not is_kept:
        raise Unsupported(f"{type(model).__name__} does not keep its state in a DynamicCache")
    pieces: list[_Piece] = []
    start = 0
    for index, layer in enumerate(cache.layers):
        # Its subclasses keep less than all tokens, or more than keys and values.
        if type(layer) is not DynamicLayer:
            raise Unsupported(
                f"layer {index} of {type(model).__name__} keeps a {type(layer).__name__}; only models with full attention in each layer are supported"
            )
        if layer.keys is None or layer.values is None:
            raise Unsupported(f"layer {index} of {type(model).__name__} keeps no keys and values of its own")
        for is_value, state in ((False, layer.keys), (True, layer.values)):
            _, heads, _, size = state.shape
            nbytes = heads * chunk * size * state.element_size()
            pieces.append(_Piece(index, is_value, start, nbytes, (heads, chunk, size), state.dtype, state.device))
            start += nbytes
    if not pieces:
        raise Unsupported(f"{type(model).__name__} keeps no keys and values")
    return pieces


def _check_call(model: Any, input_ids: torch.Tensor, kwargs: dict[str, Any]) -> None:
    if input_ids.dim() != 2 or input_ids.shape[0] != 1:
        raise Unsupported(f"input_ids of shape {tuple(input_ids.shape)}: one sequence at a time, of shape 1 x tokens")
    mask = kwargs.get("attention_mask")
    if mask is not None and (mask.shape != input_ids.shape or not bool(mask.all())):
        raise Unsupported("an attention mask with zeros: prefixes are stored for prompts without padding")
    if "past_key_values" in kwargs:
        raise Unsupported("past_key_values: the cache is what is loaded here")
    config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
    for name in ("num_beams", "num_return_sequences"):
        if (kwargs.get(name) or getattr(config, name, None) or 1) != 1:
            raise Unsupported(f"{name}: one sequence at a time")
    for name, value in kwargs.items():
        if isinstance(value, torch.Tensor) and name != "attention_mask":
            raise Unsupported(f"{name}: a prefix is known by its tokens alone")


def _chain(tokens: torch.Tensor, chunk: int) -> list[bytes]:
    """A hash for each whole chunk, over it and all before it."""
    memory = memoryview(tokens.contiguous().numpy()).cast("B")
    hashes, last = [], hashlib.sha256(_DOMAIN).digest()
    for end in range(chunk, len(tokens) + 1, chunk):
        digest = hashlib.sha256(last)
        digest.update(memory[8 * (end - chunk) : 8 * end])
        last = digest.digest()
        hashes.append(last)
    return hashes


def _unpack(blocks: torch.Tensor, piece: _Piece) -> torch.Tensor:
    """One layer's keys or values out of blocks (count x bytes), as 1 x heads x tokens x size on the layer's device, in memory of their own."""
    count = blocks.shape[0]
    heads, chunk, size = piece.shape
    part = blocks[:, piece.start : piece.start + piece.nbytes].contiguous().view(piece.dtype).view(count, heads, chunk, size)
    return part.permute(1, 0, 2, 3).reshape(1, heads, count * chunk, size).to(piece.device)


def _pack(blocks: torch.Tensor, piece: _Piece, cache: DynamicCache, first: int, count: int, chunk: int) -> None:
    """The reverse, for `count` chunks from chunk `first` on."""
    layer = cache.layers[piece.layer]
    state = (layer.values if piece.is_value else layer.keys)[0]
    heads, _, size = piece.shape
    part = state[:, first * chunk : (first + count) * chunk].reshape(heads, count, chunk, size).permute(1, 0, 2, 3)
    blocks[:, piece.start : piece.start + piece.nbytes].copy_(part.contiguous().view(count, -1).view(torch.uint8))
