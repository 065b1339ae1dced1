"""A disk of a test's own that can be filled: a function of the test's file is run on it, in a process of its own."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
_MOUNT = 'mount -t tmpfs -o "size=$1" small-disk "$2" && shift 2 && exec "$@"'


def on_small_disk(function: Callable[[Path], None], folder: Path, *, size: str) -> None:
    """Call ``function`` with the path of an empty disk of ``size``, which only its process sees; it has to return."""
    folder.mkdir()
    # A mount of one's own needs no rights in a user namespace of one's own.
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    module = Path(inspect.getfile(function)).stem
    call = f"import sys, pathlib, {module}; {module}.{function.__name__}(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [*unshare, "sh", "-c", _MOUNT, "sh", size, folder, sys.executable, "-c", call, folder],
        env={**os.environ, "PYTHONPATH": f"{HERE.parent / 'tools'}:{HERE}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def filled(disk: Path, *, leave: int) -> Iterator[None]:
    """Fill the disk up to ``leave`` bytes, for the block."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - leave)
    try:
        yield
    finally:
        filler.unlink()
