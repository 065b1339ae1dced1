"""Small programs in C, for what Python is too slow for or cannot do; compiled in the guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent
BARE = ("-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector")


def compiled(name: str, folder: Path, *options: str) -> Path:
    """Compile ``name``.c into ``folder``; return the program. Warnings are errors."""
    program = folder / name
    words = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", str(program), f"{SOURCES / name}.c"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program.chmod(0o755)
    open_to_all(folder)
    return program


def open_to_all(folder: Path) -> None:
    """Let any user reach what is in ``folder``: the folders of a test are its own user's only."""
    folder.chmod(0o755)
    for above in folder.resolve().parents[:4]:
        if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
            above.chmod(0o755)
