"""The promises of the interface contract, by id, and which of them the series already makes."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from workspace.errors import WorkspaceError

MARKERS = (
    "promise(*ids): the promises of vmtests/promises.toml that the test holds",
    "deadline(seconds): time for each phase of the test on the hardware; stretched for slower guests (10)",
    "option(*names): options of the kernel (CONFIG_NAME) that the test needs; it does not run where one is not set",
    "core: of each part of the contract the tests that take the least and check the most, for slow flavours (-m core)",
    "host: a test that runs on the host and drives a guest of its own",
)


@dataclass(frozen=True)
class Promise:
    """One promise: its id, what it says in a line, its section of the contract, whether the series makes it."""

    name: str
    says: str
    section: str
    made: bool
    option: str | None = None
    """What a kernel needs to have (CONFIG_NAME) for the promise to be tested there."""


@dataclass(frozen=True)
class Promises:
    """All of them."""

    by_id: dict[str, Promise]

    @classmethod
    def load(cls, path: Path) -> Promises:
        """Read ``promises.toml``; an entry that is not whole is an error."""
        try:
            table = tomllib.loads(path.read_text())
            return cls(
                {
                    name: Promise(
                        name, str(entry["says"]), str(entry["section"]), bool(entry["made"]), entry.get("option")
                    )
                    for name, entry in table.items()
                }
            )
        except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise WorkspaceError(f"{path} cannot be read ({error}): each id needs says, section and made.") from error

    def of(self, item: pytest.Item) -> list[str]:
        """The ids that a test names."""
        return [str(name) for marker in item.iter_markers("promise") for name in marker.args]

    def require_known(self, item: pytest.Item) -> None:
        """Fail a test that names a promise that is none."""
        wrong = [name for name in self.of(item) if name not in self.by_id]
        if wrong:
            pytest.fail(f"{item.nodeid} names promises that do not exist: {', '.join(wrong)}", pytrace=False)

    def unheld(self, held: Iterable[str], options: Container[str]) -> list[str]:
        """The promises that the series makes, that a kernel with ``options`` can show, and that are not in ``held``."""
        untested = self.untested(options)
        having = {*held, *(promise.name for promise in untested)}
        return [name for name, promise in self.by_id.items() if promise.made and name not in having]

    def untested(self, options: Container[str]) -> list[Promise]:
        """The promises that the series makes, and that need more than ``options`` to be tested."""
        return [
            promise
            for promise in self.by_id.values()
            if promise.made and promise.option is not None and promise.option not in options
        ]
