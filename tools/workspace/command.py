"""Run programs so that none outlives us: each in a session of its own, ended as a group."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workspace import tether
from workspace.errors import WorkspaceError, tells_of_no_room

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Finished:
    """A program that ended: its words, exit code (negative: signal) and output."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str


class CommandError(WorkspaceError):
    """A program failed; carries the whole :class:`Finished`."""

    def __init__(self, finished: Finished, hint: str = "") -> None:
        self.finished = finished
        tail = (finished.err.strip() or finished.out.strip()).splitlines()[-12:]
        words = shlex.join(finished.args[:6]) + (" ..." if len(finished.args) > 6 else "")
        message = f"`{words}` ended with {_ending(finished.code)}"
        if not hint and tells_of_no_room(finished.err):
            hint = "make room on the disk, and run again"
        if hint:
            message += f"; {hint}"
        super().__init__("\n    ".join([message + (":" if tail else "."), *tail]))


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def end_group(process: subprocess.Popen[Any], *, grace: float = GRACE) -> None:
    """End ``process`` and its whole group: SIGTERM, then SIGKILL after ``grace`` seconds."""
    for number, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        # The leader is gone; what it started may still be there and gets no grace.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        return


@contextlib.contextmanager
def started(
    args: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[Any] | None = subprocess.DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    text: bool = True,
    tethered: bool = False,
) -> Iterator[subprocess.Popen[Any]]:
    """Start a program in its own session; whatever happens in the block, its group is ended after it.

    If we are killed, there is no after: only a group that is ``tethered`` ends with us then, too.
    """
    words = [str(word) for word in args]
    with contextlib.ExitStack() as stack:
        descriptors: tuple[int, ...] = ()
        if tethered:
            found = shutil.which(words[0], path=(env or os.environ).get("PATH"))
            if found is None:
                raise _not_found(words[0])
            theirs, ours = os.pipe()
            for descriptor in (theirs, ours):
                stack.callback(os.close, descriptor)
            descriptors = (theirs,)
            words = [sys.executable, "-I", "-S", tether.__file__, str(theirs), *words]
        process: subprocess.Popen[Any] | None = None
        try:
            with _not_ended():
                process = subprocess.Popen(
                    words,
                    cwd=cwd,
                    env=None if env is None else dict(env),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    text=text,
                    errors="replace" if text else None,
                    start_new_session=True,
                    pass_fds=descriptors,
                )
        except BaseException as error:
            if process is not None:
                _end(process)
            if isinstance(error, FileNotFoundError):
                missing = words[0] if error.filename in (None, words[0]) else str(error.filename)
                raise _not_found(missing) from error
            raise
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        end_group(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


@contextlib.contextmanager
def _not_ended() -> Iterator[None]:
    """In the block a program may run that nobody knows of yet: what is to end us comes after it."""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # What is ignored, or ends us without a word, stays so: the program inherits the one.
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def _not_found(missing: str) -> WorkspaceError:
    return WorkspaceError(
        f"`{missing}` was not found: install it, or run tools/nox, which names the packages that are missing."
    )


def run(
    args: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
) -> Finished:
    """Run a program to its end and give what it printed, whatever its exit code."""
    words = tuple(str(word) for word in args)
    with started(
        words,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as error:
            raise WorkspaceError(f"`{shlex.join(words[:6])}` did not end within {timeout:g} s.") from error
    return Finished(words, process.returncode, out, err)


def check(
    args: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    hint: str = "",
) -> str:
    """Run a program that has to succeed; give its standard output."""
    finished = run(args, cwd=cwd, env=env, stdin=stdin, timeout=timeout)
    if finished.code != 0:
        raise CommandError(finished, hint)
    return finished.out


def follow(
    args: Sequence[str | Path],
    *,
    log: Path,
    on_line: Callable[[str], None] = lambda _: None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run a long program, which ends with us; its output goes to ``log`` as it comes, and line by line to ``on_line``.

    The :class:`Finished` has the last 200 lines as its ``out``.
    """
    words = tuple(str(word) for word in args)
    log.parent.mkdir(parents=True, exist_ok=True)
    last: list[str] = []
    with (
        log.open("w") as record,
        started(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, tethered=True) as process,
    ):
        for line in process.stdout or ():
            record.write(line)
            record.flush()
            last.append(line)
            del last[:-200]
            on_line(line.rstrip("\n"))
        process.wait()
    return Finished(words, process.returncode, "".join(last), "")
