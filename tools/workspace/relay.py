"""What pytest-xdist runs in a guest instead of its own worker: carries messages between that and the host.

execnet reads in a thread, and a process that has threads must not fork: whatever lock another thread holds at that
moment is held in the child for ever. So the worker, whose tests fork all the time, is a process without any.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from workspace.watch import Watch
from workspace.wire import Wire

if TYPE_CHECKING:
    import execnet


def relay(channel: execnet.Channel) -> None:
    """Start the worker, carry its messages and watch it until it ends; end as it does."""
    ours, theirs = socket.socketpair()
    watched, told = socket.socketpair()
    words = [sys.executable, "-m", "workspace.single", str(theirs.fileno()), str(told.fileno())]
    worker = subprocess.Popen(words, pass_fds=[theirs.fileno(), told.fileno()])
    for end in (theirs, told):
        end.close()
    Watch(watched, worker.pid).start()
    wire = Wire(ours)

    def carry(message: object) -> None:
        with contextlib.suppress(OSError):
            if message is None:
                wire.finish()
            else:
                wire.send(message)

    channel.setcallback(carry, endmarker=None)
    with contextlib.suppress(EOFError, OSError):
        while True:
            channel.send(wire.receive())
    if worker.wait() != 0:
        # As a worker of xdist's own that dies: nothing is left that could answer.
        os._exit(1)


if __name__ == "__channelexec__":
    relay(channel)  # type: ignore[name-defined]  # noqa: F821
