"""Files that are whole or not there, folders that appear at once, and one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workspace.errors import WorkspaceError


def write_whole(path: Path, content: str | bytes) -> bool:
    """Replace ``path`` by ``content`` in one step; False, and untouched times, if it already says so."""
    data = content.encode() if isinstance(content, str) else content
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True


def sweep(parent: Path, prefix: str) -> None:
    """Remove the folders ``prefix*`` in ``parent`` that killed runs left; those of running ones stay."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        # Whoever works in such a folder holds a lock on it, which the kernel drops with the process.
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder in ``parent`` for the block only; those that killed runs left under ``name`` go first."""
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent, f".{name}.")
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}."))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that is made beside ``path`` and takes its name only if the block succeeds."""
    with scratch_folder(path.parent, path.name) as making:
        yield making
        making.chmod(0o755)
        # Removing takes time in which a run can be killed: half of the old must not stay under its name.
        with scratch_folder(path.parent, path.name) as old:
            with contextlib.suppress(FileNotFoundError):
                path.rename(old / "old")
            making.rename(path)


def digest(*parts: str | bytes | Path) -> str:
    """A SHA-256 over texts and the contents of files, each with its length, in order."""
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


@contextlib.contextmanager
def locked(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file ``path`` for the block; a second run at once is an error that says who has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise WorkspaceError(
                f"another run in this clone holds {what} (process {owner}): wait for it to end, or end it."
            ) from None
        file.truncate(0)
        # The lock holds without it, also where there is no room for it.
        with contextlib.suppress(OSError):
            os.write(file.fileno(), str(os.getpid()).encode())
        yield
