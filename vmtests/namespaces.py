"""procfs mounts, pid namespaces and user namespaces of a test's own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from vmtests import oracle, syscalls
from vmtests.credentials import fork
from vmtests.population import Population, pause, wait_for


class Procfs:
    """One procfs mount, attached nowhere; ``fd`` is its root, for the oracle."""

    def __init__(self, *, pidns: int | None = None, **options: str) -> None:
        self.fd = syscalls.mount("proc", pidns=pidns, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def open(self) -> int:
        """Open this mount's task-diag; the descriptor is the caller's to close."""
        return os.open("task-diag", os.O_RDWR | os.O_CLOEXEC, dir_fd=self.fd)

    def listed(self) -> list[int]:
        """Return the processes that ``readdir`` of this mount shows the caller."""
        return oracle.listed(self.fd)


class PidNamespace(Population):
    """A pid namespace whose processes are the test's own, and nothing else: every answer is known beforehand.

    Process 1 is there from the start, and sleeps. spawn() makes children of the test itself, so that their
    parent is outside.
    """

    def __init__(self, outer: PidNamespace | None = None) -> None:
        """Make it inside ``outer``, or inside the test's own."""
        super().__init__()
        self._own = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self.fd: int = -1 if outer is None else os.dup(outer.fd)
        try:
            if outer is None:
                first = self.spawn(_be_init)
                inside = "pid"
            else:
                # Only a process inside `outer` can make one below it.
                first = self.spawn(_fork_init)
                inside = "pid_for_children"
                os.close(self.fd)
                self.fd = -1
            self.fd = os.open(f"/proc/{first}/ns/{inside}", os.O_RDONLY)
            self._level = len(_numbers(first)) - (outer is None)
            self.procfs = Procfs(pidns=self.fd)
        except BaseException:
            super().__exit__(None, None, None)
            for fd in {self.fd, self._own} - {-1}:
                os.close(fd)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        os.close(self.procfs.fd)
        os.close(self.fd)
        os.close(self._own)

    def number(self, pid: int) -> int:
        """Return the number that the process ``pid`` of the test's namespace has in this one."""
        return _numbers(pid)[self._level]

    def spawn_as(self, number: int) -> int:
        """Make a sleeping process that has this number here; return its number in the test's namespace."""
        counter = Path("/proc/sys/kernel/ns_last_pid")
        # The counter that a process sees is its own namespace's, and nothing else forks in this one.
        self.kill(self.spawn(partial(_write, counter, str(number - 1))))
        pid = self.sleeping()
        assert self.number(pid) == number
        return pid

    def crowd(self, count: int) -> int:
        """Make ``count`` sleeping processes, cheaply, as children of a shell, whose pid is returned."""
        script = f"i=0; while [ $i -lt {count} ]; do read never <&3 & i=$((i + 1)); done; wait"
        silent, other_end = os.pipe()

        def multiply() -> None:
            os.dup2(silent, 3)
            os.dup2(other_end, 4)
            os.execv("/bin/sh", ["sh", "-c", script])

        wanted = len(self.procfs.listed()) + 1 + count
        pid = self.spawn(then=multiply)
        os.close(silent)
        os.close(other_end)
        wait_for(lambda: len(self.procfs.listed()) == wanted, f"a crowd of {count}")
        return pid

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        if self.fd < 0:
            syscalls.unshare(syscalls.CLONE_NEWPID)
        else:
            syscalls.setns(self.fd, syscalls.CLONE_NEWPID)
        try:
            yield
        finally:
            syscalls.setns(self._own, syscalls.CLONE_NEWPID)


def user_namespace(population: Population, *, first: int = 1000, count: int = 2) -> int:
    """Make a user namespace whose ids 0 and up are ``first`` and up outside; return a descriptor of it."""
    holder = population.spawn(lambda: syscalls.unshare(syscalls.CLONE_NEWUSER))
    for kind in ("uid", "gid"):
        Path(f"/proc/{holder}/{kind}_map").write_text(f"0 {first} {count}\n")
    return os.open(f"/proc/{holder}/ns/user", os.O_RDONLY)


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _be_init() -> None:
    # Orphans are its children: without this they would stay zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def _fork_init() -> None:
    def live() -> None:
        _be_init()
        pause()

    syscalls.unshare(syscalls.CLONE_NEWPID)
    fork(live)


def _numbers(pid: int) -> list[int]:
    status = oracle.parse_status(Path(f"/proc/{pid}/status").read_bytes())
    return [int(number) for number in status["NSpid"].split()]
