"""The quick way through many tasks: chosen members of fixed groups, without an object for each task.

Messages of one shape (the same attributes, of the same lengths) follow one another for most of an answer. Each such
run is checked byte column by byte column and unpacked at once; every other message goes the general way.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from taskdiag import groups, uapi, wire
from taskdiag.client import PROC, Transaction
from taskdiag.uapi import Group, Strategy
from taskdiag.wire import Message, Task

Batch = tuple[Sequence[Any], ...]
"""Some tasks: for each column its values, one for each task, in the same order."""

_FLAGS_AT = uapi.NLMSGHDR.size + 8
_BODY_AT = uapi.NLMSGHDR.size + uapi.TASK_DIAG_MSG.size
# Bytes of the headers that tell a shape: nlmsg_len and nlmsg_type, and task_diag_msg.flags.
_HEADER = (*range(6), *range(_FLAGS_AT, _FLAGS_AT + 4))
_MOST_SHAPES = 256


@dataclass(frozen=True, slots=True)
class _Member:
    """Where one column's value is; without a group: in the message's own header, at that offset."""

    group: Group | None
    offset: int
    code: str


class Columns:
    """Which columns of an answer are wanted, by name.

    A name is a group of fixed layout and a member of it, as its record has them (``base.ppid``, ``cred.euid``,
    ``stat.utime``; not the capabilities), or ``pid`` or ``tgid``, which every task has. A value is an int, or bytes
    (``base.comm``, without the NUL); None where the group may not be read, or was cut. ``base.state`` is a plain
    number. A task that went while it was being told of is left out.
    """

    def __init__(self, *names: str) -> None:
        """Choose the columns; ValueError if there is no such."""
        self.names = names
        self._members = [_member(name) for name in names]
        self._texts = [index for index, member in enumerate(self._members) if member.code.endswith("s")]
        self._shapes: dict[tuple[tuple[int, int], ...], _Shape] = {}
        self.groups = frozenset(member.group for member in self._members if member.group is not None)
        """The groups to ask for."""

    def batches(self, buffers: Iterable[bytes]) -> Iterator[Batch]:
        """Give the tasks of an answer in runs; ``buffers`` are of whole messages, such as each read gives.

        Raises WireError where the bytes stop being that.
        """
        parts: list[Message] = []
        for buffer in buffers:
            at = 0
            while at < len(buffer):
                message, end = wire.decode_one(buffer, at)
                if parts and not wire.continues(parts[-1], message):
                    parts = []
                if parts or message.flags & (uapi.FLAG_CONT | uapi.FLAG_TRUNC):
                    parts.append(message)
                    if not message.flags & uapi.FLAG_CONT:
                        yield self._batch(wire.joined(parts))
                        parts = []
                else:
                    shape = self._shape(message, end - at)
                    count = shape.run(buffer, at)
                    end = at + count * shape.size
                    yield self._clean(shape.columns(buffer[at:end], count))
                at = end

    def rows(self, buffers: Iterable[bytes]) -> Iterator[tuple[Any, ...]]:
        """Give the tasks of an answer one by one, each as a tuple in the order of the names."""
        return chain.from_iterable(zip(*batch, strict=True) for batch in self.batches(buffers))

    def _shape(self, message: Message, size: int) -> _Shape:
        key = tuple((kind, len(payload)) for kind, payload in message.attributes)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            shape = self._shapes[key] = _Shape(self._members, key, size)
        return shape

    def _batch(self, task: Task) -> Batch:
        return self._clean([[_value(member, task)] for member in self._members])

    def _clean(self, columns: list[Sequence[Any]]) -> Batch:
        for index in self._texts:
            columns[index] = [value if value is None else groups.text(value) for value in columns[index]]
        return tuple(columns)


class _Shape:
    """Messages with the same attributes of the same lengths, in the same order."""

    def __init__(self, members: Sequence[_Member], attributes: Iterable[tuple[int, int]], size: int) -> None:
        self.size = size
        self._constant = [*_HEADER]
        payloads: dict[int | None, int] = {None: 0}
        at = _BODY_AT
        for kind, length in attributes:
            self._constant += range(at, at + uapi.NLATTR.size)
            payloads.setdefault(kind, at + uapi.NLATTR.size)
            if kind in uapi.LAYOUTS:
                groups.check(uapi.LAYOUTS[kind], length)
            at += uapi.NLATTR.size - (-length // uapi.ALIGNMENT) * uapi.ALIGNMENT
        there = sorted(
            (payloads[member.group] + member.offset, index)
            for index, member in enumerate(members)
            if member.group in payloads
        )
        self._indexes = [index for _, index in there]
        self._count = len(members)
        code, at = "=", 0
        for offset, index in there:
            code += f"{offset - at}x{members[index].code}"
            at = offset + struct.calcsize("=" + members[index].code)
        self._struct = struct.Struct(f"{code}{size - at}x")

    def run(self, buffer: bytes, at: int) -> int:
        """Count the messages of this shape from the one at ``at`` on."""
        count = (len(buffer) - at) // self.size
        for offset in self._constant:
            column = buffer[at + offset : at + count * self.size : self.size]
            count -= len(column.lstrip(column[:1]))
        return count

    def columns(self, run: bytes, count: int) -> list[Sequence[Any]]:
        """Unpack a run of ``count`` messages into one sequence for each column."""
        columns: list[Sequence[Any]] = [(None,) * count] * self._count
        for index, column in zip(self._indexes, zip(*self._struct.iter_unpack(run), strict=True), strict=True):
            columns[index] = column
        return columns


def rows(
    *names: str, strategy: Strategy = Strategy.ALL, pid: int = 0, start: int = 0, proc: Path | str = PROC
) -> Iterator[tuple[Any, ...]]:
    """Dump the tasks that ``strategy`` names as tuples of the columns ``names``, lazily; errors as ``tasks()``."""
    columns = Columns(*names)
    return columns.rows(Transaction(columns.groups, strategy, pid=pid, start=start, proc=proc).reads())


def _member(name: str) -> _Member:
    if name in ("pid", "tgid"):
        return _Member(None, uapi.NLMSGHDR.size + ("pid", "tgid").index(name) * 4, "I")
    group, _, member = name.partition(".")
    layout = uapi.LAYOUTS.get(Group[group.upper()]) if group.upper() in Group.__members__ else None
    code = layout.members.get(member, "x") if layout else "x"
    if layout is None or code.endswith("x") or code == "2I":
        raise ValueError(f"there is no column {name!r}: it takes pid, tgid, or a group and a member such as base.ppid")
    return _Member(Group[group.upper()], layout.offset(member), code)


def _value(member: _Member, task: Task) -> Any:
    if member.group is None:
        return task.pid if member.offset == uapi.NLMSGHDR.size else task.tgid
    payload = task.payloads.get(member.group)
    if payload is None:
        return None
    groups.check(uapi.LAYOUTS[member.group], len(payload))
    return struct.unpack_from("=" + member.code, payload, member.offset)[0]
