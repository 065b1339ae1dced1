"""The columns of ps, by their names, as procps-ng has them: headings, widths, values and what they are sorted by."""

from __future__ import annotations

import enum
import locale
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from taskdiag.ps import host
from taskdiag.ps.process import Process
from taskdiag.uapi import Group

_BASE = frozenset({Group.BASE})
_CRED = frozenset({Group.CRED})
_STAT = frozenset({Group.STAT})
_IDENT = frozenset({Group.IDENT})
_MEM = frozenset({Group.MEM})
_SCHED = frozenset({Group.SCHED})
_JOB = frozenset({Group.JOB})
_NAME = _BASE | _JOB
_DAY = 86400
_NICED = (0, 3)
"""The policies to which a nice value matters: SCHED_OTHER, SCHED_BATCH."""
_POLICIES = ("TS", "FF", "RR", "B", "ISO", "IDL", "DLN", "#7", "#8", "#9")


class Fit(enum.Enum):
    """How a value fits its column."""

    RIGHT = enum.auto()
    LEFT = enum.auto()
    NAME = enum.auto()
    """On the left; a name that is too long ends with a ``+``."""
    CUT = enum.auto()
    """On the left, and cut; with the rest of the line if it is the last column."""


@dataclass(frozen=True)
class Column:
    """One column: ``value`` gives its text, ``key`` what it is sorted by."""

    heading: str
    width: int
    fit: Fit
    groups: frozenset[Group]
    value: Callable[[Process], str]
    key: Callable[[Process], Any]
    number: Callable[[Process], int] | None = None
    """What stands for a NAME that cannot be shortened."""
    pid: bool = False
    """Whether it is as wide as the machine's longest pid."""
    tree: bool = False
    """Whether it shows the forest."""


def _number(heading: str, width: int, path: str, *, pid: bool = False) -> Column:
    """Give the column of a member of a group, such as ``base.ppid``."""
    number = attrgetter(path)
    groups = frozenset({Group[path.partition(".")[0].upper()]})
    return Column(heading, width, Fit.RIGHT, groups, lambda process: str(number(process)), number, pid=pid)


def _pid(heading: str, path: str) -> Column:
    return _number(heading, 5, path, pid=True)


def _owner(heading: str, path: str, lookup: Callable[[int], str]) -> Column:
    number = attrgetter(path)

    def name(process: Process) -> str:
        return lookup(number(process))

    return Column(heading, 8, Fit.NAME, _CRED, name, lambda process: locale.strxfrm(name(process)), number)


def _user(heading: str, path: str) -> Column:
    return _owner(heading, path, host.user)


def _group(heading: str, path: str) -> Column:
    return _owner(heading, path, host.group)


def _clock(seconds: int, *, hours: bool) -> str:
    """Return ``[days-]hours:minutes:seconds``; the hours only if there are any or ``hours``."""
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    day, hour = divmod(hour, 24)
    shown = f"{hour:02}:" if day or hour or hours else ""
    return f"{f'{day}-' if day else ''}{shown}{minute:02}:{second:02}"


def _started(process: Process) -> str:
    """Return the time of a start today, the day of one this year, or the year."""
    start, now = time.localtime(process.start_time), time.localtime(int(process.host.now))
    if start.tm_year != now.tm_year:
        return time.strftime("%Y", start)
    return time.strftime("%H:%M" if start.tm_yday == now.tm_yday else "%b%d", start)


def _started_long(process: Process) -> str:
    text = time.ctime(process.start_time)
    if process.start_time + _DAY > int(process.host.now):
        return text[11:19]
    return f"  {text[4:10].replace('  ', ' 0')}"


def _started_short(process: Process) -> str:
    text = time.ctime(process.start_time)
    return text[4:10] if int(process.host.now) - process.start_time > _DAY else text[10:16]


def _percent(process: Process) -> str:
    parts = process.usage(1000)
    return str(parts // 10) if parts > 999 else f"{parts // 10}.{parts % 10}"


def _memory_percent(process: Process) -> str:
    return f"{process.memory_share // 10:2}.{process.memory_share % 10}"


def _nice(process: Process) -> str:
    return str(process.sched.nice) if process.sched.policy in _NICED else "-"


def _rt_priority(process: Process) -> str:
    return str(process.sched.rt_priority) if process.sched.policy else "-"


def _policy(process: Process) -> str:
    policy = process.sched.policy
    return _POLICIES[policy] if 0 <= policy < len(_POLICIES) else "?"


def _natural(text: str) -> list[tuple[str, int]]:
    """Return a key that sorts by the numbers in ``text`` as numbers."""
    return [(rest, int(number or -1)) for rest, number in re.findall(r"(\D*)(\d*)", text)]


def _sum(heading: str, width: int, groups: frozenset[Group], number: Callable[[Process], int]) -> Column:
    """Give the column of a number that is worked out."""
    return Column(heading, width, Fit.RIGHT, groups, lambda process: str(number(process)), number)


def _time(heading: str, width: int, value: Callable[[Process], str]) -> Column:
    return Column(heading, width, Fit.RIGHT, _STAT, value, attrgetter("ticks"))


def _start(heading: str, width: int, value: Callable[[Process], str]) -> Column:
    return Column(heading, width, Fit.RIGHT, _IDENT, value, attrgetter("started"))


def _elapsed(width: int, value: Callable[[Process], str]) -> Column:
    return Column("ELAPSED", width, Fit.RIGHT, _IDENT, value, attrgetter("age"))


def _usage(heading: str, width: int, value: Callable[[Process], str]) -> Column:
    return Column(heading, width, Fit.RIGHT, _STAT | _IDENT, value, attrgetter("utilization"))


def _sched(heading: str, width: int, fit: Fit, value: Callable[[Process], str], key: str) -> Column:
    return Column(heading, width, fit, _SCHED, value, attrgetter(f"sched.{key}"))


def _terminal(heading: str) -> Column:
    return Column(heading, 8, Fit.LEFT, _JOB, attrgetter("terminal"), lambda process: _natural(process.terminal))


def _state(heading: str) -> Column:
    return Column(heading, 1, Fit.LEFT, _BASE, attrgetter("letter"), attrgetter("letter"))


def _text(heading: str, width: int, groups: frozenset[Group], path: str, *, tree: bool = False) -> Column:
    value = attrgetter(path)
    return Column(heading, width, Fit.CUT, groups, value, lambda process: locale.strxfrm(value(process)), tree=tree)


def _command(heading: str) -> Column:
    return _text(heading, 27, _NAME | {Group.CMDLINE}, "command", tree=True)


def _comm(heading: str) -> Column:
    return _text(heading, 15, _NAME, "name", tree=True)


def _memory_percentage() -> Column:
    return Column("%MEM", 4, Fit.RIGHT, _MEM, _memory_percent, attrgetter("mem.rss"))


COLUMNS: dict[str, Column] = {
    "pid": _pid("PID", "base.tgid"),
    "tgid": _pid("TGID", "base.tgid"),
    "ppid": _pid("PPID", "base.ppid"),
    "pgid": _pid("PGID", "base.pgid"),
    "pgrp": _pid("PGRP", "base.pgid"),
    "sid": _pid("SID", "base.sid"),
    "sess": _pid("SESS", "base.sid"),
    "session": _pid("SESS", "base.sid"),
    "tpgid": _pid("TPGID", "job.tpgid"),
    "tid": _pid("TID", "base.pid"),
    "lwp": _pid("LWP", "base.pid"),
    "spid": _pid("SPID", "base.pid"),
    "nlwp": _sum("NLWP", 4, _STAT, attrgetter("threads")),
    "thcount": _sum("THCNT", 5, _STAT, attrgetter("threads")),
    "uid": _number("UID", 5, "cred.euid"),
    "euid": _number("EUID", 5, "cred.euid"),
    "ruid": _number("RUID", 5, "cred.uid"),
    "suid": _number("SUID", 5, "cred.suid"),
    "fsuid": _number("FSUID", 5, "cred.fsuid"),
    "gid": _number("GID", 5, "cred.egid"),
    "egid": _number("EGID", 5, "cred.egid"),
    "rgid": _number("RGID", 5, "cred.gid"),
    "sgid": _number("SGID", 5, "cred.sgid"),
    "fsgid": _number("FSGID", 5, "cred.fsgid"),
    "user": _user("USER", "cred.euid"),
    "uname": _user("USER", "cred.euid"),
    "euser": _user("EUSER", "cred.euid"),
    "ruser": _user("RUSER", "cred.uid"),
    "suser": _user("SUSER", "cred.suid"),
    "fsuser": _user("FSUSER", "cred.fsuid"),
    "group": _group("GROUP", "cred.egid"),
    "egroup": _group("EGROUP", "cred.egid"),
    "rgroup": _group("RGROUP", "cred.gid"),
    "sgroup": _group("SGROUP", "cred.sgid"),
    "fsgroup": _group("FSGROUP", "cred.fsgid"),
    "comm": _comm("COMMAND"),
    "ucomm": _comm("COMMAND"),
    "ucmd": _comm("CMD"),
    "args": _command("COMMAND"),
    "command": _command("COMMAND"),
    "cmd": _command("CMD"),
    "s": _state("S"),
    "state": _state("S"),
    "stat": Column(
        "STAT",
        4,
        Fit.LEFT,
        _BASE | _SCHED | _MEM | _STAT | _JOB,
        attrgetter("flagged_state"),
        attrgetter("letter"),
    ),
    "tty": _terminal("TT"),
    "tt": _terminal("TT"),
    "tname": _terminal("TTY"),
    "time": _time("TIME", 8, lambda process: _clock(process.seconds, hours=True)),
    "cputime": _time("TIME", 8, lambda process: _clock(process.seconds, hours=True)),
    "times": _time("TIME", 8, lambda process: str(process.seconds)),
    "cputimes": _time("TIME", 8, lambda process: str(process.seconds)),
    "bsdtime": _time("TIME", 6, lambda process: f"{process.seconds // 60:3}:{process.seconds % 60:02}"),
    "etime": _elapsed(11, lambda process: _clock(process.elapsed, hours=False)),
    "etimes": _elapsed(7, lambda process: str(process.elapsed)),
    "start_time": _start("START", 5, _started),
    "stime": _start("STIME", 5, _started),
    "start": _start("STARTED", 8, _started_long),
    "lstart": _start("STARTED", 24, lambda process: time.ctime(process.start_time)),
    "bsdstart": _start("START", 6, _started_short),
    "pcpu": _usage("%CPU", 4, _percent),
    "%cpu": _usage("%CPU", 4, _percent),
    "c": _usage("C", 2, lambda process: f"{min(process.usage(100), 99):2}"),
    "pmem": _memory_percentage(),
    "%mem": _memory_percentage(),
    "vsz": _sum("VSZ", 6, _MEM, lambda process: process.mem.vsize // 1024),
    "vsize": _sum("VSZ", 6, _MEM, lambda process: process.mem.vsize // 1024),
    "sz": _sum("SZ", 5, _MEM, lambda process: process.mem.vsize // process.host.page),
    "rss": _sum("RSS", 5, _MEM, lambda process: process.mem.rss // 1024),
    "rssize": _sum("RSS", 5, _MEM, lambda process: process.mem.rss // 1024),
    "rsz": _sum("RSZ", 5, _MEM, lambda process: process.mem.rss // 1024),
    "nice": _sched("NI", 3, Fit.RIGHT, _nice, "nice"),
    "ni": _sched("NI", 3, Fit.RIGHT, _nice, "nice"),
    "pri": _sched("PRI", 3, Fit.RIGHT, lambda process: str(39 - process.sched.priority), "priority"),
    "opri": _sched("PRI", 3, Fit.RIGHT, lambda process: str(60 + process.sched.priority), "priority"),
    "priority": _number("PRI", 3, "sched.priority"),
    "rtprio": _sched("RTPRIO", 6, Fit.RIGHT, _rt_priority, "rt_priority"),
    "cls": _sched("CLS", 3, Fit.RIGHT, _policy, "policy"),
    "class": _sched("CLS", 3, Fit.LEFT, _policy, "policy"),
    "policy": _sched("POL", 3, Fit.LEFT, _policy, "policy"),
    "sched": _number("SCH", 3, "sched.policy"),
    "psr": _number("PSR", 3, "sched.processor"),
    "maj_flt": _number("MAJFL", 6, "stat.majflt"),
    "majflt": _number("MAJFLT", 6, "stat.majflt"),
    "min_flt": _number("MINFL", 6, "stat.minflt"),
    "minflt": _number("MINFLT", 6, "stat.minflt"),
    "f": Column("F", 1, Fit.RIGHT, _JOB, lambda process: f"{process.job.flags >> 6 & 7:o}", attrgetter("job.flags")),
    "cgroup": _text("CGROUP", 27, _BASE | _IDENT, "cgroup"),
    # The rest are no columns of procps.
    "cgroupid": _number("CGROUPID", 8, "ident.cgroup"),
    "inode": _number("INODE", 10, "ident.inode"),
}
"""By the name that ``-o`` and ``--sort`` take."""
