"""The stream's encoding, apart from any file: bytes in, typed records out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from taskdiag import uapi
from taskdiag.uapi import Group, State, Strategy

_STATES = frozenset(State)


class WireError(ValueError):
    """The bytes are no task_diag stream; the sentence says what is wrong with them, and where."""


@dataclass(frozen=True)
class Message:
    """One netlink message, as it came.

    ``attributes`` are ``(type, payload)`` in the stream's order; a type may come more than once.
    """

    seq: int
    pid: int
    tgid: int
    flags: int
    attributes: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class Base:
    """Group BASE. Process ids are those of the mount's pid namespace, 0 for none there."""

    tgid: int
    pid: int
    ppid: int
    tpid: int
    """The tracer."""
    sid: int
    pgid: int
    state: State | int
    """A plain number if a later kernel has a state that this client does not know."""
    comm: bytes
    """At most 15 bytes, without the NUL; any byte but NUL may be in it."""

    @classmethod
    def decode(cls, payload: bytes) -> Base:
        """Read the payload of a BASE attribute; what a later kernel added at its end is ignored."""
        if len(payload) < uapi.TASK_DIAG_BASE.size:
            raise WireError(f"BASE has {len(payload)} bytes, less than {uapi.TASK_DIAG_BASE.size}")
        tgid, pid, ppid, tpid, sid, pgid, number, comm, _ = uapi.TASK_DIAG_BASE.unpack_from(payload)
        state = State(number) if number in _STATES else number
        return cls(tgid, pid, ppid, tpid, sid, pgid, state, comm.partition(b"\0")[0])


@dataclass(frozen=True)
class Task:
    """All that one dump says about one task, joined from its messages."""

    pid: int
    tgid: int
    flags: int
    """``FLAG_x`` of all its messages together, without CONT."""
    complete: bool
    """False if more was announced (CONT) and never came: the task had gone."""
    payloads: dict[int, bytes]
    """By attribute type; known types and unknown ones alike. An absent group was refused."""

    @cached_property
    def base(self) -> Base | None:
        """Group BASE, or None if it was not asked for or may not be read."""
        payload = self.payloads.get(Group.BASE)
        return None if payload is None else Base.decode(payload)


def encode_request(
    groups: Collection[Group] = (Group.BASE,),
    strategy: Strategy = Strategy.ALL,
    *,
    pid: int = 0,
    seq: int = 0,
) -> bytes:
    """Return the 40 bytes of a request for ``groups`` of the tasks that ``strategy`` names."""
    body = uapi.TASK_DIAG_PID.pack(sum(group.show_flag for group in set(groups)), strategy, pid, 0)
    flags = uapi.NLM_F_REQUEST | (0 if strategy is Strategy.ONE else uapi.NLM_F_DUMP)
    length = uapi.NLMSGHDR.size + len(body)
    return uapi.NLMSGHDR.pack(length, uapi.CMD_GET, flags, seq, 0) + body


def decode(buffer: bytes) -> Iterator[Message]:
    """Give the messages of what one ``read()`` returned, each when it is asked for.

    Raises WireError where the bytes stop being whole messages of task_diag.
    """
    header, message = uapi.NLMSGHDR, uapi.TASK_DIAG_MSG
    at = 0
    while at < len(buffer):
        if len(buffer) - at < header.size:
            raise WireError(f"the stream ends inside a message header, at byte {at}")
        length, kind, _, seq, _ = header.unpack_from(buffer, at)
        if kind != uapi.CMD_GET:
            raise WireError(f"message type {kind:#x} instead of {uapi.CMD_GET:#x}, at byte {at}")
        if length < header.size + message.size or length % uapi.ALIGNMENT:
            raise WireError(f"a message cannot have {length} bytes, at byte {at}")
        if length > len(buffer) - at:
            raise WireError(f"the stream ends inside a message of {length} bytes, at byte {at}")
        pid, tgid, flags = message.unpack_from(buffer, at + header.size)
        attributes = _attributes(buffer, at + header.size + message.size, at + length)
        yield Message(seq, pid, tgid, flags, tuple(attributes))
        at += length


def join(messages: Iterable[Message]) -> Iterator[Task]:
    """Make one task of each run of messages that CONT ties together.

    Lazy: a task is given as soon as its last message is there.
    """
    parts: list[Message] = []
    for message in messages:
        if parts and (parts[0].pid, parts[0].tgid) != (message.pid, message.tgid):
            yield _task(parts)
            parts = []
        parts.append(message)
        if not message.flags & uapi.FLAG_CONT:
            yield _task(parts)
            parts = []
    if parts:
        yield _task(parts)


def _attributes(buffer: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    header = uapi.NLATTR
    while at < end:
        if end - at < header.size:
            raise WireError(f"a message ends inside an attribute header, at byte {at}")
        length, kind = header.unpack_from(buffer, at)
        if not header.size <= length <= end - at:
            raise WireError(f"an attribute of {length} bytes does not fit its message, at byte {at}")
        yield kind, bytes(buffer[at + header.size : at + length])
        at += -(-length // uapi.ALIGNMENT) * uapi.ALIGNMENT


def _task(parts: list[Message]) -> Task:
    payloads: dict[int, bytes] = {}
    flags = 0
    for part in parts:
        flags |= part.flags
        for kind, payload in part.attributes:
            payloads[kind] = payloads.get(kind, b"") + payload
    return Task(
        pid=parts[0].pid,
        tgid=parts[0].tgid,
        flags=flags & ~uapi.FLAG_CONT,
        complete=not parts[-1].flags & uapi.FLAG_CONT,
        payloads=payloads,
    )
