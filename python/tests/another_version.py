"""A node of a version that no build of today understands: it answers each greeting as docs/wire-format.md has it, and ends the connection."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

HEADER_BYTES = 32
#: What such a node would say.
TEXT = "the peer speaks no version of the protocol from 7 to 8"
_ERROR, _VERSION = 3, 2


def crc64(data: bytes) -> int:
    """CRC-64/NVME."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x9A6C9329AC4BC9B5 if crc & 1 else 0)
    return crc ^ (1 << 64) - 1


def error_frame(code: int, text: str, request: int = 0) -> bytes:
    """`Error`, as a frame."""
    said = text.encode()
    body = struct.pack("<HH", code, len(said)) + said
    head = struct.pack("<2sBBIIIQ", b"FB", _ERROR, 0, len(body), request, 0, crc64(body))
    return head + struct.pack("<Q", crc64(head)) + body


class NodeOfAnotherVersion:
    """Listens on a socket in `folder` until it is closed."""

    def __init__(self, folder: Path) -> None:
        path = folder / "another-version.sock"
        self.address = f"unix:{path}"
        #: Greetings that were answered.
        self.greeted = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                head = _read(peer, HEADER_BYTES)
                if len(head) == HEADER_BYTES:
                    # To its end: what is left unread breaks the connection before the answer is taken.
                    _read(peer, struct.unpack_from("<I", head, 4)[0])
                    self.greeted += 1
                    peer.sendall(error_frame(_VERSION, TEXT))

    def __enter__(self) -> NodeOfAnotherVersion:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would leave the thread in its wait.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _read(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data
