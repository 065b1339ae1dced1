from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from stand_in import StandIn, run

from workspace import machine
from workspace.errors import WorkspaceError
from workspace.guest import Kind, Run, Verdict, boot_worker, inside
from workspace.machine import Process, Record, host_boot

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn(tmp_path / "bin")
    stand_in.install(monkeypatch)
    return stand_in


def left_over(run: Run) -> list[int]:
    records = [Record.read(folder) for folder in run.folder.glob("*/")]
    return [pid for record in records if record is not None for pid in record.members()]


@pytest.mark.parametrize(
    ("mode", "kind", "says"),
    [
        ("gone", Kind.LOST, "QEMU ended before the guest reached user space"),
        ("silent", Kind.LOST, "the guest printed nothing within 3 s"),
        ("panics at boot", Kind.LOST, "the kernel panicked before any test ran"),
        ("stops at boot", Kind.LOST, "the guest did not reach user space within 3 s"),
        ("no python", Kind.LOST, "Python ended in the guest before pytest was ready"),
        ("slow python", Kind.LOST, "user space was reached, but pytest did not start in the guest within 3 s"),
        ("panics", Kind.PANIC, "the kernel panicked"),
        ("panics and stays", Kind.PANIC, "the kernel panicked"),
        ("locks up", Kind.HANG, "the kernel locked up"),
        ("hangs", Kind.HANG, "the guest gave no sign of life for 3 s"),
        ("is killed at once", Kind.LOST, "virtme-ng or QEMU ended before the guest's first line"),
        ("is killed at boot", Kind.LOST, "QEMU ended before the guest reached user space"),
        ("is killed before pytest", Kind.KILLED, "QEMU was killed from outside before any test ran"),
        ("is killed", Kind.KILLED, "QEMU was killed from outside"),
        ("is killed between tests", Kind.KILLED, "QEMU was killed from outside"),
        ("is killed in a line", Kind.KILLED, "QEMU was killed from outside"),
        ("is killed in an event", Kind.KILLED, "QEMU was killed from outside"),
        ("loses its leader", Kind.HANG, "the guest gave no sign of life for 3 s"),
        ("floods its link and goes on", Kind.TIMEOUT, "did not end when told to; the guest was alive"),
        ("says what is no event", Kind.TIMEOUT, "did not end when told to; the guest was alive"),
        ("is stuck", Kind.TIMEOUT, "did not end when told to; the guest was alive"),
    ],
)
def test_each_end_of_a_guest_is_told_apart(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, kind: Kind, says: str
) -> None:
    monkeypatch.setattr("workspace.guest.LAST_WORDS", 0.2)
    monkeypatch.setattr("workspace.command.GRACE", 0.5)
    stand_in.behave(mode)
    guests = run(tmp_path)
    verdict = boot_worker(guests, ["-c", "pass"])
    assert verdict.kind is kind
    assert says in verdict.sentence
    assert Verdict.read(guests.folder / "1") == verdict
    assert left_over(guests) == []
    if mode in ("is killed between tests", "is killed before pytest"):
        assert verdict.test is None
    elif kind in (Kind.PANIC, Kind.HANG, Kind.KILLED, Kind.TIMEOUT):
        assert verdict.test == "test_x.py::test_y"
    if mode == "panics":
        assert "panic+0x4f/0x50" in verdict.tail
    log = (guests.consoles / "guest-1.log").read_bytes()
    assert verdict.tail.encode() in log.replace(b"\r", b"")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "there is no room for what a guest leaves (No space left"),
        (WorkspaceError("QEMU is missing."), "the guest could not be watched: QEMU is missing."),
        (KeyError("test"), "the guest could not be watched: KeyError: 'test'"),
    ],
)
@pytest.mark.parametrize("moment", ["require_tools", "Watch"])
def test_a_guest_that_cannot_be_watched_says_why(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str, moment: str
) -> None:
    def fail(*_words: object) -> None:
        raise error

    stand_in.behave("hangs")
    monkeypatch.setattr(f"workspace.guest.{moment}", fail)
    guests = run(tmp_path)
    with pytest.raises(type(error)):
        boot_worker(guests, ["-c", "pass"])
    verdict = Verdict.read(guests.folder / "1")
    assert verdict is not None
    assert verdict.kind is Kind.LOST
    assert verdict.sentence.startswith(says)
    assert left_over(guests) == []


@pytest.mark.parametrize("mode", ["floods", "floods without a line", "floods its link"])
def test_a_guest_that_floods_us_costs_bounded_memory_and_ends_by_its_deadline(tmp_path: Path, mode: str) -> None:
    guests = run(tmp_path, patience=2)
    guests.write()
    stand_in = StandIn(tmp_path / "bin")
    stand_in.behave(mode)
    words = driver(stand_in, guests)
    words[2] = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))\n"
        f"from workspace import console; console.LOG_LIMIT = 1 << 20\n{words[2]}"
    )
    start = time.monotonic()
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(TOOLS)}
    )
    assert done.returncode == 1
    assert time.monotonic() - start < 30
    verdict = Verdict.read(guests.folder / "1")
    assert verdict is not None
    assert (verdict.kind, verdict.test) == (Kind.HANG, "test_x.py::test_y")
    assert len(verdict.tail) < 1 << 20
    log = guests.consoles / "guest-1.log"
    assert log.stat().st_size < (1 << 20) + 200
    if mode != "floods its link":
        assert log.read_bytes().endswith(b"(The guest printed more than 1 MiB: no more is kept.)\n")
    assert left_over(guests) == []


def test_standard_input_and_output_are_carried_unchanged(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path / "bin")
    stand_in.behave("echoes")
    guests = run(tmp_path, patience=30)
    guests.write()
    data = bytes(range(256)) * 1024
    done = subprocess.run(driver(stand_in, guests), input=data, capture_output=True, timeout=30, check=False)
    assert done.stderr == b""
    assert done.stdout == data
    assert done.returncode == 0
    assert left_over(guests) == []


def driver(stand_in: StandIn, guests: Run) -> list[str]:
    code = (
        f"import sys; sys.path.insert(0, {str(TOOLS)!r})\n"
        "from workspace import guest, machine\n"
        f"machine._virtme_run = lambda: {str(stand_in.program)!r}\n"
        "guest.require_tools = lambda: None\n"
        f"sys.exit(guest.main([{str(guests.folder)!r}, '-c', 'pass']))\n"
    )
    return [sys.executable, "-c", code]


def started(stand_in: StandIn, guests: Run) -> tuple[subprocess.Popen[bytes], Record]:
    guests.write()
    stand_in.behave("stops at boot")
    process = subprocess.Popen(driver(stand_in, guests), stdin=subprocess.DEVNULL)
    console = guests.consoles / "guest-1.log"
    while not console.exists() or b"Linux version" not in console.read_bytes():
        assert process.poll() is None
        time.sleep(0.02)
    record = Record.read(guests.folder / "1")
    assert record is not None
    return process, record


def ended(record: Record) -> bool:
    end = time.monotonic() + 20
    while record.members() and time.monotonic() < end:
        time.sleep(0.05)
    return record.members() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_guest(tmp_path: Path, number: signal.Signals) -> None:
    guests = run(tmp_path, patience=60)
    process, record = started(StandIn(tmp_path / "bin"), guests)
    process.send_signal(number)
    assert process.wait(20) == 1
    assert record.members() == []
    verdict = Verdict.read(guests.folder / "1")
    assert verdict is not None
    assert verdict.kind is Kind.ENDED


def test_a_guest_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    guests = run(tmp_path, patience=60)
    stand_in = StandIn(tmp_path / "bin")
    stand_in.behave("stops at boot")
    guests.write()
    between = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", between, *driver(stand_in, guests)])
    while (record := Record.read(guests.folder / "1")) is None or not record.members():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    assert ended(record)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_guest_ends_with_who_watches_it(tmp_path: Path, stopped: bool) -> None:
    guests = run(tmp_path, patience=60)
    process, record = started(StandIn(tmp_path / "bin"), guests)
    if stopped:
        for pid in record.members():
            os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    assert ended(record)


def test_the_next_run_ends_what_is_left_all_the_same(tmp_path: Path) -> None:
    # Somebody ended what would have ended the guest.
    words = ["sh", "-c", "echo; read end", "of nobody"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, start_new_session=True, stdin=pipe, stdout=pipe) as left:
        ended_by_the_next_run(left, tmp_path)


def ended_by_the_next_run(left: subprocess.Popen[bytes], tmp_path: Path) -> None:
    # Until a program runs, its command line may be empty.
    assert left.stdout is not None
    left.stdout.readline()
    gone = subprocess.Popen(["true"])
    owner, leader = Process.of(gone.pid), Process.of(left.pid)
    gone.wait()
    assert owner is not None
    assert leader is not None
    home = tmp_path / "guests"
    folder = home / "run/1"
    folder.mkdir(parents=True)
    (home / "run/owner.json").write_text(json.dumps({**asdict(owner), "boot": host_boot()}))
    record = Record("of nobody", owner, leader, host_boot())
    record.write(folder)
    assert record.members() == [left.pid]
    assert machine.sweep(home) == 1
    assert left.wait() == -signal.SIGKILL
    assert record.members() == []
    assert list(home.iterdir()) == []


def test_the_worker_program_has_no_word_that_needs_quoting(tmp_path: Path) -> None:
    guests = run(tmp_path)
    program = guests.write()
    assert os.access(program, os.X_OK)
    assert Run.read(guests.folder) == guests


def test_what_the_guest_runs_travels_in_a_file(tmp_path: Path) -> None:
    line = inside(tmp_path, Path("/a clone"), ["x" * 5000])
    assert len(line) < 400
    script = (tmp_path / "run.sh").read_text()
    assert "cd '/a clone'" in script
    assert "x" * 5000 in script
