"""A read(2) that something comes in between of, just as it begins."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable
from multiprocessing.connection import Pipe
from typing import TypeVar

from vmtests import raw, syscalls
from vmtests.credentials import fork, outcome, report

T = TypeVar("T")

# What PTRACE_O_TRACESYSGOOD makes of the stop at a system call.
_SYSCALL_STOP = signal.SIGTRAP | 0x80

_INFO = struct.Struct("=B3xI2Q7Q")
_ENTRY = 1


def read_with_a_signal_pending(fd: int, size: int, *, restart: bool) -> tuple[bytes, int]:
    """Read in a child that gets a signal just as it enters ``read(2)``.

    The signal is handled; with ``restart``, by a handler that asks for calls to be restarted (SA_RESTART). Return
    the answer and how often the handler was called, or raise the read's error.
    """

    def interrupt(pid: int) -> None:
        os.kill(pid, signal.SIGUSR1)
        syscalls.ptrace(syscalls.PTRACE_CONT, pid)
        _wait_for_stop(pid, signal.SIGUSR1)
        syscalls.ptrace(syscalls.PTRACE_CONT, pid, data=signal.SIGUSR1)

    def prepare() -> Callable[[bytes], tuple[bytes, int]]:
        calls: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, _: calls.append(number))
        signal.siginterrupt(signal.SIGUSR1, not restart)
        return lambda answer: (answer, len(calls))

    return read_and(interrupt, fd, size, prepare)


def read_with_a_stop(fd: int, size: int) -> bytes:
    """Read in a child without handlers that is stopped just as it enters ``read(2)``, and continued later."""

    def interrupt(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        syscalls.ptrace(syscalls.PTRACE_CONT, pid)
        _wait_for_stop(pid, signal.SIGSTOP)
        syscalls.ptrace(syscalls.PTRACE_DETACH, pid, data=signal.SIGSTOP)
        _, status = os.waitpid(pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        os.kill(pid, signal.SIGCONT)

    return read_and(interrupt, fd, size, lambda: bytes)


def read_and(
    interrupt: Callable[[int], None],
    fd: int,
    size: int,
    prepare: Callable[[], Callable[[bytes], T]],
) -> T:
    """Read in a child, and ``interrupt`` it (its pid) when its tracer has stopped it at the entry of ``read(2)``.

    ``prepare`` is called in the child before, and what it returns makes the result of the answer. What is pending
    when ``interrupt`` continues the child is so when it goes on into the kernel.
    """
    ours, theirs = Pipe(duplex=False)

    def read() -> T:
        finish = prepare()
        syscalls.ptrace(syscalls.PTRACE_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        return finish(raw.read(fd, size))

    pid = fork(lambda: report(theirs, read))
    theirs.close()
    ended = False
    try:
        _, status = os.waitpid(pid, 0)
        if ended := not os.WIFSTOPPED(status):
            # It could not even prepare: the reason is raised here.
            outcome(ours)
            raise AssertionError("the child ended without a read")
        options = syscalls.PTRACE_O_TRACESYSGOOD | syscalls.PTRACE_O_EXITKILL
        syscalls.ptrace(syscalls.PTRACE_SETOPTIONS, pid, data=options)
        while not _enters(pid, fd, size):
            syscalls.ptrace(syscalls.PTRACE_SYSCALL, pid)
            _wait_for_stop(pid, _SYSCALL_STOP)
        interrupt(pid)
        result: T = outcome(ours)
    finally:
        ours.close()
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return result


def _enters(pid: int, fd: int, size: int) -> bool:
    # struct ptrace_syscall_info: op, arch, instruction and stack pointers, then at an entry nr and six arguments.
    memory = ctypes.create_string_buffer(_INFO.size)
    syscalls.ptrace(syscalls.PTRACE_GET_SYSCALL_INFO, pid, address=_INFO.size, data=ctypes.addressof(memory))
    op, _, _, _, _, first, _, third, *_ = _INFO.unpack(memory.raw)
    return bool(op == _ENTRY) and (first, third) == (fd, size)


def _wait_for_stop(pid: int, number: int) -> None:
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != number:
        raise AssertionError(f"the traced child has status {status:#x}, and not a stop by {number:#x}")
