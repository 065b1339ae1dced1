"""The contract, "never more than /proc": who is seen, and what of them, under hidepid= and gid= (N2, N3, N4)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from vmtests import oracle, raw, syscalls
from vmtests.credentials import ALICE, BOB, ROOT, Credentials, handed_over, run_as
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Population, start_threads
from vmtests.raw import ONE, Request

GID = 4242
"""The group of gid=."""

OPENERS = {
    "root": ROOT,
    "alice": ALICE,
    "bob": BOB,
    "alice in the group of gid=": Credentials(uid=1000, gid=1000, groups=(GID,)),
    "alice whose own group it is": Credentials(uid=1000, gid=GID),
    "alice in group 0": Credentials(uid=1000, gid=1000, groups=(0,)),
    "alice in another group": Credentials(uid=1000, gid=1000, groups=(4243,)),
    "alice with CAP_SYS_PTRACE": Credentials(uid=1000, gid=1000, capabilities=1 << syscalls.CAP_SYS_PTRACE),
    "alice with another capability": Credentials(uid=1000, gid=1000, capabilities=1),
    "alice's uid with another gid": Credentials(uid=1000, gid=1001),
    "root without capabilities": Credentials(capabilities=0),
}

MOUNTS = {
    f"hidepid={hidepid}{',gid' if group else ''}": {"hidepid": hidepid} | ({"gid": str(GID)} if group else {})
    for hidepid in ("0", "1", "2", "4", "off", "noaccess", "invisible", "ptraceable")
    for group in ((False, True) if len(hidepid) == 1 else (False,))
}


@dataclass(frozen=True)
class Town:
    """A pid namespace with processes of several users; all are numbers in it."""

    namespace: PidNamespace
    init: int
    root: int
    alice: int
    shy: int
    """Alice's, but not to be dumped, so that she may not ptrace it."""
    bob: int
    zombie: int

    def everyone(self) -> list[int]:
        """Return all of them in order."""
        return sorted((self.init, self.root, self.alice, self.shy, self.bob, self.zombie))


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """Make the processes; tests only look at them."""
    with PidNamespace() as world:
        yield Town(
            namespace=world,
            init=1,
            root=world.number(world.sleeping()),
            alice=world.number(world.sleeping(who=ALICE)),
            shy=world.number(world.sleeping(who=Credentials(uid=1000, gid=1000, dumpable=False))),
            bob=world.number(world.sleeping(who=BOB)),
            zombie=world.number(world.zombie()),
        )


def seen(fd: int) -> dict[int, bool]:
    """Ask an open file for BASE of all; return by pid whether BASE came."""
    raw.ask(fd, Request())
    return {answer.pid: bool(answer.attributes) for answer in raw.answers(b"".join(raw.drain(fd)))}


def seen_by_opening(procfs: Procfs) -> dict[int, bool]:
    """Open, as whoever calls, and ask."""
    fd = procfs.open()
    try:
        return seen(fd)
    finally:
        os.close(fd)


def in_proc(procfs: Procfs) -> dict[int, bool]:
    """Return who is listed to whoever calls, each with whether ``stat`` and ``status`` can be read."""
    return {pid: _readable(procfs.fd, pid) for pid in sorted(procfs.listed())}


def _readable(proc: int, pid: int) -> bool:
    try:
        oracle.process(proc, pid)
    except PermissionError:
        return False
    return True


@pytest.mark.promise("N3", "N4")
@pytest.mark.parametrize("mount", MOUNTS)
def test_an_opener_sees_what_proc_shows(town: Town, mount: str) -> None:
    with Procfs(pidns=town.namespace.fd, **MOUNTS[mount]) as procfs:
        for name, who in OPENERS.items():
            listed, found = run_as(who, lambda: (in_proc(procfs), seen_by_opening(procfs)))
            assert list(found) == list(listed), name
            assert found == listed, name


@pytest.mark.promise("N3", "N4")
@pytest.mark.core
def test_hidepid_is_what_it_is_taken_for(town: Town) -> None:
    """The comparison above would hold for two empty lists too: here is what has to come out."""
    everyone = town.everyone()
    cases: list[tuple[dict[str, str], str, dict[int, bool]]] = [
        ({"hidepid": "0"}, "alice", dict.fromkeys(everyone, True)),
        ({"hidepid": "1"}, "alice", {pid: pid == town.alice for pid in everyone}),
        ({"hidepid": "2"}, "alice", {town.alice: True}),
        ({"hidepid": "4"}, "alice", {town.alice: True}),
        ({"hidepid": "1"}, "root", dict.fromkeys(everyone, True)),
        ({"hidepid": "2"}, "root", dict.fromkeys(everyone, True)),
        ({"hidepid": "4"}, "root", dict.fromkeys(everyone, True)),
        ({"hidepid": "2"}, "alice with CAP_SYS_PTRACE", dict.fromkeys(everyone, True)),
        ({"hidepid": "4"}, "alice with CAP_SYS_PTRACE", dict.fromkeys(everyone, True)),
        ({"hidepid": "2"}, "alice in group 0", dict.fromkeys(everyone, True)),
        ({"hidepid": "2", "gid": str(GID)}, "alice in group 0", {town.alice: True}),
        ({"hidepid": "1", "gid": str(GID)}, "alice in the group of gid=", dict.fromkeys(everyone, True)),
        ({"hidepid": "2", "gid": str(GID)}, "alice in the group of gid=", dict.fromkeys(everyone, True)),
        ({"hidepid": "2", "gid": str(GID)}, "alice whose own group it is", dict.fromkeys(everyone, True)),
        ({"hidepid": "4", "gid": str(GID)}, "alice in the group of gid=", {town.alice: True}),
        ({"hidepid": "2"}, "alice's uid with another gid", {}),
    ]
    for options, who, wanted in cases:
        with Procfs(pidns=town.namespace.fd, **options) as procfs:
            assert run_as(OPENERS[who], partial(seen_by_opening, procfs)) == wanted, (options, who)


@pytest.mark.promise("N3", "N4", "R3", "R4")
@pytest.mark.core
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("who", ["root", "alice", "alice in the group of gid="])
def test_one_is_as_all(town: Town, hidepid: str, who: str) -> None:
    """What ALL leaves out is ESRCH, and what ALL gives as a bare message is EPERM."""

    def ask_for_each() -> dict[int, str]:
        outcomes = {}
        for pid in town.everyone():
            fd = procfs.open()
            raw.ask(fd, Request(strategy=ONE, pid=pid))
            try:
                (answer,) = raw.answers(raw.read(fd, 4096))
                outcomes[pid] = "BASE" if answer.attributes else "bare"
            except OSError as error:
                outcomes[pid] = errno.errorcode[error.errno or 0]
            assert raw.read(fd, 4096) == b""
            os.close(fd)
        return outcomes

    with Procfs(pidns=town.namespace.fd, hidepid=hidepid, gid=str(GID)) as procfs:
        listed, outcomes = run_as(OPENERS[who], lambda: (in_proc(procfs), ask_for_each()))
    for pid, outcome in outcomes.items():
        assert outcome == {None: "ESRCH", False: "EPERM", True: "BASE"}[listed.get(pid)], pid


@pytest.mark.promise("N4", "C4")
def test_an_unreadable_process_needs_no_more_room_than_a_bare_message(town: Town) -> None:
    """Under hidepid=1 it is listed, whole, without CONT, in a buffer that would be too small for BASE."""

    def ask() -> list[tuple[int, int, int]]:
        fd = procfs.open()
        raw.ask(fd, Request())
        found = []
        while stream := raw.read(fd, raw.BASE):
            found += [(a.pid, a.task_flags, len(a.attributes)) for a in raw.answers(stream)]
        return found

    with Procfs(pidns=town.namespace.fd, hidepid="1") as procfs:
        assert run_as(ALICE, ask) == [
            (pid, 0, raw.BASE - raw.BARE if pid == town.alice else 0) for pid in town.everyone()
        ]


@pytest.mark.promise("N2")
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_a_descriptor_carries_the_openers_rights(town: Town, hidepid: str) -> None:
    with Procfs(pidns=town.namespace.fd, hidepid=hidepid, gid=str(GID)) as procfs:
        for opener in ("root", "alice", "bob", "alice in the group of gid="):
            wanted = run_as(OPENERS[opener], partial(in_proc, procfs))
            fd = handed_over(OPENERS[opener], procfs.open)
            for reader in ("root", "alice", "bob"):
                assert run_as(OPENERS[reader], partial(seen, fd)) == wanted, (opener, reader)
            os.close(fd)


@pytest.mark.promise("N2")
@pytest.mark.core
def test_rights_are_the_openers_at_every_read(town: Town) -> None:
    """Written by one, read by others in turn: nothing changes on the way."""
    with Procfs(pidns=town.namespace.fd, hidepid="1") as procfs:
        fd = handed_over(ALICE, procfs.open)
        run_as(BOB, lambda: raw.ask(fd, Request()))
        found: dict[int, bool] = {}
        for turn in range(len(town.everyone())):
            stream = run_as((ROOT, BOB, ALICE)[turn % 3], partial(raw.read, fd, raw.BASE))
            found |= {answer.pid: bool(answer.attributes) for answer in raw.answers(stream)}
            if len(found) == len(town.everyone()):
                break
        assert found == {pid: pid == town.alice for pid in town.everyone()}
        os.close(fd)


@pytest.mark.promise("N2")
def test_a_change_of_uid_after_the_open_changes_nothing(town: Town) -> None:
    def drop_and_ask() -> tuple[dict[int, bool], dict[int, bool]]:
        fd = procfs.open()
        ALICE.take()
        return seen(fd), seen_by_opening(procfs)

    with Procfs(pidns=town.namespace.fd, hidepid="2") as procfs:
        opened_before, opened_after = run_as(ROOT, drop_and_ask)
    assert opened_before == dict.fromkeys(town.everyone(), True)
    assert opened_after == {town.alice: True}


@pytest.mark.promise("N2", "N4")
@pytest.mark.core
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_a_privileged_reader_is_not_shown_itself_through_an_unprivileged_openers_file(
    machine: Population, hidepid: str
) -> None:
    """The tree's ptrace check lets every process look at itself: here it is the reader, and may not count."""
    with Procfs(hidepid=hidepid) as procfs:
        fd = handed_over(ALICE, procfs.open)
        of_alice = machine.sleeping(who=ALICE)
        found = seen(fd)
        assert found[of_alice] is True
        assert found.get(os.getpid()) is (False if hidepid == "1" else None)

        raw.ask(fd, Request(strategy=ONE, pid=os.getpid()))
        with pytest.raises(OSError) as caught:
            raw.read(fd, 4096)
        assert caught.value.errno == (errno.EPERM if hidepid == "1" else errno.ESRCH)
        os.close(fd)


@pytest.mark.promise("N2", "N4")
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(Credentials(uid=1000, gid=1000, dumpable=False), id="not dumpable"),
        pytest.param(Credentials(uid=1000, gid=1000, capabilities=1 << 12), id="more capabilities"),
    ],
)
def test_a_reader_of_the_openers_uid_is_not_shown_itself_either(reader: Credentials, hidepid: str) -> None:
    """The opener may not look at it, for another reason than its ids."""

    def look() -> tuple[bool | None, int]:
        raw.ask(fd, Request(strategy=ONE, pid=os.getpid()))
        with pytest.raises(OSError) as caught:
            raw.read(fd, 4096)
        return seen(fd).get(os.getpid()), caught.value.errno or 0

    with Procfs(hidepid=hidepid) as procfs:
        fd = handed_over(ALICE, procfs.open)
        told = run_as(reader, look)
        assert told == ((False, errno.EPERM) if hidepid == "1" else (None, errno.ESRCH))
        os.close(fd)


@pytest.mark.promise("N2", "N3", "N4")
@pytest.mark.core
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_an_opener_that_is_not_dumpable_sees_itself(machine: Population, hidepid: str) -> None:
    """As readdir shows it: what it opened itself and reads itself needs no ptrace check of its own process."""

    def look() -> tuple[dict[int, bool], dict[int, bool], int, bool]:
        fd = procfs.open()
        found = seen(fd)
        raw.ask(fd, Request(strategy=ONE, pid=os.getpid()))
        (answer,) = raw.answers(raw.read(fd, 4096))
        return in_proc(procfs), found, os.getpid(), bool(answer.attributes)

    machine.sleeping(who=ALICE)
    with Procfs(hidepid=hidepid) as procfs:
        listed, found, pid, one = run_as(Credentials(uid=1000, gid=1000, dumpable=False), look)
    assert found == listed
    assert found[pid] is True
    assert one


@pytest.mark.promise("R4", "N3", "N4")
@pytest.mark.core
def test_a_thread_is_seen_as_its_process_is(machine: Population, proc: int) -> None:
    """ONE with the id of a thread that is not the leader is under the same rule."""

    def have_thread() -> None:
        start_threads(1)

    pid = machine.spawn(have_thread, who=BOB)
    (thread,) = set(oracle.threads(proc, pid)) - {pid}

    def ask(show: int) -> str:
        fd = procfs.open()
        raw.ask(fd, Request(strategy=ONE, pid=thread, show=show))
        try:
            (answer,) = raw.answers(raw.read(fd, 4096))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        assert (answer.pid, answer.tgid) == (thread, pid)
        return "BASE" if answer.attributes else "bare"

    for hidepid, outcome in (("0", "BASE"), ("1", "EPERM"), ("2", "ESRCH"), ("4", "ESRCH")):
        with Procfs(hidepid=hidepid) as procfs:
            assert run_as(ALICE, partial(ask, raw.SHOW_BASE)) == outcome
            # Without a group it would tell whose thread it is, which readdir of this mount does not.
            assert run_as(ALICE, partial(ask, 0)) == outcome.replace("BASE", "bare")
            assert run_as(BOB, partial(ask, raw.SHOW_BASE)) == "BASE"
            assert run_as(BOB, partial(ask, 0)) == "bare"


@pytest.mark.promise("N3", "N4")
@pytest.mark.core
def test_a_thread_of_the_openers_own_is_hidden_with_its_leader(machine: Population, proc: int) -> None:
    """The thread alone could be ptraced by Alice; its process, which is root's, could not."""

    def be_alice() -> None:
        syscalls.take_ids(ALICE.uid, ALICE.gid)
        # The change of ids has cleared it, for the whole process.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)

    pid = machine.spawn(partial(start_threads, 1, be_alice))
    (thread,) = set(oracle.threads(proc, pid)) - {pid}
    uids = [oracle.parse_status(oracle.content(proc, f"{task}/status"))["Uid"].split()[0] for task in (pid, thread)]
    assert uids == [b"0", b"1000"]

    def ask() -> str:
        fd = procfs.open()
        raw.ask(fd, Request(strategy=ONE, pid=thread))
        try:
            return f"{len(raw.read(fd, 4096))} bytes"
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    for hidepid, outcome in (("1", "EPERM"), ("2", "ESRCH"), ("4", "ESRCH")):
        with Procfs(hidepid=hidepid) as procfs:
            assert run_as(ALICE, ask) == outcome
