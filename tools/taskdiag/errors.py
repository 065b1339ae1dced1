"""What can go wrong, each as one sentence; those that the kernel says are OSErrors with their errno."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from taskdiag.uapi import Group


class WireError(ValueError):
    """The bytes are no task_diag stream; the sentence says what is wrong with them, and where."""


class TaskDiagError(OSError):
    """The kernel refused; ``errno`` is its reason, and the sentence says what that means here."""

    def __init__(self, number: int, sentence: str) -> None:
        """Say ``sentence`` of the error ``number``."""
        super().__init__(number, sentence)

    def __str__(self) -> str:
        return f"{self.strerror} ({errno.errorcode.get(self.errno or 0, self.errno)})"


class NoTaskDiagError(TaskDiagError, FileNotFoundError):
    """ENOENT: this mount has no ``task-diag``."""


class NoSuchTaskError(TaskDiagError, ProcessLookupError):
    """ESRCH: the task that was asked for does not exist, or may not be seen."""


class RefusedError(TaskDiagError, PermissionError):
    """EPERM: the task that was asked for may be seen, but nothing of what was asked may be read."""


class UnknownGroupError(TaskDiagError):
    """EINVAL: the kernel does not know some of the groups; ``groups`` says which."""

    def __init__(self, groups: Collection[Group]) -> None:
        """Name ``groups`` as those that the kernel does not know."""
        self.groups = frozenset(groups)
        super().__init__(errno.EINVAL, f"this kernel's task_diag does not have the group{_names(groups)}")


def _names(groups: Collection[Group]) -> str:
    names = [group.name for group in sorted(groups)]
    return f"{'s' if len(names) > 1 else ''} {', '.join(names)}"


def opening(number: int, file: object) -> TaskDiagError:
    """Give the error of an ``open()`` of ``file``."""
    if number == errno.ENOENT:
        return NoTaskDiagError(
            number, f"{file} does not exist: it takes a kernel with CONFIG_TASK_DIAG, and procfs without subset=pid"
        )
    return TaskDiagError(number, f"{file} cannot be opened: {os.strerror(number)}")


def requesting(number: int) -> TaskDiagError:
    """Give the error of a ``write()`` that was not for a group."""
    reasons = {
        errno.EBUSY: "this file is answering another request, which has to be read to its end first",
        errno.EINVAL: "the kernel does not take this request: an unknown strategy, a pid where the strategy takes none "
        "or none where it takes one, or VMA_STAT without VMA",
    }
    return TaskDiagError(number, reasons.get(number) or f"the request was refused: {os.strerror(number)}")


def reading(number: int) -> TaskDiagError:
    """Give the error of a ``read()``."""
    if number == errno.ESRCH:
        return NoSuchTaskError(number, "the task that was asked for does not exist, or may not be seen")
    if number == errno.EPERM:
        return RefusedError(number, "nothing that was asked for may be read of this task")
    return TaskDiagError(number, f"the answer cannot be read: {os.strerror(number)}")
