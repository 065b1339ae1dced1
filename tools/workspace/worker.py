"""The guest's side: a pytest plugin that proves where it runs, gives signs of life, and holds every test to account.

vmtests/conftest.py registers it in whatever process collects vmtests. In a guest of this run it lets tests run;
anywhere else every test is an error, so that nothing can pass on the host's kernel.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import select
import signal
import socket
import sys
import time
from collections.abc import Collection, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from workspace import gcov, kmemleak
from workspace.promises import Promises
from workspace.protocol import LOOKED, PORTS, SHELL
from workspace.single import TOLD_BY
from workspace.splat import NONE, Exceptions, Record, TaintedError, splats
from workspace.switch import Switch
from workspace.watch import TOLD

DEADLINE = 10.0  # seconds for a test on the hardware, unless it says otherwise
END = 30.0  # seconds on the hardware for what is looked at after the last test
BETWEEN_LOOKS = 300.0  # seconds after which leaks are looked for again; until then no test is known to leak nothing
GRACE = 5.0  # from the moment a test is told to end until its guest is given up


ON_HOST = pytest.StashKey[bool]()  # set where pytest only hands tests out, or drives guests from the host


class TimedOutError(Exception):
    """Raised in a test that passed its deadline."""


def build_id(notes: bytes) -> str:
    """The GNU build id (hex) in an image's ELF ``notes``, as in /sys/kernel/notes; empty if there is none."""
    position = 0
    while position + 12 <= len(notes):
        name_size, size, kind = (
            int.from_bytes(notes[position + at : position + at + 4], sys.byteorder) for at in (0, 4, 8)
        )
        name_at = position + 12
        data_at = name_at + (name_size + 3 & ~3)
        if kind == 3 and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[data_at : data_at + size].hex()
        position = data_at + (size + 3 & ~3)
    return ""


def outside(workerinput: dict[str, Any] | None) -> str | None:
    """Why this process is not in a guest of the run that started it; None if it is."""
    how = "run it with `nox -s vmtest`"
    if workerinput is None or "workspace_nonce" not in workerinput:
        return f"a vmtest runs only in a guest of its own run, and this is none: {how}"
    if f"workspace.nonce={workerinput['workspace_nonce']}" not in Path("/proc/cmdline").read_text().split():
        return f"this process was not booted by the run that it works for (wrong kernel command line): {how}"
    running = build_id(Path("/sys/kernel/notes").read_bytes())
    if running != workerinput["workspace_build_id"]:
        return f"the guest runs build {running}, not the one that was built, {workerinput['workspace_build_id']}"
    return None


class Log:
    """/dev/kmsg: what the kernel said since it was last asked, and a way to write into it.

    A log that cannot be read, or that lost a line, taints as a complaint does: nothing can be said of the kernel.
    """

    def __init__(self, exceptions: Exceptions = NONE, *, path: Path = Path("/dev/kmsg")) -> None:
        self._exceptions = exceptions
        self._next = 0
        self._taints = 0  # as at the start of the log, which is read from there
        self._reader = self._writer = -1
        self._closed = ""
        try:
            self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._writer = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            self._closed = f"the kernel log {path} cannot be opened ({error.strerror})"

    def mark(self, text: str) -> None:
        """Leave a line, so that the kernel's own ones can be told by test."""
        # Without a line end it could be continued: nobody would see it before the next line, and a complaint
        # might become a part of it.
        with contextlib.suppress(OSError):
            os.write(self._writer, f"<5>vmtest: {text}"[:900].encode() + b"\n")

    def news(self) -> list[str]:
        """The kernel's messages since the last call; programs' own lines in the log are left out."""
        if self._closed:
            raise TaintedError(f"{self._closed}: it cannot be said that nothing was in it")
        messages: list[str] = []
        lost = False
        while True:
            try:
                record = Record.parse(os.read(self._reader, 8192))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise TaintedError(f"the kernel log cannot be read ({error.strerror})") from error
                lost = True
                continue
            # A log that is opened after it overflowed says so by this alone.
            lost = lost or record.number != self._next
            self._next = record.number + 1
            if record.facility == 0:
                messages += record.lines
        if lost:
            head = "the kernel log lost lines: it cannot be said that nothing was in it"
            raise TaintedError("\n".join([head, *messages[-60:]]))
        return messages

    def check(self) -> None:
        """Raise if the kernel complained since the last call."""
        messages = self.news()
        before, self._taints = self._taints, _taints()
        if splats(messages, self._exceptions):
            raise TaintedError("the kernel complained:\n" + "\n".join(messages[-60:]))
        if self._taints & ~before and not splats(messages):
            raise TaintedError(
                f"the kernel is tainted now ({before:#x} became {self._taints:#x}), and said nothing that is on the "
                "list of complaints:\n" + "\n".join(messages[-60:])
            )


def _taints() -> int:
    """The kernel's own marks for what went wrong since it booted (Documentation/admin-guide/tainted-kernels.rst)."""
    return int(Path("/proc/sys/kernel/tainted").read_text())


class Monitor:
    """This process's side of the watch: tells it what runs and until when, and ends a test whose time is over."""

    def __init__(self, watch: socket.socket) -> None:
        self._watch = watch
        self._end: float | None = None
        self._limit = 0.0
        signal.signal(TOLD, self._raise)

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        # Late by a hair: the test has just ended, or the next phase has begun, whose time is not over.
        if self._end is not None and time.monotonic() >= self._end:
            raise TimedOutError(f"the test did not end within its deadline of {self._limit:g} s")

    def say(self, event: str, **facts: object) -> None:
        """Let the host know."""
        self._tell(event=event, **facts)

    def arm(self, test: str, limit: float, slowness: float) -> None:
        """From now on the test has ``limit`` seconds."""
        self._limit = limit
        self._end = time.monotonic() + limit
        self._tell(deadline=self._end, grace=GRACE * slowness, test=test)

    def disarm(self) -> None:
        """The test ended."""
        self._end = None
        self._tell(deadline=None, grace=0.0, test="")

    def _tell(self, **said: object) -> None:
        self._watch.sendall(json.dumps(said).encode() + b"\n")


def serve_shell() -> None:
    """A shell of this guest on the shell port, until it ends."""
    port = os.open(PORTS / SHELL, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PS1"] = "guest# "
        os.environ.setdefault("TERM", "xterm")
        os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        while True:
            # A port without a reader on the host polls as hung up: the shell waits for one.
            ready, _, _ = select.select([port, terminal], [], [], 0.2)
            if terminal in ready:
                try:
                    data = os.read(terminal, 4096)
                except OSError:  # EIO: the shell is gone
                    break
                _write_all(port, data)
            if port in ready:
                with contextlib.suppress(BlockingIOError):
                    data = os.read(port, 4096)
                    if data:
                        os.write(terminal, data)
                    else:
                        time.sleep(0.2)
    finally:
        os.close(terminal)
        os.waitpid(child, 0)
        os.close(port)


def _write_all(port: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(port, data) :]
        except BlockingIOError:
            time.sleep(0.05)
        except OSError:  # nobody is attached
            return


class Rounds:
    """``--until-fail``: each test again and again, until it fails or has had all its rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._round = 0
        self._logged: list[pytest.TestReport] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Log only the last round's reports: the failed one's, or the last of all."""
        if self.rounds == 1:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        self._logged = []
        for number in range(1, self.rounds + 1):
            self._round = number
            last = number == self.rounds
            # A fresh start for the item, as for its first run.
            item._initrequest()  # type: ignore[attr-defined]
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            if last or not all(report.passed for report in reports):
                for report in reports:
                    self._log(item, report)
                break
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self, node: object, report: object) -> None:
        """A failure is told at once: the guest may be kept now, before the test is torn down."""
        if self.rounds > 1 and isinstance(node, pytest.Item) and isinstance(report, pytest.TestReport):
            self._log(node, report)

    def _log(self, item: pytest.Item, report: pytest.TestReport) -> None:
        if report in self._logged:
            return
        self._logged.append(report)
        note = f"{report.outcome} in round {self._round} of {self.rounds}"
        report.sections.append(("until-fail", note))
        report.user_properties.append(("rounds", note))
        item.ihook.pytest_runtest_logreport(report=report)


class Recall:
    """``--resume``: tests that passed in an earlier run are left out."""

    def __init__(self, passed: Collection[str]) -> None:
        self._passed = passed
        self.left_out: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Of the tests that the user chose, leave those out."""
        known = [item for item in items if item.nodeid in self._passed]
        if known:
            config.hook.pytest_deselected(items=known)
            items[:] = [item for item in items if item.nodeid not in self._passed]
        self.left_out = [item.nodeid for item in known]


def name_outcome(report: pytest.TestReport, call: pytest.CallInfo[None]) -> pytest.TestReport:
    """Tell the kinds of failure apart in what is recorded."""
    if call.excinfo is not None:
        for kind, name in ((TimedOutError, "timed out"), (TaintedError, "tainted")):
            if isinstance(call.excinfo.value, kind):
                report.user_properties = [*report.user_properties, ("outcome", name)]
                report.longrepr = str(call.excinfo.value) if kind is TaintedError else report.longrepr
    return report


def _output(config: pytest.Config) -> dict[str, Any]:
    """What the host is told when this worker ends."""
    output: dict[str, Any] = getattr(config, "workeroutput", {})
    return output


def drop_for_other_kernels(items: list[pytest.Item], options: Collection[str], known: Collection[str]) -> list[str]:
    """Take the tests that need more than the kernel's ``options`` out of ``items``; give their ids.

    One that is not ``known`` is an error: no kernel would run the test.
    """
    others = []
    for item in items[:]:
        needed = {str(name) for marker in item.iter_markers("option") for name in marker.args}
        if unknown := needed.difference(known):
            raise pytest.UsageError(
                f"{item.nodeid} needs {min(unknown)}, which no flavour of kconfig/flavours.toml asks for."
            )
        if needed.difference(options):
            others.append(item.nodeid)
            items.remove(item)
    return others


class Worker:
    """The plugin."""

    def __init__(self, config: pytest.Config, promises: Promises, exceptions: Exceptions) -> None:
        self._promises = promises
        self._exceptions = exceptions
        self._input: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._outside = outside(self._input)
        self._keep = False
        self._counts = False
        self._slowness = 1.0
        self._facts: list[tuple[str, object]] = []
        self._recall = Recall(())
        if self._outside is None and self._input is not None:
            self._enter(config, self._input)

    def _enter(self, config: pytest.Config, told: dict[str, Any]) -> None:
        self._keep = told["workspace_keep"]
        self._slowness = told["workspace_slowness"]
        self._log = Log(self._exceptions)
        self._leaks = kmemleak.OPTION in told["workspace_options"]
        self._looked = time.monotonic()
        self._counts = gcov.OPTION in told["workspace_options"]
        self._monitor = Monitor(socket.socket(fileno=int(os.environ[TOLD_BY])))
        self._monitor.say("alive")
        self._facts = [
            ("guest", told["workspace_guest"]),
            ("guest_boot_id", Path("/proc/sys/kernel/random/boot_id").read_text().strip()),
            ("kernel_build_id", told["workspace_build_id"]),
        ]
        config.pluginmanager.register(Rounds(told["workspace_rounds"]), "workspace-rounds")
        self._recall = Recall(frozenset(told["workspace_passed"]))
        config.pluginmanager.register(self._recall, "workspace-recall")
        if told.get("workspace_breaks"):
            times = {test: seconds / self._slowness for test, seconds in told["workspace_times"].items()}
            switch = Switch(told["workspace_breaks"], self._promises, times)
            config.pluginmanager.register(switch, "workspace-switch")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Tests that are not for a guest are left to the run's other half."""
        if self._outside is None and self._input is not None:
            items[:] = [item for item in items if item.get_closest_marker("host") is None]
            told = self._input
            others = drop_for_other_kernels(items, told["workspace_options"], told["workspace_known_options"])
            _output(config)["workspace_other_kernels"] = others

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Say on the link and in the kernel's log which test runs."""
        item.user_properties += self._facts
        item.user_properties += [("promise", name) for name in self._promises.of(item)]
        if self._outside is not None:
            return (yield)
        self._log.mark(f"start {item.nodeid}")
        self._monitor.say("test", test=item.nodeid)
        try:
            return (yield)
        finally:
            self._log.mark(f"end {item.nodeid}")
            self._monitor.say("test", test=None)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Outside a guest this is an error; so is a promise that does not exist."""
        if self._outside is not None:
            pytest.fail(self._outside, pytrace=False)
        self._promises.require_known(item)
        with self._held(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Within the deadline, and without a complaint of the kernel's."""
        with self._held(item):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """As for the call."""
        if self._outside is not None:
            return (yield)
        with self._held(item):
            ended = yield
        if self._leaks and time.monotonic() - self._looked > BETWEEN_LOOKS:
            found = self._look_for_leaks()
            if found:
                raise TaintedError(
                    f"memory was leaked, by this test or by one of the {BETWEEN_LOOKS / 60:.0f} "
                    f"minutes before it in this guest:\n{found}"
                )
            item.user_properties.append((LOOKED, True))
        return ended

    def _look_for_leaks(self) -> str:
        if not self._leaks:
            return ""
        with self._timed("the look for leaks", END * self._slowness):
            found = kmemleak.leaks()
        self._looked = time.monotonic()
        return found

    @contextlib.contextmanager
    def _held(self, item: pytest.Item) -> Generator[None, None, None]:
        marker = item.get_closest_marker("deadline")
        with self._timed(item.nodeid, (float(marker.args[0]) if marker else DEADLINE) * self._slowness):
            yield
        self._log.check()

    @contextlib.contextmanager
    def _timed(self, what: str, limit: float) -> Generator[None, None, None]:
        self._monitor.arm(what, limit, self._slowness)
        try:
            yield
        finally:
            self._monitor.disarm()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell the kinds of failure apart in what the host records."""
        return name_outcome((yield), call)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """What shows only after the last test: memory that was leaked, and the kernel's last words."""
        if self._outside is not None:
            return
        found = ""
        try:
            found = self._look_for_leaks()
            if not found:
                self._log.check()
        except (TaintedError, TimedOutError) as error:
            found = str(error)
        output = _output(session.config)
        output["workspace_end"] = found
        output["workspace_left_out"] = self._recall.left_out
        if self._counts:
            output["workspace_counts"] = gcov.counts()

    def pytest_exception_interact(self, node: pytest.Item | pytest.Collector) -> None:
        """``--keep-guest``: a shell, with the failed test's fixtures still alive."""
        if self._keep and self._outside is None and isinstance(node, pytest.Item):
            self._monitor.say("kept", test=node.nodeid)
            try:
                serve_shell()
            finally:
                self._monitor.say("released", test=node.nodeid)
