"""Who runs a piece of a test: uid, gid, groups, capabilities, user namespace."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from vmtests import syscalls

T = TypeVar("T")


@dataclass(frozen=True)
class Credentials:
    """An identity to take on; the default is root with nothing but its ids changed."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    capabilities: int | None = None
    """A bit mask to have; None for those that the change of uid leaves."""
    user_namespace: int | None = None
    """Descriptor of a user namespace to enter first; the ids above are then those inside."""
    dumpable: bool = True
    """Whether a process of the same ids may ptrace it, which a change of ids would otherwise forbid."""

    def take(self) -> None:
        """Become this identity; only for a process that will do nothing else."""
        if self.user_namespace is not None:
            syscalls.setns(self.user_namespace, syscalls.CLONE_NEWUSER)
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        if self.capabilities is not None:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.capabilities is not None:
            syscalls.capset(self.capabilities)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, int(self.dumpable))
        # The change of uid has cleared it.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


ROOT = Credentials()
ALICE = Credentials(uid=1000, gid=1000)
BOB = Credentials(uid=1001, gid=1001)


def run_as(who: Credentials, function: Callable[[], T]) -> T:
    """Run ``function`` in a child that is ``who``; return its result, or raise its exception.

    The child inherits every open file. The result has to be picklable.
    """

    def taken() -> T:
        who.take()
        return function()

    return run_in_child(taken)


def handed_over(opener: Credentials, open_file: Callable[[], int]) -> int:
    """Open a file as ``opener`` and bring the descriptor here over a socket."""
    ours, theirs = socket.socketpair()
    run_as(opener, lambda: socket.send_fds(theirs, [b"x"], [open_file()]))
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    theirs.close()
    return fd


def run_in_child(function: Callable[[], T]) -> T:
    """Run ``function`` in a child; return its result, or raise its exception."""
    ours, theirs = Pipe(duplex=False)
    pid = fork(lambda: report(theirs, function))
    theirs.close()
    try:
        result: T = outcome(ours)
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return result


def fork(body: Callable[[], object]) -> int:
    """Fork a child that calls ``body`` and exits with status 0; return its pid. It dies with this thread."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            # Seen from a pid namespace below, the parent is 0.
            if os.getppid() in (parent, 0):
                body()
        finally:
            # Nothing of the parent's stack may go on here: it has one test run, not two.
            os._exit(0)
    return pid


def report(pipe: Connection, function: Callable[[], object]) -> None:
    """Call ``function`` and send what came of it: the child's half of outcome()."""
    answer: tuple[bool, object]
    try:
        answer = (True, function())
    except BaseException as error:
        error.add_note("In the child:\n" + "".join(traceback.format_tb(error.__traceback__)))
        answer = (False, error)
    pipe.send(answer)


def outcome(pipe: Connection) -> Any:
    """Wait for what a child reports; return its result, or raise its exception."""
    try:
        good, result = pipe.recv()
    except EOFError as error:
        raise ChildProcessError("the child died before it could report") from error
    if not good:
        raise result
    return result
