"""Each group as ``/proc`` has it: the oracle's fields in the client's types."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

from taskdiag import Base, Cred, Group, Job, Mem, Sched, Stat, State, Strategy, Task, TaskDiag
from vmtests import oracle, raw
from vmtests.oracle import Process

T = TypeVar("T")

STATES = {
    "R": State.RUNNING,
    "S": State.INTERRUPTIBLE,
    "D": State.UNINTERRUPTIBLE,
    "T": State.STOPPED,
    "t": State.TRACE_STOP,
    "X": State.DEAD,
    "Z": State.ZOMBIE,
    "P": State.PARKED,
    "I": State.IDLE,
}

TICK = 10**9 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds of a clock tick, the unit of times in ``stat``."""

Started = int
"""What ``/proc`` has of IDENT: the start of the task, in clock ticks since boot."""
Line = bytes
"""A command line, as far as CMDLINE has it."""
Said = Base | Cred | Stat | Line | Started | Mem | Sched | Job
"""One group of one task."""


def expected(process: Process) -> Base:
    """Return BASE as ``/proc`` has it."""
    # task->comm is cut at 15 bytes, the names of kernel threads in /proc are not.
    return Base(
        tgid=process.tgid,
        pid=process.pid,
        ppid=process.ppid,
        tpid=process.tpid,
        sid=process.sid,
        pgid=process.pgid,
        state=STATES[process.letter],
        comm=process.name[:15],
    )


class Files:
    """The files of one task, each read when it is first needed, and then once.

    ``task`` is ``PID``, or ``PID/task/TID`` for one thread of it.
    """

    def __init__(self, proc: int, task: str) -> None:
        """Read nothing yet."""
        self._proc, self._task = proc, task

    @cached_property
    def process(self) -> Process:
        """What ``stat`` and ``status`` agree on."""
        return oracle.process(self._proc, self._task)

    @cached_property
    def stat(self) -> dict[str, int]:
        """The numbers in ``stat``."""
        return oracle.stat(self._proc, self._task)

    @cached_property
    def statm(self) -> dict[str, int]:
        """The numbers in ``statm``, in pages."""
        return oracle.statm(self._proc, self._task)

    @cached_property
    def status(self) -> dict[str, bytes]:
        """The lines of ``status``."""
        return oracle.status(self._proc, self._task)

    @cached_property
    def cmdline(self) -> bytes:
        """The whole of ``cmdline``."""
        return oracle.content(self._proc, f"{self._task}/cmdline")


def _base(files: Files) -> Base:
    return expected(files.process)


def _cred(files: Files) -> Cred:
    sets = (int(files.status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"))
    # Both lines have the real, the effective, the saved and the file system's id.
    return Cred(*sets, *(int(number) for name in ("Uid", "Gid") for number in files.status[name].split()))


def _stat(files: Files) -> Stat:
    names = ("minflt", "cminflt", "majflt", "cmajflt", "utime", "stime", "cutime", "cstime", "num_threads")
    return Stat(*(files.stat[name] for name in names))


def _cmdline(files: Files) -> Line:
    return files.cmdline[: raw.CMDLINE_MAX]


def _started(files: Files) -> Started:
    return files.stat["starttime"]


def _mem(files: Files) -> Mem:
    pages = {name: count * mmap.PAGESIZE for name, count in files.statm.items()}
    # A task without memory has no such lines.
    locked, swap, peak = (1024 * int(files.status.get(name, b"0").split()[0]) for name in ("VmLck", "VmSwap", "VmHWM"))
    return Mem(
        vsize=pages["size"],
        rss=pages["resident"],
        shared=pages["shared"],
        text=pages["text"],
        data=pages["data"],
        locked=locked,
        swap=swap,
        peak_rss=peak,
    )


def _sched(files: Files) -> Sched:
    return Sched(
        *(files.stat[name] for name in ("policy", "nice", "priority", "rt_priority", "processor")),
        *(int(files.status[f"{name}_ctxt_switches"]) for name in ("voluntary", "nonvoluntary")),
    )


def _job(files: Files) -> Job:
    return Job(*(files.stat[name] for name in ("tty_nr", "tpgid", "flags", "exit_signal")))


OF_PROC: Mapping[Group, Callable[[Files], Said]] = {
    Group.BASE: _base,
    Group.CRED: _cred,
    Group.STAT: _stat,
    Group.CMDLINE: _cmdline,
    Group.IDENT: _started,
    Group.MEM: _mem,
    Group.SCHED: _sched,
    Group.JOB: _job,
}
"""How each group is read from ``/proc``; inode and cgroup of IDENT are in none of its files."""

LEADERS_ONLY = frozenset({Group.CMDLINE, Group.MEM})
"""Groups that ALL_THREAD and THREAD show of leaders only."""

MOVING: Mapping[Group, tuple[str, ...]] = {
    Group.STAT: ("minflt", "cminflt", "majflt", "cmajflt", "utime", "stime", "cutime", "cstime"),
    Group.SCHED: ("nvcsw", "nivcsw"),
}
"""Fields that only ever grow."""

FIXED = (Group.CRED, Group.IDENT)
"""Groups that a running task does not change and change back: of JOB, some flags come and go."""


def of_proc(proc: int, task: str, groups: Collection[Group] = tuple(OF_PROC)) -> dict[Group, Said]:
    """Return ``groups`` as ``/proc`` has them."""
    files = Files(proc, task)
    return {group: read(files) for group, read in OF_PROC.items() if group in groups}


def of_thread(proc: int, pid: int, thread: int, groups: Collection[Group] = tuple(OF_PROC)) -> dict[Group, Said]:
    """Return what ALL_THREAD and THREAD should say of a thread: its own files; CMDLINE and MEM only of the leader."""
    said = of_proc(proc, f"{pid}/task/{thread}", groups)
    return {group: value for group, value in said.items() if thread == pid or group not in LEADERS_ONLY}


def if_there(read: Callable[[], T]) -> T | None:
    """Return what ``read`` returns, or None if the task that it reads of is gone."""
    for _ in range(100):
        try:
            return read()
        except (FileNotFoundError, ProcessLookupError):
            return None
        except AssertionError:
            # A worker whose work changed between its two files, and with it its name.
            continue
    raise AssertionError("the name of a task never stays the same")


def of_answer(task: Task) -> dict[Group, Said]:
    """Return the groups that came in an answer, in the form of ``of_proc()``."""
    said: dict[Group, Said | None] = {
        Group.BASE: task.base,
        Group.CRED: task.cred,
        Group.STAT: task.stat,
        Group.CMDLINE: task.cmdline,
        Group.IDENT: None if task.ident is None else task.ident.start_boottime // TICK,
        Group.MEM: task.mem,
        Group.SCHED: task.sched,
        Group.JOB: task.job,
    }
    return {group: value for group, value in said.items() if value is not None}


def compare(before: dict[Group, Said], said: dict[Group, Said], after: dict[Group, Said]) -> bool:
    """Check what an answer says against what ``/proc`` said before and after; return whether nothing moved.

    Of a task that did not move every field is compared. Of another, those of which the truth in between is known.
    """
    before, after = (_with_comm_of(truth, said) for truth in (before, after))
    assert said.keys() == before.keys()
    if before == after:
        assert said == _about_to_sleep(before, said)
        return True
    for group, fields in MOVING.items():
        for field in fields:
            low, value, high = (getattr(groups[group], field) for groups in (before, said, after))
            assert low <= value <= high, (group, field)
    for group in FIXED:
        if before[group] == after[group]:
            assert said[group] == before[group], group
    return False


def _about_to_sleep(truth: dict[Group, Said], said: dict[Group, Said]) -> dict[Group, Said]:
    # Who runs may have announced a sleep that a wake-up took back: nothing counts that.
    state, found = truth[Group.BASE], said[Group.BASE]
    assert isinstance(state, Base)
    assert isinstance(found, Base)
    if state.state is not State.RUNNING or found.state not in (State.INTERRUPTIBLE, State.UNINTERRUPTIBLE):
        return truth
    return truth | {Group.BASE: replace(state, state=found.state)}


def _with_comm_of(truth: dict[Group, Said], said: dict[Group, Said]) -> dict[Group, Said]:
    # Behind the comm of a worker /proc says what it works on.
    name, comm, job = truth[Group.BASE], said[Group.BASE], truth[Group.JOB]
    assert isinstance(name, Base)
    assert isinstance(comm, Base)
    assert isinstance(job, Job)
    if not job.flags & oracle.PF_KTHREAD or not name.comm.startswith(comm.comm):
        return truth
    return truth | {Group.BASE: replace(name, comm=comm.comm)}


def ask(
    fd: int, strategy: Strategy = Strategy.ALL, pid: int = 0, *, groups: Collection[Group] = tuple(OF_PROC)
) -> dict[int, Task]:
    """Send a request through an open file, which stays open; return the tasks by pid, in the order of the answer.

    It is sent again as long as the command line of a task that maps or forks at the moment is left out.
    """
    with TaskDiag(os.dup(fd)) as source:
        for _ in range(200):
            source.request(groups, strategy, pid=pid)
            found = list(source.tasks())
            if not any(task.cmdline_cut and len(task.cmdline or b"") < raw.CMDLINE_MAX for task in found):
                break
        else:
            raise AssertionError("a command line cannot be had")
    tasks = {task.pid: task for task in found}
    assert len(tasks) == len(found), "a number came twice"
    # One of all that there are may have ended when half of it was shown.
    assert all(task.complete for task in found) or not strategy.takes_pid
    return {pid: task for pid, task in tasks.items() if task.complete}


def one(fd: int, pid: int) -> Task:
    """Return every group of the task ``pid``."""
    (task,) = ask(fd, Strategy.ONE, pid).values()
    assert task.pid == pid
    return task


def agree(truth: Callable[[], T], answer: Callable[[], T]) -> T:
    """Check that ``answer`` gives the ``truth``, and return it; both may change until the task comes to rest.

    A task that ran meanwhile has other context switches: a truth that is the same before and after held in between.
    """
    for _ in range(100):
        before, said = truth(), answer()
        if before == truth():
            assert said == before
            return said
    raise AssertionError("the task never comes to rest")


def check(proc: int, fd: int, pid: int) -> dict[Group, Said]:
    """Check every group of the task ``pid`` against ``/proc``; return them."""
    return agree(lambda: of_proc(proc, str(pid)), lambda: of_answer(one(fd, pid)))
