"""Tasks in every state that can be made, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Pipe
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from vmtests import oracle, syscalls
from vmtests.credentials import ROOT, Credentials, fork, outcome, report

T = TypeVar("T")


def pause() -> NoReturn:
    """Sleep interruptibly, for ever."""
    while True:
        signal.pause()


def spin() -> NoReturn:
    """Run for ever."""
    while True:
        pass


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return when ``condition`` holds; ``what`` is told if the test's deadline passes before."""
    try:
        while not condition():
            time.sleep(0.005)
    except BaseException as error:
        error.add_note(f"while waiting for {what}")
        raise


def at_rest(read: Callable[[], T], what: str) -> T:
    """Return what ``read`` gives once it gives the same twice, a moment apart; ``what`` is told as by wait_for().

    Who stops or sleeps says so while it still runs: its times and switches are counted a little later.
    """
    before = read()

    def same() -> bool:
        nonlocal before
        time.sleep(0.05)
        earlier, before = before, read()
        return earlier == before

    wait_for(same, f"{what} to come to rest")
    return before


class Population:
    """The children that one test made; all of them are killed and reaped at its end.

    Process ids are those of the test's own pid namespace.
    """

    def __init__(self) -> None:
        self._children: list[int] = []
        self._own_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in reversed(self._children):
            os.kill(pid, signal.SIGKILL)
        for pid in reversed(self._children):
            _wait_for_end(pid)
        self._children.clear()
        os.close(self._own_proc)

    def spawn(
        self,
        prepare: Callable[[], object] = lambda: None,
        then: Callable[[], object] = pause,
        *,
        who: Credentials = ROOT,
        state: str = "",
    ) -> int:
        """Make a child that calls ``prepare``, and then ``then``, after which it exits with status 0.

        Returns when ``prepare`` has returned (its exception is raised here) and the state letter is among
        ``state`` (any, if empty).
        """
        ours, theirs = Pipe(duplex=False)

        def live() -> None:
            ours.close()
            if who is not ROOT:
                who.take()
            report(theirs, prepare)
            theirs.close()
            then()

        with self._entered():
            pid = fork(live)
        self._children.append(pid)
        theirs.close()
        try:
            outcome(ours)
        finally:
            ours.close()
        if state:
            wait_for(lambda: oracle.letter(self._own_proc, pid) in state, f"process {pid} in state {state}")
        return pid

    def sleeping(self, *, comm: bytes | None = None, who: Credentials = ROOT) -> int:
        """Make a process in state S, named ``comm`` if given."""
        return self.spawn(lambda: None if comm is None else rename(comm), who=who, state="S")

    def running(self) -> int:
        """Make a process in state R."""
        return self.spawn(then=spin, state="R")

    def uninterruptible(self) -> int:
        """Make a process in state D."""
        return self.spawn(then=syscalls.vfork_and_pause, state="D")

    def stopped(self, prepare: Callable[[], object] = lambda: None, *, who: Credentials = ROOT) -> int:
        """Make a process that calls ``prepare`` and is then stopped, with all its threads: state T."""
        pid = self.spawn(prepare, who=who, state="S")
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        return pid

    def traced(self) -> int:
        """Make a process in state t, whose tracer is this thread."""

        def stop() -> NoReturn:
            os.kill(os.getpid(), signal.SIGSTOP)
            pause()

        pid = self.spawn(lambda: syscalls.ptrace(syscalls.PTRACE_TRACEME, 0), stop)
        os.waitpid(pid, os.WUNTRACED)
        return pid

    def zombie(self) -> int:
        """Make a process in state Z; it can be reaped with reap()."""
        pid = self.spawn(then=lambda: None)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    def kill(self, pid: int) -> None:
        """End one of the children and wait until nothing of it is left."""
        os.kill(pid, signal.SIGKILL)
        self.reap(pid)

    def reap(self, pid: int) -> None:
        """Wait for one of the children, which ends by itself."""
        _wait_for_end(pid)
        self._children.remove(pid)

    def _entered(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _wait_for_end(pid: int) -> None:
    # A stop that nobody has waited for yet is reported before the end.
    while os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
        pass


def rename(comm: bytes) -> None:
    """Give the calling thread a name of at most 15 bytes, none of them NUL."""
    syscalls.prctl(syscalls.PR_SET_NAME, ctypes.create_string_buffer(comm, 16).raw)


def start_threads(count: int, prepare: Callable[[], object] = lambda: None) -> list[int]:
    """Start ``count`` threads that call ``prepare`` and sleep, in the calling process; return the ids they see."""
    ids: list[int] = []
    started = threading.Barrier(count + 1)

    def sleep_in_thread() -> None:
        prepare()
        ids.append(threading.get_native_id())
        started.wait()
        threading.Event().wait()

    for _ in range(count):
        threading.Thread(target=sleep_in_thread, daemon=True).start()
    started.wait()
    return sorted(ids)


def in_thread(body: Callable[[], object]) -> None:
    """Call ``body`` in a thread of its own, which goes on."""
    threading.Thread(target=body, daemon=True).start()


class Gate:
    """Holds processes and threads up until the test lets them pass, one by one."""

    def __init__(self) -> None:
        self._ends = os.pipe()

    def wait(self) -> None:
        """Wait, in a process or a thread of one."""
        os.read(self._ends[0], 1)

    def open(self) -> None:
        """Let one pass."""
        os.write(self._ends[1], b"x")

    def close(self) -> None:
        """Close both ends."""
        for end in self._ends:
            os.close(end)


def exec_from_thread(gate: Gate) -> None:
    """Start a thread that execs when the gate opens: the process is then stopped, and has that thread only."""

    def exec_when_told() -> None:
        gate.wait()
        os.execv("/bin/sh", ["sh", "-c", "kill -STOP $$"])

    in_thread(exec_when_told)
