"""Requests and answers over an open ``/proc/task-diag``."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from taskdiag import errors, wire
from taskdiag.errors import TaskDiagError, UnknownGroupError
from taskdiag.uapi import Group, Strategy
from taskdiag.wire import Message, Task

PROC = Path("/proc")
FILE = "task-diag"
PATH = PROC / FILE

DEFAULT_BUFFER = 65536
_LARGEST_BUFFER = 1 << 24


class TaskDiag:
    """One open file of the interface; it answers one request at a time.

    ``file`` is a path (of any procfs mount's ``task-diag``), or a descriptor, which is then owned.
    Errors are TaskDiagErrors, which are OSErrors with the kernel's ``errno``: EBUSY while a request is being
    answered, ESRCH for a task that is not there or may not be seen, EPERM for one of which nothing may be read,
    EINVAL for a group that the kernel does not have, or a ``start`` with ONE. A signal handler that does not raise is
    waited out.
    """

    def __init__(self, file: Path | str | int = PATH) -> None:
        """Open ``file``; the answers will be those that the opener may see."""
        try:
            self._file = io.FileIO(file, "r+")
        except OSError as error:
            raise errors.opening(error.errno or 0, file) from error

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
        start: int = 0,
        seq: int = 0,
    ) -> None:
        """Write one request; ``start`` is the lowest pid to look at, for the strategies of many tasks."""
        try:
            self._file.write(wire.encode_request(groups, strategy, pid=pid, start=start, seq=seq))
        except OSError as error:
            number = error.errno or 0
            # The kernel says EINVAL for many things: which groups it has is found by asking for each.
            if number == errno.EINVAL and (unknown := set(groups) - self.groups()):
                raise UnknownGroupError(unknown) from error
            raise errors.requesting(number) from error

    def groups(self) -> frozenset[Group]:
        """Return the groups that this kernel has, by asking for each; the file must not be answering a request."""
        return frozenset(group for group in Group if self._has(group))

    def reads(self, buffer_size: int = DEFAULT_BUFFER) -> Iterator[bytes]:
        """Read the answer to its end, ``buffer_size`` bytes at a time; each buffer is of whole messages.

        A buffer that turns out too small for the next message is doubled.
        """
        while True:
            try:
                answer = self._file.read(buffer_size)
            except OSError as error:
                if error.errno != errno.EMSGSIZE or buffer_size >= _LARGEST_BUFFER:
                    raise errors.reading(error.errno or 0) from error
                buffer_size *= 2
                continue
            if not answer:
                return
            yield answer

    def messages(self, buffer_size: int = DEFAULT_BUFFER) -> Iterator[Message]:
        """Read the answer to its end, each message when it is asked for."""
        for answer in self.reads(buffer_size):
            yield from wire.decode(answer)

    def tasks(self, buffer_size: int = DEFAULT_BUFFER) -> Iterator[Task]:
        """Read the answer to its end, one record for each task."""
        return wire.join(self.messages(buffer_size))

    def _has(self, group: Group) -> bool:
        # Whether the task exists does not matter to the write; asked for one task, the answer is short.
        asked = {Group.VMA, group} if group is Group.VMA_STAT else {group}
        try:
            self._file.write(wire.encode_request(asked, Strategy.ONE, pid=os.getpid()))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise errors.requesting(error.errno or 0) from error
            return False
        try:
            for _ in self.reads():
                pass
        except TaskDiagError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise
        return True


class Transaction:
    """One request and its answer: iterate over it, once, for a record of each task.

    ``groups`` and ``strategy`` say what about which tasks, ``pid`` which one where the strategy takes one, ``start``
    the lowest pid to look at (a dump can be resumed behind the last task, or divided), and ``proc`` which procfs
    mount: its pid namespace and its ``hidepid=`` decide who is seen, and its opener's credentials what of them. What
    is wrong with the request is raised here, what is wrong with the task (ESRCH, EPERM) by the first step. Only one
    read's messages and one task's groups are in memory at a time.
    The end of the answer closes the file, and so does ``with``.
    """

    def __init__(
        self,
        groups: Collection[Group] = (Group.BASE,),
        strategy: Strategy = Strategy.ALL,
        *,
        pid: int = 0,
        start: int = 0,
        proc: Path | str = PROC,
        buffer_size: int = DEFAULT_BUFFER,
    ) -> None:
        """Open the mount's file and write the request."""
        self._source = TaskDiag(Path(proc) / FILE)
        self._buffer_size = buffer_size
        try:
            self._source.request(groups, strategy, pid=pid, start=start)
        except BaseException:
            self._source.close()
            raise
        self._tasks = self._drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Task]:
        return self._tasks

    def close(self) -> None:
        """Give up what is left of the answer."""
        self._source.close()

    def reads(self) -> Iterator[bytes]:
        """Give the answer as the kernel writes it, read by read, instead of the records."""
        with self._source:
            yield from self._source.reads(self._buffer_size)

    def _drain(self) -> Iterator[Task]:
        yield from wire.join(message for answer in self.reads() for message in wire.decode(answer))


def tasks(
    groups: Collection[Group] = (Group.BASE,),
    strategy: Strategy = Strategy.ALL,
    *,
    pid: int = 0,
    start: int = 0,
    proc: Path | str = PROC,
    buffer_size: int = DEFAULT_BUFFER,
) -> Iterator[Task]:
    """Dump the tasks that ``strategy`` names, lazily: the records of a Transaction."""
    return iter(Transaction(groups, strategy, pid=pid, start=start, proc=proc, buffer_size=buffer_size))
