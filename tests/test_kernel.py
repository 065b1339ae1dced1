"""A kernel is built once, resumed when it was interrupted, and named by its build id."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kernel_tree
import pytest

from workspace import command, kernel, storage
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.kernel import Kernel
from workspace.settings import Paths
from workspace.tree import Tree

FLAVOURS = """\
[default]
fragments = ["base", "on"]

[off]
fragments = ["base", "off"]
objects_from = "default"
"""


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A clone with two flavours."""
    monkeypatch.delenv("CCACHE_DIR", raising=False)
    folder = tmp_path / "kconfig"
    folder.mkdir()
    (folder / "flavours.toml").write_text(FLAVOURS)
    (folder / "base.config").write_text("CONFIG_PROC=y\n")
    (folder / "on.config").write_text("CONFIG_TASK_DIAG=y\n")
    (folder / "off.config").write_text("# CONFIG_TASK_DIAG is not set\n")
    return Paths(tmp_path)


@pytest.fixture
def tree(paths: Paths) -> Tree:
    """A kernel tree of one file."""
    repository = kernel_tree.make(paths.trees / "a-tree")
    base = repository.check("rev-parse", "HEAD")
    return Tree(path=repository.path, version="7.3.4", kind="mainline", origin="a test", base=base, key="a-tree")


def build(paths: Paths, tree: Tree, flavour: str = "default") -> Kernel:
    """Build what the tree stands at."""
    commit = Repository(tree.path).check("rev-parse", "HEAD")
    return kernel.build(paths, tree, flavour, commit=commit, shown_as=paths.worktree)


def edit(tree: Tree, text: str) -> None:
    """Commit another text of the one file that is compiled."""
    (tree.path / "fs/main.c").write_text(text)
    kernel_tree.commit(Repository(tree.path))


def goals(built: Kernel) -> int:
    """How often make was asked for an image."""
    return len((built.folder / "goals").read_text().splitlines())


def test_a_kernel_says_which_it_is(paths: Paths, tree: Tree) -> None:
    built = build(paths, tree)
    assert built.folder == paths.kernels / "a-tree/default"
    assert (built.flavour, built.release) == ("default", "7.3.4")
    assert (built.headers / "linux/task_diag.h").is_file()
    assert built.image.read_bytes() == (built.folder / "vmlinux").read_bytes()
    notes = command.check(["readelf", "-n", built.image])
    assert re.fullmatch("[0-9a-f]{40}", built.build_id)
    assert f"Build ID: {built.build_id}" in notes
    assert "CONFIG_TASK_DIAG=y\n" in built.config.read_text()
    assert "  CC      fs/main.o\n" in (paths.logs / "build-default.log").read_text()
    assert kernel.load(paths, tree, "default") == built


def test_nothing_is_done_twice(paths: Paths, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(paths, tree)
    before = {path: path.stat().st_mtime_ns for path in built.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(command, "follow", lambda *_, **__: pytest.fail("make was run again"))
    assert build(paths, tree) == built
    assert {path: path.stat().st_mtime_ns for path in built.folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", ["source", "fragment", "config", "image", "stamp"])
def test_a_change_is_built(paths: Paths, tree: Tree, change: str) -> None:
    built = build(paths, tree)
    if change == "source":
        edit(tree, "int config = CONFIG + 1;\n")
    elif change == "fragment":
        (paths.kconfig / "on.config").write_text("CONFIG_TASK_DIAG=n\n")
    elif change == "config":
        built.config.write_text("CONFIG_EDITED=y\n")
    elif change == "image":
        built.image.unlink()
    else:
        (built.folder / "workspace-kernel.json").write_text('{"release": "7.3.4"')
    again = build(paths, tree)
    assert goals(again) == 2
    assert again.image.is_file()
    assert (again.build_id == built.build_id) == (change not in {"source", "fragment"})


def test_the_same_source_gives_the_same_build_id(paths: Paths, tree: Tree) -> None:
    first = build(paths, tree)
    shutil.rmtree(first.folder)
    assert build(paths, tree) == first


def test_errors_of_the_compiler_are_shown(paths: Paths, tree: Tree, capfd: pytest.CaptureFixture[str]) -> None:
    edit(tree, "#warning look here\nint config = CONFIG;\nint main(void)\n{\n\treturn undeclared;\n}\n")
    with pytest.raises(WorkspaceError) as stopped:
        build(paths, tree)
    lines = str(stopped.value).splitlines()
    log = paths.logs / "build-default.log"
    assert lines[0] == f"the kernel (flavour default) does not build; whole log: {log}"
    assert lines[1].startswith(f"    {paths.worktree}/fs/main.c:5:16: error: ")
    assert "undeclared" in lines[1]
    assert "return undeclared;" in lines[2]
    assert "^~~~" in lines[3]
    assert "make" not in str(stopped.value).replace(str(log), "")
    assert str(tree.path) not in str(stopped.value)
    assert f"{paths.worktree}/fs/main.c:1:2: warning: " in capfd.readouterr().err
    assert f"{tree.path}/fs/main.c:5" in log.read_text()
    with pytest.raises(WorkspaceError, match="not built, or not to its end"):
        kernel.load(paths, tree, "default")
    edit(tree, kernel_tree.MAIN)
    assert goals(build(paths, tree)) == 1


def test_errors_of_the_linker_are_shown(paths: Paths, tree: Tree) -> None:
    edit(tree, "int absent(void);\nint config(void) { return absent(); }\n")
    with pytest.raises(WorkspaceError, match="undefined reference to `absent'"):
        build(paths, tree)


def test_other_failures_show_the_last_words(paths: Paths, tree: Tree) -> None:
    makefile = tree.path / "Makefile"
    makefile.write_text(makefile.read_text().replace("bzImage: vmlinux", "bzImage: nowhere"))
    kernel_tree.commit(Repository(tree.path))
    with pytest.raises(WorkspaceError, match=r"No rule to make target .nowhere"):
        build(paths, tree)


def test_only_the_first_errors_are_shown() -> None:
    failures = kernel.Failures("/trees/t", "linux")
    for n in range(9):
        failures.see(f"  CC      fs/{n}.o")
        failures.see(f"/trees/t/fs/{n}.c: In function 'f':")
        failures.see(f"/trees/t/fs/{n}.c:{n}:1: error: no {n}")
        failures.see(f"   {n} |  no{n}();")
        failures.see("/trees/t/fs/x.c:1:1: note: declared here")
        failures.see("make[3]: *** [/trees/t/scripts/Makefile.build:1: fs/x.o] Error 1")
    shown = failures.shown("the tail")
    assert shown[:3] == [
        "linux/fs/0.c:0:1: error: no 0",
        "   0 |  no0();",
        "linux/fs/x.c:1:1: note: declared here",
    ]
    assert len(shown) == 9
    assert shown[-3] == "linux/fs/2.c:2:1: error: no 2"


# --- flavours ---------------------------------------------------------------------------------------


def test_off_starts_from_a_copy_of_default(paths: Paths, tree: Tree, capfd: pytest.CaptureFixture[str]) -> None:
    default = build(paths, tree)
    (default.folder / "of-default").write_text("copied")
    program = default.folder / "tools/objtool/.check.o.cmd"
    program.parent.mkdir(parents=True)
    program.write_text(f"cmd := gcc -o {default.folder}/tools/objtool/check.o")
    os.utime(program, (1, 1))
    off = build(paths, tree, "off")
    assert "copy of default's objects" in capfd.readouterr().err
    assert (off.folder / "of-default").read_text() == "copied"
    copied = off.folder / "tools/objtool/.check.o.cmd"
    assert copied.read_text() == f"cmd := gcc -o {off.folder}/tools/objtool/check.o", "make would link it anew"
    assert copied.stat().st_mtime == 1
    assert "# CONFIG_TASK_DIAG is not set\n" in off.config.read_text()
    assert off.build_id != default.build_id
    assert goals(off) == 2, "make has to look through the copy"
    assert kernel.load(paths, tree, "default") == default
    build(paths, tree, "off")
    assert goals(off) == 2


def test_off_is_built_alone_when_there_is_no_default(paths: Paths, tree: Tree) -> None:
    (paths.kernels / "a-tree/default").mkdir(parents=True)  # begun, and not finished: nothing to start from
    assert goals(build(paths, tree, "off")) == 1


def test_off_starts_from_a_copy_after_a_failed_attempt(paths: Paths, tree: Tree) -> None:
    off = (paths.kconfig / "off.config").read_text()
    (paths.kconfig / "off.config").write_text("CONFIG_FROB=y\n")
    with pytest.raises(WorkspaceError, match="CONFIG_FROB"):
        build(paths, tree, "off")
    (paths.kconfig / "off.config").write_text(off)
    build(paths, tree)
    assert goals(build(paths, tree, "off")) == 2


def test_what_a_killed_copy_left_is_swept(paths: Paths, tree: Tree) -> None:
    build(paths, tree)
    left = paths.kernels / "a-tree/.off.abcd"
    left.mkdir()
    build(paths, tree, "off")
    assert not left.exists()


# --- interruptions ----------------------------------------------------------------------------------


def test_a_killed_build_is_resumed(paths: Paths, tree: Tree) -> None:
    """SIGKILL while an object is being written: make alone would take the torn object for finished."""
    good = build(paths, tree)
    edit(tree, "int config = CONFIG + 2;\n")
    makefile = tree.path / "Makefile"
    whole = makefile.read_text()
    makefile.write_text(
        whole.replace("\t@$(CC) -c", "\t@if test -e $(srctree)/slow; then echo torn > $@; sleep 60; fi\n\t@$(CC) -c")
    )
    kernel_tree.commit(Repository(tree.path))
    (tree.path / "slow").touch()
    script = (
        "import json, sys; from pathlib import Path; from workspace import kernel\n"
        "from workspace.settings import Paths; from workspace.tree import Tree\n"
        "given = json.loads(sys.argv[1]); path = Path(given['path'])\n"
        "tree = Tree(**{**given, 'path': path})\n"
        "kernel.build(Paths(Path(sys.argv[2])), tree, 'default', commit=tree.repository.commit())\n"
    )
    given = json.dumps({**vars(tree), "path": str(tree.path)})
    tools = Path(kernel.__file__).parents[1]
    running = subprocess.Popen(
        [sys.executable, "-c", script, given, str(paths.root)], env={**os.environ, "PYTHONPATH": str(tools)}
    )
    torn = good.folder / "fs/main.o"
    try:
        until = time.monotonic() + 30
        while torn.read_bytes() != b"torn\n":
            assert running.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        _kill_with_children(running)
    (tree.path / "slow").unlink()
    with pytest.raises(WorkspaceError, match="not to its end"):
        kernel.load(paths, tree, "default")
    assert torn.read_bytes() == b"torn\n"
    resumed = build(paths, tree)
    assert torn.read_bytes() != b"torn\n"
    assert resumed.build_id != good.build_id


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a process and all that it started, as a machine that goes down does."""
    doomed = [process.pid]
    for pid in doomed:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            doomed += map(int, children.read_text().split())
    for pid in doomed:
        # Make is tethered to who runs it, and may have gone with it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def test_only_what_may_be_torn_is_dropped(tmp_path: Path) -> None:
    now = time.time()
    ages = {
        "fs/old.o": 60, "fs/new.o": 3, "fs/.new.o.cmd": 2, "tools/objtool/objtool": 0, "vmlinux": 4,
        ".config": 1, "Makefile": 1, "include/config/auto.conf": 1, "include/config/TASK_DIAG": 0,
        "include/generated/autoconf.h": 0,
    }  # fmt: skip
    for name, age in ages.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (now - age, now - age))
    (tmp_path / "source").symlink_to(tmp_path / "include")
    kernel._drop_torn(tmp_path)
    dropped = {name for name in ages if not (tmp_path / name).exists()}
    assert dropped == {"fs/new.o", "fs/.new.o.cmd", "tools/objtool/objtool", "vmlinux"}


def test_two_runs_at_once(paths: Paths, tree: Tree) -> None:
    built = build(paths, tree)
    with (
        storage.locked(built.folder.with_name(".default.lock"), what="it"),
        pytest.raises(WorkspaceError, match="the objects of flavour default"),
    ):
        build(paths, tree)


# --- what cannot be built -------------------------------------------------------------------------------


def test_what_is_not_built_cannot_be_loaded(paths: Paths, tree: Tree) -> None:
    with pytest.raises(WorkspaceError, match=r"nox -s build -- --flavour off"):
        kernel.load(paths, tree, "off")


def test_an_unknown_flavour(paths: Paths, tree: Tree) -> None:
    with pytest.raises(WorkspaceError, match=r"no flavour `kasan`: .*default, off"):
        build(paths, tree, "kasan")


def test_a_tree_that_stands_elsewhere(paths: Paths, tree: Tree) -> None:
    with pytest.raises(WorkspaceError, match=f"not at {'0' * 40}"):
        kernel.build(paths, tree, "default", commit="0" * 40)


def test_an_option_that_does_not_stick_stops_the_build(paths: Paths, tree: Tree) -> None:
    (paths.kconfig / "base.config").write_text("# CONFIG_PROC is not set\n")
    with pytest.raises(WorkspaceError, match=r"kconfig/on.config:1: CONFIG_TASK_DIAG=y .*needs PROC"):
        build(paths, tree)
    assert not (paths.kernels / "a-tree/default/goals").exists()


def test_a_folder_with_a_space(paths: Paths, tree: Tree, tmp_path: Path) -> None:
    spaced = tmp_path / "my clone"
    shutil.copytree(paths.kconfig, spaced / "kconfig")
    with pytest.raises(WorkspaceError, match=r"my clone.*no space and no colon"):
        build(Paths(spaced), tree)


def test_the_users_ccache_settings_win(paths: Paths, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    build(paths, tree)
    assert (paths.build / "ccache").is_dir()
    own = paths.root / "own-ccache"
    monkeypatch.setenv("CCACHE_DIR", str(own))
    edit(tree, "int config = CONFIG + 3;\n")
    build(paths, tree)
    assert own.is_dir()
