"""The ways to a list of tasks that are measured against each other."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

from workspace import listing
from workspace.listing import Line, Way


@pytest.fixture(scope="module")
def crowd() -> Iterator[None]:
    with listing.crowd(20):
        yield


@pytest.mark.usefixtures("crowd")
def test_proc_and_psutil_tell_the_same_of_the_crowd() -> None:
    _, proc, psutil = listing.ways()
    assert set(listing.measure((proc, psutil), 2)) == {"/proc", "psutil"}
    lines = [line for line in proc.lines(proc.listed()).values() if line.name == "crowd"]
    assert len(lines) == 21
    assert {(line.state, line.uid) for line in lines} == {("S", os.geteuid())}
    (parent,) = (line.pid for line in lines if line.ppid == os.getpid())
    assert sum(line.ppid == parent for line in lines) == 20


def test_task_diag_tells_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = (
        attribute(stream.BASE, stream.base(7, ppid=5, comm=b"crowd", state=2)),
        attribute(stream.CRED, stream.cred((1, 2, 3, 4))),
        attribute(stream.STAT, stream.stat(times=(8, 9, 10, 11))),
    )
    monkeypatch.setattr(io, "FileIO", FakeTaskDiag([message(7, *attributes)]).opener())
    way = listing.ways()[0]
    assert way.lines(way.listed()) == {7: Line(7, 5, "D", "crowd", 1, 8, 9)}


def test_ways_that_differ_are_not_compared() -> None:
    def way(name: str, uid: int) -> Way:
        return Way(name, list, lambda _: {7: Line(7, 5, "S", "crowd", uid, 0, 0)})

    assert list(listing.measure((way("a", 1), way("b", 1)), 1)) == ["a", "b"]
    with pytest.raises(AssertionError, match="a and b do not tell the same"):
        listing.measure((way("a", 1), way("b", 2)), 1)
