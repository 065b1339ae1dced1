"""A file whose server reads and answers what it likes: FUSE, by its protocol."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from vmtests import syscalls

# linux/fuse.h
_GETATTR, _OPEN, _READ, _WRITE, _RELEASE, _FLUSH, _INIT, _FORGET = 3, 14, 15, 16, 18, 25, 26, 2
_MODE = 0o100666
_WRITE_MOST = 4096


class FuseFile:
    """A file of ``size`` bytes ``x`` at ``path``, which exists; whoever writes waits until release().

    So does whoever reads, unless the server ``answers``. Processes of the test's own must not touch memory that is
    mapped from it: the server is a thread of theirs.
    """

    def __init__(self, path: Path, size: int, *, answers: bool = True) -> None:
        """Mount nothing yet."""
        self.path, self._size, self._answers = path, size, answers
        self._released = threading.Event()
        self._held: list[tuple[int, bytes]] = []
        self._device = -1
        self._server = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        syscalls.mount_at("fuse", str(self.path), f"fd={self._device},rootmode={_MODE:o},user_id=0,group_id=0")
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever waits for an answer gets an error, and the server sees its device go.
        syscalls.umount(str(self.path))
        self._server.join()
        os.close(self._device)

    def release(self) -> None:
        """Answer the writes that wait, and those that come."""
        self._released.set()
        while self._held:
            self._reply(*self._held.pop())

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, _WRITE_MOST + 4096)
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return
                if error.errno == errno.ENOENT:
                    continue
                raise
            _, opcode, unique, *_ = struct.unpack_from("=IIQQIIIHH", request)
            self._answer(opcode, unique, request[40:])

    def _answer(self, opcode: int, unique: int, body: bytes) -> None:
        if opcode == _INIT:
            self._reply(unique, struct.pack("=IIIIHHIIHHIIH22x", 7, 31, 4096, 0, 16, 12, _WRITE_MOST, 1, 0, 0, 0, 0, 0))
        elif opcode == _GETATTR:
            attributes = struct.pack("=6Q10I", 1, self._size, 1, 0, 0, 0, 0, 0, 0, _MODE, 1, 0, 0, 0, 4096, 0)
            self._reply(unique, struct.pack("=QII", 1000, 0, 0) + attributes)
        elif opcode == _OPEN:
            self._reply(unique, struct.pack("=QIi", 1, 0, 0))
        elif opcode == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            self._reply_late(unique, b"x" * max(0, min(size, self._size - offset)), wait=not self._answers)
        elif opcode == _WRITE:
            _, _, size = struct.unpack_from("=QQI", body)
            self._reply_late(unique, struct.pack("=II", size, 0), wait=True)
        elif opcode in (_FLUSH, _RELEASE):
            self._reply(unique, b"")
        elif opcode != _FORGET:
            self._reply(unique, b"", error=errno.ENOSYS)

    def _reply_late(self, unique: int, body: bytes, *, wait: bool) -> None:
        if wait and not self._released.is_set():
            self._held.append((unique, body))
            # Nobody looks at it again if release() came between the two.
            if not self._released.is_set():
                return
            self._held.remove((unique, body))
        self._reply(unique, body)

    def _reply(self, unique: int, body: bytes, *, error: int = 0) -> None:
        # Whoever asked may be gone: then nobody waits for the answer.
        with contextlib.suppress(FileNotFoundError):
            os.write(self._device, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)
