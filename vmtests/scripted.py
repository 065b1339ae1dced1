"""A population that is the same each time, and what ``/proc/PID/*`` says of it: to compare two kernels.

Run it in a guest of each, without address space randomization; what they print is to be the same. Fields that differ
from one run to the next, as times and page faults do, are left out.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
from functools import partial

from vmtests import oracle, syscalls
from vmtests.arguments import LAYOUTS, TITLES, overwrite
from vmtests.credentials import ALICE
from vmtests.namespaces import PidNamespace
from vmtests.population import rename, start_threads, wait_for

LENGTHS = (0, 1, 100, 4072, 4095, 4096, 5000, 100_000)
"""Of arguments."""
PIECES = (1, 2, 3, 7, 64, 4095, 4096, 200_000)
"""The sizes of reads of ``cmdline``, one from each offset near both of its ends and the pages' ends."""
# proc(5) numbers them from 1: page faults, times, start, rss, CPU, waits for a disk, times of guests.
_MOVING_IN_STAT = frozenset({*range(10, 18), 22, 24, 39, 42, 43, 44})
_MOVING_IN_STATM = frozenset({1, 2})
_MOVING_IN_STATUS = re.compile(r"^(VmHWM|VmRSS|Rss\w+|VmPTE|SigQ|(non)?voluntary_ctxt_switches):.*\n", re.MULTILINE)


def stop_with(*words: bytes) -> None:
    """Execute a shell with these arguments, which stops itself."""
    os.execv("/bin/sh", [b"sh", b"-c", b"kill -STOP $$", *words])


def populate(world: PidNamespace) -> None:
    """Make the processes; all of them come to rest."""
    for length in LENGTHS:
        os.waitpid(world.spawn(then=partial(stop_with, b"x" * length)), os.WUNTRACED)
    os.waitpid(world.spawn(then=partial(stop_with, b"", b"two\n words", b"", b"")), os.WUNTRACED)
    for extra in TITLES:
        world.stopped(partial(overwrite, extra))
    for layout in LAYOUTS.values():
        world.stopped(layout)
    world.zombie()
    world.sleeping(comm=b"a ) name\n\\")
    world.sleeping(who=ALICE)
    world.stopped(lambda: os.nice(5))
    world.stopped(lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN))
    world.stopped(lambda: syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0), who=ALICE)
    world.traced()
    world.stopped(partial(start_threads, 3, partial(rename, b"thread")))


def told(proc: int, task: str) -> str:
    """Return what the files of a task say."""
    before, fields = oracle.parse_stat(oracle.content(proc, f"{task}/stat"))
    # The state is the third.
    numbers = [field.decode() for at, field in enumerate(fields, 3) if at not in _MOVING_IN_STAT]
    sizes = oracle.content(proc, f"{task}/statm").decode().split()
    status = oracle.content(proc, f"{task}/status").decode(errors="surrogateescape")
    return "\n".join(
        [
            f"{task} stat {before!r} {' '.join(numbers)}",
            f"{task} statm {' '.join(size for at, size in enumerate(sizes) if at not in _MOVING_IN_STATM)}",
            f"{task} status {_MOVING_IN_STATUS.sub('', status)!r}",
            f"{task} cmdline {_cmdline(proc, task)}",
        ]
    )


def _cmdline(proc: int, task: str) -> str:
    whole = oracle.content(proc, f"{task}/cmdline")
    digest = hashlib.sha256()
    fd = os.open(f"{task}/cmdline", os.O_RDONLY, dir_fd=proc)
    try:
        near = {*range(70), *range(len(whole) - 70, len(whole) + 70), *range(4090, 4100), *range(8190, 8195)}
        for offset in sorted(near):
            for size in PIECES if offset >= 0 else ():
                piece = os.pread(fd, size, offset)
                digest.update(b"%d %d %d\n" % (offset, size, len(piece)) + piece)
    finally:
        os.close(fd)
    return f"{len(whole)} {whole[:100]!r} {hashlib.sha256(whole).hexdigest()} in pieces {digest.hexdigest()}"


def main() -> None:
    """Print a line for each file."""
    with PidNamespace() as world:
        populate(world)
        proc = world.procfs.fd
        pids = world.procfs.listed()
        for pid in pids:
            wait_for(lambda pid=pid: oracle.letter(proc, pid) in "STtZ", f"rest of {pid}")  # type: ignore[misc]
            print(told(proc, str(pid)))
            for thread in sorted(oracle.threads(proc, pid)):
                print(told(proc, f"{pid}/task/{thread}"))
        print(len(pids), "processes")


if __name__ == "__main__":
    main()
