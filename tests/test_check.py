"""The session: what is asked, in which order, what is remembered, and what is told of it."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import checked_kernel
import pytest

from workspace import check, check_bench, system
from workspace.check_bench import Bench, Check, Patch, Verdict
from workspace.check_report import Cell, Table
from workspace.errors import WorkspaceError
from workspace.series import Series
from workspace.settings import Paths
from workspace.system import Need
from workspace.tree import Tree


class Asked(Check):
    """A check that writes down when it is asked."""

    says = "it is good"

    def __init__(self, name: str, order: list[str], *, fast: bool = False, lasting: bool = True) -> None:
        self.name, self.order, self.fast, self.lasting = name, order, fast, lasting
        self.verdicts: dict[int, Verdict] = {}
        self.config = "a config"

    def idle(self, bench: Bench, patch: Patch) -> str | None:
        return "it says nothing" if patch.touched == {"docs"} and not bench.exists(patch.commit, "all") else None

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        return (bench.content(patch.commit), self.config)

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        assert bench.patches
        self.order.append(f"{self.name} {patch.number}")
        verdict = self.verdicts.get(patch.number, Verdict(True))
        if verdict.note == "raise":
            raise WorkspaceError("the tool is broken.\nits last line")
        return verdict


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return checked_kernel.rooms(tmp_path)


@pytest.fixture
def tree(paths: Paths) -> Tree:
    return checked_kernel.base(paths)


@pytest.fixture
def wanted(paths: Paths, tree: Tree) -> Series:
    return checked_kernel.patches(paths, tree)


def run(paths: Paths, tree: Tree, wanted: Series, *checks: Check) -> int:
    return check.run(paths, tree, wanted, checks, facts={"tree": "mainline"})


def results(paths: Paths) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((paths.results / "check.json").read_text())
    return data


def outcomes(paths: Paths, name: str) -> list[str]:
    return [cell["outcome"] for cell in results(paths)["results"] if cell["check"] == name]


def test_all_good(paths: Paths, tree: Tree, wanted: Series, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    stood_at = tree.repository.commit()
    assert run(paths, tree, wanted, Asked("quick", order, fast=True), Asked("slow", order), Asked("last", order)) == 0
    assert order == ["quick 1", "quick 3", "slow 3", "last 3", "slow 1", "last 1"]
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["check", "1", "2", "3", "seconds"]
    assert [line.split()[:4] for line in table[1:5]] == [
        ["applies", "ok", "ok", "ok"],
        ["quick", "ok", "-", "ok"],
        ["slow", "ok", "-", "ok"],
        ["last", "ok", "-", "ok"],
    ]
    assert table[6].split() == ["1", "0001-proc-Step-1.patch"]
    data = results(paths)
    assert (data["exit_code"], data["tree"]) == (0, "mainline")
    assert outcomes(paths, "slow") == ["passed", "idle", "passed"]
    assert tree.repository.commit() == stood_at, "the tree of `build` was disturbed"


def test_a_failure_is_told_in_the_tools_own_lines(
    paths: Paths, tree: Tree, wanted: Series, capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []
    bad = Asked("bad", order)
    bad.verdicts[1] = Verdict(False, ("fs/x.c:1: warning: no",), "a note")
    assert run(paths, tree, wanted, bad, Asked("good", order)) == 1
    assert order == ["bad 3", "good 3", "bad 1", "good 1"], "one failure hides nothing"
    told = capsys.readouterr().out
    assert "bad FAILED on 0001-proc-Step-1.patch: not true that it is good\n    fs/x.c:1: warning: no\n" in told
    assert results(paths)["exit_code"] == 1
    assert [cell["lines"] for cell in results(paths)["results"] if "lines" in cell] == [["fs/x.c:1: warning: no"]]


def test_nothing_is_asked_twice(paths: Paths, tree: Tree, wanted: Series, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    one = Asked("one", order)
    one.verdicts[3] = Verdict(False, ("still bad",))
    assert run(paths, tree, wanted, one) == 1
    capsys.readouterr()
    assert run(paths, tree, wanted, one) == 1
    assert order == ["one 3", "one 1"]
    told = capsys.readouterr().out
    assert "still bad" in told, "a failure stays one until something changes"
    assert "known" in told
    assert [cell["remembered"] for cell in results(paths)["results"] if cell["outcome"] != "idle"][3:] == [True, True]


def test_what_changed_is_asked_again(paths: Paths, tree: Tree, wanted: Series) -> None:
    order: list[str] = []
    one = Asked("one", order)
    run(paths, tree, wanted, one)
    order.clear()
    # A message is nothing that a compiler reads.
    run(paths, tree, checked_kernel.patches(paths, tree, message="Better words."), one)
    assert order == []
    steps = (*checked_kernel.STEPS[:2], {**checked_kernel.STEPS[2], "fs/diag.c": "int diag;\n"})
    run(paths, tree, checked_kernel.patches(paths, tree, steps), one)
    assert order == ["one 3"]
    one.config = "another config"
    run(paths, tree, checked_kernel.patches(paths, tree, steps), one)
    assert order == ["one 3", "one 3", "one 1"]


def test_a_check_that_changed_is_asked_again(
    paths: Paths, tree: Tree, wanted: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    one = Asked("one", order)
    run(paths, tree, wanted, one)
    monkeypatch.setattr(check, "definition", lambda _: "edited")
    run(paths, tree, wanted, one)
    assert order == ["one 3", "one 1"] * 2


def test_a_definition_is_the_code_of_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style, uapi, _, sparse = check.CHECKS[:4]
    before = {one.name: check_bench.definition(one) for one in (style, uapi, sparse)}
    assert len(set(before.values())) == 3
    edited = tmp_path / "check_objects.py"
    edited.write_text("edited")
    real = inspect.getfile
    monkeypatch.setattr(inspect, "getfile", lambda kind: str(edited) if kind is type(sparse) else real(kind))
    changed = [one.name for one in (style, uapi, sparse) if check_bench.definition(one) != before[one.name]]
    assert changed == ["sparse"]


def test_a_definition_is_also_the_code_behind_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of boots, the module that starts guests; it is several imports away."""
    package = tmp_path / "workspace"
    shutil.copytree(check_bench._PACKAGE, package)
    monkeypatch.setattr(check_bench, "_PACKAGE", package)
    style, *_, boots = check.CHECKS
    check_bench._imported.cache_clear()
    before = [check_bench.definition(one) for one in (style, boots)]
    with (package / "machine.py").open("a") as file:
        file.write("# edited\n")
    check_bench._imported.cache_clear()
    after = [check_bench.definition(one) for one in (style, boots)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]
    check_bench._imported.cache_clear()


def test_what_is_broken_or_a_matter_of_time_is_not_remembered(paths: Paths, tree: Tree, wanted: Series) -> None:
    order: list[str] = []
    broken, timely = Asked("broken", order), Asked("timely", order, lasting=False)
    broken.verdicts[1] = Verdict(True, note="raise")
    timely.verdicts[1] = Verdict(False)
    assert run(paths, tree, wanted, broken, timely) == 1
    assert next(cell for cell in results(paths)["results"] if cell["outcome"] == "failed")["lines"] == [
        "the tool is broken.",
        "its last line",
    ]
    order.clear()
    run(paths, tree, wanted, broken, timely)
    assert order == ["broken 1", "timely 1"]


def test_a_torn_memory_is_none(paths: Paths, tree: Tree, wanted: Series) -> None:
    order: list[str] = []
    one = Asked("one", order)
    run(paths, tree, wanted, one)
    for path in (paths.checks / "memory/one").iterdir():
        path.write_text('{"passed": tr')
    run(paths, tree, wanted, one)
    assert order == ["one 3", "one 1"] * 2


def test_a_patch_that_does_not_apply_ends_the_series(
    paths: Paths, tree: Tree, wanted: Series, capsys: pytest.CaptureFixture[str]
) -> None:
    second = wanted.patches[1]
    second.write_text(second.read_text().replace("-nothing to compile", "-something else"))
    order: list[str] = []
    assert run(paths, tree, Series.load(paths.patches), Asked("one", order)) == 1
    assert order == ["one 1"]
    assert outcomes(paths, "applies") == ["passed", "failed", "not run"]
    assert sorted(outcomes(paths, "one")) == ["not run", "not run", "passed"]
    assert "0002-proc-Step-2.patch does not apply to docs at the hunk of line 1" in capsys.readouterr().out


def test_an_interrupted_run_says_what_it_did_not_get_to(paths: Paths, tree: Tree, wanted: Series) -> None:
    class Stopped(Asked):
        def run(self, bench: Bench, patch: Patch) -> Verdict:
            if patch.number == 1:
                raise KeyboardInterrupt
            return super().run(bench, patch)

    order: list[str] = []
    stopped = Stopped("one", order)
    with pytest.raises(KeyboardInterrupt):
        run(paths, tree, wanted, stopped)
    assert outcomes(paths, "one") == ["not run", "idle", "passed"]
    assert results(paths)["exit_code"] == 1
    assert run(paths, tree, wanted, Asked("one", order)) == 0


def test_a_missing_tool_is_named_before_anything_runs(
    paths: Paths, tree: Tree, wanted: Series, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    one = Asked("one", order)
    one.needs = (Need("spatch", lambda: False, "coccinelle", "coccinelle"),)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(WorkspaceError, match=r"lacks spatch; install it with: .*install .*coccinelle"):
        run(paths, tree, wanted, Asked("other", order), one)
    assert order == []


def test_needs_of_checks_that_are_not_asked_for_are_not_looked_at() -> None:
    needs = {check.name: {need.apt for need in check.needs} for check in check.CHECKS}
    assert needs["sparse"] == {"sparse"}
    assert needs["coccinelle"] == {"coccinelle", "ocaml"}
    assert needs["arm64"] == {"gcc-aarch64-linux-gnu"}
    assert needs["clang"] == {"clang-19", "lld-19", "llvm-19"}
    assert not set().union(*needs.values()) & {need.apt for need in system.NEEDS}


# --- which checks -----------------------------------------------------------------------------------


def test_an_unknown_check_is_answered_with_the_list() -> None:
    with pytest.raises(WorkspaceError, match=r"no check `spars`; there are applies, style, .*sparse"):
        check.choose(["style,spars"])
    with pytest.raises(WorkspaceError, match="there are applies"):
        check.choose([","])


def test_a_choice_of_nothing_is_an_error() -> None:
    with pytest.raises(WorkspaceError, match="--fast --only clang,style: clang would be left out: leave out --fast"):
        check.choose(["clang,style"], fast=True)
    assert [one.name for one in check.choose(["style"], fast=True)] == ["style"]


def test_the_quick_ones_come_first() -> None:
    order: list[str] = []
    known = [Asked("a", order), Asked("b", order, fast=True), Asked("c", order), Asked("d", order, fast=True)]
    assert [one.name for one in check.choose(known=known)] == ["b", "d", "a", "c"]
    assert [one.name for one in check.choose(fast=True, known=known)] == ["b", "d"]
    assert [one.name for one in check.choose(["c, b"], known=known)] == ["b", "c"]
    assert [one.name for one in check.choose(["c", "b"], known=known)] == ["b", "c"]
    assert check.choose(["applies"], known=known) == []


def test_names_are_unique_and_fit_for_files() -> None:
    names = [one.name for one in check.CHECKS]
    assert len(set(names)) == len(names)
    assert all(name.isalnum() for name in names)
    assert {"style", "uapi", "warnings", "sparse"} == {one.name for one in check.choose(fast=True)}


# --- the table --------------------------------------------------------------------------------------


def test_seconds_are_those_of_this_run() -> None:
    cells = [
        Cell("one", 1, "passed", 2.0),
        Cell("one", 2, "passed", 30.0, remembered=True),
        Cell("two", 1, "failed", 4.0, remembered=True),
    ]
    table = Table({"one": "", "two": ""}, ["1.patch", "2.patch"], {}, cells)
    rows = [line.split() for line in table.text().splitlines()]
    assert rows[1] == ["one", "ok", "ok", "2.0", "1", "of", "2", "known"]
    assert rows[2] == ["two", "FAILED", "?", "0.0", "known"]
    assert table.code == 1
