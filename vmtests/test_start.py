"""The contract, W9: a request's ``start``, with which a dump is resumed and divided."""

from __future__ import annotations

import errno
import itertools
import os
import threading

import pytest

from vmtests import raw
from vmtests.credentials import ALICE, run_as
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.raw import Request

pytestmark = pytest.mark.core


def shown(fd: int, start: int, size: int = 65536) -> list[int]:
    """Ask for all from ``start`` on; return the pids."""
    raw.ask(fd, Request(start=start))
    return raw.pids(b"".join(raw.drain(fd, size)))


@pytest.mark.promise("W9", "O1")
def test_a_dump_starts_at_any_number(world: PidNamespace, task_diag: int) -> None:
    for number in (7, 63, 64, 65, 300, 4095, 4096, 40_000):
        world.spawn_as(number)
    everyone = sorted(world.procfs.listed())
    for start in {0, *everyone, *(pid - 1 for pid in everyone), *(pid + 1 for pid in everyone), 2000, 30_000}:
        assert shown(task_diag, start) == [pid for pid in everyone if pid >= start], start


@pytest.mark.promise("W9", "W6", "R2")
@pytest.mark.parametrize("start", [4_194_303, 4_194_304, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF])
def test_above_every_pid_the_answer_is_empty(task_diag: int, start: int) -> None:
    assert raw.ask(task_diag, Request(start=start)) == 40
    with pytest.raises(OSError) as caught:
        raw.ask(task_diag, Request())
    assert caught.value.errno == errno.EBUSY, "an empty answer ends with the read that returns 0, too"
    assert raw.read(task_diag, 4096) == b""
    assert shown(task_diag, 0) == [1]


@pytest.mark.promise("W9", "F3")
def test_a_dump_that_was_given_up_goes_on_behind_the_last_task(crowd: PidNamespace) -> None:
    everyone = sorted(crowd.procfs.listed())
    seen: list[int] = []
    for size in itertools.cycle((raw.BASE, 1000, 30_000)):
        fd = crowd.procfs.open()
        try:
            raw.ask(fd, Request(start=seen[-1] + 1 if seen else 0))
            part = raw.pids(raw.read(fd, size))
        finally:
            os.close(fd)
        if not part:
            break
        seen += part
    assert seen == everyone


@pytest.mark.promise("W9", "O2")
def test_ranges_are_read_in_parallel(crowd: PidNamespace) -> None:
    everyone = sorted(crowd.procfs.listed())
    borders = [0, *(everyone[len(everyone) * part // 4] for part in (1, 2, 3)), 1 << 31]
    parts: list[list[int]] = [[] for _ in range(4)]

    def read(part: int) -> None:
        fd = crowd.procfs.open()
        raw.ask(fd, Request(start=borders[part]))
        for pid in itertools.chain.from_iterable(map(raw.pids, iter(lambda: raw.read(fd, 1000), b""))):
            if pid >= borders[part + 1]:
                break
            parts[part].append(pid)
        os.close(fd)

    threads = [threading.Thread(target=read, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(parts)
    assert list(itertools.chain.from_iterable(parts)) == everyone


@pytest.mark.promise("W9", "N3")
def test_a_start_shows_nobody_who_is_hidden(world: PidNamespace) -> None:
    world.sleeping()
    alice = world.number(world.sleeping(who=ALICE))
    root = world.number(world.sleeping())

    def ask(start: int) -> list[int]:
        return shown(procfs.open(), start)

    with Procfs(pidns=world.fd, hidepid="2") as procfs:
        for start, wanted in ((0, [alice]), (alice, [alice]), (alice + 1, []), (root, [])):
            assert run_as(ALICE, lambda start=start: ask(start)) == wanted  # type: ignore[misc]
