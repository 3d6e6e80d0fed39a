"""Time to first token on a GPU: computed, and loaded from Forebay's DRAM and NVMe into GPU memory, layer by layer while the first layers run.

Needs a CUDA GPU, torch, transformers, Forebay's wheel and its binary, and nothing else:

    pip install forebay-*.whl
    python gpu_ttft.py --forebay ./forebay --dir /mnt/nvme/bench

The model has the shape of Llama-3.1-8B and random weights: time does not depend on them. A block is one layer of 1,024 tokens, keys and then values
(4 MiB), so layers can be fetched in the order in which they run. Blocks land in the client's region, which is registered with the GPU, are
verified there, and are copied from there; the forward pass of the last token waits, layer by layer, for what it needs. What has landed is compared bit
for bit with what was computed, and the logits with those of computing. Without a GPU it says so and ends well; `--device cpu --shape tiny` goes the
same way without one, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BLOCK_TOKENS = 1024
#: The goal: at most this many times what the slowest part would take alone.
GOAL = 1.15
#: A baseline below this share of the GPU's peak flatters whatever stands beside it.
STRONG = 0.40
#: Dense bfloat16 FLOP/s by a part of the GPU's name, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "B200": 2250e12}


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tokens: tuple[int, ...]

    @property
    def head(self) -> int:
        """Numbers of a head."""
        return self.hidden // self.heads

    def kv_bytes(self, tokens: int, layers: int | None = None) -> int:
        """Of keys and values, in 2 bytes each."""
        return 2 * 2 * self.kv_heads * self.head * tokens * (self.layers if layers is None else layers)

    def flops(self, tokens: int) -> float:
        """Of computing a prompt: 2 for each weight and token that is multiplied, and attention over half of all pairs."""
        kv = self.kv_heads * self.head
        weights = self.layers * (2 * self.hidden * self.hidden + 2 * self.hidden * kv + 3 * self.hidden * self.intermediate)
        return 2.0 * weights * tokens + 2.0 * self.layers * self.hidden * tokens**2


SHAPES = {
    "llama-8b": Shape(32, 4096, 14336, 32, 8, 128_256, (8192, 32_768, 65_536, 105_000)),
    "tiny": Shape(4, 128, 256, 4, 2, 1024, (1024, 2500)),
}


class Gpu:
    """What is special to the device. On a CPU copies are made at once and nothing is registered."""

    def __init__(self, device: str) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(device)
        self.is_cuda = self.device.type == "cuda"
        self.copies = torch.cuda.Stream() if self.is_cuda else None

    def wait(self) -> None:
        """Until all that was begun is done."""
        if self.is_cuda:
            self.torch.cuda.synchronize()

    def register(self, tensor: Any) -> None:
        """Lets the GPU read this memory by itself. Raises RuntimeError where it may not."""
        if self.is_cuda:
            code = int(self.torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.numel(), 0))
            if code != 0:
                raise RuntimeError(f"cudaHostRegister of {tensor.numel()} bytes answered {code}; is the limit of locked memory (ulimit -l) too small?")

    def unregister(self, tensor: Any) -> None:
        """Before the memory goes."""
        if self.is_cuda:
            self.torch.cuda.cudart().cudaHostUnregister(tensor.data_ptr())

    def copy(self, pairs: list[tuple[Any, Any]]) -> Any:
        """Begins copies to the device, as (to, from); the event behind them."""
        if self.copies is None:
            for to, of in pairs:
                to.copy_(of)
            return None
        with self.torch.cuda.stream(self.copies):
            for to, of in pairs:
                to.copy_(of, non_blocking=True)
            event = self.torch.cuda.Event()
            event.record()
        return event

    def timed(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds, and the answer."""
        self.wait()
        begun = time.perf_counter()
        answer = run()
        self.wait()
        return time.perf_counter() - begun, answer


class Layer:
    """Keys and values of one layer in memory that is there from the start: 2 x tokens x heads x head size."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory
        #: Set when the event is there, after which the memory is what it should be.
        self.landed = threading.Event()
        self.event: Any = None
        self.failed = False
        self.length = 0


def cache_of(gpu: Gpu, layers: list[Layer], length: int) -> Any:
    """A cache of transformers over these layers, of which so many tokens are there or on their way."""
    from transformers.cache_utils import Cache, CacheLayerMixin

    class Landing(CacheLayerMixin):  # type: ignore[misc, unused-ignore]
        def __init__(self, layer: Layer) -> None:
            super().__init__()
            self._layer, layer.length = layer, length
            self.is_initialized = True

        def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
            pass

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            layer = self._layer
            if layer.length:
                # The engine waits here for this layer, and for no other.
                if not layer.landed.wait(120) or layer.failed:
                    raise RuntimeError("a layer did not land")
                if layer.event is not None:
                    gpu.torch.cuda.current_stream().wait_event(layer.event)
            end = layer.length + key_states.shape[2]
            for number, states in enumerate((key_states, value_states)):
                layer.memory[number, layer.length : end].copy_(states[0].transpose(0, 1))
            layer.length = end
            return tuple(layer.memory[number, :end].transpose(0, 1).unsqueeze(0) for number in range(2))  # type: ignore[return-value]

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self._layer.length + query_length, 0

        def get_seq_length(self) -> int:
            return self._layer.length

        def get_max_length(self) -> int:
            return -1

    return Cache(layers=[Landing(layer) for layer in layers])


class Node:
    """`forebay serve` on a drive in a folder."""

    def __init__(self, binary: str, folder: Path, capacity: int, memory: int) -> None:
        self._command = [binary, "serve", "--data", "drive", "--capacity", f"{capacity}B", "--memory", f"{memory}B", "--socket", "s", "--prewrite"]
        self.folder = folder
        self.address = f"unix:{folder}/s"
        self.start()

    def start(self) -> None:
        """Returns when it serves."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        with open(self.folder / "log", "a") as log:
            self._process = subprocess.Popen(self._command, cwd=self.folder, env=plain, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the node did not start:\n{(self.folder / 'log').read_text()}")

    def end(self) -> None:
        """In order."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(120)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Store:
    """The blocks of one prompt in Forebay, and the way from there to the device."""

    def __init__(self, gpu: Gpu, address: str, shape: Shape, tokens: int, staging_bytes: int) -> None:
        import forebay

        self.gpu, self.shape, self.tokens = gpu, shape, tokens
        self.chunks = [(at, min(at + BLOCK_TOKENS, tokens)) for at in range(0, tokens, BLOCK_TOKENS)]
        self.row_bytes = shape.kv_bytes(BLOCK_TOKENS, layers=1)
        self.rows = max(2 * len(self.chunks), staging_bytes // self.row_bytes)
        self.client = forebay.Client(address, region_bytes=2 * self.rows * self.row_bytes + (64 << 20), deadline_ms=60_000)
        fingerprint = forebay.Fingerprint(model="gpu_ttft", dtype="bfloat16", layout=f"layer, 2 x tokens x {shape.kv_heads} x {shape.head}")
        self.space = self.client.namespace("gpu-ttft", create=True, fingerprint=fingerprint)
        self.region = self.client.region(self.rows * self.row_bytes)
        self.memory = gpu.torch.frombuffer(self.region, dtype=gpu.torch.uint8).view(self.rows, self.row_bytes)
        gpu.register(self.memory)
        self.dram = forebay.Tier.DRAM

    def keys(self, layer: int) -> bytes:
        """Of a layer's blocks."""
        return self.space.keys([f"{self.tokens} {layer} {first}".encode() for first, _ in self.chunks])

    def spans(self, rows: list[int]) -> Any:
        """Places of blocks; the last one of a prompt may be shorter."""
        sizes = [self.shape.kv_bytes(end - first, layers=1) for first, end in self.chunks]
        return [self.region.view(row * self.row_bytes, nbytes) for row, nbytes in zip(rows, sizes, strict=True)]

    def pieces(self, layer: Layer, rows: list[int]) -> list[tuple[Any, Any]]:
        """A layer's places on the device and in the region: keys and values of each block."""
        pairs = []
        for row, (first, end) in zip(rows, self.chunks, strict=True):
            half = self.shape.kv_bytes(end - first, layers=1) // 2
            for number in range(2):
                to = layer.memory[number, first:end].view(self.gpu.torch.uint8).view(-1)
                pairs.append((to, self.memory[row, number * half : (number + 1) * half]))
        return pairs

    def put(self, layers: list[Layer]) -> None:
        """Stores what was computed."""
        rows = list(range(len(self.chunks)))
        for number, layer in enumerate(layers):
            for of, to in self.pieces(layer, rows):
                to.copy_(of)
            self.gpu.wait()
            outcomes = self.space.put(self.keys(number), self.spans(rows), tokens=BLOCK_TOKENS)
            if not all(outcomes):
                raise RuntimeError(f"layer {number} was not stored: {outcomes}")

    def in_dram(self) -> float:
        """The share of all blocks that is in the node's DRAM."""
        tiers = [tier for layer in range(self.shape.layers) for tier in self.space.contains(self.keys(layer))]
        return tiers.count(self.dram) / len(tiers)

    def load(self, layers: list[Layer]) -> None:
        """Lands all layers, the first ones first, as many at a time as there is memory for. Whoever waits for one that fails is told."""
        queue = self.client.queue()
        free = deque(range(self.rows))
        asked: dict[int, tuple[int, list[int]]] = {}
        leaving: deque[tuple[Any, list[int]]] = deque()
        next_layer = done = 0
        try:
            while done < len(layers):
                while next_layer < len(layers) and len(free) >= len(self.chunks):
                    rows = [free.popleft() for _ in self.chunks]
                    ticket = queue.submit_get(self.space, self.keys(next_layer), into=self.spans(rows), deadline_ms=60_000, packed=True)
                    asked[ticket] = (next_layer, rows)
                    next_layer += 1
                if asked and not queue.wait(60_000):
                    raise RuntimeError("the node does not answer")
                for ticket, answer in queue.drain():
                    number, rows = asked.pop(ticket)
                    if not isinstance(answer, bytes) or answer.count(1) != len(rows):
                        raise RuntimeError(f"layer {number} is not whole: {answer!r}")
                    layer = layers[number]
                    layer.event = self.gpu.copy(self.pieces(layer, rows))
                    layer.landed.set()
                    leaving.append((layer.event, rows))
                    done += 1
                while leaving and (next_layer < len(layers) and len(free) < len(self.chunks)):
                    event, rows = leaving.popleft()
                    if event is not None:
                        event.synchronize()
                    free.extend(rows)
        finally:
            for layer in layers:
                if not layer.landed.is_set():
                    layer.failed = True
                    layer.landed.set()

    def close(self) -> None:
        """Gives the memory back."""
        self.gpu.wait()
        self.gpu.unregister(self.memory)


@dataclass
class Result:
    """Of one length: seconds, bytes a second."""

    tokens: int
    kv_bytes: int
    recompute_s: float
    dram_s: float
    nvme_s: float
    one_token_s: float
    pinned_gb_s: float
    drive_gb_s: float
    baseline_share: float | None
    baseline_flop_s: float
    attention: str
    logits_apart: float
    same_token: bool

    def lines(self) -> list[str]:
        """For people."""
        gb = self.kv_bytes / 1e9
        dram = gb / self.pinned_gb_s + self.one_token_s
        nvme = gb / min(self.pinned_gb_s, self.drive_gb_s) + self.one_token_s
        share = "of a peak that is not known here" if self.baseline_share is None else f"{100 * self.baseline_share:.0f} % of peak"
        weak = self.baseline_share is None or self.baseline_share < STRONG
        said = [
            f"{self.tokens:,} tokens, {gb:.2f} GB of KV",
            f"  computed        {self.recompute_s:8.3f} s   {self.baseline_flop_s / 1e12:.1f} TFLOP/s, {share}, {self.attention}{'; weak baseline' if weak else ''}",
        ]
        for name, seconds, limit in (("DRAM", self.dram_s, dram), ("NVMe", self.nvme_s, nvme)):
            verdict = "met" if seconds <= GOAL * limit else "missed"
            said.append(
                f"  from {name}       {seconds:8.3f} s   {self.recompute_s / seconds:.1f} times faster, {gb / seconds:.1f} GB/s into the device; "
                f"limit {limit:.3f} s, {seconds / limit:.2f} of it, goal {GOAL} {verdict}"
            )
        same = "the same token" if self.same_token else "ANOTHER TOKEN"
        said.append(f"  limits: pinned copy {self.pinned_gb_s:.1f} GB/s, drive {self.drive_gb_s:.1f} GB/s, one token {self.one_token_s * 1000:.1f} ms")
        said.append(f"  logits: {self.logits_apart:.2e} apart, {same}; KV bit for bit")
        return said


def make_model(gpu: Gpu, shape: Shape) -> Any:
    """Random weights, made on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch = gpu.torch
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=131_072,
        rope_theta=500_000.0,
        attn_implementation="sdpa",
    )
    torch.manual_seed(3)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(gpu.device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def attention_backend(gpu: Gpu) -> tuple[str, Any]:
    """The fastest kernel of torch's attention that runs here, and what makes it be used."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch = gpu.torch
    if not gpu.is_cuda:
        return "sdpa on the CPU", None
    probe = torch.randn(1, 8, 256, 128, device=gpu.device, dtype=torch.bfloat16)
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel([backend]):
                torch.nn.functional.scaled_dot_product_attention(probe, probe, probe, is_causal=True)
            return f"sdpa, {backend.name.lower()}", [backend, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        except RuntimeError:
            continue
    return "sdpa, math", None


def pinned_gb_s(gpu: Gpu, store: Store) -> float:
    """The best of five copies of the whole region to the device."""
    to = gpu.torch.empty(store.memory.shape, dtype=gpu.torch.uint8, device=gpu.device)
    best = min(gpu.timed(lambda: to.copy_(store.memory, non_blocking=True))[0] for _ in range(5))
    return store.memory.numel() / best / 1e9


def drive_gb_s(path: Path, nbytes: int) -> float:
    """Direct reads of the node's own drive, 4 MiB each, 16 at once. NaN where direct reads are not allowed."""
    import mmap

    piece, threads = 4 << 20, 16
    pieces = max(1, min(nbytes, path.stat().st_size) // piece)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return float("nan")

    def read(worker: int) -> None:
        with mmap.mmap(-1, piece) as memory:
            for at in range(worker, pieces, threads):
                os.preadv(fd, [memory], at * piece)

    begun = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, range(threads)))
    seconds = time.perf_counter() - begun
    os.close(fd)
    return pieces * piece / seconds / 1e9


def measure(gpu: Gpu, model: Any, shape: Shape, node: Node, tokens: int, asked: argparse.Namespace) -> Result:
    """One length."""
    torch = gpu.torch
    ids = torch.randint(3, shape.vocabulary, (1, tokens + 1), generator=torch.Generator().manual_seed(tokens)).to(gpu.device)
    memory = [torch.zeros((2, tokens + 1, shape.kv_heads, shape.head), dtype=torch.bfloat16, device=gpu.device) for _ in range(shape.layers)]

    def layers() -> list[Layer]:
        return [Layer(one) for one in memory]

    def forward(part: Any, cache: Any) -> Any:
        with torch.inference_mode():
            return model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1].float()

    # The prompt and one token more: computed at once, as an engine without a cache does.
    recompute: list[float] = []
    for _ in range(asked.rounds):
        seconds, logits = gpu.timed(lambda: forward(ids, cache_of(gpu, layers(), 0)))
        recompute.append(seconds)
    computed = [one[:, :tokens].clone() for one in memory]

    staging = asked.staging_mib << 20
    store = Store(gpu, node.address, shape, tokens, staging)
    store.put([Layer(one) for one in memory])

    def load() -> tuple[float, Any]:
        for one in memory:
            one.zero_()
        landing = layers()

        def run() -> Any:
            loader = threading.Thread(target=store.load, args=(landing,), daemon=True)
            loader.start()
            answer = forward(ids[:, tokens:], cache_of(gpu, landing, tokens))
            loader.join()
            return answer

        seconds, answer = gpu.timed(run)
        for one, before in zip(memory, computed, strict=True):
            if not torch.equal(one[:, :tokens].view(torch.uint8), before.view(torch.uint8)):
                raise RuntimeError("what has landed is not what was computed")
        return seconds, answer

    nvme: list[float] = []
    for _ in range(asked.rounds):
        store.close()
        del store
        node.end()
        node.start()
        store = Store(gpu, node.address, shape, tokens, staging)
        if store.in_dram() > 0.002:
            raise RuntimeError("blocks are in DRAM right after the node's start")
        nvme.append(load()[0])
    # Read a second time, they are kept in DRAM.
    for _ in range(4):
        load()
        if store.in_dram() > 0.998:
            break
    else:
        raise RuntimeError(f"only {store.in_dram():.1%} of the blocks came to DRAM: is the node's memory too small?")
    dram, answers = zip(*(load() for _ in range(asked.rounds)), strict=True)

    resident = layers()
    for layer in resident:
        layer.landed.set()
    one_token = min(gpu.timed(lambda: forward(ids[:, tokens:], cache_of(gpu, resident, tokens)))[0] for _ in range(3))
    pinned = pinned_gb_s(gpu, store)
    drive = drive_gb_s(node.folder / "drive", shape.kv_bytes(tokens))
    store.close()
    best = sorted(recompute)[len(recompute) // 2]
    flop_s = shape.flops(tokens + 1) / best
    name = torch.cuda.get_device_name(gpu.device) if gpu.is_cuda else ""
    peak = next((flops for part, flops in PEAKS.items() if part in name), None)
    apart = max(float((answer - logits).abs().max()) for answer in answers)
    first, second = (float(top) for top in logits.topk(2).values)
    return Result(
        tokens,
        shape.kv_bytes(tokens),
        best,
        sorted(dram)[len(dram) // 2],
        sorted(nvme)[len(nvme) // 2],
        one_token,
        pinned,
        drive,
        None if peak is None else flop_s / peak,
        flop_s,
        asked.attention,
        apart / float(logits.abs().max()),
        # Two ways to the same number round differently: where the two best are closer than that, either may win.
        first - second <= 2 * apart or all(int(answer.argmax()) == int(logits.argmax()) for answer in answers),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forebay", default=os.environ.get("FOREBAY_BINARY", "forebay"), help="the binary")
    parser.add_argument("--dir", default=None, help="a folder on the drive to be measured; emptied at the end")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="llama-8b", choices=tuple(SHAPES))
    parser.add_argument("--tokens", type=int, nargs="+", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--staging-mib", type=int, default=1024, help="memory registered with the GPU; two layers at least")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout at the end")
    asked = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("skipped: torch is not installed")
        return 0
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("skipped: there is no CUDA GPU here; `--device cpu --shape tiny` goes the same way without one")
        return 0
    gpu, shape = Gpu(asked.device), SHAPES[asked.shape]
    lengths = asked.tokens or list(shape.tokens)
    largest = shape.kv_bytes(max(lengths))
    all_bytes = sum(map(shape.kv_bytes, lengths))
    asked.attention, kernels = attention_backend(gpu)
    model = make_model(gpu, shape)
    results = []
    with tempfile.TemporaryDirectory(prefix="forebay-gpu-", dir=asked.dir) as folder:
        node = Node(asked.forebay, Path(folder), capacity=2 * all_bytes + (1 << 30), memory=largest * 3 // 2 + (512 << 20))
        try:
            for tokens in lengths:
                if kernels is None:
                    result = measure(gpu, model, shape, node, tokens, asked)
                else:
                    from torch.nn.attention import sdpa_kernel

                    with sdpa_kernel(kernels, set_priority=True):
                        result = measure(gpu, model, shape, node, tokens, asked)
                results.append(result)
                print("\n".join(result.lines()), file=sys.stderr if asked.json else sys.stdout, flush=True)
        finally:
            node.end()
    if asked.json:
        print(json.dumps({"shape": asked.shape, "device": asked.device, "results": [asdict(result) for result in results]}))
    return 0 if all(result.same_token for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
