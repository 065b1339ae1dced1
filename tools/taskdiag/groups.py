"""What each group says of a task, as a typed record; the source of each is what ``/proc/PID`` says, in binary.

A payload may have grown at its end in a later kernel: what is not known here is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from taskdiag import uapi
from taskdiag.errors import WireError
from taskdiag.uapi import Group, Layout, State, VmaFlag

_STATES: dict[int, State] = {int(state): state for state in State}


def state(number: int) -> State | int:
    """Name a state; one that only a later kernel has stays a number."""
    return _STATES.get(number, number)


def text(field: bytes) -> bytes:
    """Return the bytes of a field of fixed size up to its first NUL."""
    return field.partition(b"\0")[0]


def check(layout: Layout, length: int) -> None:
    """Refuse a payload of ``length`` bytes that is too short for its group; a longer one has grown."""
    if length < layout.size:
        raise WireError(f"{layout.name} has {length} bytes, less than {layout.size}")


class Record:
    """A group of one struct: the fields are its members, in their order."""

    __slots__ = ()
    group: ClassVar[Group]
    layout: ClassVar[Layout]

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the payload of an attribute of this group; WireError if it is too short."""
        return cls(*cls._values(payload))

    @classmethod
    def _values(cls, payload: bytes) -> tuple[Any, ...]:
        check(cls.layout, len(payload))
        return cls.layout.struct.unpack_from(payload)


@dataclass(frozen=True, slots=True)
class Base(Record):
    """Group BASE. Process ids are those of the mount's pid namespace, 0 for none there."""

    group: ClassVar[Group] = Group.BASE
    layout: ClassVar[Layout] = uapi.TASK_DIAG_BASE

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
    """At most 15 bytes, without the NUL; any byte but NUL may be in it. Not the long names of kernel threads."""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the payload of an attribute of this group; WireError if it is too short."""
        tgid, pid, ppid, tpid, sid, pgid, number, comm = cls._values(payload)
        return cls(tgid, pid, ppid, tpid, sid, pgid, state(number), text(comm))


@dataclass(frozen=True, slots=True)
class Cred(Record):
    """Group CRED. Ids are those of the opener's user namespace, the overflow id for those that it does not map."""

    group: ClassVar[Group] = Group.CRED
    layout: ClassVar[Layout] = uapi.TASK_DIAG_CRED

    inheritable: int
    """Capability sets, a bit for each: 1 << CAP_x."""
    permitted: int
    effective: int
    bounding: int
    uid: int
    """The real one; so is ``gid``."""
    euid: int
    suid: int
    fsuid: int
    gid: int
    egid: int
    sgid: int
    fsgid: int

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Read the payload of an attribute of this group; WireError if it is too short."""
        values = cls._values(payload)
        sets = (low | high << 32 for low, high in zip(values[:8:2], values[1:8:2], strict=True))
        return cls(*sets, *values[8:])


@dataclass(frozen=True, slots=True)
class VmaStat(Record):
    """Group VMA_STAT: what ``smaps`` says of one area, in bytes."""

    group: ClassVar[Group] = Group.VMA_STAT
    layout: ClassVar[Layout] = uapi.TASK_DIAG_VMA_STAT

    resident: int
    shared_clean: int
    shared_dirty: int
    private_clean: int
    private_dirty: int
    referenced: int
    anonymous: int
    anonymous_thp: int
    swap: int
    pss: int


@dataclass(frozen=True, slots=True)
class Vma:
    """One record of the group VMA: what a line of ``maps`` says of an area of memory."""

    start: int
    end: int
    """The first address behind the area."""
    flags: VmaFlag
    pgoff: int
    """The offset in the file, in bytes."""
    major: int
    minor: int
    inode: int
    generation: int
    name: bytes
    """The last column of ``maps``, unescaped; empty if there is none, or one of more than 4095 bytes."""
    stat: VmaStat | None
    """None if VMA_STAT was not asked for."""


@dataclass(frozen=True, slots=True)
class Stat(Record):
    """Group STAT. Times are in clock ticks (``os.sysconf("SC_CLK_TCK")`` a second); c... is of children waited for.

    Of the whole process, or of one thread with the strategies ALL_THREAD and THREAD, but for c... and ``threads``.
    """

    group: ClassVar[Group] = Group.STAT
    layout: ClassVar[Layout] = uapi.TASK_DIAG_STAT

    minflt: int
    """Page faults."""
    cminflt: int
    majflt: int
    cmajflt: int
    utime: int
    stime: int
    cutime: int
    cstime: int
    threads: int


@dataclass(frozen=True, slots=True)
class Ident(Record):
    """Group IDENT: what tells two tasks apart, even with the same number."""

    group: ClassVar[Group] = Group.IDENT
    layout: ClassVar[Layout] = uapi.TASK_DIAG_IDENT

    start_boottime: int
    """When it started: nanoseconds since boot, in the reader's time namespace."""
    inode: int
    """What ``fstat()`` of a pidfd of the process gives as ``st_ino``."""
    cgroup: int
    """The id of its cgroup in the version 2 hierarchy."""


@dataclass(frozen=True, slots=True)
class Mem(Record):
    """Group MEM, all in bytes, of the process; zero for a task without memory (kernel thread, zombie)."""

    group: ClassVar[Group] = Group.MEM
    layout: ClassVar[Layout] = uapi.TASK_DIAG_MEM

    vsize: int
    rss: int
    shared: int
    text: int
    data: int
    locked: int
    swap: int
    peak_rss: int


@dataclass(frozen=True, slots=True)
class Sched(Record):
    """Group SCHED, of the task itself in every dump, never of the whole process."""

    group: ClassVar[Group] = Group.SCHED
    layout: ClassVar[Layout] = uapi.TASK_DIAG_SCHED

    policy: int
    """``SCHED_x``."""
    nice: int
    priority: int
    """As the 18th field of ``/proc/PID/stat``."""
    rt_priority: int
    processor: int
    nvcsw: int
    """Voluntary context switches."""
    nivcsw: int


@dataclass(frozen=True, slots=True)
class Job(Record):
    """Group JOB."""

    group: ClassVar[Group] = Group.JOB
    layout: ClassVar[Layout] = uapi.TASK_DIAG_JOB

    tty_nr: int
    """The controlling terminal as a device number (``os.major()``, ``os.minor()``), 0 for none."""
    tpgid: int
    """The foreground process group of that terminal, -1 without one."""
    flags: int
    """``PF_x`` of the kernel."""
    exit_signal: int


def vmas(payload: bytes) -> Iterator[Vma]:
    """Give the records of a whole VMA payload, one after another, each when it is asked for."""
    layout, at = uapi.TASK_DIAG_VMA, 0
    while at < len(payload):
        if len(payload) - at < layout.size:
            raise WireError(f"VMA ends inside a record, at byte {at}")
        *fields, length, name_at, name_length, stat_at, stat_length = layout.struct.unpack_from(payload, at)
        if not layout.size <= length <= len(payload) - at:
            raise WireError(f"a VMA record of {length} bytes does not fit, at byte {at}")
        record = payload[at : at + length]
        name = _part(record, name_at, name_length, at)
        stat = VmaStat.decode(_part(record, stat_at, stat_length, at)) if stat_length else None
        start, end, flags, pgoff, major, minor, inode, generation = fields
        yield Vma(start, end, VmaFlag(flags), pgoff, major, minor, inode, generation, name, stat)
        at += length


def _part(record: bytes, offset: int, length: int, at: int) -> bytes:
    if offset + length > len(record):
        raise WireError(f"a part of {length} bytes at {offset} lies outside its VMA record, at byte {at}")
    return record[offset : offset + length]
