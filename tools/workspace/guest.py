"""A guest that is a pytest worker: xdist starts this program as if it were Python (``--tx popen//python=PATH``).

It boots the kernel, runs Python in it with the arguments that execnet gave, and lends it its own standard input
and output. Meanwhile it watches the console and the guest's sign of life, and ends the guest when either says so.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shlex
import signal
import stat
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workspace import storage
from workspace.console import Console, Sign
from workspace.deadline import Deadline
from workspace.errors import WorkspaceError, says_no_room
from workspace.kernel import Kernel
from workspace.machine import Machine, powered, require_tools
from workspace.protocol import LINK, PORTS, SHELL

# Seconds on the hardware; Machine.slowness stretches them.
BOOT = 30.0  # until user space is reached, and again until pytest is ready
SILENCE = 8.0  # a guest gives a sign of life every second
READS_A_STEP = 16  # a console that never stops must not keep us from the clock
EVENTS_A_STEP = 1 << 20  # bytes of events, which a guest may send without end as well
LAST_WORDS = 3.0  # from a panic's first line to the end of its trace


class Kind(enum.Enum):
    """How a guest ended."""

    DONE = "done"
    PANIC = "crashed"
    HANG = "hung"
    TIMEOUT = "timed out"
    LOST = "lost"
    KILLED = "killed"
    ENDED = "ended"  # by us: ^C, or the run is over


@dataclass(frozen=True)
class Verdict:
    """How a guest ended, and what to show for it."""

    kind: Kind
    sentence: str
    test: str | None
    tail: str

    def write(self, folder: Path) -> None:
        """Keep it in the guest's ``folder``."""
        storage.write_whole(folder / "verdict.json", json.dumps({**asdict(self), "kind": self.kind.value}))

    @classmethod
    def read(cls, folder: Path) -> Verdict | None:
        """The verdict in ``folder``, if its guest has ended."""
        try:
            data = json.loads((folder / "verdict.json").read_text())
        except FileNotFoundError:
            return None
        return cls(Kind(data["kind"]), data["sentence"], data["test"], data["tail"])


@dataclass(frozen=True)
class Run:
    """What all guests of one run have in common; travels to this program as a file."""

    folder: Path  # build/guests/NONCE
    consoles: Path
    root: Path
    nonce: str
    machine: Machine
    quiet_boot: float = BOOT
    silence: float = SILENCE

    def write(self) -> Path:
        """Write the file, and give the program that xdist starts for each guest of the run."""
        kernel = self.machine.kernel
        data = {
            "consoles": str(self.consoles),
            "root": str(self.root),
            "nonce": self.nonce,
            "kernel": {
                "folder": str(kernel.folder),
                "flavour": kernel.flavour,
                "release": kernel.release,
                "build_id": kernel.build_id,
            },
            "accelerator": self.machine.accelerator,
            "cpus": self.machine.cpus,
            "quiet_boot": self.quiet_boot,
            "silence": self.silence,
        }
        storage.write_whole(self.folder / "run.json", json.dumps(data))
        program = self.folder / "python"
        tools = Path(__file__).resolve().parents[1]
        words = [sys.executable, "-m", "workspace.guest", str(self.folder)]
        storage.write_whole(
            program,
            "#!/bin/sh\n"
            f'export PYTHONPATH={shlex.quote(str(tools))}"${{PYTHONPATH:+:$PYTHONPATH}}"\n'
            f'exec {shlex.join(words)} "$@"\n',
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return program

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run whose guests are in ``folder``."""
        data = json.loads((folder / "run.json").read_text())
        kernel = data["kernel"]
        machine = Machine(
            kernel=Kernel(
                folder=Path(kernel["folder"]),
                flavour=kernel["flavour"],
                release=kernel["release"],
                build_id=kernel["build_id"],
            ),
            accelerator=data["accelerator"],
            cpus=data["cpus"],
        )
        return cls(
            folder=folder,
            consoles=Path(data["consoles"]),
            root=Path(data["root"]),
            nonce=data["nonce"],
            machine=machine,
            quiet_boot=data["quiet_boot"],
            silence=data["silence"],
        )


def inside(folder: Path, root: Path, lines: Sequence[str]) -> str:
    """The shell line by which a guest runs ``lines`` in the clone at ``root``, with the Python that runs this.

    The kernel's command line is short, so the lines travel in a file of ``folder``. The guest's own mounts hide some
    of the host's folders (/tmp, /run): a bind mount of / is without them, and shows what is below.
    """
    host = "/run/host"
    show = []
    for place in dict.fromkeys([root, Path(sys.prefix), Path(sys.base_prefix)]):
        quoted = shlex.quote(str(place))
        show.append(f"[ -e {quoted} ] || {{ mkdir -p {quoted} && mount --bind {host}{quoted} {quoted}; }}")
    environment = {
        "HOME": "/root",
        "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")])
        ),
    }
    export = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    script = folder / "run.sh"
    # As bytes: words of a command line are in whatever encoding they are.
    script.write_bytes(os.fsencode("\n".join([*show, *export, f"cd {shlex.quote(str(root))}", *lines, ""])))
    return f"mkdir -p {host}; mount --bind / {host}; exec sh {shlex.quote(f'{host}{script}')}"


def _worker(run: Run, folder: Path, arguments: Sequence[str]) -> str:
    port = PORTS / LINK
    return inside(
        folder,
        run.root,
        [
            f'echo \'{{"event": "boot"}}\' >{port}',
            shlex.join([sys.executable, *arguments]),
            f'echo \'{{"event": "done"}}\' >{port}',
            # Nothing in the guest is to be kept, so it is switched off, not shut down.
            "sleep 1000",
        ],
    )


class Watch:
    """One guest, watched: takes in its console and its link, and comes to a verdict."""

    def __init__(self, run: Run, console: Console, link: Path) -> None:
        self._run = run
        self._console = console
        self._link = link
        self._read = 0
        self._slowness = run.machine.slowness
        self._patience = Deadline(run.quiet_boot * self._slowness)
        self._stage = "boot"
        self._stuck = False
        self._done = False
        self._last_words: Deadline | None = None
        self.test: str | None = None

    def _events(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError), self._link.open("rb") as file:
            file.seek(self._read)
            data = file.read(EVENTS_A_STEP)
            whole = data.rpartition(b"\n")[0]
            if whole or len(data) == EVENTS_A_STEP:
                self._read += len(whole) + 1 if whole else len(data)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    # The port is open to every program in the guest.
                    if isinstance(event, dict):
                        yield event

    def _take_in(self) -> None:
        for event in self._events():
            match event.get("event"):
                case "boot":
                    self._stage = "start"
                    self._patience = Deadline(self._run.quiet_boot * self._slowness)
                case "done":
                    self._done = True
                case kind:
                    self._stage = "tests"
                    self._patience = Deadline(self._run.silence * self._slowness)
                    if kind == "test":
                        self.test = event.get("test")
                    self._stuck = self._stuck or kind == "stuck"

    def step(self) -> tuple[Kind, str] | None:
        """Wait a moment for news; the verdict once there is one."""
        for _ in range(READS_A_STEP):
            if not self._console.read(0.25):
                break
        self._take_in()
        if self._done:
            return self._finished()
        if self._console.ended:
            return self._gone()
        if self._last_words is None and {Sign.PANIC, Sign.LOCKUP} & set(self._console.signs):
            self._last_words = Deadline(LAST_WORDS * self._slowness)
        if self._last_words is not None and self._last_words.expired:
            return self._gone()
        if self._stuck:
            return Kind.TIMEOUT, (
                "the test passed its deadline and did not end when told to; the guest was alive, "
                "the kernel's stack of the test is on its console"
            )
        if self._patience.expired:
            return self._silent()
        return None

    def _finished(self) -> tuple[Kind, str]:
        if self._stage == "tests":
            return Kind.DONE, "the guest's work is done"
        return Kind.LOST, "Python ended in the guest before pytest was ready"

    def _gone(self) -> tuple[Kind, str]:
        signs = self._console.signs
        when = "" if self._stage == "tests" else " before any test ran"
        if Sign.PANIC in signs:
            return Kind.PANIC if self._stage == "tests" else Kind.LOST, f"the kernel panicked{when}"
        if Sign.LOCKUP in signs:
            return Kind.HANG if self._stage == "tests" else Kind.LOST, f"the kernel locked up{when}"
        if self._stage == "boot" and not self._console.tail:
            return Kind.LOST, "virtme-ng or QEMU ended before the guest's first line"
        if Sign.POWER_DOWN in signs:
            return Kind.LOST, f"the guest shut itself down{when}"
        if self._stage == "boot":
            return Kind.LOST, "QEMU ended before the guest reached user space"
        return Kind.KILLED, f"QEMU was killed from outside{when}"

    def _silent(self) -> tuple[Kind, str]:
        seconds = f"{self._patience.seconds:.0f} s"
        if self._stage == "tests":
            return Kind.HANG, f"the guest gave no sign of life for {seconds}"
        if self._stage == "start":
            return (
                Kind.LOST,
                f"user space was reached, but pytest did not start in the guest within {seconds}",
            )
        if not self._console.tail:
            return Kind.LOST, f"the guest printed nothing within {seconds}"
        return Kind.LOST, f"the guest did not reach user space within {seconds}"


class _EndedError(Exception):
    """A signal told this program to end its guest."""


def _end(_number: int, _frame: object) -> None:
    raise _EndedError


def _new_folder(run: Run) -> Path:
    """The first free one of 1, 2, ...: also the guest's number, by which its console is known."""
    number = 0
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            folder = run.folder / str(number)
            folder.mkdir()
            return folder


def boot_worker(run: Run, arguments: Sequence[str]) -> Verdict:
    """Boot a guest that runs Python with ``arguments`` on our standard input and output, until it ends.

    Whatever ends it is in its folder afterwards: also that it could not be started, or not be watched.
    """
    folder = _new_folder(run)
    try:
        return _watched(run, folder, arguments)
    except BaseException as error:
        if Verdict.read(folder) is None:
            with contextlib.suppress(OSError):
                _last_verdict(error).write(folder)
        raise


def _last_verdict(error: BaseException) -> Verdict:
    if isinstance(error, _EndedError):
        return Verdict(Kind.ENDED, "the guest was ended with its run", None, "")
    if isinstance(error, OSError) and says_no_room(error):
        return Verdict(Kind.LOST, f"there is no room for what a guest leaves ({error.strerror})", None, "")
    words = str(error) if isinstance(error, WorkspaceError) else "".join(traceback.format_exception_only(error))
    return Verdict(Kind.LOST, f"the guest could not be watched: {words.strip()}", None, "")


def _watched(run: Run, folder: Path, arguments: Sequence[str]) -> Verdict:
    require_tools()
    parent = os.getppid()
    name = f"{run.nonce}.{folder.name}"
    into, out = os.pipe()
    console_log = run.consoles / f"guest-{folder.name}.log"
    chardevs = [
        *("-chardev", f"file,id={LINK},path=link.jsonl"),
        *("-device", f"virtserialport,name={LINK},chardev={LINK}"),
        *("-chardev", f"socket,id={SHELL},path=shell.sock,server=on,wait=off"),
        *("-device", f"virtserialport,name={SHELL},chardev={SHELL}"),
    ]
    with (
        Console(into, console_log) as console,
        powered(
            run.machine,
            folder,
            name=name,
            script=_worker(run, folder, arguments),
            options=[f"workspace.nonce={run.nonce}"],
            qemu=chardevs,
            stdin=0,
            stdout=1,
            stderr=out,
        ),
    ):
        os.close(out)
        watch = Watch(run, console, folder / "link.jsonl")
        found: tuple[Kind, str] | None = None
        try:
            while found is None:
                found = watch.step()
                if os.getppid() != parent:
                    raise _EndedError
        except _EndedError:
            found = Kind.ENDED, "the guest was ended with its run"
        verdict = Verdict(*found, test=watch.test, tail=console.tail)
        # Before QEMU's end of our standard output closes: who reads that looks for the verdict next.
        verdict.write(folder)
    return verdict


def main(words: Sequence[str]) -> int:
    """``guest.py RUN_FOLDER PYTHON_ARGUMENTS...``."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    run = Run.read(Path(words[0]))
    try:
        verdict = boot_worker(run, words[1:])
    except _EndedError:
        return 1
    except WorkspaceError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if not says_no_room(error):
            raise
        print(f"there is no room for what a guest leaves in {words[0]} ({error.strerror}).", file=sys.stderr)
        return 1
    return 0 if verdict.kind is Kind.DONE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
