"""What every peer driven from Python shares: a line of JSON in, a line of JSON out, and blocks that can be told apart."""

import ctypes
import json
import signal
import sys

import numpy as np


def serve(peer, version, out=sys.stdout):
    """Answers lines until stdin ends. `peer` has a method for each op it knows, called with bytes, count and the set's number; it gives
    seconds. How many blocks may be in flight is in `peer.in_flight`."""
    print(json.dumps({"ready": True, "version": version}), file=out, flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        peer.in_flight = ask["in_flight"]
        try:
            answer = {"seconds": getattr(peer, ask["op"])(ask["bytes"], ask["count"], ask["set"])}
        except Exception as error:  # Whatever a peer throws is told, and the next line is read.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


def end_with_parent():
    """For a child between fork and exec: it is killed when its parent ends, however that ends."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def aligned(size):
    """An array of bytes that begins on a page, every page touched."""
    raw = np.zeros(size + 4096, dtype=np.uint8)
    start = -raw.ctypes.data % 4096
    array = raw[start : start + size]
    array.fill(1)
    return array


def write_blocks(memory, size, count, number):
    """Fills `memory` with noise, and marks both ends of each block with the set's number and its own."""
    noise = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    for i in range(count):
        block = memory[i * size : (i + 1) * size]
        block[:] = noise
        _mark(block, number, i)


def check_blocks(memory, size, count, number):
    """Every byte of the first and last block, and the marks of all."""
    noise = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
    for i in range(count):
        block = memory[i * size : (i + 1) * size]
        if i in (0, count - 1):
            expected = noise.copy()
            _mark(expected, number, i)
            right = np.array_equal(block, expected)
        else:
            expected = np.zeros(16, dtype=np.uint8)
            _mark(expected, number, i)
            right = np.array_equal(block[:8], expected[:8]) and np.array_equal(block[-8:], expected[-8:])
        if not right:
            raise ValueError(f"block {i} of {count} came back wrong")


def _mark(block, number, i):
    mark = np.frombuffer((number << 32 | i).to_bytes(8, "little"), dtype=np.uint8)
    block[:8] = mark
    block[-8:] = mark
