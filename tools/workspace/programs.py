"""The programs of vmtests/programs/ that the tools run, too."""

from __future__ import annotations

from pathlib import Path

from workspace import command

SOURCES = Path(__file__).resolve().parents[2] / "vmtests" / "programs"


def compiled(name: str, folder: Path, *, headers: Path | None = None) -> Path:
    """Compile ``name``.c into ``folder``, with a kernel's ``headers`` before the system's; return the program."""
    program = folder / name
    own = [f"-isystem{headers}"] if headers is not None else []
    command.check(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", *own, "-o", program, SOURCES / f"{name}.c"])
    return program
