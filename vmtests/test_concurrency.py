"""Many readers, and tasks that never hold still: F3, O2, O3 and N5 under storms."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from vmtests import pieces, programs, raw
from vmtests.credentials import ALICE, run_as
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import start_threads, wait_for
from vmtests.raw import ONE, Request

READERS = 8
STORM = 4.0
"""Seconds that a storm lasts."""


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Call ``work`` with 0 to ``count`` - 1 in threads that start together; raise the first exception."""
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(scope="module")
def spawner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program that runs another one, for ever."""
    return programs.compiled("spawn", tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program that becomes root, takes the name "secret" and ends at once. Its file has another name."""
    compiled = programs.compiled("secret", tmp_path_factory.mktemp("programs"), *programs.BARE)
    program = compiled.rename(compiled.with_name("public"))
    program.chmod(0o4755)
    return program


@pytest.mark.promise("F3", "R1", "O2")
@pytest.mark.parametrize("size", [raw.BASE, 300, 4096])
def test_readers_of_one_file_share_the_answer_out(crowd: PidNamespace, crowd_diag: int, size: int) -> None:
    """Each message is somebody's, whole, and nobody else's."""
    everyone = sorted(crowd.procfs.listed())
    parts: list[list[int]] = [[] for _ in range(READERS)]

    def read(number: int) -> None:
        while stream := raw.read(crowd_diag, size):
            parts[number] += raw.pids(stream)

    for seq in range(10):
        for part in parts:
            part.clear()
        raw.ask(crowd_diag, Request(seq=seq))
        at_once(READERS, read)
        assert all(part == sorted(part) for part in parts)
        assert sorted(itertools.chain.from_iterable(parts)) == everyone


@pytest.mark.promise("F3", "W1", "W7")
@pytest.mark.core
def test_a_file_that_everybody_writes_to_answers_one_request_after_the_other(
    world: PidNamespace, task_diag: int
) -> None:
    """Whoever's request was taken, each answer is of one request and whole."""
    numbers = [1, *(world.number(world.sleeping()) for _ in range(5))]
    messages: list[raw.Answer] = []
    taken: list[int] = []

    def ask_and_read(number: int) -> None:
        for turn in range(60):
            seq = 1 + number * 1000 + turn
            try:
                raw.ask(task_diag, Request(seq=seq, strategy=ONE if turn % 3 else raw.ALL, pid=1 if turn % 3 else 0))
                taken.append(seq)
            except OSError as error:
                assert error.errno == errno.EBUSY
            messages.extend(raw.answers(raw.read(task_diag, raw.BASE * (1 + turn % 7))))

    at_once(READERS, ask_and_read)
    raw.drain(task_diag)
    by_request: dict[int, list[int]] = {}
    for message in messages:
        by_request.setdefault(message.seq, []).append(message.pid)
    assert by_request.keys() <= set(taken)
    for seq, pids in by_request.items():
        assert len(pids) == len(set(pids)), seq
        assert set(pids) <= ({1} if (seq - 1) % 1000 % 3 else set(numbers)), seq
    assert len(taken) > READERS, "hardly any request was taken"
    raw.ask(task_diag, Request(seq=1))
    assert raw.pids(b"".join(raw.drain(task_diag))) == numbers, "the file does not answer any more"


@pytest.mark.promise("F3", "O2")
def test_files_of_their_own_do_not_meet(crowd: PidNamespace) -> None:
    everyone = sorted(crowd.procfs.listed())

    def dump(number: int) -> None:
        fd = crowd.procfs.open()
        for turn in range(5):
            raw.ask(fd, Request(seq=number))
            answers = list(raw.answers(b"".join(raw.drain(fd, 500 + 400 * turn + number))))
            assert [answer.pid for answer in answers] == everyone
            assert {answer.seq for answer in answers} == {number}
        os.close(fd)

    at_once(READERS, dump)


def _forks() -> None:
    while True:
        if os.fork() == 0:
            os._exit(0)
        os.wait()


def _forks_in_twos() -> None:
    # Zombies for a while, and numbers that are given back in another order.
    while True:
        for _ in range(2):
            if os.fork() == 0:
                os._exit(0)
        os.wait()
        os.wait()


def _threads_come_and_go() -> None:
    while True:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()


def _have_threads() -> None:
    start_threads(3)


def _narrow(limit: int) -> None:
    Path("/proc/sys/kernel/pid_max").write_text(str(limit))


@pytest.mark.promise("O1", "O2", "O3", "O4")
@pytest.mark.deadline(40)
@pytest.mark.parametrize("size", [raw.BASE, pytest.param(200, marks=pytest.mark.core), 65536])
def test_who_lives_throughout_is_there_exactly_once_in_every_storm(
    world: PidNamespace, task_diag: int, execer: Path, size: int
) -> None:
    """Numbers are reused all the time, and one process changes its leader with each exec."""
    world.spawn(partial(_narrow, 400))
    # The next numbers are the last ones, after which they are given again from 300 on.
    stay = {1, 390, *(world.number(world.sleeping()) for _ in range(4))}
    world.spawn_as(390)
    stay.add(world.number(world.spawn(_have_threads)))
    stay.add(world.number(world.spawn(then=lambda: os.execv(execer, [execer.name]))))
    stay |= {world.number(world.spawn(then=storm)) for storm in (_forks, _forks_in_twos, _threads_come_and_go)}
    end = time.monotonic() + STORM
    for turn in itertools.count():
        raw.ask(task_diag, Request(seq=turn))
        answers = list(raw.answers(b"".join(raw.drain(task_diag, size))))
        pids = [answer.pid for answer in answers]
        assert pids == sorted(pids)
        counts = Counter(pids)
        assert {pid: counts[pid] for pid in stay} == dict.fromkeys(stay, 1), turn
        assert max(counts.values()) == 1
        assert all(answer.pid == answer.tgid > 0 for answer in answers)
        if time.monotonic() > end:
            break


@pytest.mark.promise("R7", "R8", "R10")
def test_readers_that_are_killed_in_the_middle_leave_nothing_behind(crowd: PidNamespace, crowd_diag: int) -> None:
    everyone = sorted(crowd.procfs.listed())
    chance = random.Random(4)

    def dump_for_ever(fd: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                raw.ask(fd, Request())
            raw.read(fd, 65536)

    for _ in range(15):
        # Half of them share a file whose lock they may die with.
        readers = [crowd.spawn(then=partial(dump_for_ever, crowd_diag)) for _ in range(2)]
        time.sleep(chance.uniform(0.0, 0.03))
        for reader in readers:
            os.kill(reader, signal.SIGKILL)
        for reader in readers:
            crowd.reap(reader)
    raw.drain(crowd_diag)
    raw.ask(crowd_diag, Request())
    assert raw.pids(b"".join(raw.drain(crowd_diag))) == everyone


def names(fd: int) -> set[bytes]:
    """Return the names of all that the opener may see."""
    raw.ask(fd, Request())
    # BASE is the first attribute: its header, six ids, the state, and then the name.
    return {answer.attributes[29:45].partition(b"\0")[0] for answer in raw.answers(b"".join(raw.drain(fd)))}


@pytest.mark.promise("N5", "N4")
@pytest.mark.deadline(40)
@pytest.mark.parametrize("hidepid", ["1", pytest.param("2", marks=pytest.mark.core), "4"])
def test_an_exec_between_check_and_read_shows_nothing(
    world: PidNamespace, spawner: Path, secret: Path, hidepid: str
) -> None:
    """Alice's processes become root by exec: what they do from then on, taking a name, is not hers to see."""
    for _ in range(2):
        world.spawn(then=lambda: os.execv(spawner, [spawner.name, str(secret)]), who=ALICE)

    def look() -> tuple[set[bytes], int]:
        fd = procfs.open()
        found: set[bytes] = set()
        end = time.monotonic() + STORM
        for dumps in itertools.count():
            if time.monotonic() > end:
                return found, dumps
            found |= names(fd)
        raise AssertionError

    everything = world.procfs.open()
    wait_for(lambda: b"secret" in names(everything), "the program seen by who may see it")
    os.close(everything)
    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        found, dumps = run_as(ALICE, look)
    assert dumps > 20
    assert b"spawn" in found, "not even what is hers was seen"
    assert b"secret" not in found


def details(fd: int, strategy: int, size: int) -> set[tuple[bytes, int, int]]:
    """Return the name, the effective uid and the size of the memory of each task that comes with these groups."""
    raw.ask(fd, Request(strategy=strategy, show=raw.SHOW_FIXED))
    found = set()
    for groups in pieces.payloads(b"".join(raw.drain(fd, size))).values():
        # What was cut off is empty.
        if groups.get(0) and groups.get(1):
            name = groups[0][25:41].partition(b"\0")[0]
            (euid,) = struct.unpack_from("=I", groups[1], 36)
            (vsize,) = struct.unpack_from("=Q", groups.get(7) or bytes(8))
            found.add((name, euid, vsize))
    return found


@pytest.mark.promise("N5", "N4", "N7")
@pytest.mark.deadline(40)
@pytest.mark.parametrize("hidepid", ["1", "2"])
@pytest.mark.parametrize("size", [raw.size_of(4), 65536])
def test_an_exec_between_check_and_read_shows_no_credentials_and_no_memory(
    world: PidNamespace, spawner: Path, secret: Path, hidepid: str, size: int
) -> None:
    """The new memory is there before the new credentials; a small buffer has each task checked many times."""
    for _ in range(2):
        world.spawn(then=lambda: os.execv(spawner, [spawner.name, str(secret)]), who=ALICE)

    def look() -> set[tuple[bytes, int, int]]:
        fd = procfs.open()
        found: set[tuple[bytes, int, int]] = set()
        end = time.monotonic() + STORM / 2
        while time.monotonic() < end:
            for strategy in (raw.ALL, raw.ALL_THREAD):
                found |= details(fd, strategy, size)
        return found

    everything = world.procfs.open()
    guarded: set[int] = set()

    def guarded_is_known() -> bool:
        found = details(everything, raw.ALL, 65536)
        guarded.update(vsize for name, euid, vsize in found if (name, euid) == (b"secret", 0) and vsize)
        return bool(guarded)

    wait_for(guarded_is_known, "the program seen by who may see it")
    os.close(everything)
    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        found = run_as(ALICE, look)
    assert b"spawn" in {name for name, _, _ in found}, "not even what is hers was seen"
    assert {euid for _, euid, _ in found} == {ALICE.uid}
    assert guarded.isdisjoint(vsize for _, _, vsize in found)
