"""Somebody between an engine and its node on TCP, who changes bits: run by the tests in a process of its own.

    flips.py NODE_PORT

Prints the port it listens on. A line on stdin says what becomes of what the node says from then on: `pass`; `payload`, one bit in each piece of more
than 4 KiB, so that questions are answered and blocks are wrong; `all`, one bit in each piece of either direction.
"""

from __future__ import annotations

import random
import socket
import sys
import threading

PIECE = 64 << 10
#: What answers to questions do not reach and blocks do.
PAYLOAD_MIN = 4096


class Flips:
    """See the module."""

    def __init__(self, node_port: int) -> None:
        self.mode = "pass"
        self._node_port = node_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        # Seeded: which bits are flipped is the same in each run, as far as the pieces are.
        self._chance = random.Random(11)

    def serve(self) -> None:
        """Until the process ends."""
        while True:
            engine, _ = self._listener.accept()
            try:
                node = socket.create_connection(("127.0.0.1", self._node_port))
            except OSError:
                engine.close()
                continue
            for end in (engine, node):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((engine, node, False), (node, engine, True)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket, is_node: bool) -> None:
        piece = bytearray(PIECE)
        try:
            while count := source.recv_into(piece):
                if self.mode == "all" or (self.mode == "payload" and is_node and count > PAYLOAD_MIN):
                    piece[self._chance.randrange(count)] ^= 1 << self._chance.randrange(8)
                to.sendall(memoryview(piece)[:count])
        except OSError:
            pass
        for end in (source, to):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main() -> None:
    flips = Flips(int(sys.argv[1]))
    threading.Thread(target=flips.serve, daemon=True).start()
    print(flips.port, flush=True)
    for line in sys.stdin:
        flips.mode = line.strip()
        print("done", flush=True)


if __name__ == "__main__":
    main()
