"""The benchmark: the median time of each way to look at many tasks, in one guest and with the same tasks.

vmtests/programs/bench.c measures, and has a table of the ways as well; listing.py measures those in Python. A line for
each look comes from the guest.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workspace import accelerator, guest_command, programs, storage
from workspace.errors import WorkspaceError
from workspace.guest import BOOT
from workspace.kernel import Kernel
from workspace.machine import Machine
from workspace.progress import Progress, say
from workspace.results import facts_of
from workspace.settings import Paths

FILE = "bench.json"
TASKS = 10000
THREADS = 10
"""Of the one process that some ways look at."""
QUICK_ROUNDS, ROUNDS = 11, 51
_MOST_TASKS = 1 << 20
# Seconds on the hardware for one task, to make it or to look at it once in all ways; generous, for a deadline.
_A_TASK = 500e-6
# The same, of a look in Python.
_A_TASK_IN_PYTHON = 2e-3


@dataclass(frozen=True)
class Way:
    """One way to look at tasks; its time is divided by that of the way ``against``.

    Ways that tell the same have the same word in ``tells``. ``of_one`` looks at the threads of one process only.
    """

    name: str
    says: str
    against: str = "base"
    tells: str = ""
    of_one: bool = False


WAYS = (
    Way("base", "/proc/task-diag, the group BASE of all processes", tells="base"),
    Way("bare", "/proc/task-diag, no group: their pids"),
    Way("stat", "/proc/PID/stat of all processes: open, read, parse, close", tells="base"),
    Way("readdir", "getdents64() of /proc: their pids"),
    Way("pidfd", "getdents64() of /proc, then pidfd_open(), PIDFD_GET_INFO and close() for each"),
    Way("cred", "/proc/task-diag, BASE and CRED of all processes", tells="cred"),
    Way("status", "/proc/PID/status of all processes", "cred", tells="cred"),
    Way("mem", "/proc/task-diag, MEM of all processes"),
    Way("statm", "/proc/PID/statm of all processes", "mem"),
    Way("ps", "/proc/task-diag, BASE, CRED, STAT, IDENT, MEM, SCHED and JOB of all processes", tells="ps"),
    Way("files", "/proc/PID/stat, statm and status of all processes", "ps", tells="ps"),
    Way("args", "/proc/task-diag, CMDLINE of all processes"),
    Way("cmdline", "/proc/PID/cmdline of all processes", "args"),
    Way("ps_args", "/proc/task-diag, the same groups and CMDLINE of all processes", tells="ps_args"),
    Way("files_cmdline", "/proc/PID/stat, statm, status and cmdline of all processes", "ps_args", tells="ps_args"),
    Way("threads", "/proc/task-diag, BASE of all threads", tells="base"),
    Way("task", "/proc/PID/task/TID/stat of all threads", "threads", tells="base"),
    Way("ten", f"/proc/task-diag, BASE of the {THREADS} threads of one process", tells="ten", of_one=True),
    Way("ten_task", f"/proc/PID/task/TID/stat of these {THREADS}", "ten", tells="ten", of_one=True),
)

LISTINGS = (
    Way("list", "the client in Python: seven columns of all processes, by /proc/task-diag", "list"),
    Way("list_proc", "plain Python: the same by /proc/PID/stat and status", "list"),
    Way("list_psutil", "psutil: the same", "list"),
)
"""What listing.py measures, in this order; fewer rounds of it, since the slowest takes as long as all of the above."""


@dataclass(frozen=True)
class Look:
    """One way taken once: how long it took, how many tasks it saw, and how many of the crowd."""

    round: int
    way: str
    nanoseconds: int
    tasks: int
    crowd: int
    digest: str | None
    """Of the fields that it told; None if these are fewer than BASE has."""

    def line(self) -> str:
        """As ``parse()`` reads it."""
        told = self.digest or "-"
        return f"time {self.round} {self.way} {self.nanoseconds} {self.tasks} {self.crowd} {told}"

    @classmethod
    def parse(cls, line: str) -> Look:
        """Read one line of bench.c or listing.py; raises ValueError."""
        word, number, way, nanoseconds, tasks, crowd, digest = line.split(" ")
        if word != "time" or (digest != "-" and len(digest) != 16):
            raise ValueError(line)
        told = None if digest == "-" else digest
        return cls(int(number), way, int(nanoseconds), int(tasks), int(crowd), told)


@dataclass(frozen=True)
class Measured:
    """What one run measured; the round 0, which warms the caches, is left out of all figures."""

    ways: tuple[Way, ...]
    looks: tuple[Look, ...]

    def and_also(self, other: Measured) -> Measured:
        """What both measured."""
        return Measured(self.ways + other.ways, self.looks + other.looks)

    def rounds(self, way: Way) -> list[int]:
        """The nanoseconds of ``way`` in each round."""
        return [look.nanoseconds for look in self.looks if look.way == way.name and look.round]

    def median(self, way: Way) -> float:
        """The median nanoseconds of ``way``."""
        return statistics.median(self.rounds(way))

    def tasks(self, way: Way) -> int:
        """How many tasks ``way`` saw in the median."""
        return statistics.median_low(look.tasks for look in self.looks if look.way == way.name and look.round)

    def ratio(self, way: Way) -> float | None:
        """How many times as long as the way that it is compared with; None if that was not measured."""
        other = next((other for other in self.ways if other.name == way.against), None)
        return None if other is None else self.median(way) / self.median(other)

    def ratios(self) -> dict[str, float]:
        """All ratios but those of a way to itself, by "WAY/OTHER"."""
        found = ((way, self.ratio(way)) for way in self.ways if way.name != way.against)
        return {f"{way.name}/{way.against}": round(ratio, 3) for way, ratio in found if ratio is not None}

    def table(self) -> str:
        """Way, median, time for each task, and ratio, a line for each way."""
        lines = [f"{'way':12} {'median ms':>10} {'ns/task':>9} {'ratio':>8}"]
        for way in self.ways:
            ratio = self.ratio(way)
            shown = "" if ratio is None else f"{ratio:8.2f} {way.against}"
            median = self.median(way)
            lines.append(f"{way.name:12} {median / 1e6:10.2f} {median / self.tasks(way):9.0f} {shown}".rstrip())
        return "\n".join(lines)

    def data(self) -> dict[str, object]:
        """The figures, and the times that they were made of."""
        return {
            "ratios": self.ratios(),
            "ways": {
                way.name: {
                    "says": way.says,
                    "median_ns": round(self.median(way)),
                    "min_ns": min(self.rounds(way)),
                    "ns_per_task": round(self.median(way) / self.tasks(way), 1),
                    "tasks_seen": self.tasks(way),
                    "rounds_ns": self.rounds(way),
                }
                for way in self.ways
            },
        }


def parse(lines: Iterable[str], ways: Sequence[Way], *, tasks: int, rounds: int) -> Measured:
    """Read the whole output of bench.c; raises WorkspaceError if it is torn, or if the ways do not agree."""
    looks = []
    ended = False
    for line in lines:
        if _is_note(line):
            continue
        try:
            if ended:
                raise ValueError(line)
            if line == "end":
                ended = True
            else:
                looks.append(Look.parse(line))
        except ValueError as error:
            raise WorkspaceError(f"the benchmark's output is torn, this is no line of it: {line!r}.") from error
    wanted = {(number, way.name) for number in range(rounds + 1) for way in ways}
    found = [(look.round, look.way) for look in looks]
    if not ended or len(found) != len(wanted) or set(found) != wanted:
        raise WorkspaceError(
            f"the benchmark's output is not whole: {len(set(found) & wanted)} of {len(wanted)} measurements, "
            f"{'with' if ended else 'without'} its end."
        )
    _agree(looks, {way.name: way for way in ways}, crowd=tasks + 1)
    return Measured(tuple(ways), tuple(looks))


def _is_note(line: str) -> bool:
    """Whether it is said by one of the programs to the user."""
    return line.startswith(("bench: ", "crowd: ", "crowd "))


def _agree(looks: Sequence[Look], ways: Mapping[str, Way], *, crowd: int) -> None:
    told = {(look.round, ways[look.way].tells): look for look in reversed(looks)}
    for look in looks:
        way = ways[look.way]
        wanted, whose = (THREADS, "process with threads") if way.of_one else (crowd, "crowd")
        if look.crowd != wanted:
            raise WorkspaceError(
                f"the ways do not agree: in round {look.round}, {look.way} saw {look.crowd} "
                f"of the {wanted} tasks of the {whose}."
            )
        other = told[look.round, way.tells]
        if way.tells and look.digest != other.digest:
            raise WorkspaceError(
                f"the ways do not agree: in round {look.round}, {look.way} and {other.way} tell different things "
                "of the crowd."
            )


def count(word: str) -> int:
    """A number of tasks or rounds; raises ArgumentTypeError."""
    if not word.isdecimal() or not 1 <= int(word) <= _MOST_TASKS:
        raise argparse.ArgumentTypeError(f"it is a number from 1 to {_MOST_TASKS}")
    return int(word)


def words(folder: Path, ways: Sequence[Way], *, tasks: int, rounds: int, headers: Path) -> list[str]:
    """Compile the programs into ``folder``; return the command that measures."""
    crowd, bench = (programs.compiled(name, folder, headers=headers) for name in ("crowd", "bench"))
    return [str(bench), str(crowd), str(tasks), str(rounds), *(way.name for way in ways)]


def listing_words(*, tasks: int, rounds: int) -> list[str]:
    """Return the command that measures ``LISTINGS``."""
    return [sys.executable, "-m", "workspace.listing", "--tasks", str(tasks), "--rounds", str(rounds)]


def listing_rounds(rounds: int) -> int:
    """How often the ``LISTINGS`` are measured where the other ways are so often."""
    return max(rounds // 10, 1)


def _warn_if_busy(load: float, cpus: int) -> None:
    if load > cpus / 2:
        say(f"The host is busy (load {load:.1f} on {cpus} CPUs): the times will be too long, the ratios less exact.")


def run(
    kernel: Kernel,
    *,
    paths: Paths,
    tasks: int = TASKS,
    rounds: int = ROUNDS,
    wanted: str | None = None,
    facts: Mapping[str, str] | None = None,
    ways: Sequence[Way] = WAYS,
    listings: Sequence[Way] = LISTINGS,
) -> int:
    """Measure ``ways`` and ``listings`` in a guest of ``kernel``; print the table, write ``build/results/bench.json``.

    ``listings`` are all of those that listing.py measures, or none.
    """
    if not kernel.has("CONFIG_TASK_DIAG"):
        raise WorkspaceError(f"the flavour {kernel.flavour} has no /proc/task-diag to measure.")
    vm = Machine(kernel, accelerator.choose(kernel, paths=paths, wanted=wanted))
    with (
        storage.locked(paths.build / "vmtest.lock", what="build/results"),
        storage.scratch_folder(paths.build, "bench") as folder,
    ):
        (paths.results / FILE).unlink(missing_ok=True)
        told = {**facts_of(kernel, vm, guests=1), "host_load": round(os.getloadavg()[0], 2)}
        _warn_if_busy(os.getloadavg()[0], os.cpu_count() or 1)
        few = listing_rounds(rounds)
        names = ", ".join(way.name for way in (*ways, *listings))
        say(f"Booting {kernel.release} ({vm.accelerator}): {rounds} rounds of {names}.")
        command = words(folder, ways, tasks=tasks, rounds=rounds, headers=kernel.headers)
        if listings:
            both = (command, listing_words(tasks=tasks, rounds=few))
            command = ["sh", "-c", " && ".join(map(shlex.join, both))]
        total = (rounds + 1) * len(ways) + (few + 1) * len(listings)
        with Progress("bench", total=total, unit="measurements") as bar:

            def on_line(line: str) -> None:
                if line.startswith("time "):
                    bar.advance()
                elif line.startswith("crowd "):
                    say(f"{tasks} tasks sleep, now they are measured.")
                elif _is_note(line):
                    say(line)

            code, output = guest_command.output_of(
                kernel,
                command,
                paths=paths,
                wanted=vm.accelerator,
                limit=BOOT + tasks * (_A_TASK * (rounds + 2) + _A_TASK_IN_PYTHON * (few + 2)),
                on_line=on_line,
            )
        lines = output.splitlines()
        if code != 0:
            last = ([line for line in lines if _is_note(line)] or lines or [""])[-1]
            raise WorkspaceError(f"the benchmark ended with exit code {code} in the guest: {last}")
        half = lines.index("end") + 1 if "end" in lines else len(lines)
        measured = parse(lines[:half], ways, tasks=tasks, rounds=rounds)
        if listings:
            measured = measured.and_also(parse(lines[half:], listings, tasks=tasks, rounds=few))
        data = {
            **told,
            **(facts or {}),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tasks": tasks,
            "rounds": rounds,
            **measured.data(),
        }
        storage.write_whole(paths.results / FILE, json.dumps(data, indent=1) + "\n")
    print(measured.table())
    say(f"bench: {paths.results / FILE}")
    return 0
