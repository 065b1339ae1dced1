"""Compile the files of a patch by themselves: other warnings, other compilers, other architectures, other readers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from workspace import check_warnings, command, kconfig, storage, system
from workspace.check_bench import Bench, Check, Patch, Verdict, definition
from workspace.check_warnings import Report
from workspace.errors import WorkspaceError
from workspace.kbuild import Kbuild
from workspace.kconfig import Option
from workspace.system import Need

_PLAIN = re.compile(r"y|n|-?\d+|0x[0-9a-fA-F]+")
_MINUTE = 60.0
# What make says, and no more, when it goes on without the checker.
_WITHOUT = re.compile(r"C=\d specified, but .* is not available or not up to date")
_SHOWN = 40  # lines of the tool; more would hide the first


@dataclass(frozen=True)
class Toolchain:
    """How make is told of a compiler, the architecture that it compiles for, and the folder for its objects."""

    folder: str
    words: tuple[str, ...]
    srcarch: str = "x86"
    small: bool = False
    """With a configuration of a few options, instead of the default flavour's, which is made for one machine."""


GCC = Toolchain("gcc", ("CC=ccache gcc",))


class Objects(Check):
    """Compile the files of a patch; what is reported and was not reported of the parent is the patch's."""

    def __init__(
        self,
        name: str,
        says: str,
        toolchain: Toolchain,
        *words: str,
        versions: Iterable[str] = (),
        needs: tuple[Need, ...] = (),
        fast: bool = False,
        strict: bool = False,
        any_text: bool = False,
        touched: bool = False,
    ) -> None:
        """``words`` go to make; ``strict``: what the parent has counts, too; ``any_text``: see parse().

        ``touched``: of the files that there are to compile, those only that the patch changes itself.
        """
        self.name, self.says, self.fast, self.needs = name, says, fast, needs
        self._given, self._words, self._versions = toolchain, words, tuple(versions)
        self._strict, self._any_text, self._touched = strict, any_text, touched

    @property
    def toolchain(self) -> Toolchain:
        """The compiler."""
        return self._given

    def idle(self, bench: Bench, patch: Patch) -> str | None:
        """Some patches have nothing to compile."""
        return None if self._files(bench, patch) else "no C file to compile"

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """The sources before and after, the configuration, and the tools."""
        return (
            bench.content(patch.commit),
            bench.content(patch.parent),
            *self._files(bench, patch),
            *self._conditions(bench),
        )

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        files = self._files(bench, patch)
        found = self._reports(bench, patch.commit, files)
        before: list[Report] = []
        if found and not self._strict:
            # Only then is the parent asked: going back costs a checkout, and compiling twice.
            there = tuple(name for name in files if bench.exists(patch.parent, name))
            before = self._reports(bench, patch.parent, there) if there else []
        added = check_warnings.new(found, before)
        note = f"{len(found) - len(added)} reports that the parent has, too" if len(found) > len(added) else ""
        return Verdict(not added, tuple(line for report in added for line in report.lines)[:_SHOWN], note)

    def _files(self, bench: Bench, patch: Patch) -> tuple[str, ...]:
        files = bench.files(patch, self.toolchain.srcarch)
        return tuple(name for name in files if name in patch.touched) if self._touched else files

    def _conditions(self, bench: Bench) -> tuple[str, ...]:
        versions = (bench.version(*program.split()) for program in self._versions)
        asked = "\n".join(f"{option}" for option in _options(bench, self.toolchain).values())
        return (asked, *self.toolchain.words, *self._words, *versions)

    def _reports(self, bench: Bench, commit: str, files: tuple[str, ...]) -> list[Report]:
        key = storage.digest(definition(self), bench.content(commit), *files, *self._conditions(bench))
        known = bench.memory.get("reports", key)
        if known is not None:
            return [Report(one["path"], one["says"], tuple(one["lines"])) for one in known]
        bench.at(commit)
        kbuild = _configured(bench, self.toolchain, commit)
        objects = [f"{name.removesuffix('.c')}.o" for name in files]
        for name in objects:
            # What is compiled already would be told of no more.
            (kbuild.objects / name).unlink(missing_ok=True)
        words = kbuild.at_once("-s", "-k")
        before = (word for word in self._words if not word.startswith(("C=", "CHECK=")))
        finished = command.run([*words, *before, "prepare"], env=kbuild.environment(), timeout=30 * _MINUTE)
        if finished.code == 0:
            # In a call of its own, so that a checker (C=1) looks at nothing but these.
            finished = command.run([*words, *self._words, *objects], env=kbuild.environment(), timeout=30 * _MINUTE)
        output = finished.out + finished.err
        bench.log(self.name, output)
        if said := _WITHOUT.search(output):
            raise WorkspaceError(f"nothing was checked: make said `{said[0]}`; install a newer one.")
        found = check_warnings.parse(output, source=str(kbuild.source), any_text=self._any_text)
        found.sort(key=lambda report: report.path)
        if finished.code != 0 and not any(re.search(r"\berror: ", report.lines[0]) for report in found):
            last = tuple(line for line in output.splitlines() if line.strip())[-12:]
            # A failure that nobody explained is nobody's but this commit's, each time.
            raise WorkspaceError("\n".join([f"make {' '.join(objects)} failed without saying where:", *last]))
        bench.memory.put("reports", key, [asdict(report) for report in found])
        return found


class Clang(Objects):
    """The same by the newest LLVM of the machine, which is looked for when it is needed: it may be installed first."""

    @property
    def toolchain(self) -> Toolchain:
        """The compiler."""
        llvm = system.llvm()
        if llvm is None:
            raise WorkspaceError("clang is gone: install it again.")
        suffix = llvm if llvm.startswith("-") else ""
        return Toolchain("clang", (f"LLVM={llvm}", f"CC=ccache clang{suffix}"))

    def _conditions(self, bench: Bench) -> tuple[str, ...]:
        compiler = self.toolchain.words[1].split()[1]
        return (*super()._conditions(bench), bench.version(compiler, "--version"))


def _options(bench: Bench, toolchain: Toolchain) -> dict[str, Option]:
    folder = bench.paths.kconfig
    if not toolchain.small:
        # With the security modules, which have files of the series, too.
        return dict(kconfig.flavour(folder, "default").options)
    fragments = (folder / "small.config", folder / "labels.config", folder / "task_diag.config")
    return {option.name: option for path in fragments for option in kconfig.read_fragment(path)}


def _configured(bench: Bench, toolchain: Toolchain, commit: str) -> Kbuild:
    """The objects' folder of a toolchain, with what its options ask for, everything else being no."""
    objects = bench.paths.kernels / bench.tree.key / f"objects-{toolchain.folder}"
    kbuild = Kbuild.cached(bench.paths, bench.tree.path, objects, *toolchain.words)
    unknown = bench.unknown(commit)
    wanted = {name: option for name, option in _options(bench, toolchain).items() if name not in unknown}
    lines = {name: option.line(text=not _PLAIN.fullmatch(option.value)) for name, option in wanted.items()}
    config = kconfig.allnoconfig(kbuild, lines.values())
    # An option that is gone would leave out code that is to be checked.
    there = set(config.splitlines())
    gone = [option for name, option in wanted.items() if option.value != "n" and lines[name] not in there]
    if gone:
        listed = ", ".join(f"{option.place}: {option}" for option in gone[:8])
        raise WorkspaceError(f"options that {toolchain.folder} cannot have: {listed}.")
    # Only a .config that differs is written: make would go through everything again.
    storage.write_whole(objects / ".config", config)
    return kbuild


def _cross(name: str, srcarch: str, compiler: str, needs: tuple[Need, ...]) -> Objects:
    arch = {"i386": "i386", "s390x": "s390"}.get(name, name)
    words = [f"ARCH={arch}", f"CC=ccache {compiler}gcc"] + ([f"CROSS_COMPILE={compiler}"] if compiler else [])
    return Objects(
        name,
        f"the patch's files compile for {name}, TASK_DIAG=y, without a new warning",
        Toolchain(name, tuple(words), srcarch, small=True),
        versions=(f"{compiler}gcc --version",),
        needs=needs,
    )


WARNINGS = Objects(
    "warnings",
    "the patch's files compile with W=1 without a warning",
    GCC,
    "W=1",
    versions=("gcc --version",),
    fast=True,
    strict=True,
)
SPARSE = Objects(
    "sparse",
    "sparse (C=1) reports nothing new of the patch's files",
    GCC,
    "C=1",
    # Sparse 0.6.4, which distributions have, does not know this word of C23, and make would do without sparse.
    "CHECK=sparse -D__typeof_unqual__=__typeof__",
    versions=("gcc --version", "sparse --version"),
    needs=system.FOR_CHECKS["sparse"],
    fast=True,
)
CLANG = Clang(
    "clang",
    "the patch's files compile with clang and W=1 without a new warning",
    GCC,
    "W=1",
    needs=system.FOR_CHECKS["clang"],
)
CROSS = (
    _cross("i386", "x86", "", ()),
    _cross("arm64", "arm64", "aarch64-linux-gnu-", system.FOR_CHECKS["arm64"]),
    _cross("s390x", "s390", "s390x-linux-gnu-", system.FOR_CHECKS["s390x"]),
)
# The kernel's own semantic patches, run as its make does for single files.
COCCINELLE = Objects(
    "coccinelle",
    "scripts/coccinelle/ reports nothing new of the patch's files",
    GCC,
    "C=1",
    "CHECK=$(srctree)/scripts/coccicheck",
    "MODE=report",
    "DEBUG_FILE=/dev/null",
    versions=("gcc --version", "spatch --version"),
    needs=system.FOR_CHECKS["coccinelle"],
    any_text=True,
    # It goes by a file's own text, and takes half a minute for each.
    touched=True,
)
