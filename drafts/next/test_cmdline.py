"""The contract, "Groups": CMDLINE, byte for byte what ``cmdline`` has, in pieces of every size."""

from __future__ import annotations

import ctypes
import mmap
import os

from functools import partial

import pytest

from vmtests import oracle, pieces, raw
from vmtests.namespaces import PidNamespace
from vmtests.population import Gate, exec_from_thread
from vmtests.raw import ONE, Request

CMDLINE = 5
SHOW = raw.SHOW_FIXED | 1 << CMDLINE
LONGEST = 65528
TRUNC = 2


def execed(world: PidNamespace, *arguments: bytes) -> int:
    """Make a process that sleeps with these arguments; return its number."""
    pid = world.spawn(then=lambda: os.execv("/bin/sh", [b"sh", b"-c", b"kill -STOP $$", *arguments]))
    os.waitpid(pid, os.WUNTRACED)
    return world.number(pid)


def in_proc(world: PidNamespace, number: int) -> bytes:
    """Return what ``cmdline`` has."""
    return oracle.content(world.procfs.fd, f"{number}/cmdline")


def told(fd: int, number: int, size: int = 65536, *, show: int = SHOW) -> tuple[bytes, int]:
    """Ask for one task; return its command line, and the flags of all its messages together."""
    raw.ask(fd, Request(strategy=ONE, pid=number, show=show))
    stream = b"".join(raw.drain(fd, size))
    pieces.check_parts(stream)
    flags = 0
    for answer in raw.answers(stream):
        flags |= answer.task_flags
    (payloads,) = pieces.payloads(stream).values()
    return payloads[CMDLINE], flags & TRUNC


@pytest.mark.promise("G8", "C1", "C4")
@pytest.mark.core
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 100, 4095, 4096, 4097, 30000, 65000, 65500, 65528, 65600, 100_000])
def test_a_command_line_of_any_length(world: PidNamespace, task_diag: int, length: int) -> None:
    number = execed(world, b"x" * length)
    wanted = in_proc(world, number)
    assert len(wanted) > length
    for size in (4096, 5000, 65536, 1 << 20):
        line, cut = told(task_diag, number, size)
        assert line == wanted[:LONGEST]
        assert bool(cut) is (len(wanted) > LONGEST)


@pytest.mark.promise("C1", "C2", "R5")
@pytest.mark.core
def test_every_size_of_buffer_gives_the_same(world: PidNamespace, task_diag: int) -> None:
    number = execed(world, b"abc", b"", b"d" * 501)
    wanted = in_proc(world, number)
    for size in range(raw.size_of(4), 1400):
        assert told(task_diag, number, size) == (wanted, 0), size


@pytest.mark.promise("G6")
def test_who_has_no_memory_has_an_empty_one(world: PidNamespace, task_diag: int, whole_machine: int) -> None:
    assert told(task_diag, world.number(world.zombie())) == (b"", 0)
    assert told(whole_machine, 2) == (b"", 0)


def overwrite(text: bytes) -> None:
    """Write over one's own arguments, from their start on, as setproctitle() does."""
    fields = oracle.parse_stat(open("/proc/self/stat", "rb").read())[1]  # noqa: SIM115, PTH123
    start = int(fields[48 - 3])
    ctypes.memmove(start, text, len(text))


@pytest.mark.promise("G8")
@pytest.mark.parametrize("extra", [-30, -1, 0, 1, 20, 300])
def test_arguments_that_were_written_over(world: PidNamespace, task_diag: int, extra: int) -> None:
    """Also into the environment, where the title ends with its first NUL."""
    length = len(open("/proc/self/cmdline", "rb").read())  # noqa: SIM115, PTH123
    number = world.number(world.spawn(partial(overwrite, b"t" * (length + extra) + b"\0")))
    wanted = in_proc(world, number)
    assert wanted.startswith(b"tt")
    for size in (*range(raw.size_of(4), 800, 7), 4096, 65536):
        assert told(task_diag, number, size) == (wanted, 0), size


PR_SET_MM, ARG_START, ARG_END = 35, 8, 9


@pytest.mark.promise("G8")
def test_arguments_that_were_moved_or_unmapped(world: PidNamespace, task_diag: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def move(unmapped: bool) -> None:
        memory = mmap.mmap(-1, 4 * mmap.PAGESIZE)
        memory.write(b"moved\0here\0" + b"y" * 8000)
        start = raw.address_of(memory)
        for option, address in ((ARG_END, start + 9000), (ARG_START, start)):
            if libc.prctl(PR_SET_MM, option, ctypes.c_ulong(address), 0, 0):
                raise OSError(ctypes.get_errno(), "prctl")
        if unmapped:
            libc.munmap(ctypes.c_void_p(start + mmap.PAGESIZE), ctypes.c_size_t(mmap.PAGESIZE))
        move.__dict__["kept"] = memory

    for unmapped in (False, True):
        number = world.number(world.spawn(partial(move, unmapped)))
        wanted = in_proc(world, number)
        assert wanted.startswith(b"moved\0here\0")
        assert told(task_diag, number) == (wanted, 0)


@pytest.mark.promise("C3", "N5")
@pytest.mark.core
def test_an_exec_between_two_pieces_ends_the_command_line(world: PidNamespace, task_diag: int, gate: Gate) -> None:
    """Nothing of the new program is shown behind the old one's beginning; the other groups come."""
    pid = world.spawn(partial(exec_from_thread, gate))
    number = world.number(pid)
    before = in_proc(world, number)
    room = raw.size_of(0, 1, 4) + 4 + 16
    raw.ask(task_diag, Request(strategy=ONE, pid=number, show=SHOW))
    first = raw.read(task_diag, room)
    gate.open()
    os.waitpid(pid, os.WUNTRACED)
    stream = first + b"".join(raw.drain(task_diag))
    pieces.check_parts(stream)
    (payloads,) = pieces.payloads(stream).values()
    assert before.startswith(payloads[CMDLINE])
    assert 0 < len(payloads[CMDLINE]) < len(before)
    assert any(answer.task_flags & TRUNC for answer in raw.answers(stream))
    assert list(payloads) == sorted([*raw.SIZES, CMDLINE])
