"""The worker without threads: its channel, and that it has none while pytest-xdist drives it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workspace.single import Channel
from workspace.wire import Wire

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Channel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Wire(ours), Channel(Wire(theirs))


@pytest.mark.parametrize("message", [None, 1, "é", b"\0" * 100_000, ("name", {"indices": [1, 2]}), [True, 0.5]])
def test_what_execnet_can_write_comes_as_it_was_sent(ends: tuple[Wire, Channel], message: object) -> None:
    host, worker = ends
    # More than a socket holds.
    sending = threading.Thread(target=host.send, args=(message,))
    sending.start()
    assert worker.receive() == message
    sending.join()
    sending = threading.Thread(target=worker.send, args=(message,))
    sending.start()
    assert host.receive() == message
    sending.join()


def test_messages_are_taken_in_while_an_event_is_waited_for(ends: tuple[Wire, Channel]) -> None:
    host, worker = ends
    got: list[object] = []
    event = worker.gateway.execmodel.Event()

    def take(message: object) -> None:
        got.append(message)
        if message in (2, "end"):
            event.set()

    worker.setcallback(take, endmarker="end")
    for number in (1, 2, 3):
        host.send(number)
    assert got == []
    event.wait()
    assert got == [1, 2], "the third is for later"
    event.wait()
    event.clear()
    host.finish()
    event.wait()
    assert got == [1, 2, 3, "end"]


def test_an_end_in_a_message_is_an_end(ends: tuple[Wire, Channel]) -> None:
    host, worker = ends
    host._end.sendall(b"\0\0\0\x08half")
    host.finish()
    with pytest.raises(EOFError):
        worker.receive()


TESTS = """\
import os, subprocess, sys, threading, pytest

def test_no_thread():
    assert len(os.listdir("/proc/self/task")) == threading.active_count() == 1

def test_nothing_is_inherited():
    code = "import os; print([os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')[:-1]])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, close_fds=False).stdout
    assert "socket:" not in told

def test_fails():
    assert 1 == 2

def test_dies():
    os._exit(3)

def test_comes_last():
    pass
"""


def test_a_whole_run_has_no_thread_and_reports_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "plugin.py").write_text(
        "from workspace import relay\ndef pytest_xdist_getremotemodule():\n    return relay\n"
    )
    words = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-n", "1", "test_it.py"]
    path = os.pathsep.join([str(ROOT / "tools"), str(tmp_path)])
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "2 failed, 3 passed" in done.stdout, done.stdout + done.stderr
    assert "assert 1 == 2" in done.stdout
    assert "crashed while running 'test_it.py::test_dies'" in done.stdout
