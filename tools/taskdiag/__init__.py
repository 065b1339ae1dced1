"""A client of ``/proc/task-diag``: typed records of the tasks of a machine.

It needs nothing but Python's standard library, and nothing of the workspace::

    from taskdiag import Group, Strategy, tasks

    for task in tasks((Group.BASE, Group.CRED), Strategy.ALL):
        if task.base and task.cred:  # a group that is None may not be read
            print(task.pid, task.base.comm, task.cred.euid)

For many tasks and few numbers of each there is a quicker way, with no object for each task::

    from taskdiag import rows

    for pid, ppid, comm, ticks in rows("pid", "base.ppid", "base.comm", "stat.utime"):
        ...

A command line that a lock cuts off is asked for again by ``retry_command_lines(tasks((Group.CMDLINE, Group.IDENT)))``.

``Transaction`` is ``tasks`` with a ``close()``, ``TaskDiag`` the open file below it, for many requests through one,
and ``wire`` the encoding alone, for streams that were recorded.
"""

from __future__ import annotations

from taskdiag.client import PATH, PROC, TaskDiag, Transaction, tasks
from taskdiag.columns import Columns, rows
from taskdiag.errors import (
    NoSuchTaskError,
    NoTaskDiagError,
    RefusedError,
    TaskDiagError,
    UnknownGroupError,
    WireError,
)
from taskdiag.groups import Base, Cred, Ident, Job, Mem, Sched, Stat, Vma, VmaStat
from taskdiag.retry import retry_command_lines
from taskdiag.uapi import Group, State, Strategy, VmaFlag
from taskdiag.wire import Task

__all__ = [
    "PATH",
    "PROC",
    "Base",
    "Columns",
    "Cred",
    "Group",
    "Ident",
    "Job",
    "Mem",
    "NoSuchTaskError",
    "NoTaskDiagError",
    "RefusedError",
    "Sched",
    "Stat",
    "State",
    "Strategy",
    "Task",
    "TaskDiag",
    "TaskDiagError",
    "Transaction",
    "UnknownGroupError",
    "Vma",
    "VmaFlag",
    "VmaStat",
    "WireError",
    "retry_command_lines",
    "rows",
    "tasks",
]
