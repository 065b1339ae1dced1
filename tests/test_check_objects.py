"""Files compiled by themselves: what is new of what compilers and checkers report, per patch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import checked_kernel
import pytest

from workspace import check_objects
from workspace.check_bench import Bench
from workspace.check_objects import GCC, Objects, Toolchain
from workspace.errors import WorkspaceError
from workspace.settings import Paths

# Reports each line with BAD in it, as sparse would.
SPARSE = """\
import sys
if sys.argv[1] == "--version":
    print("1")
    sys.exit()
path = sys.argv[-1]
for number, line in enumerate(open(path), 1):
    if "BAD" in line:
        print(f"{path}:{number}:1: warning: {line.strip()}", file=sys.stderr)
        print(f"{path}:{number}:1:    expected good", file=sys.stderr)
    if "KILLS" in line:
        sys.exit("sparse: cannot go on")
"""
Making = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """A bench for a series, with a sparse of our own on PATH."""
    monkeypatch.delenv("CCACHE_DIR", raising=False)
    checked_kernel.program(tmp_path / "bin", "sparse", SPARSE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    paths: Paths = checked_kernel.rooms(tmp_path)

    def making(*steps: Mapping[str, str], base: Mapping[str, str] | None = None) -> Bench:
        tree = checked_kernel.base(paths, base)
        return Bench.of(paths, tree, checked_kernel.patches(paths, tree, steps or checked_kernel.STEPS))

    return making


def sparse() -> Objects:
    return Objects("sparse", "sparse is silent", GCC, "C=1", versions=("sparse --version",))


def test_good_patches_pass(make: Making) -> None:
    bench = make()
    for one in (check_objects.WARNINGS, sparse(), *check_objects.CROSS[:1]):
        for patch in (bench.patches[0], bench.patches[2]):
            verdict = one.run(bench, patch)
            assert (verdict.passed, verdict.lines, verdict.note) == (True, (), ""), one.name
        assert one.idle(bench, bench.patches[1]) == "no C file to compile"


def test_an_option_is_asked_for_once_it_is_there(make: Making) -> None:
    bench = make()
    config = bench.paths.kernels / "a-tree/objects-gcc/.config"
    check_objects.WARNINGS.run(bench, bench.patches[0])
    assert "TASK_DIAG" not in config.read_text()
    check_objects.WARNINGS.run(bench, bench.patches[2])
    assert "CONFIG_TASK_DIAG=y\n" in config.read_text()
    assert bench.unknown(bench.tree.base) == {"TASK_DIAG"}


def test_warnings_fail_with_the_compilers_lines(make: Making) -> None:
    bench = make({"fs/main.c": "int config = CONFIG;\nint f(int unused) { return 1; }\n"})
    verdict = check_objects.WARNINGS.run(bench, bench.patches[0])
    assert not verdict.passed
    assert verdict.lines[0].startswith("fs/main.c:2:11: warning: unused parameter")
    assert "int f(int unused)" in verdict.lines[1]
    again = Objects("again", "it compiles", GCC, "W=1", strict=True)
    assert again.run(bench, bench.patches[0]) == verdict, "an object that is there hides its warnings"


def test_an_error_of_one_file_does_not_hide_another(make: Making) -> None:
    # More than are compiled at once.
    names = [f"fs/{number}.c" for number in range(2 * len(os.sched_getaffinity(0)) + 1)]
    bench = make(dict.fromkeys(names, "int f(void) { return nothing; }\n"))
    told = check_objects.WARNINGS.run(bench, bench.patches[0]).lines
    assert [line.partition(":")[0] for line in told if "'nothing' undeclared" in line] == names


def test_what_the_parent_has_is_not_the_patchs(make: Making) -> None:
    old = "int config = CONFIG;\n/* BAD one */\n"
    bench = make(
        {"fs/main.c": "int moved;\n" + old},
        {"fs/main.c": "int moved;\n" + old + "/* BAD one */\n"},
        {"fs/main.c": "int config = CONFIG;\n/* BAD two */\n"},
        base={"fs/main.c": old},
    )
    first, second, third = (sparse().run(bench, patch) for patch in bench.patches)
    assert (first.passed, first.note) == (True, "1 reports that the parent has, too")
    assert not second.passed
    assert second.lines == ("fs/main.c:4:1: warning: /* BAD one */", "fs/main.c:4:1:    expected good")
    assert third.lines[0] == "fs/main.c:2:1: warning: /* BAD two */"


def test_a_checker_that_reads_no_header_is_not_asked_of_who_includes_one(make: Making) -> None:
    bad = "int config = CONFIG; /* BAD */\n"
    bench = make({"fs/a.h": "int a;\n"}, {"fs/a.h": "int b;\n", "fs/new.c": "int b;\n"}, {"fs/main.c": bad})
    one = Objects("sparse", "sparse is silent", GCC, "C=1", touched=True)
    asked = [set(one.inputs(bench, patch)) & {"fs/main.c", "fs/new.c"} for patch in bench.patches]
    assert asked == [set(), {"fs/new.c"}, {"fs/main.c"}]
    assert (one.idle(bench, bench.patches[0]), one.idle(bench, bench.patches[1])) == ("no C file to compile", None)
    assert "fs/main.c" in sparse().inputs(bench, bench.patches[1])
    assert not one.run(bench, bench.patches[2]).passed


def test_strict_holds_a_patch_for_the_parents_warnings(make: Making) -> None:
    old = "int config = CONFIG;\n/* BAD one */\n"
    bench = make({"fs/main.c": "int moved;\n" + old}, base={"fs/main.c": old})
    strict = Objects("sparse", "sparse is silent", GCC, "C=1", strict=True)
    assert not strict.run(bench, bench.patches[0]).passed


def test_the_parent_is_asked_only_when_there_is_something_to_compare(
    make: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make({"fs/main.c": "/* BAD */\nint config = CONFIG;\n"}, {"fs/main.c": "int config = CONFIG + 1;\n"})
    stood: list[str] = []
    real = Bench.at

    def at(self: Bench, commit: str) -> None:
        stood.append(commit)
        real(self, commit)

    monkeypatch.setattr(Bench, "at", at)
    sparse().run(bench, bench.patches[0])
    assert stood == [bench.patches[0].commit, bench.tree.base]
    sparse().run(bench, bench.patches[1])
    assert stood[2:] == [bench.patches[1].commit]
    sparse().run(bench, bench.patches[0])
    assert len(stood) == 3, "reports of a commit are remembered"


def test_a_new_file_has_no_parent(make: Making) -> None:
    bench = make({"fs/new.c": "int new_one; /* BAD */\n"})
    assert sparse().run(bench, bench.patches[0]).lines[0] == "fs/new.c:1:1: warning: int new_one; /* BAD */"


def test_a_tool_that_fails_without_a_report_is_an_error(make: Making) -> None:
    bench = make({"fs/main.c": "int config = CONFIG; /* KILLS */\n"})
    with pytest.raises(WorkspaceError, match=r"(?s)failed without saying where.*sparse: cannot go on"):
        sparse().run(bench, bench.patches[0])


def test_a_checker_that_make_does_without_is_an_error(make: Making) -> None:
    said = "C=1 specified, but sparse is not available or not up to date"
    bench = make(base={"Makefile": f"$(warning {said})\n{checked_kernel.MAKEFILE}"})
    with pytest.raises(WorkspaceError, match=f"nothing was checked: make said `{said}`"):
        sparse().run(bench, bench.patches[0])


def test_what_comes_before_all_objects_counts(make: Making) -> None:
    bench = make({"fs/main.c": "int config = CONFIG + 1;\n", "broken-prepare": ""})
    assert check_objects.WARNINGS.run(bench, bench.patches[0]).lines == ("fs/a.h:1:1: error: broken",)


def test_an_option_that_cannot_be_had_is_an_error(make: Making) -> None:
    bench = make(base={"Makefile": checked_kernel.MAKEFILE.replace("cat $(KCONFIG_ALLCONFIG);", "")})
    with pytest.raises(WorkspaceError, match=r"gcc cannot have: kconfig/base.config:1: CONFIG_PROC=y"):
        check_objects.WARNINGS.run(bench, bench.patches[0])


def test_inputs_are_all_that_matters(make: Making, tmp_path: Path) -> None:
    bench = make()
    patch = bench.patches[0]

    def inputs(check: Objects = check_objects.SPARSE) -> tuple[str, ...]:
        bench._versions.clear()
        return tuple(check.inputs(bench, patch))

    before = inputs()
    assert inputs() == before
    assert {bench.content(patch.commit), bench.content(patch.parent), "fs/main.c"} <= set(before)
    checked_kernel.program(tmp_path / "bin", "sparse", SPARSE.replace('"1"', '"2"'))
    newer = inputs()
    assert newer != before
    (bench.paths.kconfig / "base.config").write_text("CONFIG_PROC=y\nCONFIG_NUMBER=5\n")
    assert inputs() != newer
    other = Objects("sparse", "", Toolchain("gcc", ("CC=ccache gcc", "V=1")), "C=1", versions=("sparse --version",))
    assert inputs(other) != inputs()


def test_strings_among_the_options_keep_their_quotes(make: Making) -> None:
    bench = make()
    text = 'CONFIG_PROC=y\nCONFIG_N=-4\nCONFIG_X=0x10\nCONFIG_S="a \\"b\\""\n# CONFIG_O is not set\n'
    (bench.paths.kconfig / "base.config").write_text(text)
    check_objects.WARNINGS.run(bench, bench.patches[0])
    assert text in (bench.paths.kernels / "a-tree/objects-gcc/.config").read_text()


def test_clang_is_the_newest_there_is(make: Making, tmp_path: Path) -> None:
    bench = make()
    for number in (38, 39):
        for name in ("clang", "ld.lld", "llvm-nm"):
            checked_kernel.program(tmp_path / "bin", f"{name}-{number}", f"print('{name} version {number}.1.0')")
    (tmp_path / "bin/llvm-nm-39").unlink()
    assert check_objects.CLANG.toolchain.words == ("LLVM=-38", "CC=ccache clang-38")
    assert "clang version 38.1.0\n" in check_objects.CLANG.inputs(bench, bench.patches[0])
