"""The table of mutants and the patch: the same names, and a patch that goes on top of the series."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from workspace import kconfig, mutants
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.mutants import NONE, Mutant, join, split
from workspace.promises import Promise, Promises
from workspace.series import Series

ROOT = Path(__file__).resolve().parents[1]
PROMISES = Promises({name: Promise(name, "a", "s", made) for name, made in (("A1", True), ("A2", True), ("A3", False))})
TABLE = '[slow]\nbreaks = ["A1"]\nsays = "s"\nlast = true\n[deaf]\nbreaks = ["A1", "A2"]\nsays = "d"\nv4 = 3\n'
PATCH = """\
+++ b/fs/x.h
+#define L \\
+\tM(none) \\
+\tM(deaf) \\
+\tM(slow)
+#define MUTANT(name) it
+++ b/fs/x.c
-\tif (MUTANT(gone))
+\tif (MUTANT(deaf) || MUTANT(slow))
 \tif (MUTANT(context))
"""


@pytest.fixture
def vmtests(tmp_path: Path) -> Path:
    (tmp_path / mutants.TABLE).write_text(TABLE)
    (tmp_path / mutants.PATCH).write_text(PATCH)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_table_and_patch_are_read_and_the_last_come_last(vmtests: Path) -> None:
    assert list(mutants.load(vmtests, PROMISES).values()) == [
        Mutant("deaf", ("A1", "A2"), "d", v4=3),
        Mutant("slow", ("A1",), "s", last=True),
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (mutants.TABLE, "[deaf]", "[dead]", r"mutants\.toml has mutants that mutants\.patch has not: dead;"),
        (
            mutants.TABLE,
            '[slow]\nbreaks = ["A1"]\nsays = "s"\nlast = true\n',
            "",
            r"patch has mutants that mutants\.toml has not: slow;",
        ),
        (mutants.TABLE, '"A2"', '"A9"', "deaf breaks A9, which the series does not promise"),
        (mutants.TABLE, '"A2"', '"A3"', "deaf breaks A3, which the series does not promise"),
        (mutants.TABLE, '["A1"]', "[]", "slow breaks nothing"),
        (mutants.TABLE, '["A1"]', '"A1"', "cannot be read"),
        (mutants.TABLE, 'says = "s"', "", "cannot be read"),
        (mutants.TABLE, "last", "first", "cannot be read .*first"),
        (mutants.TABLE, "v4 = 3", 'ends = "badly"', "cannot be read .*deaf ends with 'badly', .*crash, hang"),
        (mutants.TABLE, "v4 = 3", 'ends = ["hang"]', "cannot be read"),
        (mutants.TABLE, "[slow]", "[slow", "cannot be read"),
        (mutants.PATCH, " || MUTANT(slow)", "", "slow: .* both in the list and in the code"),
        (mutants.PATCH, "MUTANT(slow)", "MUTANT(slower)", "slow, slower: .* both in the list and in the code"),
        (mutants.PATCH, "+\tM(slow)", "+\tM(slow)\n+\tM(slow)", "each name once"),
        (mutants.PATCH, "M(none)", "M(nothing)", "begin with none"),
    ],
)
def test_what_does_not_agree_is_an_error(vmtests: Path, file: str, old: str, new: str, says: str) -> None:
    change(vmtests / file, old, new)
    with pytest.raises(WorkspaceError, match=says):
        mutants.load(vmtests, PROMISES)


@pytest.mark.parametrize("file", [mutants.TABLE, mutants.PATCH])
def test_without_the_files_there_are_no_mutants(vmtests: Path, file: str) -> None:
    (vmtests / file).unlink()
    with pytest.raises(WorkspaceError, match="cannot be read"):
        mutants.load(vmtests, PROMISES)


@pytest.mark.parametrize("ends", ["crash", "hang"])
def test_the_table_tells_how_a_mutant_ends(vmtests: Path, ends: str) -> None:
    change(vmtests / mutants.TABLE, "v4 = 3", f'ends = "{ends}"')
    assert mutants.load(vmtests, PROMISES)["deaf"] == Mutant("deaf", ("A1", "A2"), "d", ends=ends)


def test_some_can_be_chosen_by_name(vmtests: Path) -> None:
    all_of_them = mutants.load(vmtests, PROMISES)
    assert mutants.chosen(all_of_them, []) == all_of_them
    assert list(mutants.chosen(all_of_them, ["slow"])) == ["slow"]
    with pytest.raises(WorkspaceError, match=r"there is no mutant fast, none: .* has deaf, slow\."):
        mutants.chosen(all_of_them, ["slow", "fast", NONE])


@pytest.mark.parametrize(
    ("nodeid", "wanted"),
    [
        ("x-y/test_x.py::test_y", ("x-y/test_x.py::test_y", NONE)),
        ("x-y/test_x.py::test_y[none]", ("x-y/test_x.py::test_y", NONE)),
        ("x-y/test_x.py::test_y[deaf]", ("x-y/test_x.py::test_y", "deaf")),
        ("test_x.py::test_y[a-b[c]-deaf]", ("test_x.py::test_y[a-b[c]]", "deaf")),
        ("test_x.py::test_y[-deaf]", ("test_x.py::test_y[]", "deaf")),
    ],
)
def test_a_node_id_names_test_and_mutant(nodeid: str, wanted: tuple[str, str]) -> None:
    assert split(nodeid) == wanted
    assert "[" not in nodeid or join(*wanted) == nodeid


# --- those of the clone


def test_every_promise_that_is_made_has_a_mutant() -> None:
    promises = Promises.load(ROOT / "vmtests/promises.toml")
    broken = {name for mutant in mutants.load(ROOT / "vmtests", promises).values() for name in mutant.breaks}
    assert broken == {name for name, promise in promises.by_id.items() if promise.made}


def test_the_patch_goes_on_top_of_what_the_series_makes(tmp_path: Path) -> None:
    """Of files that the series creates; the others are in the kernel's tree. To the byte: nothing is merged."""
    patch = ROOT / "vmtests" / mutants.PATCH
    series = Series.load(ROOT / "patches")
    created = {
        name
        for path in series.patches
        for name in re.findall(r"^ create mode \d+ (.+)$", path.read_text(), re.MULTILINE)
    }
    touched = Series((patch,)).touched & created
    assert touched == {"fs/proc/task_diag.c"}
    room = Repository(tmp_path)
    room.check("init", "--quiet")
    only = [f"--include={name}" for name in touched]
    for path in series.patches:
        room.check("apply", *only, path)
    (before,) = re.findall(
        r"^diff --git a/fs/proc/task_diag\.c .*\nindex (\w{40})\.\.", patch.read_text(), re.MULTILINE
    )
    how = "run `nox -s edit -- --mutants` and `nox -s export`"
    assert room.check("hash-object", "fs/proc/task_diag.c") == before, f"made for another state of the series: {how}"
    room.check("apply", *only, patch, hint=how)


def test_of_each_section_of_the_contract_there_is_one() -> None:
    promises = Promises.load(ROOT / "vmtests/promises.toml")
    known = mutants.load(ROOT / "vmtests", promises)
    chosen = [mutants.one_of_each_section(known, promises, digest) for digest in ("00000000ab", "00000001ab")]
    for found in chosen:
        sections = [promises.by_id[mutant.breaks[0]].section for mutant in found.values()]
        assert len(sections) == len(set(sections)) == 7
        assert all(known[name] is mutant and mutant.ends is None and not mutant.last for name, mutant in found.items())
    assert chosen[0].keys().isdisjoint(chosen[1])


def test_the_flavour_has_what_any_test_needs_and_the_patch() -> None:
    flavours = kconfig.flavours(ROOT / "kconfig")
    flavour = flavours["mutants"]
    assert flavour.options == flavours["default"].options
    assert (flavour.on_top, flavour.objects_from) == (f"vmtests/{mutants.PATCH}", "default")
    assert [name for name, other in flavours.items() if other.on_top] == ["mutants", "coverage"]


def test_the_patch_is_no_part_of_the_series(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "patches", tmp_path / "patches")
    assert "MUTANT" not in "".join(path.read_text() for path in Series.load(tmp_path / "patches").patches)
