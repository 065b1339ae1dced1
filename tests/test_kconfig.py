"""Fragments become a .config with every wanted option in it, or an error that says why not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import kernel_tree
import pytest

from workspace import kconfig, kconfig_syntax
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.kbuild import Kbuild
from workspace.kconfig import Flavour, Option
from workspace.settings import Paths


@pytest.fixture
def fragment(tmp_path: Path) -> Callable[[str], list[Option]]:
    """Read a text as a fragment."""

    def read(text: str) -> list[Option]:
        path = tmp_path / "kconfig/some.config"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return kconfig.read_fragment(path)

    return read


def wanted(*options: str) -> dict[str, Option]:
    """Options as fragments give them; the place is the number in the list."""
    pairs = [option.partition("=")[::2] for option in options]
    return {name: Option(name, value, f"kconfig/f.config:{n}") for n, (name, value) in enumerate(pairs, 1)}


# --- fragments and flavours -----------------------------------------------------------------------


def test_a_fragment(fragment: Callable[[str], list[Option]]) -> None:
    text = (
        "# Why.\nCONFIG_A=y\n\n# CONFIG_B is not set\n  CONFIG_N=-4\nCONFIG_H=0x1F\n"
        'CONFIG_S="a \\"b\\" = c"\nCONFIG_E=""\n#\n'
    )
    assert [(each.name, each.value, each.place) for each in fragment(text)] == [
        ("A", "y", "kconfig/some.config:2"),
        ("B", "n", "kconfig/some.config:4"),
        ("N", "-4", "kconfig/some.config:5"),
        ("H", "0x1F", "kconfig/some.config:6"),
        ("S", 'a "b" = c', "kconfig/some.config:7"),
        ("E", "", "kconfig/some.config:8"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "A=y",
        "CONFIG_A",
        "CONFIG_A=",
        "CONFIG_A y",
        "CONFIG-A=y",
        "# CONFIG_A=y",
        "# CONFIG_A is unset",
        "CONFIG_A=m",
    ],
)
def test_what_is_no_option_stops(fragment: Callable[[str], list[Option]], line: str) -> None:
    with pytest.raises(WorkspaceError) as stopped:
        fragment(f"CONFIG_B=y\n{line}\n")
    assert str(stopped.value).startswith("kconfig/some.config:2: ")
    assert line in str(stopped.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three fragments."""
    folder = tmp_path / "kconfig"
    folder.mkdir()
    (folder / "base.config").write_text("CONFIG_A=y\nCONFIG_B=y\n")
    (folder / "on.config").write_text("CONFIG_A=y\nCONFIG_X=y\n")
    (folder / "off.config").write_text("# CONFIG_X is not set\n")
    return folder


def test_flavours(folder: Path) -> None:
    (folder / "flavours.toml").write_text(
        '[on]\nfragments = ["base", "on"]\nsteps = 9\n[off]\nfragments = ["base", "off"]\nobjects_from = "on"\n'
    )
    on, off = kconfig.flavours(folder).values()
    assert (on.name, on.objects_from, on.steps) == ("on", None, 9)
    assert (off.name, off.objects_from, off.steps) == ("off", "on", None)
    assert list(map(str, on.options.values())) == ["CONFIG_A=y", "CONFIG_B=y", "CONFIG_X=y"]
    assert str(off.options["X"]) == "CONFIG_X=n"
    assert kconfig.flavour(folder, "off") == off
    with pytest.raises(WorkspaceError, match=r"no flavour `of`: .* on, off"):
        kconfig.flavour(folder, "of")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ('fragments = ["base", "gone"]', r"\[x\]: there is no kconfig/gone.config"),
        ('fragments = ["on", "off"]', r"on.config:2 wants CONFIG_X=y, kconfig/off.config:1 wants CONFIG_X=n"),
        ('fragments = ["on"]\nobjects = "y"', r"\[x\]: .*not `objects`"),
        ('fragments = ["on"]\nobjects_from = "y"', r"\[x\]: objects_from = 'y' is no other flavour"),
        ('fragments = ["on"]\nobjects_from = "x"', r"\[x\]: objects_from = 'x' is no other flavour"),
        ("fragments = []", r"\[x\]: it has `fragments`"),
        ("steps = 4", r"\[x\]: it has `fragments`"),
        ("fragments = [", r"flavours.toml: "),
    ],
)
def test_flavours_that_cannot_be_meant_stop(folder: Path, table: str, complaint: str) -> None:
    (folder / "flavours.toml").write_text(f"[x]\n{table}\n")
    with pytest.raises(WorkspaceError, match=complaint):
        kconfig.flavours(folder)


def test_no_flavours_at_all(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"flavours\.toml"):
        kconfig.flavours(tmp_path)


def test_the_flavours_of_this_workspace() -> None:
    """What the vmtests rely on is asked for by name: a kernel without it is not built."""
    flavours = kconfig.flavours(Paths().kconfig)
    plain, off = ({str(option) for option in flavours[name].options.values()} for name in ("plain", "off"))
    needed = "SMP USER_NS PID_NS TIME_NS IA32_EMULATION CHECKPOINT_RESTORE PROC_FS PROC_CHILDREN MEMCG USERFAULTFD"
    assert {f"CONFIG_{name}=y" for name in needed.split()} <= plain
    assert {"CONFIG_MODULES=n", "CONFIG_SLUB_TINY=n"} <= plain
    assert plain - off == {"CONFIG_TASK_DIAG=y"}
    assert off - plain == {"CONFIG_TASK_DIAG=n"}
    assert flavours["off"].objects_from == "plain"
    for name in ("debug", "default"):
        options = {str(option) for option in flavours[name].options.values()}
        assert plain <= options, "what holds for a kernel as it is used is tested there, too"


def test_default_and_selinux_run_every_test_between_them() -> None:
    smack, selinux = (
        {str(option) for option in kconfig.flavour(Paths().kconfig, name).options.values()}
        for name in ("default", "selinux")
    )
    marked = [
        mark
        for path in Paths().vmtests.rglob("*.py")
        for mark in re.findall(r"mark\.option\((.*?)\)", path.read_text())
    ]
    needed = {f"{name}=y" for mark in marked for name in re.findall(r"CONFIG_\w+", mark)}
    assert needed - smack == {"CONFIG_DEFAULT_SECURITY_SELINUX=y"}
    assert needed - selinux == {"CONFIG_DEFAULT_SECURITY_SMACK=y"}
    # Whose say it is, is asked from the boot on.
    assert smack ^ selinux == {
        "CONFIG_DEFAULT_SECURITY_SMACK=y",
        "CONFIG_DEFAULT_SECURITY_SELINUX=y",
        "CONFIG_LSM=landlock,smack",
        "CONFIG_LSM=landlock,selinux",
    }


def test_the_options_that_some_kernel_has(folder: Path) -> None:
    (folder / "flavours.toml").write_text('[on]\nfragments = ["on"]\n[off]\nfragments = ["base", "off"]\n')
    assert kconfig.known_options(folder) == {"CONFIG_A", "CONFIG_B", "CONFIG_X"}
    config = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=3\nCONFIG_D="y"\nCONFIG_EE=y\n'
    assert kconfig.switched_on(config) == {"CONFIG_A", "CONFIG_EE"}


# --- reasons --------------------------------------------------------------------------------------

TREE = """\
config MODULES
	bool "Modules"
	modules
config NET
	bool "Net"
config INET
	bool "Inet"
	depends on NET
config HARDWARE
	bool
config DRIVER
	bool "Driver"
	depends on HARDWARE && (NET || INET) && !SMALL
config SMALL
	bool "Small"
	default y
config LIBRARY
	bool
config USER
	bool "User of a library"
	select LIBRARY
	select CORE if NET
config CORE
	bool "Core"
	depends on NET
config HINTED
	bool "Hinted"
config HINTING
	bool "Hinting"
	imply HINTED
config ALWAYS
	def_bool y
	depends on NET
config LOST
	bool
config FILTER
	def_bool y
	depends on NET && NET
config NEVER
	bool "Never"
	depends on n
config STRANGE
	bool "Strange"
	depends on NOWHERE
config OLD
	bool
	transitional
choice
	prompt "Speed"
	default SLOW
config SLOW
	bool "Slow"
config FAST
	bool "Fast"
config FASTER
	bool "Faster"
	depends on NET
endchoice
config NUMBER
	int "Number"
	range 1 10
	default 4
config ADDRESS
	hex "Address"
	default 0x10
config NAME
	string "Name"
config ANY
	tristate "Any"
config TWICE
	bool "Here" if HARDWARE && NET && SMALL
config TWICE
	bool "There" if NET
""".replace("    ", "\t")


@pytest.fixture
def reasons(tmp_path: Path) -> Callable[..., list[str]]:
    """What does not stick, of some wanted options."""
    (tmp_path / "Kconfig").write_text(TREE)

    def reasons(*options: str) -> list[str]:
        kconf = kconfig_syntax.read(tmp_path, environment={"PATH": os.environ["PATH"]}, folder=tmp_path)
        return kconfig.problems(kconf, wanted(*options))

    return reasons


@pytest.mark.parametrize(
    "options",
    [
        ["INET=y", "NET=y"],
        ["USER=y", "LIBRARY=y"],
        ["FAST=y"],
        ["SLOW=y", "FAST=n"],
        ["FAST=y", "SLOW=n"],
        ["NET=y", "FASTER=y"],
        ["NUMBER=10", "ADDRESS=0x1f", "NAME=a b"],
        ["SMALL=n", "LOST=n", "INET=n", "NEVER=n", "HINTED=n"],
        ["ANY=y", "MODULES=n"],
        ["TWICE=y", "NET=y"],
        [],
    ],
)
def test_what_sticks_gives_no_reason(reasons: Callable[..., list[str]], options: list[str]) -> None:
    assert reasons(*options) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        # Which dependency is unmet.
        (["INET=y"], "it needs NET [=n] (which no fragment asks for: add CONFIG_NET=y)"),
        (["INET=y", "NET=n"], "it needs NET [=n]"),
        (
            ["DRIVER=y", "SMALL=y"],
            "it needs HARDWARE [=n] (which has no prompt, and nothing selects it) and (NET [=n] || INET [=n])"
            " and !SMALL [=y]",
        ),
        (["CORE=y"], "it needs NET [=n] (which no fragment asks for: add CONFIG_NET=y)"),
        (["NEVER=y"], "it needs n (never on this machine: the compiler or the architecture decides)"),
        (["STRANGE=y"], "it needs NOWHERE [unknown] (the tree for this architecture has no such option)"),
        (["FILTER=y"], "it needs NET [=n] (which no fragment asks for: add CONFIG_NET=y)"),
        (["LIBRARY=y"], "it has no prompt, so it cannot be asked for: selected by USER"),
        (["LOST=y"], "it has no prompt, so it cannot be asked for, and nothing selects it"),
        (["OLD=y"], "it is transitional: it only carries the value of an old .config over to its successor"),
        (["FASTER=y"], "it needs NET [=n] (which no fragment asks for: add CONFIG_NET=y)"),
        (["TWICE=y"], "it needs NET [=n] (which no fragment asks for: add CONFIG_NET=y)"),
        # What forces it.
        (["LIBRARY=n", "USER=y"], "stays y: selected by USER [=y]"),
        (["CORE=n", "USER=y", "NET=y"], "stays y: selected by USER [=y] && NET [=y]"),
        (["ALWAYS=n", "NET=y"], "stays y: it cannot be asked for, and its default is y if NET [=y]"),
        (
            ["SLOW=n"],
            "its choice falls to it; want another of the choice instead: CONFIG_FAST or CONFIG_FASTER",
        ),
        (
            ["SLOW=y", "FAST=y"],
            "only one of its choice can be y, and that is CONFIG_FAST, wanted in kconfig/f.config:2",
        ),
        # That the name is unknown.
        (["NETT=y"], "the tree has no option of this name; close to it: NET, INET"),
        (["ANYTHING_ELSE=y"], "the tree has no option of this name"),
        (["ANYTHING_ELSE=n"], "the tree has no option of this name"),
        (["NOWHERE=y"], "the tree has no option of this name"),
        # A value that the type has not.
        (["NET=4"], "it is of type bool, which has no such value"),
        (["NUMBER=y"], "it is of type int, which has no such value"),
        (["ADDRESS=ten"], "it is of type hex, which has no such value"),
        (["NUMBER=11"], "stays 4: its range is 1 to 10"),
    ],
)
def test_what_does_not_stick_has_its_reason(reasons: Callable[..., list[str]], options: list[str], reason: str) -> None:
    (found,) = reasons(*options)
    name, value = options[0].split("=")
    assert found.startswith(f"kconfig/f.config:1: CONFIG_{name}={value}")
    assert found.endswith(reason)


def test_all_reasons_are_given_at_once(reasons: Callable[..., list[str]]) -> None:
    assert len(reasons("NTE=y", "INET=y", "NUMBER=y", "SMALL=y", "LOST=y")) == 4


# --- the .config ----------------------------------------------------------------------------------


@pytest.fixture
def kbuild(tmp_path: Path) -> Kbuild:
    """A kernel to configure."""
    kernel_tree.make(tmp_path / "tree")
    return Kbuild(tmp_path / "tree", tmp_path / "objects")


def flavour(*options: str) -> Flavour:
    return Flavour("some", wanted(*options))


ON = flavour("PROC=y", "TASK_DIAG=y")


def test_make_writes_the_config(kbuild: Kbuild) -> None:
    assert kconfig.configure(kbuild, ON)
    assert (kbuild.objects / ".config").read_text().splitlines() == [
        "# made by make", "CONFIG_PROC=y", "CONFIG_TASK_DIAG=y", "CONFIG_NUMBER=4", 'CONFIG_SRCARCH="x86"',
    ]  # fmt: skip
    assert not list(kbuild.objects.glob(".config.*"))


def test_nothing_is_done_twice(kbuild: Kbuild, monkeypatch: pytest.MonkeyPatch) -> None:
    kconfig.configure(kbuild, ON)
    before = (kbuild.objects / ".config").stat()
    monkeypatch.setattr(kconfig_syntax, "read", lambda *_, **__: pytest.fail("Kconfig was read again"))
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/another/users/bin")
    assert not kconfig.configure(kbuild, ON)
    assert (kbuild.objects / ".config").stat() == before


def test_a_config_that_comes_out_the_same_is_not_touched(kbuild: Kbuild) -> None:
    kconfig.configure(kbuild, ON)
    before = (kbuild.objects / ".config").stat()
    (kbuild.source / "Kconfig").write_text((kbuild.source / "Kconfig").read_text() + "\n# More.\n")
    kernel_tree.commit(Repository(kbuild.source))
    assert not kconfig.configure(kbuild, ON)
    assert (kbuild.objects / ".config").stat() == before


@pytest.mark.parametrize("change", ["wish", "Kconfig", ".config"])
def test_a_change_is_seen(kbuild: Kbuild, change: str) -> None:
    kconfig.configure(kbuild, ON)
    config, want = kbuild.objects / ".config", ON
    text = config.read_text()
    if change == "wish":
        want = flavour("PROC=y", "TASK_DIAG=n")
        text = text.replace("CONFIG_TASK_DIAG=y", "# CONFIG_TASK_DIAG is not set")
    elif change == "Kconfig":
        for name, old, new in (("Kconfig", "default 4", "default 5"), ("follows", "NUMBER=4", "NUMBER=5")):
            path = kbuild.source / name
            path.write_text(path.read_text().replace(old, new))
        kernel_tree.commit(Repository(kbuild.source))
        text = text.replace("NUMBER=4", "NUMBER=5")
    else:
        config.write_text(text + "CONFIG_EDITED=y\n")
    assert kconfig.configure(kbuild, want)
    assert config.read_text() == text


def test_an_option_that_does_not_stick_stops_and_leaves_the_config(kbuild: Kbuild) -> None:
    kconfig.configure(kbuild, ON)
    before = (kbuild.objects / ".config").read_bytes()
    with pytest.raises(WorkspaceError) as stopped:
        kconfig.configure(kbuild, flavour("TASK_DIAG=y", "FROB=y"))
    assert "flavour some cannot be configured" in str(stopped.value)
    assert "CONFIG_TASK_DIAG=y does not stick, it stays n: it needs PROC [=n]" in str(stopped.value)
    assert "CONFIG_FROB=y: the tree has no option" in str(stopped.value)
    assert (kbuild.objects / ".config").read_bytes() == before


def test_an_absent_series_stops(kbuild: Kbuild) -> None:
    """A tree without the series has no CONFIG_TASK_DIAG: neither flavour can be had of it."""
    text = (kbuild.source / "Kconfig").read_text()
    (kbuild.source / "Kconfig").write_text(text.replace("config TASK_DIAG", "config TASK_DUMP"))
    for value in "yn":
        with pytest.raises(WorkspaceError, match="no option of this name"):
            kconfig.configure(kbuild, flavour(f"TASK_DIAG={value}"))


def test_disagreement_with_make_stops(kbuild: Kbuild) -> None:
    (kbuild.source / "follows").write_text("CONFIG_NUMBER=1\nCONFIG_MORE=y\n")
    with pytest.raises(WorkspaceError) as stopped:
        kconfig.configure(kbuild, ON)
    assert "kconfiglib only: CONFIG_NUMBER=4; make only: CONFIG_MORE=y, CONFIG_NUMBER=1" in str(stopped.value)
    assert not (kbuild.objects / ".config").exists()


def test_what_olddefconfig_moves_stops(kbuild: Kbuild) -> None:
    (kbuild.source / "moves").write_text("s/NUMBER=4/NUMBER=5/")
    with pytest.raises(WorkspaceError) as stopped:
        kconfig.configure(kbuild, ON)
    assert "allnoconfig only: CONFIG_NUMBER=4; make only: CONFIG_NUMBER=5" in str(stopped.value)
    assert not list(kbuild.objects.glob(".config*"))


# --- make's surroundings --------------------------------------------------------------------------


def test_make_tells_what_it_exports(kbuild: Kbuild, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH", "of the user")
    monkeypatch.setenv("KCFLAGS", "-O0")
    exported = kbuild.exported()
    assert {
        "SRCARCH": "x86",
        "KERNELVERSION": "7.3.4",
        "srctree": str(kbuild.source),
    }.items() <= exported.items()
    assert not {"PATH", "HOME", "ARCH", "KCFLAGS", "MAKEFLAGS", "MAKEFILES"} & exported.keys()


@pytest.mark.parametrize("name", ["with space", "with:colon", "with\ttab"])
@pytest.mark.parametrize("where", ["source", "objects"])
def test_paths_that_make_cannot_take(tmp_path: Path, name: str, where: str) -> None:
    folders = {"source": tmp_path / "source", "objects": tmp_path / "objects", where: tmp_path / name}
    with pytest.raises(WorkspaceError, match="no space and no colon"):
        Kbuild(folders["source"], folders["objects"])
