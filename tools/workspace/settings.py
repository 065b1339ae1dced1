"""Where things are, and the facts of ``[tool.workspace]`` in pyproject.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Paths:
    """The rooms of one clone; every path below ``build`` may be deleted at any time."""

    root: Path = ROOT

    @property
    def patches(self) -> Path:
        """The series, as ``git format-patch`` wrote it."""
        return self.root / "patches"

    @property
    def kconfig(self) -> Path:
        """Config fragments and the flavours made of them."""
        return self.root / "kconfig"

    @property
    def vmtests(self) -> Path:
        """The tests that run inside the guest."""
        return self.root / "vmtests"

    @property
    def worktree(self) -> Path:
        """The developer's worktree (``nox -s edit``); outside ``build``, because it holds work."""
        return self.root / "linux"

    @property
    def build(self) -> Path:
        """Everything that can be made again."""
        return self.root / "build"

    @property
    def downloads(self) -> Path:
        """Tarballs and packages, verified."""
        return self.build / "downloads"

    @property
    def trees(self) -> Path:
        """Git repositories of the base trees, one folder each."""
        return self.build / "trees"

    @property
    def kernels(self) -> Path:
        """Object folders: ``kernels/TREE/FLAVOUR``."""
        return self.build / "kernels"

    @property
    def checks(self) -> Path:
        """The checks' own trees and objects, and what they found."""
        return self.build / "checks"

    @property
    def logs(self) -> Path:
        """Output of builds and downloads."""
        return self.build / "logs"

    @property
    def guests(self) -> Path:
        """State of running guests, to find and end what a killed run left."""
        return self.build / "guests"

    @property
    def journals(self) -> Path:
        """What runs have found so far, for ``--resume``: one file for each command and flavour."""
        return self.build / "journals"

    @property
    def results(self) -> Path:
        """What a run leaves for a reader: junit.xml, results.json, consoles, configs."""
        return self.build / "results"


@dataclass(frozen=True)
class Settings:
    """``[tool.workspace]``, typed."""

    base: str
    sources: tuple[str, ...]
    kernel_org_url: str
    debian_suites: tuple[str, ...]
    subject_prefix: str

    @classmethod
    def load(cls, root: Path = ROOT) -> Settings:
        """Read ``pyproject.toml`` of the clone at ``root``."""
        table = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["workspace"]
        return cls(
            base=table["base"],
            sources=tuple(table["sources"]),
            kernel_org_url=table["kernel-org"]["url"],
            debian_suites=tuple(table["debian"]["suites"]),
            subject_prefix=table["series"]["subject-prefix"],
        )
