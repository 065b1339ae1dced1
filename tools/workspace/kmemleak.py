"""Memory of the kernel's that nothing points to any more (Documentation/dev-tools/kmemleak.rst)."""

from __future__ import annotations

import time
from pathlib import Path

from workspace.splat import TaintedError

OPTION = "CONFIG_DEBUG_KMEMLEAK"
FILE = Path("/sys/kernel/debug/kmemleak")
# Seconds: younger objects are no leaks to it yet (MSECS_MIN_AGE), and one more for a coarse clock.
AGE = 6.0


def leaks(file: Path = FILE, *, age: float = AGE) -> str:
    """Look for leaks since the last call; the kernel's report, empty if there are none.

    Raises TaintedError if it cannot be looked for.
    """
    try:
        # An object that changed since the last scan is not reported: only the second one tells.
        for _ in range(2):
            time.sleep(age)
            with file.open("r+b", buffering=0) as control:
                control.write(b"scan")
        found = file.read_text(errors="replace")
        if found:
            # What is told once is not to be told again of what comes later.
            with file.open("r+b", buffering=0) as control:
                control.write(b"clear")
        return found
    except OSError as error:
        raise TaintedError(f"nobody can say that no memory was leaked: {file}: {error.strerror}") from error
