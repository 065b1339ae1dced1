"""The contract, "Groups": CMDLINE, byte for byte what ``cmdline`` has, in pieces of every size."""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from vmtests import oracle, pieces, programs, raw, syscalls
from vmtests.arguments import LAYOUTS, TITLES, kept, moved, overwrite
from vmtests.credentials import ALICE, run_as
from vmtests.fuse import FuseFile
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Gate, at_rest, exec_from_thread, start_threads, wait_for
from vmtests.raw import ALL, ALL_THREAD, CHILDREN, CMDLINE, CMDLINE_MAX, CONT, ONE, THREAD, TRUNC, Request
from vmtests.userfault import hold_faults

PAGE = mmap.PAGESIZE
MAP_GROWSDOWN = 0x100
STRATEGIES = {"ALL": ALL, "ONE": ONE, "ALL_THREAD": ALL_THREAD, "CHILDREN": CHILDREN, "THREAD": THREAD}
CORE = pytest.mark.core
SMALLEST, LARGEST = raw.BARE + 4 + 4, raw.size_of(4)
"""Bytes of a message with the beginning of a command line, and with the largest group."""


def execed(world: PidNamespace, *arguments: bytes) -> int:
    """Make a process that is stopped, with a shell's arguments before these; return its number."""
    pid = world.spawn(then=lambda: os.execv("/bin/sh", [b"sh", b"-c", b"kill -STOP $$", *arguments]))
    os.waitpid(pid, os.WUNTRACED)
    return world.number(pid)


def in_proc(world: PidNamespace, number: int) -> bytes:
    """Return what ``cmdline`` has."""
    return oracle.content(world.procfs.fd, f"{number}/cmdline")


def line(stream: bytes, pid: int) -> tuple[bytes, bool]:
    """Return the command line of one task in an answer, and whether it was cut."""
    pieces.check_parts(stream)
    found, cut = b"", False
    for answer in raw.answers(stream):
        attributes = list(raw.attributes(answer)) if answer.pid == pid else []
        found += b"".join(payload for kind, payload in attributes if kind == CMDLINE)
        if answer.pid == pid and answer.task_flags & TRUNC:
            assert attributes[-1][0] == CMDLINE
            cut = True
    return found, cut


def told(fd: int, number: int, size: int = 65536, *, strategy: int = ONE) -> tuple[bytes, bool]:
    """Ask for all groups; return the command line of ``number``, and whether it was cut."""
    targeted = strategy in (ONE, THREAD)
    raw.ask(fd, Request(strategy=strategy, pid=number if targeted else 0, show=raw.SHOW_ALL))
    stream = b"".join(raw.drain(fd, size))
    groups = pieces.payloads(stream)[number]
    assert list(groups) == raw.KINDS
    assert {kind: len(payload) for kind, payload in groups.items() if kind != CMDLINE} == raw.SIZES
    return line(stream, number)


@pytest.mark.promise("G8", "C1", "C4", "G5", "G1")
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 100, 4095, 4096, 30_000, 65_500, 65_510, 65_600, 100_000])
def test_a_command_line_of_any_length(world: PidNamespace, task_diag: int, length: int) -> None:
    """Beyond the most that there is of it, it is cut, and what follows comes all the same."""
    number = execed(world, b"x" * length)
    wanted = in_proc(world, number)
    assert len(wanted) == length + len(b"sh\0-c\0kill -STOP $$\0\0")
    for size, strategy in itertools.product((4096, 5000, 65536, 1 << 20), (ONE, ALL, ALL_THREAD, THREAD)):
        assert told(task_diag, number, size, strategy=strategy) == (wanted[:CMDLINE_MAX], len(wanted) > CMDLINE_MAX)


@pytest.mark.promise("G8", "C1")
@pytest.mark.parametrize("length", range(CMDLINE_MAX - 2, CMDLINE_MAX + 3))
def test_the_longest_command_line(world: PidNamespace, task_diag: int, length: int) -> None:
    number = execed(world, b"x" * (length - len(b"sh\0-c\0kill -STOP $$\0\0")))
    wanted = in_proc(world, number)
    assert len(wanted) == length
    for size in (4096, 32768, 65536, 65536 + 28, 1 << 20):
        assert told(task_diag, number, size) == (wanted[:CMDLINE_MAX], length > CMDLINE_MAX)


@pytest.mark.promise("C1", "C2", "R5", "R1")
@pytest.mark.deadline(60)
@pytest.mark.parametrize("strategy", [pytest.param("ALL", marks=CORE), "ONE", "ALL_THREAD", "CHILDREN", "THREAD"])
def test_every_size_of_buffer_gives_the_same(world: PidNamespace, task_diag: int, strategy: str) -> None:
    """A piece begins wherever 4 bytes of it fit."""

    def live() -> None:
        if os.fork() == 0:
            os.execv("/bin/sh", [b"sh", b"-c", b"kill -STOP $$", b"abc", b"", b"d" * 501])
        start_threads(1)

    target = world.number(world.spawn(live))
    (child,) = oracle.children(world.procfs.fd, target)
    wait_for(lambda: oracle.letter(world.procfs.fd, child) == "T", "the child stopped")
    request = Request(
        show=raw.SHOW_ALL,
        strategy=STRATEGIES[strategy],
        pid={"ONE": child, "CHILDREN": target, "THREAD": target}.get(strategy, 0),
    )

    def payloads() -> dict[int, dict[int, bytes]]:
        raw.ask(task_diag, request)
        return pieces.payloads(b"".join(raw.drain(task_diag)))

    wanted = at_rest(payloads, "everybody")
    for pid, groups in wanted.items():
        assert groups.get(CMDLINE) == (in_proc(world, pid) if pid in (1, target, child) else None)
    for size in (*range(LARGEST, 400), *range(400, 1200, 7), 4096):
        raw.ask(task_diag, request)
        stream = b"".join(raw.drain(task_diag, size))
        pieces.check_parts(stream)
        assert pieces.payloads(stream) == wanted, size


@pytest.mark.promise("C1", "R5")
def test_the_smallest_buffer(world: PidNamespace, task_diag: int) -> None:
    """Four bytes at a time, and EMSGSIZE for less room, which loses nothing."""
    number = execed(world, b"")
    raw.ask(task_diag, Request(show=1 << CMDLINE, strategy=ONE, pid=number))
    stream = b""
    while True:
        for size in (1, raw.BARE, SMALLEST - 1):
            with pytest.raises(OSError, match="Message too long"):
                raw.read(task_diag, size)
        stream += raw.read(task_diag, SMALLEST)
        *_, last = raw.answers(stream)
        assert len(last.attributes) <= 8
        if not last.task_flags & CONT:
            break
    assert raw.read(task_diag, 1) == b""
    assert line(stream, number) == (in_proc(world, number), False)


@pytest.mark.promise("C1", "C2", "R5")
def test_small_buffers_for_a_command_line_and_what_follows(world: PidNamespace, task_diag: int) -> None:
    """A buffer that the group behind it does not fit into still takes the line."""
    number = execed(world, b"")
    wanted = in_proc(world, number)
    for size in range(SMALLEST, raw.size_of(raw.MEM) + 8):
        raw.ask(task_diag, Request(show=1 << CMDLINE | 1 << raw.MEM, strategy=ONE, pid=number))
        stream = b""
        while len(line_so_far := line_of(stream)) < len(wanted):
            stream += raw.read(task_diag, size)
            assert wanted.startswith(line_so_far)
        stream += b"".join(raw.drain(task_diag))
        assert line(stream, number) == (wanted, False)
        assert [len(payload) for payload in pieces.payloads(stream)[number].values()] == [len(wanted), 64]


def line_of(stream: bytes) -> bytes:
    """Return what has come of the command line of the one task of a stream."""
    attributes = itertools.chain.from_iterable(raw.attributes(answer) for answer in raw.answers(stream))
    return b"".join(payload for kind, payload in attributes if kind == CMDLINE)


@pytest.mark.promise("R6", "C1", "C2", "C3")
@pytest.mark.parametrize("first", [0, LARGEST, pytest.param(300, marks=CORE)])
def test_a_fault_inside_a_command_line_loses_and_repeats_nothing(
    world: PidNamespace, task_diag: int, first: int
) -> None:
    numbers = [execed(world, bytes([65 + index]) * 300) for index in range(2)]
    request = Request(show=1 << CMDLINE | 1 << 4 | 1 << 9, start=2)
    raw.ask(task_diag, request)
    wanted = pieces.payloads(b"".join(raw.drain(task_diag)))
    assert list(wanted) == numbers
    for good in range(0, 1000, 27):
        for size in (good + 20, 65536):
            raw.ask(task_diag, request)
            stream = raw.read(task_diag, first)
            with contextlib.suppress(OSError):
                stream += raw.FaultingBuffer(good).read(task_diag, size)
            stream += b"".join(raw.drain(task_diag))
            pieces.check_parts(stream)
            assert pieces.payloads(stream) == wanted, (good, size)


@pytest.mark.promise("W7", "C2")
@pytest.mark.parametrize("strategy", [ONE, ALL])
@pytest.mark.parametrize("first", [raw.size_of(0), raw.size_of(0, 1), LARGEST + 300])
def test_a_write_that_is_refused_changes_nothing_of_what_is_half_shown(
    world: PidNamespace, task_diag: int, strategy: int, first: int
) -> None:
    """Between two groups, and within a command line."""
    number = execed(world, b"x" * 300)
    target, start = (number, 0) if strategy == ONE else (0, number)
    request = Request(strategy=strategy, pid=target, start=start, show=raw.SHOW_ALL)

    def payloads() -> dict[int, dict[int, bytes]]:
        raw.ask(task_diag, request)
        return pieces.payloads(b"".join(raw.drain(task_diag)))

    wanted = at_rest(payloads, "the process")
    raw.ask(task_diag, request)
    stream = raw.read(task_diag, first)
    (*_, last) = raw.answers(stream)
    assert last.task_flags & CONT
    with pytest.raises(OSError) as caught:
        raw.ask(task_diag, Request())
    assert caught.value.errno == errno.EBUSY
    stream += b"".join(raw.drain(task_diag))
    pieces.check_parts(stream)
    assert pieces.payloads(stream) == wanted


@pytest.mark.promise("G6", "G8")
def test_who_has_no_memory_has_an_empty_one(world: PidNamespace, task_diag: int, whole_machine: int) -> None:
    assert told(task_diag, world.number(world.zombie())) == (b"", False)
    kernel_thread = 2
    assert oracle.content(os.open("/proc", os.O_RDONLY), f"{kernel_thread}/cmdline") == b""
    for strategy in (ONE, ALL, ALL_THREAD, THREAD):
        assert told(whole_machine, kernel_thread, strategy=strategy) == (b"", False)


@pytest.mark.promise("G5", "G8", "N4")
@pytest.mark.parametrize("strategy", [pytest.param("ALL", marks=CORE), "ALL_THREAD"])
def test_everybodys_command_line(
    world: PidNamespace, proc: int, whole_machine: int, strategy: str, *, whole_size: int = 65536
) -> None:
    """Of the whole machine: leaders have one, whatever else changes; other threads have none."""
    execed(world, b"x" * 70_000)
    world.zombie()
    world.spawn(partial(start_threads, 3))
    raw.ask(whole_machine, Request(show=1 << CMDLINE, strategy=STRATEGIES[strategy]))
    parts = raw.drain(whole_machine, whole_size)
    stream = b"".join(parts)
    threads = {answer.pid for answer in raw.answers(stream) if answer.pid != answer.tgid}
    found = pieces.payloads(stream)
    assert all(found[pid] == {} for pid in threads)
    assert bool(threads) is (strategy == "ALL_THREAD")
    compared = 0
    for pid in found.keys() - threads:
        with contextlib.suppress(OSError):
            wanted = oracle.content(proc, f"{pid}/cmdline")
            if oracle.letter(proc, pid) != "Z":
                assert found[pid][CMDLINE] == wanted[:CMDLINE_MAX]
                compared += bool(wanted)
    assert compared > 5


@pytest.mark.promise("G5", "G8")
def test_a_thread_that_is_asked_for_has_its_processes(world: PidNamespace, task_diag: int) -> None:
    number = world.number(world.spawn(partial(start_threads, 1)))
    (thread,) = set(oracle.threads(world.procfs.fd, number)) - {number}
    assert told(task_diag, thread) == (in_proc(world, number), False)


@pytest.mark.promise("G8", "C2")
@pytest.mark.parametrize("extra", TITLES)
def test_arguments_that_were_written_over(world: PidNamespace, task_diag: int, extra: int) -> None:
    """As setproctitle() does, also into the environment: the title then ends with its first NUL."""
    number = world.number(world.spawn(partial(overwrite, extra)))
    wanted = in_proc(world, number)
    assert wanted.startswith(b"tt")
    for size in (*range(LARGEST, 800, 7), 4096, 65536):
        assert told(task_diag, number, size) == (wanted, False), size


@pytest.mark.promise("G8", "C2")
@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=CORE if "hole" in name or "middle" in name else ()) for name in LAYOUTS]
)
def test_arguments_that_were_moved(world: PidNamespace, task_diag: int, layout: str) -> None:
    number = world.number(world.spawn(LAYOUTS[layout]))
    wanted = in_proc(world, number)
    for size, strategy in itertools.product((LARGEST, 1000, 4096, 65536), (ONE, ALL)):
        assert told(task_diag, number, size, strategy=strategy) == (wanted, False)


@pytest.mark.promise("G8", "N7", "C1")
@pytest.mark.parametrize("good", [0, pytest.param(100, marks=CORE), PAGE])
def test_arguments_that_nobody_brings_in_cost_no_wait(world: PidNamespace, task_diag: int, good: int) -> None:
    """Behind userfaultfd, whose owner does not answer: at once what ``cmdline`` gives, which is what is there."""

    def live() -> None:
        pages = 4
        memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        there = -(-good // PAGE) * PAGE
        memory[there - good : there] = b"g" * good
        start = kept(memory)
        hold_faults(start + there, pages * PAGE - there)
        syscalls.set_arguments(start + there - good, start + pages * PAGE)

    number = world.number(world.spawn(live))
    assert in_proc(world, number) == b"g" * good
    for size, strategy in itertools.product((LARGEST, 4096, 65536), (ONE, ALL, ALL_THREAD)):
        assert told(task_diag, number, size, strategy=strategy) == (b"g" * good, False)


def in_a_file(world: PidNamespace, file: FuseFile) -> int:
    """Make a process whose arguments are in a file; return its number in the test's namespace."""

    def live() -> None:
        start = kept(mmap.mmap(os.open(file.path, os.O_RDWR), 4 * PAGE))
        syscalls.set_arguments(start, start + 4 * PAGE)

    return world.spawn(live)


@pytest.mark.promise("G8")
def test_arguments_in_a_file_are_not_read(world: PidNamespace, task_diag: int, tmp_path: Path) -> None:
    """Only anonymous memory is."""
    path = tmp_path / "file"
    path.touch()
    with FuseFile(path, 4 * PAGE) as file:
        pid = in_a_file(world, file)
        number = world.number(pid)
        assert in_proc(world, number) == b""
        for strategy in (ONE, ALL):
            assert told(task_diag, number, strategy=strategy) == (b"", False)
        world.kill(pid)


@pytest.mark.promise("N7")
@pytest.mark.core
def test_arguments_in_a_file_that_is_not_served_cost_no_wait(
    world: PidNamespace, task_diag: int, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    with FuseFile(path, 4 * PAGE, answers=False) as file:
        pid = in_a_file(world, file)
        for strategy in (ONE, ALL):
            assert told(task_diag, world.number(pid), strategy=strategy) == (b"", False)
        world.kill(pid)


@pytest.mark.promise("C3", "N5", "R8")
@pytest.mark.parametrize("strategy", ["ONE", pytest.param("ALL", marks=CORE), "ALL_THREAD", "THREAD"])
def test_an_exec_between_two_pieces_ends_the_command_line(
    world: PidNamespace, task_diag: int, gate: Gate, strategy: str
) -> None:
    """Nothing of the new program stands behind the old one's beginning; the other groups come."""
    pid = world.spawn(partial(exec_from_thread, gate))
    number = world.number(pid)
    before = in_proc(world, number)
    target = number if strategy in ("ONE", "THREAD") else 0
    start = 0 if strategy == "ONE" else number
    raw.ask(task_diag, Request(strategy=STRATEGIES[strategy], pid=target, show=raw.SHOW_ALL, start=start))
    stream = raw.read(task_diag, raw.size_of(0, 1, 4) + 4 + 16)
    gate.open()
    os.waitpid(pid, os.WUNTRACED)
    stream += b"".join(raw.drain(task_diag))
    pieces.check_parts(stream)
    (payloads,) = pieces.payloads(stream).values()
    assert list(payloads) == raw.KINDS
    assert payloads[CMDLINE] == before[:16]
    cut = [answer for answer in raw.answers(stream) if answer.task_flags & TRUNC]
    assert [(answer.task_flags, answer.attributes) for answer in cut] == [(CONT | TRUNC, b"\x04\0\x05\0")]


@pytest.mark.promise("C3", "R8")
@pytest.mark.parametrize("strategy", [ONE, ALL])
def test_who_goes_between_two_pieces_leaves_the_command_line_unfinished(
    world: PidNamespace, task_diag: int, strategy: int
) -> None:
    pid = world.sleeping()
    number, last = world.number(pid), world.number(world.sleeping())
    raw.ask(
        task_diag,
        Request(
            strategy=strategy,
            pid=number if strategy == ONE else 0,
            show=raw.SHOW_ALL,
            start=number if strategy == ALL else 0,
        ),
    )
    (answer,) = raw.answers(raw.read(task_diag, raw.size_of(0, 1, 4) + 4 + 16))
    assert (answer.pid, answer.task_flags) == (number, CONT)
    world.kill(pid)
    rest = b"".join(raw.drain(task_diag))
    assert raw.pids(rest) == ([] if strategy == ONE else [last])
    assert not rest or line(rest, last) == (in_proc(world, last), False)


@pytest.mark.promise("C3")
@pytest.mark.parametrize("strategy", [ONE, ALL])
def test_who_exits_between_two_pieces_and_stays_has_an_unfinished_command_line(
    world: PidNamespace, task_diag: int, strategy: int
) -> None:
    """A zombie has no memory: what is left cannot be had, and is marked as cut; the other groups come."""
    pid = world.sleeping()
    number = world.number(pid)
    before = in_proc(world, number)
    target, start = (number, 0) if strategy == ONE else (0, number)
    raw.ask(task_diag, Request(strategy=strategy, pid=target, show=raw.SHOW_ALL, start=start))
    stream = raw.read(task_diag, raw.size_of(0, 1, 4) + 4 + 16)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    stream += b"".join(raw.drain(task_diag))
    assert line(stream, number) == (before[:16], True)
    assert list(pieces.payloads(stream)[number]) == raw.KINDS


@pytest.mark.promise("N4", "C3")
@pytest.mark.parametrize("hidepid", [pytest.param("1", marks=CORE), "2", "4"])
def test_who_may_not_be_read_any_more_shows_nothing_of_the_rest(world: PidNamespace, gate: Gate, hidepid: str) -> None:
    """It stops being dumpable between two pieces."""

    def live() -> None:
        gate.wait()
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        os.kill(os.getpid(), signal.SIGSTOP)

    number = world.number(world.spawn(then=live, who=ALICE))

    def look() -> list[raw.Answer]:
        fd = procfs.open()
        raw.ask(fd, Request(show=1 << CMDLINE | 1 << 9, start=number))
        stream = raw.read(fd, raw.BARE + 4 + 8)
        gate.open()
        wait_for(lambda: oracle.letter(world.procfs.fd, number) == "T", "the process not dumpable")
        return list(raw.answers(stream + b"".join(raw.drain(fd))))

    before = in_proc(world, number)
    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        first, *rest = run_as(ALICE, look)
    assert list(raw.attributes(first)) == [(CMDLINE, before[:8])]
    assert first.task_flags == CONT
    cut = [(answer.pid, answer.task_flags, list(raw.attributes(answer))) for answer in rest]
    assert cut == ([(number, TRUNC, [(CMDLINE, b"")])] if hidepid == "1" else [])


@pytest.mark.promise("G8", "N7")
def test_arguments_in_a_hole_below_a_stack(world: PidNamespace, task_diag: int) -> None:
    """The stack is not expanded for that, and the kernel has nothing to complain about."""

    def live(hole: int) -> None:
        stack = mmap.mmap(-1, 3 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_GROWSDOWN)
        stack.write(b"s" * 3 * PAGE)
        start = kept(stack)
        syscalls.set_arguments(start, start + 3 * PAGE)
        syscalls.munmap(start + hole * PAGE, PAGE)

    for hole in (0, 1):
        number = world.number(world.spawn(partial(live, hole)))
        for strategy in (ONE, ALL):
            assert told(task_diag, number, strategy=strategy) == (b"s" * hole * PAGE, False)


@pytest.mark.promise("R10", "C1")
def test_a_command_line_that_changes_between_two_pieces_is_no_other_ones(
    world: PidNamespace, task_diag: int, gate: Gate
) -> None:
    """It is read as it is at the time: shorter now, it ends; what was told stays told."""

    def live() -> None:
        moved(b"a" * 5000 + b"\0")
        gate.wait()
        moved(b"bb\0")
        os.kill(os.getpid(), signal.SIGSTOP)

    pid = world.spawn(then=live)
    number = world.number(pid)
    wait_for(lambda: in_proc(world, number).startswith(b"aaa"), "the new arguments")
    raw.ask(task_diag, Request(strategy=ONE, pid=number, show=1 << CMDLINE))
    stream = raw.read(task_diag, 1000)
    gate.open()
    os.waitpid(pid, os.WUNTRACED)
    stream += b"".join(raw.drain(task_diag))
    assert line(stream, number) == (b"a" * (1000 - raw.BARE - 4), False)


@pytest.mark.promise("R10")
@pytest.mark.parametrize("how", ["whole", "half", pytest.param("exec", marks=CORE)])
def test_nobodys_memory_is_kept(world: PidNamespace, task_diag: int, tmp_path: Path, how: str) -> None:
    """When a command line has been told, or half of it, the program of who is gone can be written to again.

    Also if it has executed itself meanwhile, and was asked for again.
    """
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/sh").resolve().read_bytes())
    program.chmod(0o755)
    script = 'kill -STOP $$; exec "$0" -c "kill -STOP $$"'
    pid = world.spawn(then=lambda: os.execv(program, [str(program), "-c", script, str(program)]))
    number = world.number(pid)
    os.waitpid(pid, os.WUNTRACED)
    raw.ask(task_diag, Request(strategy=ONE, pid=number, show=raw.SHOW_ALL))
    if how == "whole":
        assert line(b"".join(raw.drain(task_diag)), number) == (in_proc(world, number), False)
    else:
        assert line_of(raw.read(task_diag, raw.size_of(0, 1, 4) + 4 + 8)) == in_proc(world, number)[:8]
    if how == "exec":
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, os.WUNTRACED)
        (cut, *_) = raw.answers(b"".join(raw.drain(task_diag)))
        assert cut.task_flags & TRUNC
    with pytest.raises(OSError, match="Text file busy"):
        program.open("r+b")
    world.kill(pid)

    def free() -> bool:
        with contextlib.suppress(OSError), program.open("r+b"):
            return True
        return False

    wait_for(free, "the end of its memory")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program that is set-uid root, and execs itself by way of a public one with another name, for ever."""
    folder = tmp_path_factory.mktemp("programs")
    programs.compiled("alternate", folder)
    public, secret = folder / "alternate", folder / "secret"
    secret.write_bytes(public.read_bytes())
    public.chmod(0o755)
    secret.chmod(0o4755)
    programs.open_to_all(folder)
    return public


@pytest.mark.promise("N4", "N5", "N7")
@pytest.mark.deadline(60)
@pytest.mark.parametrize("hidepid", ["1", pytest.param("2", marks=pytest.mark.core), "4"])
def test_a_program_that_becomes_root_does_not_show_its_arguments(
    world: PidNamespace, hidden: Path, hidepid: str
) -> None:
    """It execs a set-uid program and back without a pause: who may see the one does not see the other."""
    for _ in range(2):
        world.spawn(then=lambda: os.execv(hidden, [b"public", os.fsencode(hidden.parent)]), who=ALICE)

    def look() -> set[bytes]:
        fd = procfs.open()
        seen = set()
        for strategy, size in itertools.product((ALL, ALL_THREAD), (LARGEST, 65536)):
            for _ in range(60):
                raw.ask(fd, Request(strategy=strategy, show=raw.SHOW_ALL, start=2))
                for groups in pieces.payloads(b"".join(raw.drain(fd, size))).values():
                    seen.add(groups.get(CMDLINE, b""))
        return seen

    with Procfs(pidns=world.fd, hidepid=hidepid) as procfs:
        seen = run_as(ALICE, look)
    words = {line.split(b"\0")[0] for line in seen}
    assert b"public" in words
    assert not any(b"secret" in line for line in seen)


@pytest.mark.promise("O2", "R8", "G5")
@pytest.mark.deadline(60)
@pytest.mark.parametrize("size", [LARGEST, pytest.param(65536, marks=CORE)])
def test_threads_whose_processes_end_meanwhile(world: PidNamespace, task_diag: int, size: int) -> None:
    """ONE of a thread that is not the leader, again and again until its process is gone and after that."""

    def look(thread: int) -> Iterator[bool]:
        raw.ask(task_diag, Request(strategy=ONE, pid=thread, show=raw.SHOW_ALL))
        try:
            stream = b"".join(raw.drain(task_diag, size))
        except ProcessLookupError:
            return
        pieces.payloads(stream)
        yield True

    for _ in range(15):
        pid = world.spawn(partial(start_threads, 2))
        number = world.number(pid)
        thread = max(oracle.threads(world.procfs.fd, number))
        assert list(look(thread))
        os.kill(pid, signal.SIGKILL)
        while list(look(thread)):
            pass
        world.reap(pid)
