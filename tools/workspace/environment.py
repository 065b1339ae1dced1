"""The one Python environment of a clone: ``build/venv``, made from the lock, with every hash checked.

Standard library only: this is what makes the environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from workspace import system
from workspace.errors import WorkspaceError
from workspace.settings import Paths


def ensure(paths: Paths | None = None) -> Path:
    """See that system packages and locked dependencies are there; give the environment's Python."""
    paths = paths or Paths()
    folder, lock = paths.build / "venv", paths.root / "tools" / "requirements.lock"
    python, stamp = folder / "bin" / "python", folder / "stamp"
    # Which interpreter made it is part of the stamp: an upgrade of the system's Python breaks an environment.
    made_of = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {sys.version} {Path(sys.base_prefix)} {folder}\n"
    system.ensure()
    paths.build.mkdir(parents=True, exist_ok=True)
    with (paths.build / "venv.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != made_of:
            if Path(sys.prefix) == folder:
                raise WorkspaceError("the locked dependencies have changed: start with tools/nox.")
            _make(folder, python, lock)
            stamp.write_text(made_of)
    return python


def _make(folder: Path, python: Path, lock: Path) -> None:
    print("Making the Python environment from tools/requirements.lock.", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    # The base interpreter: an environment made from within another one would lean on it.
    base = getattr(sys, "_base_executable", None) or sys.executable
    for words in (
        [base, "-m", "venv", str(folder)],
        [
            *(str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"),
            *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--requirement", str(lock)),
        ],
    ):
        finished = subprocess.run(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if finished.returncode != 0:
            reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WorkspaceError(
                f"the Python environment could not be made: {reason}; it needs a package index, "
                "python3-venv and room under build/: mend that and run the same command again."
            )
