"""``taskdiag`` on the command line: records as JSON, as they come, and from a recording."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

from taskdiag import wire
from taskdiag.__main__ import main
from taskdiag.dump import as_json

TOOLS = Path(__file__).resolve().parents[1] / "tools"

STATISTICS = bytes(range(80))
WHOLE = message(
    9,
    attribute(stream.BASE, stream.base(9, comm=b"\xff\n", state=6)),
    attribute(stream.CRED, stream.cred((1, 2, 3, 4), (5, 6, 7, 8), (0, 1 << 40, 2, 3))),
    attribute(
        stream.VMA,
        stream.vma(4096, 8192, 1 << 40 | 0b1101, b"/bin/a", STATISTICS) + stream.vma(8192, 12288, name=b"[heap]"),
    ),
    attribute(stream.STAT, stream.stat((1, 2, 3, 4), (5, 6, 7, 8), 9)),
    attribute(99, b"unknown"),
    attribute(stream.CMDLINE, b"a\0b c\0"),
    tgid=8,
    flags=stream.TRUNC | stream.CONT,
) + message(9, attribute(stream.IDENT, stream.ident(1, 2, 3)), attribute(stream.MEM, b""), tgid=8, flags=stream.TRUNC)
BARE = message(10, attribute(stream.BASE, stream.base(10, state=77)), flags=stream.CONT)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeTaskDiag:
    fake = FakeTaskDiag([WHOLE, BARE])
    monkeypatch.setattr(io, "FileIO", fake.opener())
    return fake


def taskdiag(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(TOOLS), "LC_ALL": "C"}
    return subprocess.run(
        [sys.executable, "-m", "taskdiag", *words], input=given, capture_output=True, check=False, env=environment
    )


def test_json_has_all_that_came_and_nothing_else() -> None:
    whole, bare = wire.join(wire.decode(WHOLE + BARE))
    assert as_json(bare) == {
        "pid": 10,
        "tgid": 10,
        "complete": False,
        "base": {"tgid": 10, "pid": 10, "ppid": 1, "tpid": 0, "sid": 3, "pgid": 4, "state": 77, "comm": "sh"},
    }
    shown = as_json(whole)
    areas = shown.pop("vma")
    assert shown == {
        "pid": 9,
        "tgid": 8,
        "complete": True,
        "base": {
            "tgid": 9,
            "pid": 9,
            "ppid": 1,
            "tpid": 0,
            "sid": 3,
            "pgid": 4,
            "state": "ZOMBIE",
            "comm": "\udcff\n",
        },
        "cred": {
            "inheritable": 0,
            "permitted": 1 << 40,
            "effective": 2,
            "bounding": 3,
            "uid": 1,
            "euid": 2,
            "suid": 3,
            "fsuid": 4,
            "gid": 5,
            "egid": 6,
            "sgid": 7,
            "fsgid": 8,
        },
        "stat": {
            "minflt": 1,
            "cminflt": 2,
            "majflt": 3,
            "cmajflt": 4,
            "utime": 5,
            "stime": 6,
            "cutime": 7,
            "cstime": 8,
            "threads": 9,
        },
        "ident": {"start_boottime": 1, "inode": 2, "cgroup": 3},
        "cmdline": "a\0b c\0",
        "cmdline_cut": True,
        "cut": ["CMDLINE", "MEM"],
    }
    assert [(area["start"], area["name"], area["flags"]) for area in areas] == [
        (4096, "/bin/a", ["READ", "EXEC", "SHARED", 1 << 40]),
        (8192, "[heap]", []),
    ]
    assert areas[0]["stat"]["shared_clean"] == int.from_bytes(STATISTICS[8:16], sys.byteorder)
    assert areas[1]["stat"] is None


def test_a_dump_is_a_line_of_json_for_each_task(kernel: FakeTaskDiag, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "--groups", "base,vma_stat,VMA", "--strategy", "all-thread"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == list(map(as_json, wire.join(wire.decode(WHOLE + BARE))))
    assert kernel.requests == [(0b1101, 2, 0)]


def test_unless_said_all_groups_that_the_kernel_has_are_dumped_but_areas(
    kernel: FakeTaskDiag, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.known = 0b11111
    assert main(["dump", "--pid", "9"]) == 0
    assert kernel.requests[-1] == (0b10011, 1, 9)
    assert main(["dump", "--groups", "all"]) == 1
    assert "does not have the groups CMDLINE, IDENT, MEM, SCHED, JOB" in capsys.readouterr().err


def test_a_dump_starts_where_it_is_told(kernel: FakeTaskDiag, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "--groups", "base", "--start", "10"]) == 0
    assert kernel.starts == [10]
    assert [json.loads(line)["pid"] for line in capsys.readouterr().out.splitlines()] == [10]


def test_the_groups_of_the_kernel_are_listed(kernel: FakeTaskDiag, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.known = 0b10011
    assert main(["groups"]) == 0
    assert capsys.readouterr().out.split() == ["base", "cred", "stat"]


def test_a_task_that_is_not_there_is_one_sentence_and_no_heading(
    kernel: FakeTaskDiag, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.ends = errno.ESRCH
    assert main(["--pid", "9"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "taskdiag: the task that was asked for does not exist, or may not be seen (ESRCH)\n"
    assert kernel.requests == [(1, 1, 9)]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dump", "--groups", "base,none"], "there is no 'none': there are base, cred, vma, vma_stat, stat, "),
        (["dump", "--groups", ""], "there is no '': there are base, "),
        (["dump", "--strategy", "most"], "there is no 'most': there are all, one, all_thread, children, thread"),
        (["none"], "invalid choice: 'none'"),
    ],
)
def test_wrong_words_are_said_to_be_so(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_raw_dump_is_what_the_kernel_wrote_and_can_be_shown(
    kernel: FakeTaskDiag, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.messages = [WHOLE, BARE] * 200
    file = tmp_path / "answer"
    assert main(["dump", "--raw", "--output", str(file), "--groups", "base"]) == 0
    assert file.read_bytes() == (WHOLE + BARE) * 200
    assert main(["show", str(file)]) == 0
    heading, first, second, *_ = lines = capsys.readouterr().out.splitlines()
    assert (heading, first, second) == (
        "    PID    PPID S COMMAND",
        "      9       1 Z \\xff\\n",
        "     10       1 ? sh",
    )
    assert len(lines) == 401
    assert main(["show", "--json", str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 400


@pytest.mark.usefixtures("kernel")
def test_json_goes_to_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", "--json", "--groups", "base", "--output", str(tmp_path / "lines")]) == 0
    assert len((tmp_path / "lines").read_text().splitlines()) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("kernel")
def test_a_raw_dump_is_not_written_to_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["dump", "--raw"]) == 1
    assert capsys.readouterr().err.startswith("taskdiag: a raw answer is nothing for a terminal")


def test_a_recording_is_shown_from_a_pipe() -> None:
    shown = taskdiag("show", "-", given=WHOLE)
    assert (shown.returncode, shown.stdout, shown.stderr) == (
        0,
        b"    PID    PPID S COMMAND\n      9       1 Z \\xff\\n\n",
        b"",
    )


@pytest.mark.parametrize(
    ("recorded", "sentence"),
    [
        (BARE[:-4], f"the stream ends inside a message of {len(BARE)} bytes, at byte 0"),
        (b"no recording at all", "message type "),
    ],
)
def test_a_broken_recording_is_one_sentence(recorded: bytes, sentence: str) -> None:
    shown = taskdiag("show", "--json", "-", given=recorded)
    assert shown.returncode == 1
    assert shown.stdout == b""
    assert shown.stderr.decode().startswith(f"taskdiag: {sentence}")
    assert shown.stderr.count(b"\n") == 1


def test_a_recording_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    shown = taskdiag("show", str(tmp_path / "none"))
    assert shown.returncode == 1
    assert shown.stderr.decode() == f"taskdiag: [Errno 2] No such file or directory: '{tmp_path / 'none'}'\n"


@pytest.mark.parametrize("words", [[], ["ps"], ["dump"], ["groups"]])
def test_a_kernel_without_task_diag_is_one_clear_sentence(words: list[str], tmp_path: Path) -> None:
    for name, content in {"uptime": "1.0 1.0\n", "stat": "btime 1\n", "meminfo": "MemTotal: 1 kB\n"}.items():
        (tmp_path / name).write_text(content)
    said = taskdiag("--proc", str(tmp_path), *words)
    assert said.returncode == 1
    assert said.stdout == b""
    assert said.stderr.decode() == (
        f"taskdiag: {tmp_path}/task-diag does not exist: "
        "it takes a kernel with CONFIG_TASK_DIAG, and procfs without subset=pid (ENOENT)\n"
    )


def test_who_stops_reading_is_no_error_to_complain_about(tmp_path: Path) -> None:
    file = tmp_path / "answer"
    file.write_bytes(WHOLE * 20000)
    with subprocess.Popen(
        [sys.executable, "-m", "taskdiag", "show", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
    ) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        assert shown.stdout.readline().startswith(b"    PID")
        shown.stdout.close()
        assert shown.stderr.read() == b""
        assert shown.wait(timeout=60) == 1
