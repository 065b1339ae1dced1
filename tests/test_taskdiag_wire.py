"""The client's decoding, on streams built here byte by byte."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import stream
from stream import attribute, message

from taskdiag import wire
from taskdiag.errors import WireError
from taskdiag.groups import Base
from taskdiag.uapi import Group, State, Strategy
from taskdiag.wire import Message, Task

# One answer to ALL with BASE for two tasks, as a little-endian kernel writes it.
RECORDED = bytes.fromhex(
    "4c00000001d10200070000000000000001000000010000000000000030000000"
    "01000000010000000000000000000000010000000100000001"
    "73797374656d64000000000000000000000000"
    "4c00000001d10200070000000000000002000000020000000000000030000000"
    "02000000020000000000000000000000000000000000000001"
    "6b746872656164640000000000000000000000"
)


def base(pid: int = 5, *, state: int = 1, comm: bytes = b"sh", more: bytes = b"") -> bytes:
    return attribute(0, stream.base(pid, state=state, comm=comm) + more)


def tasks(recorded: bytes) -> list[Task]:
    return list(wire.join(wire.decode(recorded)))


def test_a_recorded_answer_is_read_field_for_field() -> None:
    assert struct.pack("=H", 1) == b"\1\0", "the recorded stream is little-endian"
    first, second = tasks(RECORDED)
    assert (first.pid, first.tgid, first.flags, first.complete) == (1, 1, 0, True)
    assert first.base == Base(1, 1, 0, 0, 1, 1, State.INTERRUPTIBLE, b"systemd")
    assert second.base == Base(2, 2, 0, 0, 0, 0, State.INTERRUPTIBLE, b"kthreadd")


def test_a_request_is_the_40_bytes_of_the_contract() -> None:
    assert wire.encode_request((Group.BASE, Group.VMA), Strategy.ONE, pid=9, seq=3) == struct.pack(
        "=IHHIIQQII", 40, 0xD101, 1, 3, 0, 0b101, 1, 9, 0
    )
    assert wire.encode_request((), Strategy.ALL) == struct.pack("=IHHIIQQII", 40, 0xD101, 0x301, 0, 0, 0, 0, 0, 0)
    assert wire.encode_request((), Strategy.ALL, start=7) == struct.pack(
        "=IHHIIQQII", 40, 0xD101, 0x301, 0, 0, 0, 0, 0, 7
    )


def test_an_unknown_attribute_is_kept_apart_and_the_known_ones_are_read() -> None:
    (task,) = tasks(message(5, attribute(99, b"abc"), base(), attribute(100, b"")))
    assert task.base is not None
    assert task.base.comm == b"sh"
    assert (task.payloads[99], task.payloads[100]) == (b"abc", b"")


def test_a_payload_that_grew_is_read_as_far_as_it_is_known() -> None:
    (task,) = tasks(message(5, base(more=b"\xff" * 12)))
    assert task.base == Base(5, 5, 1, 0, 3, 4, State.INTERRUPTIBLE, b"sh")


def test_a_payload_that_is_too_short_is_refused() -> None:
    (task,) = tasks(message(5, attribute(0, bytes(40))))
    with pytest.raises(WireError, match="BASE has 40 bytes, less than 44"):
        _ = task.base


def test_a_bare_message_has_no_base() -> None:
    (task,) = tasks(message(5))
    assert task.base is None
    assert task.complete


def test_a_state_of_a_later_kernel_is_its_number() -> None:
    (task,) = tasks(message(5, base(state=77)))
    assert task.base is not None
    assert task.base.state == 77


@pytest.mark.parametrize("comm", [b"", b"\n", b") R (", b"\xff\xfe", b"x" * 15, b"x" * 16, b"a\0b"])
def test_comm_is_taken_byte_for_byte_up_to_its_end(comm: bytes) -> None:
    (task,) = tasks(message(5, base(comm=comm)))
    assert task.base is not None
    assert task.base.comm == comm.split(b"\0")[0]


def test_cont_joins_the_parts_of_a_task_by_type() -> None:
    split = (
        message(5, attribute(50, b"ab"), flags=1)
        + message(5, attribute(50, b"cd"), attribute(51, b"x"), flags=1 | 2)
        + message(5, base())
        + message(6, base(6))
    )
    joined, next_one = tasks(split)
    assert joined.complete
    assert joined.flags == 2
    assert (joined.payloads[50], joined.payloads[51]) == (b"abcd", b"x")
    assert joined.base is not None
    assert (next_one.pid, set(next_one.payloads)) == (6, {0})


@pytest.mark.parametrize("what_follows", [b"", message(6, base(6))])
def test_cont_without_the_rest_is_an_incomplete_task(what_follows: bytes) -> None:
    first, *others = tasks(message(5, attribute(50, b"ab"), flags=1) + what_follows)
    assert (first.pid, first.complete, first.payloads) == (5, False, {50: b"ab"})
    assert [(task.pid, task.complete) for task in others] == ([(6, True)] if what_follows else [])


def test_threads_of_one_process_are_not_joined() -> None:
    assert [task.pid for task in tasks(message(5, tgid=5, flags=1) + message(6, tgid=5))] == [5, 6]


@pytest.mark.parametrize("cut", range(1, len(RECORDED) // 2))
def test_a_stream_cut_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(WireError, match="the stream ends inside a message"):
        tasks(RECORDED[: len(RECORDED) - cut])


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (struct.pack("=IHHII", 0, 0xD101, 2, 7, 0) + bytes(12), "a message cannot have 0 bytes"),
        (struct.pack("=IHHII", 27, 0xD101, 2, 7, 0) + bytes(12), "a message cannot have 27 bytes"),
        (struct.pack("=IHHII", 29, 0xD101, 2, 7, 0) + bytes(13), "a message cannot have 29 bytes"),
        (struct.pack("=IHHII", 28, 3, 2, 7, 0) + bytes(12), "message type 0x3 instead of 0xd101"),
        (message(5, struct.pack("=HH", 3, 0)), "an attribute of 3 bytes does not fit"),
        (message(5, struct.pack("=HH", 49, 0) + bytes(44)), "an attribute of 49 bytes does not fit"),
    ],
)
def test_a_malformed_stream_is_refused_with_its_reason(broken: bytes, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        tasks(message(4) + broken)


def test_messages_are_given_before_a_later_error_is_met() -> None:
    broken = wire.join(wire.decode(message(4) + b"\xff"))
    assert next(broken).pid == 4
    with pytest.raises(WireError):
        next(broken)


def test_joining_takes_no_more_messages_than_it_needs() -> None:
    taken: list[int] = []

    def source(give: Callable[[int], Message]) -> Iterator[Message]:
        for pid in (1, 2, 3):
            taken.append(pid)
            yield give(pid)

    joined = wire.join(source(lambda pid: Message(seq=0, pid=pid, tgid=pid, flags=0, attributes=())))
    assert next(joined).pid == 1
    assert taken == [1]


GROUPS = {
    stream.BASE: stream.base(9),
    stream.CRED: stream.cred((1, 2, 3, 4)),
    stream.STAT: stream.stat(times=(5, 6, 7, 8)),
    99: b"later",
    # What is cut comes last.
    stream.CMDLINE: bytes(range(1, 256)) * 4,
}


@pytest.mark.parametrize("seed", range(50))
def test_every_split_of_a_task_gives_the_same_record(seed: int) -> None:
    cuts = random.Random(seed)
    first, second = tasks(stream.split(9, GROUPS, cuts, flags=stream.TRUNC) + stream.split(10, GROUPS, cuts))
    assert first.payloads == second.payloads == GROUPS
    assert (first.pid, first.complete, first.flags) == (9, True, stream.TRUNC)
    assert (second.pid, second.complete, second.flags) == (10, True, 0)
    assert first.cmdline_cut
    assert not second.cmdline_cut


def test_a_group_of_which_nothing_could_be_had_is_none() -> None:
    cut = attribute(stream.BASE, stream.base(9)), attribute(stream.MEM, b"")
    first, second = tasks(
        message(9, *cut, flags=stream.TRUNC | stream.CONT)
        + message(9, attribute(stream.JOB, stream.job()))
        + message(10, attribute(stream.MEM, stream.mem()))
    )
    assert (first.mem, first.complete, first.cmdline_cut) == (None, True, False)
    assert first.cut == {Group.MEM}
    assert first.base is not None
    assert first.job is not None
    assert second.mem is not None
    assert second.cut == frozenset()
    twice = message(9, attribute(stream.MEM, b""), flags=stream.TRUNC | stream.CONT)
    (task,) = tasks(twice + message(9, attribute(stream.MEM, b""), flags=stream.TRUNC))
    assert (task.mem, task.payloads) == (None, {})


LINE = b"a\0\xff\xfe\0\n\x1b\0\xc3\xa9\0"


@pytest.mark.parametrize("second", range(len(LINE) + 1))
@pytest.mark.parametrize("first", range(len(LINE) + 1))
def test_a_command_line_is_joined_of_any_three_pieces(first: int, second: int) -> None:
    first, second = sorted((first, second))
    parts = LINE[:first], LINE[first:second], LINE[second:]
    (task,) = tasks(b"".join(stream.pieces(5, *parts)))
    assert (task.cmdline, task.cmdline_cut, task.cut) == (LINE, False, frozenset())
    assert task.complete
    assert task.base is not None
    assert task.job is not None


@pytest.mark.parametrize(
    ("parts", "flags", "line", "cut"),
    [
        ([b""], 0, b"", False),
        ([b""], stream.TRUNC, b"", True),
        ([b"a\0b"], stream.TRUNC, b"a\0b", True),
        ([b"a\0", b"b"], stream.TRUNC, b"a\0b", True),
        ([b"a\0", b"b", b""], stream.TRUNC, b"a\0b", True),
        ([b"a\0", b"b\0"], 0, b"a\0b\0", False),
        ([bytes(65528)], stream.TRUNC, bytes(65528), True),
    ],
)
def test_a_command_line_that_was_cut_is_told_from_one_that_is_short_or_empty(
    parts: list[bytes], flags: int, line: bytes, cut: bool
) -> None:
    """What comes behind it is there, and neither the task before it nor the one behind it is cut."""
    before, task, after = tasks(b"".join([*stream.pieces(4, b"x"), *stream.pieces(5, *parts, flags=flags), message(6)]))
    assert (task.cmdline, task.cmdline_cut) == (line, cut)
    assert task.cut == ({Group.CMDLINE} if cut else set())
    assert task.complete
    assert task.job is not None
    assert (before.cmdline, before.cut) == (b"x", frozenset())
    assert (after.cmdline, after.cmdline_cut, after.cut) == (None, False, frozenset())


def test_a_command_line_and_memory_can_both_be_cut() -> None:
    *lines, last = stream.pieces(5, b"a\0", b"", flags=stream.TRUNC)
    both = [*lines, message(5, attribute(stream.MEM, b""), flags=stream.TRUNC | stream.CONT), last]
    (task,) = tasks(b"".join(both))
    assert (task.cmdline, task.mem) == (b"a\0", None)
    assert task.cut == {Group.CMDLINE, Group.MEM}
    (memory,) = tasks(message(5, attribute(stream.CMDLINE, b"a\0"), attribute(stream.MEM, b""), flags=stream.TRUNC))
    assert (memory.cmdline, memory.cmdline_cut) == (b"a\0", False)
    assert memory.cut == {Group.MEM}


@pytest.mark.parametrize("what_follows", [[], stream.pieces(6, b"new\0")])
def test_a_command_line_that_never_ends_is_of_an_incomplete_task(what_follows: list[bytes]) -> None:
    begun = stream.pieces(5, b"a\0", b"b\0")[:2]
    first, *others = tasks(b"".join([*begun, *what_follows]))
    assert (first.pid, first.complete, first.cmdline, first.cmdline_cut) == (5, False, b"a\0b\0", False)
    assert [(task.pid, task.complete, task.cmdline) for task in others] == [(6, True, b"new\0")] * bool(what_follows)


def test_the_parts_of_a_task_are_joined_within_one_message_too() -> None:
    (task,) = tasks(message(9, attribute(5, b"a\0"), attribute(5, b"b\0"), attribute(5, b"")))
    assert task.cmdline == b"a\0b\0"


def test_a_stream_of_the_other_byte_order_is_told_apart() -> None:
    swapped = struct.pack("=I", 28)[::-1] + struct.pack("=H", 0xD101)[::-1] + bytes(22)
    with pytest.raises(WireError, match="the other byte order"):
        tasks(swapped)


class Pipe(io.BytesIO):
    """A file that gives little at a time, as a pipe may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(7, 7 if size is None or size < 0 else size))


@pytest.mark.parametrize("kind", [io.BytesIO, Pipe])
def test_a_recorded_file_is_read_message_by_message(kind: type[io.BytesIO]) -> None:
    assert list(wire.decode_file(kind(RECORDED * 3))) == list(wire.decode(RECORDED * 3))
    assert list(wire.decode_file(kind(b""))) == []


@pytest.mark.parametrize("cut", range(1, len(RECORDED) // 2))
def test_a_recorded_file_cut_anywhere_is_refused_where_it_was_cut(cut: int) -> None:
    messages = wire.decode_file(io.BytesIO(RECORDED[: len(RECORDED) - cut]))
    assert next(messages).pid == 1
    with pytest.raises(WireError, match=f"the stream ends inside a message.*, at byte {len(RECORDED) // 2}$"):
        next(messages)


def test_memory_does_not_grow_with_the_stream() -> None:
    class Endless(io.RawIOBase):
        part = message(5, base(), attribute(5, bytes(60000)))

        def __init__(self) -> None:
            self.given = 0

        def read(self, size: int = -1, /) -> bytes:
            at = self.given % len(self.part)
            piece = self.part[at : at + size]
            self.given += len(piece)
            return piece

    source = Endless()
    joined = wire.join(wire.decode_file(source))
    tracemalloc.start()
    try:
        for _, task in zip(range(100), joined, strict=False):
            assert task.complete
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert source.given > 100 * 60000
    assert peak < 1_000_000


def test_a_broken_length_asks_for_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="the stream ends inside a message of 4294967292 bytes"):
            list(wire.decode_file(io.BytesIO(struct.pack("=IHHII", 0xFFFFFFFC, 0xD101, 2, 7, 0))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
