"""Asking again for command lines that a lock cut off, without waiting for one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic, sleep

from taskdiag.client import PROC, Transaction
from taskdiag.errors import NoSuchTaskError, RefusedError
from taskdiag.uapi import CMDLINE_MAX, FLAG_TRUNC, Group, Strategy
from taskdiag.wire import Task

_PAUSES = (0.002, 0.004, 0.008, 0.016, 0.032)
"""Seconds between the rounds; there is one round more than there are pauses."""
_LONGEST = 0.1
"""Seconds that the pauses and all that is asked between them may take."""


def retry_command_lines(tasks: Iterable[Task], *, proc: Path | str = PROC) -> Iterator[Task]:
    """Give ``tasks`` in their order, with the command lines that a lock cut off where asking again has them.

    A dump never waits for a lock of a process: a command line that is locked at that moment is ``cmdline_cut``. When
    all tasks have come, those are asked for again, in at most 6 rounds with pauses of 2 to 32 ms between them, and for
    about 100 ms in all, whatever the processes do. That never waits for a lock either. What is still cut then is given
    as far as it came, and stays ``cmdline_cut``; so does what is too long (CMDLINE_MAX bytes), which is not asked for.

    The tasks are those of a dump of ``proc`` with the groups CMDLINE and IDENT: one without IDENT cannot be told from
    a later owner of its number, and is given as it is. So is one that has gone meanwhile. Tasks are given as they come
    up to the first that is cut, the others when all is known. Errors are those of ``tasks()``, except that a process
    that is not there any more is none.
    """
    held: list[Task] = []
    for task in tasks:
        if held or _is_cut(task):
            held.append(task)
        else:
            yield task
    _retry(held, proc)
    yield from held


def _is_cut(task: Task) -> bool:
    """Tell whether asking again may help: of a leader, which alone has a command line in the dump that asks."""
    if not task.cmdline_cut or task.pid != task.tgid or task.ident is None:
        return False
    return len(task.cmdline or b"") < CMDLINE_MAX


def _retry(tasks: list[Task], proc: Path | str) -> None:
    """Ask for all that are cut, in rounds, and put what was found in their places."""
    left = [index for index, task in enumerate(tasks) if _is_cut(task)]
    deadline = monotonic() + _LONGEST
    # The first round is at once: reading the rest of the dump has taken its time.
    for pause in (0.0, *_PAUSES):
        if not left:
            return
        if pause:
            sleep(max(min(pause, deadline - monotonic()), 0))
        asked, left = left, []
        for index in asked:
            # Thousands may be cut, if somebody means to.
            if monotonic() >= deadline:
                return
            answer = _ask(tasks[index], proc)
            if answer is not None:
                tasks[index] = _with_line_of(answer, tasks[index])
                if _is_cut(tasks[index]):
                    left.append(index)


def _ask(task: Task, proc: Path | str) -> Task | None:
    """Return what is said of ``task`` now; None if it has gone, or may not be read any more."""
    # Not ONE, which waits for locks. THREAD gives the leader first, as the threads below its number are left out; what
    # may follow are other threads, of which little is read, and never the command line of another process.
    try:
        with Transaction((Group.CMDLINE, Group.IDENT), Strategy.THREAD, pid=task.pid, start=task.pid, proc=proc) as now:
            answer = next(iter(now), None)
    except (NoSuchTaskError, RefusedError):
        return None
    if answer is None or answer.cmdline is None:
        return None
    # One that goes amid its command line has no IDENT, which comes behind that.
    return answer if _identity(answer) == _identity(task) else None


def _identity(task: Task) -> tuple[int, int, int] | None:
    return None if task.ident is None else (task.pid, task.ident.start_boottime, task.ident.inode)


def _with_line_of(answer: Task, task: Task) -> Task:
    """Return ``task`` with the command line of ``answer``, unless less of it came this time."""
    line = answer.cmdline or b""
    if answer.cmdline_cut:
        if len(line) < len(task.cmdline or b""):
            return task
        cut = task.cut
    else:
        cut = task.cut - {Group.CMDLINE}
    flags = task.flags if cut else task.flags & ~FLAG_TRUNC
    return dataclasses.replace(task, flags=flags, payloads={**task.payloads, Group.CMDLINE: line}, cut=cut)
