"""One line of ps: a task, and what is worked out from what task_diag says of it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from taskdiag.groups import Base, Cred, Ident, Job, Mem, Sched, Stat
from taskdiag.ps.host import Host
from taskdiag.ps.text import printable
from taskdiag.uapi import Group, State
from taskdiag.wire import Task

_WORKER = 0x0000_0020
_KERNEL_THREAD = 0x0020_0000
_COMM_BYTES = 15
_SPACED = bytes.maketrans(b"\0\n", b"  ")

_NO_MEMORY = Mem(*[0] * 8)

_G = TypeVar("_G")

OF_LEADERS = frozenset({Group.MEM, Group.CMDLINE})
"""The groups that of a process' threads only the leader has."""


@dataclass(frozen=True, eq=False)
class Process:
    """A process, or a thread of it with what it has from its ``leader``."""

    task: Task
    leader: Task
    host: Host

    @property
    def base(self) -> Base:
        """Group BASE."""
        return _there(self.task.base)

    @property
    def cred(self) -> Cred:
        """Group CRED."""
        return _there(self.task.cred)

    @property
    def stat(self) -> Stat:
        """Group STAT."""
        return _there(self.task.stat)

    @property
    def ident(self) -> Ident:
        """Group IDENT."""
        return _there(self.task.ident)

    @property
    def sched(self) -> Sched:
        """Group SCHED."""
        return _there(self.task.sched)

    @property
    def job(self) -> Job:
        """Group JOB."""
        return _there(self.task.job)

    @property
    def mem(self) -> Mem:
        """Group MEM; zero where an execve() hid it."""
        if Group.MEM in self.leader.cut:
            return _NO_MEMORY
        return _there(self.leader.mem)

    @property
    def letter(self) -> str:
        """The state as one letter, ``?`` for one that only a later kernel has."""
        return self.base.state.letter if isinstance(self.base.state, State) else "?"

    @property
    def flagged_state(self) -> str:
        """The state, and what STAT says more: ``<`` ``N`` niced, ``L`` locked pages, ``s`` leads a session,
        ``l`` threads, ``+`` in the foreground.
        """
        marks = (
            (self.sched.nice < 0, "<"),
            (self.sched.nice > 0, "N"),
            (self.mem.locked > 0, "L"),
            (self.base.sid == self.base.tgid, "s"),
            (self.threads > 1, "l"),
            (self.base.pgid == self.job.tpgid, "+"),
        )
        return self.letter + "".join(letter for so, letter in marks if so)

    @property
    def threads(self) -> int:
        """How many threads the process has; one that is about to be gone has no number of them any more."""
        return max(self.stat.threads, 1)

    @property
    def ticks(self) -> int:
        """The processor time it used, in ticks."""
        return self.stat.utime + self.stat.stime

    @property
    def seconds(self) -> int:
        """The processor time it used, in whole seconds."""
        return self.ticks // self.host.ticks_per_second

    @property
    def started(self) -> int:
        """When it started, in ticks since boot."""
        return self.ident.start_boottime * self.host.ticks_per_second // 1_000_000_000

    @property
    def start_time(self) -> int:
        """When it started, in seconds of the epoch."""
        return self.host.boot_time + self.started // self.host.ticks_per_second

    @property
    def age(self) -> int:
        """How long ago it started, in ticks."""
        return max(self.host.uptime - self.started, 0)

    @property
    def elapsed(self) -> int:
        """How long ago it started, in whole seconds."""
        return self.age // self.host.ticks_per_second

    def usage(self, parts: int) -> int:
        """Return the processor time over its age, in whole parts of ``parts``."""
        # As ps reckons: it turns the age into seconds and back, and floats lose a tick where they do.
        age = int(self.age / self.host.ticks_per_second * self.host.ticks_per_second)
        return self.ticks * parts // age if age else 0

    @property
    def utilization(self) -> float:
        """The same in percent, as ps sorts by it: reckoned with single precision."""
        return _single(_single(self.ticks) * 100) / self.age if self.age else 0.0

    @property
    def memory_share(self) -> int:
        """Its resident memory in thousandths of all memory, 999 at most."""
        return min(self.mem.rss // 1024 * 1000 // self.host.memory, 999)

    @property
    def terminal(self) -> str:
        """Its controlling terminal."""
        return self.host.terminal(self.job.tty_nr)

    @property
    def cgroup(self) -> str:
        """Its cgroup, as a line of ``/proc/PID/cgroup``; ``-`` in the root of the hierarchy."""
        return self.host.cgroup(self.base.pid, self.ident.cgroup)

    @cached_property
    def name(self) -> str:
        """The name of the task; that of a kernel thread in full."""
        raw = self.base.comm
        kernel = self.job.flags & _KERNEL_THREAD
        if kernel and (self.job.flags & _WORKER or len(raw) == _COMM_BYTES):
            # task_diag has the comm of a kernel thread. That it has a longer name, and what a worker works at
            # is written there too, is known to /proc/PID/comm only.
            raw = self.host.long_name(self.base.pid) or raw
        return printable(raw)

    @cached_property
    def command(self) -> str:
        """The command line of the process with spaces between its words; without one, the name in brackets."""
        raw = self.leader.cmdline
        # One that was cut, and still is after asking again, is shown as far as it came: opening the file could mean to
        # wait for the lock of a process, which is what the kernel cut it for.
        if raw is None:
            raw = self.host.command_line(self.leader.pid)
        if not raw:
            return f"[{self.name}]{' <defunct>' if self.letter == 'Z' else ''}"
        words = raw.rstrip(b"\0")
        line = words.translate(_SPACED)
        if len(words) == len(raw):
            line = line.removesuffix(b" ")
        return printable(line) or "?"


def _there(group: _G | None) -> _G:
    """Return a group that was asked for and came: a task without one of those is no Process."""
    if group is None:
        raise ValueError("a group that no column asks for was looked at")
    return group


def _single(number: float) -> float:
    """Round to single precision."""
    single = struct.Struct("f")
    return float(single.unpack(single.pack(number))[0])
