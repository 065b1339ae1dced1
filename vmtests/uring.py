"""An io_uring of one request: work that the kernel does for a process in the middle of another call."""

from __future__ import annotations

import ctypes
import mmap
import select
import struct

from vmtests import syscalls

# linux/io_uring.h: struct io_uring_params is ten u32, then the offsets of the two rings, ten u32 each.
_PARAMETERS = struct.Struct("=10I 10I 10I")
_SQES = 0x1000_0000
_POLL_ADD = 6


class Poll:
    """A wait for ``fd`` to become readable, which ends as task work of the process that began it."""

    def __init__(self, fd: int) -> None:
        """Begin to wait."""
        parameters = ctypes.create_string_buffer(_PARAMETERS.size)
        self._ring = syscalls.io_uring_setup(1, parameters)
        words = _PARAMETERS.unpack(parameters.raw)
        submission, completion = words[10:20], words[20:30]
        _, tail, mask, _, _, _, array = submission[:7]
        # head, tail, ring_mask, ring_entries, overflow, cqes
        self._done, cqes = completion[1], completion[5]
        # Both rings, with their arrays behind them.
        self._memory = mmap.mmap(self._ring, max(array + words[0] * 4, cqes + words[1] * 16))
        requests = mmap.mmap(self._ring, 64, offset=_SQES)
        # struct io_uring_sqe: opcode, flags, ioprio, fd, off, addr, len, poll32_events, user_data
        requests[:40] = struct.pack("=BBHiQQIIQ", _POLL_ADD, 0, 0, fd, 0, 0, 0, select.POLLIN, 1)
        index = self._word(tail) & self._word(mask)
        struct.pack_into("=I", self._memory, array + 4 * index, 0)
        struct.pack_into("=I", self._memory, tail, self._word(tail) + 1)
        syscalls.io_uring_submit(self._ring, 1)

    def done(self) -> bool:
        """Return whether the wait has ended, without a system call."""
        return self._word(self._done) > 0

    def _word(self, offset: int) -> int:
        (word,) = struct.unpack_from("=I", self._memory, offset)
        return int(word)
