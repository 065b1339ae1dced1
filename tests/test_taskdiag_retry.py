"""Asking again for command lines that a lock cut off, over a stand-in for the kernel's file and a clock of its own."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

from taskdiag import Group, Strategy, Task, TaskDiagError, retry_command_lines, tasks

GROUPS = (Group.BASE, Group.CMDLINE, Group.IDENT)
AGAIN = 1 << stream.CMDLINE | 1 << stream.IDENT
START, INODE = 5000, 77
ROUNDS = 6


@dataclass
class Clock:
    """Time passes by sleeping, and a little by each look at the clock."""

    look: float = 0.0
    now: float = 100.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        self.now += self.look
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr("taskdiag.retry.monotonic", fake.monotonic)
    monkeypatch.setattr("taskdiag.retry.sleep", fake.sleep)
    return fake


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> FakeTaskDiag:  # noqa: ARG001
    fake = FakeTaskDiag()
    monkeypatch.setattr(io, "FileIO", fake.opener())
    return fake


def process(pid: int, line: bytes, *more: bytes, cut: bool = False, flags: int = 0) -> bytes:
    """Return the messages of a process in a listing; ``more`` are attributes behind IDENT."""
    first = attribute(stream.BASE, stream.base(pid)), attribute(stream.CMDLINE, line)
    last = attribute(stream.IDENT, stream.ident(START, INODE)), *more
    return message(pid, *first, flags=stream.CONT | stream.TRUNC * cut) + message(pid, *last, flags=flags)


def answer(
    pid: int, line: bytes, *, cut: bool = False, start: int = START, inode: int = INODE, goes: bool = False
) -> bytes:
    """Return what is said of a process when it is asked for again; it ``goes`` amid that."""
    first = message(pid, attribute(stream.CMDLINE, line), flags=stream.CONT | stream.TRUNC * cut)
    return first if goes else first + message(pid, attribute(stream.IDENT, stream.ident(start, inode)))


def listed() -> list[tuple[int, bytes | None, bool]]:
    return [(task.pid, task.cmdline, task.cmdline_cut) for task in retry_command_lines(tasks(GROUPS))]


def asked(kernel: FakeTaskDiag) -> list[int]:
    """Return the processes that were asked for again, in order; none by a request that waits for locks."""
    requests, starts = kernel.requests[1:], kernel.starts[1:]
    assert all((show, strategy) == (AGAIN, Strategy.THREAD) for show, strategy, _ in requests)
    assert starts == [pid for _, _, pid in requests]
    assert kernel.closed
    return starts


def test_nothing_is_asked_again_when_nothing_was_cut(kernel: FakeTaskDiag, clock: Clock) -> None:
    kernel.messages = [process(5, b"a\0"), process(6, b""), message(7)]
    assert listed() == [(5, b"a\0", False), (6, b"", False), (7, None, False)]
    assert asked(kernel) == []
    assert clock.slept == []


def test_tasks_come_as_they_are_read_until_one_is_cut(kernel: FakeTaskDiag) -> None:
    kernel.messages = [process(pid, b"a\0", cut=pid == 900) for pid in range(1, 1001)]
    kernel.again = {900: [answer(900, b"b\0")]}
    found = retry_command_lines(tasks(GROUPS, buffer_size=4096))
    assert next(found).pid == 1
    assert len(kernel.sizes) == 1
    assert [task.pid for task in found] == list(range(2, 1001))


def test_what_is_whole_the_second_time_is_in_its_place_without_a_pause(kernel: FakeTaskDiag, clock: Clock) -> None:
    kernel.messages = [process(5, b"a\0"), process(6, b"", cut=True), process(7, b"c\0"), process(8, b"d", cut=True)]
    kernel.again = {6: [answer(6, b"b\0b\0")], 8: [answer(8, b"d\0e\0")]}
    assert listed() == [(5, b"a\0", False), (6, b"b\0b\0", False), (7, b"c\0", False), (8, b"d\0e\0", False)]
    assert asked(kernel) == [6, 8]
    assert clock.slept == []


def test_the_rest_of_a_task_stays_what_it_was(kernel: FakeTaskDiag) -> None:
    hidden = attribute(stream.MEM, b"")
    kernel.messages = [process(5, b"", hidden, cut=True, flags=stream.TRUNC), process(6, b"", cut=True)]
    kernel.again = {pid: [answer(pid, b"a\0")] for pid in (5, 6)}
    five, six = retry_command_lines(tasks(GROUPS))
    assert (five.cmdline, five.cut, five.flags) == (b"a\0", frozenset({Group.MEM}), stream.TRUNC)
    assert (six.cmdline, six.cut, six.flags, six.complete) == (b"a\0", frozenset(), 0, True)
    assert six.base is not None
    assert six.ident is not None


def test_each_round_asks_for_all_that_are_still_cut(kernel: FakeTaskDiag, clock: Clock) -> None:
    kernel.messages = [process(pid, b"", cut=True) for pid in (5, 6, 7)]
    kernel.again = {
        5: [answer(5, b"", cut=True), answer(5, b"a\0")],
        6: [answer(6, b"b\0")],
        7: [answer(7, b"", cut=True)] * 2 + [answer(7, b"c\0")],
    }
    assert listed() == [(5, b"a\0", False), (6, b"b\0", False), (7, b"c\0", False)]
    assert asked(kernel) == [5, 6, 7, 5, 7, 7]
    assert clock.slept == [0.002, 0.004]


def test_what_is_cut_for_ever_stays_marked_after_some_rounds(kernel: FakeTaskDiag, clock: Clock) -> None:
    kernel.messages = [process(5, b"", cut=True), process(6, b"b\0")]
    kernel.again = {5: [answer(5, b"", cut=True)]}
    assert listed() == [(5, b"", True), (6, b"b\0", False)]
    assert asked(kernel) == [5] * ROUNDS
    assert len(clock.slept) == ROUNDS - 1
    assert sorted(clock.slept) == clock.slept
    assert sum(clock.slept) < 0.1


@pytest.mark.parametrize("look", [0.0001, 0.001, 0.01, 0.09, 1.0])
def test_however_many_are_cut_it_takes_a_tenth_of_a_second(kernel: FakeTaskDiag, clock: Clock, look: float) -> None:
    clock.look = look
    kernel.messages = [process(pid, b"", cut=True) for pid in range(1, 2001)]
    assert listed() == [(pid, b"", True) for pid in range(1, 2001)]
    assert clock.now - 100 < 0.1 + 2.5 * look
    assert len(asked(kernel)) <= 0.1 / look


def test_a_pause_does_not_go_beyond_that(kernel: FakeTaskDiag, clock: Clock) -> None:
    clock.look = 0.015
    kernel.messages = [process(5, b"", cut=True)]
    assert listed() == [(5, b"", True)]
    assert clock.slept[:-1] == [0.002, 0.004]
    assert 0 <= clock.slept[-1] < 0.008
    assert asked(kernel) == [5, 5, 5]


def test_most_of_a_line_is_kept_while_it_is_cut(kernel: FakeTaskDiag) -> None:
    kernel.messages = [process(5, b"a\0b", cut=True)]
    kernel.again = {5: [answer(5, line, cut=True) for line in (b"", b"a\0b\0c\0", b"a\0")]}
    assert listed() == [(5, b"a\0b\0c\0", True)]
    assert asked(kernel) == [5] * ROUNDS


def test_a_line_that_is_too_long_is_not_asked_for(kernel: FakeTaskDiag, clock: Clock) -> None:
    kernel.messages = [process(5, b"x" * 65528, cut=True), process(6, b"x" * 65527, cut=True)]
    kernel.again = {6: [answer(6, b"y" * 65528, cut=True)]}
    assert listed() == [(5, b"x" * 65528, True), (6, b"y" * 65528, True)]
    assert asked(kernel) == [6]
    assert clock.slept == []


GONE = [
    pytest.param(b"", id="no such process"),
    pytest.param(answer(5, b"other\0", inode=INODE + 1), id="another process"),
    pytest.param(answer(5, b"other\0", start=START + 1), id="another start"),
    pytest.param(answer(5, b"other\0", cut=True, inode=INODE + 1), id="another that is cut"),
    pytest.param(answer(6, b"other\0"), id="another number"),
    pytest.param(answer(5, b"half", goes=True), id="gone amid the answer"),
    pytest.param(message(5), id="bare"),
    pytest.param(message(5, attribute(stream.CMDLINE, b"other\0")), id="nobody knows whose"),
    pytest.param(message(5, attribute(stream.IDENT, stream.ident(START, INODE))), id="without a command line"),
]


@pytest.mark.parametrize("said", GONE)
def test_a_process_that_has_gone_stays_cut_and_is_asked_for_no_more(
    kernel: FakeTaskDiag, clock: Clock, said: bytes
) -> None:
    """Whoever has its number now is not taken for it."""
    kernel.messages = [process(5, b"a", cut=True), process(8, b"b\0")]
    kernel.again = {5: [said]}
    assert listed() == [(5, b"a", True), (8, b"b\0", False)]
    assert asked(kernel) == [5]
    assert clock.slept == []


def test_one_that_has_gone_does_not_end_the_others(kernel: FakeTaskDiag) -> None:
    kernel.messages = [process(pid, b"", cut=True) for pid in (5, 6, 7)]
    kernel.again = {5: [b""], 6: [answer(6, b"", cut=True), b""], 7: [answer(7, b"", cut=True), answer(7, b"c\0")]}
    assert listed() == [(5, b"", True), (6, b"", True), (7, b"c\0", False)]
    assert asked(kernel) == [5, 6, 7, 6, 7]


def test_one_that_may_not_be_read_any_more_is_as_one_that_has_gone(kernel: FakeTaskDiag) -> None:
    kernel.messages = [process(5, b"", cut=True)]
    before = list(tasks(GROUPS))
    kernel.ends = errno.EPERM
    assert list(retry_command_lines(before)) == before
    assert asked(kernel) == [5]


def test_other_errors_are_told(kernel: FakeTaskDiag) -> None:
    kernel.messages = [process(5, b"", cut=True)]
    before = list(tasks(GROUPS))
    kernel.ends = errno.ENOMEM
    with pytest.raises(TaskDiagError, match="Cannot allocate memory"):
        list(retry_command_lines(before))
    assert kernel.closed


def test_who_cannot_be_told_from_a_later_owner_of_the_number_is_left_as_it_is(kernel: FakeTaskDiag) -> None:
    kernel.messages = [message(5, attribute(stream.CMDLINE, b""), flags=stream.TRUNC)]
    assert listed() == [(5, b"", True)]
    assert asked(kernel) == []


def test_a_thread_is_not_asked_for_again(kernel: FakeTaskDiag) -> None:
    groups = attribute(stream.IDENT, stream.ident(START, INODE)), attribute(stream.CMDLINE, b"")
    kernel.messages = [message(6, *groups, tgid=5, flags=stream.TRUNC)]
    assert [task.cmdline_cut for task in retry_command_lines(tasks(GROUPS, Strategy.ONE, pid=6))] == [True]
    assert asked(kernel) == []


def test_the_threads_behind_a_leader_are_not_read(kernel: FakeTaskDiag) -> None:
    kernel.messages = [process(5, b"", cut=True)]
    threads = [message(tid, attribute(stream.IDENT, stream.ident(START, INODE)), tgid=5) for tid in range(6, 3000)]
    kernel.again = {5: [answer(5, b"a\0") + b"".join(threads)]}
    before = list(tasks(GROUPS))
    kernel.sizes.clear()
    (task,) = retry_command_lines(before)
    assert task.cmdline == b"a\0"
    assert asked(kernel) == [5]
    assert len(kernel.sizes) == 1


def test_the_mount_is_that_of_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = FakeTaskDiag([process(5, b"", cut=True)], again={5: [answer(5, b"a\0")]})
    opened: list[str] = []
    opener = kernel.opener()

    def fake(file: object, mode: str) -> FakeTaskDiag:
        opened.append(str(file))
        return opener(file, mode)

    monkeypatch.setattr(io, "FileIO", fake)
    found: Iterator[Task] = retry_command_lines(tasks(GROUPS, proc="/other"), proc="/other")
    assert [task.cmdline for task in found] == [b"a\0"]
    assert opened == ["/other/task-diag"] * 2
