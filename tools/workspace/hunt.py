"""`mutants`: for each mutant the tests that hold its promises, until one fails; a table of who killed whom.

A test that ends in another way than by failing (its guest died, or it ran out of time) says nothing of the mutant,
unless mutants.toml expects that of it. Such a mutant is tried once more, in new guests, and then left undecided.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from workspace import accelerator, kconfig, machine, storage, vmtest
from workspace.journal import Journal, key_of, times
from workspace.kernel import Kernel
from workspace.machine import Machine
from workspace.mutants import NONE, TABLE, Mutant, join, split
from workspace.progress import say
from workspace.promises import Promises
from workspace.results import GREEN, Results, Test
from workspace.schedule import Schedule
from workspace.settings import Paths
from workspace.splat import ALLOWED, Exceptions
from workspace.vmtest import Guests, Options

FILE = "mutants.json"
_TO_THE_END = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


@dataclass
class Scores:
    """What a run has found so far."""

    mutants: Mapping[str, Mutant]
    results: Results
    told: Callable[[str], None] = say
    journal: Journal | None = None
    times: dict[str, float] = field(default_factory=dict)
    """Seconds of each test in an earlier run."""
    _expected: dict[str, int] = field(default_factory=dict)
    _ended: dict[str, list[str]] = field(default_factory=dict)
    _killers: dict[str, list[str]] = field(default_factory=dict)
    _why: dict[str, str] = field(default_factory=dict)
    # Tests that ended as nobody expects, in the order they came; and the mutants that are left because of one.
    _unexpected: dict[str, list[str]] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)
    _remembered: set[str] = field(default_factory=set)
    # Mutants with which a test failed of which nobody knows yet whether it passes without: (test, why).
    _suspects: dict[str, tuple[str, str]] = field(default_factory=dict)

    def recall(self) -> dict[str, Test]:
        """Take in what the journal has of earlier runs; give the tests without a mutant that need not run again.

        That is what passed without a mutant, and the mutants that were killed and are still said to break the same.
        """
        passed: dict[str, Test] = {}
        for entry in self.journal.entries if self.journal is not None else ():
            test = Test(**entry["result"])
            if "mutant" not in entry:
                passed[join(entry["test"], NONE)] = test
                continue
            mutant = self.mutants.get(entry["mutant"])
            if mutant is None or [*mutant.breaks, mutant.ends] != [*entry["breaks"], entry["ends"]]:
                continue
            self._killers[mutant.name] = [entry["test"]]
            self._why[mutant.name] = entry["why"]
            self._expected[mutant.name] = entry["tests"]
            self._ended[mutant.name] = entry["ended"]
            self._remembered.add(mutant.name)
            self.results.recall(join(entry["test"], mutant.name), test)
        passed = {name: test for name, test in passed.items() if test.outcome == "passed"}
        for name, test in passed.items():
            self.results.recall(name, test)
        return passed

    def add(self, report: pytest.TestReport) -> None:
        """Take in one phase of a test, which ``results`` has taken in already; tell what is decided by it."""
        test, mutant = split(report.nodeid)
        if self.settled(mutant):
            # One test more had been given out; it was skipped.
            return
        ended = self._ended.setdefault(mutant, [])
        if test not in ended and (report.failed or report.when == "teardown"):
            ended.append(test)
        if mutant == NONE:
            if report.failed or report.when == "teardown":
                self._add_plain(test)
            if report.when == "teardown" and len(ended) == self._expected.get(NONE) and self.healthy():
                seconds = sum(self.seconds(name) for name in ended)
                self.told(f"{len(ended)} tests pass without a mutant, in {seconds:.0f} s.")
            return
        if report.failed and self._holds(test, mutant):
            outcome = str(dict(report.user_properties).get("outcome", "failed"))
            if self.mutants[mutant].killed_by(outcome):
                self._suspects[mutant] = test, _why(report)
                if self._known(test):
                    self._kill(test)
            else:
                before = self._unexpected.setdefault(mutant, [])
                before.append(f"{_short(test)} ({outcome})")
                self._left.add(mutant)
                how = "UNDECIDED, again" if len(before) > 1 else "to be tried once more, since nobody expects"
                self._tell(mutant, f"{how}: {before[-1]}")
        elif report.when == "teardown" and len(ended) == self._expected.get(mutant):
            self._tell(mutant, f"SURVIVED {len(ended)} tests")

    def _add_plain(self, test: str) -> None:
        if self.journal is not None:
            self.journal.add(test=test, result=asdict(self._plain(test)))
        if self._plain(test).outcome in GREEN:
            self._kill(test)

    def _kill(self, killer: str) -> None:
        """The mutants with which the test failed, which passes without, are dead."""
        for mutant, (test, why) in [*self._suspects.items()]:
            if test == killer:
                del self._suspects[mutant]
                self._killers[mutant] = [test]
                self._why[mutant] = why
                self._note(mutant, test)
                self._tell(mutant, f"killed by {self._killed_by(mutant)}")

    def _known(self, test: str) -> bool:
        return join(test, NONE) in self.results.tests

    def _note(self, mutant: str, killer: str) -> None:
        if self.journal is not None:
            self.journal.add(
                mutant=mutant,
                breaks=self.mutants[mutant].breaks,
                ends=self.mutants[mutant].ends,
                test=killer,
                result=asdict(self.results.tests[join(killer, mutant)]),
                why=self._why[mutant],
                tests=self._expected.get(mutant, 0),
                ended=self._ended[mutant],
            )

    def _tell(self, mutant: str, sentence: str) -> None:
        decided = len(self.mutants) - len(self.undecided)
        self.told(f"{decided:4}/{len(self.mutants)}  {mutant}: {sentence}")

    def _holds(self, test: str, mutant: str) -> bool:
        # A test that took its guest down could not report its promises. If they are not known from before, it is one
        # of the mutant's all the same: no others are given out.
        found = self.results.tests[join(test, mutant)].promises or self._plain(test).promises
        return not found or not {*self.mutants[mutant].breaks}.isdisjoint(found)

    def _plain(self, test: str) -> Test:
        return self.results.tests.get(join(test, NONE), Test())

    def killed(self, mutant: str) -> bool:
        """Whether a test of the mutant's own promises failed."""
        return mutant in self._killers

    def settled(self, mutant: str) -> bool:
        """Whether no more tests are to be tried on the mutant: it is killed, or one ended as nobody expects."""
        return self.killed(mutant) or mutant in self._left or mutant in self._suspects

    def wanted(self) -> list[str]:
        """The tests that are to be run without a mutant, since they failed with one."""
        return [test for test, _ in self._suspects.values() if not self._known(test)]

    def timed(self, test: str) -> bool:
        """Whether it is known how long the test takes."""
        return self._known(test) or test in self.times

    def again(self) -> dict[str, Mutant]:
        """The mutants that were left; what their tests did, and those without a mutant, is to be learned anew."""
        again = {name: mutant for name, mutant in self.mutants.items() if name in self._left}
        self._left.clear()
        for name, test in self.results.tests.items():
            if split(name)[1] == NONE:
                self.times[split(name)[0]] = test.seconds
        for name in (NONE, *again):
            self._ended.pop(name, None)
        for name in [*self.results.tests]:
            if split(name)[1] in (NONE, *again):
                del self.results.tests[name]
        return again

    @property
    def doubtful(self) -> dict[str, list[str]]:
        """The mutants that were left, each with the tests that ended as nobody expects."""
        return {name: self._unexpected[name] for name in self.mutants if name in self._left}

    def healthy(self) -> bool:
        """Whether every test has passed so far without a mutant."""
        return not self.sick

    @property
    def sick(self) -> list[str]:
        """The tests that failed without a mutant."""
        return sorted(
            split(name)[0]
            for name, test in self.results.tests.items()
            if split(name)[1] == NONE and test.outcome not in GREEN
        )

    def seconds(self, test: str) -> float:
        """How long a test took without a mutant."""
        return self._plain(test).seconds if self._known(test) else self.times.get(test, 0.0)

    def expect(self, mutant: str, tests: int) -> None:
        """So many tests hold the mutant's promises; or, without a mutant, any."""
        self._expected[mutant] = tests

    @property
    def survivors(self) -> list[str]:
        """The mutants that no test of theirs noticed, although all of them ran."""
        return [name for name in self.mutants if not self.killed(name) and name not in self.undecided]

    @property
    def undecided(self) -> list[str]:
        """The mutants that not all tests were tried on: the run ended early, or a test ended as nobody expects."""
        return [
            name
            for name in self.mutants
            if not self.killed(name)
            and (
                name in self._left
                or name in self._suspects
                or not self._expected
                or len(self._ended.get(name, ())) < self._expected.get(name, 0)
            )
        ]

    def _killed_by(self, mutant: str) -> str:
        killers = []
        for test in self._killers[mutant]:
            outcome = self.results.tests[join(test, mutant)].outcome
            killers.append(_short(test) if outcome == "failed" else f"{_short(test)} ({outcome})")
        return ", ".join(killers)

    def table(self) -> str:
        """Promise, mutant, and the test that killed it, in the order of the promises."""
        rows = [("promise", "mutant", "killed by")]
        for name, mutant in sorted(self.mutants.items(), key=lambda pair: _place(pair[1].breaks[0])):
            how = "undecided" if name in self.undecided else f"SURVIVED {len(self._ended.get(name, ()))} tests"
            rows.append((" ".join(mutant.breaks), name, self._killed_by(name) if self.killed(name) else how))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{promise:{widths[0]}}  {name:{widths[1]}}  {how}" for promise, name, how in rows)

    def data(self) -> list[dict[str, object]]:
        """Each mutant with what was found."""
        return [
            {
                "name": name,
                "breaks": mutant.breaks,
                "says": mutant.says,
                "v4": mutant.v4,
                "killed": self.killed(name),
                "killed_by": self._killers.get(name, []),
                "why": self._why.get(name),
                "unexpected": self._unexpected.get(name, []),
                "outcomes": [self.results.tests[join(test, name)].outcome for test in self._killers.get(name, [])],
                "tests": self._expected.get(name, 0),
                "tests_run": len(self._ended.get(name, ())),
                "seconds": round(sum(self._seconds_under(name)), 2),
                **({"remembered": True} if name in self._remembered else {}),
            }
            for name, mutant in self.mutants.items()
        ]

    def _seconds_under(self, mutant: str) -> Iterable[float]:
        return (test.seconds for name, test in self.results.tests.items() if split(name)[1] == mutant)


def _short(test: str) -> str:
    return test.removeprefix("vmtests/")


def _why(report: pytest.TestReport) -> str:
    """The line of a failure that says what failed."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash is not None else report.longreprtext).strip().splitlines()
    return str(lines[0]) if lines else ""


def _place(promise: str) -> tuple[int, int]:
    return "FWRCOGN".find(promise[0]), int(promise[1:])


@dataclass(eq=False)
class Hunt(Guests):
    """The host's side: gives tests out mutant by mutant, and keeps score; a failure with a mutant is what is wanted."""

    scores: Scores = field(kw_only=True)
    mutants: Mapping[str, Mutant] = field(kw_only=True)

    def pytest_xdist_make_scheduler(self) -> Schedule:
        """Ours, in place of xdist's."""
        assert self.options.guests is not None
        return Schedule(self.options.guests, self.scores)

    def pytest_configure_node(self, node: object) -> None:
        """What the worker in the guest has to know."""
        super().pytest_configure_node(node)
        breaks = {name: list(mutant.breaks) for name, mutant in self.mutants.items()}
        node.workerinput["workspace_breaks"] = breaks  # type: ignore[attr-defined]
        node.workerinput["workspace_times"] = self.scores.times  # type: ignore[attr-defined]

    def pytest_testnodedown(self, node: object, error: object) -> None:
        """What a guest finds at its end may be what a mutant left: nothing is learned from it."""

    def keep(self, report: pytest.TestReport) -> None:
        """What is not to be lost is what was found of mutants, which the scores know."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep score; of a failure without a mutant say why."""
        super().pytest_runtest_logreport(report)
        self.scores.add(report)
        if report.failed and split(report.nodeid)[1] == NONE:
            say(f"{split(report.nodeid)[0]} fails without a mutant:\n{textwrap.indent(report.longreprtext, '    ')}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self) -> tuple[str, str, str]:
        """Nothing of it is for pytest's own summary."""
        return "", "", ""

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be collected is told."""
        super().pytest_collectreport(report)
        if report.failed:
            say(f"{report.nodeid} cannot be collected:\n{textwrap.indent(report.longreprtext, '    ')}")


def run(
    kernel: Kernel,
    chosen: Mapping[str, Mutant],
    promises: Promises,
    *,
    paths: Paths,
    guests: int | None = None,
    wanted: str | None = None,
    resume: bool = False,
    facts: Mapping[str, str] | None = None,
) -> int:
    """Try the mutants ``chosen`` in ``kernel``, each by the tests of its ``promises``; 0 if each was killed by one.

    With ``resume`` those that were killed in this kernel by these tests already are not tried again.
    1 if one was not, or was left undecided, or if a test fails without any; else pytest's own exit code, or vmtest's
    GUEST_LOST.
    """
    machine.require_tools()
    vm = Machine(kernel, accelerator.choose(kernel, paths=paths, wanted=wanted))
    guests = guests or vm.at_once
    started = datetime.datetime.now(datetime.UTC)
    with ExitStack() as stack:
        stack.enter_context(storage.locked(paths.build / "vmtest.lock", what="build/results"))
        folder = paths.results / "mutants"
        shutil.rmtree(folder, ignore_errors=True)
        (paths.results / FILE).unlink(missing_ok=True)
        folder.mkdir(parents=True)
        journal = Journal.opened(paths.journals / "mutants.jsonl", key_of(paths, kernel, vm.accelerator))
        scores = Scores(chosen, Results(folder, {}, kernel.options), journal=journal, times=times(paths))
        passed = scores.recall() if resume else {}
        guest_run = stack.enter_context(vmtest.begun(vm, paths, folder))
        options = Options(guests=guests, junitxml=None, rounds=1, keep_guest=False, accelerator=wanted, pytest=())
        known_options = kconfig.known_options(paths.kconfig)
        exceptions = Exceptions.load(paths.vmtests / ALLOWED)

        def tried(mutants: Mapping[str, Mutant], passed: Mapping[str, Test]) -> int:
            words = ["-c", "pyproject.toml", "-o", "testpaths=vmtests", "-qq", "--no-header", "--no-summary"]
            # Each mutant may take a guest down, and then some.
            words += vmtest.in_guests(guest_run, guests, crashes=len(mutants) + vmtest.MAX_CRASHES)
            hunt = Hunt(
                *(options, scores.results, promises, guest_run, exceptions, known_options, journal, passed),
                scores=scores,
                mutants=mutants,
            )
            # What pytest and xdist print is about failures, which are wanted here.
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                code = int(pytest.main(words, plugins=[hunt]))
            if code not in (*_TO_THE_END, pytest.ExitCode.INTERRUPTED):
                say(printed.getvalue())
            return code

        left = {name: mutant for name, mutant in chosen.items() if not scores.killed(name)}
        if resume:
            say(f"{len(chosen) - len(left)} of {len(chosen)} mutants are killed already.")
        code = 0
        if left:
            say(f"Mutants: {len(left)}, in {guests} {'guest' if guests == 1 else 'guests'}.")
            code = tried(left, passed)
        if code in _TO_THE_END and scores.healthy() and (again := scores.again()):
            say(f"Once more, in new guests: {', '.join(again)}.")
            code = tried(again, {})
        code = _verdict(scores, code)
        data = {
            "kernel": kernel.release,
            "build_id": kernel.build_id,
            "accelerator": vm.accelerator,
            "guests": guests,
            **(facts or {}),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.datetime.now(datetime.UTC) - started).total_seconds(), 1),
            "exit_code": code,
            "fail_without_a_mutant": scores.sick,
            "survivors": scores.survivors,
            "undecided": scores.undecided,
            "mutants": scores.data(),
        }
        storage.write_whole(paths.results / FILE, json.dumps(data, indent=1) + "\n")
    _tell(scores, paths.results / FILE)
    return code


def _verdict(scores: Scores, code: int) -> int:
    """Pytest's exit code tells of failures, which are wanted here; what else it tells counts."""
    if code not in _TO_THE_END:
        return code
    return int(bool(scores.sick or scores.survivors or scores.undecided))


def _tell(scores: Scores, file: Path) -> None:
    if scores.sick:
        say(f"mutants: {len(scores.sick)} tests fail without a mutant, so that nothing is learned: mend them first.")
        return
    print(scores.table())
    killed = sum(scores.killed(name) for name in scores.mutants)
    say(f"mutants: {killed} of {len(scores.mutants)} killed by a test of their own promises; {file}")
    for what, names in (
        ("survived: strengthen a test of its promise, or replace the mutant", scores.survivors),
        ("not tried to the end", [name for name in scores.undecided if name not in scores.doubtful]),
    ):
        if names:
            say(f"mutants: {what}: {', '.join(names)}.")
    for name, tests in scores.doubtful.items():
        say(
            f"mutants: undecided: {name}: {', '.join(tests)}; look at the consoles in {file.parent / 'mutants'}: "
            f"if it is the mutant that crashes or hangs, say so with `ends` in vmtests/{TABLE}."
        )
