"""checkpatch on a patch, and headers for user space by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import checked_kernel
import pytest

from workspace.check_bench import Bench
from workspace.check_patch import Style, Uapi
from workspace.errors import WorkspaceError

Making = Callable[..., Bench]
DIAG_H = "include/uapi/linux/diag.h"


@pytest.fixture
def make(tmp_path: Path) -> Making:
    """A bench for a series."""
    paths = checked_kernel.rooms(tmp_path)

    def making(*steps: Mapping[str, str]) -> Bench:
        tree = checked_kernel.base(paths)
        return Bench.of(paths, tree, checked_kernel.patches(paths, tree, steps or checked_kernel.STEPS))

    return making


def test_a_patch_in_good_style(make: Making) -> None:
    bench = make()
    verdict = Style().run(bench, bench.patches[0])
    assert (verdict.passed, verdict.lines) == (True, ())
    told = (bench.paths.logs / "style.log").read_text()
    assert "told: --strict --show-types --color=never --ignore MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF\n" in told


def test_what_checkpatch_says_is_shown(make: Making) -> None:
    bench = make({"docs": "some UGLY words\n"})
    verdict = Style().run(bench, bench.patches[0])
    assert not verdict.passed
    assert verdict.lines[:2] == ("WARNING:UGLY: this is ugly", "+some UGLY words")
    assert verdict.lines[-1] == "total: 0 errors, 1 warnings, 0 checks, 5 lines checked"


def test_a_message_is_part_of_the_style(make: Making) -> None:
    bench = make()
    before = tuple(Style().inputs(bench, bench.patches[0]))
    file = bench.patches[0].file
    file.write_text(file.read_text().replace("Why.", "Because."))
    assert tuple(Style().inputs(bench, bench.patches[0])) != before


def test_a_checkpatch_that_dies_is_an_error(make: Making, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = make()
    monkeypatch.setenv("PATH", f"{tmp_path / 'checkpatch-dies'}:/usr/bin:/bin")
    with pytest.raises(WorkspaceError, match=r"checkpatch.pl did not get to its end"):
        Style().run(bench, bench.patches[0])


def test_only_patches_with_headers_for_user_space_are_asked(make: Making) -> None:
    bench = make()
    assert [Uapi().idle(bench, patch) for patch in bench.patches] == ["no header in include/uapi"] * 2 + [None]
    assert Uapi().run(bench, bench.patches[2]).passed


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("// a comment of C++\n" + checked_kernel.HEADER, "C++ style comments"),
        ("struct diag { int a; };\n", "redefinition of 'struct diag'"),
        ("#include <stdio.h>\n" + checked_kernel.HEADER, "stdio.h"),
        (checked_kernel.HEADER.replace("a;", "class;"), "linux/diag.h as c++ with -m64:"),
        (checked_kernel.HEADER.replace("a;", "a[sizeof(long) == 8 ? 1 : -1];"), "linux/diag.h as c with -m32:"),
        (checked_kernel.HEADER.replace("int a;", "__int128 a;"), "linux/diag.h as c++ with -m32:"),
    ],
)
def test_a_header_that_does_not_stand_by_itself(make: Making, header: str, told: str) -> None:
    bench = make({DIAG_H: header})
    verdict = Uapi().run(bench, bench.patches[0])
    assert not verdict.passed
    assert told in "\n".join(verdict.lines)


def test_the_trees_own_script_is_asked(make: Making) -> None:
    bench = make({DIAG_H: checked_kernel.HEADER, "usr/include/headers_check.pl": "print 'leaks CONFIG_X'; exit 1;\n"})
    assert Uapi().run(bench, bench.patches[0]).lines == ("leaks CONFIG_X",)


def test_headers_that_do_not_install(make: Making) -> None:
    bench = make({DIAG_H: checked_kernel.HEADER, "broken-headers": ""})
    verdict = Uapi().run(bench, bench.patches[0])
    assert not verdict.passed
    assert re.search(r"\*\*\* .*headers\] Error", verdict.lines[-1])


def test_a_header_that_is_not_installed(make: Making) -> None:
    makefile = checked_kernel.MAKEFILE.replace("cp -r $(srctree)/include/uapi usr/include", "mkdir usr/include")
    bench = make({DIAG_H: checked_kernel.HEADER, "Makefile": makefile})
    assert Uapi().run(bench, bench.patches[0]).lines == ("make headers does not install linux/diag.h.",)
