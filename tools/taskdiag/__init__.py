"""A client of ``/proc/task-diag``: typed records of the tasks of a machine.

It needs nothing but Python's standard library, and nothing of the workspace.
"""

from __future__ import annotations

from taskdiag.client import PATH, TaskDiag, tasks
from taskdiag.uapi import Group, State, Strategy
from taskdiag.wire import Base, Task, WireError

__all__ = ["PATH", "Base", "Group", "State", "Strategy", "Task", "TaskDiag", "WireError", "tasks"]
