"""Requests built field by field, and reads and writes that hide nothing.

The numbers are the contract's, written again here: a slip in the client's cannot hide itself.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from vmtests import syscalls

BARE = 16 + 12
"""Bytes of a message without attributes."""
BASE = BARE + 4 + 44
"""Bytes of a message with the group BASE."""

SIZES = {0: 44, 1: 64, 4: 72, 6: 24, 7: 64, 8: 40, 9: 16}
"""The payload size of each group of fixed layout, by group number."""

CMDLINE, MEM = 5, 7
CMDLINE_MAX = 65528
"""The most bytes of CMDLINE, the group without a fixed size."""
SHOW_BASE = 1
SHOW_FIXED = sum(1 << group for group in SIZES)
"""All groups of fixed layout."""
SHOW_ALL = SHOW_FIXED | 1 << CMDLINE
KINDS = sorted([*SIZES, CMDLINE])
"""The types of all groups, in the order of a message."""
ALL, ONE, ALL_THREAD, CHILDREN, THREAD = range(5)
CONT, TRUNC = 1, 2
"""Flags of a message."""

_POISON = b"\xa5"
_GUARD = 64


@dataclass(frozen=True)
class Request:
    """One request; every field can be wrong. The default asks for BASE of all processes."""

    length: int | None = None
    """``nlmsg_len``; None for the truth."""
    kind: int = 0xD101
    flags: int = 0x301
    seq: int = 0
    port: int = 0
    """``nlmsg_pid``."""
    show: int = SHOW_BASE
    strategy: int = ALL
    pid: int = 0
    start: int = 0
    tail: bytes = b""

    def __bytes__(self) -> bytes:
        length = 40 + len(self.tail) if self.length is None else self.length
        return (
            struct.pack("=IHHII", length, self.kind, self.flags, self.seq, self.port)
            + struct.pack("=QQII", self.show, self.strategy, self.pid, self.start)
            + self.tail
        )


@dataclass(frozen=True)
class Answer:
    """One message of an answer, all its bytes accounted for."""

    kind: int
    flags: int
    seq: int
    port: int
    pid: int
    tgid: int
    task_flags: int
    attributes: bytes


def ask(fd: int, request: Request | bytes) -> int:
    """Write ``request`` with one ``write(2)``; return what that returned."""
    data = bytes(request)
    memory = ctypes.create_string_buffer(data, max(len(data), 1))
    return syscalls.write(fd, ctypes.addressof(memory), len(data))


def read(fd: int, size: int) -> bytes:
    """Read once, into poisoned memory; what lies behind the buffer has to be untouched."""
    memory = ctypes.create_string_buffer(_POISON * (size + _GUARD), size + _GUARD)
    count = syscalls.read(fd, ctypes.addressof(memory), size)
    assert count <= size
    assert memory.raw[size:] == _POISON * _GUARD, "read() wrote behind the buffer"
    return memory.raw[:count]


def drain(fd: int, size: int = 65536) -> list[bytes]:
    """Read to the end; return what each read gave, without the empty last one."""
    answers = []
    while answer := read(fd, size):
        answers.append(answer)
    return answers


def answers(stream: bytes) -> Iterator[Answer]:
    """Cut a stream into its messages; anything but whole messages fails the test."""
    while stream:
        assert len(stream) >= BARE, f"{len(stream)} bytes at the end of a stream"
        length, kind, flags, seq, port, pid, tgid, task_flags = struct.unpack_from("=IHHIIIII", stream)
        assert BARE <= length <= len(stream), f"a message of {length} bytes in {len(stream)}"
        yield Answer(kind, flags, seq, port, pid, tgid, task_flags, stream[BARE:length])
        stream = stream[length:]


def attributes(answer: Answer) -> Iterator[tuple[int, bytes]]:
    """Cut a message into the types and payloads of its attributes; anything but whole ones fails the test."""
    left = answer.attributes
    while left:
        assert len(left) >= 4, f"{len(left)} bytes at the end of a message"
        length, kind = struct.unpack_from("=HH", left)
        assert 4 <= length <= len(left), f"an attribute of {length} bytes in {len(left)}"
        yield kind, left[4:length]
        end = -(-length // 4) * 4
        assert not any(left[length:end]), "padding that was not written"
        left = left[end:]


def size_of(*groups: int) -> int:
    """Return the bytes of a message with these groups."""
    return BARE + sum(4 + SIZES[group] for group in groups)


def pids(stream: bytes) -> list[int]:
    """Return the pid of each message of a stream."""
    return [answer.pid for answer in answers(stream)]


def address_of(memory: mmap.mmap) -> int:
    """Return where ``memory`` is mapped, for as long as it lives."""
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))


class FaultingBuffer:
    """Memory of which only the first ``good`` bytes can be written; an access behind them faults."""

    def __init__(self, good: int) -> None:
        pages = -(-good // mmap.PAGESIZE)
        self._memory = mmap.mmap(-1, (pages + 16) * mmap.PAGESIZE)
        start = address_of(self._memory)
        edge = start + pages * mmap.PAGESIZE
        syscalls.mprotect_none(edge, 16 * mmap.PAGESIZE)
        self.address = edge - good
        self._good = good

    def read(self, fd: int, size: int) -> bytes:
        """Read once into this memory, which starts ``good`` bytes before the end of what can be written."""
        count = syscalls.read(fd, self.address, size)
        assert count <= self._good, "read() returned bytes that it cannot have copied"
        return ctypes.string_at(self.address, count)
