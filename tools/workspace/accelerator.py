"""KVM or emulation: the one that boots the kernel, not the one whose device file opens."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from workspace import command, machine, storage
from workspace.console import Console, Sign
from workspace.deadline import Deadline
from workspace.errors import WorkspaceError
from workspace.kernel import Kernel
from workspace.machine import Machine
from workspace.progress import say
from workspace.settings import Paths

NAMES = ("kvm", "tcg")
DEADLINE = 20.0  # seconds; where KVM works, user space is reached in 2
_KVM = Path("/dev/kvm")


def choose(kernel: Kernel, *, paths: Paths, wanted: str | None = None, device: Path = _KVM) -> str:
    """``wanted``, or the accelerator that boots ``kernel``: asked once for each boot of the host and QEMU."""
    if wanted is not None:
        if wanted not in NAMES:
            raise WorkspaceError(f"--accel {wanted}: there are {' and '.join(NAMES)}.")
        return wanted
    memory = paths.build / "accelerator.json"
    key = f"{machine.host_boot()} {_qemu_version()}"
    known = _remembered(memory, key)
    if known is None:
        known = _unusable(device)
        lasting = True
        if known is None:
            known, lasting = probe(kernel, paths=paths, seconds=DEADLINE)
        if lasting:
            storage.write_whole(memory, json.dumps({"key": key, "obstacle": known}))
    if known:
        say(f"No KVM ({known}): guests are emulated (TCG), several times slower. --accel kvm overrides.")
        return "tcg"
    return "kvm"


def _remembered(memory: Path, key: str) -> str | None:
    """What stood in KVM's way, "" if nothing did, None if that is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads(memory.read_text())
        if data["key"] == key:
            return str(data["obstacle"])
    return None


def _qemu_version() -> str:
    return command.check(["qemu-system-x86_64", "--version"]).partition("\n")[0]


def _unusable(device: Path) -> str | None:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {device}"
    except OSError as error:
        return f"{device} does not open: {error.strerror}"
    return None


def probe(kernel: Kernel, *, paths: Paths, seconds: float, told: Callable[[str], None] = say) -> tuple[str, bool]:
    """Boot ``kernel`` under KVM: what stood in the way ("" if nothing), and whether that may be remembered."""
    told(f"Trying KVM: one boot, at most {seconds:.0f} s, once on this host.")
    name = secrets.token_hex(8)
    word = f"reached-{name}"
    into, out = os.pipe()
    with (
        machine.run_folder(paths.guests, name) as folder,
        Console(into, paths.logs / "kvm-probe.log") as console,
        machine.powered(Machine(kernel, "kvm"), folder, name=name, script=f"echo {word} >/dev/kmsg", stderr=out),
    ):
        os.close(out)
        deadline = Deadline(seconds)
        while not deadline.expired and not console.ended:
            console.read(min(0.5, deadline.remaining))
            if word in console.tail:
                return "", True
        if Sign.PANIC in console.signs:
            # The kernel's fault, or what it is asked to run on: another kernel may fare better.
            return "", False
        how = "QEMU gave up" if console.ended else f"a guest hangs: no user space within {seconds:.0f} s"
        return f"/dev/kvm opens, but {how}; {paths.logs / 'kvm-probe.log'} has its console", True
