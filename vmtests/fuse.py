"""A file whose server reads and answers what it likes: FUSE, by its protocol."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from vmtests import syscalls
from vmtests.credentials import fork

# linux/fuse.h
_GETATTR, _OPEN, _READ, _WRITE, _RELEASE, _FLUSH, _INIT, _FORGET = 3, 14, 15, 16, 18, 25, 26, 2
_MODE = 0o100666
_WRITE_MOST = 4096


class FuseFile:
    """A file of ``size`` bytes ``x`` at ``path``, which exists; whoever writes waits until release().

    So does whoever reads, unless the server ``answers``. The server is a process of its own.
    """

    def __init__(self, path: Path, size: int, *, answers: bool = True) -> None:
        """Mount nothing yet."""
        self.path, self._size, self._answers = path, size, answers
        self._released = False
        self._held: list[tuple[int, bytes]] = []
        self._device = self._told = self._tell = -1
        self._server = 0

    def __enter__(self) -> Self:
        self._told, self._tell = os.pipe()
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            syscalls.mount_at("fuse", str(self.path), f"fd={self._device},rootmode={_MODE:o},user_id=0,group_id=0")
            self._server = fork(self._serve)
        finally:
            os.close(self._device)
            os.close(self._told)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever waits for an answer gets an error, and the server sees its device go.
        syscalls.umount(str(self.path))
        os.close(self._tell)
        _, status = os.waitpid(self._server, 0)
        assert status == 0, f"the server of {self.path} has failed"

    def release(self) -> None:
        """Answer the writes that wait, and those that come."""
        os.write(self._tell, b"x")

    def _serve(self) -> None:
        os.close(self._tell)
        poll = select.poll()
        for descriptor in (self._device, self._told):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._told in ready:
                poll.unregister(self._told)
                self._released = bool(os.read(self._told, 1))
                while self._released and self._held:
                    self._reply(*self._held.pop())
            if self._device not in ready:
                continue
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
        if wait and not self._released:
            self._held.append((unique, body))
        else:
            self._reply(unique, body)

    def _reply(self, unique: int, body: bytes, *, error: int = 0) -> None:
        # Whoever asked may be gone: then nobody waits for the answer.
        with contextlib.suppress(FileNotFoundError):
            os.write(self._device, struct.pack("=IiQ", 16 + len(body), -error, unique) + body)
