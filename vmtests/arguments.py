"""A process's own command line: where it is, and how to have it somewhere else."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from vmtests import oracle, raw, syscalls


def arguments() -> tuple[int, int]:
    """Return where the caller's arguments begin and end."""
    _, fields = oracle.parse_stat(Path("/proc/self/stat").read_bytes())
    # proc(5) numbers the fields from 1, and the state is the third.
    return int(fields[48 - 3]), int(fields[49 - 3])


TITLES = (-30, -1, 0, 1, 20, 300)
"""By how many bytes titles are longer than the arguments that they are written over."""


def overwrite(extra: int) -> None:
    """Write a title over one's arguments, and so much longer, as setproctitle() does."""
    start, end = arguments()
    title = b"t" * (end - start + extra) + b"\0"
    ctypes.memmove(start, title, len(title))


def kept(memory: mmap.mmap, _for_ever: list[mmap.mmap] = []) -> int:  # noqa: B006
    """Keep memory mapped until the process ends; return where it is."""
    _for_ever.append(memory)
    return raw.address_of(memory)


def moved(content: bytes, *, before: int = 0, room: int = 0, hole: int | None = None) -> None:
    """Have one's command line somewhere else: ``content``, then ``room`` bytes that were never touched.

    It comes after ``before`` bytes of fresh memory; the page ``hole`` of it is unmapped.
    """
    size = len(content) + room
    memory = mmap.mmap(-1, before + size + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[before : before + len(content)] = content
    start = kept(memory) + before
    syscalls.set_arguments(start, start + size)
    if hole is not None:
        syscalls.munmap(start + hole * mmap.PAGESIZE, mmap.PAGESIZE)


LAYOUTS: Mapping[str, Callable[[], None]] = {
    "elsewhere": partial(moved, b"moved\0here\0"),
    "several pages": partial(moved, b"moved\0" + bytes(range(256)) * 64 + b"\0"),
    "a title of a page without end": partial(moved, b"t" * mmap.PAGESIZE * 2),
    "a title without a NUL": partial(moved, b"t" * 100),
    "a title of a page": partial(moved, b"t" * (mmap.PAGESIZE - 1) + b"\0" + b"u" * 100),
    "a title that ends early": partial(moved, b"t" * 100 + b"\0" + b"u" * mmap.PAGESIZE),
    "no title: a NUL at the end": partial(moved, b"t" * mmap.PAGESIZE * 2 + b"\0"),
    "memory that was never touched": partial(moved, b"", room=3 * mmap.PAGESIZE),
    "the rest never touched": partial(moved, b"begin\0", room=3 * mmap.PAGESIZE),
    "unmapped from the beginning": partial(moved, b"x" * 3 * mmap.PAGESIZE + b"\0", hole=0),
    "unmapped in the middle": partial(moved, b"x" * 3 * mmap.PAGESIZE + b"\0", hole=1),
    "unmapped at the end": partial(moved, b"x" * 3 * mmap.PAGESIZE + b"\0", hole=3),
    "a title with a hole": partial(moved, b"x" * 3 * mmap.PAGESIZE, hole=0),
}
"""Ways to have it somewhere else."""
