from __future__ import annotations

import datetime
import faulthandler
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workspace import kmemleak, watch, worker
from workspace.splat import NONE, Allowed, Exceptions, TaintedError
from workspace.worker import (
    Log,
    Monitor,
    TimedOutError,
    build_id,
    drop_for_other_kernels,
    name_outcome,
    outside,
)


def note(name: bytes, kind: int, data: bytes) -> bytes:
    def pad(text: bytes) -> bytes:
        return text + bytes(-len(text) % 4)

    head = b"".join(number.to_bytes(4, sys.byteorder) for number in (len(name), len(data), kind))
    return head + pad(name) + pad(data)


def test_the_build_id_is_found_among_other_notes() -> None:
    id_note = note(b"GNU\0", 3, bytes(range(20)))
    assert build_id(note(b"Linux\0", 257, b"x") + id_note) == bytes(range(20)).hex()
    assert build_id(id_note + note(b"Xen\0", 3, b"abcd")) == bytes(range(20)).hex()


@pytest.mark.parametrize("notes", [b"", b"\0" * 11, note(b"Linux\0", 3, b"abc"), note(b"GNU\0", 1, b"abc")])
def test_notes_without_a_build_id_have_none(notes: bytes) -> None:
    assert build_id(notes) == ""


def test_this_host_is_outside_of_every_guest() -> None:
    assert "runs only in a guest" in (outside(None) or "")
    assert "runs only in a guest" in (outside({"workerid": "gw0"}) or "")
    forged = {"workspace_nonce": "0123456789abcdef", "workspace_build_id": ""}
    assert "was not booted by the run" in (outside(forged) or "")


def test_a_guest_has_to_run_the_kernel_that_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("proc", "sys/kernel"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/cmdline").write_text("quiet workspace.nonce=0123 panic=-1\n")
    (tmp_path / "sys/kernel/notes").write_bytes(note(b"GNU\0", 3, b"\xab" * 20))
    monkeypatch.setattr(worker, "Path", lambda name: tmp_path / name.removeprefix("/"))
    told = {"workspace_nonce": "0123", "workspace_build_id": "ab" * 20}
    assert outside(told) is None
    assert "was not booted by the run" in (outside({**told, "workspace_nonce": "012"}) or "")
    assert f"runs build {'ab' * 20}, not the one that was built" in (
        outside({**told, "workspace_build_id": "cd" * 20}) or ""
    )


class Watched:
    """This process, watched by a thread of its own; what that says, and where it says that we are."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self.events: list[dict[str, object]] = []
        self.log = folder / "kmsg"
        self.shown = folder / "shown"
        self.log.touch()
        self._ends = ours, theirs
        self.monitor = Monitor(ours)
        self._file = self.shown.open("w")
        faulthandler.register(watch.SHOW, file=self._file)
        self._watch = watch.Watch(theirs, os.getpid(), lambda: cast("watch.Link", self), self.log)
        self._watch.start()

    def say(self, **event: object) -> None:
        self.events.append(event)

    def kinds(self) -> set[object]:
        return {event["event"] for event in self.events}

    def close(self) -> None:
        self._ends[0].close()
        self._watch.join(10)
        self._ends[1].close()
        faulthandler.unregister(watch.SHOW)
        self._file.close()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Make a watch's moments short."""
    monkeypatch.setattr(watch, "BEAT", 0.02)
    monkeypatch.setattr(watch, "SHOWN", 0.1)
    monkeypatch.setattr(worker, "GRACE", 0.2)
    before = signal.getsignal(watch.TOLD)
    watched = Watched(tmp_path)
    yield watched
    watched.close()
    signal.signal(watch.TOLD, before)


def test_each_test_is_told_of_its_deadline_once(watched: Watched) -> None:
    for name in ("t", "u"):
        watched.monitor.arm(name, 0.1, 100)
        with pytest.raises(TimedOutError, match=r"within its deadline of 0\.1 s"):
            time.sleep(5)
        # Cleaning up may take its time.
        time.sleep(0.2)
        watched.monitor.disarm()
    assert watched.kinds() == {"alive"}
    assert len(watched.events) > 2


def test_a_test_in_time_is_not_told(watched: Watched) -> None:
    watched.monitor.arm("t", 0.1, 100)
    watched.monitor.disarm()
    time.sleep(0.3)


def test_nothing_is_said_before_the_first_word_and_every_word_is_handed_on(watched: Watched) -> None:
    time.sleep(0.1)
    assert watched.events == []
    watched.monitor.say("test", test="t")
    watched.monitor.say("kept", test="t")
    end = time.monotonic() + 10
    while len(watched.events) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    said = [event for event in watched.events if event["event"] != "alive"]
    assert said == [{"event": "test", "test": "t"}, {"event": "kept", "test": "t"}]


def test_a_signal_that_comes_late_does_not_end_the_next_phase(watched: Watched) -> None:
    """It was sent for the phase before, and is delivered only now."""
    watched.monitor.arm("t", 100, 1)
    signal.raise_signal(watch.TOLD)
    watched.monitor.arm("t", 0, 100)
    with pytest.raises(TimedOutError):
        time.sleep(5)
    watched.monitor.disarm()


def test_a_guest_is_given_up_whose_test_does_not_end(watched: Watched) -> None:
    watched.monitor.arm("t", 0.05, 1)
    told = 0
    end = time.monotonic() + 20
    while "stuck" not in watched.kinds():
        assert time.monotonic() < end
        try:
            time.sleep(0.02)
        except TimedOutError:
            told += 1
    watched.monitor.disarm()
    assert told == 1
    assert watched.events[-1] == {"event": "stuck", "test": "t"}
    assert "test_worker.py" in watched.shown.read_text()
    assert "vmtest: stuck in [<0>] " in watched.log.read_text()


@pytest.mark.parametrize(
    ("error", "properties"),
    [
        (TaintedError("the kernel complained:\nBUG: x"), [("outcome", "tainted")]),
        (TimedOutError("late"), [("outcome", "timed out")]),
        (AssertionError("wrong"), []),
    ],
    ids=["tainted", "timed out", "failed"],
)
def test_the_kinds_of_failure_are_told_apart(error: Exception, properties: list[tuple[str, str]]) -> None:
    def fail() -> None:
        raise error

    call = pytest.CallInfo.from_call(fail, "call")
    report = pytest.TestReport("t", ("f", 1, "t"), {}, "failed", "a long traceback", "call")
    named = name_outcome(report, call)
    assert named.user_properties == properties
    # Where in Python the complaint was found says nothing.
    assert named.longrepr == (str(error) if isinstance(error, TaintedError) else "a long traceback")


class Kmsg:
    """A kernel log: one read is one record, as from /dev/kmsg."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: list[bytes | OSError] = []
        self.taints = 0
        self.path = folder / "kmsg"
        self.path.touch()
        monkeypatch.setattr(os, "read", self._read)
        monkeypatch.setattr("workspace.worker._taints", lambda: self.taints)

    def log(self, exceptions: Exceptions = NONE) -> Log:
        return Log(exceptions, path=self.path)

    def _read(self, _descriptor: int, _size: int) -> bytes:
        if not self.records:
            raise BlockingIOError
        record = self.records.pop(0)
        if isinstance(record, OSError):
            raise record
        return record


@pytest.fixture
def kmsg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kmsg:
    return Kmsg(tmp_path, monkeypatch)


def test_a_complaint_is_raised_once_with_what_surrounds_it(kmsg: Kmsg) -> None:
    log = kmsg.log()
    kmsg.records = [b"6,0,5,-;something\n", b"4,1,6,-;WARNING: CPU: 1\n SUBSYSTEM=x\n", b"4,2,7,-;RIP: 0010:f+1\n"]
    with pytest.raises(TaintedError, match=r"something\nWARNING: CPU: 1\nRIP: 0010"):
        log.check()
    log.check()


def test_a_complaint_behind_a_line_end_of_its_message_is_found(kmsg: Kmsg) -> None:
    log = kmsg.log()
    kmsg.records = [rb"4,0,6,-;stars\x0aWARNING: behind them" + b"\n"]
    with pytest.raises(TaintedError, match="behind them"):
        log.check()


def test_an_exception_lets_a_complaint_pass(kmsg: Kmsg) -> None:
    day = datetime.date(2026, 1, 1)
    log = kmsg.log(Exceptions((Allowed("x", re.compile("WARNING: known"), "why", "https://", day),)))
    kmsg.records = [b"4,0,6,-;WARNING: known\n"]
    kmsg.taints = 0x200
    log.check()
    kmsg.records = [b"4,1,6,-;WARNING: unknown\n"]
    with pytest.raises(TaintedError, match="unknown"):
        log.check()


def test_a_mark_is_a_whole_line(kmsg: Kmsg) -> None:
    log = kmsg.log()
    log.mark("start")
    log.mark("x" * 2000)
    first, second = kmsg.path.read_bytes().splitlines(keepends=True)
    assert first == b"<5>vmtest: start\n"
    assert second.endswith(b"x\n")
    assert len(second) < 1000


def test_what_programs_write_into_the_log_is_no_complaint(kmsg: Kmsg) -> None:
    log = kmsg.log()
    kmsg.records = [b"13,0,5,-;vmtest: start test_WARNING: x\n", b"12,1,6,-;BUG: says a program\n"]
    log.check()


@pytest.mark.parametrize(
    "records",
    [
        [BrokenPipeError(32, "overwritten"), b"6,7,5,-;what is left\n"],
        [b"6,7,5,-;what is left\n"],
        [b"6,0,5,-;first\n", b"6,2,5,-;third\n"],
        [BrokenPipeError(32, "overwritten")],
    ],
    ids=["while it was open", "before it was opened", "in between", "all of it"],
)
def test_a_log_that_lost_lines_fails_once(kmsg: Kmsg, records: list[bytes | OSError]) -> None:
    log = kmsg.log()
    kmsg.records = records
    with pytest.raises(TaintedError, match="lost lines"):
        log.check()
    log.check()


@pytest.mark.parametrize("record", [OSError(22, "Invalid argument"), PermissionError(1, "no"), b"no record"])
def test_a_log_that_cannot_be_read_fails(kmsg: Kmsg, record: bytes | OSError) -> None:
    log = kmsg.log()
    kmsg.records = [record]
    with pytest.raises(TaintedError, match="cannot be read"):
        log.check()


def test_a_log_that_cannot_be_opened_fails_every_check(kmsg: Kmsg) -> None:
    kmsg.path.unlink()
    log = kmsg.log()
    log.mark("start")
    for _ in range(2):
        with pytest.raises(TaintedError, match=r"kmsg cannot be opened \(No such file or directory\)"):
            log.check()


@pytest.mark.parametrize("at_boot", [True, False])
def test_a_taint_without_a_word_that_is_known_fails_once(kmsg: Kmsg, at_boot: bool) -> None:
    kmsg.taints = 0x20 * at_boot
    log = kmsg.log()
    kmsg.records = [b"6,0,5,-;an odd complaint\n"]
    kmsg.taints = 0x20
    with pytest.raises(TaintedError, match=r"0x0 became 0x20.*\nan odd complaint"):
        log.check()
    log.check()


XY = ["CONFIG_X", "CONFIG_Y"]


class Leaking(worker.Worker):
    """A guest's side, of which only the look for leaks is asked."""

    def __init__(self, monitor: Monitor) -> None:
        self._outside = None
        self._leaks = True
        self._looked = time.monotonic()
        self._slowness = 1.0
        self._monitor = monitor
        self._log = cast("Log", SimpleNamespace(check=lambda: None))


@pytest.mark.parametrize("found", ["", "unreferenced object 0xffff888007c3a140 (size 64):"])
def test_leaks_are_looked_for_every_few_minutes(watched: Watched, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    looks: list[float] = []

    def leaks() -> str:
        looks.append(time.monotonic())
        return found

    monkeypatch.setattr(kmemleak, "leaks", leaks)
    guest = Leaking(watched.monitor)
    item: Any = SimpleNamespace(nodeid="t", get_closest_marker=lambda _name: None, user_properties=[])

    def tear_down() -> None:
        step = guest.pytest_runtest_teardown(item)
        next(step)
        with pytest.raises(StopIteration):
            step.send(None)

    tear_down()
    assert (looks, item.user_properties) == ([], [])
    guest._looked -= worker.BETWEEN_LOOKS
    if found:
        step = guest.pytest_runtest_teardown(item)
        next(step)
        with pytest.raises(TaintedError, match="one of the 5 minutes before it in this guest:\nunreferenced object"):
            step.send(None)
        assert item.user_properties == []
        return
    tear_down()
    tear_down()
    assert len(looks) == 1, "the next look is due only later"
    assert item.user_properties == [("looked_for_leaks", True)]


class Item:
    """As much of a test as is asked for the options that it needs; each of them in a marker of its own."""

    def __init__(self, nodeid: str, *options: str) -> None:
        self.nodeid = nodeid
        self._marks = [SimpleNamespace(args=(option,)) for option in options]

    def iter_markers(self, _name: str) -> list[SimpleNamespace]:
        return self._marks


def test_tests_for_other_kernels_are_left_out_and_named() -> None:
    items: list[Any] = [Item("all"), Item("one", "CONFIG_X"), Item("other", "CONFIG_Y"), Item("both", *XY)]
    kept = list(items)
    assert drop_for_other_kernels(kept, {"CONFIG_X", "CONFIG_Z"}, XY) == ["other", "both"]
    assert [item.nodeid for item in kept] == ["all", "one"]
    with pytest.raises(pytest.UsageError, match=r"other needs CONFIG_Y, which no flavour .* asks for"):
        drop_for_other_kernels(items, XY, XY[:1])
