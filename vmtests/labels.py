"""What tests of security modules with labels have in common: who is seen, and a process whose threads differ."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from vmtests import oracle, pieces, raw
from vmtests.namespaces import PidNamespace, Procfs
from vmtests.population import pause, rename, start_threads
from vmtests.raw import ONE, Request

Label = Callable[[], object]
"""Gives the calling thread a label."""


def may_read(procfs: Procfs, number: int) -> bool:
    """Return whether whoever calls can open and read ``stat`` of a process."""
    try:
        return bool(oracle.content(procfs.fd, f"{number}/stat"))
    except PermissionError:
        return False


def ask(procfs: Procfs, request: Request) -> list[int] | str:
    """Open, as whoever calls; return whom the answer has, in its order, or the name of the error."""
    fd = procfs.open()
    try:
        raw.ask(fd, request)
        return raw.pids(b"".join(raw.drain(fd)))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Family:
    """A process that has a thread with another label, and a child with its own; all are numbers of the namespace."""

    world: PidNamespace
    number: int
    thread: int
    child: int

    @classmethod
    def of(cls, world: PidNamespace, leader: Label, other: Label) -> Family:
        """Make them."""

        def live() -> None:
            leader()
            start_threads(1, other)
            if os.fork() == 0:
                pause()

        number = world.number(world.spawn(live))
        (thread,) = set(oracle.threads(world.procfs.fd, number)) - {number}
        (child,) = oracle.children(world.procfs.fd, number)
        return cls(world, number, thread, child)

    def asked(self) -> dict[str, list[int] | str]:
        """Return whom whoever calls sees, by what is asked for."""
        requests = {
            "leader": Request(strategy=ONE, pid=self.number),
            "thread": Request(strategy=ONE, pid=self.thread),
            "all threads": Request(strategy=raw.ALL_THREAD, start=self.number),
            "threads": Request(strategy=raw.THREAD, pid=self.number),
            "children": Request(strategy=raw.CHILDREN, pid=self.number),
        }
        return {name: ask(self.world.procfs, request) for name, request in requests.items()}

    def wanted(self, *, leader_seen: bool) -> dict[str, list[int] | str]:
        """Return whom an opener has to see that may read the leader and the child, or else the thread."""
        if leader_seen:
            everyone = sorted([self.number, self.child])
            own = {"leader": [self.number], "threads": [self.number], "children": [self.child]}
            return {"thread": "ESRCH", "all threads": everyone, **own}
        nobody = dict.fromkeys(("leader", "threads", "children"), "ESRCH")
        return {"thread": [self.thread], "all threads": [self.thread], **nobody}


def changing(world: PidNamespace, shown: Label, hidden: Label) -> None:
    """Make a process that changes its label all the time, and has the name "secret" only while it is hidden."""

    def live() -> NoReturn:
        while True:
            rename(b"public")
            shown()
            hidden()
            rename(b"secret")

    world.spawn(then=live)


def names(world: PidNamespace) -> set[bytes]:
    """Return the names that whoever calls sees in many dumps, but for that of process 1."""
    fd = world.procfs.open()
    found = set()
    for _ in range(3000):
        raw.ask(fd, Request(start=2, show=raw.SHOW_BASE | 1 << 4))
        for groups in pieces.payloads(b"".join(raw.drain(fd))).values():
            found.add(groups[0][25:41].rstrip(b"\0"))
    return found
