"""``taskdiag ps`` against what ps printed of the same processes, recorded in tests/recorded/ps.

The recording is of a pid namespace with sleeping processes of many kinds; ``processes`` and ``threads`` are answers
with what ``/proc/PID`` said of them, ``recorded.json`` what ps was asked and printed, and the machine's facts. The
clock stood still: ps was shown the recorded uptime and time of boot.
"""

from __future__ import annotations

import functools
import grp
import io
import json
import locale
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

from taskdiag import Group, wire
from taskdiag.__main__ import main
from taskdiag.ps import host
from taskdiag.ps.column import COLUMNS
from taskdiag.ps.terminal import Terminals

RECORDED = Path(__file__).parent / "recorded" / "ps"
KNOWN = json.loads((RECORDED / "recorded.json").read_text())
FACTS: dict[str, Any] = KNOWN["facts"]
CASES: list[dict[str, Any]] = KNOWN["cases"]

KERNEL_THREAD = 0x0020_0000
WORKER = 0x0000_0020


def recorded(name: str) -> list[bytes]:
    """Return the messages of an answer."""
    answer = (RECORDED / name).read_bytes()
    messages, at = [], 0
    while at < len(answer):
        _, end = wire.decode_one(answer, at)
        messages.append(answer[at:end])
        at = end
    return messages


@dataclass
class Machine:
    """The machine of the recording, with any answer."""

    proc: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    kernel: FakeTaskDiag
    slept: list[float] = field(default_factory=list)
    status: int = 0

    def clock(self, uptime: float, boot_time: int) -> None:
        """Set the clocks."""
        (self.proc / "uptime").write_text(f"{uptime:.2f} 0.00\n")
        (self.proc / "stat").write_text(f"cpu 1 2 3\nbtime {boot_time}\nprocesses 4\n")

    def file(self, path: str, content: bytes) -> None:
        """Write a file below its /proc."""
        (self.proc / path).parent.mkdir(exist_ok=True)
        (self.proc / path).write_bytes(content)

    def ps(self, *words: str, language: str = "C") -> list[str]:
        """Run ``taskdiag ps``; return the lines."""
        self.monkeypatch.setenv("LC_ALL", language)
        self.status = main(["ps", "--proc", str(self.proc), *words])
        return self.capsys.readouterr().out.splitlines()


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for path, text in {
        "meminfo": f"MemTotal: {FACTS['memory']:>15} kB\nMemFree:         1 kB\n",
        "sys/kernel/pid_max": f"{FACTS['pid_max']}\n",
        "tty/drivers": FACTS["drivers"],
        "self/cgroup": "0::/here\n",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def entry(names: dict[str, str], field: str, number: int) -> SimpleNamespace:
        return SimpleNamespace(**{field: names[str(number)]})

    host.user.cache_clear()
    host.group.cache_clear()
    monkeypatch.setattr(pwd, "getpwuid", functools.partial(entry, FACTS["users"], "pw_name"))
    monkeypatch.setattr(grp, "getgrgid", functools.partial(entry, FACTS["groups"], "gr_name"))
    monkeypatch.setattr(time, "time", lambda: FACTS["now"] + 0.5)
    monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": FACTS["ticks"], "SC_PAGESIZE": FACTS["page"]}.__getitem__)
    terminals = {b"/dev/pts/0": os.makedev(136, 0), b"/dev/pts/300": os.makedev(137, 44)}
    monkeypatch.setattr(host, "Terminals", functools.partial(Terminals, sysfs=tmp_path, device=terminals.get))
    for name in ("COLUMNS", "TZ"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    kernel = FakeTaskDiag(recorded("processes"))
    opener, real = kernel.opener(), io.FileIO
    monkeypatch.setattr(
        *(io, "FileIO"),
        lambda file, mode: opener(file, mode) if str(file).endswith("task-diag") else real(file, mode),
    )
    before = locale.setlocale(locale.LC_ALL)
    found = Machine(tmp_path, capsys, monkeypatch, kernel)
    found.clock(CASES[0]["uptime"], CASES[0]["boot_time"])
    monkeypatch.setattr("taskdiag.retry.sleep", found.slept.append)
    yield found
    locale.setlocale(locale.LC_ALL, before)
    host.user.cache_clear()
    host.group.cache_clear()
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{' '.join(case['words'])} in {case['locale']} at {case['uptime']}"
)
def test_the_lines_are_those_of_ps(case: dict[str, Any], machine: Machine) -> None:
    machine.kernel.messages = recorded("processes")
    machine.kernel.threads = recorded("threads")
    machine.clock(case["uptime"], case["boot_time"])
    assert machine.ps(*case["words"], language=case["locale"]) == case["lines"]
    assert machine.status == 0


def test_every_column_of_ps_was_recorded() -> None:
    named = {name for case in CASES if case["words"][:1] == ["-o"] for name in case["words"][1].split(",")}
    assert set(COLUMNS) - named == {"cgroup", "cgroupid", "inode"}


def test_a_kernel_thread_has_its_long_name(machine: Machine) -> None:
    def thread(pid: int, comm: bytes, flags: int, state: int = 8) -> bytes:
        return message(
            pid,
            attribute(stream.BASE, stream.base(pid, comm=comm, state=state)),
            attribute(stream.CMDLINE, b""),
            attribute(stream.IDENT, stream.ident()),
            attribute(stream.JOB, stream.job(flags=flags)),
        )

    machine.kernel.messages = [
        thread(2, b"kthreadd", KERNEL_THREAD),
        thread(3, b"pool_workqueue_", KERNEL_THREAD),
        thread(4, b"kworker/0:1", KERNEL_THREAD | WORKER),
        thread(5, b"gone_since_then", KERNEL_THREAD),
        thread(6, b"fifteen-letters", 0),
        thread(7, b"kworker/9:9", KERNEL_THREAD | WORKER, state=6),
    ]
    for pid, name in {2: "not read", 3: "pool_workqueue_release", 4: "kworker/0:1-events", 6: "no"}.items():
        (machine.proc / str(pid)).mkdir()
        (machine.proc / str(pid) / "comm").write_text(f"{name}\n")
    assert machine.ps("-o", "pid=,comm=,args=") == [
        "      2 kthreadd        [kthreadd]",
        "      3 pool_workqueue_ [pool_workqueue_release]",
        "      4 kworker/0:1-eve [kworker/0:1-events]",
        "      5 gone_since_then [gone_since_then]",
        "      6 fifteen-letters [fifteen-letters]",
        "      7 kworker/9:9     [kworker/9:9] <defunct>",
    ]


COMMANDS = 1 << stream.BASE | 1 << stream.CMDLINE | 1 << stream.IDENT | 1 << stream.JOB
"""What the column ``args`` takes: IDENT, so that one can be asked for again."""
AGAIN = 1 << stream.CMDLINE | 1 << stream.IDENT
"""What is asked for again."""


@pytest.mark.parametrize(
    ("parts", "flags", "shown"),
    [
        ([b"a\0b\0"], 0, "a b"),
        ([b"a\0", b"b", b"c\0"], 0, "a bc"),
        ([b""], 0, "[sh]"),
        ([b""], stream.TRUNC, "[sh]"),
        ([b"a\0", b"b"], stream.TRUNC, "a b"),
        ([b"a\0", b""], stream.TRUNC, "a"),
        ([b"x" * 32000, b"x" * 32000, b"x" * 1528], stream.TRUNC, "x" * 65528),
    ],
)
def test_a_command_line_is_shown_as_far_as_it_came_and_no_file_is_read(
    parts: list[bytes], flags: int, shown: str, machine: Machine
) -> None:
    machine.kernel.messages = stream.pieces(5, *parts, flags=flags)
    machine.file("5/cmdline", b"never\0read\0")
    assert machine.ps("-o", "args=") == [shown]
    first, *others = machine.kernel.requests
    assert first == (COMMANDS, 0, 0)
    assert set(others) == ({(AGAIN, 4, 5)} if flags and len(shown) < 65528 else set())
    assert len(machine.slept) == max(len(others) - 1, 0)


def again(pid: int, line: bytes, flags: int = 0) -> bytes:
    """Return the answer about a process of ``stream.pieces()`` that is asked for again."""
    line_of = message(pid, attribute(stream.CMDLINE, line), flags=stream.CONT | flags)
    return line_of + message(pid, attribute(stream.IDENT, stream.ident(pid)))


@pytest.mark.parametrize(
    ("words", "strategy", "target"), [((), 0, 0), (("-p", "5"), 1, 5), (("--ppid", "1"), 3, 1), (("--forest",), 0, 0)]
)
def test_a_command_line_that_was_cut_is_asked_for_again(
    words: tuple[str, ...], strategy: int, target: int, machine: Machine
) -> None:
    machine.kernel.messages = [*stream.pieces(5, b"", flags=stream.TRUNC), *stream.pieces(6, b"c\0")]
    machine.kernel.again = {5: [again(5, b"a\0", stream.TRUNC), again(5, b"a\0b\0")]}
    machine.file("5/cmdline", b"never\0read\0")
    assert sorted(machine.ps("-o", "args=", *words)) == ["a b", "c"][: 1 if target == 5 else 2]
    assert machine.kernel.requests == [(COMMANDS, strategy, target), (AGAIN, 4, 5), (AGAIN, 4, 5)]
    assert len(machine.slept) == 1


def test_command_lines_are_sorted_as_they_are_shown(machine: Machine) -> None:
    machine.kernel.messages = [*stream.pieces(5, b"", flags=stream.TRUNC), *stream.pieces(6, b"c\0")]
    machine.kernel.again = {5: [again(5, b"d\0")]}
    assert machine.ps("-o", "pid=", "--sort", "args") == ["      6", "      5"]


def test_nothing_is_asked_again_for_columns_without_a_command_line(machine: Machine) -> None:
    cut = attribute(stream.BASE, stream.base(5)), attribute(stream.IDENT, stream.ident(5)), attribute(stream.MEM, b"")
    machine.kernel.messages = [message(5, *cut, flags=stream.TRUNC)]
    machine.ps("-o", "pid,start,rss")
    assert len(machine.kernel.requests) == 1


def test_a_process_that_goes_amid_its_command_line_is_no_line(machine: Machine) -> None:
    machine.kernel.messages = [*stream.pieces(5, b"a\0", b"b\0")[:2], *stream.pieces(6, b"c\0")]
    assert machine.ps("-o", "pid=,args=") == ["      6 c"]


@pytest.mark.parametrize("by_group", [True, False], ids=["group", "file"])
@pytest.mark.parametrize(
    ("line", "in_c", "in_utf8"),
    [
        (b"a\0b c\0\\n\0", r"a b c \n", r"a b c \n"),
        (b"a\0\0b\0\0\0", "a  b", "a  b"),
        (b"a\nb\0\n\0", "a b  ", "a b  "),
        (b"a\tb\x1b[31m\x7f\0", "a.b.[31m.", "a?b?[31m?"),
        (b"caf\xe9\x01\0", "caf?.", "caf?."),
        ("caf\u00e9 \u4e16\0".encode(), "caf?? ???", "caf\u00e9 \u4e16"),
        (b"a title ", "a title", "a title"),
        (b"\0\0", "?", "?"),
    ],
)
def test_text_of_a_command_line_is_that_of_ps_wherever_it_comes_from(
    line: bytes, in_c: str, in_utf8: str, by_group: bool, machine: Machine
) -> None:
    half = len(line) // 2
    if by_group:
        machine.kernel.messages = stream.pieces(5, line[:half], line[half:])
    else:
        machine.kernel.known &= ~(1 << Group.CMDLINE)
        others = attribute(stream.IDENT, stream.ident()), attribute(stream.JOB, stream.job())
        machine.kernel.messages = [message(5, attribute(stream.BASE, stream.base(5)), *others)]
        machine.file("5/cmdline", line)
    assert machine.ps("-o", "args=") == [in_c]
    assert machine.ps("-o", "args=", language="C.UTF-8") == [in_utf8]


@pytest.mark.parametrize("by_group", [True, False], ids=["group", "file"])
def test_threads_have_the_command_line_of_their_process(by_group: bool, machine: Machine) -> None:
    def task(pid: int, tgid: int) -> bytes:
        base = attribute(stream.BASE, stream.base(pid, tgid=tgid, comm=b"thread %d" % pid))
        others = attribute(stream.IDENT, stream.ident(pid)), attribute(stream.JOB, stream.job())
        return message(pid, base, *others, tgid=tgid)

    machine.kernel.threads = [task(pid, tgid) for pid, tgid in ((5, 5), (6, 5), (7, 7), (8, 7), (9, 9))]
    if by_group:
        machine.kernel.messages = [
            *stream.pieces(5, b"a\0", flags=stream.TRUNC),
            *stream.pieces(7, b"", flags=stream.TRUNC, comm=b"thread 7"),
            *stream.pieces(9, b"", comm=b"thread 9"),
        ]
        machine.kernel.again = {5: [again(5, b"a\0b\0")]}
    else:
        machine.kernel.known &= ~(1 << Group.CMDLINE)
        machine.kernel.messages = [task(pid, pid) for pid in (5, 7, 9)]
    machine.file("5/cmdline", b"never read" if by_group else b"a\0b\0")
    machine.file("6/cmdline", b"never read")
    shown = ["5 5 a b", "5 6 a b", "7 7 [thread 7]", "7 8 [thread 8]", "9 9 [thread 9]"]
    assert [" ".join(line.split()) for line in machine.ps("-o", "pid=,lwp=,args=", "-L")] == shown
    of_threads = COMMANDS & ~(1 << stream.CMDLINE)
    of_leaders = of_threads | (1 << stream.CMDLINE if by_group else 0)
    first, *retries, last = [request for request in machine.kernel.requests if request[1] != 1]
    assert (first, last) == ((of_leaders, 0, 0), (of_threads, 2, 0))
    assert set(retries) == ({(AGAIN, 4, 5), (AGAIN, 4, 7)} if by_group else set())


@pytest.mark.parametrize("words", [[], ["-p", "5"], ["-p", "5,6,7"], ["-L"], ["-L", "-p", "5,6,7"], ["--ppid", "1,2"]])
def test_that_a_kernel_has_no_command_lines_is_found_out_once(words: list[str], machine: Machine) -> None:
    machine.kernel.known &= ~(1 << Group.CMDLINE)
    others = attribute(stream.IDENT, stream.ident()), attribute(stream.JOB, stream.job())
    machine.kernel.messages = [message(pid, attribute(stream.BASE, stream.base(pid)), *others) for pid in (5, 6, 7)]
    machine.ps("-o", "pid,args", *words)
    asked, probed = machine.kernel.refused
    assert asked == COMMANDS
    assert probed == 1 << stream.CMDLINE


def test_a_kernel_without_command_lines_has_a_file_of_each(machine: Machine) -> None:
    """The strategy and the other groups are those that were asked for."""
    machine.kernel.known &= ~(1 << Group.CMDLINE)
    others = attribute(stream.IDENT, stream.ident()), attribute(stream.JOB, stream.job())
    machine.kernel.messages = [message(pid, attribute(stream.BASE, stream.base(pid)), *others) for pid in (5, 6)]
    (machine.proc / "5").mkdir()
    (machine.proc / "5" / "cmdline").write_bytes(b"x\0y\0")
    assert machine.ps("-o", "pid=,args=") == ["      5 x y", "      6 [sh]"]
    assert machine.kernel.requests[-1] == (COMMANDS & ~(1 << stream.CMDLINE), 0, 0)


def test_a_cgroup_is_read_once(machine: Machine) -> None:
    def member(pid: int, cgroup: int) -> bytes:
        return message(
            pid,
            attribute(stream.BASE, stream.base(pid)),
            attribute(stream.IDENT, stream.ident(cgroup=cgroup, inode=pid + 100)),
        )

    machine.kernel.messages = [member(1, 1), member(5, 77), member(6, 77), member(7, 1), member(8, 99)]
    for pid, path in {1: "/", 5: "/a.slice/b\xff", 6: "/not/read"}.items():
        (machine.proc / str(pid)).mkdir()
        (machine.proc / str(pid) / "cgroup").write_text(f"0::{path}\n", encoding="latin-1")
    assert machine.ps("-o", "pid,cgroupid,inode,cgroup") == [
        "    PID CGROUPID      INODE CGROUP",
        "      1        1        101 -",
        "      5       77        105 0::/a.slice/b?",
        "      6       77        106 0::/a.slice/b?",
        "      7        1        107 -",
        "      8       99        108 -",
    ]


def test_with_hierarchies_of_version_1_each_process_is_asked(machine: Machine) -> None:
    machine.kernel.messages = [
        message(pid, attribute(stream.BASE, stream.base(pid)), attribute(stream.IDENT, stream.ident(cgroup=1)))
        for pid in (5, 6)
    ]
    (machine.proc / "self" / "cgroup").write_text("3:cpu:/\n0::/\n")
    for pid in (5, 6):
        (machine.proc / str(pid)).mkdir()
        (machine.proc / str(pid) / "cgroup").write_text(f"3:cpu:/{pid}\n2:io:/\n1:name=systemd:/x\n")
    assert machine.ps("-o", "cgroup=") == ["3:cpu:/5,1:name=systemd:/x", "3:cpu:/6,1:name=systemd:/x"]


def test_only_the_groups_that_columns_and_order_take_are_asked_for(machine: Machine) -> None:
    machine.ps("-o", "pid,user", "--sort", "rss")
    machine.ps("-o", "pid", "--forest")
    machine.ps("-o", "pid")
    asked = [show for show, _, _ in machine.kernel.requests]
    assert asked == [1 << stream.BASE | 1 << stream.CRED | 1 << stream.MEM, 1 << stream.BASE | 1 << stream.IDENT, 1]


@pytest.mark.parametrize("column", sorted(COLUMNS))
def test_command_lines_are_asked_for_if_a_column_or_the_order_takes_them(column: str, machine: Machine) -> None:
    machine.ps("-o", column)
    machine.ps("-o", "pid", "--sort", f"-{column}")
    asked = [bool(show & 1 << stream.CMDLINE) for show, _, _ in machine.kernel.requests]
    assert asked == [column in ("args", "cmd", "command")] * 2


def test_lines_are_written_while_the_answer_is_read(machine: Machine) -> None:
    machine.kernel.messages = [message(pid, attribute(stream.BASE, stream.base(pid))) for pid in range(1, 5001)]
    seen: list[int] = []

    def write(_screen: object, _text: str) -> None:
        seen.append(len(machine.kernel.sizes))

    machine.monkeypatch.setattr("taskdiag.screen.Screen.line", write)
    machine.ps("-o", "pid")
    assert len(seen) == 5001
    assert seen[1] == 1
    assert seen[-1] > 3


def test_the_line_of_a_leader_tells_of_the_process_and_that_of_a_thread_of_the_thread(machine: Machine) -> None:
    def task(pid: int, tgid: int, ticks: int, start: int, *more: bytes) -> bytes:
        return message(
            pid,
            attribute(stream.BASE, stream.base(pid, tgid=tgid, comm=b"task %d" % pid)),
            attribute(stream.STAT, stream.stat(times=(ticks, 0, 0, 0), threads=4)),
            attribute(stream.IDENT, stream.ident(start)),
            *more,
            tgid=tgid,
        )

    machine.kernel.messages = [
        task(pid, pid, 100 * pid, 1, attribute(stream.MEM, stream.mem(rss=pid * 1024))) for pid in (7, 9)
    ]
    # In the order of their numbers, and one of a process that was not there before.
    machine.kernel.threads = [
        *(task(3, 9, 300, 50), task(4, 9, 400, 20), task(7, 7, 0, 1), task(9, 9, 0, 1)),
        *(task(11, 11, 0, 1), task(12, 11, 0, 1), task(13, 7, 1300, 5)),
    ]
    lines = ["7 7 7 7", "7 13 13 7", "9 9 9 9", "9 4 4 9", "9 3 3 9"]
    shown = machine.ps("-o", "pid=,tid=,times=,rss=", "-T")
    assert [" ".join(line.split()) for line in shown] == lines
    all_groups = 1 << stream.BASE | 1 << stream.STAT | 1 << stream.IDENT | 1 << stream.MEM
    assert machine.kernel.requests == [(all_groups, 0, 0), (all_groups & ~(1 << stream.MEM), 2, 0)]
    machine.kernel.requests.clear()
    machine.ps("-o", "pid,rss", "-L", "-p", "9", "--pid=7")
    assert [(strategy, pid) for _, strategy, pid in machine.kernel.requests] == [(1, 7), (1, 9), (4, 7), (4, 9)]


def test_terminals_are_sorted_by_the_numbers_in_their_names(machine: Machine) -> None:
    devices = {1: os.makedev(137, 44), 2: os.makedev(4, 9), 3: os.makedev(136, 2), 4: 0, 5: os.makedev(136, 10)}
    names = {
        b"/dev/pts/300": devices[1],
        b"/dev/tty9": devices[2],
        b"/dev/pts/2": devices[3],
        b"/dev/pts/10": devices[5],
    }
    (machine.proc / "tty" / "drivers").write_text("a /dev/tty 4 1-63 console\nb /dev/pts 136 0-99 pty\n")
    (machine.proc / "137:44").mkdir()
    (machine.proc / "137:44" / "uevent").write_text("DEVNAME=pts/300\n")
    terminals = functools.partial(Terminals, sysfs=machine.proc, device=names.get)
    machine.monkeypatch.setattr(host, "Terminals", terminals)
    machine.kernel.messages = [
        message(pid, attribute(stream.BASE, stream.base(pid)), attribute(stream.JOB, stream.job(tty)))
        for pid, tty in devices.items()
    ]
    lines = machine.ps("-o", "pid=,tty=", "--sort", "tty")
    assert [line.split()[1] for line in lines] == ["?", "pts/2", "pts/10", "pts/300", "tty9"]


def test_processes_are_asked_for_by_their_numbers(machine: Machine) -> None:
    machine.kernel.messages = [message(7, attribute(stream.BASE, stream.base(7)))]
    assert machine.ps("-o", "pid=", "-p", "9,7", "--pid", "7") == ["      7"]
    assert [(strategy, pid) for _, strategy, pid in machine.kernel.requests] == [(1, 7), (1, 9)]
    assert machine.status == 0


def test_the_number_of_a_thread_is_no_process(machine: Machine) -> None:
    machine.kernel.messages = [message(8, attribute(stream.BASE, stream.base(8, tgid=7)), tgid=7)]
    assert machine.ps("-o", "pid", "-p", "8") == ["    PID"]
    assert machine.status == 1


def test_children_are_asked_for_by_their_parents(machine: Machine) -> None:
    machine.kernel.messages = [message(7, attribute(stream.BASE, stream.base(7, ppid=3)))]
    assert machine.ps("-o", "pid=,ppid=", "--ppid", "3") == ["      7       3"]
    assert [(strategy, pid) for _, strategy, pid in machine.kernel.requests] == [(3, 3)]


@pytest.mark.parametrize("number", [3, 1])
def test_a_process_that_is_not_there_or_may_not_be_looked_at_is_no_line(number: int, machine: Machine) -> None:
    machine.kernel.ends = number
    assert machine.ps("-o", "pid", "-p", "7") == ["    PID"]
    assert machine.status == 1


def test_what_may_not_be_read_or_went_meanwhile_is_no_line(machine: Machine) -> None:
    machine.kernel.messages = [
        message(5),
        message(6, attribute(stream.BASE, stream.base(6))),
        message(7, attribute(stream.BASE, stream.base(7)), attribute(stream.CRED, stream.cred()), flags=stream.CONT),
        message(8, attribute(stream.BASE, stream.base(8)), attribute(stream.CRED, stream.cred())),
    ]
    assert machine.ps("-o", "pid=,uid=") == ["      8     0"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-o", "pid,nothing"], "there is no column 'nothing': there are pid, tgid, "),
        (["-o", "pid:0"], "there is no column 'pid:0': "),
        (["--sort", "-nothing"], "there is no column 'nothing' to sort by: there are pid, "),
        (["--forest", "-L"], "--forest shows processes, not threads: leave out -T and -L"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(words: list[str], sentence: str, machine: Machine) -> None:
    assert main(["ps", "--proc", str(machine.proc), *words]) == 1
    captured = machine.capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"taskdiag: {sentence}")
    assert captured.err.count("\n") == 1


def test_a_kernel_without_the_groups_is_one_sentence_and_no_heading(machine: Machine) -> None:
    machine.kernel.known = 1
    assert main(["ps", "--proc", str(machine.proc), "-o", "pid,user,rss"]) == 1
    captured = machine.capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "taskdiag: this kernel's task_diag does not have the groups CRED, MEM (EINVAL)\n"


def test_a_process_whose_memory_an_execve_hides_is_a_line(machine: Machine) -> None:
    cut = attribute(stream.BASE, stream.base(5)), attribute(stream.MEM, b"")
    whole = attribute(stream.BASE, stream.base(6)), attribute(stream.MEM, stream.mem(rss=8192))
    machine.kernel.messages = [message(5, *cut, flags=stream.TRUNC), message(6, *whole)]
    assert machine.ps("-o", "pid=,rss=") == ["      5     0", "      6     8"]


def test_a_circle_of_parents_is_shown_once(machine: Machine) -> None:
    parents = {5: 6, 6: 7, 7: 5, 8: 1, 9: 9}
    machine.kernel.messages = [
        message(pid, attribute(stream.BASE, stream.base(pid, ppid=ppid)), attribute(stream.IDENT, stream.ident()))
        for pid, ppid in parents.items()
    ]
    lines = machine.ps("-o", "pid=", "--forest")
    assert sorted(map(int, lines)) == [5, 6, 7, 8, 9]


def test_a_terminal_is_as_wide_as_it_says_and_headings_stand_out(machine: Machine) -> None:
    machine.monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    machine.monkeypatch.setattr(os, "get_terminal_size", lambda _fd: os.terminal_size((40, 24)))
    machine.monkeypatch.setattr("sys.stdout.fileno", lambda: 1)
    machine.monkeypatch.setenv("TERM", "xterm")
    machine.monkeypatch.delenv("NO_COLOR", raising=False)
    heading, *lines = machine.ps("-o", "pid,args")
    assert heading == "\x1b[1m    PID COMMAND\x1b[0m"
    assert max(map(len, lines)) == 40
    machine.monkeypatch.setenv("NO_COLOR", "1")
    assert machine.ps("-o", "pid,args")[0] == "    PID COMMAND"
    assert max(map(len, machine.ps("-o", "pid,args", "-w"))) > 40
    machine.monkeypatch.setenv("COLUMNS", "30")
    assert max(map(len, machine.ps("-o", "pid,args"))) == 30
