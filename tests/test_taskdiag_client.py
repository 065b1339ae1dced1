"""Requests and answers, over a stand-in for the kernel's file."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

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
    WireError,
    rows,
    tasks,
)


def many(count: int) -> list[bytes]:
    return [message(pid, attribute(0, stream.base(pid))) for pid in range(1, count + 1)]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeTaskDiag:
    fake = FakeTaskDiag()
    monkeypatch.setattr(io, "FileIO", fake.opener())
    return fake


def test_a_transaction_asks_once_and_gives_every_task(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(1000)
    with Transaction((Group.BASE, Group.CRED), Strategy.CHILDREN, pid=7) as transaction:
        assert kernel.requests == [(0b11, 3, 7)]
        assert [task.pid for task in transaction] == list(range(1, 1001))
    assert kernel.closed


def test_a_dump_is_resumed_behind_the_task_where_it_was_left(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(1000)
    with Transaction(buffer_size=4096) as transaction:
        last = next(task.pid for task in transaction if task.pid == 600)
    assert [task.pid for task in tasks(start=last + 1)] == list(range(601, 1001))
    assert [pid for (pid,) in rows("pid", start=999)] == [999, 1000]
    assert kernel.starts == [0, 601, 999]


def test_nothing_is_read_before_it_is_needed(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(1000)
    records = tasks(buffer_size=4096)
    assert kernel.sizes == []
    assert next(records).pid == 1
    assert kernel.sizes == [4096]


def test_a_transaction_that_is_left_early_closes_its_file(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(1000)
    with Transaction() as transaction:
        next(iter(transaction))
    assert kernel.closed


def test_the_end_of_an_answer_closes_its_file(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(3)
    assert [task.pid for task in tasks()] == [1, 2, 3]
    assert kernel.closed


def test_a_buffer_that_is_too_small_grows_and_nothing_is_lost(kernel: FakeTaskDiag) -> None:
    kernel.messages = [*many(2), message(3, attribute(5, bytes(3000))), *many(1)]
    assert [task.pid for task in tasks(buffer_size=100)] == [1, 2, 3, 1]
    assert kernel.sizes == [100, 100, 100, 200, 400, 800, 1600, 3200, 3200]


@pytest.mark.parametrize("size", [*range(96, 800, 8), 65536])
def test_a_command_line_is_joined_over_any_reads(kernel: FakeTaskDiag, size: int) -> None:
    parts = [b"first\0sec", b"ond\0", b"\xff\n", b"", b"\0"]
    kernel.messages = [*stream.pieces(4, *parts), *stream.pieces(5, b""), *stream.pieces(6, *parts, flags=stream.TRUNC)]
    whole, empty, cut = tasks((Group.BASE, Group.CMDLINE, Group.JOB), buffer_size=size)
    line = b"first\0second\0\xff\n\0"
    assert (whole.cmdline, whole.cut, whole.complete) == (line, frozenset(), True)
    assert (empty.cmdline, empty.cut, empty.complete) == (b"", frozenset(), True)
    assert (cut.cmdline, cut.complete) == (line, True)
    assert cut.cut == {Group.CMDLINE}
    # The last read finds the end.
    assert (len(kernel.sizes) > 2) is (size < sum(map(len, kernel.messages)))


def test_a_command_line_that_was_not_asked_for_is_none(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(1)
    (task,) = tasks()
    assert (task.cmdline, task.cmdline_cut) == (None, False)
    assert kernel.requests == [(1, 0, 0)]


def test_a_kernel_that_finds_every_buffer_too_small_is_an_error(kernel: FakeTaskDiag) -> None:
    kernel.messages = [bytes(1 << 25)]
    with pytest.raises(TaskDiagError, match="the answer cannot be read: Message too long") as caught:
        next(tasks())
    assert caught.value.errno == errno.EMSGSIZE
    assert kernel.closed


@pytest.mark.parametrize(
    ("number", "error", "python", "sentence"),
    [
        (errno.ESRCH, NoSuchTaskError, ProcessLookupError, "does not exist, or may not be seen"),
        (errno.EPERM, RefusedError, PermissionError, "nothing that was asked for may be read of this task"),
        (errno.ENOMEM, TaskDiagError, OSError, "the answer cannot be read: Cannot allocate memory"),
    ],
)
def test_what_is_wrong_with_a_task_is_an_error_of_the_first_step(
    kernel: FakeTaskDiag, number: int, error: type[OSError], python: type[OSError], sentence: str
) -> None:
    kernel.ends = number
    records = tasks(strategy=Strategy.ONE, pid=9)
    with pytest.raises(error, match=sentence) as caught:
        next(records)
    assert isinstance(caught.value, python)
    assert caught.value.errno == number
    assert str(caught.value).endswith(f"({errno.errorcode[number]})")


def test_groups_that_the_kernel_does_not_have_are_named(kernel: FakeTaskDiag) -> None:
    kernel.known = 0b1000_0001
    with pytest.raises(UnknownGroupError, match=r"does not have the groups CRED, STAT \(EINVAL\)") as caught:
        tasks((Group.BASE, Group.STAT, Group.CRED))
    assert caught.value.errno == errno.EINVAL
    assert caught.value.groups == {Group.CRED, Group.STAT}
    assert kernel.closed


def test_the_kernel_is_asked_which_groups_it_has(kernel: FakeTaskDiag) -> None:
    with TaskDiag() as source:
        assert source.groups() == set(Group)
        kernel.known = 0b1111
        kernel.ends = errno.ESRCH
        assert source.groups() == {Group.BASE, Group.CRED, Group.VMA, Group.VMA_STAT}
        kernel.ends = 0
        source.request()
        assert list(source.tasks()) == []


@pytest.mark.parametrize(("strategy", "pid"), [(Strategy.ALL, 5), (Strategy.ONE, 0)])
def test_a_request_that_is_wrong_otherwise_is_no_unknown_group(
    kernel: FakeTaskDiag, strategy: Strategy, pid: int
) -> None:
    with pytest.raises(TaskDiagError, match=r"the kernel does not take this request: .*pid") as caught:
        tasks(strategy=strategy, pid=pid)
    assert caught.value.errno == errno.EINVAL
    assert not isinstance(caught.value, UnknownGroupError)
    assert kernel.closed


def test_a_second_request_has_to_wait_for_the_end_of_the_first(kernel: FakeTaskDiag) -> None:
    kernel.messages = many(2)
    with TaskDiag() as source:
        source.request()
        with pytest.raises(TaskDiagError, match="is answering another request") as caught:
            source.request()
        assert caught.value.errno == errno.EBUSY
        assert [task.pid for task in source.tasks()] == [1, 2]
        source.request()
        assert [task.pid for task in source.tasks()] == [1, 2]


def test_a_mount_without_task_diag_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(NoTaskDiagError, match=f"^{tmp_path}/task-diag does not exist: .*CONFIG_TASK_DIAG") as caught:
        tasks(proc=tmp_path)
    assert caught.value.errno == errno.ENOENT
    assert isinstance(caught.value, FileNotFoundError)


def test_a_file_that_may_not_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "task-diag").mkdir()
    with pytest.raises(TaskDiagError, match=f"^{tmp_path}/task-diag cannot be opened: Is a directory") as caught:
        tasks(proc=tmp_path)
    assert caught.value.errno == errno.EISDIR


def test_a_broken_answer_is_an_error_and_closes_the_file(kernel: FakeTaskDiag) -> None:
    kernel.messages = [*many(1), b"\xff" * 16]
    records = tasks()
    assert next(records).pid == 1
    with pytest.raises(WireError):
        next(records)
    assert kernel.closed
