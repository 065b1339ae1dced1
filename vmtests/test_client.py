"""The client in tools/taskdiag, on the kernel that it is for, and its ``ps`` beside that of procps."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from taskdiag import (
    Group,
    NoSuchTaskError,
    NoTaskDiagError,
    RefusedError,
    Strategy,
    TaskDiag,
    TaskDiagError,
    Transaction,
    UnknownGroupError,
    retry_command_lines,
    rows,
    tasks,
    wire,
)
from taskdiag.ps.column import COLUMNS
from taskdiag.uapi import CMDLINE_MAX
from vmtests import oracle
from vmtests.credentials import ALICE, run_as
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Population, start_threads

HAD = frozenset(Group) - {Group.VMA, Group.VMA_STAT}
"""The groups of this series."""
MOUNT = Path("/proc/self/fd")

OURS = frozenset({"cgroupid", "inode"})
"""The columns that procps does not have."""
SHARES = frozenset({"%cpu", "pcpu", "c"})
"""The columns that fall as a task grows old, and rise as it runs: what lies between may be the least or the most."""
CELL = 40
"""How wide each column is made, so that no value is cut and each is found by its place."""
NUMBER = re.compile(r"\d+")
WORKS_ON = re.compile(r"^(\[?kworker/u?\d+:\d+H?)[-+][^]]*")
"""Behind a worker's name is what it works on, which is something else whenever anybody looks."""


ARGUMENTS = [
    [],
    [b"two words", b"", b"\\n"],
    [b"a\nb", b"\t\x1b[31m", b"\n"],
    [b"caf\xe9", "caf\u00e9 \u4e16".encode()],
    [b"x" * 9000, b"y"],
]
"""Of processes: some that take care to be shown, some that come in several pieces."""
KTHREADD = 2
OPENS = """
import os, sys
from taskdiag.__main__ import main

def told(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        os.write(2, os.fsencode(arguments[0]) + b"\\n")

sys.addaudithook(told)
sys.exit(main(sys.argv[1:]))
"""
"""The command ``taskdiag``; the interpreter tells on standard error which files are opened."""
WIDE = ("--no-headers", "-w", "-w", "-o")


def mount(procfs: Procfs) -> Path:
    """Return a path to a mount that is attached nowhere."""
    return MOUNT / str(procfs.fd)


def execed(population: Population, *arguments: bytes) -> int:
    """Make a process of a program with these arguments, which is stopped."""
    pid = population.spawn(then=lambda: os.execv("/bin/sh", [b"sh", b"-c", b"kill -STOP $$", *arguments]))
    os.waitpid(pid, os.WUNTRACED)
    return pid


# The library


@pytest.mark.promise("N7", "G8")
def test_a_command_line_that_a_lock_cut_off_is_asked_for_again(world: PidNamespace) -> None:
    """A process that forks all the time holds its mmap_lock whenever a dump comes by, or nearly."""

    def live() -> None:
        memory = mmap.mmap(-1, 1 << 24, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.write(bytes(1 << 24))
        while True:
            if os.fork() == 0:
                os._exit(0)
            os.wait()

    number = world.number(world.spawn(then=live))
    line = oracle.content(world.procfs.fd, f"{number}/cmdline")
    groups = (Group.CMDLINE, Group.IDENT)
    cut = {True: 0, False: 0}
    for again in (False, True):
        for _ in range(40):
            listing = tasks(groups, proc=mount(world.procfs))
            (task,) = (
                task
                for task in (retry_command_lines(listing, proc=mount(world.procfs)) if again else listing)
                if task.pid == number
            )
            assert task.cmdline == line or task.cmdline_cut
            cut[again] += task.cmdline_cut
    print(f"cut: {cut[False]} of 40, asked again {cut[True]} of 40")
    assert cut[True] <= cut[False] / 2
    assert cut[True] < 20


@pytest.mark.promise("R1", "R2", "O1")
@pytest.mark.parametrize("size", [100, 4096, 65536])
def test_a_transaction_gives_every_task_and_closes_its_file(crowd: PidNamespace, size: int) -> None:
    """A buffer that is too small is doubled, and loses nothing."""
    transaction = Transaction(HAD, proc=mount(crowd.procfs), buffer_size=size)
    found = list(transaction)
    assert [task.pid for task in found] == crowd.procfs.listed()
    assert all(task.complete and not task.cut for task in found)
    assert all(task.payloads.keys() == HAD for task in found)
    with pytest.raises(ValueError, match="closed"):
        transaction._source.fileno()


@pytest.mark.promise("W9")
def test_a_dump_is_resumed_behind_the_task_where_it_was_left(crowd: PidNamespace) -> None:
    everyone = crowd.procfs.listed()
    with Transaction(proc=mount(crowd.procfs), buffer_size=4096) as transaction:
        first = [task.pid for task in itertools.islice(transaction, 100)]
    assert first + [task.pid for task in tasks(proc=mount(crowd.procfs), start=first[-1] + 1)] == everyone


@pytest.mark.promise("G2")
def test_columns_have_what_the_records_have(crowd: PidNamespace) -> None:
    names = ("pid", "tgid", "base.ppid", "base.comm", "cred.euid", "stat.threads", "mem.vsize", "job.tpgid")
    found = list(rows(*names, proc=mount(crowd.procfs)))
    records = list(tasks(HAD, proc=mount(crowd.procfs)))
    assert [row[0] for row in found] == crowd.procfs.listed()
    for row, task in zip(found, records, strict=True):
        assert task.base and task.cred and task.stat and task.mem and task.job
        assert row == (
            *(task.pid, task.tgid, task.base.ppid, task.base.comm, task.cred.euid),
            *(task.stat.threads, task.mem.vsize, task.job.tpgid),
        )


@pytest.mark.promise("G2", "W4")
def test_the_kernel_is_asked_which_groups_it_has(whole_machine: int) -> None:
    with TaskDiag(os.dup(whole_machine)) as source:
        assert source.groups() == HAD
        with pytest.raises(UnknownGroupError, match=r"does not have the group VMA \(EINVAL\)") as caught:
            source.request(HAD | {Group.VMA})
        assert caught.value.groups == {Group.VMA}
        source.request()
        with pytest.raises(TaskDiagError, match="is answering another request") as busy:
            source.request()
        assert busy.value.errno == errno.EBUSY
        assert os.getpid() in {task.pid for task in source.tasks()}
        with pytest.raises(TaskDiagError, match="does not take this request"):
            source.request(strategy=Strategy.ONE)


@pytest.mark.promise("R3", "R4")
def test_who_is_missing_hidden_or_not_to_be_read_is_an_error_of_its_own(world: PidNamespace) -> None:
    mine = world.number(world.sleeping(who=ALICE))
    other = world.number(world.sleeping())

    def look(path: Path, pid: int) -> str:
        try:
            with Transaction(strategy=Strategy.ONE, pid=pid, proc=path) as transaction:
                return ",".join(str(task.pid) for task in transaction)
        except (NoSuchTaskError, RefusedError) as error:
            return type(error).__name__

    for hidepid, wanted in (("1", "RefusedError"), ("2", "NoSuchTaskError")):
        with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
            found = run_as(ALICE, lambda: [look(mount(procfs), pid) for pid in (mine, other, 4_000_000)])
        assert found == [str(mine), wanted, "NoSuchTaskError"]


@pytest.mark.promise("F1")
def test_a_mount_without_the_file_is_told(world: PidNamespace) -> None:
    with (
        Procfs(pidns=world.fd, subset="pid") as procfs,
        pytest.raises(NoTaskDiagError, match=r"does not exist: .*CONFIG_TASK_DIAG"),
    ):
        tasks(proc=mount(procfs))


@pytest.mark.promise("O1", "O2", "G5")
def test_threads_and_children_by_the_library(world: PidNamespace) -> None:
    pid = world.number(world.spawn(partial(start_threads, 3)))
    path = mount(world.procfs)
    threads = list(tasks(HAD, Strategy.THREAD, pid=pid, proc=path))
    assert [task.pid for task in threads] == sorted(oracle.threads(world.procfs.fd, pid))
    assert [task.mem is None for task in threads] == [False, True, True, True]
    assert [task.cmdline is None for task in threads] == [False, True, True, True]
    assert {task.pid for task in tasks(strategy=Strategy.ALL_THREAD, proc=path)} >= {task.pid for task in threads}
    assert list(tasks(strategy=Strategy.CHILDREN, pid=pid, proc=path)) == []


@pytest.mark.promise("G6", "G8", "C1")
@pytest.mark.parametrize("size", [100, 4096, 65536])
def test_command_lines_are_those_of_proc(world: PidNamespace, size: int) -> None:
    """Also in pieces of any size; one that is too long is told to be cut, and one that is not there is not."""
    for arguments in (*ARGUMENTS, [b"y" * 70000]):
        execed(world, *arguments)
    world.sleeping()
    world.zombie()
    found = list(tasks(HAD, proc=mount(world.procfs), buffer_size=size))
    assert [task.pid for task in found] == world.procfs.listed()
    for task in found:
        wanted = oracle.content(world.procfs.fd, f"{task.pid}/cmdline")
        assert task.complete
        assert task.cmdline == wanted[:CMDLINE_MAX]
        assert task.cut == ({Group.CMDLINE} if len(wanted) > CMDLINE_MAX else set())
    assert sorted(task.cmdline_cut for task in found) == [False] * (len(found) - 1) + [True]


@pytest.mark.promise("G6")
def test_a_kernel_thread_has_an_empty_command_line() -> None:
    (task,) = tasks((Group.CMDLINE,), Strategy.ONE, pid=KTHREADD)
    assert (task.cmdline, task.cmdline_cut) == (b"", False)


@pytest.mark.promise("R1")
def test_a_recorded_answer_says_what_the_answer_said(world: PidNamespace, tmp_path: Path) -> None:
    world.sleeping()
    world.zombie()
    command = [sys.executable, "-m", "taskdiag", "--proc", str(mount(world.procfs)), "dump", "--raw"]
    file = tmp_path / "answer"
    subprocess.run([*command, "--output", str(file)], check=True, pass_fds=(world.procfs.fd,))
    with file.open("rb") as recorded:
        found = list(wire.join(wire.decode_file(recorded)))
    assert [task.pid for task in found] == world.procfs.listed()
    shown = subprocess.run([*command[:3], "show", str(file)], check=True, capture_output=True, text=True)
    assert len(shown.stdout.splitlines()) == 1 + len(found)


# ps


def cells(words: list[str], names: list[str]) -> dict[int, list[str]]:
    """Run a ps; return the cells of each line, by the number of the task, which comes first."""
    wide = ",".join(f"{name}:{CELL}" for name in names)
    done = subprocess.run([*words, "-o", wide, "-w", "-w"], check=True, capture_output=True, text=True)
    heading, *lines = done.stdout.splitlines()
    assert len(heading) >= (CELL + 1) * (len(names) - 1)
    found = {}
    for line in lines:
        parts = [line[at : at + CELL].strip() for at in range(0, (CELL + 1) * len(names), CELL + 1)]
        parts = [WORKS_ON.sub(r"\1", part) for part in parts]
        assert len(parts) == len(names)
        found[int(parts[0])] = parts
    assert len(found) == len(lines)
    return found


def between(before: str, cell: str, after: str) -> bool:
    """Tell whether a cell is as it was before or after, or its numbers lie between."""
    if cell in (before, after):
        return True
    if len({NUMBER.sub("0", text) for text in (before, cell, after)}) > 1:
        return False
    low, at, high = (tuple(map(int, NUMBER.findall(text))) for text in (before, cell, after))
    return min(low, high) <= at <= max(low, high)


def near(before: str, cell: str, after: str) -> bool:
    """Tell whether a share lies between what it was before and after, give or take a point."""
    low, at, high = map(float, (before, cell, after))
    return min(low, high) - 1 <= at <= max(low, high) + 1


@pytest.mark.promise("G8")
@pytest.mark.deadline(60)
@pytest.mark.parametrize("threads", [False, True], ids=["processes", "threads"])
def test_every_column_of_ps_is_that_of_procps_for_every_task(machine: Population, threads: bool) -> None:
    machine.sleeping(who=ALICE)
    machine.zombie()
    machine.stopped()
    machine.spawn(lambda: os.nice(5))
    machine.spawn(partial(start_threads, 3))
    first = "lwp" if threads else "pid"
    # The command line, which has any length, is the last one.
    names = [first, *sorted(COLUMNS.keys() - OURS - {first, "args", "cmd", "command"}), "args"]
    by_procps = ["ps", "-eL" if threads else "-e"]
    by_client = [sys.executable, "-m", "taskdiag", "ps", *(["-L"] if threads else [])]

    def different() -> set[tuple[int, str]]:
        before = cells(by_procps, names)
        found = cells(by_client, names)
        after = cells(by_procps, names)
        lasting = before.keys() & after.keys()
        assert len(lasting) > 20
        assert lasting <= found.keys()
        # This test has other memory in use at each of the three moments.
        lasting -= {number for number in lasting if found[number][names.index("pid")] == str(os.getpid())}
        return {
            (number, name)
            for number in lasting
            for name, *cell in zip(names, before[number], found[number], after[number], strict=True)
            if not (near if name in SHARES else between)(*cell)
        }

    # A thread of the kernel may run just when the client looks.
    always = different()
    for _ in range(4):
        if not always:
            break
        always &= different()
    assert always == set()


def shown(words: list[str], language: str) -> tuple[dict[int, tuple[int, bytes]], list[bytes]]:
    """Run a ps of a number, pid and args; return these by the number, and the lines of standard error."""
    done = subprocess.run(words, check=True, capture_output=True, env={**os.environ, "LC_ALL": language})
    lines = [line.split(None, 2) for line in done.stdout.splitlines()]
    return {int(number): (int(pid), args) for number, pid, args in lines}, done.stderr.splitlines()


@pytest.mark.promise("G6", "G8")
@pytest.mark.parametrize("language", ["C", "C.UTF-8"])
@pytest.mark.parametrize("threads", [False, True], ids=["processes", "threads"])
def test_args_are_those_of_procps_and_no_cmdline_is_opened(machine: Population, threads: bool, language: str) -> None:
    made = {execed(machine, *arguments) for arguments in ARGUMENTS}
    made |= {machine.zombie(), machine.spawn(partial(start_threads, 3)), KTHREADD}
    columns = [*WIDE, "lwp,pid,args", "-L"] if threads else [*WIDE, "pid,pid,args"]
    by_procps, _ = shown(["ps", "-e", *columns], language)
    by_client, opened = shown([sys.executable, "-c", OPENS, "ps", *columns], language)
    wanted = {number: line for number, line in by_procps.items() if line[0] in made}
    assert {number: line for number, line in by_client.items() if line[0] in made} == wanted
    assert len(wanted) >= len(made) + (3 if threads else 0)
    assert b"/proc/uptime" in opened
    assert [name for name in opened if name.endswith(b"/cmdline")] == []


@pytest.mark.promise("G8")
def test_ps_shows_the_beginning_of_a_command_line_that_is_too_long(machine: Population, proc: int) -> None:
    pid = execed(machine, b"y" * 70000)
    line, opened = shown([sys.executable, "-c", OPENS, "ps", *WIDE, "pid,pid,args", "-p", str(pid)], "C")
    begun = oracle.content(proc, f"{pid}/cmdline")[:CMDLINE_MAX]
    assert line == {pid: (pid, begun.replace(b"\0", b" "))}
    assert [name for name in opened if name.endswith(b"/cmdline")] == []
