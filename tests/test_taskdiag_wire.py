"""The client's decoding, on streams built here byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from taskdiag import wire
from taskdiag.uapi import Group, State, Strategy
from taskdiag.wire import Base, Message, Task, WireError

# One answer to ALL with BASE for two tasks, as a little-endian kernel writes it.
RECORDED = bytes.fromhex(
    "4c00000001d10200070000000000000001000000010000000000000030000000"
    "01000000010000000000000000000000010000000100000001"
    "73797374656d64000000000000000000000000"
    "4c00000001d10200070000000000000002000000020000000000000030000000"
    "02000000020000000000000000000000000000000000000001"
    "6b746872656164640000000000000000000000"
)


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def message(pid: int, *attributes: bytes, flags: int = 0, tgid: int | None = None, seq: int = 7) -> bytes:
    body = struct.pack("=III", pid, pid if tgid is None else tgid, flags) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 0xD101, 2, seq, 0) + body


def base(pid: int = 5, *, state: int = 1, comm: bytes = b"sh", more: bytes = b"") -> bytes:
    return attribute(0, struct.pack("=6IB16s3x", pid, pid, 1, 0, 3, 4, state, comm) + more)


def tasks(stream: bytes) -> list[Task]:
    return list(wire.join(wire.decode(stream)))


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
    stream = (
        message(5, attribute(50, b"ab"), flags=1)
        + message(5, attribute(50, b"cd"), attribute(51, b"x"), flags=1 | 2)
        + message(5, base())
        + message(6, base(6))
    )
    joined, next_one = tasks(stream)
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
    stream = wire.join(wire.decode(message(4) + b"\xff"))
    assert next(stream).pid == 4
    with pytest.raises(WireError):
        next(stream)


def test_joining_takes_no_more_messages_than_it_needs() -> None:
    taken: list[int] = []

    def source(give: Callable[[int], Message]) -> Iterator[Message]:
        for pid in (1, 2, 3):
            taken.append(pid)
            yield give(pid)

    joined = wire.join(source(lambda pid: Message(seq=0, pid=pid, tgid=pid, flags=0, attributes=())))
    assert next(joined).pid == 1
    assert taken == [1]
