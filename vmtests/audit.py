"""The kernel's audit records, as every program has them that listens (include/uapi/linux/audit.h)."""

from __future__ import annotations

import itertools
import re
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_NETLINK_AUDIT = 9
_READLOG = 1 << 0
"""The group AUDIT_NLGRP_READLOG, as a bit."""
_NLMSG_ERROR, _NLM_F_REQUEST = 2, 1
_USER_AVC = 1107
"""A program's own record, of the one kind that is taken down whether or not system calls are audited."""
AVC = 1400
"""What a security module decided."""

_HEADER = struct.Struct("=IHHII")
_PATIENCE = 30.0
"""Seconds for a record to come."""


@dataclass(frozen=True)
class Record:
    """One record: its kind (AUDIT_...), and its text."""

    kind: int
    text: str

    def field(self, name: str) -> str:
        """Return the value of the field ``name`` without its quotes, empty if there is none."""
        found = re.search(rf'(?:^|\s){name}=(?:"([^"]*)"|(\S*))', self.text)
        return "" if found is None else found[1] or found[2] or ""


class Listener:
    """Hears every record from its making on. Needs CAP_AUDIT_READ and CAP_AUDIT_WRITE in the first user namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_AUDIT)
        self._socket.settimeout(_PATIENCE)
        self._socket.bind((0, _READLOG))
        self._marks = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def heard(self) -> list[Record]:
        """Return the records since the last call, in their order, and none that is still on its way.

        Records travel one behind the other: one of ours shows when all before it have come.
        """
        mark = f"vmtest mark {next(self._marks)}"
        data = mark.encode() + b"\0"
        head = _HEADER.pack(_HEADER.size + len(data), _USER_AVC, _NLM_F_REQUEST, 0, 0)
        self._socket.sendto(head + data, (0, 0))
        records = []
        while mark not in (record := self._receive()).text or record.kind != _USER_AVC:
            records.append(record)
        return records

    def _receive(self) -> Record:
        data = self._socket.recv(65536)
        _, kind, _, _, _ = _HEADER.unpack_from(data)
        if kind == _NLMSG_ERROR:
            (error,) = struct.unpack_from("=i", data, _HEADER.size)
            raise OSError(-error, "the kernel's audit refuses")
        return Record(kind, data[_HEADER.size :].rstrip(b"\0").decode(errors="replace"))
