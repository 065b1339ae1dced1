"""Messages between two processes of a guest, over a socket: what execnet can write, each with its length."""

from __future__ import annotations

import socket
from typing import Any

import execnet

_LENGTH = 4  # bytes


class Wire:
    """One end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: object) -> None:
        """Send one message."""
        data = execnet.dumps(message)
        self._end.sendall(len(data).to_bytes(_LENGTH, "big") + data)

    def receive(self) -> Any:
        """Wait for one message; EOFError if none comes any more."""
        return execnet.loads(self._read(int.from_bytes(self._read(_LENGTH), "big")))

    def finish(self) -> None:
        """Nothing more is sent."""
        self._end.shutdown(socket.SHUT_WR)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._end.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)
