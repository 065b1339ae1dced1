"""Answers that are read in pieces and put together again."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable

from vmtests import raw
from vmtests.raw import CONT


def collect(fd: int, sizes: Iterable[int], needed: int = raw.BASE) -> bytes:
    """Read with these sizes, in turn, to the end; an EMSGSIZE goes on with the next size.

    EMSGSIZE is only for a buffer of less than the bytes that are ``needed``: the message of the largest group.
    """
    stream = b""
    for size in sizes:
        if size == 0:
            assert raw.read(fd, 0) == b""
            continue
        try:
            part = raw.read(fd, size)
        except OSError as error:
            assert error.errno == errno.EMSGSIZE
            assert size < needed, f"EMSGSIZE for {size} bytes"
            continue
        if not part:
            return stream
        stream += part
    raise AssertionError("the sizes ran out before the answer")


def payloads(stream: bytes) -> dict[int, dict[int, bytes]]:
    """Return the payloads of each task by attribute type, the parts of a split task concatenated."""
    tasks: dict[int, dict[int, bytes]] = {}
    for answer in raw.answers(stream):
        groups = tasks.setdefault(answer.pid, {})
        for kind, payload in raw.attributes(answer):
            groups[kind] = groups.get(kind, b"") + payload
    return tasks


def check_parts(stream: bytes) -> None:
    """Check that CONT is followed by the same task, and only CONT is."""
    answers = list(raw.answers(stream))
    for answer, following in itertools.pairwise(answers):
        assert bool(answer.task_flags & CONT) is (answer.pid == following.pid)
    assert not answers or not answers[-1].task_flags & CONT
