"""The quick way through many tasks gives what the general way gives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

from taskdiag import Group, Strategy, WireError, columns, wire
from taskdiag.columns import Columns

NAMES = ("pid", "stat.utime", "base.comm", "cred.uid", "base.state", "tgid", "stat.stime", "base.ppid")


def usual(pid: int) -> bytes:
    """Return the message of a task as most are."""
    return message(
        pid,
        attribute(stream.BASE, stream.base(pid, ppid=pid // 2, comm=b"worker %d" % pid)),
        attribute(stream.CRED, stream.cred((pid % 7, 1, 2, 3))),
        attribute(stream.STAT, stream.stat(times=(pid, pid + 1, 0, 0))),
        tgid=pid - pid % 3,
    )


def odd(pid: int, cuts: random.Random) -> bytes:
    """Return a task that is not like the others, in one of the ways that there are."""
    attributes = {
        stream.BASE: stream.base(pid, comm=b"odd"),
        stream.CRED: stream.cred(),
        stream.STAT: stream.stat(),
        stream.CMDLINE: b"odd\0one\0",
        99: b"unknown",
    }
    kept = {kind: payload for kind, payload in attributes.items() if cuts.random() < 0.7}
    match cuts.randrange(5):
        case 0:
            return message(pid)
        case 1:
            grown = ((kind, payload + bytes(cuts.choice((0, 4, 9)))) for kind, payload in kept.items())
            return message(pid, *(attribute(*pair) for pair in cuts.sample(list(grown), len(kept))))
        case 2:
            return message(pid, attribute(stream.BASE, stream.base(pid)), flags=stream.CONT)
        case 3:
            return message(pid, attribute(stream.BASE, stream.base(pid)), attribute(4, b""), flags=stream.TRUNC)
        case _:
            return stream.split(pid, kept, cuts)


def buffers(messages: bytes, cuts: random.Random) -> Iterator[bytes]:
    """Cut a stream into reads of whole messages."""
    at = start = 0
    while at < len(messages):
        _, at = wire.decode_one(messages, at)
        if cuts.random() < 0.02 or at == len(messages):
            yield messages[start:at]
            start = at


def general(messages: bytes) -> list[tuple[object, ...]]:
    """Return the rows as the records give them."""
    return [
        (
            task.pid,
            task.stat and task.stat.utime,
            task.base and task.base.comm,
            task.cred and task.cred.uid,
            task.base and int(task.base.state),
            task.tgid,
            task.stat and task.stat.stime,
            task.base and task.base.ppid,
        )
        for task in wire.join(wire.decode(messages))
        if task.complete
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("oddity", [0, 0.01, 0.3, 1])
def test_the_rows_are_those_of_the_records(seed: int, oddity: float) -> None:
    cuts = random.Random(seed)
    pids = cuts.sample(range(1, 1 << 22), 300)
    messages = b"".join(odd(pid, cuts) if cuts.random() < oddity else usual(pid) for pid in pids)
    found = list(Columns(*NAMES).rows(buffers(messages, cuts)))
    assert found == general(messages)
    assert len(found) > 100


def test_a_run_of_tasks_is_unpacked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    decode_one = wire.decode_one

    def counting(buffer: bytes, at: int) -> tuple[wire.Message, int]:
        looked_at.append(at)
        return decode_one(buffer, at)

    monkeypatch.setattr(wire, "decode_one", counting)
    messages = [*map(usual, range(1, 501)), message(501), *map(usual, range(502, 1001))]
    rows = list(Columns(*NAMES).rows([b"".join(messages)]))
    assert [row[0] for row in rows] == list(range(1, 1001))
    assert len(looked_at) == 3


def test_batches_have_one_sequence_for_each_column() -> None:
    batches = list(Columns("base.comm", "pid").batches([usual(1) + usual(2), message(3)]))
    assert [[list(column) for column in batch] for batch in batches] == [
        [[b"worker 1", b"worker 2"], [1, 2]],
        [[None], [3]],
    ]


def test_no_more_is_read_than_is_needed() -> None:
    given: list[int] = []

    def source() -> Iterator[bytes]:
        for pid in (1, 2, 3):
            given.append(pid)
            yield usual(pid)

    rows = Columns("pid").rows(source())
    assert next(rows) == (1,)
    assert given == [1]


def test_the_kernel_is_asked_for_the_groups_of_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTaskDiag([usual(1), usual(2)])
    monkeypatch.setattr("io.FileIO", fake.opener())
    assert list(columns.rows("cred.gid", "pid", "base.sid", strategy=Strategy.THREAD, pid=9)) == [(0, 1, 3), (0, 2, 3)]
    assert fake.requests == [(Group.CRED.show_flag | Group.BASE.show_flag, 4, 9)]
    assert fake.closed


@pytest.mark.parametrize(
    "name", ["", "base", "base.", "base.nothing", "stat.reserved", "cred.permitted", "vma.start", "cmdline", "x.pid"]
)
def test_a_column_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^there is no column '{name}': it takes pid, tgid, or a group and a member"):
        Columns("pid", name)


def test_every_scalar_of_the_fixed_groups_is_a_column() -> None:
    payloads = {
        kind: bytes(range(1, size + 1)) for kind, size in ((1, 64), (4, 72), (6, 24), (7, 64), (8, 40), (9, 16))
    }
    stream_of_one = message(5, *(attribute(kind, payload) for kind, payload in payloads.items()))
    (task,) = wire.join(wire.decode(stream_of_one))
    names = [
        f"{group}.{member}"
        for group in ("cred", "stat", "ident", "mem", "sched", "job")
        for member in type(getattr(task, group)).layout.members
        if member not in ("reserved", "inheritable", "permitted", "effective", "bounding")
    ]
    (row,) = Columns(*names).rows([stream_of_one])
    assert list(row) == [getattr(getattr(task, group), member) for group, member in (name.split(".") for name in names)]
    assert len(row) == 8 + 9 + 3 + 8 + 7 + 4


@pytest.mark.parametrize("tail", [b"", usual(2)])
def test_a_group_that_is_too_short_is_refused(tail: bytes) -> None:
    short = message(1, attribute(stream.BASE, bytes(40)))
    with pytest.raises(WireError, match="BASE has 40 bytes, less than 44"):
        list(Columns("base.pid").rows([short + tail]))
    split = message(1, flags=stream.CONT) + short
    with pytest.raises(WireError, match="BASE has 40 bytes, less than 44"):
        list(Columns("base.pid").rows([split + tail]))


def test_rows_come_before_a_later_error() -> None:
    rows = Columns("pid").rows([usual(1) + usual(2) + usual(3)[:-1]])
    assert list(chain([next(rows)], [next(rows)])) == [(1,), (2,)]
    with pytest.raises(WireError, match="the stream ends inside a message"):
        next(rows)
