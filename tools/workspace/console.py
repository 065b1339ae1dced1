"""A guest's console: read as it grows, kept in a log, and judged line by line."""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import pexpect
from pexpect.fdpexpect import fdspawn

KEPT_LINES = 40  # for the report of a test that took its guest down


class Sign(enum.Enum):
    """What one line of a console says about its guest."""

    PANIC = "panic"
    LOCKUP = "lockup"
    POWER_DOWN = "power down"


_SIGNS = (
    (Sign.PANIC, re.compile(r"Kernel panic - not syncing")),
    # The kernel's own watchdogs. Most of them panic next, by the command line; an RCU stall does not.
    (
        Sign.LOCKUP,
        re.compile(
            r"watchdog: (BUG: soft lockup|Watchdog detected hard LOCKUP)"
            r"|rcu: INFO: rcu\w* (self-)?detected .*stall"
            r"|INFO: task .{1,40} blocked for more than"
        ),
    ),
    (Sign.POWER_DOWN, re.compile(r"reboot: (Power down|Restarting system|System halted)")),
)
# A line of the kernel's has a time stamp, and may have the id of who printed it.
_KERNEL_LINE = re.compile(r"^\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?(?P<text>.*)")
# Tests may say anything to /dev/kmsg; the workspace's own lines name tests, and mean nothing else.
_OURS = "vmtest: "


def sign(line: str) -> Sign | None:
    """The sign in ``line``; only lines that the kernel printed count, not those of programs."""
    kernel = _KERNEL_LINE.match(line)
    if kernel is None or kernel["text"].startswith(_OURS):
        return None
    return next((kind for kind, pattern in _SIGNS if pattern.search(kernel["text"])), None)


class Console:
    """The read end of a console's pipe; every byte goes to ``log``, unchanged, as it comes."""

    def __init__(self, descriptor: int, log: Path, *, on_line: Callable[[str], None] = lambda _: None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = log.open("wb", buffering=0)
        self._spawn = fdspawn(descriptor, logfile=self._log, searchwindowsize=4096)
        self._on_line = on_line
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self.signs: list[Sign] = []
        self.ended = False

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spawn.close()
        self._log.close()

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._last)

    def read(self, seconds: float) -> bool:
        """Take in what comes within ``seconds``; False if nothing did. At the end ``ended`` is set."""
        if self.ended:
            return False
        found = self._spawn.expect([rb"[^\n]*\n", pexpect.EOF, pexpect.TIMEOUT], timeout=seconds)
        if found == 2:
            return False
        self.ended = found == 1
        raw = self._spawn.before if self.ended else self._spawn.after
        assert isinstance(raw, bytes)
        # Lines end in \r\r\n: one \r from the kernel, one from the terminal.
        line = raw.decode(errors="replace").rstrip("\r\n")
        if line:
            self._last.append(line)
            seen = sign(line)
            if seen is not None:
                self.signs.append(seen)
            self._on_line(line)
        return True
