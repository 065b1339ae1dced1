"""The kernel's own make, called in one way, so that every call sees the same settings."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workspace import command
from workspace.errors import WorkspaceError
from workspace.settings import Paths

# What a build may see of the user's environment. ARCH, LLVM, KCFLAGS, LOCALVERSION and many more
# would change the kernel behind our back.
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")

# The same sources and options make the same kernel, whoever builds it and when; a defined, empty
# LOCALVERSION also keeps scripts/setlocalversion from asking git.
_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "task-diag",
    "KBUILD_BUILD_HOST": "localhost",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "",
}

# A goal named ...config is one for which the top Makefile reads no .config, as for its own.
_PRINT_ENVIRONMENT = """\
ifeq ($(sub_make_done),1)
print-environment-config: ; @env -0
endif
"""
# Differs from one call to the next, and says nothing about the kernel.
_OF_THE_CALL = re.compile(r"MAKE(FILES|FLAGS|LEVEL|OVERRIDES)|MFLAGS|PWD|OLDPWD|SHLVL|_")


def _ccache(paths: Paths) -> dict[str, str]:
    """ccache's settings: the user's own where there are any; paths below the clone do not count for a hit."""
    own = {name: value for name, value in os.environ.items() if name.startswith("CCACHE_")}
    return {
        "CCACHE_DIR": str(paths.build / "ccache"),
        "CCACHE_BASEDIR": str(paths.root),
        "CCACHE_NOHASHDIR": "1",
        # The paths that BASEDIR makes relative are absolute again in what the compiler says.
        "CCACHE_ABSSTDERR": "1",
        **own,
    }


@dataclass(frozen=True)
class Kbuild:
    """The kernel of the tree ``source``, built in the folder ``objects``."""

    source: Path
    objects: Path
    extra: Mapping[str, str] = field(default_factory=dict)
    toolchain: tuple[str, ...] = ("CC=ccache gcc",)

    @classmethod
    def cached(cls, paths: Paths, source: Path, objects: Path, *toolchain: str) -> Kbuild:
        """With the clone's ccache; ``toolchain``: instead of gcc."""
        return cls(source, objects, _ccache(paths), toolchain or cls.toolchain)

    def __post_init__(self) -> None:
        for path in (self.source, self.objects):
            if not path.is_absolute() or any(letter.isspace() or letter == ":" for letter in str(path)):
                raise WorkspaceError(
                    f"the kernel's make cannot work in `{path}`: "
                    "keep the clone in a folder whose whole path has no space and no colon."
                )

    def words(self, *targets: str) -> list[str]:
        """The command that makes ``targets``."""
        return ["make", "-C", str(self.source), f"O={self.objects}", *self.toolchain, *targets]

    def at_once(self, *targets: str) -> list[str]:
        """The same, as many recipes at a time as there are processors for us."""
        # What a recipe prints stays together, so that the messages of two compilers never mix.
        return self.words(f"-j{len(os.sched_getaffinity(0))}", "--output-sync=target", *targets)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment that this command needs."""
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        return {**passed, "LANG": "C", **_REPRODUCIBLE, **self.extra, **more}

    def check(self, *targets: str, **more: str) -> str:
        """Make ``targets`` silently; they have to succeed."""
        self.objects.mkdir(parents=True, exist_ok=True)
        return command.check(self.words("-s", *targets), env=self.environment(**more))

    def exported(self) -> dict[str, str]:
        """What the top Makefile adds for the programs it starts, Kconfig's tool among them.

        It tells of the compiler too, and nothing of who builds, from where, or with which cache.
        """
        with tempfile.TemporaryDirectory() as folder:
            rules = Path(folder) / "environment.mk"
            rules.write_text(_PRINT_ENVIRONMENT)
            printed = self.check("print-environment-config", MAKEFILES=str(rules))
        given = self.environment()
        pairs = (entry.partition("=") for entry in printed.split("\0") if "=" in entry)
        return {
            name: value for name, _, value in pairs if given.get(name) != value and not _OF_THE_CALL.fullmatch(name)
        }
