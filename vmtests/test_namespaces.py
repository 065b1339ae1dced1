"""The contract, "Namespaces": pid and user namespaces, and descriptors that cross them (N1, N2, G4)."""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from taskdiag import Base, Strategy, TaskDiag
from vmtests import oracle, raw
from vmtests.credentials import ALICE, Credentials, run_as, run_in_child
from vmtests.namespaces import PidNamespace, Procfs, user_namespace
from vmtests.population import Population, pause
from vmtests.raw import ONE, Request


def every(fd: int) -> dict[int, Base]:
    """Return BASE of all that an open file shows, by pid."""
    with TaskDiag(os.dup(fd)) as source:
        source.request()
        return {task.pid: task.base for task in source.tasks() if task.base is not None}


@dataclass(frozen=True)
class Nested:
    """A pid namespace in another, in the guest's own; a process of each but the last is named here."""

    outer: PidNamespace
    inner: PidNamespace
    outer_process: int
    inner_process: int


@pytest.fixture
def nested() -> Iterator[Nested]:
    """Make two pid namespaces, one in the other, with a process in each."""
    with PidNamespace() as outer, PidNamespace(outer) as inner:
        yield Nested(outer, inner, outer.sleeping(comm=b"outer"), inner.sleeping(comm=b"inner"))


@pytest.mark.promise("N1", "O1", "G4")
def test_each_mount_shows_its_own_namespace_and_those_below(nested: Nested, whole_machine: int) -> None:
    outer, inner = nested.outer, nested.inner
    outer_fd, inner_fd = outer.procfs.open(), inner.procfs.open()
    in_machine, in_outer, in_inner = every(whole_machine), every(outer_fd), every(inner_fd)
    os.close(outer_fd)
    os.close(inner_fd)

    assert list(in_outer) == sorted(outer.procfs.listed())
    assert list(in_inner) == sorted(inner.procfs.listed())
    assert in_machine[nested.outer_process].comm == b"outer"
    assert in_machine[nested.inner_process].comm == b"inner"
    assert in_outer[outer.number(nested.outer_process)].comm == b"outer"
    assert in_outer[outer.number(nested.inner_process)].comm == b"inner"
    assert in_inner[inner.number(nested.inner_process)].comm == b"inner"
    assert b"outer" not in {base.comm for base in in_inner.values()}
    assert len(in_inner) == 2


@pytest.mark.promise("N1", "G4")
def test_numbers_are_those_of_the_mount_and_0_outside(nested: Nested) -> None:
    """The parent, session and group of a process that was put there from outside are outside."""
    for namespace, process in (
        (nested.outer, nested.outer_process),
        (nested.outer, nested.inner_process),
        (nested.inner, nested.inner_process),
    ):
        number = namespace.number(process)
        fd = namespace.procfs.open()
        base = every(fd)[number]
        os.close(fd)
        truth = oracle.process(namespace.procfs.fd, number)
        assert (base.pid, base.tgid, base.ppid) == (number, number, 0)
        assert (base.sid, base.pgid, base.tpid) == (0, 0, 0)
        assert (truth.ppid, truth.sid, truth.pgid, truth.tpid) == (0, 0, 0, 0)


@pytest.mark.promise("G4")
def test_numbers_inside_are_those_of_the_mount(world: PidNamespace, task_diag: int) -> None:
    def have_child() -> None:
        os.setsid()
        if os.fork() == 0:
            pause()

    parent = world.spawn(have_child, state="S")
    number = world.number(parent)
    (child,) = (base for base in every(task_diag).values() if base.ppid == number)
    assert (child.sid, child.pgid) == (number, number)
    with TaskDiag() as machine:
        machine.request()
        (outside,) = (task.base for task in machine.tasks() if task.base and task.base.ppid == parent)
    assert (outside.sid, outside.pgid) == (parent, parent)
    assert outside.pid != child.pid
    assert outside.comm == child.comm


@pytest.mark.promise("N1", "W8", "R3")
def test_a_process_outside_cannot_be_asked_for(nested: Nested) -> None:
    fd = nested.inner.procfs.open()
    assert nested.inner.procfs.listed() == [1, 2]
    for outsider in (nested.outer_process, nested.inner_process, os.getpid(), 3):
        raw.ask(fd, Request(strategy=ONE, pid=outsider))
        with pytest.raises(OSError) as caught:
            raw.read(fd, 4096)
        assert caught.value.errno == errno.ESRCH
    os.close(fd)


@pytest.mark.promise("N1", "W8")
def test_the_readers_own_namespace_has_no_say(nested: Nested) -> None:
    """Opened, written and read from inside: the outer mount still shows the outer namespace, and its numbers."""
    outer, inner = nested.outer, nested.inner
    fd = outer.procfs.open()
    wanted = outer.number(nested.outer_process)

    def look() -> None:
        everyone = sorted(outer.procfs.listed())
        assert wanted in everyone
        for source in (fd, outer.procfs.open()):
            raw.ask(source, Request())
            assert raw.pids(b"".join(raw.drain(source))) == everyone
            raw.ask(source, Request(strategy=ONE, pid=wanted))
            assert raw.pids(b"".join(raw.drain(source))) == [wanted]

    # What fails in there is raised here.
    inner.spawn(look)
    os.close(fd)


@pytest.mark.promise("N1", "N2")
def test_a_descriptor_opened_in_one_namespace_is_read_in_another(nested: Nested) -> None:
    """It goes over a socket from a process of the outer namespace to this test, and to one of the inner."""
    outer, inner = nested.outer, nested.inner
    ours, theirs = socket.socketpair()

    def send() -> None:
        fd = outer.procfs.open()
        raw.ask(fd, Request())
        assert raw.pids(raw.read(fd, raw.BASE)) == [1]
        theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])

    sender = outer.spawn(send)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    (fd,) = fds
    assert raw.pids(raw.read(fd, raw.BASE)) == [2]
    inner.kill(inner.spawn(partial(_read_pid, fd, 3)))
    rest = raw.pids(b"".join(raw.drain(fd)))
    assert rest == [pid for pid in sorted(outer.procfs.listed()) if pid > 3]
    assert outer.number(sender) in rest
    ours.close()
    theirs.close()
    os.close(fd)


def _read_pid(fd: int, pid: int) -> None:
    assert raw.pids(raw.read(fd, raw.BASE)) == [pid]


@pytest.mark.promise("N1", "O4")
def test_a_namespace_that_has_ended_is_empty() -> None:
    with PidNamespace() as namespace:
        namespace.sleeping()
        procfs = Procfs(pidns=namespace.fd)
        fd, half = procfs.open(), procfs.open()
        raw.ask(half, Request())
        assert raw.pids(raw.read(half, raw.BASE)) == [1]
    assert raw.read(half, 4096) == b""
    raw.ask(fd, Request())
    assert raw.read(fd, 4096) == b""
    raw.ask(fd, Request(strategy=ONE, pid=1))
    with pytest.raises(OSError) as caught:
        raw.read(fd, 4096)
    assert caught.value.errno == errno.ESRCH
    os.close(fd)
    os.close(half)
    os.close(procfs.fd)


@dataclass(frozen=True)
class UserNamespace:
    """A pid namespace with a procfs under hidepid=2, and a user namespace with processes in it."""

    fd: int
    """The user namespace; its ids 0 and 1 are 1000 and 1001 outside."""
    procfs: Procfs
    inside: set[int]
    """The numbers of processes with ids of the user namespace that live in it."""
    outside: set[int]
    """The numbers of the others."""

    def root(self) -> Credentials:
        """Return root of the user namespace, which may ptrace everything in it."""
        return Credentials(user_namespace=self.fd)

    def user(self) -> Credentials:
        """Return an ordinary user of the user namespace."""
        return Credentials(uid=1, gid=1, capabilities=0, user_namespace=self.fd)


@pytest.fixture
def users(world: PidNamespace, machine: Population) -> Iterator[UserNamespace]:
    """Make a user namespace: two processes in it, three outside (one with the very uid that is root inside)."""
    fd = user_namespace(machine)
    inside = {
        world.number(world.sleeping(who=Credentials(user_namespace=fd))),
        world.number(world.sleeping(who=Credentials(uid=1, gid=1, capabilities=0, user_namespace=fd))),
    }
    outside = {1, world.number(world.sleeping()), world.number(world.sleeping(who=ALICE))}
    with Procfs(pidns=world.fd, hidepid="2") as procfs:
        yield UserNamespace(fd, procfs, inside, outside)
    os.close(fd)


def ask_all(procfs: Procfs) -> list[int]:
    """Open and ask, as whoever calls; return the pids that come with BASE."""
    fd = procfs.open()
    raw.ask(fd, Request())
    pids = [answer.pid for answer in raw.answers(b"".join(raw.drain(fd))) if answer.attributes]
    os.close(fd)
    return pids


@pytest.mark.promise("N2", "N3", "N4")
def test_root_of_a_user_namespace_sees_what_is_in_it(users: UserNamespace) -> None:
    listed = run_as(users.root(), users.procfs.listed)
    assert set(listed) == users.inside
    assert run_as(users.root(), partial(ask_all, users.procfs)) == sorted(listed)


@pytest.mark.promise("N2", "N3", "N4")
def test_a_user_of_a_user_namespace_sees_its_own(users: UserNamespace) -> None:
    listed = run_as(users.user(), users.procfs.listed)
    assert listed == [max(users.inside)]
    assert run_as(users.user(), partial(ask_all, users.procfs)) == listed


@pytest.mark.promise("N2", "N3")
def test_root_of_the_guest_sees_into_a_user_namespace(users: UserNamespace) -> None:
    assert set(ask_all(users.procfs)) == users.inside | users.outside


@pytest.mark.promise("N2")
def test_the_openers_user_namespace_counts_and_not_the_readers(users: UserNamespace) -> None:
    """Handed to the guest's root it shows no more; the guest's root's file, handed in, shows no less."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        socket.send_fds(theirs, [b"x"], [users.procfs.open()])

    run_as(users.root(), send)
    _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    raw.ask(fd, Request())
    assert set(raw.pids(b"".join(raw.drain(fd)))) == users.inside
    os.close(fd)
    ours.close()
    theirs.close()

    fd = users.procfs.open()

    def read() -> list[int]:
        raw.ask(fd, Request())
        return raw.pids(b"".join(raw.drain(fd)))

    assert set(run_as(users.root(), read)) == users.inside | users.outside
    os.close(fd)


@pytest.mark.promise("N1", "N2")
def test_one_across_user_namespaces(users: UserNamespace) -> None:
    def ask(pid: int) -> list[int]:
        with TaskDiag(users.procfs.open()) as source:
            source.request(strategy=Strategy.ONE, pid=pid)
            return [task.pid for task in source.tasks()]

    for pid in users.inside:
        assert run_as(users.root(), partial(ask, pid)) == [pid]
    for pid in users.outside:
        with pytest.raises(ProcessLookupError):
            run_as(users.root(), partial(ask, pid))
    assert run_in_child(partial(ask, 1)) == [1]
