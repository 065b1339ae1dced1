"""Whole kernels of each patch: they build, they boot, and without the option nothing changes."""

from __future__ import annotations

import difflib
import hashlib
import re
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from workspace import command, guest_command, kconfig, kernel, storage
from workspace.check_bench import Bench, Check, Patch, Verdict, definition
from workspace.errors import WorkspaceError
from workspace.kbuild import Kbuild
from workspace.kernel import BuildError, Kernel

# tools/ and scripts/ are programs of the host; what boots the kernel wraps its image, and so follows from the rest.
_NO_KERNEL = re.compile(r"(tools|scripts|arch/[^/]+/boot)/")
_SOURCE = re.compile(r"^source_(\S+) := (\S+)$", re.MULTILINE)
# These hold the names of all options, set or not, so that a new option changes them: CONFIG_IKCONFIG.
_HOLDS_CONFIG = frozenset({"kernel/configs.o"})
_VMTESTS = Path(__file__).resolve().parents[2] / "vmtests"
_LONG = 1000  # characters of a line that differs


def _built(bench: Bench, flavour: str, commit: str) -> Kernel:
    bench.at(commit)
    return kernel.build(bench.paths, bench.tree, flavour, commit=commit, without=bench.unknown(commit))


def _tools(bench: Bench) -> tuple[str, ...]:
    return tuple(bench.version(name, "--version") for name in ("gcc", "ld", "make"))


class Builds(Check):
    """A flavour's kernel, built on the objects of the last patch's."""

    def __init__(self, flavour: str) -> None:
        self.name, self.flavour = flavour, flavour
        self.says = f"the kernel of flavour {flavour} builds"

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """The source, the options and the tools."""
        return (bench.content(patch.commit), bench.options(self.flavour), *_tools(bench))

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        try:
            built = _built(bench, self.flavour, patch.commit)
        except BuildError as error:
            return Verdict(False, tuple(str(error).splitlines()))
        return Verdict(True, note=f"build id {built.build_id}")


class Boots(Check):
    """The default flavour's kernel, booted to its user space."""

    name = "boots"
    says = "the kernel of flavour default gets to user space, and runs a program"
    lasting = False

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """As for building, and what it is booted on."""
        return (
            bench.content(patch.commit),
            bench.options("default"),
            *_tools(bench),
            bench.version("qemu-system-x86_64", "--version"),
            str(bench.accelerator),
        )

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        try:
            built = _built(bench, "default", patch.commit)
        except BuildError:
            return Verdict(False, ("there is no kernel to boot: it does not build.",))
        words = ["sh", "-c", "cat /proc/sys/kernel/osrelease && cat /proc/self/comm"]
        code, told = guest_command.output_of(built, words, paths=bench.paths, wanted=bench.accelerator)
        good = code == 0 and told.splitlines()[:1] == [built.release]
        return Verdict(good, () if good else (f"exit code {code}, and it said:", *told.splitlines()))


class SameFiles(Check):
    """What ``/proc/PID/*`` says, before and after a patch that changes its code.

    The same processes are made in a guest of each kernel, by vmtests/scripted.py, without address space randomization.
    """

    name = "files"
    says = "/proc/PID/{stat,statm,status,cmdline} say the same of the same processes as on the parent's kernel"
    lasting = False

    def idle(self, bench: Bench, patch: Patch) -> str | None:
        """Most patches change none of the code that was there."""
        code = (name for name in patch.touched if name.startswith("fs/proc/") and name.endswith(".c"))
        changes = any(bench.exists(bench.tree.base, name) for name in code)
        return None if changes else "it changes no file of fs/proc/ that the base has"

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """Both sources, what they are built and booted with, and what makes the processes."""
        return (bench.content(patch.parent), *self._depends_on(bench, patch.commit))

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        try:
            before, after = (self._told(bench, commit) for commit in (patch.parent, patch.commit))
        except BuildError:
            return Verdict(False, ("there is no kernel to ask: it does not build.",))
        changes = difflib.unified_diff(before, after, "before", "after", n=0, lineterm="")
        lines = [line[:_LONG] for line in changes]
        return Verdict(not lines, tuple(lines), note=f"{len(after)} lines")

    def _depends_on(self, bench: Bench, commit: str) -> tuple[str, ...]:
        code = (path.read_text() for path in sorted(_VMTESTS.glob("*.py")))
        return (
            bench.content(commit),
            bench.options("default"),
            *_tools(bench),
            bench.version("qemu-system-x86_64", "--version"),
            str(bench.accelerator),
            storage.digest(*code),
        )

    def _told(self, bench: Bench, commit: str) -> list[str]:
        key = storage.digest(definition(self), *self._depends_on(bench, commit))
        known: list[str] | None = bench.memory.get("told", key)
        if known is None:
            # The same environment everywhere, since addresses are told, too; titles are written over the end of it.
            room = {
                "PYTHONPATH": str(_VMTESTS.parent),
                "PYTHONHASHSEED": "0",
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "TITLES": "x" * 500,
            }
            words = ["env", "-i", *(f"{name}={value}" for name, value in room.items()), "setarch", "-R"]
            built = _built(bench, "default", commit)
            code, told = guest_command.output_of(
                built,
                [*words, sys.executable, "-m", "vmtests.scripted"],
                paths=bench.paths,
                wanted=bench.accelerator,
            )
            known = told.splitlines()
            if code != 0:
                raise WorkspaceError(f"vmtests/scripted.py ended with exit code {code} in the guest: {known[-1:]}")
            bench.memory.put("told", key, known)
        return known


class AllNo(Check):
    """The smallest kernel there is: of what depends on much, all is missing."""

    name = "allnoconfig"
    says = "the kernel of `make allnoconfig` builds"

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """The source and the tools."""
        return (bench.content(patch.commit), *_tools(bench))

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        bench.at(patch.commit)
        kbuild = Kbuild.cached(bench.paths, bench.tree.path, kernel.folder(bench.paths, bench.tree, "allnoconfig"))
        storage.write_whole(kbuild.objects / ".config", kconfig.allnoconfig(kbuild))
        log = bench.paths.logs / "build-allnoconfig.log"
        errors = kernel.Failures(f"{kbuild.source}/", "")
        finished = command.follow(
            kbuild.at_once("vmlinux"),
            log=log,
            env=kbuild.environment(),
            on_line=errors.see,
        )
        if finished.code != 0:
            return Verdict(False, (f"it does not build; whole log: {log}", *errors.shown(finished.out)))
        return Verdict(True)


class Unchanged(Check):
    """The off flavour's objects before and after a patch, byte by byte.

    A patch may change the objects of the .c files that it changes, which it is to give a reason for; others, that
    is by way of a header or an option, not at all. So a kernel without TASK_DIAG is the base's, but for the files
    that patches which prepare it touch.
    """

    name = "unchanged"
    says = "without TASK_DIAG the patch changes no object but those of .c files that it changes"

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """Both sources, the options and the tools."""
        return (bench.content(patch.parent), bench.content(patch.commit), bench.options("off"), *_tools(bench))

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        try:
            before, after = (self._objects(bench, commit) for commit in (patch.parent, patch.commit))
        except BuildError as error:
            return Verdict(False, tuple(str(error).splitlines()))
        own, other = differing(before, after, patch.touched)
        lines = [f"{name} {how}, and the patch does not touch its source" for name, how in other.items()]
        return Verdict(not other, tuple(lines), note=", ".join(f"{name} {how}" for name, how in own.items()))

    def _objects(self, bench: Bench, commit: str) -> dict[str, list[str]]:
        key = storage.digest(definition(self), bench.content(commit), bench.options("off"), *_tools(bench))
        known: dict[str, list[str]] | None = bench.memory.get("objects", key)
        if known is None:
            folder = _built(bench, "off", commit).folder
            known = compiled(folder, bench.tree.path)
            bench.memory.put("objects", key, known)
        return known


def compiled(folder: Path, source: Path) -> dict[str, list[str]]:
    """The objects that are made of one source of the tree: name, then source and a digest of the content."""
    found = {}
    for command_file in folder.rglob(".*.o.cmd"):
        made_of = _SOURCE.search(command_file.read_text(errors="replace"))
        # What is linked of several objects has no source of its own.
        if made_of is None or _NO_KERNEL.match(made_of[1]):
            continue
        path = folder / made_of[1]
        if path.is_file():
            real = (folder / made_of[2]).resolve()
            name = str(real.relative_to(source)) if real.is_relative_to(source) else made_of[2]
            found[made_of[1]] = [name, hashlib.sha256(without_lines(path.read_bytes())).hexdigest()]
    return found


def without_lines(content: bytes) -> bytes:
    """An object of x86-64 without the numbers of the lines that its BUG() and WARN() stand in.

    A header that gets longer moves those in its inline functions, for whoever includes it. They are in the section
    __bug_table, in struct bug_entry (asm/bug.h): places, whose bytes the linker writes, then 16 bits each of line
    and flags.
    """
    if not content.startswith(b"\x7fELF\x02\x01") or b"__bug_table\0" not in content:
        return content
    (headers,) = struct.unpack_from("<Q", content, 40)
    size, count, of_names = struct.unpack_from("<3H", content, 58)
    # Elf64_Shdr: sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size.
    sections = [struct.unpack_from("<2I4Q", content, headers + number * size) for number in range(count)]
    names = sections[of_names][4]
    blank = bytearray(content)
    for name, _, _, _, start, length in sections:
        if content.startswith(b"__bug_table\0", names + name):
            for place in range(start, start + length, 4):
                blank[place : place + 2] = bytes(2)
    return bytes(blank)


def differing(
    before: Mapping[str, list[str]], after: Mapping[str, list[str]], touched: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The objects that differ: those of sources that a patch touches (or that hold the options), and the others."""
    changed = set(touched)
    own, other = {}, {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        how = "is new" if old is None else "is gone" if new is None else "differs"
        source = (new or old or [""])[0]
        if name in _HOLDS_CONFIG and old and new:
            own[name] = f"{how} (it holds the list of all options)"
        elif source in changed and old and new:
            own[name] = how
        else:
            other[name] = how
    return own, other


CHECKS: tuple[Check, ...] = (Builds("default"), Boots(), SameFiles(), Unchanged(), Builds("off"), AllNo())
