"""The oracle's parsing of /proc, on this machine's own processes and on text made up."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator

import pytest
from vmtests import oracle

PR_SET_NAME = 15


@pytest.fixture
def proc() -> Iterator[int]:
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "comm",
    [
        b"",
        b" ",
        b"a b",
        b"\n",
        b"a\nState:\tX",
        b")",
        b"(x) R 1 1 (",
        b") Z 0 0",
        b"\\",
        b"\\n",
        b"\r\x0b\x85\xff",
    ],
)
def test_an_odd_name_is_read_byte_for_byte(proc: int, comm: bytes) -> None:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(comm), 0, 0, 0)
        os.write(theirs, b"x")
        signal.pause()
        os._exit(0)
    try:
        os.read(ours, 1)
        process = oracle.process(proc, pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ours)
        os.close(theirs)
    assert process.name == comm
    assert (process.pid, process.tgid, process.ppid, process.tpid) == (pid, pid, os.getpid(), 0)
    assert (process.sid, process.pgid) == (os.getsid(0), os.getpgid(0))
    assert process.letter in "RS"
    assert not process.kernel_thread


def test_the_name_in_stat_ends_at_the_last_parenthesis() -> None:
    name, fields = oracle.parse_stat(b"7 (a) S (b) R 1 2 3\n")
    assert name == b"a) S (b"
    assert fields == [b"R", b"1", b"2", b"3"]


def test_status_unescapes_the_name_and_nothing_else() -> None:
    status = oracle.parse_status(b"Name:\ta\\nb\\\\n\\t\nState:\tS (sleeping)\nGroups:\t \nx:\ty\\n\n")
    assert status["Name"] == b"a\nb\\n\\t"
    assert status["State"] == b"S (sleeping)"
    assert status["x"] == b"y\\n"


def test_readdir_has_this_process_and_numbers_only(proc: int) -> None:
    listed = oracle.listed(proc)
    assert os.getpid() in listed
    assert len(set(listed)) == len(listed)


def test_threads_are_listed(proc: int) -> None:
    assert os.getpid() in oracle.threads(proc, os.getpid())


def test_a_process_that_is_not_there_is_an_error(proc: int) -> None:
    with pytest.raises(FileNotFoundError):
        oracle.process(proc, 0)
