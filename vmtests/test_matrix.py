"""The contract, "never more than /proc", cell by cell: openers, targets, hidepid=, gid=, strategies and groups."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from taskdiag import Base, Group, Strategy, Task, TaskDiag
from vmtests import oracle, programs, raw, smack, syscalls
from vmtests.credentials import ALICE, BOB, ROOT, Credentials, run_as
from vmtests.groups import LEADERS_ONLY, OF_PROC, Files, Said, ask, of_answer
from vmtests.labels import may_read
from vmtests.namespaces import PidNamespace, Procfs, user_namespace
from vmtests.population import Population, start_threads, wait_for
from vmtests.raw import Request

GID = 4242
"""The group of gid=."""

HIDDEN, REFUSED, SHOWN = "hidden", "refused", "shown"
Row = dict[Group, str | Said]
"""What an opener gets of one task, by group: the group, or that it may not be read."""
Answer = str | dict[int, Row]
"""What comes of a request: an error, or the rows of tasks by pid. Of the strategies of many, those of the targets."""
Answers = dict[tuple[Strategy, int], Answer]
"""By strategy and pid of the request."""

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
            "with threads": population.stopped(partial(start_threads, 2), who=BOB),
            "threads of the same uid": population.stopped(partial(start_threads, 1), who=ALICE),
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


class Look:
    """What ``/proc`` and each strategy say of the targets to whoever calls."""

    def __init__(self, procfs: Procfs, targets: Iterable[int], by_label: Procfs | None = None) -> None:
        """Look at these, by the mount ``procfs``.

        Where labels count, ``by_label`` is a mount that hides nobody: whose ``stat`` cannot be read there is not seen.
        """
        self._procfs = procfs
        self._by_label = by_label
        self._targets = list(targets)
        self._parent = os.getppid()
        """Of all targets but the kernel thread, as it is of the process that looks."""

    def both(self) -> tuple[Answers, Answers]:
        """Return what ``/proc`` says, and what the answers say."""
        before = self.of_proc()
        for _ in range(100):
            answers = {request: self._ask(*request) for request in before}
            after = self.of_proc()
            if before == after:
                return before, answers
            # A target may have run for a last moment.
            before = after
        raise AssertionError("the targets never come to rest")

    def of_proc(self) -> Answers:
        """Return what the text files say, as the answers should."""
        there = {*self._targets, self._parent}
        listed = {pid for pid in self._procfs.listed() if pid in there and self._may_be_seen(pid)}
        rows = {pid: self._row(str(pid)) for pid in self._targets if pid in listed}
        members = {pid: self._members(pid) for pid in rows}
        everything: dict[int, Row] = {}
        children: dict[int, Row] = {}
        answers: Answers = {}
        for pid in self._targets:
            row, threads = rows.get(pid), members.get(pid)
            if row is None:
                answers[Strategy.ONE, pid] = answers[Strategy.THREAD, pid] = HIDDEN
                continue
            if threads is None:
                # Of its threads only the leader is known.
                everything[pid] = row
                answers[Strategy.ONE, pid] = answers[Strategy.THREAD, pid] = REFUSED
                continue
            answers[Strategy.ONE, pid] = {pid: row}
            answers[Strategy.THREAD, pid] = threads
            answers |= {(Strategy.ONE, tid): {tid: self._row(str(tid))} for tid in threads if tid != pid}
            everything |= threads
            if isinstance(base := row[Group.BASE], Base) and base.ppid == self._parent:
                children[pid] = row
        answers[Strategy.ALL, 0] = rows
        answers[Strategy.ALL_THREAD, 0] = everything
        answers[Strategy.CHILDREN, self._parent] = children if self._parent in listed else HIDDEN
        return answers

    def _may_be_seen(self, pid: int) -> bool:
        return self._by_label is None or may_read(self._by_label, pid)

    def _members(self, pid: int) -> dict[int, Row] | None:
        try:
            threads = sorted(oracle.threads(self._procfs.fd, pid))
        except PermissionError:
            return None
        return {tid: self._row(f"{pid}/task/{tid}", leader=tid == pid) for tid in threads}

    def _row(self, task: str, *, leader: bool = True) -> Row:
        files = Files(self._procfs.fd, task)
        return {group: _cell(read, files) for group, read in OF_PROC.items() if leader or group not in LEADERS_ONLY}

    def _ask(self, strategy: Strategy, pid: int) -> Answer:
        with TaskDiag(self._procfs.open()) as source:
            try:
                tasks = ask(source.fileno(), strategy, pid)
            except OSError as error:
                return {errno.ESRCH: HIDDEN, errno.EPERM: REFUSED}[error.errno or 0]
        return {
            task.pid: _row(task, strategy)
            for task in tasks.values()
            if strategy in (Strategy.ONE, Strategy.THREAD) or task.tgid in self._targets
        }


def _cell(read: Callable[[Files], Said], files: Files) -> str | Said:
    try:
        return read(files)
    except PermissionError:
        return REFUSED


def _row(task: Task, strategy: Strategy) -> Row:
    said = of_answer(task)
    shows_all = task.pid == task.tgid or strategy is Strategy.ONE
    wanted = OF_PROC.keys() - (frozenset() if shows_all else LEADERS_ONLY)
    return {group: said.get(group, REFUSED) for group in OF_PROC if group in wanted or group in said}


def look(procfs: Procfs, targets: Iterable[int], by_label: Procfs | None = None) -> tuple[Answers, Answers]:
    """Return what ``/proc`` and the answers say of each target to whoever calls."""
    return Look(procfs, targets, by_label).both()


@pytest.mark.promise("N2", "N3", "N4", "R3", "R4", "G4", "G5", "G6", "O2")
@pytest.mark.deadline(30)
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("opener", openers())
def test_every_cell_is_that_of_proc(town: Town, opener: str, hidepid: str) -> None:
    for options in ({}, {"gid": str(GID)}):
        with Procfs(pidns=None, hidepid=hidepid, **options) as procfs:
            proc, answers = run_as(town.openers[opener], partial(look, procfs, town.targets.values()))
        assert {strategy for strategy, _ in answers} == set(Strategy)
        for request, answer in answers.items():
            assert answer == proc[request], (request, options)


@pytest.fixture(scope="module", params=["rx", ""])
def labelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """Make the targets once more, with a label of Smack's to which a rule lets "Asking" do this."""
    access: str = request.param
    label = f"Asked-{access or 'nothing'}"
    folder = tmp_path_factory.mktemp("set-uid")
    programs.open_to_all(folder)
    with smack.rules() as rules, Population() as population, PidNamespace() as nested:
        rules.allow("Asking", smack.FLOOR, "rwxa")
        if access:
            rules.allow("Asking", label, access)
        with smack.labelled(label):
            town = Town(population, nested, folder)
        assert {smack.label_of(pid) for pid in town.targets.values()} == {label, smack.FLOOR}
        yield town


@pytest.mark.promise("N3", "N4", "R3", "R4", "O2")
@pytest.mark.option("CONFIG_DEFAULT_SECURITY_SMACK")
@pytest.mark.deadline(30)
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("opener", openers())
def test_every_cell_is_that_of_proc_where_labels_count(labelled: Town, opener: str, hidepid: str) -> None:
    with Procfs(pidns=None, hidepid=hidepid) as procfs, Procfs(pidns=None) as by_label:
        targets = list(labelled.targets.values())
        look_by_label = partial(look, procfs, targets, by_label)
        proc, answers = smack.run_labelled("Asking", labelled.openers[opener], look_by_label)
    for request, answer in answers.items():
        assert answer == proc[request], request


@pytest.mark.promise("N3", "N4")
def test_the_cells_are_of_every_kind(town: Town) -> None:
    """The comparison would hold for empty answers, too."""

    def kinds(opener: str, hidepid: str) -> dict[str, str]:
        with Procfs(hidepid=hidepid) as procfs:
            _, answers = run_as(town.openers[opener], partial(look, procfs, town.targets.values()))
        everyone = answers[Strategy.ALL, 0]
        assert not isinstance(everyone, str)
        rows: dict[str, Row] = {name: everyone.get(pid, {Group.BASE: HIDDEN}) for name, pid in town.targets.items()}
        cells = {name: {c if isinstance(c, str) else SHOWN for c in row.values()} for name, row in rows.items()}
        return {name: cell for name, (cell,) in cells.items()}

    def only(others: str, *own: str) -> dict[str, str]:
        return {name: SHOWN if name in own else others for name in town.targets}

    assert kinds("root", "4") == only(SHOWN)
    assert kinds("another uid", "0") == only(SHOWN)
    own = ("same uid", "in a pid namespace below", "threads of the same uid")
    # Whoever made a user namespace may do all in it; alice made none, and has only her uid there.
    assert kinds("the same uid", "1") == only(REFUSED, *own)
    assert kinds("the same uid", "2") == kinds("the same uid", "4") == only(HIDDEN, *own)
    assert kinds("another uid", "2") == only(HIDDEN, "other uid", "with threads")


@pytest.mark.promise("N2")
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_a_set_uid_program_reads_for_who_opened(town: Town, hidepid: str) -> None:
    """Alice lets a program that becomes root read from what she opened: it tells no more than she may see."""

    def read_as_root() -> tuple[bytes, dict[int, bool]]:
        fd = procfs.open()
        raw.ask(fd, Request())
        done = subprocess.run([town.cat, "-", "/proc/self/status"], stdin=fd, capture_output=True, check=True)
        with TaskDiag(procfs.open()) as source:
            own = ask(source.fileno(), groups=(Group.BASE,))
        return done.stdout, {pid: task.base is not None for pid, task in own.items()}

    with Procfs(hidepid=hidepid) as procfs:
        output, wanted = run_as(ALICE, read_as_root)
    end = output.rindex(b"Name:")
    status = oracle.parse_status(output[end:])
    assert status["Uid"].split() == [b"1000", b"0", b"0", b"0"], "the program has not become root"
    shown = {answer.pid: bool(answer.attributes) for answer in raw.answers(output[:end])}
    for target, pid in town.targets.items():
        assert shown.get(pid) == wanted.get(pid), target
    # Not even itself.
    assert shown.get(int(status["Pid"])) is (False if hidepid == "1" else None)
