"""One command in a guest: what it prints, as it comes, and how it ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from workspace import accelerator, machine
from workspace.console import Console, Sign
from workspace.deadline import Deadline
from workspace.errors import WorkspaceError
from workspace.guest import BOOT, LAST_WORDS, inside
from workspace.kernel import Kernel
from workspace.machine import Machine
from workspace.settings import Paths

Sink = Callable[[bytes], object]

PIECE = 1 << 16  # bytes that are taken in at once
MOMENT = 0.1  # seconds between two looks at what else happens
RARE = "\x1e"  # begins the mark after the output: what might be its begin has to be held back
FAREWELL = 2.0  # seconds for what a guest said last to get here

# virtme-ng gives a script's standard error to the console, with the kernel's messages. It gets a port of its own, and
# /dev/stderr a second one, because only one process at a time can open a port. Both write to this FIFO.
STDERR = "stderr"
_PORTS = ("workspace.stderr", "workspace.dev_stderr")


class GuestError(WorkspaceError):
    """The guest ended, or was ended, before the command did."""


class Stream(threading.Thread):
    """Carries what comes from ``descriptor`` between two marks to ``sink``; a thread, because a sink may block.

    The second mark brings the command's exit code. A descriptor's end says nothing: other processes of the guest may
    hold it open, and a guest that dies closes it as well.
    """

    def __init__(self, descriptor: int, token: str, sink: Sink) -> None:
        super().__init__(name="workspace-stream", daemon=True)
        self._descriptor = descriptor
        self._begin = f"begin-{token}\n".encode()
        self._end = f"{RARE}end-{token}=".encode()
        self._sink = sink
        self._held = b""
        self._stopped = False
        self.begun = False
        self.code: int | None = None
        self.error: Exception | None = None

    def stop(self) -> None:
        """Whatever comes from now on is of no interest."""
        self._stopped = True

    def run(self) -> None:
        """Until the second mark, the descriptor's end, or ``stop()``."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        try:
            while self.code is None and not self._stopped:
                # A FIFO that nobody opened yet gives an end of file, too, but polls as silent.
                if not poll.poll(1000 * MOMENT):
                    continue
                data = os.read(self._descriptor, PIECE)
                if not data:
                    break
                self.take_in(data)
        except Exception as error:
            # Of the sink: nobody reads it any more, or there is no room.
            self.error = error
        finally:
            os.close(self._descriptor)

    def take_in(self, data: bytes) -> None:
        """Hand on what is surely the command's."""
        self._held += data
        if not self.begun:
            _, found, after = self._held.partition(self._begin)
            self.begun = bool(found)
            if not found:
                self._held = self._held[-len(self._begin) :]
                return
            self._held = after
        output, found, number = self._held.partition(self._end)
        if found:
            self._held = found + number
            # What the command left behind may still write.
            code, whole, _ = number.partition(b"\n")
            if whole:
                self.code = int(code)
        else:
            # The mark may have come in part.
            sizes = range(min(len(self._end), len(output)), 0, -1)
            held = next((size for size in sizes if output.endswith(self._end[:size])), 0)
            output, self._held = output[: len(output) - held], output[len(output) - held :]
        if output:
            self._sink(output)


def run(
    kernel: Kernel,
    words: Sequence[str],
    *,
    paths: Paths,
    stdout: Sink,
    stderr: Sink | None = None,
    wanted: str | None = None,
    limit: float | None = None,
) -> int:
    """Boot ``kernel``, run one command in it in the clone's folder, and give its exit code (128+N for signal N).

    ``stdout`` and ``stderr`` get what it writes as it comes, in other threads; without ``stderr`` both go to
    ``stdout``, in order. The command has no standard input. ``limit`` is in seconds on the hardware, after the boot.
    Raises GuestError if the guest ends before the command, and what ``stdout`` or ``stderr`` raise.
    """
    machine.require_tools()
    vm = Machine(kernel, accelerator.choose(kernel, paths=paths, wanted=wanted))
    name, token = secrets.token_hex(8), secrets.token_hex(8)
    log = paths.logs / "guest.log"
    into, out = os.pipe()
    output, answer = os.pipe()
    with machine.run_folder(paths.guests, name) as folder, Console(into, log) as console:
        streams = [Stream(output, token, stdout)]
        if stderr is not None:
            os.mkfifo(folder / STDERR)
            descriptor = os.open(folder / STDERR, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            streams.append(Stream(descriptor, token, stderr))
        script = inside(folder, paths.root, _lines(words, token, apart=stderr is not None))
        with (
            _carried(streams),
            machine.powered(
                vm,
                folder,
                name=name,
                script=script,
                stdout=answer,
                stderr=out,
                qemu=_ports() if stderr is not None else (),
            ) as process,
        ):
            os.close(out)
            os.close(answer)
            boot = Deadline(BOOT * vm.slowness)
            end: Deadline | None = None
            last_words: Deadline | None = None
            while not _answered(streams):
                console.read(MOMENT)
                if end is None and limit is not None and streams[0].begun:
                    end = Deadline(limit * vm.slowness)
                if last_words is None and {Sign.PANIC, Sign.LOCKUP} & set(console.signs):
                    last_words = Deadline(LAST_WORDS * vm.slowness)
                gone = console.ended or process.poll() is not None or (last_words is not None and last_words.expired)
                if gone and not _answers_yet(streams, console):
                    raise _died(words, streams[0], console, log, _why(console))
                if not streams[0].begun and boot.expired:
                    raise _died(words, streams[0], console, log, f"it did not boot within {boot.seconds:.0f} s")
                if end is not None and end.expired:
                    raise _died(words, streams[0], console, log, f"the command did not end within {end.seconds:.0f} s")
    code = streams[0].code
    assert code is not None
    return code


def output_of(
    kernel: Kernel,
    words: Sequence[str],
    *,
    paths: Paths,
    wanted: str | None = None,
    limit: float = BOOT,
    on_line: Callable[[str], None] = lambda _: None,
) -> tuple[int, str]:
    """Run one command as ``run()`` does; its exit code and all that it printed; raises GuestError as that.

    ``on_line`` gets each whole line, in another thread. ``limit`` is in seconds on the hardware, after the boot.
    """
    pieces: list[bytes] = []
    begun = b""

    def take_in(data: bytes) -> None:
        nonlocal begun
        pieces.append(data)
        *lines, begun = (begun + data).split(b"\n")
        for line in lines:
            on_line(line.decode(errors="replace").rstrip("\r"))

    code = run(kernel, words, paths=paths, stdout=take_in, wanted=wanted, limit=limit)
    return code, b"".join(pieces).decode(errors="replace")


def onto(descriptor: int) -> Sink:
    """Write to a descriptor of our own. Past Python's buffers: a thread must not hold their locks when we end."""

    def write(data: bytes) -> None:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                select.select([], [descriptor], [])

    return write


def _ports() -> list[str]:
    words = []
    for port in _PORTS:
        words += ["-chardev", f"file,id={port},path={STDERR}", "-device", f"virtserialport,name={port},chardev={port}"]
    return words


def _lines(words: Sequence[str], token: str, *, apart: bool) -> list[str]:
    port, device = (f"/dev/virtio-ports/{name}" for name in _PORTS)
    begin, end = f"echo begin-{token}", f"printf '\\{ord(RARE):03o}end-{token}=%d\\n' $code"
    # A subshell that becomes the command: shell builtins such as `exit` are not meant, and the shell's own code
    # for a signal is 128 and its number.
    lines = [begin, f"( exec {shlex.join(words)} ) </dev/null", "code=$?", end]
    if apart:
        lines = [f"exec 2>{port}", f"[ ! -c {device} ] || ln -sf {device} /dev/stderr", f"{begin} >&2", *lines]
        lines.append(f"{end} >&2")
    else:
        lines[1] += " 2>&1"
    # virtme-ng leaves these open in a script: they are its own ports.
    lines.insert(0, "exec 3>&- 4>&- 5>&-")
    # What is on its way to the host is lost when the guest powers off. We end it when everything is here.
    return [*lines, "while :; do sleep 1000; done"]


@contextlib.contextmanager
def _carried(streams: Sequence[Stream]) -> Iterator[None]:
    for stream in streams:
        stream.start()
    try:
        yield
    finally:
        for stream in streams:
            stream.stop()
        for stream in streams:
            stream.join(FAREWELL)


def _answered(streams: Sequence[Stream]) -> bool:
    for stream in streams:
        if stream.error is not None:
            raise stream.error
    return all(stream.code is not None for stream in streams)


def _answers_yet(streams: Sequence[Stream], console: Console) -> bool:
    """Whether a guest that is gone had said everything; takes in what is still on its way."""
    deadline = Deadline(FAREWELL)
    while any(stream.is_alive() for stream in streams) and not deadline.expired:
        streams[0].join(MOMENT)
        streams[-1].join(MOMENT)
    while not console.ended and not deadline.expired and console.read(MOMENT):
        pass
    return _answered(streams)


def _why(console: Console) -> str:
    for kind, sentence in (
        (Sign.PANIC, "the kernel panicked"),
        (Sign.LOCKUP, "the kernel locked up"),
        (Sign.POWER_DOWN, "it shut itself down"),
    ):
        if kind in console.signs:
            return sentence
    return "QEMU ended"


def _died(words: Sequence[str], stream: Stream, console: Console, log: Path, why: str) -> GuestError:
    when = "did not get to its end in the guest" if stream.begun else "did not start in the guest"
    return GuestError(f"`{shlex.join(words)}` {when}: {why}. Its console ({log}) ended with:\n{console.tail}")
