from __future__ import annotations

import os
from pathlib import Path

import pytest

from workspace.worker import Log, TaintedError, build_id, outside


def note(name: bytes, kind: int, data: bytes) -> bytes:
    import sys

    def pad(text: bytes) -> bytes:
        return text + bytes(-len(text) % 4)

    head = b"".join(number.to_bytes(4, sys.byteorder) for number in (len(name), len(data), kind))
    return head + pad(name) + pad(data)


def test_the_build_id_is_found_among_other_notes() -> None:
    id_note = note(b"GNU\0", 3, bytes(range(20)))
    assert build_id(note(b"Linux\0", 257, b"x") + id_note) == bytes(range(20)).hex()
    assert build_id(id_note + note(b"Xen\0", 3, b"abcd")) == bytes(range(20)).hex()


@pytest.mark.parametrize("notes", [b"", b"\0" * 11, note(b"Linux\0", 3, b"abc"), note(b"GNU\0", 1, b"abc")])
def test_notes_without_a_build_id_have_none(notes: bytes) -> None:
    assert build_id(notes) == ""


def test_this_host_is_outside_of_every_guest() -> None:
    assert "runs only in a guest" in (outside(None) or "")
    assert "runs only in a guest" in (outside({"workerid": "gw0"}) or "")
    forged = {"workspace_nonce": "0123456789abcdef", "workspace_build_id": ""}
    assert "was not booted by the run" in (outside(forged) or "")


class Kmsg:
    """A kernel log in a FIFO: one write is one record, as in /dev/kmsg."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.records: list[bytes | OSError] = []
        path = folder / "kmsg"
        path.touch()
        real = os.open
        monkeypatch.setattr(os, "open", lambda _path, flags: real(path, flags))
        monkeypatch.setattr(os, "read", self._read)

    def _read(self, _descriptor: int, _size: int) -> bytes:
        if not self.records:
            raise BlockingIOError
        record = self.records.pop(0)
        if isinstance(record, OSError):
            raise record
        return record


@pytest.fixture
def kmsg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kmsg:
    return Kmsg(tmp_path, monkeypatch)


def test_a_complaint_is_raised_once_with_what_surrounds_it(kmsg: Kmsg) -> None:
    log = Log()
    kmsg.records = [b"6,1,5,-;something\n", b"4,2,6,-;WARNING: CPU: 1\n SUBSYSTEM=x\n", b"4,3,7,-;RIP: 0010:f+1\n"]
    with pytest.raises(TaintedError, match=r"something\nWARNING: CPU: 1\nRIP: 0010"):
        log.check()
    log.check()


def test_what_programs_write_into_the_log_is_no_complaint(kmsg: Kmsg) -> None:
    log = Log()
    kmsg.records = [b"13,1,5,-;vmtest: start test_WARNING: x\n", b"12,2,6,-;BUG: says a program\n"]
    log.check()


def test_a_log_that_lost_lines_fails(kmsg: Kmsg) -> None:
    log = Log()
    kmsg.records = [BrokenPipeError(32, "overwritten")]
    with pytest.raises(TaintedError, match="overflowed"):
        log.check()
