"""A stand-in for virtme-run: no kernel, but the console, the link and the work of a guest, as told by a mode."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from workspace import machine
from workspace.guest import Run
from workspace.kernel import Kernel
from workspace.machine import Machine

_PROGRAM = """#!{python}
import json, os, stat, sys, time
for output in (1, 2):
    if stat.S_ISREG(os.fstat(output).st_mode):
        os.ftruncate(output, 0)  # as QEMU does
mode = open({mode!r}).read()
options = dict(word.partition("=")[::2] for word in sys.argv)
start = time.monotonic()

def console(text):
    for line in text.splitlines():
        os.write(2, f"[{{time.monotonic() - start:12.6f}}] {{line}}\\r\\r\\n".encode())

def link(event, **facts):
    with open("link.jsonl", "a") as file:
        file.write(json.dumps(dict(facts, event=event)) + "\\n")

def forever():
    while True:
        time.sleep(60)

def killed():
    os.kill(os.getpid(), 9)

if mode == "silent":
    forever()
if mode == "is killed at once":
    killed()
if mode == "gone":
    os.write(2, b"qemu: cannot set up guest memory\\n")
    sys.exit(1)
console("Linux version 7.3.4")
if mode == "panics at boot":
    console("Kernel panic - not syncing: VFS: Unable to mount root fs\\n---[ end Kernel panic")
    sys.exit(255)
if mode == "stops at boot":
    forever()
if mode == "is killed at boot":
    killed()
if mode == "reaches":
    console(next(word for word in sys.argv if word.startswith("echo ")).split()[1])
    sys.exit(0)
if mode.startswith("runs"):
    # The port is a FIFO here. The console stays open meanwhile, as QEMU holds it.
    with open("run.sh", "rb") as file:
        lines = file.read()
    fifo = os.fsencode(os.path.abspath("stderr"))
    lines = lines.replace(b"exec 2>/dev/virtio-ports/workspace.stderr", b"exec 2>" + fifo)
    with open("here.sh", "wb") as file:
        file.write(lines)
    os.spawnlp(os.P_WAIT, "sh", "sh", "here.sh")
    if "panics" in mode:
        console("Kernel panic - not syncing: sysrq triggered crash")
    if "locks up" in mode:
        console("watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [python:76]")
        forever()
    if "powers off" in mode:
        console("reboot: Power down")
    sys.exit(0)
link("boot")
if mode == "no python":
    link("done")
    forever()
if mode == "slow python":
    forever()
if mode == "is killed before pytest":
    killed()
if mode == "works":
    # What runs in the guest says where it is as it does there, and may end the guest or who watches it.
    told = os.path.abspath("link.jsonl")
    os.environ.update(GUEST_LINK=told, GUEST_WATCHER=str(os.getppid()))
    with open("run.sh") as file:
        lines = file.read().replace(">/dev/virtio-ports/workspace.link", f">>{{told}}")
    os.spawnlp(os.P_WAIT, "sh", "sh", "-c", lines)
    forever()
if mode == "echoes":
    link("alive")
    while data := os.read(0, 65536):
        os.write(1, data)
    link("done")
    forever()
link("alive")
link("test", test="test_x.py::test_y")
if mode == "panics":
    console("sysrq: Trigger a crash\\nKernel panic - not syncing: sysrq triggered crash\\n  panic+0x4f/0x50")
    sys.exit(255)
if mode == "panics and stays":
    console("Kernel panic - not syncing: Fatal exception")
    forever()
if mode == "locks up":
    console("watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [python:76]")
    forever()
if mode == "is killed":
    killed()
if mode == "is killed between tests":
    link("test", test=None)
    killed()
if mode == "is killed in a line":
    os.write(2, b"[    1.000000] BUG: KASAN: slab-out-of-b")
    killed()
if mode == "is killed in an event":
    with open("link.jsonl", "a") as file:
        file.write('{{"event": "te')
    killed()
if mode == "says what is no event":
    with open("link.jsonl", "a") as file:
        file.write('7\\n[]\\n"test"\\n{{"event": "test"}}\\n')
    link("test", test="test_x.py::test_y")
    link("stuck", test="test_x.py::test_y")
    forever()
if mode == "loses its leader":
    # As when virtme-run is killed: QEMU goes on, and holds the console.
    if os.fork():
        killed()
    forever()
if mode == "floods":
    line = b"[    1.000000] a line of a driver that never stops\\r\\r\\n" * 1000
    while True:
        os.write(2, line)
if mode == "floods without a line":
    while True:
        os.write(2, b"x" * 65536)
if mode.startswith("floods its link"):
    link("alive")
    with open("link.jsonl", "ab") as file:
        file.write(b"x" * (3 << 20))
    if "goes on" in mode:
        link("")
        link("stuck", test="test_x.py::test_y")
    else:
        os.truncate("link.jsonl", 1 << 30)
    forever()
if mode == "hangs":
    forever()
if mode == "is stuck":
    console("vmtest: stuck in [<0>] task_diag_read+0x1/0x2")
    link("stuck", test="test_x.py::test_y")
    while True:
        link("alive")
        time.sleep(0.1)
raise SystemExit(f"no such mode: {{mode}}")
"""


class StandIn:
    """Installed in virtme-run's place; ``mode`` says how the next guest behaves."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.program = folder / "virtme-run"
        self._mode = folder / "mode"
        self.program.write_text(_PROGRAM.format(python=sys.executable, mode=str(self._mode)))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def behave(self, mode: str) -> None:
        self._mode.write_text(mode)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_virtme_run", lambda: str(self.program))
        monkeypatch.setattr(machine, "require_tools", lambda: None)
        monkeypatch.setattr("workspace.guest.require_tools", lambda: None)


def kernel(folder: Path, config: str = "CONFIG_TASK_DIAG=y\n") -> Kernel:
    """A kernel that has everything but code."""
    image = folder / "arch/x86/boot/bzImage"
    image.parent.mkdir(parents=True)
    image.touch()
    (folder / ".config").write_text(config)
    return Kernel(folder=folder, flavour="default", release="7.3.4", build_id="00" * 20)


def run(folder: Path, *, patience: float = 3.0) -> Run:
    """A run with little patience, on an accelerator that stretches none."""
    (folder / "guests").mkdir()
    return Run(
        folder=folder / "guests",
        consoles=folder / "consoles",
        root=folder,
        nonce=f"nonce{folder.stat().st_ino}x{id(folder)}",
        machine=Machine(kernel(folder / "kernel"), "kvm"),
        quiet_boot=patience,
        silence=patience,
    )
