"""A kernel of a few files that make compiles one by one, and a series of three patches on it."""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import kernel_tree

from workspace import series
from workspace.git import Repository
from workspace.series import Series
from workspace.settings import Paths
from workspace.tree import Tree

FLAVOURS = """\
[default]
fragments = ["base", "task_diag"]

[full]
fragments = ["base", "task_diag"]

[off]
fragments = ["base", "off"]
"""
# Beside what kernel_tree has: single objects with W= and C=, headers, and make's record of what an object is made of.
_MORE = """\
CHECK ?= sparse
prepare:
	@test ! -e $(srctree)/broken-prepare || { echo fs/a.h:1:1: error: broken >&2; exit 1; }
headers:
	@mkdir -p usr
	@test ! -e $(srctree)/broken-headers
	@rm -rf usr/include && cp -r $(srctree)/include/uapi usr/include
fs/main.o: $(wildcard $(srctree)/fs/*.h)
fs/%.o: $(srctree)/fs/%.c
	@mkdir -p $(@D)
	@$(CC) -c $(if $(W),-Wall -Wextra) -o $@ $<
	@$(if $(C),$(CHECK) $<)
endif
"""
MAKEFILE = (
    kernel_tree.MAKEFILE.replace(kernel_tree.HEADERS, "")
    .replace(
        "@$(CC) -c -DCONFIG", '@echo "source_$@ := $<" > fs/.main.o.cmd\n\t@$(CC) -c $(if $(W),-Wall -Wextra) -DCONFIG'
    )
    .removesuffix("endif\n")
)
MAKEFILE = MAKEFILE.replace("\t@$(CC) -c $(if", "\t@$(if $(C),$(CHECK) $<)\n\t@$(CC) -c $(if") + _MORE
WITHOUT_OPTION = kernel_tree.KCONFIG.replace('config TASK_DIAG\n\tbool "Binary processes"\n\tdepends on PROC\n\n', "")
CHECKPATCH = """\
my @style = grep { /^\\+.*UGLY/ } do { local @ARGV = $ARGV[-1]; <> };
exit 3 if $ENV{PATH} =~ /checkpatch-dies/;
print "WARNING:UGLY: this is ugly\\n$_" for @style;
print "told: @ARGV[0 .. $#ARGV - 1]\\n";
my $n = @style;
print "total: 0 errors, $n warnings, 0 checks, 5 lines checked\\n\\nNOTE: more\\n";
exit($n ? 1 : 0);
"""
HEADER = "#ifndef _DIAG_H\n#define _DIAG_H\nstruct diag { int a; };\n#endif\n"
DIAG = "int diag(void);\nint diag(void)\n{\n\treturn 1;\n}\n"
BASE = {
    "Kconfig": WITHOUT_OPTION,
    "Makefile": MAKEFILE,
    "scripts/checkpatch.pl": CHECKPATCH,
    "usr/include/headers_check.pl": "exit 0;\n",
    "include/uapi/linux/other.h": "struct other { int a; };\n",
    "kernel/other.c": "int other;\n",
    "docs": "nothing to compile\n",
    # kernel_tree's stand-in for Kconfig's tool: what follows from the options.
    "follows": "CONFIG_NUMBER=4\n",
}
# What the three patches make of it: one prepares, one says something, one brings the option.
STEPS: tuple[Mapping[str, str], ...] = (
    {"fs/main.c": "int config = CONFIG;\nint prepared;\n"},
    {"docs": "still nothing to compile\n"},
    {
        "Kconfig": kernel_tree.KCONFIG,
        "fs/diag.c": DIAG,
        "include/uapi/linux/diag.h": HEADER,
    },
)


def rooms(path: Path) -> Paths:
    """A clone with three flavours."""
    folder = path / "kconfig"
    folder.mkdir()
    for name, text in {
        "flavours.toml": FLAVOURS,
        "base.config": "CONFIG_PROC=y\n",
        "small.config": "CONFIG_PROC=y\n",
        "labels.config": "# This kernel has no security modules.\n",
        "task_diag.config": "CONFIG_TASK_DIAG=y\n",
        "off.config": "# CONFIG_TASK_DIAG is not set\n",
    }.items():
        (folder / name).write_text(text)
    return Paths(path)


def base(paths: Paths, changes: Mapping[str, str] | None = None) -> Tree:
    """The tree without the series."""
    repository = kernel_tree.make(paths.trees / "a-tree")
    _write(repository, {**BASE, **(changes or {})})
    commit = kernel_tree.commit(repository)
    return Tree(path=repository.path, version="7.3.4", kind="mainline", origin="a test", base=commit, key="a-tree")


def patches(paths: Paths, tree: Tree, steps: tuple[Mapping[str, str], ...] = STEPS, message: str = "Why.") -> Series:
    """The series that brings ``steps``, in patches/; the tree itself stands at its base again."""
    room = paths.root / "room"
    room.mkdir(exist_ok=True)
    scratch = series.borrowing(tree.repository, room, tree.base)
    scratch.check("reset", "--quiet", "--hard")
    for number, step in enumerate(steps, 1):
        _write(scratch, step)
        scratch.check("add", "--all")
        date = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"170000000{number} +0000")
        scratch.check("commit", "--quiet", "--message", f"proc: Step {number}\n\n{message}", **date)
    for old in paths.patches.glob("*.patch"):
        old.unlink()
    scratch.check("format-patch", "--quiet", "--zero-commit", f"--output-directory={paths.patches}", tree.base)
    return Series.load(paths.patches)


def _write(repository: Repository, contents: Mapping[str, str]) -> None:
    for name, content in contents.items():
        path = repository.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def program(folder: Path, name: str, text: str) -> Path:
    """A stand-in for a tool, in Python, in a folder for PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
