"""What a run leaves for a reader: build/results/{junit.xml, results.json, consoles/, configs/}."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from workspace import storage
from workspace.kernel import Kernel
from workspace.machine import Machine
from workspace.progress import say
from workspace.promises import Promises

# What may be in `outcome`: "passed", "failed", "skipped"; "timed out" (the guest lived on), "hung" (it fell silent),
# "crashed" (the kernel panicked), "tainted" (it complained), "lost" (it never booted), "killed" (QEMU was), "ended".
GREEN = {"passed", "skipped"}


def facts_of(kernel: Kernel, vm: Machine, *, guests: int) -> dict[str, object]:
    """The kernel, the machine and the time of a run that starts now, for its results."""
    return {
        "kernel": kernel.release,
        "build_id": kernel.build_id,
        "flavour": kernel.flavour,
        "accelerator": vm.accelerator,
        "guests": guests,
        "cpus": vm.cpus,
        "memory": vm.memory,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@dataclass
class Test:
    """One test: its outcome over all its phases."""

    __test__: ClassVar[bool] = False  # for pytest, which might take it for one of its own

    outcome: str = "passed"
    seconds: float = 0.0
    guest: str | None = None
    promises: list[str] = field(default_factory=list)
    note: str = ""
    remembered: bool = False
    """Of an earlier run that was resumed."""


@dataclass
class Results:
    """The results of one run, as they come in."""

    folder: Path
    facts: dict[str, object]
    options: frozenset[str]
    tests: dict[str, Test] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    other_kernels: set[str] = field(default_factory=set)
    code: int | None = None
    _suites: list[ET.Element] = field(default_factory=list)

    @classmethod
    def started(cls, kernel: Kernel, vm: Machine, *, facts: Mapping[str, str], folder: Path, guests: int) -> Results:
        """Make room for a new run's results; those of the last run are gone, so that none is taken for the new."""
        for name in ("consoles", "configs", "coverage"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("junit.xml", "results.json"):
            (folder / name).unlink(missing_ok=True)
        (folder / "consoles").mkdir(parents=True)
        storage.write_whole(folder / "configs" / f"{kernel.flavour}.config", kernel.config.read_text())
        return cls(folder, {**facts_of(kernel, vm, guests=guests), **facts}, kernel.options)

    @property
    def task_diag(self) -> bool:
        """Whether the kernel has what most tests are about."""
        return "CONFIG_TASK_DIAG" in self.options

    def add(self, report: pytest.TestReport) -> None:
        """Take in one phase of a test."""
        test = self.tests.setdefault(report.nodeid, Test())
        test.seconds += report.duration
        properties = dict(report.user_properties)
        if report.outcome == "failed":
            if test.outcome in GREEN:
                test.outcome = str(properties.get("outcome", "failed"))
        elif report.outcome == "skipped" and test.outcome in GREEN:
            test.outcome = "skipped"
            test.note = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        test.guest = str(properties["guest"]) if "guest" in properties else test.guest
        if report.when == "call" or report.failed:
            test.note = str(properties.get("rounds", test.note))
        promises = [str(value) for name, value in report.user_properties if name == "promise"]
        test.promises = promises or test.promises

    def recall(self, nodeid: str, test: Test) -> None:
        """Take in what an earlier run has found of a test."""
        self.tests.setdefault(nodeid, replace(test, remembered=True))

    def add_broken(self, nodeid: str, why: str) -> None:
        """A file whose tests could not be collected."""
        self.tests[nodeid] = Test(outcome="failed", note=why.splitlines()[-1] if why else "")

    def add_end(self, guest: str, found: str) -> None:
        """What was wrong with a guest after its last test."""
        self.complaints.append(f"{guest}, after its last test: {found.strip()}")

    def add_junit(self, path: Path) -> None:
        """Take in the test suites of one of pytest's own files, if it got so far."""
        with contextlib.suppress(OSError, ET.ParseError):
            suites = [suite for suite in ET.parse(path).getroot().iter("testsuite") if len(suite)]
            self._suites += suites

    @property
    def held(self) -> dict[str, list[str]]:
        """The tests that passed, by the promises that they hold."""
        table: dict[str, list[str]] = {}
        for nodeid, test in sorted(self.tests.items()):
            if test.outcome == "passed":
                for promise in test.promises:
                    table.setdefault(promise, []).append(nodeid)
        return table

    def verdict(self, codes: list[int], promises: Promises | None) -> int:
        """The run's exit code; ``promises`` if the whole suite ran, and so has to hold them all."""
        ran = [test for test in self.tests.values() if test.outcome != "skipped"]
        self.code = next((code for code in sorted(codes, reverse=True) if code), 0)
        if self.complaints or any(test.outcome not in GREEN for test in ran):
            self.code = self.code or int(pytest.ExitCode.TESTS_FAILED)
        if not ran and self.code == 0:
            self.complaints.append("no test ran, so nothing was tested")
            self.code = int(pytest.ExitCode.NO_TESTS_COLLECTED)
        # What an interrupted run did not get to is not missing.
        if promises is not None and self.task_diag and self.code != pytest.ExitCode.INTERRUPTED:
            for promise in promises.untested(self.options):
                say(f"vmtest: {promise.name} is not tested here: this kernel has no {promise.option}.")
            unheld = promises.unheld(self.held, self.options)
            if unheld:
                self.complaints.append(
                    f"of the promises that the series makes, no test that passed holds {', '.join(unheld)}"
                )
                self.code = self.code or int(pytest.ExitCode.TESTS_FAILED)
        for complaint in self.complaints:
            say(f"vmtest: {complaint}.")
        return self.code

    def write(self, promises: Promises) -> None:
        """Write both files, each in one step; an interrupted run has no exit code."""
        root = ET.Element("testsuites", name="vmtests")
        root.extend(self._suites)
        root.extend(self._remembered())
        ET.indent(root)
        storage.write_whole(self.folder / "junit.xml", ET.tostring(root, "utf-8", xml_declaration=True))
        held = self.held
        data = {
            **self.facts,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "exit_code": self.code,
            "interrupted": self.code is None or self.code == pytest.ExitCode.INTERRUPTED,
            "complaints": self.complaints,
            "counts": self.counts(),
            "tests": [
                {
                    "id": nodeid,
                    "outcome": test.outcome,
                    "seconds": round(test.seconds, 4),
                    "guest": test.guest,
                    "promises": test.promises,
                    **({"note": test.note} if test.note else {}),
                    **({"remembered": True} if test.remembered else {}),
                }
                for nodeid, test in sorted(self.tests.items())
            ],
            "other_kernels": sorted(self.other_kernels),
            "promises": {name: held.get(name, []) for name in promises.by_id},
        }
        storage.write_whole(self.folder / "results.json", json.dumps(data, indent=1) + "\n")

    def _remembered(self) -> Iterator[ET.Element]:
        known = {nodeid: test for nodeid, test in sorted(self.tests.items()) if test.remembered}
        if not known:
            return
        suite = ET.Element("testsuite", name="remembered", tests=str(len(known)), failures="0", errors="0", skipped="0")
        for nodeid, test in known.items():
            file, _, name = nodeid.partition("::")
            where = file.removesuffix(".py").replace("/", ".")
            ET.SubElement(suite, "testcase", classname=where, name=name, time=f"{test.seconds:.3f}")
        yield suite

    def counts(self) -> dict[str, int]:
        """How many tests had each outcome."""
        table: dict[str, int] = {}
        for test in self.tests.values():
            table[test.outcome] = table.get(test.outcome, 0) + 1
        return table
