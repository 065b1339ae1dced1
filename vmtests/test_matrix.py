"""The contract, "never more than /proc", cell by cell: openers, targets, hidepid=, gid= and groups (N2, N3, N4)."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from taskdiag import Base, Group, Strategy, Task, TaskDiag
from vmtests import oracle, programs, raw, syscalls
from vmtests.credentials import ALICE, BOB, ROOT, Credentials, run_as
from vmtests.groups import expected
from vmtests.namespaces import PidNamespace, Procfs, user_namespace
from vmtests.population import Population, wait_for
from vmtests.raw import Request

GID = 4242
"""The group of gid=."""

HIDDEN, REFUSED = "hidden", "refused"
Cell = str | Base
"""What an opener gets of one group of one task: nothing, only that it exists, or the group."""

KTHREADD = 2


class Town:
    """Targets of every kind, all in the guest's own pid namespace, as kernel threads are. They hold still."""

    def __init__(self, population: Population, nested: PidNamespace, folder: Path) -> None:
        self.user_namespace = user_namespace(population)
        self.cat = _set_uid(folder, "cat")
        self.targets = {
            "same uid": population.sleeping(who=ALICE),
            "other uid": population.sleeping(who=BOB),
            "root": population.sleeping(),
            "set-uid program": _run_set_uid(population, _set_uid(folder, "sleep")),
            "non-dumpable": population.sleeping(who=replace(ALICE, dumpable=False)),
            "same uid with another gid": population.sleeping(who=Credentials(uid=1000, gid=1001)),
            "root of a user namespace of the opener's": population.sleeping(
                who=Credentials(user_namespace=self.user_namespace)
            ),
            "in a pid namespace below": nested.sleeping(who=ALICE),
            "kernel thread": KTHREADD,
            "zombie": population.zombie(),
            "stopped": population.stopped(),
        }
        self.openers = openers(self.user_namespace)


def openers(user_namespace: int = -1) -> dict[str, Credentials]:
    """Return who opens, by name; two of them live in a user namespace, of which a descriptor is given."""
    return {
        "root": ROOT,
        "the same uid": ALICE,
        "another uid": BOB,
        "in the group of gid=": replace(ALICE, groups=(GID,)),
        "with CAP_SYS_PTRACE": replace(ALICE, capabilities=1 << syscalls.CAP_SYS_PTRACE),
        "root without capabilities": Credentials(capabilities=0),
        "root of a user namespace": Credentials(user_namespace=user_namespace),
        "a user of a user namespace": Credentials(uid=1, gid=1, user_namespace=user_namespace),
    }


def _set_uid(folder: Path, name: str) -> Path:
    """Copy a program of the guest's, which becomes root whoever runs it."""
    program = folder / name
    shutil.copy(shutil.which(name) or name, program)
    program.chmod(0o4755)
    return program


def _run_set_uid(population: Population, sleep: Path) -> int:
    """Make a process of alice's that has become root by exec."""
    pid = population.spawn(then=lambda: os.execv(sleep, [sleep.name, "100000"]), who=ALICE)
    status = Path(f"/proc/{pid}/status")
    wait_for(lambda: oracle.parse_status(status.read_bytes())["Name"] == b"sleep", "exec of a set-uid program")
    uids = oracle.parse_status(status.read_bytes())["Uid"].split()
    assert uids == [b"1000", b"0", b"0", b"0"], "the mount of the program ignores set-uid"
    wait_for(lambda: oracle.parse_status(status.read_bytes())["State"].startswith(b"S"), "the program asleep")
    return pid


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Make the targets."""
    folder = tmp_path_factory.mktemp("set-uid")
    programs.open_to_all(folder)
    with Population() as population, PidNamespace() as nested:
        yield Town(population, nested, folder)


def by_proc(procfs: Procfs, pid: int, listed: set[int]) -> Cell:
    """Return the cell of BASE as the text files have it, for whoever calls."""
    if pid not in listed:
        return HIDDEN
    try:
        return expected(oracle.process(procfs.fd, pid))
    except PermissionError:
        return REFUSED


def by_all(procfs: Procfs) -> dict[int, Cell]:
    """Return the cells of BASE by a dump of all."""
    with TaskDiag(procfs.open()) as source:
        source.request((Group.BASE,))
        return {task.pid: _cell(task) for task in source.tasks()}


def by_one(procfs: Procfs, pid: int) -> Cell:
    """Return the cell of BASE by a dump of one."""
    with TaskDiag(procfs.open()) as source:
        source.request((Group.BASE,), Strategy.ONE, pid=pid)
        try:
            (task,) = source.tasks()
        except OSError as error:
            return {errno.ESRCH: HIDDEN, errno.EPERM: REFUSED}[error.errno or 0]
        cell = _cell(task)
        assert cell is not REFUSED, "a refused ONE has to be an error"
        return cell


def _cell(task: Task) -> Cell:
    return REFUSED if task.base is None else task.base


def table(procfs: Procfs, targets: dict[str, int]) -> dict[str, tuple[Cell, Cell, Cell]]:
    """Return what /proc, a dump of all and a dump of one say of each target to whoever calls."""
    listed = set(procfs.listed())
    everyone = by_all(procfs)
    return {
        name: (by_proc(procfs, pid, listed), everyone.get(pid, HIDDEN), by_one(procfs, pid))
        for name, pid in targets.items()
    }


@pytest.mark.promise("N2", "N3", "N4", "R3", "R4", "G4")
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("opener", openers())
def test_every_cell_is_that_of_proc(town: Town, opener: str, hidepid: str) -> None:
    for options in ({}, {"gid": str(GID)}):
        with Procfs(pidns=None, hidepid=hidepid, **options) as procfs:
            cells = run_as(town.openers[opener], partial(table, procfs, town.targets))
        assert cells.keys() == town.targets.keys()
        for target, (proc, everyone, one) in cells.items():
            assert (everyone, one) == (proc, proc), (target, options)


@pytest.mark.promise("N3", "N4")
def test_the_cells_are_of_every_kind(town: Town) -> None:
    """The comparison would hold for three times nothing, too."""

    def kinds(opener: str, hidepid: str) -> dict[str, str]:
        with Procfs(hidepid=hidepid) as procfs:
            cells = run_as(town.openers[opener], partial(table, procfs, town.targets))
        return {name: cell if isinstance(cell, str) else "BASE" for name, (_, cell, _) in cells.items()}

    def only(others: str, *own: str) -> dict[str, str]:
        return {name: "BASE" if name in own else others for name in town.targets}

    assert kinds("root", "4") == only("BASE")
    assert kinds("another uid", "0") == only("BASE")
    own = ("same uid", "in a pid namespace below")
    # Whoever made a user namespace may do all in it; alice made none, and has only her uid there.
    assert kinds("the same uid", "1") == only(REFUSED, *own)
    assert kinds("the same uid", "2") == kinds("the same uid", "4") == only(HIDDEN, *own)
    assert kinds("another uid", "2") == only(HIDDEN, "other uid")


@pytest.mark.promise("N2")
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_a_set_uid_program_reads_for_who_opened(town: Town, hidepid: str) -> None:
    """Alice lets a program that becomes root read from what she opened: it tells no more than she may see."""

    def read_as_root() -> tuple[bytes, dict[int, Cell]]:
        fd = procfs.open()
        raw.ask(fd, Request())
        done = subprocess.run([town.cat, "-", "/proc/self/status"], stdin=fd, capture_output=True, check=True)
        return done.stdout, by_all(procfs)

    with Procfs(hidepid=hidepid) as procfs:
        output, wanted = run_as(ALICE, read_as_root)
    end = output.rindex(b"Name:")
    status = oracle.parse_status(output[end:])
    assert status["Uid"].split() == [b"1000", b"0", b"0", b"0"], "the program has not become root"
    shown = {answer.pid: bool(answer.attributes) for answer in raw.answers(output[:end])}
    for target, pid in town.targets.items():
        assert shown.get(pid) == {HIDDEN: None, REFUSED: False}.get(str(wanted.get(pid, HIDDEN)), True), target
    # Not even itself.
    assert shown.get(int(status["Pid"])) is (False if hidepid == "1" else None)
