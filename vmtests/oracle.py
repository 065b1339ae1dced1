"""What ``/proc/PID/*`` says: the truth that task_diag's answers are held against.

It reads the text files alone, and shares no code with the client. All functions take ``proc``, the root of a
procfs mount as a descriptor, so that it asks that very mount, with the caller's own rights. A process that is
gone is an OSError: ENOENT when its directory is not there (or hidden), ESRCH when it went while it was read.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass

PF_KTHREAD = 0x0020_0000

STAT = (
    *("state", "ppid", "pgrp", "session", "tty_nr", "tpgid", "flags"),
    *("minflt", "cminflt", "majflt", "cmajflt", "utime", "stime", "cutime", "cstime"),
    *("priority", "nice", "num_threads", "itrealvalue", "starttime", "vsize", "rss", "rsslim"),
    *("startcode", "endcode", "startstack", "kstkesp", "kstkeip"),
    *("signal", "blocked", "sigignore", "sigcatch", "wchan", "nswap", "cnswap"),
    *("exit_signal", "processor", "rt_priority", "policy"),
)
"""The fields of ``stat`` after the name, as proc(5) calls them, up to the last one that is used here."""
STATM = ("size", "resident", "shared", "text", "lib", "data", "dt")

_ESCAPED = re.compile(rb"\\(n|\\)")


@dataclass(frozen=True)
class Process:
    """One task, as ``stat`` and ``status`` have it; ids as the mount's pid namespace has them."""

    tgid: int
    pid: int
    ppid: int
    tpid: int
    sid: int
    pgid: int
    letter: str
    """The state, as ``ps`` prints it."""
    name: bytes
    """The command name, byte for byte. For a kernel thread it may be longer than its ``comm``."""
    kernel_thread: bool


def listed(proc: int) -> list[int]:
    """Return the processes that ``readdir`` shows, in its order."""
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return [int(name) for name in os.listdir(root) if name.isdecimal()]  # noqa: PTH208
    finally:
        os.close(root)


def threads(proc: int, pid: int) -> list[int]:
    """Return the thread ids of the process ``pid``."""
    folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
    try:
        return [int(name) for name in os.listdir(folder)]  # noqa: PTH208
    finally:
        os.close(folder)


def process(proc: int, pid: int | str) -> Process:
    """Return what is said of ``pid``, which may be any thread's id, or the path ``PID/task/TID``."""
    name, fields = parse_stat(content(proc, f"{pid}/stat"))
    lines = status(proc, str(pid))
    # Both files have the name and the state: reading both guards the parsers against each other.
    if lines["Name"] != name:
        raise AssertionError(f"stat says {name!r} and status says {lines['Name']!r} of process {pid}")
    return Process(
        tgid=int(lines["Tgid"]),
        pid=int(lines["Pid"]),
        ppid=int(lines["PPid"]),
        tpid=int(lines["TracerPid"]),
        sid=int(fields[3]),
        pgid=int(fields[2]),
        letter=fields[0].decode(),
        name=name,
        kernel_thread=bool(int(fields[6]) & PF_KTHREAD),
    )


def letter(proc: int, pid: int) -> str:
    """Return the state letter of ``pid``."""
    return parse_stat(content(proc, f"{pid}/stat"))[1][0].decode()


def stat(proc: int, task: str) -> dict[str, int]:
    """Return the numbers in ``stat`` by the names in ``STAT``, without the state.

    ``task`` is a path below the mount: ``PID`` for a process, ``PID/task/TID`` for a thread.
    """
    _, fields = parse_stat(content(proc, f"{task}/stat"))
    # The state is a letter.
    return {name: int(field) for name, field in zip(STAT[1:], fields[1:], strict=False)}


def statm(proc: int, task: str) -> dict[str, int]:
    """Return the numbers in ``statm``, in pages, by the names in ``STATM``."""
    return dict(zip(STATM, map(int, content(proc, f"{task}/statm").split()), strict=True))


def status(proc: int, task: str) -> dict[str, bytes]:
    """Return the lines of ``status``, as ``parse_status()``."""
    return parse_status(content(proc, f"{task}/status"))


def children(proc: int, pid: int) -> list[int]:
    """Return the children of all threads of ``pid``, ascending. They must not come and go meanwhile."""
    files = (content(proc, f"{pid}/task/{thread}/children") for thread in threads(proc, pid))
    return sorted(int(child) for file in files for child in file.split())


def cgroup(proc: int, task: str, hierarchy: int) -> int:
    """Return the inode of the task's folder in cgroup2, whose mount is the descriptor ``hierarchy``."""
    (path,) = re.findall(rb"^0::/(.*)$", content(proc, f"{task}/cgroup"), re.MULTILINE)
    return os.stat(path or b".", dir_fd=hierarchy).st_ino


def parse_stat(text: bytes) -> tuple[bytes, list[bytes]]:
    """Return the name in ``stat`` and the fields after it, the state first.

    The name is not escaped there and may hold ``)``: it ends at the last one.
    """
    start, end = text.index(b"("), text.rindex(b")")
    return text[start + 1 : end], text[end + 1 :].split()


def parse_status(text: bytes) -> dict[str, bytes]:
    """Return the lines of ``status`` by their names, the process name unescaped."""
    # Not splitlines(): a name may hold a carriage return, which is no line end here.
    pairs = (line.partition(b":\t") for line in text.split(b"\n") if line)
    status = {key.decode(): value for key, _, value in pairs}
    # The kernel escapes exactly these two in a name, and nothing else.
    status["Name"] = _ESCAPED.sub(lambda found: b"\n" if found[1] == b"n" else b"\\", status["Name"])
    return status


def content(proc: int, path: str) -> bytes:
    """Return the whole of a file below the mount."""
    with io.FileIO(os.open(path, os.O_RDONLY, dir_fd=proc)) as file:
        return file.readall()
