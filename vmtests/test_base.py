"""The contract, "Groups": BASE, field for field, in every state that can be made."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from taskdiag import Base, Group, State, Strategy, TaskDiag
from vmtests import oracle, raw, syscalls
from vmtests.groups import expected
from vmtests.namespaces import PidNamespace
from vmtests.oracle import Process
from vmtests.population import Population, rename, spin, start_threads, wait_for
from vmtests.raw import ONE, Request

CPU1 = Path("/sys/devices/system/cpu/cpu1/online")


def one(pid: int, *, fd: int | None = None) -> Base:
    """Return BASE of ``pid``, from the guest's own mount or from an open file of another."""
    with TaskDiag() if fd is None else TaskDiag(os.dup(fd)) as source:
        source.request((Group.BASE,), Strategy.ONE, pid=pid)
        (task,) = source.tasks()
        assert task.complete
        assert task.base is not None
        assert (task.pid, task.tgid) == (task.base.pid, task.base.tgid)
        return task.base


def every(fd: int) -> dict[int, Base]:
    """Return BASE of all, by pid."""
    with TaskDiag(os.dup(fd)) as source:
        source.request()
        return {task.pid: task.base for task in source.tasks() if task.base is not None}


@pytest.mark.promise("G3", "G4")
@pytest.mark.parametrize(
    ("make", "state"),
    [
        (Population.running, State.RUNNING),
        (Population.sleeping, State.INTERRUPTIBLE),
        (Population.uninterruptible, State.UNINTERRUPTIBLE),
        (Population.stopped, State.STOPPED),
        (Population.traced, State.TRACE_STOP),
        (Population.zombie, State.ZOMBIE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_field_is_that_of_proc(
    machine: Population, proc: int, whole_machine: int, make: Callable[[Population], int], state: State
) -> None:
    pid = make(machine)
    truth = expected(oracle.process(proc, pid))
    assert truth.state is state
    assert truth.ppid == os.getpid()
    assert one(pid) == truth
    assert every(whole_machine)[pid] == truth


@pytest.mark.promise("G3", "G4")
def test_a_tracer_is_named(machine: Population, world: PidNamespace, task_diag: int) -> None:
    """The tracer, this test, has a number in its own namespace, and none in the one below."""
    pid = machine.traced()
    assert one(pid).tpid == os.getpid()
    inside = world.traced()
    assert one(inside).tpid == os.getpid()
    assert one(world.number(inside), fd=task_diag).tpid == 0


@pytest.mark.promise("G3", "G4")
def test_a_tracer_is_not_the_parent(machine: Population, proc: int) -> None:
    pid = machine.sleeping()
    tracer = machine.spawn(partial(syscalls.ptrace, syscalls.PTRACE_SEIZE, pid), state="S")
    base = one(pid)
    assert (base.ppid, base.tpid) == (os.getpid(), tracer)
    assert base == expected(oracle.process(proc, pid))


@pytest.mark.promise("G3", "G4")
@pytest.mark.core
def test_a_tracer_is_a_threads_own(machine: Population, proc: int) -> None:
    """Of one thread, and neither of the leader nor of the others."""
    pid = machine.spawn(partial(_have_threads, 2))
    traced = oracle.threads(proc, pid)[1]
    tracer = machine.spawn(partial(syscalls.ptrace, syscalls.PTRACE_SEIZE, traced), state="S")
    for thread in oracle.threads(proc, pid):
        assert one(thread).tpid == (tracer if thread == traced else 0)
        assert one(thread) == expected(oracle.process(proc, thread))


@pytest.mark.promise("G3")
@pytest.mark.core
def test_a_state_is_a_threads_own(machine: Population, proc: int) -> None:
    """A leader that sleeps beside a thread that runs, and one that has exited beside a thread that sleeps."""

    def have_spinner() -> None:
        threading.Thread(target=spin, daemon=True).start()

    running = machine.spawn(have_spinner, syscalls.pause_alone)
    (thread,) = set(oracle.threads(proc, running)) - {running}
    wait_for(lambda: (oracle.letter(proc, running), oracle.letter(proc, thread)) == ("S", "R"), "S and R")
    # Before it is in pause(), where it stays, the leader waits for the interpreter, and runs once more.
    for _ in range(100):
        found = one(running).state, one(thread).state
        if found == (State.INTERRUPTIBLE, State.RUNNING):
            break
        time.sleep(0.01)
    assert found == (State.INTERRUPTIBLE, State.RUNNING)

    exited = machine.spawn(partial(_have_threads, 1), syscalls.exit_thread, state="Z")
    (thread,) = set(oracle.threads(proc, exited)) - {exited}
    wait_for(partial(_sleeps, proc, thread), f"thread {thread} to sleep")
    assert (one(exited).state, one(thread).state) == (State.ZOMBIE, State.INTERRUPTIBLE)


@pytest.fixture
def offline_cpu() -> Iterator[None]:
    """Take the second CPU away, so that its kernel threads are parked."""
    CPU1.write_text("0")
    yield
    CPU1.write_text("1")


@pytest.mark.promise("G3")
@pytest.mark.usefixtures("offline_cpu")
def test_parked_kernel_threads(proc: int, whole_machine: int) -> None:
    everyone = [process for pid in oracle.listed(proc) if (process := _steady(proc, pid))]
    parked = [process for process in everyone if process.letter == "P"]
    assert {b"cpuhp/1", b"migration/1"} <= {process.name for process in parked}
    found = every(whole_machine)
    for process in parked:
        assert one(process.pid) == found[process.pid] == expected(process)
        assert one(process.pid).state is State.PARKED


@pytest.mark.promise("G3", "G4")
def test_kernel_threads(proc: int) -> None:
    """A kernel thread may run at any moment: each is compared while nothing about it changes."""
    compared = []
    for pid in oracle.listed(proc):
        for _ in range(20):
            before = _steady(proc, pid)
            if before is None or not before.kernel_thread:
                break
            try:
                base = one(pid)
            except ProcessLookupError:
                break
            if _steady(proc, pid) != before:
                continue
            assert before.name.startswith(base.comm), "comm is not the start of the thread's name"
            assert base == replace(expected(before), comm=base.comm)
            compared.append(before)
            break
    assert any(process.letter == "I" for process in compared)
    assert any(process.name == b"kthreadd" for process in compared)
    assert len(compared) > 10


@pytest.mark.promise("G3")
def test_comm_of_a_kernel_thread_is_not_its_long_name(proc: int) -> None:
    """``/proc`` appends what a worker does to its name, and has room for more than 15 bytes."""
    longer = 0
    for pid in oracle.listed(proc):
        process = _steady(proc, pid)
        if process is None or not process.kernel_thread or len(process.name) <= 15:
            continue
        comm = one(pid).comm
        assert len(comm) <= 15
        longer += process.name.startswith(comm) and comm != process.name
    assert longer


@pytest.mark.promise("G3")
@pytest.mark.parametrize(
    "comm",
    [
        b"",
        b" ",
        b"a b",
        b"\n",
        b"a\nState:\tX",
        b")",
        b"(x) R 1 1 (",
        b") Z 0 0 0",
        b"\\",
        b"\\n",
        b"back\\slash",
        b"\t\r\x0b\x0c",
        b"\x01\x02\x7f\x80\xff",
        "häßlich".encode(),
        b"x" * 15,
        bytes(range(0xF0, 0xFF)),
    ],
)
def test_comm_is_there_byte_for_byte(machine: Population, proc: int, comm: bytes) -> None:
    pid = machine.sleeping(comm=comm)
    assert oracle.process(proc, pid).name == comm
    assert one(pid).comm == comm


@pytest.mark.promise("G3", "G4")
def test_sessions_and_groups(machine: Population, proc: int) -> None:
    leader = machine.spawn(os.setsid, state="S")
    member = machine.spawn(os.setpgrp, state="S")
    other = machine.sleeping()
    os.setpgid(other, member)
    assert (one(leader).sid, one(leader).pgid) == (leader, leader)
    assert (one(member).sid, one(member).pgid) == (os.getsid(0), member)
    assert (one(other).sid, one(other).pgid) == (os.getsid(0), member)
    for pid in (leader, member, other):
        assert one(pid) == expected(oracle.process(proc, pid))


@pytest.mark.promise("G3", "G4")
def test_a_thread_has_its_own_number_name_and_state(machine: Population, proc: int) -> None:
    def have_named_thread() -> None:
        start_threads(2)
        rename(b"the leader")

    pid = machine.spawn(have_named_thread, state="S")
    threads = oracle.threads(proc, pid)
    assert len(threads) == 3
    for thread in threads:
        wait_for(partial(_sleeps, proc, thread), f"thread {thread} to sleep")
        base = one(thread)
        assert (base.pid, base.tgid) == (thread, pid)
        assert base == expected(oracle.process(proc, thread))
    assert one(pid).comm == b"the leader" != one(threads[1]).comm


@pytest.mark.promise("G4")
def test_an_orphan_has_its_new_parent(world: PidNamespace, task_diag: int) -> None:
    def make_orphan() -> None:
        if os.fork() == 0:
            while True:
                os.read(never, 1)

    never, _ = os.pipe()
    parent = world.spawn(make_orphan, state="S")
    number = world.number(parent)
    (child,) = (pid for pid in world.procfs.listed() if one(pid, fd=task_diag).ppid == number)
    world.kill(parent)
    assert one(child, fd=task_diag).ppid == 1
    assert one(child, fd=task_diag) == expected(oracle.process(world.procfs.fd, child))


@pytest.mark.promise("G3", "G4", "G1")
def test_everyone_in_a_world_of_all_states(world: PidNamespace, task_diag: int) -> None:
    for make in (
        world.running,
        world.sleeping,
        world.uninterruptible,
        world.stopped,
        world.traced,
        world.zombie,
    ):
        make()
    truth = {pid: expected(oracle.process(world.procfs.fd, pid)) for pid in world.procfs.listed()}
    assert {base.state for base in truth.values()} == {
        State.RUNNING,
        State.INTERRUPTIBLE,
        State.UNINTERRUPTIBLE,
        State.STOPPED,
        State.TRACE_STOP,
        State.ZOMBIE,
    }
    assert every(task_diag) == truth


@pytest.mark.promise("G1")
def test_what_a_field_does_not_need_is_zero(world: PidNamespace, task_diag: int) -> None:
    """Each short name follows a long one through the same memory, and must not drag its end along."""
    for comm in (b"x" * 15, b"a", b"y" * 15, b"", b"z" * 15, b"bc"):
        world.sleeping(comm=comm)
    for size in (raw.BASE, 2 * raw.BASE, 65536):
        raw.ask(task_diag, Request())
        stream = b"".join(raw.drain(task_diag, size))
        names = []
        for answer in raw.answers(stream):
            length, kind, *_, comm, reserved = struct.unpack("=HH6IB16s3s", answer.attributes)
            assert (length, kind) == (48, 0)
            assert reserved == bytes(3)
            name, end, rest = comm.partition(b"\0")
            assert end, "comm has no end"
            assert rest == bytes(len(rest)), f"bytes behind the name {name!r}"
            names.append(name)
        assert names[1:] == [b"x" * 15, b"a", b"y" * 15, b"", b"z" * 15, b"bc"]


@pytest.mark.promise("G1", "R1")
def test_the_same_question_has_the_same_answer_to_the_byte(world: PidNamespace, task_diag: int) -> None:
    """A byte that is not written would change with what the kernel's memory held before."""
    for _ in range(3):
        world.sleeping()
    raw.ask(task_diag, Request())
    first = b"".join(raw.drain(task_diag))
    other = os.open("/proc/task-diag", os.O_RDWR)
    for size in (raw.BASE, 100, 4096, 65536):
        raw.ask(other, Request())
        raw.drain(other)
        fresh = world.procfs.open()
        for fd in (task_diag, fresh):
            raw.ask(fd, Request())
            assert b"".join(raw.drain(fd, size)) == first
        os.close(fresh)
    os.close(other)


@pytest.mark.promise("G2")
def test_a_group_that_the_kernel_has_not_is_found_by_asking(whole_machine: int) -> None:
    for group in range(10, 64):
        for request in (Request(show=1 << group), Request(show=1 << group, strategy=ONE, pid=1)):
            with pytest.raises(OSError, match="Invalid argument"):
                raw.ask(whole_machine, request)
    assert raw.ask(whole_machine, Request(show=1 << 0)) == 40


def _steady(proc: int, pid: int) -> Process | None:
    """Return what is said of ``pid``, or None if it is gone."""
    for _ in range(100):
        try:
            return oracle.process(proc, pid)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except AssertionError:
            # A worker that changed its work between its two files.
            continue
    raise AssertionError(f"process {pid} never keeps still")


def _have_threads(count: int) -> None:
    start_threads(count)


def _sleeps(proc: int, pid: int) -> bool:
    return oracle.letter(proc, pid) == "S"
