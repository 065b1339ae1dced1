"""The table of tasks that a person reads."""

from __future__ import annotations

import struct

import pytest

from taskdiag.table import rows
from taskdiag.wire import Task


def task(pid: int, *, state: int = 1, comm: bytes = b"sh") -> Task:
    payload = struct.pack("=6IB16s3x", pid, pid, 7, 0, 0, 0, state, comm)
    return Task(pid=pid, tgid=pid, flags=0, complete=True, payloads={0: payload})


def test_each_task_is_one_line_below_a_heading() -> None:
    assert list(rows([task(8), task(12345, state=8, comm=b"kworker/0:1")])) == [
        "    PID    PPID S COMMAND",
        "      8       7 S sh",
        "  12345       7 I kworker/0:1",
    ]


@pytest.mark.parametrize(
    ("comm", "shown"),
    [(b"a\nb", r"a\nb"), (b"\x1b[2J", r"\x1b[2J"), (b"\xff", r"\xff"), ("ü".encode(), "ü"), (b"a b", "a b")],
)
def test_a_comm_cannot_break_the_table_or_the_terminal(comm: bytes, shown: str) -> None:
    _, line = rows([task(8, comm=comm)])
    assert line == f"      8       7 S {shown}"


def test_what_may_not_be_read_and_what_is_not_known_are_marked() -> None:
    unreadable = Task(pid=9, tgid=9, flags=0, complete=True, payloads={})
    assert list(rows([unreadable, task(8, state=77)]))[1:] == ["      9       - - -", "      8       7 ? sh"]
