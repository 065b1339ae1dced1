"""Git, called in one place, deaf to the user's configuration and with the series' fixed identity."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from workspace import command

NAME = "task_diag series"
EMAIL = "task-diag@localhost"


def environment(**extra: str) -> dict[str, str]:
    """The environment of every git call: no configuration but the repository's, one identity, one clock."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **clean,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        # These two are read from the user's home even when there is no configuration.
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "core.attributesFile",
        "GIT_CONFIG_VALUE_0": os.devnull,
        "GIT_CONFIG_KEY_1": "core.excludesFile",
        "GIT_CONFIG_VALUE_1": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "false",
        "GIT_AUTHOR_NAME": NAME,
        "GIT_AUTHOR_EMAIL": EMAIL,
        "GIT_COMMITTER_NAME": NAME,
        "GIT_COMMITTER_EMAIL": EMAIL,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        **extra,
    }


@dataclass(frozen=True)
class Repository:
    """A git repository by its work tree (or bare folder)."""

    path: Path

    def run(self, *words: str | Path, stdin: str | None = None, **extra: str) -> command.Finished:
        """Run git and give how it ended; ``extra`` adds to the environment."""
        return command.run(["git", *words], cwd=self.path, env=environment(**extra), stdin=stdin)

    def check(self, *words: str | Path, stdin: str | None = None, hint: str = "", **extra: str) -> str:
        """Run git, which has to succeed; give its output without the last newline."""
        out = command.check(["git", *words], cwd=self.path, env=environment(**extra), stdin=stdin, hint=hint)
        return out.rstrip("\n")

    def commit(self, revision: str = "HEAD") -> str | None:
        """The full id of a commit, or None if there is no such revision."""
        finished = self.run("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        return finished.out.strip() if finished.code == 0 else None
