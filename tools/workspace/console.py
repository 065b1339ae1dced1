"""A guest's console: read as it grows, kept in a log, and judged line by line."""

from __future__ import annotations

import enum
import os
import re
import select
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

KEPT_LINES = 40  # for the report of a test that took its guest down
PIECE = 1 << 16  # bytes that are taken in at once
LINE_LIMIT = 1 << 16  # bytes, after which a line counts as ended
LINE_SHOWN = 4096  # characters of a line that are kept for the report
LOG_LIMIT = 64 << 20  # bytes of a console's log


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
            r"watchdog: (BUG: soft lockup|CPU\d+: Watchdog detected hard LOCKUP)"
            r"|INFO: rcu\w* (self-)?detected .*stall"
            r"|INFO: task .{1,40} blocked( in I/O wait)? for more than"
        ),
    ),
    (Sign.POWER_DOWN, re.compile(r"reboot: (Power down|Restarting system|System halted)")),
)
# A line of the kernel's has a time stamp, and may have the id of who printed it.
_STAMP = re.compile(r"\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")
# Tests may say anything to /dev/kmsg; the workspace's own lines name tests, and mean nothing else.
_OURS = "vmtest: "


def kernel_messages(line: str) -> list[str]:
    """What the kernel printed in ``line``, without the time stamps: several messages if one tore another.

    What programs print is left out, before the first stamp or without one.
    """
    return [text for text in _STAMP.split(line)[1:] if not text.startswith(_OURS)]


def sign(line: str) -> Sign | None:
    """The first sign in ``line``; only what the kernel printed counts."""
    texts = kernel_messages(line)
    return next((kind for text in texts for kind, pattern in _SIGNS if pattern.search(text)), None)


class Console:
    """The read end of a console's pipe; every byte goes to ``log``, unchanged, as it comes.

    A guest may print without end, and lines without end: memory and log are bounded.
    """

    def __init__(self, descriptor: int, log: Path, *, on_line: Callable[[str], None] = lambda _: None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = descriptor
        self._log: IO[bytes] = log.open("wb", buffering=0)
        self._room = LOG_LIMIT
        self._begun = b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._on_line = on_line
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self.signs: list[Sign] = []
        self.heard = False
        self.ended = False

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        self._log.close()

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join(self._last)

    def read(self, seconds: float) -> bool:
        """Take in what comes within ``seconds``; False if nothing did. At the end ``ended`` is set."""
        if self.ended or not self._poll.poll(1000 * seconds):
            return False
        data = os.read(self._descriptor, PIECE)
        self._keep(data)
        *lines, self._begun = (self._begun + data).split(b"\n")
        if not data:
            self.ended = True
        if self.ended or len(self._begun) > LINE_LIMIT:
            lines.append(self._begun)
            self._begun = b""
        for line in lines:
            self._take_in(line)
        return True

    def _keep(self, data: bytes) -> None:
        if not data or self._room <= 0:
            return
        self._room -= len(data)
        try:
            self._log.write(data[: self._room + len(data)])
            if self._room <= 0:
                self._log.write(f"\n(The guest printed more than {LOG_LIMIT >> 20} MiB: no more is kept.)\n".encode())
        except OSError as error:
            # The guest is judged all the same; its last lines tell the reader why the log does not go on.
            self._room = 0
            self._last.append(f"(The console's log cannot be written any more: {error.strerror}.)")

    def _take_in(self, raw: bytes) -> None:
        # Lines end in \r\r\n: one \r from the kernel, one from the terminal.
        line = raw.decode(errors="replace").rstrip("\r\n")
        if line:
            self._last.append(line[:LINE_SHOWN])
            self.heard = self.heard or bool(kernel_messages(line))
            seen = sign(line)
            if seen is not None and seen not in self.signs:
                self.signs.append(seen)
            self._on_line(line)
