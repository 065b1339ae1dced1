"""An answer that a kernel gave, recorded in a guest, beside what ps printed of the same tasks.

``raw`` is every group of all processes, in reads of 4096 bytes, so that tasks are split. ``recorded.json`` has the
lines that ps printed both before and after, words apart by one space.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from taskdiag import Columns, Group, Task, uapi, wire

RECORDED = Path(__file__).parent / "recorded" / "answer"
RAW = (RECORDED / "raw").read_bytes()
FACTS = json.loads((RECORDED / "recorded.json").read_text())
LINES: dict[int, list[str]] = {
    int(line.split(" ")[0]): line.split(" ", len(FACTS["columns"]) - 1) for line in FACTS["lines"]
}
POLICIES = {0: "TS", 1: "FF", 2: "RR", 3: "B", 5: "IDL", 6: "DLN"}

CELLS: dict[str, Callable[[Task], object]] = {
    "pid": lambda task: task.pid,
    "ppid": lambda task: task.base and task.base.ppid,
    "pgid": lambda task: task.base and task.base.pgid,
    "sid": lambda task: task.base and task.base.sid,
    "euid": lambda task: task.cred and task.cred.euid,
    "rgid": lambda task: task.cred and task.cred.gid,
    # Where nice values do not count, ps has none.
    "ni": lambda task: task.sched and ("-" if task.sched.rt_priority else task.sched.nice),
    "cls": lambda task: task.sched and POLICIES[task.sched.policy],
    "rtprio": lambda task: task.sched and (task.sched.rt_priority or "-"),
    "nlwp": lambda task: task.stat and task.stat.threads,
    "vsz": lambda task: task.mem and task.mem.vsize // 1024,
    "rss": lambda task: task.mem and task.mem.rss // 1024,
    "majflt": lambda task: task.stat and task.stat.majflt,
    "psr": lambda task: task.sched and task.sched.processor,
}


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return list(wire.join(wire.decode_file(io.BytesIO(RAW))))


def test_the_tasks_of_a_kernel_are_what_ps_said(tasks: list[Task]) -> None:
    found = {task.pid: task for task in tasks}
    assert len(LINES) > 50
    assert LINES.keys() <= found.keys()
    for pid, line in LINES.items():
        *cells, comm = line
        assert [str(CELLS[name](found[pid])) for name in FACTS["columns"][:-1]] == cells
        base = found[pid].base
        assert base is not None
        # Those of kernel threads are longer in /proc.
        assert comm.encode().startswith(base.comm)


def test_it_has_tasks_of_every_kind(tasks: list[Task]) -> None:
    cells = {name: {line[at] for line in LINES.values()} for at, name in enumerate(FACTS["columns"])}
    assert cells["cls"] >= {"TS", "FF"}
    assert cells["ni"] >= {"-20", "0", "5", "-"}
    assert cells["euid"] >= {"0", "1000"}
    assert cells["nlwp"] >= {"1", "4"}
    assert all(task.complete and not task.cut for task in tasks)
    assert all(task.payloads.keys() == set(FACTS["groups"]) for task in tasks)
    assert all(task.ident and task.ident.inode and task.ident.start_boottime for task in tasks)


def test_tasks_are_split_and_the_quick_way_joins_them_too(tasks: list[Task]) -> None:
    flags = [message.flags for message in wire.decode(RAW)]
    assert flags.count(uapi.FLAG_CONT) >= 4
    assert set(flags) == {0, uapi.FLAG_CONT}
    columns = Columns("pid", "base.comm", "stat.minflt", "job.flags")
    assert columns.groups == {Group.BASE, Group.STAT, Group.JOB}
    assert list(columns.rows([RAW])) == [
        (task.pid, task.base and task.base.comm, task.stat and task.stat.minflt, task.job and task.job.flags)
        for task in tasks
    ]
