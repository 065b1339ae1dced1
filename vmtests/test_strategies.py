"""The contract, "Which tasks": ALL_THREAD, CHILDREN and THREAD against ``/proc/PID/task`` and ``children``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from taskdiag import Base, Group, Strategy
from vmtests import oracle, raw, syscalls
from vmtests.credentials import ALICE, BOB, ROOT, Credentials, fork, handed_over, run_as
from vmtests.groups import agree, ask, if_there
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Gate, Population, exec_from_thread, in_thread, pause, start_threads, wait_for
from vmtests.raw import ALL_THREAD, CHILDREN, ONE, THREAD, Request


def found(fd: int, strategy: Strategy, pid: int = 0) -> list[tuple[int, int]]:
    """Return ``(pid, tgid)`` of each task, in the order of the answer."""
    return [(task.pid, task.tgid) for task in ask(fd, strategy, pid, groups=(Group.BASE,)).values()]


def numbers(fd: int, strategy: int, pid: int = 0) -> list[int]:
    """Return the pid of each message, in reads of one message each."""
    raw.ask(fd, Request(strategy=strategy, pid=pid))
    return raw.pids(b"".join(raw.drain(fd, raw.BASE)))


def listed(proc: int) -> list[tuple[int, int]]:
    """Return ``(tid, pid)`` of each thread in the ``task`` directories, ascending."""
    return sorted(
        (thread, pid)
        for pid in oracle.listed(proc)
        for thread in if_there(lambda pid=pid: oracle.threads(proc, pid)) or ()  # type: ignore[misc]
    )


def refused(fd: int, size: int = 4096) -> str:
    """Return the name of the error that a read gives; it has to end the request."""
    with pytest.raises(OSError) as caught:
        raw.read(fd, size)
    assert raw.read(fd, 4096) == b""
    return errno.errorcode[caught.value.errno or 0]


# Threads


@pytest.mark.promise("O1", "O2", "N1")
def test_all_thread_is_what_the_task_directories_have(world: PidNamespace, task_diag: int, gate: Gate) -> None:
    """Of two processes whose thread ids interleave."""

    def live() -> None:
        gate.wait()
        start_threads(2)
        pause()

    first = world.spawn(partial(start_threads, 2), live)
    second = world.spawn(partial(start_threads, 1), live)
    world.sleeping()
    world.zombie()
    for _ in (first, second):
        gate.open()
    proc = world.procfs.fd
    for pid, count in ((first, 5), (second, 4)):
        wait_for(lambda pid=pid, count=count: len(oracle.threads(proc, world.number(pid))) == count, "all threads")  # type: ignore[misc]
    everyone = listed(proc)
    assert len(everyone) == 1 + 5 + 4 + 1 + 1
    tgids = [tgid for _, tgid in everyone]
    assert tgids != sorted(tgids), "the thread ids do not interleave"
    assert found(task_diag, Strategy.ALL_THREAD) == everyone
    assert numbers(task_diag, ALL_THREAD) == [thread for thread, _ in everyone]


@pytest.mark.promise("O1", "O2")
def test_all_thread_of_the_whole_machine(proc: int, whole_machine: int) -> None:
    """Kernel threads come and go: who is listed before and after has to be shown."""
    before = set(listed(proc))
    tasks = found(whole_machine, Strategy.ALL_THREAD)
    after = set(listed(proc))
    assert tasks == sorted(set(tasks))
    assert before & after <= set(tasks)
    passing = set(tasks) - before - after
    assert not passing & set(listed(proc))


@pytest.mark.promise("O1", "O2", "W8")
def test_thread_shows_the_same_threads_for_any_of_them(world: PidNamespace, task_diag: int) -> None:
    number = world.number(world.spawn(partial(start_threads, 4), state="S"))
    world.spawn(partial(start_threads, 2))
    threads = sorted(oracle.threads(world.procfs.fd, number))
    assert len(threads) == 5
    for thread in threads:
        assert found(task_diag, Strategy.THREAD, thread) == [(each, number) for each in threads]
        assert numbers(task_diag, THREAD, thread) == threads
    assert found(task_diag, Strategy.THREAD, 1) == [(1, 1)]


@pytest.mark.promise("O1", "O2")
@pytest.mark.parametrize("size", [raw.BASE, 4096])
def test_many_threads_among_few_and_among_more(world: PidNamespace, task_diag: int, gate: Gate, size: int) -> None:
    """Looking through the process's threads is less work for the one, looking through all pids for the other.

    The pids wrap meanwhile, so that neither has its threads in the order of their ids.
    """
    world.spawn(lambda: Path("/proc/sys/kernel/pid_max").write_text("1000"))
    world.spawn_as(920)

    def live(first: int, second: int) -> None:
        start_threads(first)
        gate.wait()
        start_threads(second)
        pause()

    pids = [world.spawn(then=partial(live, *counts)) for counts in ((32, 32), (20, 300))]
    proc = world.procfs.fd
    processes = [world.number(pid) for pid in pids]
    for process, count in zip(processes, (33, 21), strict=True):
        wait_for(lambda process=process, count=count: len(oracle.threads(proc, process)) == count, "the first threads")  # type: ignore[misc]
    gate.open()
    gate.open()
    for process, count in zip(processes, (65, 321), strict=True):
        wait_for(lambda process=process, count=count: len(oracle.threads(proc, process)) == count, "all threads")  # type: ignore[misc]
        threads = sorted(oracle.threads(proc, process))
        assert threads[0] < process, "the pids did not wrap"
        for start in (0, threads[40], process):
            raw.ask(task_diag, Request(strategy=THREAD, pid=process, start=start))
            found = raw.pids(b"".join(raw.drain(task_diag, size)))
            assert found == [thread for thread in threads if thread >= start]


@pytest.mark.promise("G5", "O1", "O2")
@pytest.mark.parametrize("strategy", [ALL_THREAD, THREAD])
def test_mem_comes_with_leaders_only(world: PidNamespace, task_diag: int, strategy: int) -> None:
    """A request for nothing else gives bare messages of the other threads."""
    number = world.number(world.spawn(partial(start_threads, 2), state="S"))
    threads = sorted(oracle.threads(world.procfs.fd, number))
    for show, others in ((1 << 7, set()), (1 << 7 | 1 << 9, {9}), (raw.SHOW_FIXED, set(raw.SIZES) - {7})):
        # The first size holds a message of the largest group.
        for size in (raw.size_of(4), 4096):
            raw.ask(task_diag, Request(strategy=strategy, pid=number if strategy == THREAD else 0, show=show))
            kinds: dict[int, set[int]] = {}
            for answer in raw.answers(b"".join(raw.drain(task_diag, size))):
                kinds.setdefault(answer.pid, set()).update(kind for kind, _ in raw.attributes(answer))
            whole = {kind for kind in raw.SIZES if show >> kind & 1}
            assert {thread: kinds[thread] for thread in threads} == {
                thread: whole if thread == number else others for thread in threads
            }
    for thread in threads:
        # ONE shows it of any thread.
        raw.ask(task_diag, Request(strategy=ONE, pid=thread, show=1 << 7))
        (answer,) = raw.answers(b"".join(raw.drain(task_diag)))
        assert [kind for kind, _ in raw.attributes(answer)] == [7]


@pytest.mark.promise("O2", "G3")
def test_a_process_whose_leader_has_exited_still_has_its_threads(world: PidNamespace, task_diag: int) -> None:
    def have_child() -> None:
        if os.fork() == 0:
            pause()
        ready.set()
        threading.Event().wait()

    ready = threading.Event()

    def live() -> None:
        in_thread(have_child)
        ready.wait()
        start_threads(1)

    pid = world.spawn(live, syscalls.exit_thread, state="Z")
    number, proc = world.number(pid), world.procfs.fd
    threads = sorted(oracle.threads(proc, number))
    assert len(threads) == 3
    assert oracle.letter(proc, number) == "Z"
    (child,) = oracle.children(proc, number)
    everyone = [(1, 1), *((thread, number) for thread in threads), (child, child)]
    assert found(task_diag, Strategy.ALL_THREAD) == sorted(everyone) == listed(proc)
    for thread in threads:
        assert numbers(task_diag, THREAD, thread) == threads
        assert numbers(task_diag, CHILDREN, thread) == [child]


# Children


@dataclass(frozen=True)
class Family:
    """Processes of a pid namespace; all pids are those in it."""

    namespace: PidNamespace
    head: int
    """Its leader and another thread have children, one of which is a zombie."""
    threads: list[int]
    """All threads of the head."""


@pytest.fixture
def family(world: PidNamespace) -> Family:
    """Make it."""

    def child(*first: Callable[[], object], then: Callable[[], object] = pause) -> None:
        if os.fork() == 0:
            for prepare in first:
                prepare()
            then()
            os._exit(0)

    def have_children() -> None:
        child()
        child()
        done.set()
        threading.Event().wait()

    done = threading.Event()

    def live() -> None:
        child()
        child(then=lambda: None)
        child(child, child)
        child(os.setsid)
        child(os.setpgrp)
        in_thread(have_children)
        done.wait()

    head = world.number(world.spawn(live, state="S"))
    world.sleeping()
    proc = world.procfs.fd
    wait_for(lambda: len(oracle.listed(proc)) == 1 + 1 + 7 + 2 + 1, "the whole family")
    wait_for(lambda: [oracle.letter(proc, pid) for pid in oracle.children(proc, head)].count("Z") == 1, "a zombie")
    return Family(world, head, oracle.threads(proc, head))


@pytest.mark.promise("O1", "O2", "G4")
def test_children_are_those_whose_parent_base_names(family: Family, task_diag: int) -> None:
    proc = family.namespace.procfs.fd
    parents = {pid: task.base.ppid for pid, task in ask(task_diag).items() if task.base}
    by_parent = {pid: [child for child, parent in parents.items() if parent == pid] for pid in parents}
    assert sorted(map(len, by_parent.values()))[-2:] == [2, 7]
    for pid, children in by_parent.items():
        assert numbers(task_diag, CHILDREN, pid) == children == oracle.children(proc, pid)
        assert found(task_diag, Strategy.CHILDREN, pid) == [(child, child) for child in children]


@pytest.mark.promise("O2", "W8")
def test_children_of_a_thread_are_those_of_its_process(family: Family, task_diag: int) -> None:
    proc = family.namespace.procfs.fd
    assert len(family.threads) == 2
    by_thread = [oracle.content(proc, f"{family.head}/task/{thread}/children").split() for thread in family.threads]
    assert sorted(map(len, by_thread)) == [2, 5], "one of the threads has no children of its own"
    for thread in family.threads:
        assert numbers(task_diag, CHILDREN, thread) == oracle.children(proc, family.head)


@pytest.mark.promise("O2")
@pytest.mark.core
def test_who_is_traced_is_not_the_tracers_child(machine: Population, whole_machine: int) -> None:
    pid = machine.sleeping()
    tracer = machine.spawn(partial(syscalls.ptrace, syscalls.PTRACE_SEIZE, pid), state="S")
    assert numbers(whole_machine, CHILDREN, tracer) == []
    assert {pid, tracer} <= set(numbers(whole_machine, CHILDREN, os.getpid()))


@pytest.mark.promise("O2", "R2")
def test_no_children_is_an_empty_answer(world: PidNamespace, task_diag: int) -> None:
    for pid in (world.sleeping(), world.zombie()):
        raw.ask(task_diag, Request(strategy=CHILDREN, pid=world.number(pid)))
        assert raw.read(task_diag, 1) == b""
        raw.ask(task_diag, Request())
        raw.drain(task_diag)


@pytest.mark.promise("O2")
def test_children_of_the_test_itself(machine: Population, proc: int, whole_machine: int) -> None:
    pids = {machine.sleeping(), machine.zombie(), machine.spawn(partial(start_threads, 2))}
    children = numbers(whole_machine, CHILDREN, os.getpid())
    assert pids <= set(children)
    assert children == oracle.children(proc, os.getpid())


@pytest.mark.promise("O2", "G4", "R3")
def test_orphans_are_children_of_the_subreaper(world: PidNamespace, task_diag: int, gate: Gate) -> None:
    def live() -> None:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork() == 0:
            for _ in range(3):
                if os.fork() == 0:
                    pause()
            gate.wait()
            os._exit(0)

    reaper = world.number(world.spawn(live, state="S"))
    proc = world.procfs.fd
    wait_for(lambda: len(oracle.listed(proc)) == 6, "the children's children")
    (parent,) = numbers(task_diag, CHILDREN, reaper)
    children = numbers(task_diag, CHILDREN, parent)
    assert len(children) == 3

    # A dump of each is left after its first child.
    of_parent, of_reaper = world.procfs.open(), world.procfs.open()
    raw.ask(of_parent, Request(strategy=CHILDREN, pid=parent))
    assert raw.pids(raw.read(of_parent, raw.BASE)) == children[:1]
    raw.ask(of_reaper, Request(strategy=CHILDREN, pid=reaper))
    assert raw.pids(raw.read(of_reaper, raw.BASE)) == [parent]
    raw.ask(task_diag, Request(strategy=CHILDREN, pid=parent))
    gate.open()
    wait_for(lambda: parent not in oracle.listed(proc), "the parent's end")
    assert raw.read(of_parent, 4096) == b"", "a dump goes on although its target has died"
    # The walk may have looked ahead for the reaper's next child before it had these.
    assert raw.pids(raw.read(of_reaper, 4096)) in (children, [])
    assert refused(task_diag) == "ESRCH"
    os.close(of_parent)
    os.close(of_reaper)
    assert numbers(task_diag, CHILDREN, reaper) == children == oracle.children(proc, reaper)
    assert {task.base.ppid for task in ask(task_diag, Strategy.CHILDREN, reaper).values() if task.base} == {reaper}


@pytest.mark.promise("O2", "G4")
@pytest.mark.core
def test_a_child_is_shown_with_the_parent_that_it_is_shown_for(world: PidNamespace, task_diag: int) -> None:
    """The parent is killed while its children are looked at."""

    def live() -> None:
        for _ in range(4):
            fork(pause)

    for _ in range(15):
        pid = world.spawn(live, state="S")
        number = world.number(pid)
        wait_for(lambda number=number: len(oracle.children(world.procfs.fd, number)) == 4, "the children")  # type: ignore[misc]
        raw.ask(task_diag, Request(strategy=CHILDREN, pid=number))
        os.kill(pid, signal.SIGKILL)
        try:
            answers = list(raw.answers(b"".join(raw.drain(task_diag))))
        except ProcessLookupError:
            answers = []
        assert {Base.decode(payload).ppid for answer in answers for _, payload in raw.attributes(answer)} <= {number}
        world.reap(pid)


# The target


STRATEGIES = pytest.mark.parametrize("strategy", [CHILDREN, THREAD], ids=["CHILDREN", "THREAD"])


def live_as_family() -> None:
    """Have two children and two threads."""
    for _ in range(2):
        if os.fork() == 0:
            pause()
    start_threads(2)


@STRATEGIES
@pytest.mark.promise("R3")
@pytest.mark.parametrize("pid", [4_194_303, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_missing_target_ends_the_request(whole_machine: int, strategy: int, pid: int) -> None:
    for size in (1, raw.BASE, 4096):
        for show in (0, raw.SHOW_BASE, raw.SHOW_FIXED):
            raw.ask(whole_machine, Request(strategy=strategy, pid=pid, show=show))
            assert raw.read(whole_machine, 0) == b""
            assert refused(whole_machine, size) == "ESRCH"


@pytest.mark.promise("R3", "N1")
@pytest.mark.parametrize("strategy", [ONE, CHILDREN, THREAD])
def test_a_number_that_no_task_has_is_missing(world: PidNamespace, task_diag: int, strategy: int) -> None:
    """One is still the number of a process group, the other that of a process outside the namespace."""
    leader = world.spawn(os.setpgrp)
    number = world.number(leader)
    world.spawn(partial(os.setpgid, 0, number))
    world.kill(leader)
    (member,) = set(oracle.listed(world.procfs.fd)) - {1}
    assert oracle.process(world.procfs.fd, member).pgid == number
    for pid in (number, os.getpid()):
        raw.ask(task_diag, Request(strategy=strategy, pid=pid))
        assert refused(task_diag, 1) == "ESRCH"


@STRATEGIES
@pytest.mark.promise("R3", "W8")
def test_a_target_that_is_gone_before_the_first_read_is_missing(world: PidNamespace, strategy: int) -> None:
    """Also if another process has its number by then."""
    pid = world.spawn(live_as_family)
    number = world.number(pid)
    early, late = ([world.procfs.open() for _ in range(3)] for _ in range(2))
    for fds in (early, late):
        for fd, thread in zip(fds, oracle.threads(world.procfs.fd, number), strict=True):
            raw.ask(fd, Request(strategy=strategy, pid=thread))
    world.kill(pid)
    assert {refused(fd) for fd in early} == {"ESRCH"}
    world.spawn_as(number)
    assert {refused(fd, 1) for fd in late} == {"ESRCH"}
    for fd in early + late:
        os.close(fd)


@STRATEGIES
@pytest.mark.promise("R3", "W8", "C3")
@pytest.mark.parametrize("reused", [False, True])
def test_a_target_that_dies_in_the_middle_ends_the_dump(
    world: PidNamespace, task_diag: int, strategy: int, reused: bool
) -> None:
    """Also if another process has its number by then."""
    pid = world.spawn(live_as_family)
    number = world.number(pid)
    raw.ask(task_diag, Request(strategy=strategy, pid=number))
    waiting = world.procfs.open()
    raw.ask(waiting, Request(strategy=strategy, pid=number))
    assert len(raw.pids(raw.read(task_diag, raw.BASE))) == 1
    with pytest.raises(OSError) as caught:
        raw.read(waiting, 1)
    assert caught.value.errno == errno.EMSGSIZE
    world.kill(pid)
    if reused:
        world.spawn_as(number)
    for fd in (task_diag, waiting):
        assert raw.read(fd, 4096) == b""
    os.close(waiting)


@pytest.mark.promise("W8")
def test_a_target_outlives_the_thread_that_was_named(world: PidNamespace, task_diag: int, gate: Gate) -> None:
    def live() -> None:
        live_as_family()
        in_thread(gate.wait)

    pid = world.spawn(live, state="S")
    number, proc = world.number(pid), world.procfs.fd
    threads = sorted(oracle.threads(proc, number))
    assert len(threads) == 4
    other = world.procfs.open()
    raw.ask(task_diag, Request(strategy=THREAD, pid=threads[-1]))
    raw.ask(other, Request(strategy=CHILDREN, pid=threads[-1]))
    gate.open()
    wait_for(lambda: len(oracle.threads(proc, number)) == 3, "the thread's end")
    assert raw.pids(raw.read(task_diag, 4096)) == threads[:-1]
    assert raw.pids(raw.read(other, 4096)) == oracle.children(proc, number)
    os.close(other)


@dataclass(frozen=True)
class GatedExec:
    """A process that execs from a thread when it is told; ``number`` and ``threads`` are pids of its namespace."""

    namespace: PidNamespace
    pid: int
    """In the test's own namespace."""
    number: int
    threads: list[int]
    """Ascending; one in the middle will exec."""
    gate: Gate

    def execute(self) -> None:
        """Let it exec; it is then stopped, with one thread."""
        self.gate.open()
        os.waitpid(self.pid, os.WUNTRACED)
        assert oracle.threads(self.namespace.procfs.fd, self.number) == [self.number]


@pytest.fixture
def gated(world: PidNamespace, gate: Gate) -> GatedExec:
    """Make one that has two children."""

    def live() -> None:
        for _ in range(2):
            if os.fork() == 0:
                pause()
        start_threads(2)
        exec_from_thread(gate)
        start_threads(2)

    pid = world.spawn(live)
    number = world.number(pid)
    threads = sorted(oracle.threads(world.procfs.fd, number))
    assert len(threads) == 6
    return GatedExec(world, pid, number, threads, gate)


@pytest.mark.promise("O2", "W8")
@pytest.mark.parametrize("strategy", [ALL_THREAD, THREAD])
@pytest.mark.parametrize("read", [0, 1, 2, 4, 6])
def test_an_exec_by_a_thread_in_the_middle_shows_no_number_twice(
    gated: GatedExec, task_diag: int, strategy: int, read: int
) -> None:
    """The thread takes over the leader's number, which the dump has shown already or has yet to show."""
    raw.ask(task_diag, Request(strategy=strategy, pid=gated.number if strategy == THREAD else 0))
    seen: list[int] = []
    own: list[int] = []
    while len(own) < read:
        (answer,) = raw.answers(raw.read(task_diag, raw.BASE))
        seen.append(answer.pid)
        if answer.tgid == gated.number:
            own.append(answer.pid)
    assert own == gated.threads[:read]
    gated.execute()
    answers = list(raw.answers(b"".join(raw.drain(task_diag))))
    assert [answer.pid for answer in answers if answer.tgid == gated.number] == ([] if read else [gated.number])
    seen += [answer.pid for answer in answers]
    assert seen == sorted(set(seen))
    if strategy == ALL_THREAD:
        assert set(oracle.listed(gated.namespace.procfs.fd)) <= set(seen)


@pytest.mark.promise("W8")
@pytest.mark.parametrize("index", range(6))
def test_a_target_is_the_process_whichever_thread_was_named(gated: GatedExec, task_diag: int, index: int) -> None:
    """After the exec, the thread that was named is gone or has the leader's number."""
    target = gated.threads[index]
    other = gated.namespace.procfs.open()
    raw.ask(task_diag, Request(strategy=THREAD, pid=target))
    raw.ask(other, Request(strategy=CHILDREN, pid=target))
    gated.execute()
    children = oracle.children(gated.namespace.procfs.fd, gated.number)
    assert raw.pids(raw.read(task_diag, 4096)) == [gated.number]
    assert raw.pids(raw.read(other, 4096)) == children
    assert len(children) == 2
    os.close(other)


@pytest.mark.promise("W8", "O2")
def test_an_exec_of_the_target_does_not_end_a_dump_of_its_children(gated: GatedExec, task_diag: int) -> None:
    children = oracle.children(gated.namespace.procfs.fd, gated.number)
    raw.ask(task_diag, Request(strategy=CHILDREN, pid=gated.number))
    assert raw.pids(raw.read(task_diag, raw.BASE)) == children[:1]
    gated.execute()
    assert raw.pids(raw.read(task_diag, raw.BASE)) == children[1:]


# What comes and goes


@pytest.mark.promise("O2", "O1")
def test_a_thread_that_stays_is_shown_once_whatever_others_do(world: PidNamespace, task_diag: int, gate: Gate) -> None:
    """In the middle of the dump a thread ends that has been shown, and others start."""

    def more() -> None:
        gate.wait()
        start_threads(2)
        if os.fork() == 0:
            pause()
        pause()

    def live() -> None:
        in_thread(gate.wait)
        start_threads(3)

    pid = world.spawn(live, more)
    number, proc = world.number(pid), world.procfs.fd
    threads = sorted(oracle.threads(proc, number))
    raw.ask(task_diag, Request(strategy=THREAD, pid=number))
    seen = [raw.pids(raw.read(task_diag, raw.BASE))[0] for _ in range(3)]
    assert seen == threads[:3]
    gate.open()
    gate.open()
    wait_for(
        lambda: (
            len(oracle.threads(proc, number)) == len(threads) + 1
            and not set(threads) <= set(oracle.threads(proc, number))
        ),
        "threads that come and go",
    )
    rest = raw.pids(b"".join(raw.drain(task_diag, raw.BASE)))
    stayed = set(threads) & set(oracle.threads(proc, number))
    assert rest == sorted(set(rest))
    assert not set(rest) & set(seen)
    assert stayed <= set(seen) | set(rest) <= set(threads) | set(oracle.threads(proc, number))


PID_MAX = 400
STORM = 1.0
"""Seconds that a storm lasts."""
FEW = 20
"""A storm that has shown no more tasks than this has not begun."""


def fork_from_threads() -> None:
    """Start threads, each of which forks and waits for its child, for ever."""

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    while True:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()


def adopt_orphans() -> None:
    """Fork children that fork and end at once, and become the parent of what they leave behind, for ever."""
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.003)
            os._exit(0)
        time.sleep(0.001)


def of_proc(proc: int, strategy: int, number: int) -> set[int]:
    """Return who is listed of a process in a storm; who comes and goes may be left out."""
    found: set[int] = set()
    threads = set(oracle.threads(proc, number))
    if strategy != CHILDREN:
        found |= threads
    if strategy != THREAD:
        for thread in threads:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found |= {int(pid) for pid in oracle.content(proc, f"{number}/task/{thread}/children").split()}
    return found


@pytest.mark.promise("O1", "O2", "O3", "O4", "W8")
@pytest.mark.deadline(30)
@pytest.mark.parametrize("size", [raw.BASE, 65536])
@pytest.mark.parametrize("kind", ["threads and forks", "orphans", "exec by a thread", "pids that wrap"])
def test_who_stays_is_shown_exactly_once_in_a_storm(
    world: PidNamespace, task_diag: int, gate: Gate, execer: Path, kind: str, size: int
) -> None:
    """What ``/proc`` lists before and after a dump has to be in it, too, unless its number may be another's."""
    bodies: dict[str, Callable[[], object]] = {
        "threads and forks": fork_from_threads,
        "orphans": adopt_orphans,
        "exec by a thread": lambda: os.execv(execer, [execer.name]),
        "pids that wrap": fork_from_threads,
    }

    def live() -> None:
        for _ in range(3):
            if os.fork() == 0:
                pause()
        start_threads(3)

    def go_on() -> None:
        gate.wait()
        bodies[kind]()

    if kind == "pids that wrap":
        world.spawn(lambda: Path("/proc/sys/kernel/pid_max").write_text(str(PID_MAX)))
        # Some of those that stay have the last numbers, and some the first after the wrap.
        world.spawn_as(PID_MAX - 4)
    pid = world.spawn(live, go_on)
    number, proc = world.number(pid), world.procfs.fd
    children, threads = set(oracle.children(proc, number)), set(oracle.threads(proc, number))
    assert (len(children), len(threads)) == (3, 4)
    if kind == "exec by a thread":
        threads = {number}
    stay = {ALL_THREAD: threads | children, THREAD: threads, CHILDREN: children}
    gate.open()
    if kind == "exec by a thread":
        comm = execer.name[:15].encode()
        wait_for(lambda: oracle.parse_stat(oracle.content(proc, f"{number}/stat"))[0] == comm, "an exec")
    seen: set[int] = set()
    end = time.monotonic() + STORM
    while time.monotonic() < end or (len(seen) <= FEW and kind != "exec by a thread"):
        for strategy in stay:
            before = of_proc(proc, strategy, number)
            raw.ask(task_diag, Request(strategy=strategy, pid=0 if strategy == ALL_THREAD else number))
            answers = list(raw.answers(b"".join(raw.drain(task_diag, size))))
            lasting = before & of_proc(proc, strategy, number)
            pids = [answer.pid for answer in answers]
            assert pids == sorted(set(pids))
            assert stay[strategy] <= set(pids)
            if kind != "pids that wrap":
                assert lasting <= set(pids)
            assert all(answer.tgid > 0 for answer in answers)
            if strategy == THREAD:
                assert {answer.tgid for answer in answers} == {number}
            if strategy == CHILDREN:
                assert all(answer.pid == answer.tgid != number for answer in answers)
            seen |= set(pids)
    if kind == "pids that wrap":
        assert max(seen) < PID_MAX
    # An exec that ends the other threads forgets a stop that is on its way to them.
    while os.waitpid(pid, os.WUNTRACED | os.WNOHANG) == (0, 0):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.01)
    for strategy in (THREAD, CHILDREN):
        agree(
            lambda strategy=strategy: sorted(of_proc(proc, strategy, number)),  # type: ignore[misc]
            lambda strategy=strategy: numbers(task_diag, strategy, number),  # type: ignore[misc]
        )


# Where a dump starts


@pytest.mark.promise("W9", "O1", "O2")
@pytest.mark.core
@pytest.mark.parametrize("strategy", [ALL_THREAD, CHILDREN, THREAD])
def test_a_dump_starts_at_any_number(family: Family, task_diag: int, strategy: int) -> None:
    """At each task, just before and just behind it; and it can be given up and resumed at any."""
    pid = 0 if strategy == ALL_THREAD else family.head
    everyone = numbers(task_diag, strategy, pid)
    assert len(everyone) == {ALL_THREAD: 13, CHILDREN: 7, THREAD: 2}[strategy]
    for start in {0, 1, 5000, *everyone, *(each - 1 for each in everyone), *(each + 1 for each in everyone)}:
        for size in (raw.BASE, 65536):
            raw.ask(task_diag, Request(strategy=strategy, pid=pid, start=start))
            assert raw.pids(b"".join(raw.drain(task_diag, size))) == [each for each in everyone if each >= start]
    resumed: list[int] = []
    while True:
        fd = family.namespace.procfs.open()
        raw.ask(fd, Request(strategy=strategy, pid=pid, start=resumed[-1] + 1 if resumed else 0))
        part = raw.pids(raw.read(fd, raw.BASE))
        os.close(fd)
        if not part:
            break
        resumed += part
    assert resumed == everyone


@pytest.mark.promise("W9", "W6", "R2")
@pytest.mark.core
@pytest.mark.parametrize("strategy", [ALL_THREAD, CHILDREN, THREAD])
@pytest.mark.parametrize("start", [4_194_303, 4_194_304, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_above_every_pid_the_answer_is_empty(family: Family, task_diag: int, strategy: int, start: int) -> None:
    pid = 0 if strategy == ALL_THREAD else family.head
    raw.ask(task_diag, Request(strategy=strategy, pid=pid, start=start))
    assert raw.read(task_diag, 1) == b""
    assert numbers(task_diag, strategy, pid)


@pytest.mark.promise("O1", "O2", "W9")
@pytest.mark.core
def test_numbers_above_16_bits_are_shown(world: PidNamespace, task_diag: int, gate: Gate) -> None:
    """Threads and children up to the last number that there can be; the leader's is the lowest."""

    def live() -> None:
        gate.wait()
        start_threads(1)
        if os.fork() == 0:
            pause()
        pause()

    number = world.number(world.spawn(partial(start_threads, 1), live))
    proc = world.procfs.fd
    world.spawn_as(1_000_000)
    gate.open()
    wait_for(lambda: len(oracle.children(proc, number)) == 1, "the child")
    threads, (child,) = sorted(oracle.threads(proc, number)), oracle.children(proc, number)
    assert threads[-1] > 1_000_000 < child
    assert numbers(task_diag, THREAD, number) == threads
    assert numbers(task_diag, CHILDREN, threads[-1]) == [child]
    assert numbers(task_diag, ALL_THREAD) == sorted([1, *threads, 1_000_000, child])
    raw.ask(task_diag, Request(strategy=THREAD, pid=number, start=1_000_000))
    assert raw.pids(raw.read(task_diag, 4096)) == threads[-1:]


# What may not be read


Outcome = str | list[tuple[int, bool]]
"""The name of an error, or the pid of each message and whether it has groups."""


@dataclass(frozen=True)
class House:
    """Two processes, alice's and root's, that have threads, and children of several users."""

    world: PidNamespace
    threads: dict[int, list[int]]
    """Of every process, by pid."""
    children: dict[int, list[int]]
    """Of the two processes."""
    readable: set[int]
    """The processes that are alice's."""


@pytest.fixture
def house(world: PidNamespace, gate: Gate) -> House:
    """Make it."""

    def be(who: Credentials) -> None:
        who.take()
        gate.open()
        pause()

    def live(who: Credentials) -> None:
        for child in (ALICE, BOB, ROOT):
            fork(partial(be, child))
            gate.wait()
        who.take()
        start_threads(2)

    parents = [world.number(world.spawn(partial(live, who))) for who in (ALICE, ROOT)]
    proc = world.procfs.fd
    threads = {pid: sorted(oracle.threads(proc, pid)) for pid in sorted(oracle.listed(proc))}
    children = {pid: oracle.children(proc, pid) for pid in parents}
    assert [len(threads[pid]) for pid in parents] == [len(children[pid]) for pid in parents] == [3, 3]
    return House(world, threads, children, {parents[0], *(children[pid][0] for pid in parents)})


def outcome(fd: int, request: Request) -> Outcome:
    """Return what comes of a request."""
    raw.ask(fd, request)
    try:
        return [(answer.pid, bool(answer.attributes)) for answer in raw.answers(b"".join(raw.drain(fd)))]
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def seen_by_alice(house: House, hidepid: str, show: int) -> dict[Request, Outcome]:
    """Return what has to come of requests for all, and for each process and thread, if alice opened the file."""

    def visible(pid: int) -> bool:
        return hidepid in "01" or pid in house.readable

    def readable(pid: int) -> bool:
        return hidepid == "0" or pid in house.readable

    def shown(pid: int, thread: int) -> tuple[int, bool]:
        return thread, bool(show) and readable(pid)

    outcomes: dict[Request, Outcome] = {
        Request(show=show): [shown(pid, pid) for pid in house.threads if visible(pid)],
        Request(show=show, strategy=ALL_THREAD): sorted(
            shown(pid, thread)
            for pid, threads in house.threads.items()
            if visible(pid)
            for thread in (threads if readable(pid) else [pid])
        ),
    }
    for pid, threads in house.threads.items():
        error = "" if readable(pid) else "EPERM" if visible(pid) else "ESRCH"
        for thread in threads:
            outcomes[Request(show=show, strategy=THREAD, pid=thread)] = error or [shown(pid, each) for each in threads]
            outcomes[Request(show=show, strategy=THREAD, pid=thread, start=0xFFFF_FFFF)] = error or []
            outcomes[Request(show=show, strategy=ONE, pid=thread)] = error or [shown(pid, thread)]
        if error == "EPERM" and not show:
            outcomes[Request(show=show, strategy=ONE, pid=pid)] = [(pid, False)]
    for pid, children in house.children.items():
        family = [shown(child, child) for child in children if readable(child)]
        for thread in house.threads[pid]:
            # The children's parent would tell whose thread it is.
            told = readable(pid) or (visible(pid) and thread == pid)
            error = "" if told else "EPERM" if visible(pid) else "ESRCH"
            outcomes[Request(show=show, strategy=CHILDREN, pid=thread)] = error or family
            outcomes[Request(show=show, strategy=CHILDREN, pid=thread, start=0xFFFF_FFFF)] = error or []
    return outcomes


@pytest.mark.promise("N3", "N4", "R3", "R4")
@pytest.mark.core
@pytest.mark.parametrize("show", [0, raw.SHOW_BASE, 1 << 1 | 1 << 7, raw.SHOW_FIXED])
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
def test_what_alice_sees_of_others(house: House, hidepid: str, show: int) -> None:
    """A process that is listed but not readable does not tell its threads or its parent."""
    wanted = seen_by_alice(house, hidepid, show)

    def look() -> dict[Request, Outcome]:
        fd = procfs.open()
        return {request: outcome(fd, request) for request in wanted}

    with Procfs(pidns=house.world.fd, hidepid=hidepid) as procfs:
        assert run_as(ALICE, look) == wanted


@pytest.mark.promise("N2", "N3", "N4")
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_others_see_what_alice_sees_in_a_file_of_hers(house: House, hidepid: str) -> None:
    wanted = seen_by_alice(house, hidepid, raw.SHOW_FIXED)
    with Procfs(pidns=house.world.fd, hidepid=hidepid) as procfs:
        fd = handed_over(ALICE, procfs.open)
        for reader in (ROOT, BOB):
            assert run_as(reader, lambda: {request: outcome(fd, request) for request in wanted}) == wanted
        os.close(fd)


# Namespaces


@pytest.mark.promise("N1", "G4", "R3", "W8")
def test_threads_and_children_have_the_numbers_of_the_mount(
    machine: Population, world: PidNamespace, task_diag: int, proc: int, whole_machine: int
) -> None:
    """A child in a pid namespace below has its parent above, where the mount of the one below shows nobody."""

    def have_child() -> None:
        syscalls.setns(world.fd, syscalls.CLONE_NEWPID)
        fork(pause)

    parent = machine.spawn(have_child, state="S")
    (child,) = oracle.children(proc, parent)
    assert numbers(whole_machine, CHILDREN, parent) == [child]
    inside = world.number(child)
    assert numbers(task_diag, CHILDREN, 1) == []
    assert numbers(task_diag, THREAD, inside) == [inside]
    for strategy in (ONE, CHILDREN, THREAD):
        assert outcome(task_diag, Request(strategy=strategy, pid=parent)) == "ESRCH"
    # The namespace does not end while somebody outside has not waited for a child in it.
    machine.kill(parent)

    threaded = world.spawn(partial(start_threads, 3))
    above, below = oracle.threads(proc, threaded), oracle.threads(world.procfs.fd, world.number(threaded))
    assert set(above).isdisjoint(below)
    for thread in above:
        assert numbers(whole_machine, THREAD, thread) == sorted(above)
    for thread in below:
        assert numbers(task_diag, THREAD, thread) == sorted(below)
    assert numbers(task_diag, ALL_THREAD) == [thread for thread, _ in listed(world.procfs.fd)]
