"""Files from a web server: resumed when the connection breaks, kept only if their sum is right."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from workspace.errors import WorkspaceError
from workspace.progress import Progress

CONNECT = 5.0  # seconds; a machine without a route to the server must not wait for long
STALL = 30.0  # seconds without a byte
PIECE = 1 << 18  # bytes
NETWORK_ERRORS = (OSError, http.client.HTTPException)


class UnavailableError(WorkspaceError):
    """A source cannot be had from here and now; another may be."""


def text(url: str) -> str:
    """A small text file.

    Raises:
        UnavailableError: no route, no answer, or an answer that is an error.
    """
    try:
        with urllib.request.urlopen(url, timeout=CONNECT) as answer:
            return str(answer.read().decode(errors="replace"))
    except NETWORK_ERRORS as error:
        raise UnavailableError(f"{url}: {_reason(error)}") from error


def verify(path: Path, sha256: str) -> None:
    """Hold a file against its sum; a file that differs is removed.

    Raises:
        WorkspaceError: the file is altered or truncated.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.unlink()
        raise WorkspaceError(
            f"{path.name} was altered or truncated (SHA-256 {found[:16]}..., published {sha256[:16]}...) "
            "and has been removed: run again to download it anew."
        )


def file(url: str, target: Path, *, sha256: str) -> None:
    """Download ``url`` to ``target``, going on where an earlier run stopped.

    Raises:
        UnavailableError: the server cannot be reached, or breaks off again and again.
        WorkspaceError: what arrived does not have the sum; nothing of it is kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            whole = _fetch(url, part, before)
            broken: Exception | None = None
        except NETWORK_ERRORS as error:
            whole, broken = False, error
        if whole:
            break
        # A connection that breaks is taken up again for as long as each attempt brings the end nearer.
        if not part.exists() or part.stat().st_size <= before:
            reason = _reason(broken) if broken else "the connection breaks off without a byte"
            raise UnavailableError(f"{url}: {reason}") from broken
    verify(part, sha256)
    part.replace(target)


def _fetch(url: str, part: Path, start: int) -> bool:
    """One attempt to get the rest of a file; True if the server sent all that it announced."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            part.unlink()
            return _fetch(url, part, 0)
        raise
    with answer:
        resumed = answer.status == http.client.PARTIAL_CONTENT and _starts_at(answer, start)
        length = answer.headers.get("Content-Length")
        done = start if resumed else 0
        total = done + int(length) if length else None
        with _written(part, "ab" if resumed else "wb") as write, Progress(part.stem, total=total, unit="B") as bar:
            bar.advance(done)
            while piece := answer.read(PIECE):
                write(piece)
                done += len(piece)
                bar.advance(len(piece))
    return total is None or done == total


@contextlib.contextmanager
def _written(part: Path, mode: Literal["ab", "wb"]) -> Iterator[Callable[[bytes], None]]:
    """A way to write ``part``; what fails here is this machine's, and no other source would help."""

    def failed(error: OSError) -> WorkspaceError:
        return WorkspaceError(
            f"{part} cannot be written ({error.strerror}): make room for it, and run again; what has arrived is kept."
        )

    def write(piece: bytes) -> None:
        left = memoryview(piece)
        try:
            while left:
                left = left[out.write(left) :]
        except OSError as error:
            raise failed(error) from error

    try:
        out = part.open(mode, buffering=0)
    except OSError as error:
        raise failed(error) from error
    with out:
        yield write


def _starts_at(answer: http.client.HTTPResponse, start: int) -> bool:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == start


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause) or type(cause).__name__
