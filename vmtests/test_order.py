"""The contract, "Which tasks, in which order", for the strategies ALL and ONE."""

from __future__ import annotations

import itertools
import os
import struct
import time
from functools import partial
from pathlib import Path

import pytest

from taskdiag import Group, Strategy, TaskDiag
from vmtests import oracle, raw, syscalls
from vmtests.credentials import run_in_child
from vmtests.namespaces import PidNamespace
from vmtests.population import Gate, exec_from_thread, start_threads
from vmtests.raw import ONE, Request


def dump(namespace: PidNamespace, strategy: Strategy = Strategy.ALL, pid: int = 0) -> list[tuple[int, int]]:
    """Return ``(pid, tgid)`` of each task."""
    with TaskDiag(namespace.procfs.open()) as source:
        source.request((Group.BASE,), strategy, pid=pid)
        return [(task.pid, task.tgid) for task in source.tasks()]


@pytest.mark.promise("O1", "O2", "N3")
@pytest.mark.core
def test_all_is_what_readdir_shows_in_ascending_order(world: PidNamespace) -> None:
    for number in (300, 7, 65, 64, 63, 4000, 2):
        world.spawn_as(number)
    world.zombie()
    everyone = sorted(world.procfs.listed())
    assert {1, 2, 7, 63, 64, 65, 300, 4000} < set(everyone)
    assert dump(world) == [(pid, pid) for pid in everyone]


@pytest.mark.promise("O1", "O2", "N3")
def test_a_crowd_is_what_readdir_shows(crowd: PidNamespace) -> None:
    assert [pid for pid, _ in dump(crowd)] == sorted(crowd.procfs.listed())


@pytest.mark.promise("O1", "O2", "N3")
def test_the_whole_machine_is_what_readdir_shows(proc: int, whole_machine: int) -> None:
    """Kernel threads come and go: who is listed before and after has to be there, no other may stay unlisted."""
    before = set(oracle.listed(proc))
    raw.ask(whole_machine, Request())
    pids = raw.pids(b"".join(raw.drain(whole_machine)))
    after = set(oracle.listed(proc))
    assert pids == sorted(set(pids))
    assert before & after <= set(pids)
    passing = set(pids) - before - after
    assert not passing & set(oracle.listed(proc))
    assert {1, 2, os.getpid()} <= set(pids)


@pytest.mark.promise("O1", "O2", "N3")
@pytest.mark.core
def test_numbers_above_16_bits_are_shown(world: PidNamespace) -> None:
    """Up to the last that there can be, and far apart: no walk may end at a default of pid_max."""
    numbers = [32_767, 32_768, 32_769, 65_535, 65_536, 1_000_000, 4_194_303]
    for number in numbers:
        world.spawn_as(number)
    assert [pid for pid, _ in dump(world)] == [1, *numbers]
    for number in numbers:
        assert dump(world, Strategy.ONE, number) == [(number, number)]


@pytest.mark.promise("O1", "O2")
@pytest.mark.core
def test_all_has_leaders_only(world: PidNamespace) -> None:
    pid = world.spawn(partial(_have_threads, 3))
    number = world.number(pid)
    assert len(oracle.threads(world.procfs.fd, number)) == 4
    assert dump(world) == [(1, 1), (number, number)]


@pytest.mark.promise("O2")
@pytest.mark.core
def test_a_process_whose_leader_has_exited_is_there(world: PidNamespace) -> None:
    pid = world.spawn(partial(_have_threads, 1), syscalls.exit_thread, state="Z")
    number = world.number(pid)
    assert number in world.procfs.listed()
    assert dump(world) == [(1, 1), (number, number)]


@pytest.mark.promise("O1", "W8")
@pytest.mark.core
def test_one_is_any_thread(world: PidNamespace) -> None:
    number = world.number(world.spawn(partial(_have_threads, 3)))
    threads = oracle.threads(world.procfs.fd, number)
    assert len(threads) == 4
    for thread in threads:
        assert dump(world, Strategy.ONE, thread) == [(thread, number)]


@pytest.mark.promise("O2")
def test_one_is_one_message(world: PidNamespace, task_diag: int) -> None:
    number = world.number(world.sleeping())
    raw.ask(task_diag, Request(strategy=ONE, pid=number))
    assert raw.pids(b"".join(raw.drain(task_diag, raw.BASE))) == [number]


@pytest.mark.promise("O2")
@pytest.mark.core
def test_a_process_that_execs_from_a_thread_meanwhile_appears_once(
    world: PidNamespace, task_diag: int, gate: Gate
) -> None:
    """The thread that execs takes over the leader's number, while the dump waits just before it."""
    pid = world.spawn(partial(exec_from_thread, gate))
    number = world.number(pid)
    other = world.number(world.sleeping())
    raw.ask(task_diag, Request())
    assert raw.pids(raw.read(task_diag, raw.BASE)) == [1]
    gate.open()
    os.waitpid(pid, os.WUNTRACED)
    assert raw.pids(b"".join(raw.drain(task_diag))) == [number, other]


@pytest.mark.promise("O2")
@pytest.mark.core
def test_who_stays_is_there_exactly_once_while_others_come_and_go(world: PidNamespace, task_diag: int) -> None:
    stayers = {world.number(world.sleeping()) for _ in range(8)}
    world.spawn(then=_churn)
    for _ in range(10):
        raw.ask(task_diag, Request())
        pids = raw.pids(b"".join(raw.drain(task_diag, 160)))
        assert pids == sorted(set(pids))
        assert stayers <= set(pids)


@pytest.mark.promise("O3")
def test_no_message_has_a_zero_number(world: PidNamespace, task_diag: int, whole_machine: int) -> None:
    """Processes end all the time, also while they are being looked at."""
    world.spawn(then=_churn)
    for fd, times in ((task_diag, 200), (whole_machine, 20)):
        for _ in range(times):
            raw.ask(fd, Request())
            for answer in raw.answers(b"".join(raw.drain(fd))):
                assert answer.pid > 0
                assert answer.tgid > 0


@pytest.mark.promise("G4", "O2")
@pytest.mark.core
def test_who_comes_and_goes_has_all_its_ids(world: PidNamespace, task_diag: int) -> None:
    """A process that ends loses them one after the other, and a parent loses its own before the child's is changed."""
    leader = world.spawn(os.setsid, _churn_with_orphans)
    number = world.number(leader)
    met = 0
    for _ in range(400):
        raw.ask(task_diag, Request())
        for answer in raw.answers(b"".join(raw.drain(task_diag))):
            if answer.pid <= number:
                continue
            # BASE is the first attribute: its header, tgid, pid, ppid, tpid, sid, pgid.
            _, pid, ppid, _, sid, pgid = struct.unpack_from("=6I", answer.attributes, 4)
            assert (sid, pgid) == (number, number), pid
            assert ppid != 0, pid
            met += 1
    assert met > 100, "hardly any of them was met"


@pytest.mark.promise("O4", "O2")
def test_a_dump_ends_although_each_read_is_followed_by_a_fork(world: PidNamespace, task_diag: int) -> None:
    """Each new process has the next number, so that an endless walk would chase them for ever."""
    pid_max = 400
    world.spawn(partial(_limit_numbers, pid_max))
    assert int(Path("/proc/sys/kernel/pid_max").read_text()) > pid_max, "the limit is the guest's own"
    world.spawn_as(pid_max - 30)
    raw.ask(task_diag, Request())
    seen: list[int] = []
    for turn in itertools.count():
        stream = raw.read(task_diag, raw.BASE)
        if not stream:
            break
        seen += raw.pids(stream)
        assert turn <= pid_max, "a walk over 400 numbers has not ended"
        world.sleeping()
    assert seen == sorted(set(seen))
    assert len(seen) > 25, "the new processes should have been met"


@pytest.mark.promise("O4")
def test_a_dump_ends_in_a_fork_storm(world: PidNamespace) -> None:
    for _ in range(2):
        world.spawn(then=_churn)

    def look() -> None:
        with TaskDiag(world.procfs.open()) as source:
            for _ in range(20):
                source.request()
                for _ in source.tasks(buffer_size=raw.BASE):
                    pass

    # In a child, a dump without an end is a failure and not a hang.
    run_in_child(look)


def _have_threads(count: int) -> None:
    start_threads(count)


def _limit_numbers(pid_max: int) -> None:
    Path("/proc/sys/kernel/pid_max").write_text(str(pid_max))


def _churn() -> None:
    """Fork children that end at once, for ever."""
    while True:
        if os.fork() == 0:
            os._exit(0)
        os.wait()


def _churn_with_orphans() -> None:
    """Fork children that fork and end at once, so that each grandchild gets another parent and lives on, for ever."""
    while True:
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(0.003)
            os._exit(0)
        os.wait()
