"""What ps needs to know of the machine besides its tasks: clocks, memory, names."""

from __future__ import annotations

import functools
import grp
import os
import pwd
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from taskdiag.client import PROC
from taskdiag.ps.terminal import Terminals
from taskdiag.ps.text import printable

_LONGEST_NAME = 32
_LONGEST_COMMAND_LINE = 131071
_DEFAULT_PID_DIGITS = 5


@dataclass(frozen=True, eq=False)
class Host:
    """One machine at one moment, and its names, each looked up once."""

    ticks_per_second: int
    uptime: int
    """How long the machine is up, in ticks."""
    boot_time: int
    """When it was started, in seconds of the epoch."""
    now: float
    """The moment, in seconds of the epoch."""
    memory: int
    """All memory, in KiB."""
    page: int
    """Bytes of a page."""
    pid_digits: int
    """How long the longest pid can be."""
    terminals: Terminals
    proc: Path = PROC
    _terminals: dict[int, str] = field(default_factory=dict)
    _cgroups: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, proc: Path = PROC) -> Host:
        """Ask the procfs mount ``proc`` and the C library."""
        ticks = os.sysconf("SC_CLK_TCK")
        return cls(
            ticks_per_second=ticks,
            uptime=int(float(_content(proc / "uptime").split()[0]) * ticks),
            boot_time=_number(_content(proc / "stat"), rb"btime (\d+)"),
            now=time.time(),
            memory=_number(_content(proc / "meminfo"), rb"MemTotal: +(\d+) kB"),
            page=os.sysconf("SC_PAGESIZE"),
            pid_digits=_pid_digits(proc),
            terminals=Terminals(_content(proc / "tty" / "drivers", missing=b"")),
            proc=proc,
        )

    def terminal(self, number: int) -> str:
        """Return the name of a terminal, ``?`` if there is none."""
        if number not in self._terminals:
            self._terminals[number] = self.terminals.name(number)
        return self._terminals[number]

    def long_name(self, pid: int) -> bytes | None:
        """Return a kernel thread's name in full: more than its comm holds, or than is written there."""
        content = _content(self.proc / str(pid) / "comm", missing=b"")
        return content.removesuffix(b"\n") or None

    def command_line(self, pid: int) -> bytes | None:
        """Return the command line of a process, as far as ps reads it: for kernels without the group CMDLINE."""
        content = _content(self.proc / str(pid) / "cmdline", missing=b"", limit=_LONGEST_COMMAND_LINE)
        return content or None

    def cgroup(self, pid: int, number: int) -> str:
        """Return the path of the cgroup ``number``, by asking about ``pid``, a task in it."""
        if not self._one_hierarchy:
            return self._read_cgroup(pid)
        if number not in self._cgroups:
            self._cgroups[number] = self._read_cgroup(pid)
        return self._cgroups[number]

    @functools.cached_property
    def _one_hierarchy(self) -> bool:
        # With hierarchies of version 1 too, the id does not tell the whole of a task's cgroups.
        return _content(self.proc / "self" / "cgroup", missing=b"").count(b"\n") == 1

    def _read_cgroup(self, pid: int) -> str:
        lines = _content(self.proc / str(pid) / "cgroup", missing=b"").split(b"\n")
        return ",".join(printable(line) for line in lines if line and not line.endswith(b"/")) or "-"


@functools.cache
def user(uid: int) -> str:
    """Return the name of a user, or the number."""
    try:
        return _name(pwd.getpwuid(uid).pw_name, uid)
    except KeyError:
        return str(uid)


@functools.cache
def group(gid: int) -> str:
    """Return the name of a group, or the number."""
    try:
        return _name(grp.getgrgid(gid).gr_name, gid)
    except KeyError:
        return str(gid)


def _name(name: str, number: int) -> str:
    raw = os.fsencode(name)
    return printable(raw) if len(raw) <= _LONGEST_NAME else str(number)


def _content(path: Path, *, missing: bytes | None = None, limit: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError:
        if missing is None:
            raise
        return missing


def _number(text: bytes, pattern: bytes) -> int:
    found = re.search(rb"^" + pattern, text, re.MULTILINE)
    if found is None:
        raise ValueError(f"procfs has no line {pattern.decode()}: it is not that of a Linux machine")
    return int(found[1])


def _pid_digits(proc: Path) -> int:
    longest = _content(proc / "sys" / "kernel" / "pid_max", missing=b"").strip()
    return len(longest) or _DEFAULT_PID_DIGITS
