"""`vmtest`: the tests of vmtests/, those that run in guests and those that drive one; one set of results."""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import shlex
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from workspace import accelerator, boot, kconfig, kmemleak, machine, relay, shell, storage
from workspace.boot import Booted
from workspace.errors import Terminated, WorkspaceError
from workspace.guest import Kind, Run, Verdict
from workspace.journal import Journal, keep_times, key_of
from workspace.kernel import Kernel
from workspace.machine import Machine, Record
from workspace.progress import say
from workspace.promises import MARKERS, Promises
from workspace.protocol import LOOKED
from workspace.results import Results, Test
from workspace.settings import Paths
from workspace.splat import ALLOWED, Exceptions
from workspace.worker import ON_HOST, Recall, Rounds, drop_for_other_kernels, name_outcome

# Guests that may be lost to tests before the run gives up: more means that nothing is learned any more.
MAX_CRASHES = 8
_MAX_GUESTS = 64
GUEST_LOST = 6  # the exit code; pytest's own end at 5


def guest_count(word: str) -> int:
    """How many guests at once ``word`` asks for; raises ArgumentTypeError."""
    if not word.isdecimal() or not 1 <= int(word) <= _MAX_GUESTS:
        raise argparse.ArgumentTypeError(f"the number of guests is a number from 1 to {_MAX_GUESTS}")
    return int(word)


@dataclass(frozen=True)
class Options:
    """What the user asked for: ours taken out, the rest is pytest's."""

    guests: int | None
    """At once; None: as many as the host bears."""
    junitxml: Path | None
    rounds: int
    keep_guest: bool
    accelerator: str | None
    pytest: tuple[str, ...]
    resume: bool = False

    @classmethod
    def parse(cls, words: Sequence[str]) -> Options:
        """Take our options out of ``words``; those that would lead tests out of the guests are refused."""
        parser = argparse.ArgumentParser(prog="nox -s vmtest --", add_help=False, allow_abbrev=False)
        parser.add_argument("-n", "--numprocesses")
        parser.add_argument("--junitxml", "--junit-xml", type=Path)
        parser.add_argument("--until-fail", type=int, default=1)
        parser.add_argument("--keep-guest", action="store_true")
        parser.add_argument("--resume", action="store_true")
        parser.add_argument("--accel", choices=accelerator.NAMES)
        for refused in ("--tx", "--dist", "--px", "--pdb", "--looponfail", "--maxprocesses"):
            parser.add_argument(refused, nargs="?", const=True)
        known, rest = parser.parse_known_args(list(words))
        for refused in ("tx", "dist", "px", "pdb", "looponfail", "maxprocesses"):
            if getattr(known, refused) is not None:
                raise WorkspaceError(
                    f"--{refused} cannot be used with vmtests: they run in guests. Use -n N for N guests at once, "
                    "--keep-guest for a shell in the guest of a failed test."
                )
        try:
            guests = None if known.numprocesses is None else guest_count(known.numprocesses)
        except argparse.ArgumentTypeError as error:
            raise WorkspaceError(f"-n {known.numprocesses}: {error}.") from error
        if known.until_fail < 1:
            raise WorkspaceError(f"--until-fail {known.until_fail}: the number of rounds is 1 or more.")
        if known.resume and known.until_fail > 1:
            raise WorkspaceError("--resume leaves out what passed once, which says nothing of --until-fail: take one.")
        return cls(
            guests=guests,
            junitxml=known.junitxml,
            rounds=known.until_fail,
            keep_guest=known.keep_guest,
            accelerator=known.accel,
            pytest=tuple(rest),
            resume=known.resume,
        )


@dataclass(eq=False)  # pytest keeps plugins in sets
class Host:
    """The plugin of the process that runs pytest on the host: collects outcomes, whoever had them."""

    options: Options
    results: Results
    promises: Promises
    run: Run
    exceptions: Exceptions
    known_options: frozenset[str]
    journal: Journal
    passed: Mapping[str, Test] = field(default_factory=dict)
    """What need not run again."""
    whole: bool = False
    stops: bool = False
    stopped: bool = False
    _config: pytest.Config = field(init=False, repr=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Know our markers, and whether the user chose among the tests."""
        self._config = config
        config.stash[ON_HOST] = True
        for marker in MARKERS:
            config.addinivalue_line("markers", marker)
        chosen = ("keyword", "markexpr", "lf", "stepwise", "deselect", "ignore", "ignore_glob")
        self.stops = bool(config.getoption("maxfail"))
        self.whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not any(
            config.getoption(name, None) for name in chosen
        )

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """End the guests first: without them everything else that has to be undone is quick."""
        # With workers, pytest stops at a failure by a kind of KeyboardInterrupt, too.
        self.stopped = type(excinfo.value) is not KeyboardInterrupt
        # Cleaning up takes a second; a second ^C must not stop half of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        machine.end_guests(self.run.folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report says of its test."""
        self.results.add(report)
        if report.failed or report.when == "teardown":
            self.keep(report)

    def keep(self, report: pytest.TestReport) -> None:
        """A test is through: that is not to be lost with the machine."""
        self.journal.add(test=report.nodeid, **asdict(self.results.tests[report.nodeid]))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected is a failure with a name."""
        if report.failed:
            self.results.add_broken(report.nodeid, str(report.longrepr))


@dataclass(eq=False)
class Guests(Host):
    """The host's side of tests that run in guests: proves each guest, and reports what took one down."""

    _names: dict[str, tuple[str, str]] = field(default_factory=dict)
    _unblamed: dict[str, Verdict] = field(default_factory=dict)
    # Tests of each guest since the last look for leaks, any of which may have leaked.
    _unproven: dict[str, list[pytest.TestReport]] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Generator[None, None, None]:
        """The first boots; a guest that is lost ends the run with a sentence, not with xdist's traceback."""
        with self._explained():
            yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """The boots that replace crashed guests, as well."""
        with self._explained():
            return (yield)

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        try:
            yield
        except (EOFError, OSError, RuntimeError) as error:
            verdict = self._loss()
            if verdict is None:
                raise
            pytest.exit(f"{verdict.sentence}\n{verdict.tail}\n({error})", returncode=GUEST_LOST)

    def _loss(self) -> Verdict | None:
        """How the last guest was lost, or None if it was not: then an error is the run's own."""
        folders = sorted(self.run.folder.glob("[0-9]*/"), key=lambda path: int(path.name))
        if not folders:
            return None
        record = Record.read(folders[-1])
        if record is not None and record.owner.alive and Verdict.read(folders[-1]) is None:
            return None
        verdict = _awaited_verdict(folders[-1])
        return None if verdict.kind is Kind.DONE else verdict

    def pytest_xdist_newgateway(self, gateway: Any) -> None:
        """Ask the new worker who it is, before any test goes there."""
        channel = gateway.remote_exec(
            "channel.send((open('/proc/cmdline').read(), open('/proc/sys/kernel/random/boot_id').read()))"
        )
        line, boot = channel.receive()
        channel.waitclose()
        words = dict(word.partition("=")[::2] for word in line.split())
        name = words.get("workspace.guest", "")
        if words.get("workspace.nonce") != self.run.nonce:
            pytest.exit("a worker answered that is no guest of this run: nothing was tested.", returncode=3)
        self._names[gateway.id] = (name.rpartition(".")[2], boot.strip())

    def pytest_xdist_getremotemodule(self) -> ModuleType:
        """What runs in a guest instead of xdist's own worker, which has threads."""
        return relay

    def pytest_configure_node(self, node: Any) -> None:
        """What the worker in the guest has to know."""
        node.workerinput["workspace_nonce"] = self.run.nonce
        node.workerinput["workspace_build_id"] = self.run.machine.kernel.build_id
        node.workerinput["workspace_guest"] = f"guest-{self._names[node.gateway.id][0]}"
        node.workerinput["workspace_options"] = sorted(self.run.machine.kernel.options)
        node.workerinput["workspace_known_options"] = sorted(self.known_options)
        node.workerinput["workspace_slowness"] = self.run.machine.slowness
        node.workerinput["workspace_headers"] = str(self.run.machine.kernel.headers)
        node.workerinput["workspace_keep"] = self.options.keep_guest
        node.workerinput["workspace_rounds"] = self.options.rounds
        node.workerinput["workspace_passed"] = list(self.passed)

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A guest that ended well says what it found at its end; one that did not may be the failure of a test next."""
        number = self._names[node.gateway.id][0]
        told = getattr(node, "workeroutput", None)
        if told is None or error is not None:
            self._unblamed[number] = _awaited_verdict(self.run.folder / number)
            return
        self.results.other_kernels.update(told.get("workspace_other_kernels", ()))
        for nodeid in told.get("workspace_left_out", ()):
            self.results.recall(nodeid, self.passed[nodeid])
        found = told.get("workspace_end", "nobody looked whether all was well")
        for path, counts in told.get("workspace_counts", {}).items():
            where = Path("/", path).relative_to(self.run.machine.kernel.folder).with_suffix(".gcda")
            storage.write_whole(self.results.folder / "coverage" / f"guest-{number}" / where, counts)
        unproven = self._unproven.pop(f"guest-{number}", [])
        if found:
            self.results.add_end(f"guest-{number}", found)
        else:
            for report in unproven:
                super().keep(report)

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """A test that took its guest down: say how, with the console's last lines."""
        number, boot = self._names[report.node.gateway.id]
        verdict = _awaited_verdict(self.run.folder / number)
        self._unblamed.pop(number, None)
        report.when = "call"
        report.location = (report.location[0], None, crashitem.partition("::")[2])
        report.longrepr = (
            f"{verdict.kind.value}: {verdict.sentence}, while {crashitem} ran in guest-{number}.\n"
            f"The console's last lines (all of it: {self.run.consoles / f'guest-{number}.log'}):\n{verdict.tail}"
        )
        report.user_properties = [
            ("guest", f"guest-{number}"),
            ("guest_boot_id", boot),
            ("kernel_build_id", self.run.machine.kernel.build_id),
            ("outcome", verdict.kind.value),
        ]

    def pytest_sessionfinish(self) -> None:
        """A guest that ended while it ran no test is nobody's failure yet: it may have died of what they left."""
        for number, verdict in self._unblamed.items():
            self.results.complaints.append(
                f"guest-{number} ended while it ran no test: {verdict.kind.value}: {verdict.sentence}\n{verdict.tail}"
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report says; lend the terminal to the guest of a failed test if it was to be kept."""
        super().pytest_runtest_logreport(report)
        if self.options.keep_guest and report.failed and report.when in ("setup", "call"):
            properties = dict(report.user_properties)
            number = str(properties.get("guest", "")).removeprefix("guest-")
            if properties.get("outcome") not in {kind.value for kind in Kind if kind is not Kind.TIMEOUT}:
                with self._terminal():
                    shell.attend(self.run.folder / number, report.nodeid)

    def keep(self, report: pytest.TestReport) -> None:
        """Where leaks are looked for, a test has passed only after the next look."""
        if report.failed or not self.run.machine.kernel.has(kmemleak.OPTION):
            super().keep(report)
            return
        properties = dict(report.user_properties)
        unproven = self._unproven.setdefault(str(properties.get("guest")), [])
        unproven.append(report)
        if LOOKED in properties:
            for proven in unproven:
                super().keep(proven)
            unproven.clear()

    @contextmanager
    def _terminal(self) -> Generator[None, None, None]:
        capture = self._config.pluginmanager.getplugin("capturemanager")
        capture.suspend_global_capture(in_=True)
        try:
            yield
        finally:
            capture.resume_global_capture()


@dataclass(eq=False)
class Boots(Host):
    """The host's side of the tests that drive a guest from here: lends them guests."""

    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _power: ExitStack = field(default_factory=ExitStack)
    _guest: Booted | None = None
    _recall: Recall = field(init=False, repr=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """These tests have rounds, too."""
        super().pytest_configure(config)
        config.pluginmanager.register(Rounds(self.options.rounds), "workspace-rounds")
        self._recall = Recall(self.passed)
        config.pluginmanager.register(self._recall, "workspace-recall")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Only what is marked for the host; everything else belongs in a guest."""
        dropped = [item for item in items if item.get_closest_marker("host") is None]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = [item for item in items if item not in dropped]
        options = self.run.machine.kernel.options
        self.results.other_kernels.update(drop_for_other_kernels(items, options, self.known_options))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Tell the kinds of failure apart."""
        return name_outcome((yield), call)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record which promises a test holds."""
        item.user_properties += [("promise", name) for name in self.promises.of(item)]
        return (yield)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """A promise that does not exist is an error."""
        self.promises.require_known(item)

    @pytest.fixture
    def guest(self, request: pytest.FixtureRequest) -> Iterator[Booted]:
        """A guest that was reached: the last test's, if it survived that; boots take long."""
        if self._guest is None or not self._guest.alive:
            self._power.close()
            number = f"boot-{next(self._numbers)}"
            self._guest = self._power.enter_context(
                boot.booted(
                    self.run.machine,
                    self.run.folder / number,
                    name=f"{self.run.nonce}.{number}",
                    log=self.run.consoles / f"{number}.log",
                    exceptions=self.exceptions,
                )
            )
        request.node.user_properties += [
            ("guest", self._guest.number),
            ("guest_boot_id", self._guest.boot_id),
            ("kernel_build_id", self.run.machine.kernel.build_id),
        ]
        yield self._guest
        self._guest.check()

    def pytest_sessionfinish(self) -> None:
        """The last guest ends with the tests."""
        for nodeid in self._recall.left_out:
            self.results.recall(nodeid, self.passed[nodeid])
        self._power.close()


def _awaited_verdict(folder: Path) -> Verdict:
    # guest.py writes it before its end of the pipe closes, which is how xdist noticed.
    verdict = Verdict.read(folder)
    if verdict is None:
        return Verdict(Kind.KILLED, "the program that watched the guest was killed", None, "")
    return verdict


@contextmanager
def _terminable() -> Generator[None, None, None]:
    """SIGTERM, and a terminal that is closed, unwind pytest as ^C does, and are told apart at the end."""
    seen = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if seen:
            raise Terminated


def run(
    kernel: Kernel,
    words: Sequence[str] = (),
    *,
    paths: Paths | None = None,
    facts: Mapping[str, str] | None = None,
) -> int:
    """Test ``kernel`` and leave the results in build/results; ``words`` are ours and pytest's, as the user gave them.

    With ``--resume`` tests that have passed with this kernel are left out, and their results are those of then.
    ``facts`` go into results.json (the kind of tree, the series' digest, ...). The exit code is pytest's, or
    GUEST_LOST; 5 if no test ran; 1 too if a promise that the series makes was not held by the whole suite.
    """
    paths = paths or Paths()
    options = Options.parse(words)
    machine.require_tools()
    vm = Machine(kernel, accelerator.choose(kernel, paths=paths, wanted=options.accelerator))
    at_once = options.guests or (1 if options.keep_guest else vm.at_once)
    promises = Promises.load(paths.vmtests / "promises.toml")
    before = Path.cwd()
    exceptions = Exceptions.load(paths.vmtests / ALLOWED)
    known_options = kconfig.known_options(paths.kconfig)
    with ExitStack() as stack:
        stack.enter_context(storage.locked(paths.build / "vmtest.lock", what="build/results"))
        outcome = Results.started(kernel, vm, facts=facts or {}, folder=paths.results, guests=at_once)
        stack.callback(outcome.write, promises)
        guests = stack.enter_context(begun(vm, paths, paths.results / "consoles"))
        key = key_of(paths, kernel, vm.accelerator)
        journal = Journal.opened(paths.journals / f"vmtest-{kernel.flavour}.jsonl", key)
        passed = _passed(journal) if options.resume else {}
        if options.resume:
            say(f"vmtest: {len(passed)} tests have passed already with this kernel, and are left out.")

        def host(kind: type[Host]) -> Host:
            return kind(options, outcome, promises, guests, exceptions, known_options, journal, passed)

        stack.callback(lambda: keep_times(paths, outcome.tests))
        code = _sessions(host, guests, options, outcome, promises, in_guests(guests, at_once, crashes=MAX_CRASHES))
        if options.junitxml is not None:
            outcome.write(promises)
            target = before / options.junitxml
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths.results / "junit.xml", target)
    say(f"Results: {paths.results} (junit.xml, results.json, consoles/, configs/).")
    return code


def _passed(journal: Journal) -> dict[str, Test]:
    """The tests whose last outcome was to pass."""
    last = {str(entry.pop("test")): Test(**entry) for entry in journal.entries}
    return {nodeid: test for nodeid, test in last.items() if test.outcome == "passed"}


@contextmanager
def begun(vm: Machine, paths: Paths, consoles: Path) -> Generator[Run, None, None]:
    """A run whose guests may be started in the block, in which pytest finds the clone; none of them outlives it."""
    nonce = secrets.token_hex(8)
    with ExitStack() as stack:
        folder = stack.enter_context(machine.run_folder(paths.guests, nonce))
        stack.enter_context(_terminable())
        stack.callback(os.chdir, Path.cwd())
        os.chdir(paths.root)
        yield Run(folder, consoles, paths.root, nonce, vm)


def in_guests(run: Run, guests: int, *, crashes: int) -> list[str]:
    """The words by which xdist starts the guests of a run, ``guests`` at once, and replaces ``crashes`` of them."""
    tx = f"{guests}*popen//python={shlex.quote(str(run.write()))}"
    return ["--dist", "load", "--tx", tx, "--max-worker-restart", str(crashes)]


def _sessions(
    host_of: Callable[[type[Host]], Host],
    run: Run,
    options: Options,
    outcome: Results,
    promises: Promises,
    guests: list[str],
) -> int:
    codes = []
    whole = True
    hosts: list[tuple[Host, list[str]]] = [(host_of(Boots), ["-p", "no:xdist"])]
    if outcome.task_diag:
        hosts.append((host_of(Guests), guests))
    for host, extra in hosts:
        with tempfile.TemporaryDirectory(prefix="junit", dir=run.folder) as scratch:
            junit = Path(scratch) / "junit.xml"
            words = [
                "-c",
                "pyproject.toml",
                "-o",
                "testpaths=vmtests",
                f"--junitxml={junit}",
                *extra,
                *options.pytest,
            ]
            code = int(pytest.main(words, plugins=[host]))
            if code == pytest.ExitCode.INTERRUPTED and host.stopped:
                code = int(pytest.ExitCode.TESTS_FAILED)
            outcome.add_junit(junit)
        whole = whole and host.whole
        if code == pytest.ExitCode.NO_TESTS_COLLECTED:
            continue
        codes.append(code)
        if code == pytest.ExitCode.INTERRUPTED or (code and host.stops):
            break
    return outcome.verdict(codes, promises if whole else None)
