from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Literal

import pytest
from stand_in import kernel

from workspace.machine import Machine
from workspace.promises import Promise, Promises
from workspace.results import Results

PROMISES = Promises({"A1": Promise("A1", "a", "s", True), "A2": Promise("A2", "b", "s", False)})


Outcome = Literal["passed", "failed", "skipped"]
When = Literal["setup", "call", "teardown"]


def report(
    nodeid: str, outcome: Outcome, when: When = "call", properties: list[tuple[str, object]] | None = None
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid, ("f", 1, "t"), {}, outcome, None, when, user_properties=properties or [], duration=0.25
    )


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return started(tmp_path, "CONFIG_TASK_DIAG=y\n")


def started(folder: Path, config: str) -> Results:
    vm = Machine(kernel(folder / "kernel", config), "tcg")
    return Results.started(vm.kernel, vm, facts={"tree": "vendor"}, folder=folder / "results", guests=1)


def test_a_whole_run_that_holds_what_is_made_passes(results: Results) -> None:
    phases: tuple[When, ...] = ("setup", "call", "teardown")
    for when in phases:
        results.add(report("t", "passed", when, [("promise", "A1"), ("guest", "guest-1")]))
    assert results.verdict([0], PROMISES) == 0
    results.write(PROMISES)
    data = json.loads((results.folder / "results.json").read_text())
    assert data["tests"] == [{"id": "t", "outcome": "passed", "seconds": 0.75, "guest": "guest-1", "promises": ["A1"]}]
    assert data["promises"] == {"A1": ["t"], "A2": []}
    assert (data["kernel"], data["tree"], data["accelerator"]) == ("7.3.4", "vendor", "tcg")
    assert data["exit_code"] == 0
    assert (results.folder / "configs/default.config").read_text() == "CONFIG_TASK_DIAG=y\n"


@pytest.mark.parametrize(
    "last", [[("failed", "call")], [("skipped", "setup")], [("passed", "call"), ("failed", "teardown")]]
)
def test_only_a_test_that_passed_in_all_its_phases_holds_a_promise(
    results: Results, last: list[tuple[Outcome, When]], capsys: pytest.CaptureFixture[str]
) -> None:
    results.add(report("other", "passed"))
    for outcome, when in last:
        results.add(report("t", outcome, when, [("promise", "A1")]))
    assert results.verdict([0], PROMISES) == 1
    assert "no test that passed holds A1" in capsys.readouterr().err


def test_a_failure_is_not_forgotten_for_what_its_teardown_skips(results: Results) -> None:
    results.add(report("t", "failed"))
    results.add(report("t", "skipped", "teardown"))
    assert results.tests["t"].outcome == "failed"


def test_a_part_of_the_suite_need_not_hold_every_promise(results: Results) -> None:
    results.add(report("t", "passed"))
    assert results.verdict([0], None) == 0


def test_without_the_option_no_promise_is_held(tmp_path: Path) -> None:
    results = started(tmp_path, "# CONFIG_TASK_DIAG is not set\n")
    results.add(report("t", "passed"))
    assert not results.task_diag
    assert results.verdict([0], PROMISES) == 0


@pytest.mark.parametrize("skipped", [True, False])
def test_a_run_in_which_nothing_ran_fails(results: Results, skipped: bool) -> None:
    if skipped:
        results.add(report("t", "skipped", "setup"))
    assert results.verdict([], None) == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(("codes", "code"), [([0, 0], 0), ([0, 1], 1), ([1, 0], 1), ([2], 2), ([1, 6], 6), ([4], 4)])
def test_the_worst_code_is_the_runs(results: Results, codes: list[int], code: int) -> None:
    results.add(report("t", "passed"))
    assert results.verdict(codes, None) == code


def test_a_failure_is_never_lost_between_the_codes(results: Results) -> None:
    results.add(report("t", "failed", properties=[("outcome", "crashed")]))
    assert results.verdict([0], None) == 1
    assert results.tests["t"].outcome == "crashed"
    results.add(report("t", "passed", "teardown"))
    assert results.tests["t"].outcome == "crashed"


def test_a_file_that_cannot_be_collected_is_a_failure(results: Results) -> None:
    results.add_broken("vmtests/test_x.py", "ImportError: no x")
    assert results.verdict([0], None) == 1


def test_both_halves_are_in_one_junit_file_and_half_a_file_is_none(results: Results, tmp_path: Path) -> None:
    for name in ("a", "b"):
        path = tmp_path / f"{name}.xml"
        path.write_text(f'<testsuites><testsuite name="{name}"><testcase name="t"/></testsuite></testsuites>')
        results.add_junit(path)
    (tmp_path / "torn.xml").write_text("<testsuites><testsu")
    results.add_junit(tmp_path / "torn.xml")
    results.add_junit(tmp_path / "missing.xml")
    results.write(PROMISES)
    root = ET.parse(results.folder / "junit.xml").getroot()
    assert [suite.get("name") for suite in root.iter("testsuite")] == ["a", "b"]


def test_what_was_wrong_after_the_last_test_fails_the_run(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    results.add(report("t", "passed"))
    results.add_end("guest-1", "unreferenced object 0x1 (size 64):\n")
    assert results.verdict([0], None) == 1
    assert "guest-1, after its last test: unreferenced object" in capsys.readouterr().err
    results.write(PROMISES)
    assert len(json.loads((results.folder / "results.json").read_text())["complaints"]) == 1


def test_tests_for_other_kernels_are_recorded_and_hold_nothing(results: Results) -> None:
    results.add(report("t", "passed"))
    results.other_kernels.add("vmtests/test_smack.py::test_x")
    assert results.verdict([0], PROMISES) == 1
    results.write(PROMISES)
    data = json.loads((results.folder / "results.json").read_text())
    assert data["other_kernels"] == ["vmtests/test_smack.py::test_x"]
    assert data["promises"]["A1"] == []


@pytest.mark.parametrize(("has", "code"), [("", 0), ("CONFIG_AUDIT=y\n", 1)])
def test_a_promise_that_this_kernel_cannot_show_is_told_and_not_missed(
    tmp_path: Path, has: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    results = started(tmp_path, f"CONFIG_TASK_DIAG=y\n{has}")
    results.add(report("t", "passed"))
    promises = Promises({"A1": Promise("A1", "a", "s", True, "CONFIG_AUDIT")})
    assert results.verdict([0], promises) == code
    assert ("A1 is not tested here: this kernel has no CONFIG_AUDIT." in capsys.readouterr().err) == (not has)


def test_results_of_an_interrupted_run_say_so(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    results.add(report("t", "passed"))
    assert results.verdict([2], PROMISES) == 2
    assert "A1" not in capsys.readouterr().err, "not every promise had its turn"
    results.write(PROMISES)
    assert json.loads((results.folder / "results.json").read_text())["interrupted"] is True


def test_nothing_of_the_last_run_is_left(tmp_path: Path, results: Results) -> None:
    (results.folder / "consoles/guest-9.log").touch()
    Results.started(
        kernel(tmp_path / "again"),
        Machine(kernel(tmp_path / "third"), "tcg"),
        facts={},
        folder=results.folder,
        guests=1,
    )
    assert list((results.folder / "consoles").iterdir()) == []


def test_a_new_run_keeps_what_is_not_of_runs(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    for name in ("check.json", "junit.xml", "results.json", "consoles/guest-1.log", "configs/off.config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    started(tmp_path, "CONFIG_TASK_DIAG=y\n")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "check.json",
        "configs/default.config",
    ]
