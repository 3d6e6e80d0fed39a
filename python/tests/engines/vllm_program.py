"""One life of a vLLM engine on CPU, run by the tests in a process of its own: prompts in, tokens and counts out, as one line of JSON.

`--kill-during-load PID` stops that node before the engine's first load is asked for, so that the load is surely under way, and then kills it.
`--then-slow` teaches the engine after its first turn that a load takes 0.1 s a block, and has requests wait 250 ms for theirs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import shutil
import threading
import time
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
if "FOREBAY_LAST_PATH" in os.environ:
    # Packages that another environment has and this one lacks: looked for behind all of this one's own.
    sys.path.append(os.environ["FOREBAY_LAST_PATH"])

from support import LENGTHS, PATIENCE_S, clear, stop_process
import msgspec
import zmq
from vllm import LLM, SamplingParams
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import BlockStored, KVEventBatch, ZmqEventPublisher
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.inputs import TokensPrompt

import forebay


def prompts(vocabulary: int) -> list[list[int]]:
    """Tokens that are the same in every life."""
    import random

    chance = random.Random(5)
    many = [[chance.randrange(3, vocabulary) for _ in range(length)] for length in LENGTHS]
    many[2][:512] = many[1][:512]
    return many


def kill_during_load(pid: int) -> None:
    """See the module."""
    from forebay.integrations.vllm.worker import WorkerHalf

    begin = WorkerHalf.start_loads

    def start_loads(self: WorkerHalf, moves: list[Any]) -> None:
        if moves:
            WorkerHalf.start_loads = begin
            stop_process(pid)
            # While the engine waits for it.
            threading.Timer(0.1, os.kill, (pid, signal.SIGKILL)).start()
        begin(self, moves)

    WorkerHalf.start_loads = start_loads


def ours(connector: Any) -> Any:
    """The adapter, also where vLLM has put it beside others."""
    several = getattr(connector, "sub_connectors", None)
    return connector if several is None else next(each for each in several if type(each).__name__ == "ForebayConnector")


def teach_slow(half: Any) -> None:
    """Loads of up to 8 blocks take 0.1 s a block, as far as the engine knows."""
    for blocks in range(1, 9):
        for _ in range(60):
            for tiers in ((blocks, 0), (0, blocks)):
                half._learn(tiers, 0.1 * blocks, 0.0)


def zero_loads(tier: Any) -> None:
    """What the tier loads from now on is zeroed behind its verification."""
    finish = tier._finish

    def zeroed(transfer: Any, done: bytes) -> None:
        if transfer.is_load:
            with memoryview(tier._region) as memory:
                for chunk in transfer.job.chunk_ids:
                    at = int(chunk) * tier._stride
                    memory[at : at + tier._stride] = bytes(tier._stride)
        finish(transfer, done)

    tier._finish = zeroed


def replayed(endpoint: str) -> list[tuple[int, Any]]:
    """What vLLM's publisher of KV events has sent so far, with its numbers: what a router asks for when it sees a gap."""
    # Its answer to one question is many messages.
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(endpoint)
    socket.send_multipart((b"", (0).to_bytes(8, "big")))
    batches = []
    while socket.poll(1000 * PATIENCE_S):
        _, _, number, payload = socket.recv_multipart()
        if number == ZmqEventPublisher.END_SEQ:
            return batches
        batches.append((int.from_bytes(number, "big"), msgspec.msgpack.decode(payload, type=KVEventBatch)))
    raise TimeoutError("no answer of the publisher's")


def wait_for_blocks(address: str, blocks: int) -> None:
    """Until so many are stored: what an engine puts is put beside its steps."""
    client = forebay.Client(address, deadline_ms=60_000)
    until = time.monotonic() + PATIENCE_S
    while sum(space["put"]["stored"] for space in client.node_stats()["namespaces"]) < blocks:
        assert time.monotonic() < until, client.node_stats()["namespaces"]
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--transfer", default=None, help="kv_transfer_config, as JSON")
    parser.add_argument("--kill-during-load", type=int, default=None)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--tp", type=int, default=1, help="ranks")
    parser.add_argument("--events", default=None, help="a folder for the sockets of vLLM's publisher of KV events")
    parser.add_argument("--then-slow", action="store_true")
    parser.add_argument("--then-reset", action="store_true", help="all caches are reset before the last turn, as after an update of the weights")
    parser.add_argument("--then-empty", default=None, help="a folder that is empty from the second turn on")
    parser.add_argument("--then-zeroes", action="store_true", help="what the tier loads from the second turn on is zeroed, and its CPU tier is empty")
    parser.add_argument("--then-stored", nargs=2, default=None, metavar=("ADDRESS", "BLOCKS"), help="blocks that the node has before the second turn")
    asked = parser.parse_args()
    if asked.kill_during_load:
        kill_during_load(asked.kill_during_load)
    llm = LLM(
        model=asked.model,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=4,
        tensor_parallel_size=asked.tp,
        kv_transfer_config=json.loads(asked.transfer) if asked.transfer else None,
        disable_log_stats=True,
        kv_events_config=KVEventsConfig(
            enable_kv_cache_events=True, publisher="zmq", endpoint=f"ipc://{asked.events}/events", replay_endpoint=f"ipc://{asked.events}/replay"
        )
        if asked.events
        else None,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=8, detokenize=False, ignore_eos=True)
    core = llm.llm_engine.engine_core
    connector = getattr(getattr(core, "engine_core", None), "scheduler", None)
    connector = ours(getattr(connector, "connector", None))
    half = getattr(connector, "_scheduler", None)
    offloading = getattr(connector, "connector_scheduler", None)
    (tier,) = offloading.manager.secondary_tiers if offloading is not None else (None,)
    result: dict[str, Any] = {"tokens": [], "cached": [], "loaded": []}
    for turn in range(asked.turns):
        if turn == 1:
            if asked.then_zeroes:
                clear(tier, lambda: llm.reset_prefix_cache(reset_connector=True))
                zero_loads(tier)
            if asked.then_slow:
                teach_slow(half)
                sampling.extra_args = {"kv_transfer_params": {"forebay": {"deadline_ms": 250}}}
            if asked.then_empty:
                shutil.rmtree(asked.then_empty)
                os.mkdir(asked.then_empty)
            if asked.then_stored:
                wait_for_blocks(asked.then_stored[0], int(asked.then_stored[1]))
        if asked.then_reset and turn == asked.turns - 1:
            llm.reset_prefix_cache(reset_connector=True)
        outputs = llm.generate([TokensPrompt(prompt_token_ids=tokens) for tokens in prompts(2048)], sampling, use_tqdm=False)
        result["tokens"].append([list(output.outputs[0].token_ids) for output in outputs])
        result["cached"].append([output.num_cached_tokens for output in outputs])
        result["loaded"].append(half._report.counts["loaded"] if half is not None else None)
        llm.reset_prefix_cache()
    if asked.events:
        batches = replayed(f"ipc://{asked.events}/replay")
        stored = [event for _, batch in batches for event in batch.events if isinstance(event, BlockStored)]
        of = {is_ours: [name for event in stored if (event.medium == "FOREBAY") == is_ours for name in event.block_hashes] for is_ours in (True, False)}
        result["events"] = {"numbers": [number for number, _ in batches], "stored": len(of[True]), "unknown": len(set(of[True]) - set(of[False]))}
    worker = getattr(ours(kv_transfer_state._KV_CONNECTOR_AGENT), "_worker", None)
    llm.llm_engine.engine_core.shutdown()
    if worker is not None and half is not None:
        # What was still under way after the last step.
        half._report.add(**worker._said.outcomes)
    if tier is not None:
        result["tier"] = tier._report.counts
    if half is not None:
        result["counts"] = half._report.counts
        result["line"] = half._report.line()
        result["reasons"] = half._report.reasons
    sys.stdout.write("RESULT " + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
