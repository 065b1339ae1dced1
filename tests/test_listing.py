"""The ways to a list of tasks that are measured against each other."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest
import stream
from fake_task_diag import FakeTaskDiag
from stream import attribute, message

from workspace import bench, listing
from workspace.listing import Line, Listing


@pytest.fixture(scope="module")
def crowd() -> Iterator[str]:
    with listing.crowd(20) as name:
        yield name


def test_proc_and_psutil_tell_the_same_of_the_crowd(crowd: str) -> None:
    _, proc, psutil = listing.ways()
    looks = list(listing.measure((proc, psutil), 1, name=crowd))
    assert [(look.round, look.way, look.crowd) for look in looks] == [
        (number, way, 21) for number in (0, 1) for way in ("list_proc", "list_psutil")
    ]
    assert bench.Look.parse(looks[0].line()) == looks[0]
    lines = [line for line in proc.lines(proc.listed()).values() if line.name == crowd]
    assert len(lines) == 21
    assert {line.state for line in lines} == {"S"}
    (parent,) = (line for line in lines if line.ppid == os.getpid())
    assert (parent.uid, crowd) == (os.geteuid(), f"crowd-{parent.pid}")
    assert {line.ppid for line in lines if line is not parent} < {line.pid for line in lines}


def test_task_diag_tells_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = (
        attribute(stream.BASE, stream.base(7, ppid=5, comm=b"crowd-3", state=2)),
        attribute(stream.CRED, stream.cred((1, 2, 3, 4))),
        attribute(stream.STAT, stream.stat(times=(8, 9, 10, 11))),
    )
    monkeypatch.setattr(io, "FileIO", FakeTaskDiag([message(7, *attributes)]).opener())
    way = listing.ways()[0]
    assert way.lines(way.listed()) == {7: Line(7, 5, "D", "crowd-3", 1, 8, 9)}


def test_ways_that_differ_are_not_compared() -> None:
    def way(name: str, uid: int) -> Listing:
        return Listing(name, list, lambda _: {7: Line(7, 5, "S", "crowd-3", uid, 0, 0)})

    assert len(list(listing.measure((way("a", 1), way("b", 1)), 1, name="crowd-3"))) == 4
    with pytest.raises(AssertionError, match="a and b do not tell the same"):
        list(listing.measure((way("a", 1), way("b", 2)), 1, name="crowd-3"))


def test_the_benchmark_has_a_line_for_each_way() -> None:
    assert [way.name for way in listing.ways()] == [way.name for way in bench.LISTINGS]
