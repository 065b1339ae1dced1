"""The contract, "EMSGSIZE continuation": tasks that are split between groups, with every strategy (C1, C2, C3)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import random
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from vmtests import oracle, pieces, raw, syscalls
from vmtests.credentials import ALICE, run_as
from vmtests.groups import check
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Gate, at_rest, exec_from_thread, in_thread, pause, rename, start_threads, wait_for
from vmtests.raw import ALL, ALL_THREAD, CHILDREN, CONT, MEM, ONE, THREAD, FaultingBuffer, Request

STRATEGIES = {"ALL": ALL, "ONE": ONE, "ALL_THREAD": ALL_THREAD, "CHILDREN": CHILDREN, "THREAD": THREAD}
TARGETED = (ONE, CHILDREN, THREAD)
"""Comes with leaders only in ALL_THREAD and THREAD."""
SMALLEST, LARGEST = (raw.BARE + 4 + size(raw.SIZES.values()) for size in (min, max))
"""Bytes of a message with the smallest group, and with the largest."""
WHOLE = raw.size_of(*raw.SIZES)
"""Bytes of a message with every group."""


@dataclass(frozen=True)
class Still:
    """Nine tasks of six processes that do not change any more; all are numbers of their namespace."""

    world: PidNamespace
    target: int
    """The process with two children and four threads."""

    def request(self, strategy: int, show: int = raw.SHOW_FIXED) -> Request:
        """Return a request for these groups."""
        return Request(show=show, strategy=strategy, pid=self.target if strategy in TARGETED else 0)


@pytest.fixture(scope="module")
def still() -> Iterator[Still]:
    """Make them; tests only look at them."""

    def live() -> None:
        for _ in range(2):
            if os.fork() == 0:
                rename(b"child")
                pause()
        start_threads(3)

    with PidNamespace() as world:
        world.stopped(partial(rename, b"x" * 15))
        target = world.number(world.stopped(live))
        world.zombie()
        for child in oracle.children(world.procfs.fd, target):
            # Until then it may run.
            wait_for(
                lambda child=child: (
                    oracle.process(world.procfs.fd, child).name == b"child"  # type: ignore[misc]
                    and oracle.letter(world.procfs.fd, child) == "S"
                ),
                "a child",
            )
        fd = world.procfs.open()
        for pid in world.procfs.listed():
            check(world.procfs.fd, fd, pid)
        os.close(fd)
        yield Still(world, target)


@pytest.fixture
def still_diag(still: Still) -> Iterator[int]:
    """Open its task-diag."""
    fd = still.world.procfs.open()
    yield fd
    os.close(fd)


def whole(fd: int, still: Still, strategy: int) -> dict[int, bytes]:
    """Return the attributes of each task as one large read gives them; each task has one message."""
    raw.ask(fd, still.request(strategy))
    (stream,) = raw.drain(fd)
    found = {}
    for answer in raw.answers(stream):
        kinds = [kind for kind, _ in raw.attributes(answer)]
        threads_too = strategy in (ALL_THREAD, THREAD)
        assert kinds == [kind for kind in raw.SIZES if kind != MEM or answer.pid == answer.tgid or not threads_too]
        assert answer.task_flags == 0
        found[answer.pid] = answer.attributes
    assert len(found) == {ALL: 6, ONE: 1, ALL_THREAD: 9, CHILDREN: 2, THREAD: 4}[strategy]
    return found


class Puzzle:
    """An answer that is put together from reads into one buffer, and compared with the whole at every step."""

    _GUARD = b"\xa5" * 32
    _SIZE = 65536

    def __init__(self, fd: int, wanted: dict[int, bytes]) -> None:
        """Wait for the tasks of ``wanted``, with the attributes that they have there."""
        self._fd = fd
        self._wanted = list(wanted.items())
        self._memory = ctypes.create_string_buffer(self._SIZE + len(self._GUARD))
        self._address = ctypes.addressof(self._memory)
        self._view = memoryview(self._memory).cast("B")
        self._task = 0
        self._got = 0
        self.splits: set[int] = set()
        """Where a task was split: bytes of attributes before it."""

    def start(self, request: Request) -> None:
        """Send a request."""
        raw.ask(self._fd, request)
        self._task = self._got = 0

    @property
    def missing(self) -> bool:
        """Whether there is more to come."""
        return self._task < len(self._wanted)

    @property
    def next_piece(self) -> int:
        """Return the bytes of a message with nothing but the next group of the next task."""
        _, attributes = self._wanted[self._task]
        (length,) = struct.unpack_from("=H", attributes, self._got)
        return raw.BARE + int(length)

    def read(self, size: int) -> bool:
        """Read once; return False for EMSGSIZE, which is only for a buffer that the next group does not fit into."""
        self._view[size : size + len(self._GUARD)] = self._GUARD
        try:
            count = syscalls.read(self._fd, self._address, size)
        except OSError as error:
            assert error.errno == errno.EMSGSIZE
            assert size < self.next_piece, f"EMSGSIZE for {size} bytes"
            return False
        assert self._view[size : size + len(self._GUARD)] == self._GUARD, "read() wrote behind the buffer"
        assert 0 < count <= size
        self._take(bytes(self._view[:count]))
        return True

    def end(self) -> None:
        """Check that nothing more comes."""
        assert not self.missing
        assert syscalls.read(self._fd, self._address, 1) == 0

    def _take(self, stream: bytes) -> None:
        at = 0
        while at < len(stream):
            length, _, _, _, _, pid, _, flags = struct.unpack_from("=IHHIIIII", stream, at)
            wanted, attributes = self._wanted[self._task]
            got = self._got + length - raw.BARE
            assert pid == wanted
            assert stream[at + raw.BARE : at + length] == attributes[self._got : got]
            assert flags == (CONT if got < len(attributes) else 0)
            if flags:
                self.splits.add(got)
                self._got = got
            else:
                self._task += 1
                self._got = 0
            at += length
        assert at == len(stream), "a read ended inside a message"


@pytest.mark.promise("C1", "C2", "C4", "R1", "R5")
@pytest.mark.core
@pytest.mark.deadline(60)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_size_of_buffer_gives_the_same(still: Still, still_diag: int, strategy: str) -> None:
    """All seven groups; a size that is too small for one gives EMSGSIZE, and a read that is large enough goes on."""
    wanted = whole(still_diag, still, STRATEGIES[strategy])
    puzzle = Puzzle(still_diag, wanted)
    request = still.request(STRATEGIES[strategy])
    for size in (*range(1, 2001), *range(2001, 4096, 61), 4095, 4096):
        puzzle.start(request)
        while puzzle.missing:
            if not puzzle.read(size):
                # Nothing fits into less than the smallest group: once is enough.
                assert puzzle.read(puzzle.next_piece if size >= SMALLEST else 65536)
        puzzle.end()
    boundaries = {raw.size_of(*itertools.islice(raw.SIZES, count)) - raw.BARE for count in range(1, len(raw.SIZES))}
    assert boundaries <= puzzle.splits


@pytest.mark.promise("C1", "R1", "R5")
@pytest.mark.core
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_task_is_split_at_any_two_boundaries(still: Still, still_diag: int, strategy: str) -> None:
    """The first task comes in three messages, each of which fills its read."""
    kinds = list(raw.SIZES)
    wanted = whole(still_diag, still, STRATEGIES[strategy])
    first = next(iter(wanted))
    request = still.request(STRATEGIES[strategy])
    for one, two in itertools.combinations(range(1, len(kinds)), 2):
        raw.ask(still_diag, request)
        for part, flags in ((kinds[:one], CONT), (kinds[one:two], CONT), (kinds[two:], 0)):
            (answer,) = raw.answers(raw.read(still_diag, raw.size_of(*part)))
            assert (answer.pid, answer.task_flags) == (first, flags)
            assert [kind for kind, _ in raw.attributes(answer)] == part
        rest = list(raw.answers(b"".join(raw.drain(still_diag))))
        assert [answer.pid for answer in rest] == list(wanted)[1:]


@pytest.mark.promise("C1", "C2", "R5")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_random_buffers_give_the_same(still: Still, still_diag: int, strategy: str) -> None:
    raw.ask(still_diag, still.request(STRATEGIES[strategy]))
    wanted = pieces.payloads(b"".join(raw.drain(still_diag)))
    for seed in range(40):
        dice = random.Random(seed)
        raw.ask(still_diag, still.request(STRATEGIES[strategy]))
        sizes = (dice.randint(0, dice.choice((110, 200, 600))) for _ in itertools.count())
        stream = pieces.collect(still_diag, sizes, LARGEST)
        pieces.check_parts(stream)
        assert pieces.payloads(stream) == wanted, seed


@pytest.mark.promise("C1", "C2", "R5")
@pytest.mark.parametrize("show", [1 << 0 | 1 << 1, 1 << 0 | 1 << 4 | 1 << 9, 1 << 7 | 1 << 9, 1 << 6])
def test_other_groups_through_every_size_of_buffer(still: Still, still_diag: int, show: int) -> None:
    raw.ask(still_diag, still.request(ALL_THREAD, show))
    stream = b"".join(raw.drain(still_diag))
    wanted = pieces.payloads(stream)
    needed = raw.BARE + max(4 + size for kind, size in raw.SIZES.items() if show >> kind & 1)
    for size in (*range(needed, 400), 4096):
        raw.ask(still_diag, still.request(ALL_THREAD, show))
        stream = b"".join(raw.drain(still_diag, size))
        pieces.check_parts(stream)
        assert pieces.payloads(stream) == wanted, size


@pytest.mark.promise("R6", "C1", "C2", "C3")
@pytest.mark.deadline(30)
@pytest.mark.parametrize("first", [0, LARGEST, 160])
def test_a_fault_in_a_split_answer_loses_and_repeats_nothing(still: Still, still_diag: int, first: int) -> None:
    """The first read, if any, leaves off inside a task; the second one meets a fault behind ``good`` bytes."""
    request = still.request(ALL_THREAD)
    raw.ask(still_diag, request)
    wanted = pieces.payloads(b"".join(raw.drain(still_diag)))
    for good in range(0, 1200, 13):
        for size in (good + 20, 65536):
            raw.ask(still_diag, request)
            stream = raw.read(still_diag, first)
            assert not first or list(raw.answers(stream))[-1].task_flags & CONT
            with contextlib.suppress(OSError):
                stream += FaultingBuffer(good).read(still_diag, size)
            stream += b"".join(raw.drain(still_diag))
            pieces.check_parts(stream)
            assert pieces.payloads(stream) == wanted, (good, size)


def half_delivered(fd: int) -> int:
    """Read the first two groups of the next task; return its pid."""
    (answer,) = raw.answers(raw.read(fd, raw.size_of(0, 1)))
    assert answer.task_flags == CONT
    assert [kind for kind, _ in raw.attributes(answer)] == [0, 1]
    return answer.pid


@pytest.mark.promise("C3", "O2")
@pytest.mark.core
@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("strategy", [ALL, ALL_THREAD])
def test_a_half_delivered_task_that_is_gone_is_not_continued(
    world: PidNamespace, task_diag: int, reused: bool, strategy: int
) -> None:
    """The next task starts at its first group; who has the number of the one that is gone was born too late."""
    first = world.sleeping(comm=b"first")
    number = world.number(first)
    last = world.number(world.sleeping(comm=b"last"))
    raw.ask(task_diag, Request(show=raw.SHOW_FIXED, strategy=strategy))
    assert raw.pids(raw.read(task_diag, WHOLE)) == [1]
    assert half_delivered(task_diag) == number
    world.kill(first)
    if reused:
        world.spawn_as(number)
    (answer,) = raw.answers(b"".join(raw.drain(task_diag)))
    assert (answer.pid, answer.task_flags) == (last, 0)
    assert [kind for kind, _ in raw.attributes(answer)] == list(raw.SIZES)


@pytest.mark.promise("C3", "O2")
@pytest.mark.core
@pytest.mark.parametrize("strategy", [ALL_THREAD, THREAD])
def test_a_half_delivered_thread_that_is_gone_is_not_continued(
    world: PidNamespace, task_diag: int, gate: Gate, strategy: int
) -> None:
    def live() -> None:
        in_thread(gate.wait)
        start_threads(1)

    number = world.number(world.spawn(live))
    proc = world.procfs.fd
    leader, ends, stays = sorted(oracle.threads(proc, number))
    raw.ask(task_diag, Request(show=raw.SHOW_FIXED, strategy=strategy, pid=number if strategy == THREAD else 0))
    for pid in (1, leader) if strategy == ALL_THREAD else (leader,):
        assert raw.pids(raw.read(task_diag, WHOLE)) == [pid]
    assert half_delivered(task_diag) == ends
    gate.open()
    wait_for(lambda: ends not in oracle.threads(proc, number), "the end of the thread")
    (answer,) = raw.answers(b"".join(raw.drain(task_diag)))
    assert (answer.pid, answer.tgid, answer.task_flags) == (stays, number, 0)
    assert [kind for kind, _ in raw.attributes(answer)] == [kind for kind in raw.SIZES if kind != MEM]


@pytest.mark.promise("C3", "R3", "W8")
@pytest.mark.parametrize("strategy", [ONE, THREAD])
@pytest.mark.parametrize("reused", [False, True])
def test_a_half_delivered_target_that_is_gone_ends_the_dump(
    world: PidNamespace, task_diag: int, strategy: int, reused: bool
) -> None:
    pid = world.sleeping()
    number = world.number(pid)
    raw.ask(task_diag, Request(show=raw.SHOW_FIXED, strategy=strategy, pid=number))
    assert half_delivered(task_diag) == number
    world.kill(pid)
    if reused:
        world.spawn_as(number)
    assert raw.read(task_diag, 4096) == b""


@pytest.mark.promise("C3", "O2", "R6")
@pytest.mark.core
@pytest.mark.parametrize("strategy", [ALL, ALL_THREAD])
def test_a_fault_after_a_half_delivered_task_went_loses_no_other(
    world: PidNamespace, task_diag: int, strategy: int
) -> None:
    first = world.sleeping()
    number = world.number(first)
    last = world.number(world.sleeping())
    raw.ask(task_diag, Request(show=raw.SHOW_FIXED, strategy=strategy, start=number))
    assert half_delivered(task_diag) == number
    world.kill(first)
    for _ in range(2):
        with pytest.raises(OSError, match="Bad address"):
            raw.FaultingBuffer(0).read(task_diag, 4096)
    (answer,) = raw.answers(raw.read(task_diag, 4096))
    assert (answer.pid, answer.task_flags) == (last, 0)
    assert [kind for kind, _ in raw.attributes(answer)] == list(raw.SIZES)


@pytest.mark.promise("C1", "G6", "N4")
@pytest.mark.core
@pytest.mark.parametrize(("hidepid", "strategy"), [("1", ALL), ("1", ALL_THREAD), ("2", ALL), ("2", ALL_THREAD)])
def test_a_half_delivered_task_that_may_not_be_read_any_more_says_so(
    world: PidNamespace, gate: Gate, hidepid: str, strategy: int
) -> None:
    """It stops being dumpable between two reads: listed still, it ends with a cut group; hidden, without a message."""

    def live() -> None:
        gate.wait()
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = world.spawn(then=live, who=ALICE)
    number = world.number(pid)
    last = world.number(world.sleeping(who=ALICE))

    def look() -> list[raw.Answer]:
        fd = procfs.open()
        raw.ask(fd, Request(show=raw.SHOW_FIXED, strategy=strategy))
        if hidepid == "1":
            assert [answer.pid for answer in raw.answers(raw.read(fd, raw.BARE))] == [1]
        assert half_delivered(fd) == number
        gate.open()
        wait_for(lambda: oracle.letter(world.procfs.fd, number) == "T", "the process not dumpable")
        return [answer for part in raw.drain(fd) for answer in raw.answers(part)]

    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        answers = run_as(ALICE, look)
    assert [answer.pid for answer in answers] == ([number, last] if hidepid == "1" else [last])
    if hidepid == "1":
        assert answers[0].task_flags == raw.TRUNC
        assert list(raw.attributes(answers[0])) == [(4, b"")]
    assert answers[-1].task_flags == 0
    assert [kind for kind, _ in raw.attributes(answers[-1])] == list(raw.SIZES)


@pytest.mark.promise("C1", "C3", "O2")
def test_a_half_delivered_child_that_finds_another_parent_is_told_to_its_end(
    world: PidNamespace, task_diag: int
) -> None:
    """What was begun is finished; the other child is nobody's whom the dump is about."""

    def live() -> None:
        for _ in range(2):
            if os.fork() == 0:
                pause()

    pid = world.spawn(live)
    number = world.number(pid)
    first, _ = oracle.children(world.procfs.fd, number)
    raw.ask(task_diag, Request(show=raw.SHOW_FIXED, strategy=CHILDREN, pid=number))
    assert half_delivered(task_diag) == first
    world.kill(pid)
    (answer,) = raw.answers(b"".join(raw.drain(task_diag)))
    assert (answer.pid, answer.task_flags) == (first, 0)
    assert [kind for kind, _ in raw.attributes(answer)] == list(raw.SIZES)[2:]


@pytest.mark.promise("C1", "C3", "W8")
@pytest.mark.core
@pytest.mark.parametrize("strategy", [ALL, ONE, ALL_THREAD, THREAD])
def test_a_half_delivered_process_that_execs_from_a_thread_goes_on(
    world: PidNamespace, task_diag: int, gate: Gate, strategy: int
) -> None:
    """It is still the same process under the same number: its other groups come, each once."""
    pid = world.spawn(partial(exec_from_thread, gate))
    number = world.number(pid)
    raw.ask(task_diag, Request(show=raw.SHOW_FIXED, strategy=strategy, pid=number if strategy in TARGETED else 0))
    if strategy in (ALL, ALL_THREAD):
        assert raw.pids(raw.read(task_diag, WHOLE)) == [1]
    assert half_delivered(task_diag) == number
    gate.open()
    os.waitpid(pid, os.WUNTRACED)
    (answer,) = raw.answers(b"".join(raw.drain(task_diag)))
    assert (answer.pid, answer.task_flags) == (number, 0)
    assert [kind for kind, _ in raw.attributes(answer)] == list(raw.SIZES)[2:]


@pytest.mark.promise("C1", "C2", "C4", "R1")
@pytest.mark.parametrize("strategy", ["ALL", "ALL_THREAD", "CHILDREN"])
def test_everything_of_many_tasks_comes_through_any_buffer(crowd: PidNamespace, crowd_diag: int, strategy: str) -> None:
    """A large read is made of several of the kernel's buffers, and a task may be split at the end of each."""
    (parent,) = (pid for pid in crowd.procfs.listed() if oracle.process(crowd.procfs.fd, pid).ppid == 0 and pid != 1)
    request = Request(show=raw.SHOW_FIXED, strategy=STRATEGIES[strategy], pid=parent if strategy == "CHILDREN" else 0)

    def dump(size: int) -> bytes:
        raw.ask(crowd_diag, request)
        return b"".join(raw.drain(crowd_diag, size))

    at_rest(lambda: dump(1 << 18), "the crowd")
    found = []
    for size in (1 << 18, 4096, 40_000):
        stream = dump(size)
        pieces.check_parts(stream)
        found.append(pieces.payloads(stream))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) >= 445
    assert all(list(groups) == list(raw.SIZES) for groups in found[0].values())
