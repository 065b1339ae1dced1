"""The contract, N3 and N6: whom Smack hides from an opener by labels, and that it reports nothing of a scan."""

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
from vmtests.labels import Family, ask, changing, may_read, names
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Gate, pause, wait_for
from vmtests.raw import ONE, Request

pytestmark = pytest.mark.option("CONFIG_DEFAULT_SECURITY_SMACK")

OPENER = "Opener"
"""The label of who asks."""
RULES = {"Read": "rx", "Reported": "rxb", "OnlyRead": "r", "OnlySearched": "x", "Written": "w", "Unruled": ""}
"""The labels of processes that it asks about, and what rules let it do to them; "b": and report it (bring-up)."""
READ, UNRULED = "Read", "Unruled"
LABELS = (smack.FLOOR, OPENER, *RULES)
SHOWN = (smack.FLOOR, OPENER, READ, "Reported")
"""The labels of those whose ``stat`` it can reach and read."""

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

    rules: smack.Rules
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
        for label, access in RULES.items():
            if access:
                rules.allow(OPENER, label, access)
        by_label = {label: [world.spawn(partial(settle, label, who)) for who in (ROOT, ALICE)] for label in LABELS}
        yield Town(rules, world, by_label)


def test_processes_have_the_labels_that_they_were_given(town: Town) -> None:
    """Without this, all that follows would compare nothing."""
    for label, pids in town.by_label.items():
        assert {smack.label_of(pid) for pid in pids} == {label}


@pytest.mark.promise("N3", "N4")
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("who", OPENERS)
def test_an_opener_sees_whom_readdir_shows_and_whose_stat_its_label_may_read(
    town: Town, who: str, hidepid: str
) -> None:
    def look() -> tuple[list[int], list[int], dict[int, bool], list[int]]:
        by_label = [number for number in sorted(procfs.listed()) if may_read(open_to_all, number)]
        fd = procfs.open()
        raw.ask(fd, Request(start=2))
        stream = b"".join(raw.drain(fd))
        shown = [answer.pid for answer in raw.answers(stream) if answer.attributes]
        readable = {number: may_read(procfs, number) for number in by_label}
        return by_label, raw.pids(stream), readable, shown

    with Procfs(pidns=town.namespace.fd) as open_to_all, Procfs(pidns=town.namespace.fd, hidepid=hidepid) as procfs:
        wanted, found, readable, shown = smack.run_labelled(OPENER, OPENERS[who], look)
    assert found == [number for number in wanted if number != 1]
    assert shown == [number for number in found if readable[number]]


@pytest.mark.promise("N3")
def test_labels_hide_whom_the_rules_do_not_let_read(town: Town) -> None:
    """The comparison above would hold for rules that refuse nobody, too: here is what has to come out."""
    shown = [1, *town.numbers(*SHOWN)]
    everyone = [1, *town.numbers(*LABELS)]
    assert (len(shown), len(everyone)) == (9, 17)
    with Procfs(pidns=town.namespace.fd) as procfs:
        for who, wanted in (
            ("alice", shown),
            ("root without capabilities", shown),
            ("alice with CAP_SYS_PTRACE", shown),
            ("alice with CAP_MAC_OVERRIDE", everyone),
            ("root", everyone),
        ):
            assert smack.run_labelled(OPENER, OPENERS[who], partial(ask, procfs, Request())) == wanted, who
        assert smack.run_labelled(smack.FLOOR, ALICE, partial(ask, procfs, Request())) == [
            1,
            *town.numbers(smack.FLOOR),
        ]


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
    shown = town.numbers(*SHOWN)
    with Procfs(pidns=town.namespace.fd) as procfs:
        numbers = town.numbers(*LABELS)
        found = smack.run_labelled(OPENER, ALICE, lambda: {number: outcome(procfs, number) for number in numbers})
    assert found == {number: "BASE" if number in shown else "ESRCH" for number in numbers}


@pytest.mark.promise("N3")
@pytest.mark.parametrize(("leader", "other"), [(READ, UNRULED), (UNRULED, READ)])
def test_a_thread_goes_by_its_own_label(town: Town, leader: str, other: str) -> None:
    """ONE and ALL_THREAD have it if it may be read; THREAD and CHILDREN want to see the process first."""
    assert town.by_label, "the rules are written with it"
    with PidNamespace() as world:
        family = Family.of(world, partial(smack.relabel, leader), partial(smack.relabel, other))
        found = smack.run_labelled(OPENER, ALICE, family.asked)
    assert found == family.wanted(leader_seen=leader == READ)


@pytest.mark.promise("N3")
def test_a_programs_own_rules_count(town: Town) -> None:
    """It may forbid itself what the rule book lets it do."""

    def look() -> tuple[list[int] | str, list[bool]]:
        town.rules.allow(OPENER, READ, "-", own=True)
        found = ask(procfs, Request())
        return found, [may_read(procfs, number) for number in forbidden]

    forbidden = town.numbers(READ)
    with Procfs(pidns=town.namespace.fd) as procfs:
        found, readable = smack.run_labelled(OPENER, ALICE, look)
    assert found == [1, *town.numbers(*(label for label in SHOWN if label != READ))]
    assert readable == [False, False]


@pytest.mark.promise("N3")
def test_who_opens_needs_a_rule_to_write(town: Town) -> None:
    """The file has the floor's label."""
    with Procfs(pidns=town.namespace.fd) as procfs, pytest.raises(PermissionError):
        smack.run_labelled(UNRULED, ALICE, partial(ask, procfs, Request()))


@pytest.mark.promise("N3", "C3")
@pytest.mark.parametrize("strategy", [ONE, raw.ALL])
def test_a_half_delivered_task_that_labels_hide_has_no_more_messages(
    town: Town, world: PidNamespace, gate: Gate, strategy: int
) -> None:
    def hide_when_told() -> None:
        gate.wait()
        smack.relabel(UNRULED)
        pause()

    number = world.number(world.spawn(partial(smack.relabel, READ), hide_when_told))
    last = world.number(world.sleeping())

    def look() -> list[int]:
        fd = world.procfs.open()
        pid, start = (number, 0) if strategy == ONE else (0, number)
        raw.ask(fd, Request(strategy=strategy, pid=pid, start=start, show=raw.SHOW_FIXED))
        (answer,) = raw.answers(raw.read(fd, raw.size_of(0, 1)))
        assert (answer.pid, answer.task_flags) == (number, raw.CONT)
        gate.open()
        wait_for(lambda: not may_read(procfs, number), "another label")
        return raw.pids(b"".join(raw.drain(fd)))

    assert town.by_label, "the rules are written with it"
    with Procfs(pidns=world.fd) as procfs:
        assert smack.run_labelled(OPENER, ALICE, look) == ([] if strategy == ONE else [last])


@pytest.mark.promise("N3", "O2")
@pytest.mark.deadline(60)
def test_a_label_that_changes_shows_nothing_of_what_it_hides(town: Town) -> None:
    """A process has the name "secret" only while nobody may read it, and changes between that and what may be read."""

    assert town.by_label, "the rules are written with it"
    with PidNamespace() as world:
        changing(world, partial(smack.relabel, READ), partial(smack.relabel, UNRULED))
        assert smack.run_labelled(OPENER, ALICE, partial(names, world)) == {b"public"}


def opened_by(function: Callable[[], int]) -> int:
    """Open in a thread, whose label, ids and capabilities are its own, for the whole process to read."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def asked(fd: int) -> list[int]:
    """Ask through an open file; return whom the answer has."""
    raw.ask(fd, Request())
    return raw.pids(b"".join(raw.drain(fd)))


@pytest.mark.promise("N2", "N3")
def test_labels_count_as_the_opener_had_them(town: Town) -> None:
    shown, everyone = ([1, *town.numbers(*labels)] for labels in (SHOWN, LABELS))

    def weak() -> int:
        smack.relabel(OPENER)
        syscalls.capset(0)
        return procfs.open()

    def look() -> tuple[list[int], list[int]]:
        of_weak, of_root = opened_by(weak), procfs.open()
        by_root = asked(of_weak)
        smack.relabel(OPENER)
        ALICE.take()
        return by_root, asked(of_root)

    with Procfs(pidns=town.namespace.fd) as procfs:
        assert run_in_child(look) == (shown, everyone)


def refused(records: list[audit.Record]) -> set[str]:
    """Return the labels of whom Smack reports that it refused something about them."""
    denied = [record for record in records if record.field("lsm") == "SMACK" and record.field("action") == "denied"]
    return {record.field("object") for record in denied}


@pytest.mark.promise("N6")
@pytest.mark.option("CONFIG_AUDIT")
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
def test_a_scan_leaves_no_record_where_a_look_into_proc_does(town: Town, hidepid: str) -> None:
    """Nor of what a bring-up rule permits; and not by ptrace's checks, for which the reader's label counts."""

    def opener() -> int:
        smack.relabel(OPENER)
        syscalls.take_ids(ALICE.uid, ALICE.gid)
        return procfs.open()

    def scan() -> tuple[list[int], list[int]]:
        fd = opened_by(opener)
        by_opener = smack.run_labelled(OPENER, ALICE, lambda: asked(procfs.open()))
        smack.relabel(UNRULED)
        ALICE.take()
        return by_opener, asked(fd)

    def look() -> None:
        for number in procfs.listed():
            with contextlib.suppress(OSError):
                oracle.content(procfs.fd, f"{number}/stat")

    with Procfs(pidns=town.namespace.fd, hidepid=hidepid) as procfs, audit.Listener() as listener:
        by_opener, by_reader = run_in_child(scan)
        assert by_opener
        assert by_reader
        assert refused(listener.heard()) == set()
        smack.run_labelled(OPENER, ALICE, look)
        assert refused(listener.heard()) >= {UNRULED, "OnlyRead"}
