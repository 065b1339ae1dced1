"""The benchmark: its programs on the host's own /proc, and what is made of the lines that they print."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_in import StandIn, kernel

from workspace import __main__ as main
from workspace import bench, command, programs
from workspace.bench import WAYS, Look, Measured, Way
from workspace.errors import WorkspaceError
from workspace.settings import ROOT, Paths

OF_TASK_DIAG = ("base", "bare", "cred", "mem", "ps", "args", "ps_args", "threads", "ten")
ON_HOST = tuple(way for way in WAYS if way.name not in OF_TASK_DIAG)
TASKS = 50


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The header of the series, which no machine has."""
    folder = tmp_path_factory.mktemp("headers")
    command.check(["git", "init", "--quiet"], cwd=folder)
    for patch in sorted((ROOT / "patches").glob("*.patch"))[1:]:
        command.check(["git", "apply", "--include=include/uapi/linux/task_diag.h", patch], cwd=folder)
    return folder / "include/uapi"


@pytest.fixture(scope="module")
def words(headers: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What measures on the host, all rounds that a test can want."""
    folder = tmp_path_factory.mktemp("programs")
    return bench.words(folder, ON_HOST, tasks=TASKS, rounds=2, headers=headers)


def members(name: str) -> dict[int, list[str]]:
    """``stat`` of the processes of that name, from the state on."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"({name})" in stat:
                found[int(entry.name)] = stat.rpartition(")")[2].split()
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# The programs


def test_the_ways_that_the_host_has_see_the_same_crowd(words: list[str]) -> None:
    lines = command.check(words).splitlines()
    measured = bench.parse(lines, ON_HOST, tasks=TASKS, rounds=2)
    assert {len(measured.rounds(way)) for way in ON_HOST} == {2}
    assert min(look.nanoseconds for look in measured.looks) > 0
    assert {look.way for look in measured.looks if look.digest} == {way.name for way in ON_HOST if way.tells}
    # The order is another one in each round.
    names = [way.name for way in ON_HOST]
    order = [look.way for look in measured.looks]
    assert order[: 2 * len(names)] == [*names, *names[1:], names[0]]


@pytest.fixture
def crowd(words: list[str]) -> Iterator[str]:
    with subprocess.Popen([words[1], str(TASKS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(1) == b"+"
        yield f"crowd-{process.pid}"
        process.stdin.close()
        assert process.wait(10) == 0
    # It ends after all the others.
    assert members(f"crowd-{process.pid}") == {}


def test_the_crowd_is_mixed(crowd: str) -> None:
    wait_for(lambda: all(stat[0] == "S" for stat in members(crowd).values()))
    found = members(crowd)
    assert len(found) == TASKS + 1
    parents, groups, sessions = ({stat[column] for stat in found.values()} for column in (1, 2, 3))
    assert min(len(parents), len(groups)) > 5
    assert len(sessions) > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_when_the_benchmark_is_ended(words: list[str], number: signal.Signals) -> None:
    program, crowd, tasks, _, *ways = words
    with subprocess.Popen([program, crowd, tasks, "1000000", *ways], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"crowd 51\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        name = f"crowd-{children[0]}"
        assert len(members(name)) == TASKS + 1
        process.send_signal(number)
        process.stdout.close()
    wait_for(lambda: not members(name))


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _forbid_namespaces_and_users() -> None:
    """As containers do: clone() with a namespace and setresuid() fail with EPERM (x86-64)."""
    # BPF: load a word of struct seccomp_data, jump if equal or if a bit is set, return.
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    namespaces, eperm, allow = 0x30000000, 0x00050001, 0x7FFF0000
    program = (
        (load, 0, 0, 0),  # the system call's number
        (equal, 0, 2, 56),
        (load, 0, 0, 16),  # its first argument
        (any_bit, 1, 2, namespaces),
        (equal, 0, 1, 117),
        (give, 0, 0, eperm),
        (give, 0, 0, allow),
    )
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.byref(_Filter(len(program), code)), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def test_where_namespaces_are_not_permitted_the_crowd_goes_on_without(words: list[str]) -> None:
    done = subprocess.run(words, preexec_fn=_forbid_namespaces_and_users, capture_output=True, text=True, check=True)
    bench.parse(done.stdout.splitlines(), ON_HOST, tasks=TASKS, rounds=2)
    assert sorted(done.stderr.splitlines()) == [
        f"crowd: {what}: Operation not permitted; the crowd goes on without."
        for what in ("other users", "pid namespaces", "user namespaces")
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({1: "/nowhere/crowd"}, "bench: /nowhere/crowd: No such file or directory"),
        ({2: "none"}, "usage: crowd COUNT"),
        ({4: "guess"}, "bench: guess: No such file or directory"),
        ({4: "base"}, "bench: /proc/task-diag: No such file or directory"),
    ],
)
def test_what_cannot_be_measured_is_named(words: list[str], change: dict[int, str], why: str) -> None:
    finished = command.run([change.get(place, word) for place, word in enumerate(words)])
    # Behind what the crowd goes on without here, if anything.
    assert (finished.code, finished.err.splitlines()[-1]) == (1, why)


# What is made of their lines

PAIR = (Way("base", "one", tells="base"), Way("stat", "other", tells="base"))
GOOD = """crowd: other users: Operation not permitted; the crowd goes on without.
crowd 4
time 0 base 900 12 4 00000000000000aa
time 0 stat 9000 12 4 00000000000000aa
time 1 stat 2000 10 4 00000000000000aa
time 1 base 100 10 4 00000000000000aa
time 2 base 300 10 4 00000000000000bb
time 2 stat 2600 10 4 00000000000000bb
time 3 stat 2400 11 4 00000000000000aa
time 3 base 200 11 4 00000000000000aa
end
"""


def parsed(text: str, ways: tuple[Way, ...] = PAIR) -> Measured:
    return bench.parse(text.splitlines(), ways, tasks=3, rounds=3)


def test_medians_and_ratios_leave_the_warm_up_out() -> None:
    measured = parsed(GOOD)
    assert measured.looks[0] == Look(0, "base", 900, 12, 4, "00000000000000aa")
    assert [measured.rounds(way) for way in PAIR] == [[100, 300, 200], [2000, 2600, 2400]]
    assert [measured.median(way) for way in PAIR] == [200, 2400]
    assert measured.ratios() == {"stat/base": 12}
    assert measured.data() == {
        "ratios": {"stat/base": 12},
        "ways": {
            name: {
                "says": says,
                "median_ns": median,
                "min_ns": rounds[0],
                "ns_per_task": median / 10,
                "tasks_seen": 10,
                "rounds_ns": rounds,
            }
            for name, says, median, rounds in (
                ("base", "one", 200, [100, 300, 200]),
                ("stat", "other", 2400, [2000, 2600, 2400]),
            )
        },
    }


def test_the_table_has_a_line_for_each_way() -> None:
    assert parsed(GOOD.replace("00 1", "00000 1")).table() == (
        "way           median ms   ns/task    ratio\n"
        "base               0.20     20000     1.00 base\n"
        "stat               2.40    240000    12.00 base"
    )


def test_a_way_without_its_counterpart_has_no_ratio() -> None:
    alone = "".join(line for line in GOOD.splitlines(keepends=True) if " base " not in line)
    measured = parsed(alone, PAIR[1:])
    assert measured.ratios() == {}
    assert measured.table().endswith("\nstat               0.00       240")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("time 3 base 200 11 4 00000000000000aa\nend\n", "time 3 ba", "is torn, .*'time 3 ba'"),
        ("4 00000000000000bb", "4 00000000bb", "is torn, .*00000000bb"),
        ("base 900", "base many", "is torn"),
        ("end\n", "end\ntime 4 base 200 11 4 -\n", "is torn"),
        ("end\n", "", "is not whole: 8 of 8 measurements, without its end"),
        ("time 3 stat 2400 11 4 00000000000000aa\n", "", "is not whole: 7 of 8 measurements, with its end"),
        ("time 3 stat", "time 2 stat", "is not whole: 7 of 8"),
        (" 2600 10 4 ", " 2600 10 3 ", "do not agree: in round 2, stat saw 3 of the 4 tasks of the crowd"),
        ("stat 2600 10 4 00000000000000bb", "stat 2600 10 4 00000000000000aa", "round 2, stat and base tell different"),
        ("stat 2600 10 4 00000000000000bb", "stat 2600 10 4 -", "round 2, stat and base tell different"),
    ],
)
def test_what_is_torn_or_does_not_agree_is_no_result(old: str, new: str, why: str) -> None:
    assert old in GOOD
    with pytest.raises(WorkspaceError, match=why):
        parsed(GOOD.replace(old, new))


def test_a_way_that_tells_less_is_compared_by_its_number_only() -> None:
    pair = (PAIR[0], Way("stat", "other"))
    text = GOOD.replace("stat 2600 10 4 00000000000000bb", "stat 2600 10 4 -")
    assert parsed(text, pair).ratios() == {"stat/base": 12}


def test_a_way_to_look_at_one_process_sees_its_threads() -> None:
    pair = (PAIR[0], Way("stat", "other", tells="ten", of_one=True))
    with pytest.raises(WorkspaceError, match="in round 0, stat saw 4 of the 10 tasks of the process with threads"):
        parsed(GOOD, pair)
    lines = [re.sub(r"(stat \d+ \d+) 4 ", r"\1 10 ", line) for line in GOOD.splitlines()]
    assert parsed("\n".join(lines), pair).ratios() == {"stat/base": 12}


def test_what_is_measured_apart_is_told_together() -> None:
    listed = (Way("list", "a list", "list"),)
    lines = [f"time {number} list {1000 * number} 10 4 -" for number in range(3)]
    both = parsed(GOOD).and_also(bench.parse([*lines, "end"], listed, tasks=3, rounds=2))
    assert both.table().splitlines()[-1] == "list               0.00       150     1.00 list"
    assert list(both.data()["ways"]) == ["base", "stat", "list"]  # type: ignore[call-overload]


def test_both_tables_have_the_same_ways() -> None:
    source = (programs.SOURCES / "bench.c").read_text()
    table = source.partition("ways[] = {")[2].partition("};")[0]
    assert [line.split('"')[1] for line in table.splitlines() if '"' in line] == [way.name for way in WAYS]


# The session


def test_a_busy_host_is_told(guest: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    guest.behave("runs")
    monkeypatch.setattr(bench, "say", said.append)
    monkeypatch.setattr(bench, "words", lambda *_args, **_options: ["false"])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for load in (0.9, 1.1):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        with pytest.raises(WorkspaceError, match="exit code 1"):
            bench.run(kernel(tmp_path / str(load)), paths=Paths(tmp_path), wanted="kvm")
    assert [line for line in said if "busy" in line] == [
        "The host is busy (load 1.1 on 2 CPUs): the times will be too long, the ratios less exact."
    ]


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn(tmp_path / "stand-in")
    stand_in.install(monkeypatch)
    return stand_in


def test_a_run_leaves_a_table_and_the_results(
    guest: StandIn, headers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guest.behave("runs")
    paths = Paths(tmp_path)
    built = kernel(tmp_path / "kernel")
    shutil.copytree(headers, built.headers)
    facts = {"series": "patches/ (abc)"}
    assert bench.run(built, paths=paths, tasks=20, rounds=3, wanted="kvm", facts=facts, ways=ON_HOST, listings=()) == 0
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["way", *(way.name for way in ON_HOST)]
    assert "20 tasks sleep, now they are measured." in said.err
    data = json.loads((paths.results / "bench.json").read_text())
    facts = {name: data[name] for name in ("kernel", "build_id", "flavour", "accelerator", "series", "tasks", "rounds")}
    assert facts == {
        "kernel": "7.3.4",
        "build_id": "00" * 20,
        "flavour": "default",
        "accelerator": "kvm",
        "series": "patches/ (abc)",
        "tasks": 20,
        "rounds": 3,
    }
    assert [len(way["rounds_ns"]) for way in data["ways"].values()] == [3] * len(ON_HOST)
    assert data["started"] <= data["finished"]
    assert os.listdir(paths.guests) == []  # noqa: PTH208
    assert list(paths.build.glob(".bench.*")) == []


@pytest.mark.parametrize(
    ("mode", "command_line", "why"),
    [
        ("panics at boot", "true", "did not start in the guest: the kernel panicked. .*:\n.*\n.*Kernel panic"),
        ("runs", "echo bench: no luck >&2; echo time; exit 1", "exit code 1 in the guest: bench: no luck"),
        ("runs", "kill -9 $PPID; sleep 1", "did not get to its end in the guest"),
    ],
)
def test_a_guest_that_fails_is_one_sentence_and_no_result(
    guest: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, command_line: str, why: str
) -> None:
    guest.behave(mode)
    monkeypatch.setattr(bench, "words", lambda *_args, **_options: ["sh", "-c", command_line])
    paths = Paths(tmp_path)
    paths.results.mkdir(parents=True)
    (paths.results / "bench.json").write_text("that of the last run")
    with pytest.raises(WorkspaceError, match=why):
        bench.run(kernel(tmp_path / "kernel"), paths=paths, wanted="kvm", listings=())
    assert not (paths.results / "bench.json").exists()


def test_a_kernel_without_task_diag_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="the flavour default has no /proc/task-diag"):
        bench.run(kernel(tmp_path / "kernel", ""), paths=Paths(tmp_path))


@pytest.mark.parametrize("words", [["--tasks", "0"], ["--rounds", "many"], ["--tasks", "99999999"]])
def test_a_number_that_is_none_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(["bench", *words])
    assert "it is a number from 1 to" in capsys.readouterr().err
