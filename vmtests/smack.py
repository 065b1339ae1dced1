"""Smack: labels of processes, and rules on who may do what to whom (Documentation/admin-guide/LSM/Smack.rst)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vmtests import syscalls
from vmtests.credentials import Credentials, run_in_child

T = TypeVar("T")

FLOOR = "_"
"""The label of all that nobody labelled; everyone may read it."""

_LABEL = Path("/proc/thread-self/attr/smack/current")


def relabel(label: str) -> None:
    """Give the calling thread a label, which what it forks has too. Needs CAP_MAC_ADMIN."""
    _LABEL.write_text(label)


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Have the calling thread make processes with a label."""
    before = label_of(os.getpid())
    relabel(label)
    try:
        yield
    finally:
        relabel(before)


def label_of(pid: int) -> str:
    """Return the label of a process."""
    return Path(f"/proc/{pid}/attr/smack/current").read_text().rstrip("\n\0")


class Rules:
    """The rule book; a rule that was written stays for as long as the kernel runs."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def allow(self, subject: str, object_: str, access: str, *, own: bool = False) -> None:
        """Let what is labelled ``subject`` do to ``object_`` what the letters (rwxatlb) say, and nothing else.

        A rule of the caller's ``own`` holds for it and its children, and forbids only.
        """
        book = os.open("load-self2" if own else "load2", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            os.write(book, f"{subject} {object_} {access}".encode())
        finally:
            os.close(book)


@contextmanager
def rules() -> Iterator[Rules]:
    """Open the rule book."""
    fd = syscalls.mount("smackfs")
    try:
        yield Rules(fd)
    finally:
        os.close(fd)


def run_labelled(label: str, who: Credentials, function: Callable[[], T]) -> T:
    """Run ``function`` in a child that has ``label`` and is ``who``; return its result, or raise its exception."""

    def taken() -> T:
        relabel(label)
        who.take()
        return function()

    return run_in_child(taken)
