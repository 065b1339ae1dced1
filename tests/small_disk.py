"""A disk of a test's own that can be filled: a function of the test's file is run on it, in a process of its own."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# A mount that is shared has reached other namespaces as well, and would outlive the test.
_MOUNT = """\
mount -t tmpfs -o "size=$1" small-disk "$2" || exit
if grep -q " $2 .* shared:" /proc/self/mountinfo; then
    umount "$2"
    echo "a mount on $2 is seen by others" >&2
    exit 1
fi
shift 2 && exec "$@"
"""


def on_small_disk(function: Callable[[Path], None], folder: Path, *, size: str) -> None:
    """Call ``function`` with the path of an empty disk of ``size``, which only its process sees; it has to return."""
    folder.mkdir()
    mount = [*_way_to_mount(folder, size), "sh", "-c", _MOUNT, "sh", size, str(folder)]
    module = Path(inspect.getfile(function)).stem
    call = f"import sys, pathlib, {module}; {module}.{function.__name__}(pathlib.Path(sys.argv[1]))"
    done = subprocess.run(
        [*mount, sys.executable, "-c", call, folder],
        env={**os.environ, "PYTHONPATH": f"{HERE.parent / 'tools'}:{HERE}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _way_to_mount(folder: Path, size: str) -> list[str]:
    """How a process gets mounts of its own here; the test is skipped where none can be had."""
    # A mount of one's own needs no rights in a user namespace of one's own. In a chroot whose root is no mount point
    # nothing can be made private, and need not be if it is.
    ways: list[list[str]] = (
        [[], ["--propagation", "unchanged"]] if os.geteuid() == 0 else [["--user", "--map-root-user"]]
    )
    said: dict[str, None] = {}
    for way in ways:
        unshare = ["unshare", "--mount", *way]
        tried = subprocess.run(
            [*unshare, "sh", "-c", _MOUNT, "sh", size, folder, "true"], capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            return unshare
        said |= dict.fromkeys(tried.stderr.strip().splitlines()[-1:])
    pytest.skip(f"a process cannot mount a disk of its own here, in a container or a chroot ({'; '.join(said)})")


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
