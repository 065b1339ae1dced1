"""What can be said of a patch file, and of the headers that it gives to user space, without building a kernel."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from workspace import check_files, command, storage
from workspace.check_bench import Bench, Check, Patch, Verdict
from workspace.errors import WorkspaceError
from workspace.git import environment
from workspace.kbuild import Kbuild

# The series is signed when it is sent, and not before.
IGNORED = ("MISSING_SIGN_OFF", "NO_AUTHOR_SIGN_OFF")
_TOTAL = re.compile(r"^total: (\d+) errors, (\d+) warnings, (\d+) checks, \d+ lines checked$", re.MULTILINE)


class Style(Check):
    """The kernel's checkpatch, in its strictest mode."""

    name = "style"
    says = f"checkpatch --strict has nothing to say ({', '.join(IGNORED)} are put on when the series is sent)"
    fast = True

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """The patch with its message; what it refers to in the tree."""
        return (storage.digest(patch.file), bench.content(patch.commit), bench.tree.base)

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        bench.at(patch.commit)
        script = bench.tree.path / "scripts/checkpatch.pl"
        words: list[str | Path] = ["perl", script, "--strict", "--show-types", "--color=never"]
        with tempfile.TemporaryDirectory() as home:
            # A user's own .checkpatch.conf is read from the home.
            finished = command.run(
                [*words, "--ignore", ",".join(IGNORED), patch.file], cwd=bench.tree.path, env=environment(HOME=home)
            )
        bench.log(self.name, finished.out + finished.err)
        total = _TOTAL.search(finished.out)
        if total is None:
            raise WorkspaceError(f"checkpatch.pl did not get to its end: {finished.out}{finished.err}")
        if finished.code == 0 and not any(map(int, total.groups())):
            return Verdict(True)
        lines = finished.out[: total.end()].splitlines()
        return Verdict(False, tuple(line for line in lines if line.strip()))


class Uapi(Check):
    """The tree's own test of its headers for user space (usr/include/Makefile), in two languages and two sizes."""

    name = "uapi"
    says = "headers for user space install, and compile by themselves without a libc: C90 and C++98, 64 and 32 bits"
    fast = True
    languages = (
        ("c", ("-std=c90", "-Wmissing-prototypes", "-Wstrict-prototypes", "-Werror=implicit-function-declaration")),
        ("c++", ("-std=c++98",)),
    )

    def _headers(self, bench: Bench, patch: Patch) -> tuple[str, ...]:
        return check_files.uapi_headers(patch.touched, exists=lambda name: bench.exists(patch.commit, name))

    def idle(self, bench: Bench, patch: Patch) -> str | None:
        """Most patches change no such header."""
        return None if self._headers(bench, patch) else "no header in include/uapi"

    def inputs(self, bench: Bench, patch: Patch) -> Iterable[str]:
        """The sources and the compiler."""
        return (bench.content(patch.commit), bench.version("gcc", "--version"))

    def run(self, bench: Bench, patch: Patch) -> Verdict:
        """The answer."""
        bench.at(patch.commit)
        objects = bench.paths.kernels / bench.tree.key / "headers"
        kbuild = Kbuild.cached(bench.paths, bench.tree.path, objects)
        objects.mkdir(parents=True, exist_ok=True)
        installed = objects / "usr/include"
        made = command.run(kbuild.at_once("-s", "headers"), env=kbuild.environment())
        bench.log(self.name, made.out + made.err)
        if made.code != 0:
            return Verdict(False, tuple((made.out + made.err).splitlines()[-12:]))
        lines: list[str] = []
        for header in self._headers(bench, patch):
            if not (installed / header).is_file():
                lines.append(f"make headers does not install {header}.")
                continue
            lines += self._compiled(kbuild, header)
            script = bench.tree.path / "usr/include/headers_check.pl"
            checked = command.run(["perl", script, installed, installed / header], env=kbuild.environment())
            if checked.code != 0:
                lines += (checked.out + checked.err).splitlines()
        return Verdict(not lines, tuple(lines))

    def _compiled(self, kbuild: Kbuild, header: str) -> list[str]:
        lines = []
        # Included twice, because its guard may be missing.
        for language, options in self.languages:
            for size in ("-m64", "-m32"):
                words = ["gcc", "-fsyntax-only", "-Wall", "-Werror", size, *options, "-nostdinc", "-ffreestanding"]
                words += ["-I", f"{kbuild.objects}/usr/include", "-x", language, os.devnull]
                finished = command.run([*words, "-include", header, "-include", header], env=kbuild.environment())
                if finished.code != 0:
                    lines += [f"{header} as {language} with {size}:", *finished.err.splitlines()]
        return lines


CHECKS: tuple[Check, ...] = (Style(), Uapi())
