"""Memory that is not there until somebody brings it in; a read(2) that is stopped by it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Self

from vmtests import raw, syscalls
from vmtests.credentials import fork, report

# linux/userfaultfd.h
_NEW = 0xAA00
_API, _REGISTER, _ZEROPAGE = 0xC018_AA3F, 0xC020_AA00, 0xC020_AA04
_MODE_MISSING = 1

_RANGE = struct.Struct("=2Q")  # where memory begins that is held, and its size


def hold_faults(address: int, size: int) -> int:
    """Let the first touch of memory of the caller's wait for what never comes; return the descriptor it waits on."""
    device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    try:
        faults = fcntl.ioctl(device, _NEW, os.O_CLOEXEC)
    finally:
        os.close(device)
    fcntl.ioctl(faults, _API, struct.pack("=3Q", 0xAA, 0, 0))
    fcntl.ioctl(faults, _REGISTER, struct.pack("=4Q", address, size, _MODE_MISSING, 0))
    return faults


class HeldRead:
    """A process that reads into memory whose first touch behind ``good`` bytes waits until release()."""

    def __init__(self, fd: int, *, good: int = 0, size: int = 65536) -> None:
        """Prepare to read ``size`` bytes from ``fd``."""
        self._fd, self._good, self._size = fd, good, size
        self._released = False
        self._reader = self._faults = -1
        self._range = (0, 0)
        self._pipe: Connection
        self._outcome: tuple[bool, object] | None = None

    def __enter__(self) -> Self:
        """Start the read; return when it waits on the memory."""
        ours, theirs = socket.socketpair()
        self._pipe, told = Pipe(duplex=False)
        self._reader = fork(lambda: self._read(theirs, told))
        theirs.close()
        told.close()
        with ours:
            where, (self._faults,), _, _ = socket.recv_fds(ours, _RANGE.size, 1)
        self._range = _RANGE.unpack(where)
        if select.select([self._faults, self._pipe.fileno()], [], [])[0] != [self._faults]:
            self.__exit__(None, None, None)
            raise AssertionError(f"read() ended without touching the buffer: {self._outcome!r}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.release()
                self._end()
        finally:
            os.kill(self._reader, signal.SIGKILL)
            os.waitpid(self._reader, 0)
            os.close(self._faults)
            self._pipe.close()

    def release(self) -> None:
        """Let the read go on."""
        if not self._released:
            self._released = True
            fcntl.ioctl(self._faults, _ZEROPAGE, struct.pack("=4Q", *self._range, 0, 0))

    def result(self) -> bytes:
        """Wait for the end of the read; return what it gave, or raise its error."""
        self._end()
        assert self._outcome is not None
        good, found = self._outcome
        if isinstance(found, BaseException):
            raise found
        assert good and isinstance(found, bytes)
        return found

    def _end(self) -> None:
        if self._outcome is None:
            self._outcome = self._pipe.recv()

    def _read(self, end: socket.socket, told: Connection) -> None:
        pages = -(-self._good // mmap.PAGESIZE)
        held = -(-self._size // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE + held, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        edge = raw.address_of(memory) + pages * mmap.PAGESIZE
        socket.send_fds(end, [_RANGE.pack(edge, held)], [hold_faults(edge, held)])
        start = edge - self._good
        report(told, lambda: ctypes.string_at(start, syscalls.read(self._fd, start, self._size)))
