"""The process of a guest that runs its tests: pytest-xdist's worker, without a thread."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib.util
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from workspace.watch import SHOW
from workspace.wire import Wire

TOLD_BY = "WORKSPACE_WATCH"
"""The environment variable with the descriptor on which the watch is told."""


class Channel:
    """As much of execnet's channel as xdist's worker uses; what comes is taken in while the worker waits for it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._callback: Callable[[Any], object] | None = None
        self._end: object = None

    @property
    def gateway(self) -> Self:
        """What has an ``execmodel``."""
        return self

    @property
    def execmodel(self) -> Self:
        """What makes locks and events."""
        return self

    def RLock(self) -> contextlib.AbstractContextManager[None]:  # noqa: N802
        """A lock, for one thread."""
        return contextlib.nullcontext()

    def Event(self) -> Event:  # noqa: N802
        """An event, which nobody but the channel can bring about."""
        return Event(self)

    def send(self, message: object) -> None:
        """Send one message."""
        self._wire.send(message)

    def receive(self) -> Any:
        """Wait for one message; EOFError if none comes any more."""
        return self._wire.receive()

    def setcallback(self, callback: Callable[[Any], object], endmarker: object) -> None:
        """From now on messages are for ``callback``; behind the last it gets ``endmarker``."""
        self._callback, self._end = callback, endmarker

    def take_in(self) -> None:
        """Wait for one message and hand it on."""
        assert self._callback is not None
        try:
            message = self.receive()
        except EOFError:
            message = self._end
        self._callback(message)


class Event:
    """A flag, and a way to wait for it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._set = False

    def set(self) -> None:
        """It has happened."""
        self._set = True

    def clear(self) -> None:
        """It has not."""
        self._set = False

    def wait(self) -> None:
        """Take in messages until one of them lets it happen."""
        while not self._set:
            self._channel.take_in()


def main(words: Sequence[str]) -> None:
    """``single.py WIRE WATCH``: two descriptors."""
    wire, watch = map(int, words)
    for descriptor in (wire, watch):
        os.set_inheritable(descriptor, False)
    # Past pytest, which takes in what goes to standard error.
    faulthandler.register(SHOW, file=os.dup(sys.stderr.fileno()), all_threads=True)
    os.environ[TOLD_BY] = str(watch)
    channel = Channel(Wire(socket.socket(fileno=wire)))
    # Not as a module: pytest has to be the first to import its plugin.
    xdist = importlib.util.find_spec("xdist")
    assert xdist is not None and xdist.origin is not None
    runpy.run_path(str(Path(xdist.origin).with_name("remote.py")), {"channel": channel}, "__channelexec__")


if __name__ == "__main__":
    main(sys.argv[1:])
