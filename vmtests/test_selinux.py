"""The contract, N3 and N6: whom SELinux hides from an opener by types, and that it records nothing of a scan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from vmtests import audit, oracle, raw, selinux
from vmtests.credentials import ALICE, ROOT
from vmtests.labels import Family, ask, changing, may_read, names
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.raw import ONE, Request

pytestmark = pytest.mark.option("CONFIG_DEFAULT_SECURITY_SELINUX")

OPENER, LAX, SEEN, HIDDEN = "opener_t", "lax_t", "seen_t", "hidden_t"
REFUSED = ("unsearched_t", "unopened_t", "unread_t", HIDDEN)
"""Types of which the opener lacks one permission, or all."""
TYPES = ("kernel_t", OPENER, SEEN, *REFUSED)


@dataclass(frozen=True)
class Town:
    """A pid namespace with processes of every type, root's and alice's; the numbers are the test's own."""

    policy: selinux.Policy
    namespace: PidNamespace
    by_type: dict[str, list[int]]

    def numbers(self, *types: str) -> list[int]:
        """Return the numbers, in this namespace, of the processes that have one of the types."""
        return sorted(self.namespace.number(pid) for name in types for pid in self.by_type[name])


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Load the policy and make the processes; tests only look at them."""
    with selinux.enforced(tmp_path_factory.mktemp("policy")) as policy, PidNamespace() as world:
        by_type = {
            name: [world.spawn(partial(selinux.retype, name)), world.spawn(partial(_settle_as_alice, name))]
            for name in TYPES
        }
        yield Town(policy, world, by_type)


def _settle_as_alice(name: str) -> None:
    selinux.retype(name)
    ALICE.take()


def test_processes_have_the_types_that_they_were_given(town: Town) -> None:
    """Without this, all that follows would compare nothing."""
    for name, pids in town.by_type.items():
        assert {selinux.type_of(pid) for pid in pids} == {name}


@pytest.mark.promise("N3", "N4")
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("who", ["root", "alice"])
@pytest.mark.parametrize("name", [OPENER, LAX, SEEN, "kernel_t"])
def test_an_opener_sees_whom_readdir_shows_and_whose_stat_its_type_may_read(
    town: Town, name: str, who: str, hidepid: str
) -> None:
    def look() -> tuple[list[int], list[int] | str, list[int], list[int]]:
        by_type = [number for number in sorted(procfs.listed()) if may_read(open_to_all, number)]
        fd = procfs.open()
        raw.ask(fd, Request())
        shown = [answer.pid for answer in raw.answers(b"".join(raw.drain(fd))) if answer.attributes]
        readable = [number for number in by_type if may_read(procfs, number)]
        return by_type, ask(procfs, Request()), readable, shown

    with Procfs(pidns=town.namespace.fd) as open_to_all, Procfs(pidns=town.namespace.fd, hidepid=hidepid) as procfs:
        wanted, found, readable, shown = selinux.run_as_type(name, {"root": ROOT, "alice": ALICE}[who], look)
    assert found == wanted
    assert shown == readable


@pytest.mark.promise("N3", "R3")
def test_types_hide_whom_the_policy_does_not_let_read(town: Town) -> None:
    """The comparison above would hold for a policy that refuses nobody, too: here is what has to come out."""
    shown, everyone = town.numbers(OPENER, SEEN), town.numbers(*TYPES)
    with Procfs(pidns=town.namespace.fd) as procfs:
        for who in (ROOT, ALICE):
            assert selinux.run_as_type(OPENER, who, partial(ask, procfs, Request(start=2))) == shown
            # Of a permissive type refusals are only recorded.
            assert selinux.run_as_type(LAX, who, partial(ask, procfs, Request(start=2))) == everyone
        one = {
            number: selinux.run_as_type(OPENER, ALICE, partial(ask, procfs, Request(strategy=ONE, pid=number)))
            for number in everyone
        }
    assert one == {number: [number] if number in shown else "ESRCH" for number in everyone}


@pytest.mark.promise("N3")
def test_a_policy_that_is_not_enforced_hides_nobody(town: Town) -> None:
    town.policy.enforce(on=False)
    try:
        with Procfs(pidns=town.namespace.fd) as procfs:
            found = selinux.run_as_type(OPENER, ALICE, partial(ask, procfs, Request(start=2)))
    finally:
        town.policy.enforce(on=True)
    assert found == town.numbers(*TYPES)


@pytest.mark.promise("N3")
@pytest.mark.parametrize("leader", [SEEN, HIDDEN])
def test_a_thread_goes_by_its_own_type(town: Town, leader: str) -> None:
    """ONE and ALL_THREAD have it if it may be read; THREAD and CHILDREN want to see the process first."""
    assert town.by_type, "the policy is loaded with it"
    with PidNamespace() as world:
        thread = partial(selinux.retype, f"thread_of_{leader}")
        family = Family.of(world, partial(selinux.retype, leader), thread)
        found = selinux.run_as_type(OPENER, ALICE, family.asked)
    assert found == family.wanted(leader_seen=leader == SEEN)


@pytest.mark.promise("N3", "O2")
@pytest.mark.deadline(60)
def test_a_type_that_changes_shows_nothing_of_what_it_hides(town: Town) -> None:
    """A process has the name "secret" only while nobody may read it, and changes between that and what may be read."""

    assert town.by_type, "the policy is loaded with it"
    with PidNamespace() as world:
        changing(world, partial(selinux.retype, SEEN), partial(selinux.retype, HIDDEN))
        assert selinux.run_as_type(OPENER, ALICE, partial(names, world)) == {b"public"}


@pytest.mark.promise("N2", "N3")
def test_types_count_as_the_opener_had_them(town: Town) -> None:
    """Who opens and then becomes another one still sees as who opened."""

    def read_as(name: str, opener: str) -> list[int]:
        def look() -> list[int]:
            fd = procfs.open()
            raw.ask(fd, Request(start=2))
            selinux.retype(name)
            return raw.pids(b"".join(raw.drain(fd)))

        return selinux.run_as_type(opener, ROOT, look)

    with Procfs(pidns=town.namespace.fd) as procfs:
        assert read_as(LAX, OPENER) == town.numbers(OPENER, SEEN)
        assert read_as(OPENER, "kernel_t") == town.numbers(*TYPES)


def denied(records: list[audit.Record]) -> list[str]:
    """Return the types of whom SELinux recorded that it denied something about them."""
    kinds = [record for record in records if record.kind == audit.AVC and "denied" in record.text]
    return sorted(record.field("tcontext").split(":")[2] for record in kinds)


@pytest.mark.promise("N6")
@pytest.mark.option("CONFIG_AUDIT")
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("name", [OPENER, LAX])
def test_a_scan_leaves_no_record_and_keeps_none_from_being_made(town: Town, name: str, hidepid: str) -> None:
    """Also not in permissive mode, where what has been granted once is recorded only once."""
    numbers = town.numbers(*TYPES)

    def scan() -> None:
        for strategy in (raw.ALL, raw.ALL_THREAD):
            assert ask(procfs, Request(strategy=strategy))

    def look() -> None:
        for number in numbers:
            with contextlib.suppress(OSError):
                oracle.content(open_to_all.fd, f"{number}/stat")

    with (
        Procfs(pidns=town.namespace.fd, hidepid=hidepid) as procfs,
        Procfs(pidns=town.namespace.fd) as open_to_all,
        audit.Listener() as listener,
    ):
        town.policy.forget()
        selinux.run_as_type(name, ALICE, scan)
        assert denied(listener.heard()) == []
        selinux.run_as_type(name, ALICE, look)
        assert {"unsearched_t", "unopened_t", "unread_t", HIDDEN} <= set(denied(listener.heard()))
