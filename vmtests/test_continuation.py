"""The contract, "EMSGSIZE continuation": reads of any size, while tasks come and go."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterator

import pytest

from vmtests import pieces, raw
from vmtests.namespaces import PidNamespace
from vmtests.raw import ONE, Request


@pytest.fixture
def few(world: PidNamespace) -> list[int]:
    """Make five processes, process 1 among them; return their numbers."""
    return [1, *(world.number(world.sleeping(comm=b"task %d" % index)) for index in range(4))]


@pytest.fixture
def whole(few: list[int], task_diag: int) -> bytes:
    """Return the answer of one large read."""
    raw.ask(task_diag, Request())
    stream = b"".join(raw.drain(task_diag))
    assert raw.pids(stream) == few
    return stream


@pytest.mark.promise("C1", "C2", "R5", "R1")
@pytest.mark.core
def test_every_size_of_buffer_gives_the_same(whole: bytes, task_diag: int) -> None:
    """A size that is too small for a task gives EMSGSIZE, again and again, until a larger one comes."""
    for size in range(601):
        raw.ask(task_diag, Request())
        if size < raw.BASE:
            stream = pieces.collect(task_diag, itertools.cycle([size, size, 65536]))
        else:
            stream = pieces.collect(task_diag, itertools.repeat(size))
        pieces.check_parts(stream)
        assert pieces.payloads(stream) == pieces.payloads(whole), size


@pytest.mark.promise("C1", "C2", "R5")
@pytest.mark.parametrize("step", [1, 3, 7, 28, 76])
@pytest.mark.parametrize("direction", [1, -1])
def test_growing_and_shrinking_buffers_give_the_same(whole: bytes, task_diag: int, step: int, direction: int) -> None:
    raw.ask(task_diag, Request())
    sizes = list(range(0, 601, step))[::direction]
    stream = pieces.collect(task_diag, itertools.cycle(sizes))
    pieces.check_parts(stream)
    assert pieces.payloads(stream) == pieces.payloads(whole)


@pytest.mark.promise("C1", "C2", "R5")
def test_random_buffers_give_the_same(whole: bytes, task_diag: int) -> None:
    for seed in range(100):
        dice = random.Random(seed)
        raw.ask(task_diag, Request())
        stream = pieces.collect(task_diag, (dice.randint(0, dice.choice((80, 160, 600))) for _ in itertools.count()))
        pieces.check_parts(stream)
        assert pieces.payloads(stream) == pieces.payloads(whole), seed


@pytest.mark.promise("C2", "C4")
@pytest.mark.parametrize("size", [4096, 4097, 5000, 8192])
def test_many_tasks_come_through_any_buffer(crowd: PidNamespace, crowd_diag: int, size: int) -> None:
    raw.ask(crowd_diag, Request())
    whole = pieces.payloads(b"".join(raw.drain(crowd_diag, 1 << 20)))
    assert sorted(whole) == sorted(crowd.procfs.listed())
    raw.ask(crowd_diag, Request())
    assert pieces.payloads(b"".join(raw.drain(crowd_diag, size))) == whole


@pytest.mark.promise("C1", "C2")
@pytest.mark.parametrize("size", [raw.BASE, 100, 600])
def test_one_task_is_whole_through_any_buffer_that_holds_it(few: list[int], task_diag: int, size: int) -> None:
    for pid in few:
        raw.ask(task_diag, Request(strategy=ONE, pid=pid))
        stream = pieces.collect(task_diag, itertools.chain(range(raw.BASE), itertools.repeat(size)))
        pieces.check_parts(stream)
        assert {task: set(groups) for task, groups in pieces.payloads(stream).items()} == {pid: {0}}


@pytest.mark.promise("C1")
@pytest.mark.core
def test_a_bare_message_is_never_split(few: list[int], task_diag: int) -> None:
    raw.ask(task_diag, Request(show=0))
    stream = b"".join(raw.drain(task_diag, raw.BARE))
    assert [(answer.pid, answer.task_flags, answer.attributes) for answer in raw.answers(stream)] == [
        (pid, 0, b"") for pid in few
    ]


def one_by_one(fd: int) -> Iterator[tuple[int, bytes]]:
    """Read task by task, each after an EMSGSIZE that stopped just before it."""
    while True:
        for size in (1, raw.BARE, raw.BASE - 1):
            try:
                assert raw.read(fd, size) == b""
            except OSError as error:
                assert error.errno == errno.EMSGSIZE
            else:
                return
        (answer,) = raw.answers(raw.read(fd, raw.BASE))
        yield answer.pid, answer.attributes


@pytest.mark.promise("C3", "O2", "R5")
@pytest.mark.core
def test_a_task_that_dies_where_the_dump_waits_is_passed_over(world: PidNamespace, task_diag: int) -> None:
    processes = [world.sleeping() for _ in range(4)]
    numbers = [world.number(process) for process in processes]
    raw.ask(task_diag, Request())
    dump = one_by_one(task_diag)
    assert next(dump)[0] == 1
    with pytest.raises(OSError) as caught:
        raw.read(task_diag, raw.BASE - 1)
    assert caught.value.errno == errno.EMSGSIZE
    world.kill(processes[0])
    world.kill(processes[2])
    assert [pid for pid, _ in dump] == [numbers[1], numbers[3]]


@pytest.mark.promise("C3", "O2")
@pytest.mark.core
def test_a_task_that_has_just_been_delivered_may_die(world: PidNamespace, task_diag: int) -> None:
    processes = [world.sleeping() for _ in range(4)]
    numbers = [world.number(process) for process in processes]
    raw.ask(task_diag, Request())
    dump = one_by_one(task_diag)
    assert next(dump)[0] == 1
    for process, number in zip(processes, numbers, strict=True):
        assert next(dump)[0] == number
        world.kill(process)
    assert list(dump) == []


@pytest.mark.promise("C3", "O1", "O2")
@pytest.mark.core
def test_a_number_reused_where_the_dump_waits_is_another_task(world: PidNamespace, task_diag: int) -> None:
    first = world.sleeping(comm=b"first")
    number = world.number(first)
    world.sleeping(comm=b"last")
    raw.ask(task_diag, Request())
    dump = one_by_one(task_diag)
    assert next(dump)[0] == 1
    with pytest.raises(OSError):
        raw.read(task_diag, raw.BASE - 1)
    world.kill(first)
    world.spawn_as(number)
    seen = dict(dump)
    assert list(seen) == [number, number + 1] or list(seen) == [number + 1]
    for attributes in seen.values():
        assert b"first" not in attributes, "a task that is gone was delivered under a new one's number"
        assert len(attributes) == raw.BASE - raw.BARE, "the new task does not start at its first group"


@pytest.mark.promise("C3", "O2", "O4")
def test_tasks_born_during_a_dump_move_no_other(world: PidNamespace, task_diag: int) -> None:
    """Who is born where the walk has been is not seen, who is born where it will come may be."""
    low, middle, high = 50, 100, 150
    for number in (low, middle, high):
        world.spawn_as(number)
    raw.ask(task_diag, Request())
    dump = one_by_one(task_diag)
    assert [next(dump)[0] for _ in range(3)] == [1, low, middle]
    world.spawn_as(75)
    world.spawn_as(125)
    # A walk may have looked ahead for the next task before it stopped for lack of room.
    assert [pid for pid, _ in dump] in ([125, high], [high])
