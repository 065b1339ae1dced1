"""Run a program whose process group is killed once the pipe to whoever started it ends, however they went.

``tether.py DESCRIPTOR PROGRAM WORD...``: the program takes the place of this process, and the group's leader's with it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

# In the group itself, so that the group's number cannot have become another's. It outlives a polite end of the
# others, who have a moment more to go.
_END = "trap '' TERM; read -r _; kill -s KILL 0"


def main(descriptor: int, words: list[str]) -> None:
    """Leave a process that waits for the pipe's end, and become the program."""
    os.set_inheritable(descriptor, False)
    # It holds nothing else open: others wait for the ends of the program's output.
    files = [
        (os.POSIX_SPAWN_DUP2, descriptor, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    os.posix_spawn("/bin/sh", ["sh", "-c", _END], {}, file_actions=files)
    # Python ignores these, and what is ignored stays so in the program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    # Not os.environ: in the locale C, Python gives itself, and so the program, another (PEP 538).
    given = Path("/proc/self/environ").read_bytes().split(b"\0")
    os.execvpe(words[0], words, dict(entry.split(b"=", 1) for entry in given if b"=" in entry))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
