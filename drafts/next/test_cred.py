"""The contract, "Groups": CRED, field for field, and tasks that are split between BASE and CRED (C1, C2, C3)."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from dataclasses import replace

import pytest

from taskdiag import Cred, Group, TaskDiag
from vmtests import oracle, raw
from vmtests.credentials import ALICE, Credentials, run_as
from vmtests.namespaces import PidNamespace, user_namespace
from vmtests.population import Population
from vmtests.raw import Request

BOTH = 3
CONT = 1
WHOLE = raw.BASE + 4 + 64


def in_proc(proc: int, pid: int) -> Cred:
    """Return what ``status`` says of the credentials of ``pid``."""
    status = oracle.parse_status(oracle.content(proc, f"{pid}/status"))
    uid, euid, suid, fsuid = map(int, status["Uid"].split())
    gid, egid, sgid, fsgid = map(int, status["Gid"].split())
    inheritable, permitted, effective, bounding = (
        int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")
    )
    return Cred(inheritable, permitted, effective, bounding, uid, euid, suid, fsuid, gid, egid, sgid, fsgid)


def shown(fd: int) -> dict[int, Cred]:
    """Return CRED of all that an open file shows."""
    with TaskDiag(os.dup(fd)) as source:
        source.request((Group.CRED,))
        return {task.pid: task.cred for task in source.tasks() if task.cred is not None}


@pytest.mark.promise("G4")
def test_every_field_is_that_of_status(world: PidNamespace, task_diag: int) -> None:
    for who in (
        ALICE,
        replace(ALICE, capabilities=1 << 19),
        replace(ALICE, capabilities=(1 << 40) | 1),
        Credentials(uid=7, gid=8, groups=(9,)),
        Credentials(capabilities=0),
    ):
        world.sleeping(who=who)
    world.spawn(lambda: os.setresuid(1, 2, 3))
    world.spawn(lambda: os.setresgid(4, 5, 6))
    world.zombie()
    truth = {pid: in_proc(world.procfs.fd, pid) for pid in world.procfs.listed()}
    assert len(set(truth.values())) >= 7
    assert shown(task_diag) == truth


@pytest.mark.promise("G4", "N2")
def test_ids_are_those_of_the_openers_user_namespace(world: PidNamespace, machine: Population) -> None:
    fd = user_namespace(machine)
    for uid in (0, 1000, 1001, 1002):
        world.sleeping(who=Credentials(uid=uid, gid=uid))

    def look() -> tuple[dict[int, Cred], dict[int, Cred]]:
        own = world.procfs.open()
        return shown(own), {pid: in_proc(world.procfs.fd, pid) for pid in world.procfs.listed()}

    found, truth = run_as(Credentials(user_namespace=fd), look)
    assert found == truth
    assert {cred.euid for cred in found.values()} >= {0, 1, 65534}
    os.close(fd)


@pytest.mark.promise("C1", "C2", "R5")
@pytest.mark.core
def test_every_size_of_buffer_gives_the_same(world: PidNamespace, task_diag: int) -> None:
    numbers = [1, *(world.number(world.sleeping(comm=b"task %d" % index)) for index in range(4))]
    raw.ask(task_diag, Request(show=BOTH))
    whole = joined(b"".join(raw.drain(task_diag)))
    assert sorted(whole) == numbers
    splits = 0
    for size in range(raw.BARE + 4 + 64, 4 * WHOLE):
        raw.ask(task_diag, Request(show=BOTH))
        stream = b"".join(raw.drain(task_diag, size))
        answers = list(raw.answers(stream))
        for answer, following in itertools.pairwise(answers):
            assert bool(answer.task_flags & CONT) is (answer.pid == following.pid), size
        assert not answers[-1].task_flags & CONT
        splits += len(answers) > len(numbers)
        assert joined(stream) == whole, size
    assert splits > 50, "hardly any task was split"


@pytest.mark.promise("C1", "R6")
def test_a_fault_anywhere_loses_and_repeats_nothing(world: PidNamespace, task_diag: int) -> None:
    for _ in range(3):
        world.sleeping()
    raw.ask(task_diag, Request(show=BOTH))
    whole = joined(b"".join(raw.drain(task_diag)))
    for good in range(0, 3 * WHOLE, 7):
        for size in (raw.BARE + 4 + 64, WHOLE + raw.BASE, 4096):
            raw.ask(task_diag, Request(show=BOTH))
            stream = raw.read(task_diag, raw.BASE)
            with contextlib.suppress(OSError):
                stream += raw.FaultingBuffer(good).read(task_diag, size)
            stream += b"".join(raw.drain(task_diag, size))
            assert joined(stream) == whole, (good, size)


@pytest.mark.promise("C3", "O2")
@pytest.mark.core
def test_the_next_owner_of_a_half_shown_tasks_number_is_left_out(world: PidNamespace, task_diag: int) -> None:
    first = world.sleeping(comm=b"first")
    number = world.number(first)
    last = world.number(world.sleeping(comm=b"last"))
    raw.ask(task_diag, Request(show=BOTH))
    assert raw.pids(raw.read(task_diag, WHOLE)) == [1]
    (half,) = raw.answers(raw.read(task_diag, raw.BASE))
    assert (half.pid, half.task_flags) == (number, CONT)
    world.kill(first)
    world.spawn_as(number)
    answers = list(raw.answers(b"".join(raw.drain(task_diag))))
    assert [answer.pid for answer in answers] == [last]
    assert len(answers[0].attributes) == WHOLE - raw.BARE


def joined(stream: bytes) -> dict[int, dict[int, bytes]]:
    """Return the payloads of each task by type."""
    tasks: dict[int, dict[int, bytes]] = {}
    for answer in raw.answers(stream):
        groups = tasks.setdefault(answer.pid, {})
        left = answer.attributes
        while left:
            length, kind = struct.unpack_from("=HH", left)
            assert kind not in groups
            groups[kind] = left[4:length]
            left = left[length:]
    return tasks
