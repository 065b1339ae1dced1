"""Requests and answers over an open ``/proc/task-diag``."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from taskdiag import wire
from taskdiag.uapi import Group, Strategy
from taskdiag.wire import Message, Task

PATH = Path("/proc/task-diag")

DEFAULT_BUFFER = 65536


class TaskDiag:
    """One open file of the interface; it answers one request at a time.

    ``file`` is a path (of any procfs mount's ``task-diag``), or a descriptor, which is then owned.
    Errors are the kernel's: OSError with its ``errno`` (EBUSY while a request is being answered, ESRCH for
    a task that is not there or may not be seen, EPERM for one of which nothing may be read, ...).
    """

    def __init__(self, file: Path | str | int = PATH) -> None:
        """Open ``file``; the answers will be those that the opener may see."""
        self._file = io.FileIO(file, "r+")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; a request that is being answered is given up."""
        self._file.close()

    def request(
        self,
        groups: Collection[Group] = (Group.BASE,),
        strategy: Strategy = Strategy.ALL,
        *,
        pid: int = 0,
        seq: int = 0,
    ) -> None:
        """Write one request."""
        self._file.write(wire.encode_request(groups, strategy, pid=pid, seq=seq))

    def messages(self, buffer_size: int = DEFAULT_BUFFER) -> Iterator[Message]:
        """Read the answer to its end, ``buffer_size`` bytes at a time, each when it is needed."""
        while answer := self._file.read(buffer_size):
            yield from wire.decode(answer)

    def tasks(self, buffer_size: int = DEFAULT_BUFFER) -> Iterator[Task]:
        """Read the answer to its end, one record for each task."""
        return wire.join(self.messages(buffer_size))


def tasks(
    groups: Collection[Group] = (Group.BASE,),
    strategy: Strategy = Strategy.ALL,
    *,
    pid: int = 0,
    file: Path | str = PATH,
    buffer_size: int = DEFAULT_BUFFER,
) -> Iterator[Task]:
    """Dump the tasks that ``strategy`` names, lazily, through a file of its own.

    What is wrong with the request is raised here, what is wrong with a task (ESRCH, EPERM) by the first step.
    """
    source = TaskDiag(file)
    try:
        source.request(groups, strategy, pid=pid)
    except BaseException:
        source.close()
        raise
    return _drain(source, buffer_size)


def _drain(source: TaskDiag, buffer_size: int) -> Iterator[Task]:
    with source:
        yield from source.tasks(buffer_size)
