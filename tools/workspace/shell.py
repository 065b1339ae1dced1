"""A terminal in a guest: of one's own, or in the guest that a failed test was kept in."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shlex
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from workspace import accelerator, machine
from workspace.console import Console
from workspace.errors import WorkspaceError
from workspace.kernel import Kernel
from workspace.machine import Machine
from workspace.progress import say
from workspace.settings import Paths

SOCKET = "shell.sock"


def interact(kernel: Kernel, *, paths: Paths, wanted: str | None = None) -> int:
    """An interactive shell in ``kernel``, on this terminal; the kernel's own lines go to a log."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise WorkspaceError("a shell needs a terminal on its standard input and output: run it in one.")
    machine.require_tools()
    vm = Machine(kernel, accelerator.choose(kernel, paths=paths, wanted=wanted))
    name = secrets.token_hex(8)
    log = paths.logs / "shell.log"
    say(f"Booting {kernel.release} ({vm.accelerator}); leave with `exit`, or C-a x. Kernel messages: {log}")
    into, out = os.pipe()
    settings = termios.tcgetattr(sys.stdin)
    with machine.run_folder(paths.guests, name) as folder, Console(into, log) as console:
        reader = threading.Thread(target=_drain, args=(console,), daemon=True)
        reader.start()
        try:
            with machine.powered(
                vm,
                folder,
                name=name,
                script=None,
                early=False,
                stdin=sys.stdin.fileno(),
                stdout=sys.stdout.fileno(),
                stderr=out,
            ) as process:
                os.close(out)
                # The guest lives in a session of its own; ^C is its own, the terminal being raw.
                code = process.wait()
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
            reader.join(5.0)
        if console.signs:
            say(f"The guest ended with: {console.signs[0].value}\n{console.tail}")
            return 1
    return 0 if code == 0 else 1


def _drain(console: Console) -> None:
    while not console.ended:
        console.read(1.0)


# A kept guest: QEMU listens on a socket in the guest's folder, the worker serves a shell on the port behind it.


def attend(folder: Path, test: str) -> None:
    """Lend this terminal to the guest of a failed test, or say how to reach it, until its shell is left."""
    program = folder / "attach"
    tools = Path(__file__).resolve().parents[1]
    program.write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(tools))} "
        f"exec {shlex.join([sys.executable, '-m', 'workspace.shell', str(folder)])}\n"
    )
    program.chmod(0o755)
    if sys.stdin.isatty():
        say(f"\n{test} failed: this is a shell in its guest, fixtures alive. Leave it to go on.")
        relay(folder)
        return
    say(f"\n{test} failed: its guest is kept, fixtures alive, until the shell is left: {program}")
    while not _left(folder):
        time.sleep(0.3)


def _left(folder: Path) -> bool:
    if (folder / "verdict.json").exists():
        return True
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = (folder / "link.jsonl").read_bytes().splitlines()
        # The guest says so once for each test that it was kept for.
        events = [json.loads(line)["event"] for line in lines if b'"kept"' in line or b'"released"' in line]
        return bool(events) and events[-1] == "released"
    return False


def relay(folder: Path) -> None:
    """Connect this terminal to the shell in the kept guest of ``folder``, until it ends."""
    with _connected(folder) as guest, _raw():
        # What the shell printed before anyone listened is lost; a new line makes it show its prompt.
        guest.sendall(b"\n")
        while not _left(folder):
            ready, _, _ = select.select([guest, sys.stdin.fileno()], [], [], 0.3)
            if guest in ready:
                data = guest.recv(65536)
                if not data:
                    return
                os.write(sys.stdout.fileno(), data)
            if sys.stdin.fileno() in ready:
                data = os.read(sys.stdin.fileno(), 4096)
                if not data:
                    return
                guest.sendall(data)


@contextlib.contextmanager
def _connected(folder: Path) -> Iterator[socket.socket]:
    # A socket's path is short; a clone's need not be.
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest:
            try:
                guest.connect(f"/proc/self/fd/{directory}/{SOCKET}")
            except OSError as error:
                raise WorkspaceError(f"there is no kept guest in {folder} any more ({error.strerror}).") from error
            yield guest
    finally:
        os.close(directory)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    try:
        relay(Path(sys.argv[1]))
    except WorkspaceError as error:
        sys.exit(str(error))
