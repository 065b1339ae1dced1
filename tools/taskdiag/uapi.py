"""What ``include/uapi/linux/task_diag.h`` and ``linux/netlink.h`` say, as Python.

All numbers are in the byte order of the machine whose kernel wrote them, which is taken to be this one, and packed:
the kernel aligns to 4 bytes only, 64-bit fields too.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping

CMD_GET = 0xD101
"""``nlmsg_type`` of requests and answers."""

NLM_F_REQUEST = 0x001
NLM_F_MULTI = 0x002
NLM_F_DUMP = 0x300

FLAG_CONT = 1
"""``task_diag_msg.flags``: more of this task is to come."""
FLAG_TRUNC = 2
"""``task_diag_msg.flags``: the last attribute of this message is cut short."""

ALIGNMENT = 4
COMM_LEN = 16
CMDLINE_MAX = 65528
"""The most bytes of a command line that are given."""

NLMSGHDR = struct.Struct("=IHHII")
"""``struct nlmsghdr``: len, type, flags, seq, pid."""
NLATTR = struct.Struct("=HH")
"""``struct nlattr``: len (with this header, without padding), type."""
TASK_DIAG_PID = struct.Struct("=QQII")
"""``struct task_diag_pid``: show_flags, dump_strategy, pid, start."""
TASK_DIAG_MSG = struct.Struct("=III")
"""``struct task_diag_msg``: pid, tgid, flags."""


class Group(enum.IntEnum):
    """``TASK_DIAG_x``: the groups of attributes, by their attribute type."""

    BASE = 0
    CRED = 1
    VMA = 2
    VMA_STAT = 3
    STAT = 4
    CMDLINE = 5
    IDENT = 6
    MEM = 7
    SCHED = 8
    JOB = 9

    @property
    def show_flag(self) -> int:
        """``TASK_DIAG_SHOW_x``, the bit that asks for this group."""
        return 1 << self


class Strategy(enum.IntEnum):
    """``TASK_DIAG_DUMP_x``: which tasks."""

    ALL = 0
    """Every process."""
    ONE = 1
    """The one task ``pid``, which may be any thread."""
    ALL_THREAD = 2
    """Every thread of every process."""
    CHILDREN = 3
    """The processes whose parent is the process of ``pid``."""
    THREAD = 4
    """The threads of the process of ``pid``."""

    @property
    def takes_pid(self) -> bool:
        """Whether a request of this strategy names a task."""
        return self in (Strategy.ONE, Strategy.CHILDREN, Strategy.THREAD)


class State(enum.IntEnum):
    """``task_diag_base.state``."""

    RUNNING = 0
    INTERRUPTIBLE = 1
    UNINTERRUPTIBLE = 2
    STOPPED = 3
    TRACE_STOP = 4
    DEAD = 5
    ZOMBIE = 6
    PARKED = 7
    IDLE = 8

    @property
    def letter(self) -> str:
        """The letter that ``/proc/PID/stat`` and ps print for this state."""
        return "RSDTtXZPI"[self]


class VmaFlag(enum.IntFlag, boundary=enum.KEEP):
    """``TASK_DIAG_VMA_F_x``; bits of a later kernel are kept without a name."""

    READ = 1 << 0
    WRITE = 1 << 1
    EXEC = 1 << 2
    SHARED = 1 << 3
    MAYREAD = 1 << 4
    MAYWRITE = 1 << 5
    MAYEXEC = 1 << 6
    MAYSHARE = 1 << 7
    GROWSDOWN = 1 << 8
    PFNMAP = 1 << 9
    DENYWRITE = 1 << 10
    MPX = 1 << 11
    LOCKED = 1 << 12
    IO = 1 << 13
    SEQ_READ = 1 << 14
    RAND_READ = 1 << 15
    DONTCOPY = 1 << 16
    DONTEXPAND = 1 << 17
    ACCOUNT = 1 << 18
    NORESERVE = 1 << 19
    HUGETLB = 1 << 20
    ARCH_1 = 1 << 21
    DONTDUMP = 1 << 22
    SOFTDIRTY = 1 << 23
    MIXEDMAP = 1 << 24
    HUGEPAGE = 1 << 25
    NOHUGEPAGE = 1 << 26
    MERGEABLE = 1 << 27


class Layout:
    """``struct task_diag_x`` of a group: its members in their order, each with its code of the ``struct`` module."""

    def __init__(self, name: str, **members: str) -> None:
        """Lay out the ``members`` of group ``name`` without gaps; one of pad bytes (``x``) has no value."""
        self.name = name
        self.members: Mapping[str, str] = members
        self.struct = struct.Struct("=" + "".join(members.values()))
        self.size = self.struct.size

    def offset(self, member: str) -> int:
        """Return where ``member`` starts, in bytes."""
        names = list(self.members)
        return struct.calcsize("=" + "".join(list(self.members.values())[: names.index(member)]))


TASK_DIAG_BASE = Layout(
    "BASE",
    **dict.fromkeys(("tgid", "pid", "ppid", "tpid", "sid", "pgid"), "I"),
    state="B",
    comm=f"{COMM_LEN}s",
    reserved="3x",
)
TASK_DIAG_CRED = Layout(
    "CRED",
    # The low 32 bits come first, in either byte order.
    **dict.fromkeys(("inheritable", "permitted", "effective", "bounding"), "2I"),
    **dict.fromkeys(("uid", "euid", "suid", "fsuid", "gid", "egid", "sgid", "fsgid"), "I"),
)
TASK_DIAG_VMA = Layout(
    "VMA",
    **dict.fromkeys(("start", "end", "vm_flags", "pgoff"), "Q"),
    **dict.fromkeys(("major", "minor"), "I"),
    inode="Q",
    generation="I",
    **dict.fromkeys(("vma_len", "name_off", "name_len", "stat_off", "stat_len"), "H"),
    reserved="2x",
)
TASK_DIAG_VMA_STAT = Layout(
    "VMA_STAT",
    **dict.fromkeys(
        (
            *("resident", "shared_clean", "shared_dirty", "private_clean", "private_dirty"),
            *("referenced", "anonymous", "anonymous_thp", "swap", "pss"),
        ),
        "Q",
    ),
)
TASK_DIAG_STAT = Layout(
    "STAT",
    **dict.fromkeys(("minflt", "cminflt", "majflt", "cmajflt", "utime", "stime", "cutime", "cstime"), "Q"),
    threads="I",
    reserved="4x",
)
TASK_DIAG_IDENT = Layout("IDENT", start_boottime="Q", inode="Q", cgroup="Q")
TASK_DIAG_MEM = Layout(
    "MEM", **dict.fromkeys(("vsize", "rss", "shared", "text", "data", "locked", "swap", "peak_rss"), "Q")
)
TASK_DIAG_SCHED = Layout(
    "SCHED",
    **dict.fromkeys(("policy", "nice", "priority"), "i"),
    **dict.fromkeys(("rt_priority", "processor"), "I"),
    reserved="4x",
    **dict.fromkeys(("nvcsw", "nivcsw"), "Q"),
)
TASK_DIAG_JOB = Layout("JOB", tty_nr="i", tpgid="i", flags="I", exit_signal="i")

LAYOUTS: Mapping[int, Layout] = {
    Group.BASE: TASK_DIAG_BASE,
    Group.CRED: TASK_DIAG_CRED,
    Group.STAT: TASK_DIAG_STAT,
    Group.IDENT: TASK_DIAG_IDENT,
    Group.MEM: TASK_DIAG_MEM,
    Group.SCHED: TASK_DIAG_SCHED,
    Group.JOB: TASK_DIAG_JOB,
}
"""By attribute type: the groups whose payload is one struct of a fixed layout."""
