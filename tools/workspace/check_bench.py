"""Where patches are checked: a tree and objects of the checks' own, so that those of `build` stay as they are."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from workspace import check_files, command, kconfig, series, storage, tree
from workspace.check_memory import Memory
from workspace.errors import WorkspaceError
from workspace.progress import say
from workspace.series import Series
from workspace.settings import Paths
from workspace.system import Need
from workspace.tree import Tree

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Rooms(Paths):
    """The clone's rooms, but trees, objects and logs of the checks' own.

    They are as far from each other as those of `build`, so that ccache knows what `build` has compiled.
    """

    @property
    def trees(self) -> Path:
        """Git repositories that borrow the objects of those that `build` uses."""
        return self.checks / "trees"

    @property
    def kernels(self) -> Path:
        """Object folders, kept from patch to patch."""
        return self.checks / "kernels"

    @property
    def logs(self) -> Path:
        """Output of the checks' builds and guests."""
        return self.build / "logs/checks"


@dataclass(frozen=True)
class Patch:
    """One patch of the series: its file, and what it is a commit of."""

    number: int
    file: Path
    subject: str
    commit: str
    parent: str
    touched: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    """What a check found: ``lines`` are the tool's own, ``note`` what is worth knowing although it passed."""

    passed: bool
    lines: tuple[str, ...] = ()
    note: str = ""


class Check(ABC):
    """One question asked of each patch."""

    name: str
    says: str
    fast: bool = False
    needs: tuple[Need, ...] = ()
    lasting: bool = True
    """A failure stays one until something changes; not so where time plays a part."""

    def idle(self, bench: Bench, patch: Patch) -> str | None:  # noqa: ARG002
        """Why there is nothing to ask of this patch, if so."""
        return None

    @abstractmethod
    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """What the answer depends on, besides the check's own code."""

    @abstractmethod
    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""


def definition(check: Check) -> str:
    """A digest of the code that makes up a check: its modules, and all of ours that these import."""
    found: set[Path] = set()
    todo = [Path(inspect.getfile(kind)) for kind in type(check).__mro__ if kind.__module__.startswith("workspace.")]
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += _imported(module)
    return storage.digest(check.name, *sorted(found, key=lambda path: path.name))


@cache
def _imported(module: Path) -> tuple[Path, ...]:
    """The modules of this package that one of them imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == __package__:
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{__package__}."):
            names.add(node.module.rpartition(".")[2])
    return tuple(path for name in sorted(names) if (path := _PACKAGE / f"{name}.py").exists())


@dataclass
class Bench:
    """A series on its base, and the tree in which it is checked commit by commit."""

    paths: Rooms
    tree: Tree
    patches: tuple[Patch, ...]
    brings: frozenset[str]
    """The options that patches of the series add, whether or not they apply."""
    memory: Memory
    accelerator: str | None = None
    _versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, paths: Paths, base: Tree, wanted: Series, *, applying: Series | None = None, accelerator: str | None = None
    ) -> Bench:
        """The bench for a series, or for those of its patches that apply."""
        rooms = Rooms(paths.root)
        applying = wanted if applying is None else applying
        end = series.commits(base.repository, base.base, applying)
        own = dataclasses.replace(base, path=rooms.trees / base.key)
        _own_tree(base, own, end)
        commits = own.repository.check("rev-list", "--reverse", f"{base.base}..{end}").split()
        patches = tuple(
            Patch(
                number,
                file,
                own.repository.check("show", "--no-patch", "--format=%s", commit),
                commit,
                parent,
                Series((file,)).touched,
            )
            for number, (file, commit, parent) in enumerate(
                zip(applying.patches, commits, [base.base, *commits[:-1]], strict=True), 1
            )
        )
        added = re.compile(r"^\+(?:menu)?config\s+(\w+)", re.MULTILINE)
        texts = (path.read_text(errors="surrogateescape") for path in wanted.patches)
        brings = frozenset(name for text in texts for name in added.findall(text))
        return cls(rooms, own, patches, brings, Memory(rooms.checks / "memory"), accelerator)

    @cached_property
    def touched(self) -> frozenset[str]:
        """All that the series touches."""
        return frozenset(name for patch in self.patches for name in patch.touched)

    def at(self, commit: str) -> None:
        """Make the tree a commit; files that stay the same keep their times, and so their objects."""
        if self.tree.repository.commit() != commit:
            tree.checkout(self.tree, commit)

    def content(self, commit: str) -> str:
        """What identifies a commit's files, whatever its message says."""
        return self.tree.repository.check("rev-parse", f"{commit}^{{tree}}")

    def exists(self, commit: str, name: str) -> bool:
        """True if a commit has a file of this name."""
        return self.tree.repository.run("cat-file", "-e", f"{commit}:{name}").code == 0

    def files(self, patch: Patch, srcarch: str = "x86") -> tuple[str, ...]:
        """The .c files to compile for a patch."""
        return check_files.to_compile(
            patch.touched, series=self.touched, exists=lambda name: self.exists(patch.commit, name), srcarch=srcarch
        )

    def unknown(self, commit: str) -> frozenset[str]:
        """The options that later patches bring, which a commit cannot be asked for."""
        menus = sorted(name for name in self.touched if Path(name).name.startswith("Kconfig"))
        texts = [self.tree.repository.run("show", f"{commit}:{name}").out for name in menus]
        return self.brings.difference(re.findall(r"^(?:menu)?config\s+(\w+)", "\n".join(texts), re.MULTILINE))

    def options(self, flavour: str) -> str:
        """What a flavour asks for, as text."""
        return "\n".join(map(str, kconfig.flavour(self.paths.kconfig, flavour).options.values()))

    def log(self, name: str, output: str) -> None:
        """Keep what a tool printed last."""
        storage.write_whole(self.paths.logs / f"{name}.log", output)

    def version(self, *words: str) -> str:
        """What a tool says of its version."""
        key = " ".join(words)
        if key not in self._versions:
            finished = command.run(list(words))
            self._versions[key] = finished.out + finished.err
        return self._versions[key]


def _own_tree(base: Tree, own: Tree, end: str) -> None:
    """See that the checks' tree is there and has the series' commits."""
    if (own.path / ".git").exists() and own.repository.commit(end) is not None:
        return
    say("making the tree in which the patches are checked")
    shutil.rmtree(own.path, ignore_errors=True)
    with storage.whole_folder(own.path) as making:
        scratch = series.borrowing(base.repository, making, base.base)
        scratch.check("config", "gc.auto", "0")
        scratch.check("-c", "checkout.workers=0", "checkout", "--quiet", "--force", "--detach", base.base)
        if scratch.commit(end) is None:
            raise WorkspaceError(f"{base.path} has lost the series' commits: delete it, it is made again.")
