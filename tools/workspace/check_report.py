"""The table of patches by check, and build/results/check.json."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from workspace import storage

Outcome = Literal["passed", "failed", "idle", "not run"]
_SHOWN_AS: dict[Outcome, str] = {"passed": "ok", "failed": "FAILED", "idle": "-", "not run": "?"}


@dataclass(frozen=True)
class Cell:
    """One check of one patch."""

    check: str
    patch: int
    outcome: Outcome
    seconds: float = 0.0
    remembered: bool = False
    lines: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Table:
    """The results of a run, as they come in."""

    checks: Mapping[str, str]
    """What each asks, by name, in the order in which they are shown."""
    patches: Sequence[str]
    """The files of the series."""
    facts: Mapping[str, str]
    cells: list[Cell] = field(default_factory=list)
    started: str = field(default_factory=lambda: _now())

    @property
    def failed(self) -> list[Cell]:
        """What failed."""
        return [cell for cell in self.cells if cell.outcome == "failed"]

    @property
    def code(self) -> int:
        """The exit code: all there is to check was, and passed."""
        return int(any(cell.outcome in ("failed", "not run") for cell in self.cells))

    def text(self) -> str:
        """The table, the patches that its columns are, and the lines of what failed."""
        width = max(map(len, ["check", *self.checks]))
        numbers = range(1, len(self.patches) + 1)
        by_place = {(cell.check, cell.patch): cell for cell in self.cells}
        rows = [f"{'check':{width}}" + "".join(f"{number:>8}" for number in numbers) + f"{'seconds':>10}"]
        for name in self.checks:
            row = [by_place.get((name, number)) for number in numbers]
            shown = "".join(f"{_SHOWN_AS[cell.outcome] if cell else '?':>8}" for cell in row)
            done = [cell for cell in row if cell and cell.outcome in ("passed", "failed")]
            spent = f"{sum(cell.seconds for cell in done if not cell.remembered):10.1f}"
            old = sum(cell.remembered for cell in done)
            how_old = "" if not old else "  known" if old == len(done) else f"  {old} of {len(done)} known"
            rows.append(f"{name:{width}}{shown}{spent}{how_old}")
        rows += ["", *(f"{number:>4}  {name}" for number, name in enumerate(self.patches, 1))]
        for cell in sorted(self.failed, key=lambda cell: cell.patch):
            rows += [
                "",
                f"{cell.check} FAILED on {self.patches[cell.patch - 1]}: not true that {self.checks[cell.check]}",
            ]
            rows += [f"    {line}" for line in cell.lines]
        return "\n".join(rows) + "\n"

    def write(self, path: Path) -> None:
        """Write all of it, in one step."""
        order = list(self.checks)
        data = {
            **self.facts,
            "started": self.started,
            "finished": _now(),
            "exit_code": self.code,
            "checks": dict(self.checks),
            "patches": list(self.patches),
            "results": [
                {
                    "check": cell.check,
                    "patch": self.patches[cell.patch - 1],
                    "outcome": cell.outcome,
                    "seconds": round(cell.seconds, 2),
                    "remembered": cell.remembered,
                    **({"lines": list(cell.lines)} if cell.lines else {}),
                    **({"note": cell.note} if cell.note else {}),
                }
                for cell in sorted(self.cells, key=lambda cell: (order.index(cell.check), cell.patch))
            ],
        }
        storage.write_whole(path, json.dumps(data, indent=1) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
