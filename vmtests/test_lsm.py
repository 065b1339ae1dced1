"""The contract, N3 and N6: whom a security module hides from an opener, and what it reports; here by Smack's labels."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from vmtests import audit, oracle, raw, smack, syscalls
from vmtests.credentials import ALICE, ROOT, Credentials, run_in_child
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Population
from vmtests.raw import ONE, Request

pytestmark = pytest.mark.option("CONFIG_SECURITY_SMACK")

OPENER, READ, WRITTEN, UNRULED = "Opener", "Read", "Written", "Unruled"
"""The opener's label, and those of processes that a rule lets it read, only write, or that no rule names."""

CAP_MAC_OVERRIDE = 1 << 32
OPENERS = {
    "alice": ALICE,
    "root without capabilities": Credentials(capabilities=0),
    "alice with CAP_SYS_PTRACE": Credentials(uid=1000, gid=1000, capabilities=1 << syscalls.CAP_SYS_PTRACE),
    "alice with CAP_MAC_OVERRIDE": Credentials(uid=1000, gid=1000, capabilities=CAP_MAC_OVERRIDE),
    "root": ROOT,
}


@dataclass(frozen=True)
class Town:
    """A pid namespace with processes of every label, root's and alice's; the numbers are the test's own."""

    namespace: PidNamespace
    by_label: dict[str, list[int]]

    def numbers(self, *labels: str) -> list[int]:
        """Return the numbers, in this namespace, of the processes that have one of the labels."""
        return sorted(self.namespace.number(pid) for label in labels for pid in self.by_label[label])


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """Write the rules and make the processes; tests only look at them."""

    def settle(label: str, who: Credentials) -> None:
        smack.relabel(label)
        who.take()

    with smack.rules() as rules, PidNamespace() as world:
        # The files of /proc have the floor's label, and the opener writes its request to one.
        rules.allow(OPENER, smack.FLOOR, "rwxa")
        rules.allow(OPENER, READ, "r")
        rules.allow(OPENER, WRITTEN, "w")
        labels = (smack.FLOOR, OPENER, READ, WRITTEN, UNRULED)
        by_label = {label: [world.spawn(partial(settle, label, who)) for who in (ROOT, ALICE)] for label in labels}
        yield Town(world, by_label)


def seen(procfs: Procfs) -> list[int]:
    """Open, as whoever calls, and return whom an answer about all has, in its order."""
    fd = procfs.open()
    try:
        raw.ask(fd, Request())
        return raw.pids(b"".join(raw.drain(fd)))
    finally:
        os.close(fd)


def test_processes_have_the_labels_that_they_were_given(town: Town) -> None:
    """Without this, all that follows would compare nothing."""
    for label, pids in town.by_label.items():
        assert {smack.label_of(pid) for pid in pids} == {label}


@pytest.mark.promise("N3")
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("who", OPENERS)
def test_an_opener_sees_whom_readdir_shows_and_whose_session_getsid_tells(town: Town, who: str, hidepid: str) -> None:
    def look() -> tuple[list[int], list[int]]:
        return [number for number in sorted(procfs.listed()) if smack.may_get_sid(number)], seen(procfs)

    def enter_and_look() -> tuple[list[int], list[int]]:
        # getsid(2) takes numbers of the caller's own namespace.
        syscalls.setns(town.namespace.fd, syscalls.CLONE_NEWPID)
        return smack.run_labelled(OPENER, OPENERS[who], look)

    with Procfs(pidns=town.namespace.fd, hidepid=hidepid) as procfs:
        wanted, found = run_in_child(enter_and_look)
    assert found == wanted


@pytest.mark.promise("N3")
def test_labels_hide_whom_the_rules_do_not_let_read(town: Town) -> None:
    """The comparison above would hold for a getsid(2) that refuses nobody, too: here is what has to come out."""
    shown = [1, *town.numbers(smack.FLOOR, OPENER, READ)]
    everyone = [1, *town.numbers(*town.by_label)]
    assert (len(shown), len(everyone)) == (7, 11)
    with Procfs(pidns=town.namespace.fd) as procfs:
        for who, wanted in (
            ("alice", shown),
            ("root without capabilities", shown),
            ("alice with CAP_SYS_PTRACE", shown),
            ("alice with CAP_MAC_OVERRIDE", everyone),
            ("root", everyone),
        ):
            assert smack.run_labelled(OPENER, OPENERS[who], partial(seen, procfs)) == wanted, who
        assert smack.run_labelled(smack.FLOOR, ALICE, partial(seen, procfs)) == [1, *town.numbers(smack.FLOOR)]


def outcome(procfs: Procfs, pid: int) -> str:
    """Ask for BASE of one task; return what came of it."""
    fd = procfs.open()
    try:
        raw.ask(fd, Request(strategy=ONE, pid=pid))
        (answer,) = raw.answers(raw.read(fd, 4096))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(fd)
    return "BASE" if answer.attributes else "bare"


@pytest.mark.promise("N3", "R3")
def test_one_that_is_hidden_does_not_exist(town: Town) -> None:
    shown = town.numbers(smack.FLOOR, OPENER, READ)
    with Procfs(pidns=town.namespace.fd) as procfs:
        numbers = town.numbers(*town.by_label)
        found = smack.run_labelled(OPENER, ALICE, lambda: {number: outcome(procfs, number) for number in numbers})
    assert found == {number: "BASE" if number in shown else "ESRCH" for number in numbers}


@pytest.mark.promise("N3")
@pytest.mark.parametrize(("leader", "other", "wanted"), [(READ, UNRULED, "BASE"), (UNRULED, READ, "ESRCH")])
def test_a_thread_follows_its_leader_whatever_its_own_label(
    town: Town, machine: Population, proc: int, leader: str, other: str, wanted: str
) -> None:
    def have_thread() -> None:
        labelled = threading.Event()

        def live() -> None:
            smack.relabel(other)
            labelled.set()
            threading.Event().wait()

        smack.relabel(leader)
        threading.Thread(target=live, daemon=True).start()
        labelled.wait()

    pid = machine.spawn(have_thread)
    (thread,) = set(oracle.threads(proc, pid)) - {pid}
    assert (smack.label_of(pid), smack.label_of(thread)) == (leader, other)
    assert town.by_label, "the rules are written with it"
    with Procfs() as procfs:
        assert smack.run_labelled(OPENER, ALICE, partial(outcome, procfs, thread)) == wanted


def opened_by(function: Callable[[], int]) -> int:
    """Open in a thread, whose label, ids and capabilities are its own, for the whole process to read."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.promise("N2", "N3")
def test_labels_count_as_the_opener_had_them(town: Town) -> None:
    shown, everyone = ([1, *town.numbers(*labels)] for labels in ((smack.FLOOR, OPENER, READ), town.by_label))

    def weak() -> int:
        smack.relabel(OPENER)
        syscalls.capset(0)
        return procfs.open()

    def ask(fd: int) -> list[int]:
        raw.ask(fd, Request())
        return raw.pids(b"".join(raw.drain(fd)))

    def look() -> tuple[list[int], list[int]]:
        of_weak, of_root = opened_by(weak), procfs.open()
        by_root = ask(of_weak)
        smack.relabel(OPENER)
        ALICE.take()
        return by_root, ask(of_root)

    with Procfs(pidns=town.namespace.fd) as procfs:
        assert run_in_child(look) == (shown, everyone)


def refused_to_ptrace(records: list[audit.Record]) -> set[str]:
    """Return the labels of whom Smack reports that it refused to be traced."""
    return {
        record.field("object")
        for record in records
        if record.field("fn") == "smack_ptrace_access_check" and record.field("action") == "denied"
    }


@pytest.mark.promise("N6")
@pytest.mark.option("CONFIG_AUDIT")
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_a_scan_leaves_no_record_of_whom_it_may_not_trace_where_a_look_into_proc_does(town: Town, hidepid: str) -> None:
    """Smack decides on ptrace by the reader's label and on getsid(2) by the opener's, which may see more here.

    By one and the same label getsid(2), which always reports, would refuse first.
    """
    alices = {label: town.namespace.number(pids[1]) for label, pids in town.by_label.items()}

    def opener() -> int:
        smack.relabel(OPENER)
        syscalls.take_ids(ALICE.uid, ALICE.gid)
        return procfs.open()

    def scan() -> list[int]:
        fd = opened_by(opener)
        smack.relabel(UNRULED)
        ALICE.take()
        raw.ask(fd, Request())
        return [answer.pid for answer in raw.answers(b"".join(raw.drain(fd))) if answer.attributes]

    def look() -> None:
        for number in procfs.listed():
            with contextlib.suppress(OSError):
                os.stat(f"{number}/status", dir_fd=procfs.fd)

    with Procfs(pidns=town.namespace.fd, hidepid=hidepid) as procfs, audit.Listener() as listener:
        assert run_in_child(scan) == [alices[smack.FLOOR]]
        assert refused_to_ptrace(listener.heard()) == set()
        smack.run_labelled(UNRULED, ALICE, look)
        assert refused_to_ptrace(listener.heard()) == {OPENER, READ, WRITTEN}
