from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stand_in import kernel

from workspace.journal import Journal, keep_times, key_of, times
from workspace.kernel import Kernel
from workspace.results import Test
from workspace.settings import Paths


def test_what_was_added_is_there_for_the_next_run_of_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journals/vmtest-full.jsonl"
    first = Journal.opened(path, "a")
    assert first.entries == []
    first.add(test="t", outcome="passed")
    first.add(test="u", outcome="failed")
    assert Journal.opened(path, "a").entries == [
        {"test": "t", "outcome": "passed"},
        {"test": "u", "outcome": "failed"},
    ]
    Journal.opened(path, "a").add(test="v")
    assert [entry["test"] for entry in Journal.opened(path, "a").entries] == ["t", "u", "v"]


def test_what_is_about_another_kernel_or_other_tests_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal.opened(path, "a").add(test="t")
    assert Journal.opened(path, "b").entries == []
    assert Journal.opened(path, "a").entries == []


@pytest.mark.parametrize("torn", [b'{"test": "v", "out', b'{"test": "v"}', b"\0\0\0\n", b'"v"\n', b"7\n"])
def test_a_line_in_which_the_machine_was_switched_off_is_left_out(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal"
    Journal.opened(path, "a").add(test="t")
    with path.open("ab") as file:
        file.write(torn)
    again = Journal.opened(path, "a")
    assert again.entries == [{"test": "t"}]
    again.add(test="w")
    assert Journal.opened(path, "a").entries == [{"test": "t"}, {"test": "w"}]


def clone(folder: Path) -> Paths:
    for name in ("vmtests/test_a.py", "vmtests/mutants.toml", "vmtests/programs/p.c", "tools/workspace/w.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "pyproject.toml").touch()
    return Paths(folder)


def test_an_outcome_is_of_a_kernel_its_options_an_accelerator_and_all_that_runs_the_test(tmp_path: Path) -> None:
    paths = clone(tmp_path / "clone")
    built = kernel(tmp_path / "kernel")
    keys = {key_of(paths, built, "tcg"), key_of(paths, built, "kvm")}
    keys.add(key_of(paths, Kernel(built.folder, "default", "7.3.4", "11" * 20), "tcg"))
    for name in ("vmtests/test_a.py", "vmtests/test_new.py", "vmtests/programs/p.c", "tools/workspace/w.py"):
        (paths.root / name).write_text("y")
        keys.add(key_of(paths, built, "tcg"))
    (paths.root / "pyproject.toml").write_text("y")
    keys.add(key_of(paths, built, "tcg"))
    built.config.write_text("CONFIG_TASK_DIAG=y\nCONFIG_X=y\n")
    keys.add(key_of(paths, built, "tcg"))
    assert len(keys) == 9


def test_what_python_keeps_and_the_table_of_mutants_are_no_part_of_the_tests(tmp_path: Path) -> None:
    paths = clone(tmp_path / "clone")
    built = kernel(tmp_path / "kernel")
    before = key_of(paths, built, "tcg")
    (paths.vmtests / "mutants.toml").write_text("y")
    (paths.vmtests / "__pycache__").mkdir()
    (paths.vmtests / "__pycache__/test_a.cpython-311.pyc").touch()
    assert key_of(paths, built, "tcg") == before
    moved = shutil.copytree(paths.root, tmp_path / "moved")
    assert key_of(Paths(moved), built, "tcg") == before


def test_times_are_those_of_the_last_time_that_each_test_passed(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert times(paths) == {}
    keep_times(paths, {"t": Test(seconds=1.5), "u": Test(seconds=2.0)})
    keep_times(paths, {"u": Test(seconds=9.0, outcome="failed"), "v": Test(seconds=0.25)})
    assert times(paths) == {"t": 1.5, "u": 2.0, "v": 0.25}
    (tmp_path / "build/journals/times.json").write_text("[")
    assert times(paths) == {}
