"""A read(2) that begins with a signal pending."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from multiprocessing.connection import Pipe

from vmtests import raw, syscalls
from vmtests.credentials import fork, outcome, report

# What PTRACE_O_TRACESYSGOOD makes of the stop at a system call.
_SYSCALL_STOP = signal.SIGTRAP | 0x80

_INFO = struct.Struct("=B3xI2Q7Q")
_ENTRY = 1


def read_with_a_signal_pending(fd: int, size: int) -> bytes:
    """Read in a child that gets a signal just as it enters ``read(2)``; return the answer, or raise its error.

    The signal is handled, by a handler that asks for calls to be restarted. Stopped by its tracer at the entry
    of the call, the child has the signal pending when it goes on into the kernel.
    """
    ours, theirs = Pipe(duplex=False)

    def read() -> bytes:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.siginterrupt(signal.SIGUSR1, False)
        syscalls.ptrace(syscalls.PTRACE_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        return raw.read(fd, size)

    pid = fork(lambda: report(theirs, read))
    theirs.close()
    try:
        _wait_for_stop(pid, signal.SIGSTOP)
        options = syscalls.PTRACE_O_TRACESYSGOOD | syscalls.PTRACE_O_EXITKILL
        syscalls.ptrace(syscalls.PTRACE_SETOPTIONS, pid, data=options)
        while not _enters(pid, fd, size):
            syscalls.ptrace(syscalls.PTRACE_SYSCALL, pid)
            _wait_for_stop(pid, _SYSCALL_STOP)
        os.kill(pid, signal.SIGUSR1)
        syscalls.ptrace(syscalls.PTRACE_CONT, pid)
        _wait_for_stop(pid, signal.SIGUSR1)
        syscalls.ptrace(syscalls.PTRACE_CONT, pid, data=signal.SIGUSR1)
        answer: bytes = outcome(ours)
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return answer


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
