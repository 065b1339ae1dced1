"""The contract, "Request: one write()"."""

from __future__ import annotations

import errno
import mmap

import pytest

from vmtests import raw, syscalls
from vmtests.namespaces import PidNamespace
from vmtests.raw import ALL, ALL_THREAD, CHILDREN, ONE, THREAD, Request

pytestmark = pytest.mark.core


def refused(fd: int, request: Request | bytes) -> str:
    """Return the name of the error that ``write()`` gives."""
    with pytest.raises(OSError) as caught:
        raw.ask(fd, request)
    return errno.errorcode[caught.value.errno or 0]


@pytest.mark.promise("W1")
def test_a_request_is_busy_up_to_the_read_that_returns_0(world: PidNamespace, task_diag: int) -> None:
    pid = world.number(world.sleeping())
    raw.ask(task_diag, Request(seq=1))
    assert refused(task_diag, Request(seq=2)) == "EBUSY"
    assert raw.pids(raw.read(task_diag, raw.BASE)) == [1]
    assert refused(task_diag, Request(seq=2)) == "EBUSY"
    (last,) = raw.answers(raw.read(task_diag, 4096))
    assert (last.pid, last.seq) == (pid, 1), "a refused request changed the one being answered"
    assert refused(task_diag, Request(seq=2)) == "EBUSY", "everything is delivered, but not yet its end"
    assert raw.read(task_diag, 4096) == b""
    raw.ask(task_diag, Request(seq=2))
    assert {answer.seq for answer in raw.answers(raw.read(task_diag, 4096))} == {2}


@pytest.mark.promise("W1")
@pytest.mark.parametrize(
    "request_",
    [b"", bytes(Request())[:39], bytes(Request(length=41)), bytes(Request(tail=b"x")), bytes(Request(kind=0))],
    ids=["empty", "short", "wrong length", "tail", "wrong type"],
)
def test_busy_comes_before_every_other_error(whole_machine: int, request_: bytes) -> None:
    raw.ask(whole_machine, Request())
    assert refused(whole_machine, request_) == "EBUSY"


@pytest.mark.promise("W1")
@pytest.mark.parametrize("size", [1, raw.BASE - 1])
def test_an_emsgsize_does_not_end_the_request(task_diag: int, size: int) -> None:
    raw.ask(task_diag, Request())
    with pytest.raises(OSError) as caught:
        raw.read(task_diag, size)
    assert caught.value.errno == errno.EMSGSIZE
    assert refused(task_diag, Request()) == "EBUSY"


@pytest.mark.promise("W2", "W7")
def test_a_request_shorter_than_40_bytes_is_invalid(whole_machine: int) -> None:
    for size in range(40):
        assert refused(whole_machine, bytes(Request(length=size))[:size]) == "EINVAL", size
        assert refused(whole_machine, bytes(Request())[:size]) == "EINVAL", size
    assert raw.read(whole_machine, 4096) == b""


@pytest.mark.promise("W2", "W7")
@pytest.mark.parametrize("length", [0, 1, 15, 16, 39, 41, 44, 4096, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("tail", [b"", bytes(4)])
def test_a_length_other_than_the_one_written_is_invalid(whole_machine: int, length: int, tail: bytes) -> None:
    if length == 40 + len(tail):
        length = 40
    assert refused(whole_machine, Request(length=length, tail=tail)) == "EINVAL"
    assert raw.read(whole_machine, 4096) == b""


@pytest.mark.promise("W3", "W6")
@pytest.mark.parametrize("size", [41, 44, 48, 255, 4095, 4096])
def test_a_zero_tail_is_accepted(whole_machine: int, size: int) -> None:
    assert raw.ask(whole_machine, Request(strategy=ONE, pid=1, tail=bytes(size - 40))) == size
    assert raw.pids(raw.read(whole_machine, 4096)) == [1]


@pytest.mark.promise("W3", "W7")
@pytest.mark.parametrize("size", [41, 44, 48, 255, 4096])
@pytest.mark.parametrize("at", [0, -1])
def test_a_tail_that_is_not_zero_is_too_big(whole_machine: int, size: int, at: int) -> None:
    tail = bytearray(size - 40)
    tail[at] = 1
    assert refused(whole_machine, Request(tail=bytes(tail))) == "E2BIG"
    assert raw.read(whole_machine, 4096) == b""


@pytest.mark.promise("W3", "W7")
@pytest.mark.parametrize("size", [4097, 8192, 1 << 20])
def test_more_than_4096_bytes_are_too_big(whole_machine: int, size: int) -> None:
    assert refused(whole_machine, Request(tail=bytes(size - 40))) == "E2BIG"
    assert raw.read(whole_machine, 4096) == b""


@pytest.mark.promise("W2", "W3")
def test_the_length_is_checked_before_the_size(whole_machine: int) -> None:
    assert refused(whole_machine, Request(length=40, tail=bytes(8192))) == "EINVAL"
    assert refused(whole_machine, Request(length=40, tail=b"x")) == "EINVAL"


@pytest.mark.promise("W3", "W4")
def test_the_tail_is_checked_before_the_fields(whole_machine: int) -> None:
    assert refused(whole_machine, Request(kind=0, tail=b"x")) == "E2BIG"
    assert refused(whole_machine, Request(strategy=99, tail=bytes(8192))) == "E2BIG"


INVALID = {
    **{f"type {kind:#x}": Request(kind=kind) for kind in (0, 1, 2, 3, 0xD100, 0xD102, 0xFFFF)},
    **{f"flag {1 << bit:#x}": Request(flags=0x301 | 1 << bit) for bit in range(16) if not 0x301 >> bit & 1},
    **{f"group {bit}": Request(show=1 | 1 << bit) for bit in range(10, 64)},
    "every group": Request(show=(1 << 64) - 1),
    "VMA_STAT without VMA": Request(show=1 << 3),
    **{f"strategy {number}": Request(strategy=number) for number in (5, 6, 255, 1 << 32, 1 << 63)},
    **{f"strategy {number} with a pid": Request(strategy=number, pid=1) for number in (5, 1 << 32 | 1)},
    "nlmsg_pid 1": Request(port=1),
    "nlmsg_pid -1": Request(port=0xFFFF_FFFF),
    "ONE with a start": Request(strategy=ONE, pid=1, start=1),
    "ONE with start -1": Request(strategy=ONE, pid=1, start=0xFFFF_FFFF),
    "ALL with a pid": Request(strategy=ALL, pid=1),
    "ALL with pid -1": Request(strategy=ALL, pid=0xFFFF_FFFF),
    "ONE without a pid": Request(strategy=ONE),
    "ALL_THREAD with a pid": Request(strategy=ALL_THREAD, pid=1),
    "ALL_THREAD with pid -1": Request(strategy=ALL_THREAD, pid=0xFFFF_FFFF),
    "CHILDREN without a pid": Request(strategy=CHILDREN),
    "THREAD without a pid": Request(strategy=THREAD),
}


@pytest.mark.promise("W4", "W7", "G2")
@pytest.mark.parametrize("case", INVALID)
def test_what_is_unknown_or_out_of_place_is_invalid(whole_machine: int, case: str) -> None:
    assert refused(whole_machine, INVALID[case]) == "EINVAL"
    assert raw.read(whole_machine, 4096) == b""
    raw.ask(whole_machine, Request())


@pytest.mark.promise("W4", "W6")
@pytest.mark.parametrize("flags", [0, 0x001, 0x300, 0x301])
@pytest.mark.parametrize(("strategy", "pid"), [(ALL, 0), (ONE, 1), (ALL_THREAD, 0), (THREAD, 1)])
def test_request_and_dump_flags_are_allowed_and_make_no_difference(
    whole_machine: int, flags: int, strategy: int, pid: int
) -> None:
    assert raw.ask(whole_machine, Request(flags=flags, strategy=strategy, pid=pid)) == 40
    assert raw.pids(raw.read(whole_machine, raw.BASE)) == [1]


@pytest.mark.promise("W5", "W7")
@pytest.mark.parametrize(
    ("good", "size"), [*((good, 40) for good in (0, 1, 15, 16, 39)), *((good, 200) for good in (40, 41, 100))]
)
def test_a_request_that_cannot_be_read_is_a_fault(whole_machine: int, good: int, size: int) -> None:
    """Of ``size`` bytes, the first ``good`` can be read."""
    memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    memory[mmap.PAGESIZE - good : mmap.PAGESIZE] = bytes(Request(tail=bytes(size - 40)))[:good]
    start = raw.address_of(memory)
    syscalls.mprotect_none(start + mmap.PAGESIZE, mmap.PAGESIZE)
    with pytest.raises(OSError) as caught:
        syscalls.write(whole_machine, start + mmap.PAGESIZE - good, size)
    assert caught.value.errno == errno.EFAULT
    assert raw.read(whole_machine, 4096) == b""


@pytest.mark.promise("W6")
@pytest.mark.parametrize("pid", [1, 2, 99999, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
@pytest.mark.parametrize("strategy", [ONE, CHILDREN, THREAD])
def test_a_write_tells_nothing_about_tasks(whole_machine: int, strategy: int, pid: int) -> None:
    assert raw.ask(whole_machine, Request(strategy=strategy, pid=pid)) == 40


@pytest.mark.promise("W7")
def test_a_failed_write_leaves_the_file_as_after_the_last_answer(task_diag: int) -> None:
    raw.ask(task_diag, Request())
    raw.drain(task_diag)
    assert refused(task_diag, Request(kind=0)) == "EINVAL"
    assert raw.read(task_diag, 4096) == b""
    assert raw.read(task_diag, 4096) == b""
    raw.ask(task_diag, Request(seq=9))
    assert [answer.seq for answer in raw.answers(raw.read(task_diag, 4096))] == [9]


@pytest.mark.promise("W8", "R3")
def test_a_number_that_is_reused_after_the_write_is_not_the_target(world: PidNamespace, task_diag: int) -> None:
    first = world.sleeping()
    number = world.number(first)
    raw.ask(task_diag, Request(strategy=ONE, pid=number))
    world.kill(first)
    assert world.number(world.spawn_as(number)) == number
    with pytest.raises(OSError) as caught:
        raw.read(task_diag, 4096)
    assert caught.value.errno == errno.ESRCH
    raw.ask(task_diag, Request(strategy=ONE, pid=number))
    assert raw.pids(raw.read(task_diag, 4096)) == [number], "the new process can be asked for"


@pytest.mark.promise("W8", "R3")
def test_a_number_that_is_taken_only_after_the_write_is_not_the_target(world: PidNamespace, task_diag: int) -> None:
    raw.ask(task_diag, Request(strategy=ONE, pid=77))
    assert world.number(world.spawn_as(77)) == 77
    with pytest.raises(OSError) as caught:
        raw.read(task_diag, 4096)
    assert caught.value.errno == errno.ESRCH


@pytest.mark.promise("W8")
def test_the_pid_is_that_of_the_mounts_namespace(world: PidNamespace, task_diag: int) -> None:
    process = world.sleeping()
    number = world.number(process)
    assert number != process
    raw.ask(task_diag, Request(strategy=ONE, pid=number))
    assert raw.pids(raw.read(task_diag, 4096)) == [number]
    raw.read(task_diag, 4096)
    raw.ask(task_diag, Request(strategy=ONE, pid=process))
    with pytest.raises(OSError) as caught:
        raw.read(task_diag, 4096)
    assert caught.value.errno == errno.ESRCH
