"""How long a list of many tasks takes in Python: by the client, by reading /proc, and by psutil.

``python -m workspace.listing`` makes the tasks and lists them in each way; the benchmark runs it in its guest. Each
list has the same of each task: pid, ppid, state, name, user, time in user and system mode.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from taskdiag import State, rows
from workspace import bench, programs
from workspace.bench import Look

_STATES = {
    psutil.STATUS_RUNNING: "R",
    psutil.STATUS_SLEEPING: "S",
    psutil.STATUS_DISK_SLEEP: "D",
    psutil.STATUS_STOPPED: "T",
    psutil.STATUS_TRACING_STOP: "t",
    psutil.STATUS_ZOMBIE: "Z",
    psutil.STATUS_IDLE: "I",
    psutil.STATUS_DEAD: "X",
    psutil.STATUS_PARKED: "P",
}


class Line(NamedTuple):
    """What is told of one task; times in clock ticks."""

    pid: int
    ppid: int
    state: str
    name: str
    uid: int
    utime: int
    stime: int


@dataclass(frozen=True)
class Listing:
    """One way to the list; ``lines`` makes what it gives comparable, and is not timed."""

    name: str
    listed: Callable[[], list[Any]]
    lines: Callable[[list[Any]], dict[int, Line]]


def by_task_diag() -> list[Any]:
    """List with one request."""
    return list(rows("pid", "base.ppid", "base.state", "base.comm", "cred.uid", "stat.utime", "stat.stime"))


def by_proc() -> list[Any]:
    """List by ``stat`` and ``status`` of each process, as a program would that reads no more of them than it needs."""
    found: list[Any] = []
    for pid in os.listdir("/proc"):  # noqa: PTH208 (the quickest way there is)
        if not pid.isdecimal():
            continue
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                stat = file.read()
            with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123
                status = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        end = stat.rindex(b")")
        fields = stat[end + 2 :].split(None, 13)
        uid = status.index(b"\nUid:\t") + 6
        found.append(
            (
                *(int(pid), int(fields[1]), fields[0], stat[stat.index(b"(") + 1 : end]),
                *(int(status[uid : status.index(b"\t", uid)]), int(fields[11]), int(fields[12])),
            )
        )
    return found


def by_psutil() -> list[Any]:
    """List by ``process_iter()``, which reads the same files."""
    wanted = ["pid", "ppid", "status", "name", "uids", "cpu_times"]
    return [process.info for process in psutil.process_iter(wanted)]


def ways() -> tuple[Listing, ...]:
    """Return the three ways."""
    return (
        Listing("list", by_task_diag, _from_task_diag),
        Listing("list_proc", by_proc, _from_proc),
        Listing("list_psutil", by_psutil, _from_psutil),
    )


@contextmanager
def crowd(count: int) -> Iterator[str]:
    """Have ``count`` processes that sleep, and one that they end with; gives the name of them all."""
    with tempfile.TemporaryDirectory() as folder:
        program = programs.compiled("crowd", Path(folder))
        with subprocess.Popen([program, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            assert parent.stdin is not None
            assert parent.stdout is not None
            if parent.stdout.read(1) != b"+":
                raise OSError(f"{count} processes could not be made: the machine has too little memory, or pids")
            name = f"crowd-{parent.pid}"
            while any(line.name == name and line.state != "S" for line in _from_proc(by_proc()).values()):
                time.sleep(0.01)
            yield name
            parent.stdin.close()


def measure(wanted: tuple[Listing, ...], rounds: int, *, name: str) -> Iterator[Look]:
    """Take each way in turn, in each round; all have to tell the same of all tasks called ``name``."""
    for number in range(rounds + 1):
        told = {}
        for way in wanted:
            start = time.perf_counter_ns()
            found = way.listed()
            taken = time.perf_counter_ns() - start
            told[way.name] = {line for line in way.lines(found).values() if line.name == name}
            yield Look(number, way.name, taken, len(found), len(told[way.name]), None)
        first = told[wanted[0].name]
        for other, lines in told.items():
            if lines != first:
                raise AssertionError(f"{wanted[0].name} and {other} do not tell the same: {sorted(lines ^ first)[:2]}")


def main() -> int:
    """Print a line for each look, as vmtests/programs/bench.c does."""
    parser = argparse.ArgumentParser(prog="python -m workspace.listing", description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=bench.count, default=bench.TASKS, help="how many to make (%(default)s)")
    parser.add_argument("--rounds", type=bench.count, default=5, help="how often to list them (%(default)s)")
    options = parser.parse_args()
    try:
        with crowd(options.tasks) as name:
            for look in measure(ways(), options.rounds, name=name):
                print(look.line(), flush=True)
            print("end")
    except (OSError, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _from_task_diag(found: list[Any]) -> dict[int, Line]:
    return {
        pid: Line(pid, ppid, State(state).letter, os.fsdecode(comm), uid, utime, stime)
        for pid, ppid, state, comm, uid, utime, stime in found
    }


def _from_proc(found: list[Any]) -> dict[int, Line]:
    return {
        pid: Line(pid, ppid, state.decode(), os.fsdecode(name), uid, utime, stime)
        for pid, ppid, state, name, uid, utime, stime in found
    }


def _from_psutil(found: list[Any]) -> dict[int, Line]:
    ticks = os.sysconf("SC_CLK_TCK")
    lines = {}
    for info in found:
        pid, ppid, status, name, uids, times = (
            info[key] for key in ("pid", "ppid", "status", "name", "uids", "cpu_times")
        )
        lines[pid] = Line(
            pid, ppid, _STATES.get(status, "?"), name, uids.real, round(times.user * ticks), round(times.system * ticks)
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
