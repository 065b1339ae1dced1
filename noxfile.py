"""The sessions. Each is a few lines that call tools/; `-- --help` tells what one takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from workspace import environment  # noqa: E402

nox.options.default_venv_backend = "none"
nox.options.error_on_missing_interpreters = True


def python(session: nox.Session, *words: str) -> None:
    """Run the clone's locked Python, whichever nox this is."""
    session.run(str(environment.ensure()), *words, external=True, env={"PYTHONPATH": str(ROOT / "tools")})


def become(*words: str) -> None:
    """As python(), but in nox's place: nox ends with 0 or 1, whatever a program's exit code is."""
    path = str(environment.ensure())
    sys.stdout.flush()
    os.execve(path, [path, *words], {**os.environ, "PYTHONPATH": str(ROOT / "tools")})


@nox.session
def build(session: nox.Session) -> None:
    """Get the tree, apply the series, configure and build: [--flavour NAME] [--tree PATH] [--worktree]."""
    python(session, "-m", "workspace", "build", *session.posargs)


@nox.session
def vmtest(session: nox.Session) -> None:
    """Boot the kernel and run vmtests/ in it: build's options, [--accel kvm|tcg] [-n N] [--resume] and pytest's own."""
    python(session, "-m", "workspace", "vmtest", *session.posargs)


@nox.session(default=False)
def check(session: nox.Session) -> None:
    """Check each patch: style, warnings, compilers, builds, boots: [--only NAME,..] [--fast] [--worktree]."""
    python(session, "-m", "workspace", "check", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Test the tools on the host: no kernel, seconds. Takes pytest's options."""
    python(session, "-m", "pytest", "-n", "auto", "tests", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the Python: ruff and mypy --strict."""
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    python(session, "-m", "mypy")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure /proc/task-diag in a guest against other ways: build's options, [--quick] [--tasks N] [--rounds N]."""
    python(session, "-m", "workspace", "bench", *session.posargs)


@nox.session(default=False)
def mutants(session: nox.Session) -> None:
    """Switch defects on, one at a time, and see that the vmtests notice: [--only NAME,..] [--each-section] [-n N]."""
    python(session, "-m", "workspace", "mutants", *session.posargs)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """See which lines and branches of task_diag the vmtests reach: [-n N] [--worktree] [--tree PATH] [--accel]."""
    python(session, "-m", "workspace", "coverage", *session.posargs)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Build, boot, and print the guest's tasks as ps does, by /proc/task-diag. Takes build's options and --accel."""
    python(session, "-m", "workspace", "demo", *session.posargs)


@nox.session(default=False)
def run(session: nox.Session) -> None:
    """Build, boot, and run a command in the guest; the last session: [build's options] [--accel] COMMAND ..."""
    become("-m", "workspace", "run", *session.posargs)


@nox.session(default=False)
def shell(session: nox.Session) -> None:
    """Open an interactive shell in the patched kernel. Takes build's options and --accel."""
    python(session, "-m", "workspace", "shell", *session.posargs)


@nox.session(default=False)
def edit(session: nox.Session) -> None:
    """Give a git worktree, linux/, with the series as commits on its base: [--tree PATH] [--mutants]."""
    python(session, "-m", "workspace", "edit", *session.posargs)


@nox.session(default=False)
def export(session: nox.Session) -> None:
    """Write the worktree's commits back to patches/."""
    python(session, "-m", "workspace", "export", *session.posargs)
