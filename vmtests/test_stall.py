"""The contract, N7 and R11: no process can stall or slow a scan."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from vmtests import oracle, programs, raw, syscalls
from vmtests.arguments import moved
from vmtests.credentials import ALICE, BOB, ROOT, Credentials, run_as
from vmtests.fuse import FuseFile
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Gate, pause, wait_for
from vmtests.raw import ONE, Request

READERS = {"root": ROOT, "alice": ALICE, "bob": BOB}


@pytest.fixture(scope="module")
def hold_exec_lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program that holds its own exec_update_lock."""
    return programs.compiled("hold_exec_lock", tmp_path_factory.mktemp("programs"), "-pthread")


@dataclass(frozen=True)
class Holder:
    """A process of alice's whose exec_update_lock is held for writing, and who waits for it."""

    world: PidNamespace
    number: int
    probe: int

    def holds(self) -> bool:
        """Return whether the lock has been held since the beginning: else the probe would not wait any more."""
        return Path(f"/proc/{self.probe}/stat").read_text().rpartition(")")[2].split()[0] == "D"


@pytest.fixture
def holder(world: PidNamespace, hold_exec_lock: Path) -> Iterator[Holder]:
    """Have alice hold her own lock, among processes of other users; a probe in /proc waits for it."""
    world.sleeping()
    pid = world.spawn(then=lambda: os.execv(hold_exec_lock, [hold_exec_lock.name]), who=ALICE)
    for who in (ALICE, BOB, ROOT):
        world.sleeping(who=who)
    # The vforked child is the last thing that the program makes before it takes the lock.
    wait_for(lambda: _name(pid) == b"hold_exec_lock" and len(os.listdir(f"/proc/{pid}/task")) == 2, "two threads")  # noqa: PTH208
    probe = world.spawn(then=partial(_ask_for_the_lock, pid))
    wait_for(lambda: oracle.letter(world.procfs.fd, world.number(probe)) == "D", "the lock to be held")
    yield Holder(world, world.number(pid), probe)


def _name(pid: int) -> bytes:
    return Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")


def _ask_for_the_lock(pid: int) -> None:
    # lock_trace() waits for exec_update_lock before it looks at who asks, and until killed.
    while True:
        Path(f"/proc/{pid}/syscall").read_bytes()


@pytest.mark.promise("N7", "R11", "O2", "N3")
@pytest.mark.core
@pytest.mark.parametrize("hidepid", ["0", "1", "2", "4"])
@pytest.mark.parametrize("reader", READERS)
def test_a_held_exec_lock_stalls_nobody(holder: Holder, reader: str, hidepid: str) -> None:
    """The dump ends while the lock is held, and has everybody who is listed once, the holder too."""

    def dump() -> tuple[list[int], list[int], list[int]]:
        fd = procfs.open()
        raw.ask(fd, Request())
        found = [a for stream in raw.drain(fd, raw.BASE) for a in raw.answers(stream)]
        readable = [answer.pid for answer in found if answer.attributes]
        return sorted(procfs.listed()), [answer.pid for answer in found], readable

    assert holder.holds()
    with Procfs(pidns=holder.world.fd, hidepid=hidepid) as procfs:
        listed, found, readable = run_as(READERS[reader], dump)
    assert found == listed
    assert (holder.number in readable) is (reader != "bob" or hidepid == "0")
    assert holder.holds(), "the dump waited for the lock"


@pytest.mark.promise("N7")
@pytest.mark.core
@pytest.mark.parametrize("hidepid", ["0", "2"])
def test_one_of_another_task_is_not_stalled(holder: Holder, hidepid: str) -> None:
    def ask() -> list[int]:
        found = []
        for pid in procfs.listed():
            fd = procfs.open()
            raw.ask(fd, Request(strategy=ONE, pid=pid))
            found += raw.pids(raw.read(fd, 4096))
            os.close(fd)
        return found

    with Procfs(pidns=holder.world.fd, hidepid=hidepid) as procfs:
        for who in (ROOT, ALICE):
            assert holder.number in run_as(who, ask)
    assert holder.holds()


@pytest.mark.promise("N7", "R11", "C1", "C3", "G5")
@pytest.mark.core
@pytest.mark.parametrize("show", [1 << raw.MEM, raw.SHOW_BASE | 1 << raw.MEM, raw.SHOW_FIXED])
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_a_held_exec_lock_cuts_mem_off(holder: Holder, hidepid: str, show: int) -> None:
    """Only that of the holder, only for whom hidepid= limits, and nothing of the groups around it."""
    requests = [
        Request(show=show),
        Request(show=show, strategy=raw.ALL_THREAD),
        Request(show=show, strategy=raw.THREAD, pid=holder.number),
    ]
    wanted = [kind for kind in raw.SIZES if show >> kind & 1]

    def dump(request: Request, size: int) -> list[raw.Answer]:
        fd = procfs.open()
        raw.ask(fd, request)
        return [answer for part in raw.drain(fd, size) for answer in raw.answers(part)]

    def check(answers: list[raw.Answer], pid: int, mem: int) -> None:
        own = [answer for answer in answers if answer.pid == pid]
        payloads = [attribute for answer in own for attribute in raw.attributes(answer)]
        sizes = raw.SIZES | {raw.MEM: mem}
        assert [(kind, len(payload)) for kind, payload in payloads] == [(kind, sizes[kind]) for kind in wanted]
        for answer in own:
            cut = list(raw.attributes(answer))[-1] == (raw.MEM, b"")
            more = answer is not own[-1]
            assert answer.task_flags == (raw.CONT if more else 0) | (raw.TRUNC if cut else 0)

    with Procfs(pidns=holder.world.fd, hidepid=hidepid) as procfs:
        for request in requests:
            # The first size holds a message of the largest group.
            for size in (raw.size_of(4), 4096):
                answers = run_as(ALICE, partial(dump, request, size))
                check(answers, holder.number, 0)
                leaders = {answer.pid for answer in answers if answer.attributes and answer.pid == answer.tgid}
                for pid in leaders - {holder.number}:
                    check(answers, pid, raw.SIZES[raw.MEM])
                if hidepid != "4":
                    check(run_as(ROOT, partial(dump, request, size)), holder.number, raw.SIZES[raw.MEM])
    assert holder.holds(), "a dump waited for the lock"


@dataclass(frozen=True)
class Mapper:
    """A process whose mmap_lock is held for writing, as long as its file's server likes."""

    world: PidNamespace
    number: int
    file: FuseFile

    def holds(self) -> bool:
        """Return whether it still waits for the server."""
        return oracle.letter(self.world.procfs.fd, self.number) == "D"


@pytest.fixture
def unserved(world: PidNamespace, tmp_path: Path) -> Iterator[FuseFile]:  # noqa: ARG001
    """Make a file whose server lets who writes to it wait, given up before the processes of ``world`` are ended."""
    path = tmp_path / "file"
    path.touch()
    with FuseFile(path, mmap.PAGESIZE) as file:
        yield file


def _map_over(path: Path, before: Callable[[], object] = lambda: None) -> None:
    """Write to a file by a mapping, and map something else over it: the page is written back under mmap_lock."""
    memory = mmap.mmap(os.open(path, os.O_RDWR), mmap.PAGESIZE)
    memory[0] = 1
    before()
    syscalls.mmap_over(raw.address_of(memory), mmap.PAGESIZE)
    pause()


@pytest.fixture
def mapper(world: PidNamespace, unserved: FuseFile) -> Mapper:
    """Have the child of a process hold its mmap_lock, among other processes."""

    def live() -> None:
        if os.fork() == 0:
            _map_over(unserved.path)

    world.sleeping()
    (child,) = oracle.children(world.procfs.fd, world.number(world.spawn(live)))
    wait_for(lambda: oracle.letter(world.procfs.fd, child) == "D", "the child to wait")
    for who in (ALICE, BOB):
        world.sleeping(who=who)
    return Mapper(world, child, unserved)


@pytest.mark.promise("N7", "R11", "C1", "C3", "R8")
@pytest.mark.parametrize("show", [1 << raw.CMDLINE, raw.SHOW_BASE | 1 << raw.CMDLINE, raw.SHOW_ALL])
@pytest.mark.parametrize(
    "strategy", [pytest.param(raw.ALL, marks=pytest.mark.core), raw.ALL_THREAD, raw.CHILDREN, raw.THREAD]
)
def test_a_held_mmap_lock_cuts_a_command_line_off(mapper: Mapper, strategy: int, show: int) -> None:
    """Only that of the holder, and nothing of the groups around it; /proc/PID/cmdline would wait."""
    world, number = mapper.world, mapper.number
    wanted = [kind for kind in raw.KINDS if show >> kind & 1]
    reader = world.spawn(then=partial(oracle.content, world.procfs.fd, f"{number}/cmdline"), state="D")
    fd = world.procfs.open()
    pid = {raw.THREAD: number, raw.CHILDREN: oracle.process(world.procfs.fd, number).ppid}.get(strategy, 0)
    for size in (raw.size_of(4), 4096, 65536):
        raw.ask(fd, Request(show=show, strategy=strategy, pid=pid))
        answers = [answer for part in raw.drain(fd, size) for answer in raw.answers(part)]
        assert number in {answer.pid for answer in answers}
        for shown in {answer.pid for answer in answers}:
            own = [answer for answer in answers if answer.pid == shown]
            parts = [attribute for answer in own for attribute in raw.attributes(answer)]
            assert [kind for kind, _ in itertools.groupby(kind for kind, _ in parts)] == wanted
            line = b"".join(payload for kind, payload in parts if kind == raw.CMDLINE)
            cut = [answer for answer in own if answer.task_flags & raw.TRUNC]
            assert bool(cut) is (shown == number)
            assert line == (b"" if cut else oracle.content(world.procfs.fd, f"{shown}/cmdline"))
            for answer in cut:
                assert list(raw.attributes(answer))[-1] == (raw.CMDLINE, b"")
            assert [bool(answer.task_flags & raw.CONT) for answer in own] == [True] * (len(own) - 1) + [False]
    assert oracle.letter(world.procfs.fd, world.number(reader)) == "D", "nothing was held"
    assert mapper.holds(), "a dump waited for the lock"
    mapper.file.release()


@pytest.mark.promise("N7", "R7", "R11", "G8")
@pytest.mark.core
def test_one_waits_for_a_held_mmap_lock_until_killed(mapper: Mapper) -> None:
    """No signal ends the wait but one that ends the reader; when the lock is free, the command line is whole."""
    world, number = mapper.world, mapper.number
    ours, theirs = os.pipe()

    def ask(stop: int) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.write(theirs, b"%d" % stop)
        fd = world.procfs.open()
        raw.ask(fd, Request(strategy=ONE, pid=number, show=raw.SHOW_ALL))
        os.write(theirs, b"".join(raw.drain(fd)))

    killed, waits = (world.spawn(then=partial(ask, stop), state="D") for stop in (1, 2))
    assert os.read(ours, 2) in (b"12", b"21")
    for pid in (killed, waits):
        os.kill(pid, signal.SIGUSR1)
    world.kill(killed)
    assert oracle.letter(world.procfs.fd, world.number(waits)) == "D"
    assert mapper.holds()
    mapper.file.release()
    world.reap(waits)
    stream = os.read(ours, 1 << 16)
    (answer,) = raw.answers(stream)
    assert answer.task_flags == 0
    assert dict(raw.attributes(answer))[raw.CMDLINE] == oracle.content(world.procfs.fd, f"{number}/cmdline")
    os.close(ours)
    os.close(theirs)


@pytest.mark.promise("C3", "N7", "R11")
@pytest.mark.parametrize("strategy", [pytest.param(raw.ALL, marks=pytest.mark.core), raw.THREAD])
def test_an_mmap_lock_that_is_taken_between_two_pieces_cuts_the_rest_off(
    world: PidNamespace, unserved: FuseFile, gate: Gate, strategy: int
) -> None:
    number = world.number(world.spawn(then=partial(_map_over, unserved.path, gate.wait)))
    line = oracle.content(world.procfs.fd, f"{number}/cmdline")
    fd = world.procfs.open()
    pid = number if strategy == raw.THREAD else 0
    raw.ask(fd, Request(show=1 << raw.CMDLINE | 1 << 9, strategy=strategy, pid=pid, start=number))
    stream = raw.read(fd, raw.BARE + 4 + 8)
    gate.open()
    wait_for(lambda: oracle.letter(world.procfs.fd, number) == "D", "the lock to be held")
    stream += b"".join(raw.drain(fd))
    assert [(answer.task_flags, *raw.attributes(answer)) for answer in raw.answers(stream)][:2] == [
        (raw.CONT, (raw.CMDLINE, line[:8])),
        (raw.CONT | raw.TRUNC, (raw.CMDLINE, b"")),
    ]
    assert [(answer.task_flags, len(answer.attributes)) for answer in raw.answers(stream)][2:] == [(0, 20)]


@pytest.mark.promise("R7", "R8", "R11", "N7")
@pytest.mark.core
def test_what_a_killed_reader_waited_for_is_the_next_ones(world: PidNamespace, unserved: FuseFile, gate: Gate) -> None:
    """ONE returns what there is before it waits; of the rest nothing is lost with a reader that is killed."""

    def live() -> None:
        moved(b"".join(b"%7d\0" % number for number in range(7500)))
        _map_over(unserved.path, gate.wait)

    number = world.number(world.spawn(then=live))
    wait_for(lambda: len(oracle.content(world.procfs.fd, f"{number}/cmdline")) == 60_000, "the new arguments")
    line = oracle.content(world.procfs.fd, f"{number}/cmdline")
    fd = world.procfs.open()
    raw.ask(fd, Request(strategy=ONE, pid=number, show=1 << raw.CMDLINE))
    stream = raw.read(fd, 1 << 20)
    assert len(stream) < 60_000, "it would have waited with this in its hands"
    gate.open()
    wait_for(lambda: oracle.letter(world.procfs.fd, number) == "D", "the lock to be held")
    world.kill(world.spawn(then=partial(raw.read, fd, 4096), state="D"))
    unserved.release()
    stream += b"".join(raw.drain(fd))
    answers = list(raw.answers(stream))
    assert b"".join(payload for answer in answers for _, payload in raw.attributes(answer)) == line
    assert [answer.task_flags for answer in answers] == [raw.CONT] * (len(answers) - 1) + [0]


@pytest.mark.promise("N7")
@pytest.mark.deadline(60)
def test_who_exits_while_it_is_looked_at_lets_nobody_wait(world: PidNamespace, unserved: FuseFile) -> None:
    """What it has written to a file is written back when its memory goes; that is not the reader's to wait for."""
    ours, theirs = os.pipe()

    def look() -> None:
        os.set_blocking(ours, False)
        fd = world.procfs.open()
        while True:
            with contextlib.suppress(BlockingIOError):
                os._exit(len(os.read(ours, 1)) - 1)
            raw.ask(fd, Request(show=1 << raw.CMDLINE, start=4))
            raw.drain(fd)

    def breed() -> None:
        for _ in range(150):
            if os.fork() == 0:
                memory = mmap.mmap(os.open(unserved.path, os.O_RDWR), mmap.PAGESIZE)
                memory[0] = 1
                os._exit(0)
            time.sleep(0.002)

    reader = world.spawn(then=look)
    world.spawn(breed)
    os.write(theirs, b"x")
    world.reap(reader)
    os.close(ours)
    os.close(theirs)


@pytest.mark.promise("C3", "N7", "N5")
@pytest.mark.parametrize("hidepid", ["1", pytest.param("2", marks=pytest.mark.core)])
def test_an_exec_lock_that_is_taken_between_two_pieces_cuts_the_rest_off(
    world: PidNamespace, hold_exec_lock: Path, hidepid: str
) -> None:
    ours, theirs = os.pipe()

    def live() -> None:
        os.dup2(ours, 0)
        os.execv(hold_exec_lock, ["hold_exec_lock", "wait"])

    pid = world.spawn(then=live, who=ALICE)
    number = world.number(pid)
    line = b"hold_exec_lock\0wait\0"
    wait_for(lambda: oracle.content(world.procfs.fd, f"{number}/cmdline") == line, "the exec")
    probe = world.number(world.spawn(then=partial(_ask_for_the_lock, pid)))

    def look() -> list[raw.Answer]:
        fd = procfs.open()
        raw.ask(fd, Request(show=1 << raw.CMDLINE | 1 << 9, start=number))
        stream = raw.read(fd, raw.BARE + 4 + 8)
        os.write(theirs, b"x")
        wait_for(lambda: oracle.letter(world.procfs.fd, probe) == "D", "the lock to be held")
        stream += b"".join(raw.drain(fd))
        assert oracle.letter(world.procfs.fd, probe) == "D"
        return [answer for answer in raw.answers(stream) if answer.pid == number]

    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        first, cut, last = run_as(ALICE, look)
    assert (first.task_flags, *raw.attributes(first)) == (raw.CONT, (raw.CMDLINE, line[:8]))
    assert (cut.task_flags, *raw.attributes(cut)) == (raw.CONT | raw.TRUNC, (raw.CMDLINE, b""))
    assert (last.task_flags, [kind for kind, _ in raw.attributes(last)]) == (0, [9])
    os.close(ours)
    os.close(theirs)


@pytest.mark.promise("N7", "C1", "C3", "N5")
@pytest.mark.parametrize("hidepid", ["0", pytest.param("1", marks=pytest.mark.core), "2"])
def test_a_held_exec_lock_cuts_a_command_line_off(holder: Holder, hidepid: str) -> None:
    """Only where hidepid= limits who asks: what is read then has to be of the program that was checked."""

    def dump(strategy: int) -> list[raw.Answer]:
        fd = procfs.open()
        pid = 0 if strategy == raw.ALL else holder.number
        raw.ask(fd, Request(show=raw.SHOW_BASE | 1 << raw.CMDLINE | 1 << 9, strategy=strategy, pid=pid))
        return [answer for part in raw.drain(fd, 4096) for answer in raw.answers(part)]

    proc = holder.world.procfs.fd
    with Procfs(pidns=holder.world.fd, hidepid=hidepid) as procfs:
        for who, strategy in itertools.product((ALICE, ROOT), (raw.ALL, ONE)):
            own = [answer for answer in run_as(who, partial(dump, strategy)) if answer.pid == holder.number]
            line = oracle.content(proc, f"{holder.number}/cmdline")
            cut = who is ALICE and hidepid != "0"
            assert [answer.task_flags for answer in own] == ([raw.TRUNC | raw.CONT, 0] if cut else [0])
            found = [attribute for answer in own for attribute in raw.attributes(answer)]
            assert [kind for kind, _ in found] == [0, raw.CMDLINE, 9]
            assert found[1] == (raw.CMDLINE, b"" if cut else line)
    assert holder.holds(), "a dump waited for the lock"


@pytest.mark.promise("N7", "O2", "R3")
@pytest.mark.core
@pytest.mark.parametrize(
    ("hidepid", "reader", "strategy"),
    [("0", "bob", raw.ALL), ("1", "bob", raw.ALL), ("2", "alice", raw.ALL), ("2", "alice", ONE)],
)
def test_a_process_that_changes_its_credentials_all_the_time_is_there(
    world: PidNamespace, hidepid: str, reader: str, strategy: int
) -> None:
    """capset() gives it others each time: a check that is made anew for that must come to an end, and not to ESRCH."""
    changer = world.number(world.spawn(then=_change_credentials, who=ALICE))

    def dump() -> None:
        fd = procfs.open()
        for _ in range(300):
            raw.ask(fd, Request(strategy=strategy, pid=changer if strategy == ONE else 0))
            found = {answer.pid: bool(answer.attributes) for answer in raw.answers(b"".join(raw.drain(fd)))}
            # Nobody who may be read hides so.
            assert found[changer] is (hidepid != "1")

    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        run_as(READERS[reader], dump)


def _change_credentials() -> None:
    while True:
        syscalls.capset(0)


@pytest.mark.promise("N7", "O4")
@pytest.mark.deadline(60)
@pytest.mark.parametrize("hidepid", ["1", "2", "4"])
def test_exec_in_a_loop_holds_no_dump_up(world: PidNamespace, execer: Path, hidepid: str) -> None:
    """Each exec holds its process's lock for a moment, and the next process's comes right after it."""
    sleepers = {world.number(world.sleeping(who=ALICE)) for _ in range(20)}

    def dump() -> tuple[float, Counter[int]]:
        fd = procfs.open()
        begin = time.monotonic()
        for _ in range(20):
            raw.ask(fd, Request())
            pids = Counter(raw.pids(b"".join(raw.drain(fd))))
        return time.monotonic() - begin, pids

    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        alone = min(run_as(ALICE, dump)[0] for _ in range(3))
        for _ in range(6):
            world.spawn(then=lambda: os.execv(execer, [execer.name]), who=ALICE)
        for who in (ALICE, ROOT):
            for _ in range(5):
                taken, pids = run_as(who, dump)
                # It has to share the CPUs with them, for more than its own time: a slice each, and no more.
                assert taken < 10 * alone + 2.0
                assert max(pids.values()) == 1
                # A process in the middle of an exec may be missing where hidepid= asks about it.
                assert sleepers <= set(pids)


@pytest.mark.promise("N7", "C1", "O2", "G5")
@pytest.mark.deadline(60)
@pytest.mark.parametrize("hidepid", ["0", "1", "2"])
def test_exec_in_a_loop_leaves_no_group_out_silently(world: PidNamespace, execer: Path, hidepid: str) -> None:
    """Also where each task is split: an exec may come between any two of its messages."""
    for _ in range(4):
        world.spawn(then=lambda: os.execv(execer, [execer.name]), who=ALICE)

    def dump(who: Credentials, strategy: int, size: int) -> None:
        fd = procfs.open()
        for _ in range(25):
            raw.ask(fd, Request(strategy=strategy, show=raw.SHOW_FIXED))
            found = [answer for part in raw.drain(fd, size) for answer in raw.answers(part)]
            pids = [pid for pid, _ in itertools.groupby(answer.pid for answer in found)]
            assert pids == sorted(set(pids))
            if who is ROOT or hidepid == "0":
                assert set(world.procfs.listed()) <= set(pids)
            for _, messages in itertools.groupby(found, lambda answer: answer.pid):
                _check_parts(list(messages), limited=who is ALICE and hidepid != "0")
        os.close(fd)

    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        for who in (ALICE, ROOT):
            for strategy in (raw.ALL, raw.ALL_THREAD):
                for size in (raw.size_of(4), 65536):
                    run_as(who, partial(dump, who, strategy, size))


def _check_parts(messages: list[raw.Answer], *, limited: bool) -> None:
    """Check the messages of one task: each group once, in order, and whole unless the flags say otherwise."""
    kinds = []
    for answer in messages:
        attributes = list(raw.attributes(answer))
        cut = bool(attributes) and not attributes[-1][1]
        assert limited or not cut
        assert bool(answer.task_flags & raw.TRUNC) is cut
        assert all(len(payload) == raw.SIZES[kind] for kind, payload in attributes[: -1 if cut else None])
        kinds += [kind for kind, _ in attributes]
    last = messages[-1]
    wanted = [kind for kind in raw.SIZES if kind != raw.MEM or last.pid == last.tgid]
    if last.task_flags:
        # It went in the middle, or may not be read any more.
        assert kinds == wanted[: len(kinds)]
    else:
        # Of one that calls execve() at each look it is shown that it is there, to whom hidepid= limits.
        assert kinds == wanted or (limited and not kinds)
