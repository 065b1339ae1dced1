"""In a guest, beside the process that tests: signs of life, and deadlines.

The tests' own process has no thread for that, because it forks.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workspace.protocol import LINK, PORTS

BEAT = 1.0  # seconds between two signs of life
# Numbers that no program under test uses. SIGALRM is left to the tests, which interrupt reads with it.
TOLD = signal.SIGRTMAX - 3  # to a test: its time is over
SHOW = signal.SIGRTMAX - 4  # to a test that did not end then: say where you are
SHOWN = 0.5  # seconds for that
KMSG = Path("/dev/kmsg")


class Link:
    """The port on which the guest tells the host where it is."""

    def __init__(self, port: Path = PORTS / LINK) -> None:
        self._port = os.open(port, os.O_WRONLY | os.O_CLOEXEC)

    def say(self, **event: object) -> None:
        """One event, as a line."""
        os.write(self._port, json.dumps(event).encode() + b"\n")


class Watch(threading.Thread):
    """Watches one process, by what that says on a socket, a JSON object a line.

    An ``event`` is handed on to the host. ``deadline`` is a time of the monotonic clock in seconds, or null: when it
    has passed, the process is told by a signal; when it is passed by the seconds of ``grace``, the guest is given up.
    """

    def __init__(self, watched: socket.socket, pid: int, link: Callable[[], Link] = Link, log: Path = KMSG) -> None:
        super().__init__(name="workspace-watch", daemon=True)
        self._watched = watched
        self._pid = pid
        self._make_link = link
        self._log = log
        self._held = b""
        self._deadline: float | None = None
        self._grace = 0.0
        self._told = False
        self._test = ""

    def run(self) -> None:
        """From the first word of the process to its end."""
        if not self._take_in():
            return
        link = self._make_link()
        beat = time.monotonic()
        while True:
            for event in self._events():
                link.say(**event)
            if time.monotonic() >= beat:
                link.say(event="alive")
                beat = time.monotonic() + BEAT
            late = 0.0 if self._deadline is None else time.monotonic() - self._deadline
            if late > self._grace:
                self._show()
                link.say(event="stuck", test=self._test)
                return
            if late > 0 and not self._told:
                self._told = True
                self._signal(TOLD)
            if self._readable(BEAT / 10 if self._deadline is not None else BEAT) and not self._take_in():
                return

    def _readable(self, seconds: float) -> bool:
        return bool(select.select([self._watched], [], [], seconds)[0])

    def _take_in(self) -> bool:
        data = self._watched.recv(1 << 16)
        self._held += data
        return bool(data)

    def _events(self) -> list[dict[str, Any]]:
        *lines, self._held = self._held.split(b"\n")
        events = []
        for line in lines:
            said = json.loads(line)
            if "event" in said:
                events.append(said)
            else:
                self._deadline, self._grace, self._test = said["deadline"], said["grace"], said["test"]
                self._told = False
        return events

    def _show(self) -> None:
        self._signal(SHOW)
        time.sleep(SHOWN)
        with contextlib.suppress(OSError):
            stack = Path(f"/proc/{self._pid}/stack").read_text()
            with self._log.open("ab", buffering=0) as log:
                for line in stack.splitlines():
                    log.write(f"<5>vmtest: stuck in {line}\n".encode())

    def _signal(self, number: int) -> None:
        # To the main thread: where Python handles signals, and what is to be interrupted.
        ctypes.CDLL(None).tgkill(self._pid, self._pid, number)
