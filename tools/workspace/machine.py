"""The virtual machine: how virtme-ng is called, and how what a killed run left is found and ended."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from workspace import command, storage
from workspace.deadline import Deadline
from workspace.errors import WorkspaceError
from workspace.kernel import Kernel

# What goes wrong in the kernel has to end the guest at once, not linger in it.
WATCHFUL = (
    "oops=panic",
    "panic_on_warn=1",
    "softlockup_panic=1",
    "hung_task_panic=1",
    # The marks that tell tests apart in the kernel log are not to be rate limited.
    "printk.devkmsg=on",
    # Down to the lowest level: it is there that lockdep says that it gives up.
    "loglevel=8",
    # Room for everything that is printed between two tests: a scan that lost lines fails.
    "log_buf_len=4M",
)
# With five levels of page tables, whether memory has a shadow depends on a bit of the boot CPU's features, all of which
# are cleared for a moment while they are found out (arch/x86/kernel/cpu/common.c, identify_cpu()). An interrupt just
# then is a wild access to KASAN: one boot in some, the more the busier the host is.
_FOR_KASAN = ("no5lvl",)
# The root does not change under a guest: it may cache what it read. Python then starts twice as fast.
_CACHED_ROOT = "rootflags=version=9p2000.L,trans=virtio,access=any,msize=524288,cache=loose"
# As `vng` does: throw-away overlays, so that nothing a guest writes reaches the host.
_OVERLAYS = ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")
_UDEV = ("/usr/lib/systemd/systemd-udevd", "/lib/systemd/systemd-udevd", "/usr/bin/udevd", "/sbin/udevd")

_MOST = 16  # guests at once, unless more are asked for: each test file is collected in each of them

_DYING = 10.0  # seconds that a killed process may take to be gone, its memory given back

# How much slower than the hardware the same work may be, generously: these only stretch deadlines.
_SLOWER = {"kvm": 1.0, "tcg": 6.0}
_SLOWER_OPTIONS = {
    "CONFIG_KASAN": 2.0,
    "CONFIG_KCSAN": 4.0,
    "CONFIG_PROVE_LOCKING": 2.0,
    "CONFIG_DEBUG_KMEMLEAK": 1.5,
}


def require_tools() -> None:
    """Stop with one sentence if a program that boots guests is missing."""
    if shutil.which("qemu-system-x86_64") is None:
        raise WorkspaceError(
            "QEMU is missing, no guest can boot: install qemu-system-x86 (Debian, Ubuntu) "
            "or qemu-system-x86-core (Fedora)."
        )
    if not any(Path(udevd).exists() for udevd in _UDEV):
        raise WorkspaceError(
            "udev is missing, without it a guest finds no port to answer on: install udev (Debian, Ubuntu) "
            "or systemd-udev (Fedora)."
        )
    _virtme_run()


def _virtme_run() -> str:
    beside = Path(sys.executable).with_name("virtme-run")
    found = str(beside) if beside.exists() else shutil.which("virtme-run")
    if found is None:
        raise WorkspaceError("virtme-ng is missing: run tools/nox, which installs tools/requirements.lock.")
    return found


@dataclass(frozen=True)
class Machine:
    """A kernel and what it runs on."""

    kernel: Kernel
    accelerator: str
    cpus: int = 2

    @property
    def memory(self) -> str:
        """As QEMU takes it: KASAN's shadow, red zones and quarantine, and kmemleak's records want twice as much."""
        return "4G" if self._has_kasan else "2G"

    @property
    def at_once(self) -> int:
        """How many such guests the host bears: one for each processor, as long as there is memory, and at least one."""
        each = int(self.memory.removesuffix("G")) << 30
        # QEMU has memory of its own.
        fit = int(psutil.virtual_memory().available / (each * 1.25))
        return max(1, min(len(os.sched_getaffinity(0)), fit, _MOST))

    @property
    def _has_kasan(self) -> bool:
        return self.kernel.has("CONFIG_KASAN")

    @property
    def slowness(self) -> float:
        """Factor for every deadline: the accelerator's times that of the config's debug options."""
        slower = (factor for option, factor in _SLOWER_OPTIONS.items() if option in self.kernel.options)
        return math.prod(slower, start=_SLOWER[self.accelerator])

    def words(
        self,
        *,
        script: str | None = None,
        early: bool = True,
        options: Sequence[str] = (),
        qemu: Sequence[str] = (),
    ) -> list[str]:
        """The command: runs ``script`` (one shell line) in the guest, or a shell on the terminal if None.

        With ``early`` the serial line has the kernel's first messages, which no other console takes.
        ``options`` go to the kernel, ``qemu`` to QEMU. virtme-run is what `vng --run` calls; without the shell
        and the user's configuration file between.
        """
        if not self.kernel.image.exists():
            raise WorkspaceError(f"there is no kernel at {self.kernel.image}: build it first (nox -s build).")
        words = [_virtme_run(), "--kdir", str(self.kernel.folder), "--mods", "none", "--force-9p"]
        words += ["--disable-microvm", "--cpus", str(self.cpus), "--memory", self.memory]
        if self.accelerator == "tcg":
            words.append("--disable-kvm")
        for folder in _OVERLAYS:
            words += ["--overlay-rwdir", folder]
        if script is not None:
            words += ["--script-sh", script, "--show-boot-console"]
        else:
            # As --script-sh does by itself: a guest that panics ends.
            words += ["--kopt", "panic=-1", "--qemu-opt=-no-reboot"]
        if early:
            words.append("--verbose")
        own = _FOR_KASAN if self._has_kasan else ()
        for option in (*WATCHFUL, *own, _CACHED_ROOT, *options):
            words += ["--kopt", option]
        for word in qemu:
            words.append(f"--qemu-opt={word}")
        return words

    def environment(self, scratch: Path) -> dict[str, str]:
        """For the command; its temporary files (virtme_ret*) go to ``scratch``, which goes with the guest."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path, "TMPDIR": str(scratch)}


# Processes, by pid and start time: a pid alone may have been given to someone else.


@dataclass(frozen=True)
class Process:
    """A process of this host, for good: its pid, and its start in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has ``pid`` now."""
        with contextlib.suppress(OSError):
            return cls(pid, int(_stat(pid)[19]))
        return None

    @property
    def alive(self) -> bool:
        """True while this process, not another with its pid, is there."""
        return Process.of(self.pid) == self


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on: [0] state, [1] parent, [2] group, [19] start."""
    # The name before that may be any bytes.
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def host_boot() -> str:
    """The host's boot id: processes of another boot are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Record:
    """A running guest: who runs it, and the group its QEMU is in."""

    name: str  # random; on the command line of every process of the group
    owner: Process
    leader: Process
    boot: str

    def write(self, folder: Path) -> None:
        """Keep it in the guest's ``folder``."""
        storage.write_whole(folder / "record.json", json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The record in ``folder``, if there is a whole one."""
        try:
            data = json.loads((folder / "record.json").read_text())
            owner, leader = Process(**data["owner"]), Process(**data["leader"])
            return cls(data["name"], owner, leader, data["boot"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def members(self) -> list[int]:
        """The processes of the group that are there: by the group, and by the name in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError, IndexError):
                if int(_stat(int(entry.name))[2]) == self.leader.pid and (
                    self.name.encode() in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    def end(self) -> int:
        """End what is left of the guest; the number of processes that were."""
        if self.boot != host_boot():
            return 0
        members = self.members()
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = Deadline(_DYING)
        # Orphans are reaped by nobody whom we could ask.
        while self.members() and not deadline.expired:
            time.sleep(0.01)
        return len(members)


def sweep(guests: Path) -> int:
    """End the guests below ``guests`` whose run is gone and remove their folders; how many still ran."""
    ended = 0
    for run in sorted(guests.glob("*/")):
        records = [record for folder in run.glob("*/") if (record := Record.read(folder)) is not None]
        if _owner_alive(run):
            continue
        ended += sum(record.end() > 0 for record in records)
        shutil.rmtree(run, ignore_errors=True)
    return ended


def _owner_alive(run: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads((run / "owner.json").read_text())
        return bool(data.pop("boot") == host_boot()) and Process(**data).alive
    # Written before anything is started in the folder, so without it nothing was.
    return False


@contextlib.contextmanager
def run_folder(guests: Path, name: str) -> Iterator[Path]:
    """A folder for the guests of one run; whatever still runs in it at the end is ended, and it is removed."""
    sweep(guests)
    folder = guests / name
    folder.mkdir(parents=True)
    owner = Process.of(os.getpid())
    assert owner is not None
    storage.write_whole(folder / "owner.json", json.dumps({**asdict(owner), "boot": host_boot()}))
    try:
        yield folder
    finally:
        end_guests(folder)
        shutil.rmtree(folder, ignore_errors=True)


def end_guests(folder: Path) -> None:
    """End every guest of the run in ``folder``."""
    for guest in folder.glob("*/"):
        record = Record.read(guest)
        if record is not None:
            record.end()


@contextlib.contextmanager
def powered(
    machine: Machine,
    folder: Path,
    *,
    name: str,
    script: str | None,
    early: bool = True,
    options: Sequence[str] = (),
    qemu: Sequence[str] = (),
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | None = subprocess.DEVNULL,
    stderr: int | None = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """A guest that runs within the block, and ends with us; recorded in ``folder``, which is its scratch space too.

    Never lend it an output that is a file: QEMU truncates that, and writes over it.
    """
    owner = Process.of(os.getpid())
    words = machine.words(script=script, early=early, options=[f"workspace.guest={name}", *options], qemu=qemu)
    with command.started(
        words,
        cwd=folder,
        env=machine.environment(folder),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=False,
        tethered=True,
    ) as process:
        leader = Process.of(process.pid)
        record = None
        if owner is not None and leader is not None:
            record = Record(name, owner, leader, host_boot())
            record.write(folder)
        try:
            yield process
        finally:
            # The leader may be gone while QEMU is not: the group is ended, whoever is left of it.
            command.end_group(process, grace=1.0)
            if record is not None:
                record.end()
