"""Memory that is not there until somebody brings it in; a read(2) that is stopped by it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import threading
from types import TracebackType
from typing import Self

from vmtests import raw, syscalls

# linux/userfaultfd.h
_NEW = 0xAA00
_API, _REGISTER, _ZEROPAGE = 0xC018_AA3F, 0xC020_AA00, 0xC020_AA04
_MODE_MISSING = 1


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
    """A thread that reads into memory whose first touch behind ``good`` bytes waits until release().

    The thread is of the test's own process, since the memory is.
    """

    def __init__(self, fd: int, *, good: int = 0, size: int = 65536) -> None:
        """Prepare to read ``size`` bytes from ``fd``."""
        pages = -(-good // mmap.PAGESIZE)
        held = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, pages * mmap.PAGESIZE + held, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._edge = raw.address_of(self._memory) + pages * mmap.PAGESIZE
        self._held = held
        self._start = self._edge - good
        self._faults = hold_faults(self._edge, held)
        self._released = False
        self._result: bytes | OSError | None = None
        self._thread = threading.Thread(target=self._read, args=(fd, size))

    def __enter__(self) -> Self:
        """Start the read; return when it waits on the memory."""
        self._thread.start()
        try:
            while not select.select([self._faults], [], [], 1.0)[0]:
                assert self._thread.is_alive(), f"read() ended without touching the buffer: {self._result!r}"
        except BaseException:
            # Whatever the read waits for, nobody else will let it go on.
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        self._thread.join()
        os.close(self._faults)

    def release(self) -> None:
        """Let the read go on."""
        if not self._released:
            self._released = True
            fcntl.ioctl(self._faults, _ZEROPAGE, struct.pack("=4Q", self._edge, self._held, 0, 0))

    def result(self) -> bytes:
        """Wait for the end of the read; return what it gave, or raise its error."""
        self._thread.join()
        if isinstance(self._result, OSError):
            raise self._result
        assert self._result is not None
        return self._result

    def _read(self, fd: int, size: int) -> None:
        try:
            count = syscalls.read(fd, self._start, size)
            self._result = ctypes.string_at(self._start, count)
        except OSError as error:
            self._result = error
