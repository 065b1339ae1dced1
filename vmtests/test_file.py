"""The contract, "The file"."""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path

import pytest

from vmtests import oracle, raw
from vmtests.credentials import ALICE, run_as, run_in_child
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import Population, wait_for
from vmtests.raw import Request
from vmtests.userfault import HeldRead

pytestmark = pytest.mark.core

FILE = Path("/proc/task-diag")


@pytest.mark.promise("F1")
def test_the_file_is_there_for_everyone() -> None:
    found = FILE.stat()
    assert stat.S_ISREG(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o666
    assert (found.st_uid, found.st_gid) == (0, 0)


@pytest.mark.promise("F1")
def test_an_unprivileged_process_can_open_it_and_ask() -> None:
    def ask() -> int:
        fd = os.open(FILE, os.O_RDWR)
        raw.ask(fd, Request())
        return len(raw.drain(fd))

    assert run_as(ALICE, ask) > 0


@pytest.mark.promise("F1")
def test_a_mount_of_processes_only_does_not_have_it() -> None:
    with Procfs(subset="pid") as procfs, pytest.raises(FileNotFoundError):
        os.stat("task-diag", dir_fd=procfs.fd)


@pytest.mark.promise("F1")
def test_every_other_mount_has_it() -> None:
    with Procfs(hidepid="2") as procfs:
        assert stat.S_IMODE(os.stat("task-diag", dir_fd=procfs.fd).st_mode) == 0o666


@pytest.mark.promise("F2")
@pytest.mark.parametrize("asked", [False, True])
def test_it_has_no_position(task_diag: int, *, asked: bool) -> None:
    if asked:
        raw.ask(task_diag, Request())
    for whence in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END):
        with pytest.raises(OSError) as caught:
            os.lseek(task_diag, 0, whence)
        assert caught.value.errno == errno.ESPIPE
    for offset in (0, 40):
        with pytest.raises(OSError) as caught:
            os.pread(task_diag, 4096, offset)
        assert caught.value.errno == errno.ESPIPE
        with pytest.raises(OSError) as caught:
            os.pwrite(task_diag, bytes(Request()), offset)
        assert caught.value.errno == errno.ESPIPE
    assert bool(raw.drain(task_diag)) is asked, "a refused call changed the request"


@pytest.mark.promise("F3")
def test_open_files_have_requests_of_their_own(world: PidNamespace) -> None:
    pid = world.number(world.sleeping())
    first, second = world.procfs.open(), world.procfs.open()
    raw.ask(first, Request(seq=1))
    raw.ask(second, Request(seq=2, show=0))
    parts = [(raw.read(first, raw.BASE), raw.read(second, raw.BARE)) for _ in range(2)]
    assert [raw.pids(part) for part, _ in parts] == [[1], [pid]]
    assert [raw.pids(part) for _, part in parts] == [[1], [pid]]
    assert {answer.seq for part, _ in parts for answer in raw.answers(part)} == {1}
    assert {answer.seq for _, part in parts for answer in raw.answers(part)} == {2}
    os.close(first)
    assert raw.read(second, 4096) == b""
    os.close(second)


@pytest.mark.promise("F3")
def test_descriptors_of_one_open_file_share_its_request(world: PidNamespace, task_diag: int) -> None:
    pid = world.number(world.sleeping())
    raw.ask(task_diag, Request())
    copy = os.dup(task_diag)
    assert raw.pids(raw.read(copy, raw.BASE)) == [1]
    os.close(copy)
    assert raw.pids(raw.read(task_diag, 4096)) == [pid]


@pytest.mark.promise("F3")
@pytest.mark.parametrize("waiting", ["read", "write"])
def test_a_read_holds_up_its_own_file_only_and_who_waits_can_be_killed(
    world: PidNamespace, machine: Population, task_diag: int, waiting: str
) -> None:
    raw.ask(task_diag, Request())
    with HeldRead(task_diag):

        def wait() -> None:
            if waiting == "read":
                raw.read(task_diag, 4096)
            else:
                raw.ask(task_diag, Request())

        waiter = machine.spawn(then=wait, state="SD")
        other = world.procfs.open()

        def ask() -> list[int]:
            raw.ask(other, Request())
            return raw.pids(b"".join(raw.drain(other)))

        # In a child, which can be killed if it waits too.
        assert run_in_child(ask) == [1]
        os.close(other)
        os.kill(waiter, signal.SIGKILL)
        machine.reap(waiter)


@pytest.mark.promise("F3", "R7", "W5")
@pytest.mark.parametrize("waiting", ["read", "write"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_signal_ends_the_wait_for_a_file(task_diag: int, machine: Population, waiting: str, *, restart: bool) -> None:
    """As the read itself: EINTR, or restarted where the handler has SA_RESTART."""
    raw.ask(task_diag, Request())
    told, teller = os.pipe()

    def handle() -> None:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.siginterrupt(signal.SIGUSR1, not restart)

    def wait() -> None:
        try:
            if waiting == "read":
                raw.read(task_diag, 4096)
            else:
                raw.ask(task_diag, Request())
        except OSError as error:
            os.write(teller, errno.errorcode[error.errno or 0].encode())
        else:
            os.write(teller, b"done")

    with HeldRead(task_diag) as held:
        waiter = machine.spawn(handle, wait)
        wait_for(lambda: _waits(waiter, task_diag), "the call to wait")
        os.kill(waiter, signal.SIGUSR1)
        if restart:
            wait_for(
                lambda: _ended(waiter) or (not _signalled(waiter) and _waits(waiter, task_diag)),
                "the call to wait again",
            )
            held.release()
        machine.reap(waiter)
    assert os.read(told, 100) == (b"EINTR" if not restart else b"done" if waiting == "read" else b"EBUSY")
    os.close(told)
    os.close(teller)


def _waits(pid: int, fd: int) -> bool:
    """Return whether the process sleeps in a system call whose first argument is ``fd``."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return len(words) > 2 and int(words[1], 16) == fd


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _signalled(pid: int) -> bool:
    status = oracle.parse_status(Path(f"/proc/{pid}/status").read_bytes())
    return int(status["ShdPnd"], 16) != 0


@pytest.mark.promise("F3")
def test_closing_gives_the_request_up(world: PidNamespace) -> None:
    fd = world.procfs.open()
    raw.ask(fd, Request())
    raw.read(fd, raw.BASE)
    os.close(fd)
    fd = world.procfs.open()
    assert raw.read(fd, 4096) == b""
    raw.ask(fd, Request())
    assert raw.pids(raw.read(fd, 4096)) == [1]
    os.close(fd)
