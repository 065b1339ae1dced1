"""Processes below their parents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from taskdiag.ps.process import Process

_INIT = 1


def forest(processes: Sequence[Process]) -> Iterator[tuple[Process, str]]:
    """Give each process below its parent, children in the order in which they come, with the branches to it.

    A branch is a character for each level: ``+`` and ``L`` lead to the process (``L`` to a last child), ``|`` and a
    blank go past it. As ps has it: roots come last to first, and the children of init are no deeper than init.
    """
    pids = {process.base.pid for process in processes}
    children: dict[int, list[Process]] = {}
    roots = []
    for process in processes:
        if process.base.ppid in pids and process.base.ppid != process.base.pid:
            children.setdefault(process.base.ppid, []).append(process)
        else:
            roots.append(process)
    waiting = [(root, "", "") for root in roots]
    while waiting:
        process, branches, below = waiting.pop()
        yield process, branches
        family = children.pop(process.base.pid, [])
        deeper = []
        for child in family:
            last = child is family[-1]
            if process.base.pid == _INIT:
                deeper.append((child, below, below))
            else:
                deeper.append((child, below + ("L" if last else "+"), below + (" " if last else "|")))
        waiting += reversed(deeper)
        if not waiting and children:
            # The answer is no snapshot: a number that was used again can close a circle of parents. Open it anywhere.
            _, family = children.popitem()
            waiting = [(child, "", "") for child in reversed(family)]
