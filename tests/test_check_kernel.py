"""Whole kernels of each patch, and what a patch changes where its option is off."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import checked_kernel
import kernel_tree
import pytest

from workspace import check_kernel, command, guest_command
from workspace.check_bench import Bench, Check
from workspace.check_kernel import AllNo, Boots, Builds, SameFiles, Unchanged
from workspace.errors import WorkspaceError
from workspace.series import Series
from workspace.settings import Paths

Making = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """A bench for a series."""
    monkeypatch.delenv("CCACHE_DIR", raising=False)
    paths = checked_kernel.rooms(tmp_path)

    def making(*steps: Mapping[str, str]) -> Bench:
        # Patches of the tests' own bring no option: it is there from the start.
        tree = checked_kernel.base(paths, {"Kconfig": kernel_tree.KCONFIG} if steps else None)
        return Bench.of(paths, tree, checked_kernel.patches(paths, tree, steps or checked_kernel.STEPS))

    return making


def test_each_patch_builds_with_the_options_that_it_knows(make: Making) -> None:
    bench = make()
    builds = [Builds(flavour).run(bench, patch) for patch in bench.patches for flavour in ("default", "off")]
    assert all(verdict.passed for verdict in builds)
    default = [verdict.note for verdict in builds[::2]]
    assert default[0] == default[1] != default[2], "the option that the last one brings was not asked for"
    assert "CONFIG_TASK_DIAG=y" in (bench.paths.kernels / "a-tree/default/.config").read_text()
    assert not (bench.paths.build / "kernels").exists(), "the objects of `build` were disturbed"


@pytest.mark.parametrize("one", [Builds("default"), Builds("off"), AllNo(), Unchanged()], ids=lambda one: one.name)
def test_a_patch_that_does_not_build(make: Making, one: Check) -> None:
    bench = make({"fs/main.c": "int config = nowhere;\n"}, {"fs/main.c": "int config = CONFIG;\n"})
    broken, mended = bench.patches
    verdict = one.run(bench, broken)
    assert not verdict.passed
    assert "fs/main.c:1:14: error: 'nowhere' undeclared" in "\n".join(verdict.lines)
    if one.name != "unchanged":
        assert one.run(bench, mended).passed


def test_a_kernel_that_does_not_build_does_not_boot(make: Making) -> None:
    bench = make({"fs/main.c": "int config = nowhere;\n"})
    assert Boots().run(bench, bench.patches[0]).lines == ("there is no kernel to boot: it does not build.",)


def test_a_boot_counts_only_in_the_kernel_that_was_built(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    told = ["7.3.4\ncat\n", "6.1.0\ncat\n"]
    monkeypatch.setattr(guest_command, "output_of", lambda *_, **__: (0, told.pop(0)))
    assert Boots().run(bench, bench.patches[0]).passed
    assert Boots().run(bench, bench.patches[0]).lines == ("exit code 0, and it said:", "6.1.0", "cat")
    assert not Boots().lasting

    def hangs(*_: object, **__: object) -> None:
        raise WorkspaceError("it did not end in time")

    monkeypatch.setattr(guest_command, "output_of", hangs)
    with pytest.raises(WorkspaceError, match="in time"):
        Boots().run(bench, bench.patches[0])


def test_what_proc_says_is_compared_with_the_parents_kernel(make: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "fs/proc/array.c"
    bench = make({code: "int one;\n"}, {code: "int two;\n"}, {"fs/main.c": "int other = CONFIG;\n"})
    first, second, third = bench.patches
    check = SameFiles()
    # The base has no such file: it is the series' own. So is the second patch's then.
    assert check.idle(bench, first) == check.idle(bench, third) == "it changes no file of fs/proc/ that the base has"
    told = ["1 stat S\n1 cmdline a\n", "1 stat S\n1 cmdline b\n"]
    monkeypatch.setattr(guest_command, "output_of", lambda *_, **__: (0, told.pop(0)))
    verdict = check.run(bench, second)
    assert not verdict.passed
    assert verdict.lines[-2:] == ("-1 cmdline a", "+1 cmdline b")
    assert not check.run(bench, second).passed, "it is remembered what each kernel said"
    assert check.run(bench, dataclasses.replace(second, commit=second.parent)).passed
    monkeypatch.setattr(guest_command, "output_of", lambda *_, **__: (1, "a trace\nan error\n"))
    with pytest.raises(WorkspaceError, match="an error"):
        check.run(bench, third)


def test_patches_of_code_that_was_there_are_asked_what_proc_says(make: Making) -> None:
    bench = make({"fs/main.c": "int other = CONFIG;\n"})
    (patch,) = bench.patches
    touched = frozenset({"fs/main.c", "fs/proc/main.c"})
    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(Bench, "exists", lambda *_: True)
        assert SameFiles().idle(bench, dataclasses.replace(patch, touched=touched)) is None
        assert SameFiles().idle(bench, patch) is not None


def test_off_is_as_without_the_series(make: Making) -> None:
    bench = make()
    first, second, third = (Unchanged().run(bench, patch) for patch in bench.patches)
    assert (first.passed, first.note) == (True, "fs/main.o differs")
    assert (second.passed, second.note) == (True, "")
    assert (third.passed, third.note) == (True, "")


def test_a_change_by_way_of_a_header_is_found(make: Making) -> None:
    bench = make({"fs/main.c": '#include "diag.h"\nint config = CONFIG;\n', "fs/diag.h": ""}, {"fs/diag.h": "int x;\n"})
    assert Unchanged().run(bench, bench.patches[0]).passed
    verdict = Unchanged().run(bench, bench.patches[1])
    assert not verdict.passed
    assert verdict.lines == ("fs/main.o differs, and the patch does not touch its source",)


def test_which_objects_differ() -> None:
    before = {
        "fs/a.o": ["fs/a.c", "1"],
        "fs/b.o": ["fs/b.c", "1"],
        "fs/gone.o": ["fs/gone.c", "1"],
        "fs/same.o": ["fs/same.c", "1"],
        "kernel/configs.o": ["kernel/configs.c", "1"],
    }
    after = {
        "fs/a.o": ["fs/a.c", "2"],
        "fs/b.o": ["fs/b.c", "2"],
        "fs/new.o": ["fs/new.c", "1"],
        "fs/same.o": ["fs/same.c", "1"],
        "kernel/configs.o": ["kernel/configs.c", "2"],
    }
    own, other = check_kernel.differing(before, after, ["fs/a.c", "fs/new.c", "fs/gone.c", "fs/same.c"])
    assert own == {"fs/a.o": "differs", "kernel/configs.o": "differs (it holds the list of all options)"}
    assert other == {"fs/b.o": "differs", "fs/new.o": "is new", "fs/gone.o": "is gone"}


def test_objects_are_those_of_one_source_of_the_kernel(tmp_path: Path) -> None:
    source, folder = tmp_path / "trees/t", tmp_path / "kernels/t/off"
    for name, text in {
        "fs/.x.o.cmd": "savedcmd_fs/x.o := gcc\n\nsource_fs/x.o := ../../../trees/t/fs/x.c\n",
        "fs/.all.o.cmd": "savedcmd_fs/all.o := ld\n",
        "lib/.made.o.cmd": "source_lib/made.o := lib/made.c\n",
        "fs/.lost.o.cmd": "source_fs/lost.o := ../../../trees/t/fs/lost.c\n",
        "tools/objtool/.x.o.cmd": "source_tools/objtool/x.o := x.c\n",
        "arch/x86/boot/.header.o.cmd": "source_arch/x86/boot/header.o := ../../../trees/t/arch/x86/boot/header.S\n",
        "arch/x86/boot/header.o": "the size of the image",
        "fs/x.o": "x",
        "fs/all.o": "all",
        "lib/made.o": "made",
        "tools/objtool/x.o": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = check_kernel.compiled(folder, source)
    assert {name: made_of for name, (made_of, _) in found.items()} == {"fs/x.o": "fs/x.c", "lib/made.o": "lib/made.c"}
    assert found["fs/x.o"][1] != found["lib/made.o"][1]


def test_the_lines_of_bugs_make_no_difference_and_all_else_does(tmp_path: Path) -> None:
    def compiled(
        *, line: int = 7, flags: int = 1, place: str = "f", code: str = "ud2", table: str = "__bug_table"
    ) -> bytes:
        entry = f".long {place} - .; .long 0 - .; .word {line}; .word {flags}"
        (tmp_path / "x.s").write_text(
            f'f: {code}\n.data\ng: .long 0\n.pushsection {table}, "aw"\n{entry}\n{entry}\n.popsection\n'
        )
        command.check(["gcc", "-c", "-o", tmp_path / "x.o", tmp_path / "x.s"])
        return check_kernel.without_lines((tmp_path / "x.o").read_bytes())

    first = compiled()
    assert compiled(line=12) == first
    others = [compiled(flags=3), compiled(place="g"), compiled(code="int3"), compiled(table="another")]
    assert len({first, *others}) == 5
    assert compiled(line=12, table="another") != others[-1]


def test_patches_before_one_that_does_not_apply_do_without_its_option(make: Making, tmp_path: Path) -> None:
    bench = make()
    tree, wanted = (
        dataclasses.replace(bench.tree, path=bench.paths.build / "trees/a-tree"),
        Series.load(tmp_path / "patches"),
    )
    part = Bench.of(Paths(tmp_path), tree, wanted, applying=Series(wanted.patches[:1]))
    assert part.unknown(part.patches[0].commit) == {"TASK_DIAG"}
    assert Builds("default").run(part, part.patches[0]).passed
