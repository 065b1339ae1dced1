from __future__ import annotations

from pathlib import Path

import pytest

from workspace import kconfig
from workspace.errors import WorkspaceError
from workspace.promises import Promises

ROOT = Path(__file__).resolve().parents[1]


def test_every_promise_of_the_clone_has_its_line() -> None:
    promises = Promises.load(ROOT / "vmtests/promises.toml").by_id
    counts = {"F": 3, "W": 9, "R": 11, "C": 4, "O": 4, "G": 8, "N": 7}
    assert list(promises) == [f"{letter}{n}" for letter, count in counts.items() for n in range(1, count + 1)]
    assert all(promise.says and promise.section for promise in promises.values())


def test_a_made_promise_without_a_test_that_passed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "promises.toml"
    path.write_text('[A1]\nsays="a"\nsection="s"\nmade=true\n[A2]\nsays="b"\nsection="s"\nmade=false\n')
    promises = Promises.load(path)
    assert promises.unheld([], ()) == ["A1"]
    assert promises.unheld(["A1"], ()) == []
    assert promises.unheld(["A2"], ()) == ["A1"]


def test_a_promise_is_asked_only_of_kernels_that_can_show_it(tmp_path: Path) -> None:
    path = tmp_path / "promises.toml"
    path.write_text('[A1]\nsays="a"\nsection="s"\nmade=true\noption="CONFIG_X"\n')
    promises = Promises.load(path)
    assert (promises.unheld([], ["CONFIG_Y"]), promises.unheld([], ["CONFIG_X"])) == ([], ["A1"])
    assert [promise.name for promise in promises.untested(["CONFIG_Y"])] == ["A1"]
    assert promises.untested(["CONFIG_X"]) == []


def test_the_options_that_promises_need_are_some_flavours() -> None:
    promises = Promises.load(ROOT / "vmtests/promises.toml").by_id.values()
    needed = {promise.option for promise in promises if promise.option is not None}
    assert needed and needed <= kconfig.known_options(ROOT / "kconfig")


@pytest.mark.parametrize("content", ['[A1]\nsays="a"\nmade=true\n', "[A1", "A1 = 3\n", None])
def test_a_list_that_is_not_whole_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "promises.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WorkspaceError, match="cannot be read"):
        Promises.load(path)
