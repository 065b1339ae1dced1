"""A guest driven from the host through its console, by pexpect: for what no test inside a guest can tell."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pexpect
from pexpect.fdpexpect import fdspawn

from workspace.console import Console, Sign, kernel_messages, sign
from workspace.deadline import Deadline
from workspace.guest import BOOT, Kind
from workspace.machine import Machine, Record, powered
from workspace.splat import NONE, Exceptions, TaintedError, splats
from workspace.worker import build_id

MOST_COMPLAINTS = 100  # that are kept of one guest
ANSWER = 10.0  # seconds on the hardware for a shell's answer


class GuestGoneError(Exception):
    """The guest did not answer: why, with the console's last lines."""

    def __init__(self, kind: Kind, sentence: str, tail: str) -> None:
        super().__init__(f"{kind.value}: {sentence}\n{tail}")
        self.kind = kind


class Booted:
    """A guest with a shell on its first serial line and its kernel's messages apart from it."""

    def __init__(self, vm: Machine, folder: Path, terminal: int, console: Console, complaints: list[str]) -> None:
        self.vm = vm
        self._folder = folder
        self._shell = fdspawn(terminal, encoding="utf-8", codec_errors="replace")
        self._console = console
        self._complaints = complaints
        self._alive = True
        self.number = folder.name
        self.boot_id = ""

    def reach(self) -> None:
        """Wait for user space, which answers; and know the guest by its boot and its build."""
        self._handshake(Deadline(BOOT * self.vm.slowness))
        self.boot_id = self.run("cat /proc/sys/kernel/random/boot_id")[1].strip()
        running = build_id(bytes.fromhex(self.run("od -An -v -tx1 /sys/kernel/notes | tr -d ' \\n'")[1].strip()))
        if running != self.vm.kernel.build_id:
            raise GuestGoneError(
                Kind.LOST,
                f"the guest runs build {running}, not {self.vm.kernel.build_id}",
                self._console.tail,
            )

    def run(self, line: str, *, seconds: float = ANSWER) -> tuple[int, str]:
        """Run one shell line; its exit code and what it printed."""
        word = secrets.token_hex(6)
        # Split in what is typed, so that the terminal's echo of it does not match.
        typed = f"{word[:6]}''{word[6:]}"
        self.type(f"echo {typed}:; {line}; echo {typed}=$?")
        self._expect(rf"{word}:\r*\n(.*?){word}=(\d+)\r", Deadline(seconds * self.vm.slowness))
        match = self._shell.match
        assert isinstance(match, re.Match)
        return int(match[2]), match[1].replace("\r", "")

    def type(self, line: str) -> None:
        """Type a line, and wait for nothing."""
        self._shell.send(f"{line}\r")

    def interrupt(self) -> None:
        """^C, then a new handshake: what was typed before may or may not have been taken in."""
        self._shell.send("\x03")
        self._handshake(Deadline(ANSWER * self.vm.slowness))

    def freeze(self) -> None:
        """Stop the virtual machine where it is: a guest that hangs for good."""
        record = Record.read(self._folder)
        assert record is not None
        for pid in record.members():
            os.kill(pid, signal.SIGSTOP)

    def kill(self) -> None:
        """Kill QEMU from outside."""
        record = Record.read(self._folder)
        assert record is not None
        record.end()

    def fate(self, *, seconds: float = ANSWER) -> Kind:
        """What became of the guest: asked until it answers (DONE), is gone, or the time is up (HANG)."""
        try:
            self._handshake(Deadline(seconds * self.vm.slowness))
        except GuestGoneError as gone:
            return gone.kind
        return Kind.DONE

    @property
    def alive(self) -> bool:
        """False once the guest gave no answer, or is gone."""
        return self._alive

    def check(self) -> None:
        """Raise if the kernel complained since the last call, or if nobody could have heard it."""
        self._take_in()
        found = self._complaints[:]
        self._complaints.clear()
        if found:
            raise TaintedError("the kernel complained:\n" + "\n".join([*found, "Its last lines:", self.tail]))
        if not self._console.heard:
            raise TaintedError("the kernel said nothing at all: it cannot be said that nothing was wrong")

    @property
    def tail(self) -> str:
        """The kernel's last lines."""
        return self._console.tail

    def _gone(self, kind: Kind, sentence: str) -> GuestGoneError:
        self._alive = False
        early = str(self._shell.before or "").replace("\r", "")[-2000:]
        return GuestGoneError(kind, sentence, self.tail or early)

    def _handshake(self, deadline: Deadline) -> None:
        # Asked again and again: what is typed before the shell listens may be thrown away.
        while True:
            word = secrets.token_hex(6)
            self.type(f"echo {word[:6]}''{word[6:]}.")
            with contextlib.suppress(TimeoutError):
                self._expect(rf"{word}\.\r*\n", Deadline(min(3.0, deadline.remaining)))
                return
            if deadline.expired:
                raise self._gone(Kind.HANG, f"no answer within {deadline.seconds:.0f} s")

    def _take_in(self, seconds: float = 0.0) -> None:
        for _ in range(500):
            if not self._console.read(seconds):
                return

    def _expect(self, pattern: str, deadline: Deadline) -> None:
        while True:
            found = self._shell.expect([pattern, pexpect.EOF, pexpect.TIMEOUT], timeout=0.2)
            if found == 0:
                return
            self._take_in()
            if self._console.ended or found == 1:
                self._take_in(1.0)
                # Before its own console is there, the kernel speaks on the shell's line.
                early = [sign(line) for line in str(self._shell.before).splitlines()]
                if Sign.PANIC in [*self._console.signs, *early]:
                    raise self._gone(Kind.PANIC, "the kernel panicked")
                raise self._gone(Kind.KILLED, "QEMU ended")
            if deadline.expired:
                raise TimeoutError(f"the guest did not answer within {deadline.seconds:.0f} s")


@contextlib.contextmanager
def booted(vm: Machine, folder: Path, *, name: str, log: Path, exceptions: Exceptions = NONE) -> Iterator[Booted]:
    """A guest that was reached, for the block; ``log`` has its kernel's messages."""
    folder.mkdir(parents=True)
    into, out = os.pipe()
    master, slave = os.openpty()
    # Ours is the only echo wanted: the guest's own line discipline gives it.
    tty.setraw(slave, termios.TCSANOW)
    complaints: list[str] = []

    def on_line(line: str) -> None:
        complaints.extend(splats(kernel_messages(line), exceptions))
        # The first ones tell what happened.
        del complaints[MOST_COMPLAINTS:]

    with Console(into, log, on_line=on_line) as console:
        try:
            with powered(vm, folder, name=name, script=None, stdin=slave, stdout=slave, stderr=out):
                for descriptor in (slave, out):
                    os.close(descriptor)
                guest = Booted(vm, folder, master, console, complaints)
                guest.reach()
                yield guest
                # Let a last line through to the log.
                time.sleep(0.1)
        finally:
            os.close(master)
