"""Today's Kconfig language is read as the kernel's own tool reads it, or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from workspace import kconfig_syntax
from workspace.errors import WorkspaceError

MODULES = "config MODULES\n\tbool\n\tmodules\n\tdefault y\n"
N, M, Y = 0, 1, 2


@pytest.fixture
def parse(tmp_path: Path) -> Any:
    """Read a text as a top Kconfig file."""

    def parse(text: str, **environment: str) -> kconfig_syntax.Kconfig:
        (tmp_path / "Kconfig").write_text(text)
        (tmp_path / "objects").mkdir(exist_ok=True)
        return kconfig_syntax.read(
            tmp_path, environment={"PATH": os.environ["PATH"], **environment}, folder=tmp_path / "objects"
        )

    return parse


# --- transitional ---------------------------------------------------------------------------------

# mm/Kconfig and arch/Kconfig of 7.3, in part.
RANDOM_KMALLOC_CACHES = (
    "config PARTITION_KMALLOC_CACHES\n\tdef_bool RANDOM_KMALLOC_CACHES\n\n"
    "config RANDOM_KMALLOC_CACHES\n\tbool\n\ttransitional\n\thelp\n\t  Transitional config for migration.\n"
)


@pytest.mark.parametrize("line", ["\ttransitional", "\ttransitional # since 6.18", "    transitional  "])
def test_transitional_symbol_is_n_and_remembered(parse: Any, line: str) -> None:
    kconf = parse(RANDOM_KMALLOC_CACHES.replace("\ttransitional", line))
    assert kconf.adapted == {"transitional": 1}
    assert kconf.transitional == {"RANDOM_KMALLOC_CACHES"}
    assert kconf.syms["RANDOM_KMALLOC_CACHES"].str_value == "n"
    assert kconf.syms["PARTITION_KMALLOC_CACHES"].str_value == "n"
    assert "migration" in kconf.syms["RANDOM_KMALLOC_CACHES"].nodes[0].help


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("transitional\n", 1),
        ('menu "A menu"\n\ttransitional\nendmenu\n', 2),
        ('config A\n\tbool\n\nmenu "A menu"\nendmenu\ntransitional\n', 6),
        ('choice\n\tprompt "One"\n\ttransitional\nendchoice\n', 3),
    ],
)
def test_transitional_elsewhere_stops(parse: Any, text: str, line: int) -> None:
    with pytest.raises(WorkspaceError, match=rf"Kconfig:{line}: .*transitional"):
        parse(text)


# --- modules --------------------------------------------------------------------------------------


# kernel/module/Kconfig of 7.3.
@pytest.mark.parametrize("line", ["modules", "\tmodules", "\tmodules\t# m is a value"])
def test_modules_property_gives_m_its_meaning(parse: Any, line: str) -> None:
    kconf = parse(f'menuconfig MODULES\n\tbool "Loadable modules"\n{line}\n\nconfig A\n\ttristate "a"\n')
    assert kconf.adapted == {"modules": 1}
    kconf.syms["A"].set_value(M)
    assert kconf.syms["A"].str_value == "y", "without modules, m is y"
    kconf.syms["MODULES"].set_value(Y)
    assert kconf.syms["A"].str_value == "m"


def test_names_that_begin_alike_are_no_properties(parse: Any) -> None:
    kconf = parse("modules-y := x\ntransitional = y\nconfig A\n\tdef_bool $(transitional)\n")
    assert not kconf.adapted
    assert kconf.syms["A"].str_value == "y"


# --- depends on A if B ----------------------------------------------------------------------------


class Values(NamedTuple):
    """Of the symbols A, B and C."""

    a: int
    b: int
    c: int


EVERY = [Values(*each) for each in itertools.product((N, M, Y), repeat=3)]


def _value(parse: Any, line: str) -> dict[Values, int]:
    """The value of X, which would be y, under `line` for all values of the symbols in it."""
    symbols = "".join(f'config {name}\n\ttristate "{name}"\n' for name in "ABC")
    kconf = parse(f"{MODULES}{symbols}config X\n\tdef_tristate y\n{line}\n")
    assert kconf.adapted["depends on ... if"] == line.count("depends") > 0
    table = {}
    for assigned in EVERY:
        for name, value in zip("ABC", assigned, strict=True):
            kconf.syms[name].set_value(value)
        table[assigned] = kconf.syms["X"].tri_value
    return table


def _expected(needed: Callable[[Values], int], condition: Callable[[Values], int]) -> dict[Values, int]:
    """menu_add_dep(): needed where the condition is not n, else y."""
    return {each: needed(each) if condition(each) != N else Y for each in EVERY}


def _equal(left: int, right: int) -> int:
    return Y if left == right else N


@pytest.mark.parametrize(
    ("line", "needed", "condition"),
    [
        ("\tdepends on A if B", lambda v: v.a, lambda v: v.b),
        ("\tdepends on A if !B", lambda v: v.a, lambda v: N if v.b else Y),
        ("\tdepends on A if A", lambda v: v.a, lambda v: v.a),
        ("\tdepends on (A && C) if B", lambda v: min(v.a, v.c), lambda v: v.b),
        ("\tdepends on A || C if B", lambda v: max(v.a, v.c), lambda v: v.b),
        ("\tdepends on A if B && C", lambda v: v.a, lambda v: min(v.b, v.c)),
        ("\tdepends on A if (B || C)", lambda v: v.a, lambda v: max(v.b, v.c)),
        ("\tdepends on A if B = m", lambda v: v.a, lambda v: _equal(v.b, M)),
        ("\tdepends on A if B != y", lambda v: v.a, lambda v: Y - _equal(v.b, Y)),
        ("\tdepends on A if B # not if C", lambda v: v.a, lambda v: v.b),
        ("\tdepends on A \\\n\t\tif B", lambda v: v.a, lambda v: v.b),
        ("\tdepends on A if \\\n\t\tB && \\\n\t\tC", lambda v: v.a, lambda v: min(v.b, v.c)),
        ('\tdepends on A if C = "x if y" || B', lambda v: v.a, lambda v: v.b),
        ("\tdepends on A if $(shell,echo B)", lambda v: v.a, lambda v: v.b),
        ("\tdepends on $(shell,if true; then echo A; fi) if B", lambda v: v.a, lambda v: v.b),
    ],
)
def test_conditional_dependency(parse: Any, line: str, needed: Any, condition: Any) -> None:
    assert _value(parse, line) == _expected(needed, condition)


def test_conditional_dependencies_add_up(parse: Any) -> None:
    """drivers/usb/cdns3/Kconfig of 7.3: one of host and gadget will do, and it has to be as built in."""
    table = _value(parse, "\tdepends on A if !B\n\tdepends on B if !A")
    one = _expected(lambda v: v.a, lambda v: N if v.b else Y)
    two = _expected(lambda v: v.b, lambda v: N if v.a else Y)
    assert table == {each: min(one[each], two[each]) for each in table}


def test_a_quoted_if_is_no_condition(parse: Any) -> None:
    kconf = parse('config A\n\tstring\n\tdefault "x if y"\nconfig X\n\tdef_bool y\n\tdepends on A = "x if y"\n')
    assert not kconf.adapted
    assert kconf.syms["X"].str_value == "y"


def test_other_ifs_stay(parse: Any) -> None:
    kconf = parse(
        'config A\n\tbool "A"\n\nmenu "M"\n\tvisible if A\n\nconfig B\n\tbool "B" if A\n\tdefault y if !A\n'
        "\nendmenu\n\nif A\nconfig C\n\tdef_bool y\nendif\n"
    )
    assert not kconf.adapted
    assert [kconf.syms[name].str_value for name in "ABC"] == ["n", "y", "n"]
    kconf.syms["A"].set_value(Y)
    assert [kconf.syms[name].str_value for name in "ABC"] == ["y", "n", "y"]


def test_menus_and_comments_depend_conditionally_too(parse: Any) -> None:
    kconf = parse(
        'config A\n\tbool "A"\n\nmenu "M"\n\tdepends on A if A\nconfig B\n\tdef_bool y\nendmenu\n'
        'comment "C"\n\tdepends on A if !A\n'
    )
    assert kconf.adapted == {"depends on ... if": 2}
    assert kconf.syms["B"].str_value == "y"


@pytest.mark.parametrize("line", ["\tdepends on A if", "\tdepends on A if B C", "\tdepends on A if B if C"])
def test_half_a_condition_stops(parse: Any, line: str) -> None:
    with pytest.raises(WorkspaceError, match=r"Kconfig:3: "):
        parse(f"config X\n\tbool\n{line}\n")


# --- help texts, unknown syntax -------------------------------------------------------------------


def test_help_texts_are_not_read_as_properties(parse: Any) -> None:
    kconf = parse(
        "config A\n\tbool\n\thelp\n\t  These lines say nothing to the parser:\n\t  transitional\n\n"
        "\t  modules\n\t  depends on A if B\n\t  frobnicate\nconfig B\n\tbool\n\ttransitional\n"
    )
    assert kconf.adapted == {"transitional": 1}
    assert kconf.transitional == {"B"}
    assert kconf.syms["A"].nodes[0].help.splitlines()[1:] == [
        "transitional", "", "modules", "depends on A if B", "frobnicate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("", 3),
        ("\ttransitional\n", 4),
        ("\tdepends on A \\\n\t\tif B\n", 5),
        ("\thelp\n\t  transitional\n\n\t  depends on A if B\n\n", 8),
    ],
)
@pytest.mark.parametrize("unknown", ["frobnicate", "depends upon B", "option frobnicate", "default y unless B"])
def test_unknown_syntax_stops_with_its_own_line(parse: Any, before: str, line: int, unknown: str) -> None:
    with pytest.raises(WorkspaceError) as stopped:
        parse(f"config X\n\tbool\n{before}\t{unknown}\n")
    assert f"Kconfig:{line}: " in str(stopped.value)
    assert unknown in str(stopped.value)
    assert "kconfig_syntax.py" in str(stopped.value)


def test_unknown_syntax_in_a_sourced_file_names_that_file(parse: Any, tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs/Kconfig").write_text("config A\n\tbool\n\n\tfrobnicate\n")
    with pytest.raises(WorkspaceError, match=r"fs/Kconfig:4: .*frobnicate"):
        parse('source "fs/Kconfig"\n')


def test_a_missing_file_stops(parse: Any) -> None:
    with pytest.raises(WorkspaceError, match=r"Kconfig:1: .*fs/Kconfig"):
        parse('source "fs/Kconfig"\n')


# --- numbers without a value ----------------------------------------------------------------------


def test_a_number_without_a_value_is_0(parse: Any) -> None:
    """mm/Kconfig of 7.3: as the kernel's own tool has it, 10; kconfiglib alone would write 1."""
    kconf = parse(
        "config ARCH_FORCE_MAX_ORDER\n\tint\n\nconfig PAGE_BLOCK_MAX_ORDER\n"
        '\tint "Page Block Order Upper Limit"\n'
        "\trange 1 10 if ARCH_FORCE_MAX_ORDER = 0\n\tdefault 10 if ARCH_FORCE_MAX_ORDER = 0\n"
        "\trange 1 ARCH_FORCE_MAX_ORDER if ARCH_FORCE_MAX_ORDER != 0\n"
        "\tdefault ARCH_FORCE_MAX_ORDER if ARCH_FORCE_MAX_ORDER != 0\n"
    )
    assert kconf.syms["PAGE_BLOCK_MAX_ORDER"].config_string == "CONFIG_PAGE_BLOCK_MAX_ORDER=10\n"
    assert kconf.syms["ARCH_FORCE_MAX_ORDER"].config_string == ""


@pytest.mark.parametrize(("kind", "zero"), [("int", "0"), ("hex", "0x0"), ("string", "")])
def test_what_is_visible_and_has_no_default(parse: Any, kind: str, zero: str) -> None:
    assert parse(f'config A\n\t{kind} "a"\n').syms["A"].str_value == zero


# --- the process stays as it was ------------------------------------------------------------------


@pytest.mark.parametrize("text", ["config A\n\tbool\n", "frobnicate\n"])
def test_environment_and_folder_are_put_back(parse: Any, text: str) -> None:
    environment, folder = dict(os.environ), Path.cwd()
    if text.startswith("config"):
        parse(text, ARCH="x86")
    else:
        with pytest.raises(WorkspaceError):
            parse(text, ARCH="x86")
    assert dict(os.environ) == environment
    assert Path.cwd() == folder


def test_macros_see_the_given_environment_and_folder(
    parse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCH", "of the user")
    kconf = parse('config A\n\tstring\n\tdefault "$(ARCH)"\nconfig B\n\tstring\n\tdefault "$(shell,pwd)"\n', ARCH="x86")
    assert kconf.syms["A"].str_value == "x86"
    assert kconf.syms["B"].str_value == str(tmp_path / "objects")
