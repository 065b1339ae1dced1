"""System calls that Python's standard library does not have; errors are OSError with errno."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct

CLONE_NEWTIME = 0x0000_0080
CLONE_VFORK = 0x0000_4000
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36

CAP_SYS_PTRACE = 19

PTRACE_TRACEME = 0
PTRACE_CONT = 7
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_SETOPTIONS = 0x4200
PTRACE_SEIZE = 0x4206
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_O_TRACESYSGOOD = 1
PTRACE_O_EXITKILL = 0x0010_0000

# These have the same number on every architecture that Linux gained or has had since 5.1, x86 among them.
_FSOPEN, _FSCONFIG, _FSMOUNT, _CLONE3 = 430, 431, 432, 435
_IO_URING_SETUP, _IO_URING_ENTER = 425, 426
_EXIT = {"x86_64": 60, "aarch64": 93, "s390x": 1}
_SETRESUID = {"x86_64": 117, "aarch64": 147, "s390x": 208}
_SETRESGID = {"x86_64": 119, "aarch64": 149, "s390x": 210}
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "s390x": 345}
_FSCONFIG_SET_STRING, _FSCONFIG_SET_FD, _FSCONFIG_CMD_CREATE = 1, 5, 6
_PR_SET_MM, _PR_SET_MM_ARG_START, _PR_SET_MM_ARG_END = 35, 8, 9
_MAP_FIXED = 0x10
_MNT_FORCE, _MNT_DETACH = 1, 2
_CAPABILITY_VERSION_3 = 0x2008_0522

_libc = ctypes.CDLL(None, use_errno=True)
# Unlike _libc, it keeps the interpreter's lock: for calls after which another process goes on with it.
_libc_locked = ctypes.PyDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def read(fd: int, address: int, size: int) -> int:
    """``read(2)`` into memory at ``address``, without Python's restart after EINTR."""
    return _checked(_signed(_libc.read(fd, ctypes.c_void_p(address), ctypes.c_size_t(size))))


def write(fd: int, address: int, size: int) -> int:
    """``write(2)`` from memory at ``address``."""
    return _checked(_signed(_libc.write(fd, ctypes.c_void_p(address), ctypes.c_size_t(size))))


def _signed(result: int) -> int:
    # ctypes takes the result for an int; all sizes here are far below 2 GiB.
    return int(result)


def mprotect_none(address: int, size: int) -> None:
    """Make every access to the pages at ``address`` fault."""
    _checked(_libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), 0))


def prctl(option: int, argument: int | bytes) -> None:
    """``prctl(2)`` with one argument."""
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    _checked(_libc.prctl(option, value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def set_arguments(start: int, end: int) -> None:
    """Have the caller's command line from ``start`` to ``end``, which are below where it has been so far."""
    for option, address in ((_PR_SET_MM_ARG_START, start), (_PR_SET_MM_ARG_END, end)):
        what, where = ctypes.c_ulong(option), ctypes.c_ulong(address)
        _checked(_libc.prctl(_PR_SET_MM, what, where, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def munmap(address: int, size: int) -> None:
    """``munmap(2)``."""
    _checked(_libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size)))


def mmap_over(address: int, size: int) -> None:
    """Map fresh private memory over what is mapped at ``address``: MAP_FIXED."""
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    _libc.mmap.restype = ctypes.c_void_p
    mapped = _libc.mmap(ctypes.c_void_p(address), ctypes.c_size_t(size), protection, flags, -1, ctypes.c_long(0))
    if mapped != address:
        _checked(-1)


def ptrace(request: int, pid: int, *, address: int = 0, data: int = 0) -> None:
    """``ptrace(2)``."""
    _checked(_libc.ptrace(ctypes.c_long(request), pid, ctypes.c_void_p(address), ctypes.c_void_p(data)))


def unshare(flags: int) -> None:
    """``unshare(2)``."""
    _checked(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """``setns(2)``."""
    _checked(_libc.setns(fd, kind))


def capset(permitted: int, *, effective: int | None = None, inheritable: int = 0) -> None:
    """Set the capabilities of this thread, as bit masks; ``effective`` defaults to all that are permitted."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    sets = (permitted if effective is None else effective, permitted, inheritable)
    words = [half for shift in (0, 32) for half in (mask >> shift & 0xFFFF_FFFF for mask in sets)]
    _checked(_libc.capset(header, struct.pack("=6I", *words)))


def set_file_ids(uid: int, gid: int) -> None:
    """``setfsuid(2)`` and ``setfsgid(2)``, which do not report errors."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def sched_deadline(*, runtime: int, period: int) -> None:
    """Put this thread under SCHED_DEADLINE: ``runtime`` of each ``period``, in nanoseconds."""
    attributes = struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, runtime, period, period)
    _checked(_libc.syscall(_SCHED_SETATTR[platform.machine()], 0, attributes, 0))


def mlock(address: int, size: int) -> None:
    """``mlock(2)``."""
    _checked(_libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)))


def swapon(device: str) -> None:
    """``swapon(2)``."""
    _checked(_libc.swapon(device.encode(), 0))


def swapoff(device: str) -> None:
    """``swapoff(2)``."""
    _checked(_libc.swapoff(device.encode()))


def take_ids(uid: int, gid: int) -> None:
    """Give the calling thread, and no other of its process, these ids; it drops its capabilities if it was root."""
    machine = platform.machine()
    _checked(_libc.syscall(_SETRESGID[machine], gid, gid, gid))
    _checked(_libc.syscall(_SETRESUID[machine], uid, uid, uid))


def exit_thread() -> None:
    """End the calling thread, and not its process, as ``pthread_exit()`` does. Never returns."""
    _libc.syscall(_EXIT[platform.machine()], 0)


def pause_alone() -> None:
    """``pause(2)``, without the interpreter's lock: other threads run meanwhile. Returns after a signal."""
    _libc.pause()


def clone(flags: int = 0, *, exit_signal: int = 17) -> int:
    """``clone3(2)`` as a fork; the parent gets ``exit_signal`` (SIGCHLD) at the child's end. Returns the pid, or 0."""
    arguments = struct.pack("=8Q", flags, 0, 0, 0, exit_signal, 0, 0, 0)
    return _checked(int(_libc_locked.syscall(_CLONE3, arguments, ctypes.c_size_t(len(arguments)))))


def vfork_and_pause() -> None:
    """Wait uninterruptibly, as ``vfork()`` does, for a child that only pauses. Never returns.

    The child has memory of its own, so that it may run Python for a moment; it dies with its parent.
    """
    if clone(CLONE_VFORK) == 0:
        prctl(PR_SET_PDEATHSIG, 9)
        while True:
            _libc_locked.pause()
    raise OSError(errno.ECHILD, "the vforked child ended")


def io_uring_setup(entries: int, parameters: ctypes.Array[ctypes.c_char]) -> int:
    """``io_uring_setup(2)``, which fills ``parameters`` in; return the descriptor of the ring."""
    return _checked(_libc.syscall(_IO_URING_SETUP, entries, parameters))


def io_uring_submit(ring: int, count: int) -> None:
    """``io_uring_enter(2)``, without waiting for anything."""
    assert _checked(_libc.syscall(_IO_URING_ENTER, ring, count, 0, 0, None, 0)) == count


def mount_at(kind: str, path: str, options: str) -> None:
    """``mount(2)`` of a file system that is on no device."""
    _checked(_libc.mount(b"none", path.encode(), kind.encode(), ctypes.c_ulong(0), options.encode()))


def umount(path: str) -> None:
    """Give up what waits for the file system at ``path``, and take it away."""
    _checked(_libc.umount2(path.encode(), _MNT_FORCE | _MNT_DETACH))


def mount(kind: str, *, pidns: int | None = None, **options: str) -> int:
    """Make a mount of the file system ``kind``, attached nowhere; return the descriptor of its root.

    ``pidns`` is, for procfs, a descriptor of the pid namespace to show (default: the caller's); ``options``
    are those of mount(8), such as ``hidepid="2"``.
    """
    context = _checked(_libc.syscall(_FSOPEN, kind.encode(), 1))
    try:
        for key, value in options.items():
            _checked(_libc.syscall(_FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0))
        if pidns is not None:
            _checked(_libc.syscall(_FSCONFIG, context, _FSCONFIG_SET_FD, b"pidns", None, pidns))
        _checked(_libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
        return _checked(_libc.syscall(_FSMOUNT, context, 1, 0))
    finally:
        os.close(context)
