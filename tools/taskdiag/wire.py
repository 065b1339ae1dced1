"""The stream's encoding, apart from any file: bytes in, typed records out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

from taskdiag import groups, uapi
from taskdiag.errors import WireError
from taskdiag.groups import Base, Cred, Ident, Job, Mem, Record, Sched, Stat, Vma
from taskdiag.uapi import Group, Strategy

_R = TypeVar("_R", bound=Record)

_SWAPPED_CMD_GET = int.from_bytes(uapi.CMD_GET.to_bytes(2, "little"), "big")


_PIECE = 65536


class Readable(Protocol):
    """A binary file as far as it is needed here."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


class Message(NamedTuple):
    """One netlink message, as it came.

    ``attributes`` are ``(type, payload)`` in the stream's order; a type may come more than once.
    """

    seq: int
    pid: int
    tgid: int
    flags: int
    attributes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Task:
    """All that one dump says about one task, joined from its messages.

    A group that is None was not asked for, or may not be read, or (``complete`` says that) did not come any more.
    Groups are decoded when they are asked for, and raise WireError if they cannot be.
    """

    pid: int
    tgid: int
    flags: int
    """``FLAG_x`` of all its messages together, without CONT."""
    complete: bool
    """False if more was announced (CONT) and never came: the task had gone."""
    payloads: dict[int, bytes]
    """By attribute type; known types and unknown ones alike. An absent group was refused, comes with the leader only,
    or is in ``cut``.
    """
    cut: frozenset[int] = frozenset()
    """The types of which not all could be had: a command line that is too long, a group that cannot be read while the
    task calls execve(), or one that may not be read any more. Of groups of a fixed layout there is then nothing, of the
    others their beginning.
    """

    @cached_property
    def base(self) -> Base | None:
        """Group BASE."""
        return self._record(Base)

    @cached_property
    def cred(self) -> Cred | None:
        """Group CRED."""
        return self._record(Cred)

    @cached_property
    def vmas(self) -> tuple[Vma, ...] | None:
        """Group VMA, with VMA_STAT inside; empty for a task without memory. Of threads only the leader has it."""
        payload = self.payloads.get(Group.VMA)
        return None if payload is None else tuple(groups.vmas(payload))

    @cached_property
    def stat(self) -> Stat | None:
        """Group STAT."""
        return self._record(Stat)

    @property
    def cmdline(self) -> bytes | None:
        """Group CMDLINE: the bytes of ``/proc/PID/cmdline``, at most 65528; empty for kernel threads and zombies.

        Of threads only the leader has it. If it is ``cmdline_cut`` this is its beginning, which may be empty.
        """
        return self.payloads.get(Group.CMDLINE)

    @property
    def cmdline_cut(self) -> bool:
        """Whether ``cmdline`` is not all of it: it was too long, or could not be read (to its end) at that moment.

        In the second case, shorter than CMDLINE_MAX bytes, ``retry_command_lines()`` asks for it again.
        """
        return Group.CMDLINE in self.cut

    @cached_property
    def ident(self) -> Ident | None:
        """Group IDENT."""
        return self._record(Ident)

    @cached_property
    def mem(self) -> Mem | None:
        """Group MEM. Of threads only the leader has it."""
        return self._record(Mem)

    @cached_property
    def sched(self) -> Sched | None:
        """Group SCHED."""
        return self._record(Sched)

    @cached_property
    def job(self) -> Job | None:
        """Group JOB."""
        return self._record(Job)

    def _record(self, kind: type[_R]) -> _R | None:
        payload = self.payloads.get(kind.group)
        return None if payload is None else kind.decode(payload)


def encode_request(
    groups: Collection[Group] = (Group.BASE,),
    strategy: Strategy = Strategy.ALL,
    *,
    pid: int = 0,
    start: int = 0,
    seq: int = 0,
) -> bytes:
    """Return the 40 bytes of a request for ``groups`` of the tasks that ``strategy`` names, from ``start`` on."""
    body = uapi.TASK_DIAG_PID.pack(sum(group.show_flag for group in set(groups)), strategy, pid, start)
    flags = uapi.NLM_F_REQUEST | (0 if strategy is Strategy.ONE else uapi.NLM_F_DUMP)
    length = uapi.NLMSGHDR.size + len(body)
    return uapi.NLMSGHDR.pack(length, uapi.CMD_GET, flags, seq, 0) + body


def decode(buffer: bytes, start: int = 0) -> Iterator[Message]:
    """Give the messages of what one ``read()`` returned, each when it is asked for.

    Raises WireError where the bytes stop being whole messages of task_diag; ``start`` is where the buffer is
    in the stream, for that sentence.
    """
    at = 0
    while at < len(buffer):
        message, at = decode_one(buffer, at, start)
        yield message


def decode_one(buffer: bytes, at: int, start: int = 0) -> tuple[Message, int]:
    """Return the message at ``at``, and where the next one is; errors as ``decode()``."""
    header, message = uapi.NLMSGHDR, uapi.TASK_DIAG_MSG
    length, seq = _header(buffer, at, start)
    if length > len(buffer) - at:
        raise WireError(f"the stream ends inside a message of {length} bytes, at byte {start + at}")
    pid, tgid, flags = message.unpack_from(buffer, at + header.size)
    attributes = tuple(_attributes(buffer, at + header.size + message.size, at + length, start))
    return Message(seq, pid, tgid, flags, attributes), at + length


def decode_file(file: Readable) -> Iterator[Message]:
    """Give the messages of a recorded stream, with no more than one of them in memory.

    The recording is the bytes that the reads of one or more answers returned, and nothing else.
    """
    start = 0
    while header := _read(file, uapi.NLMSGHDR.size):
        length, _ = _header(header, 0, start)
        yield from decode(header + _read(file, length - len(header)), start)
        start += length


def join(messages: Iterable[Message]) -> Iterator[Task]:
    """Make one task of each run of messages that CONT ties together.

    Lazy: a task is given as soon as its last message is there, and no other is kept.
    """
    parts: list[Message] = []
    for message in messages:
        if parts and not continues(parts[-1], message):
            yield joined(parts)
            parts = []
        parts.append(message)
        if not message.flags & uapi.FLAG_CONT:
            yield joined(parts)
            parts = []
    if parts:
        yield joined(parts)


def continues(part: Message, message: Message) -> bool:
    """Tell whether ``message`` is of the same task as the ``part`` before it, which announced more."""
    return (part.pid, part.tgid) == (message.pid, message.tgid)


def joined(parts: list[Message]) -> Task:
    """Make one task of all its messages."""
    first, flags = parts[0], 0
    payloads = dict(first.attributes) if len(parts) == 1 else {}
    if len(payloads) < len(first.attributes) or len(parts) > 1:
        pieces: dict[int, list[bytes]] = {}
        for part in parts:
            for kind, payload in part.attributes:
                pieces.setdefault(kind, []).append(payload)
        payloads = {kind: b"".join(payload) for kind, payload in pieces.items()}
    cut = set()
    for part in parts:
        flags |= part.flags
        if part.flags & uapi.FLAG_TRUNC and part.attributes:
            kind, _ = part.attributes[-1]
            cut.add(kind)
            if kind in uapi.LAYOUTS:
                payloads.pop(kind, None)
    return Task(
        pid=first.pid,
        tgid=first.tgid,
        flags=flags & ~uapi.FLAG_CONT,
        complete=not parts[-1].flags & uapi.FLAG_CONT,
        payloads=payloads,
        cut=frozenset(cut),
    )


def _header(buffer: bytes, at: int, start: int) -> tuple[int, int]:
    """Return the length and the sequence number of a message; what is no header of one is refused."""
    if len(buffer) - at < uapi.NLMSGHDR.size:
        raise WireError(f"the stream ends inside a message header, at byte {start + at}")
    length, kind, _, seq, _ = uapi.NLMSGHDR.unpack_from(buffer, at)
    if kind == _SWAPPED_CMD_GET:
        raise WireError("the stream is of a machine of the other byte order: decode it on one like that")
    if kind != uapi.CMD_GET:
        raise WireError(f"message type {kind:#x} instead of {uapi.CMD_GET:#x}, at byte {start + at}")
    if length < uapi.NLMSGHDR.size + uapi.TASK_DIAG_MSG.size or length % uapi.ALIGNMENT:
        raise WireError(f"a message cannot have {length} bytes, at byte {start + at}")
    return length, seq


def _attributes(buffer: bytes, at: int, end: int, start: int) -> Iterator[tuple[int, bytes]]:
    header = uapi.NLATTR
    while at < end:
        if end - at < header.size:
            raise WireError(f"a message ends inside an attribute header, at byte {start + at}")
        length, kind = header.unpack_from(buffer, at)
        if not header.size <= length <= end - at:
            raise WireError(f"an attribute of {length} bytes does not fit its message, at byte {start + at}")
        yield kind, bytes(buffer[at + header.size : at + length])
        at += -(-length // uapi.ALIGNMENT) * uapi.ALIGNMENT


def _read(file: Readable, size: int) -> bytes:
    """Read ``size`` bytes, or fewer at the end; a pipe gives them in pieces."""
    pieces = []
    # In pieces from a file too: a broken length is not to ask for memory that the file cannot fill.
    while size and (piece := file.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
