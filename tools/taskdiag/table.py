"""The tasks of a machine as a table to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taskdiag.uapi import State
from taskdiag.wire import Task

HEADING = f"{'PID':>7} {'PPID':>7} S COMMAND"


def rows(tasks: Iterable[Task]) -> Iterator[str]:
    """Give the heading, then one line for each task: pid, ppid, state letter, comm.

    What may not be read is a ``-``; a byte of comm that a terminal may not show is escaped as in Python.
    """
    yield HEADING
    for task in tasks:
        base = task.base
        if base is None:
            yield f"{task.pid:>7} {'-':>7} - -"
        else:
            letter = base.state.letter if isinstance(base.state, State) else "?"
            yield f"{task.pid:>7} {base.ppid:>7} {letter} {_printable(base.comm)}"


def _printable(comm: bytes) -> str:
    text = comm.decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
