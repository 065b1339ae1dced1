"""What ``include/uapi/linux/task_diag.h`` and ``linux/netlink.h`` say, as Python.

All numbers are in the machine's own byte order, packed: the kernel aligns to 4 bytes only.
"""

from __future__ import annotations

import enum
import struct

CMD_GET = 0xD101
"""``nlmsg_type`` of requests and answers."""

NLM_F_REQUEST = 0x001
NLM_F_MULTI = 0x002
NLM_F_DUMP = 0x300

FLAG_CONT = 1
"""``task_diag_msg.flags``: more of this task is to come."""
FLAG_TRUNC = 2
"""``task_diag_msg.flags``: the command line was cut."""

ALIGNMENT = 4
COMM_LEN = 16

NLMSGHDR = struct.Struct("=IHHII")
"""``struct nlmsghdr``: len, type, flags, seq, pid."""
NLATTR = struct.Struct("=HH")
"""``struct nlattr``: len (with this header, without padding), type."""
TASK_DIAG_PID = struct.Struct("=QQII")
"""``struct task_diag_pid``: show_flags, dump_strategy, pid, reserved."""
TASK_DIAG_MSG = struct.Struct("=III")
"""``struct task_diag_msg``: pid, tgid, flags."""
TASK_DIAG_BASE = struct.Struct(f"=6IB{COMM_LEN}s3s")
"""``struct task_diag_base``: tgid, pid, ppid, tpid, sid, pgid, state, comm, reserved."""


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
    ONE = 1
    ALL_THREAD = 2
    CHILDREN = 3
    THREAD = 4


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
