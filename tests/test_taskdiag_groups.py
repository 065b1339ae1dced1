"""The groups: layouts against the contract's numbers, and payloads built byte by byte."""

from __future__ import annotations

import dataclasses
import struct

import pytest
import stream
from stream import attribute, message

from taskdiag import Cred, Group, Ident, Job, Mem, Sched, Stat, State, Strategy, Vma, VmaFlag, VmaStat, WireError, uapi
from taskdiag.groups import Base, Record, vmas
from taskdiag.wire import Task, decode, join


def task(*attributes: tuple[int, bytes], flags: int = 0) -> Task:
    parts = (attribute(kind, payload) for kind, payload in attributes)
    (one,) = join(decode(message(5, *parts, flags=flags)))
    return one


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (uapi.TASK_DIAG_BASE, 44),
        (uapi.TASK_DIAG_CRED, 64),
        (uapi.TASK_DIAG_VMA, 64),
        (uapi.TASK_DIAG_VMA_STAT, 80),
        (uapi.TASK_DIAG_STAT, 72),
        (uapi.TASK_DIAG_IDENT, 24),
        (uapi.TASK_DIAG_MEM, 64),
        (uapi.TASK_DIAG_SCHED, 40),
        (uapi.TASK_DIAG_JOB, 16),
    ],
)
def test_a_layout_has_the_size_of_the_contract(layout: uapi.Layout, size: int) -> None:
    assert layout.size == size


def test_the_headers_have_the_sizes_of_the_contract() -> None:
    sizes = (uapi.NLMSGHDR.size, uapi.NLATTR.size, uapi.TASK_DIAG_PID.size, uapi.TASK_DIAG_MSG.size)
    assert sizes == (16, 4, 24, 12)


def test_the_numbers_are_those_of_the_contract() -> None:
    groups = ("BASE", "CRED", "VMA", "VMA_STAT", "STAT", "CMDLINE", "IDENT", "MEM", "SCHED", "JOB")
    assert [(group.name, group.value, group.show_flag) for group in Group] == [
        (name, number, 1 << number) for number, name in enumerate(groups)
    ]
    assert [strategy.name for strategy in Strategy] == ["ALL", "ONE", "ALL_THREAD", "CHILDREN", "THREAD"]
    assert [strategy.value for strategy in Strategy if strategy.takes_pid] == [1, 3, 4]
    assert "".join(state.letter for state in State) == "RSDTtXZPI"
    assert (VmaFlag.READ, VmaFlag.LOCKED, VmaFlag.MERGEABLE) == (1 << 0, 1 << 12, 1 << 27)
    assert [flag.value for flag in VmaFlag] == [1 << bit for bit in range(28)]


@pytest.mark.parametrize(
    ("layout", "member", "offset"),
    [
        (uapi.TASK_DIAG_BASE, "comm", 25),
        (uapi.TASK_DIAG_CRED, "uid", 32),
        (uapi.TASK_DIAG_VMA, "inode", 40),
        (uapi.TASK_DIAG_STAT, "threads", 64),
        (uapi.TASK_DIAG_SCHED, "nvcsw", 24),
    ],
)
def test_a_member_is_where_the_contract_has_it(layout: uapi.Layout, member: str, offset: int) -> None:
    assert layout.offset(member) == offset


@pytest.mark.parametrize("record", [Base, Cred, Stat, Ident, Mem, Sched, Job, VmaStat])
def test_a_record_has_the_members_of_its_layout_in_their_order(record: type[Record]) -> None:
    assert dataclasses.is_dataclass(record)
    names = [field.name for field in dataclasses.fields(record)]
    assert names == [name for name, code in record.layout.members.items() if not code.endswith("x")]


def test_each_group_of_one_struct_is_read_field_for_field() -> None:
    one = task(
        (1, struct.pack("=16I", 1, 2, 3, 4, 5, 6, 0xFFFFFFFF, 0x1FF, *range(10, 18))),
        (4, struct.pack("=8QII", *range(2**40, 2**40 + 8), 9, 0)),
        (6, struct.pack("=3Q", 2**63, 2**33, 1)),
        (7, struct.pack("=8Q", *range(0, 8 * 4096, 4096))),
        (8, struct.pack("=3i3I2Q", -1, -20, -100, 99, 3, 0, 2**35, 7)),
        (9, struct.pack("=iiIi", 0x8803, -1, 0x80200000, -1)),
    )
    assert one.cred == Cred(2 << 32 | 1, 4 << 32 | 3, 6 << 32 | 5, 0x1FF << 32 | 0xFFFFFFFF, *range(10, 18))
    assert one.stat == Stat(*(*range(2**40, 2**40 + 8), 9))
    assert one.ident == Ident(start_boottime=2**63, inode=2**33, cgroup=1)
    assert one.mem == Mem(0, 4096, 8192, 12288, 16384, 20480, 24576, 28672)
    assert one.sched == Sched(-1, -20, -100, 99, 3, 2**35, 7)
    assert one.job == Job(tty_nr=0x8803, tpgid=-1, flags=0x80200000, exit_signal=-1)


def test_a_group_that_did_not_come_is_none() -> None:
    one = task()
    assert (one.base, one.cred, one.vmas, one.stat, one.cmdline) == (None,) * 5
    assert (one.ident, one.mem, one.sched, one.job) == (None,) * 4


def test_an_empty_group_is_not_an_absent_one() -> None:
    one = task((2, b""), (5, b""))
    assert one.vmas == ()
    assert one.cmdline == b""


@pytest.mark.parametrize("group", [Group(kind) for kind in uapi.LAYOUTS])
def test_a_group_that_grew_is_read_as_far_as_it_is_known(group: Group) -> None:
    payload = bytes(range(uapi.LAYOUTS[group].size))
    field = group.name.lower()
    grown, known = task((group, payload + b"\xff" * 8)), task((group, payload))
    assert getattr(grown, field) == getattr(known, field) is not None


@pytest.mark.parametrize("group", [Group(kind) for kind in uapi.LAYOUTS])
def test_a_group_that_is_too_short_is_refused(group: Group) -> None:
    size = uapi.LAYOUTS[group].size
    short = task((group, bytes(size - 1)))
    with pytest.raises(WireError, match=f"^{group.name} has {size - 1} bytes, less than {size}$"):
        getattr(short, group.name.lower())


STATISTICS = struct.pack("=10Q", *range(0, 40960, 4096))


def test_a_record_of_an_area_is_read_field_for_field() -> None:
    one = task((2, stream.vma(2**47 - 4096, 2**47, 1 << 63 | 0b101, b"/bin/a b\n", STATISTICS)))
    assert one.vmas == (
        Vma(
            start=2**47 - 4096,
            end=2**47,
            flags=VmaFlag.READ | VmaFlag.EXEC | VmaFlag(1 << 63),
            pgoff=4096,
            major=8,
            minor=1,
            inode=77,
            generation=0,
            name=b"/bin/a b\n",
            stat=VmaStat(*range(0, 40960, 4096)),
        ),
    )


def test_areas_come_in_several_attributes_and_messages() -> None:
    records = [
        stream.vma(number * 4096, (number + 1) * 4096, name=b"n" * number, stat=STATISTICS if number % 2 else b"")
        for number in range(20)
    ]
    parts = (
        message(5, attribute(0, stream.base()), attribute(2, b"".join(records[:3])), flags=stream.CONT)
        + message(5, attribute(2, b"".join(records[3:4])), attribute(2, b"".join(records[4:11])), flags=stream.CONT)
        + message(5, attribute(2, b"".join(records[11:])), attribute(5, b"sh\0"))
    )
    (one,) = join(decode(parts))
    assert one.vmas is not None
    assert [(area.start // 4096, len(area.name), area.stat is not None) for area in one.vmas] == [
        (number, number, bool(number % 2)) for number in range(20)
    ]
    assert one.cmdline == b"sh\0"


def test_an_area_that_grew_is_read_as_far_as_it_is_known() -> None:
    grown = stream.vma(1, 2, 3, b"[heap]", STATISTICS + bytes(16), more=b"\xff" * 24)
    known = stream.vma(1, 2, 3, b"[heap]", STATISTICS)
    assert list(vmas(grown + known)) == list(vmas(known)) * 2


def record(**changed: int) -> bytes:
    """Return a record of 72 bytes with a name of 8, some of its numbers changed."""
    head = {"length": 72, "name_at": 64, "name_length": 8, "stat_at": 0, "stat_length": 0} | changed
    return struct.pack("=4QIIQI6H", *(0,) * 8, *head.values(), 0) + b"/bin/cat"


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (record()[:63], "VMA ends inside a record, at byte 0"),
        (record() + bytes(10), "VMA ends inside a record, at byte 72"),
        (record(length=63), "a VMA record of 63 bytes does not fit, at byte 0"),
        (record(length=0), "a VMA record of 0 bytes does not fit, at byte 0"),
        (record() + record(length=80), "a VMA record of 80 bytes does not fit, at byte 72"),
        (record(name_length=9), "a part of 9 bytes at 64 lies outside its VMA record, at byte 0"),
        (record(stat_at=8, stat_length=72), "a part of 72 bytes at 8 lies outside its VMA record, at byte 0"),
        (record(stat_at=0, stat_length=72), "VMA_STAT has 72 bytes, less than 80"),
    ],
)
def test_malformed_areas_are_refused_with_their_reason(payload: bytes, sentence: str) -> None:
    with pytest.raises(WireError, match=f"^{sentence}$"):
        list(vmas(payload))
