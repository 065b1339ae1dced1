"""The mutants: defects of the series that are switched on one at a time, to see whether a test notices."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workspace.errors import WorkspaceError
from workspace.promises import Promises

PATCH = "mutants.patch"
TABLE = "mutants.toml"
NONE = "none"
"""What the switch is set to when no mutant is chosen."""

# A test that fails, or during which the kernel complains, has noticed a mutant. A guest that dies or stands still may
# have reasons of its own (the host has no memory left, or is slow), so that it counts only of a mutant that `ends` so.
_NOTICED = frozenset({"failed", "tainted"})
_ENDS = {"crash": frozenset({"crashed"}), "hang": frozenset({"hung", "timed out"})}


@dataclass(frozen=True)
class Mutant:
    """One defect: its name in the kernel, the promises that it breaks, what it is in a line."""

    name: str
    breaks: tuple[str, ...]
    says: str
    v4: int | None = None
    """The number of the defect of version 4 that it repeats."""
    last: bool = False
    """It leaves something behind in the kernel."""
    ends: str | None = None
    """How it ends a test that it does not just fail: "crash" or "hang"."""

    def killed_by(self, outcome: str) -> bool:
        """Whether a test that was not passed has noticed the mutant, by the ``outcome`` that results.py names."""
        return outcome in _NOTICED or outcome in _ENDS.get(self.ends or "", ())


def load(vmtests: Path, promises: Promises) -> dict[str, Mutant]:
    """The mutants of ``vmtests`` in the order of the table, those that come last at its end.

    Raises WorkspaceError if the table is not whole, names promises that the series does not make, or has other
    names than the patch.
    """
    path = vmtests / TABLE
    try:
        table = tomllib.loads(path.read_text())
        found = [_mutant(name, entry) for name, entry in table.items()]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise WorkspaceError(f"{path} cannot be read ({error}): each mutant needs breaks and says.") from error
    for mutant in found:
        wrong = [name for name in mutant.breaks if name not in promises.by_id or not promises.by_id[name].made]
        if wrong or not mutant.breaks:
            what = f"breaks {', '.join(wrong)}, which the series does not promise" if wrong else "breaks nothing"
            raise WorkspaceError(f"{path}: the mutant {mutant.name} {what}: name promises that are made.")
    switches = in_patch(vmtests / PATCH)
    names = {mutant.name for mutant in found}
    for more, fewer, here, there in ((names, switches, TABLE, PATCH), (switches, names, PATCH, TABLE)):
        if more - fewer:
            raise WorkspaceError(
                f"{here} has mutants that {there} has not: {', '.join(sorted(more - fewer))}; each needs both."
            )
    return {mutant.name: mutant for mutant in sorted(found, key=lambda mutant: mutant.last)}


def _mutant(name: str, entry: dict[str, object]) -> Mutant:
    unknown = entry.keys() - {"breaks", "says", "v4", "last", "ends"}
    if unknown:
        raise KeyError(f"{name} has a key {min(unknown)!r}")
    breaks, says, v4 = entry["breaks"], entry["says"], entry.get("v4")
    if not isinstance(breaks, list) or not isinstance(says, str) or not isinstance(v4, int | None):
        raise TypeError(f"{name} has a value of the wrong kind")
    ends = entry.get("ends")
    if ends is not None and ends not in _ENDS:
        raise KeyError(f"{name} ends with {ends!r}, which is none of {', '.join(_ENDS)}")
    return Mutant(name, tuple(map(str, breaks)), says, v4, bool(entry.get("last", False)), ends and str(ends))


def in_patch(path: Path) -> set[str]:
    """The names of the switches that the patch adds. Raises WorkspaceError if list and code differ."""
    try:
        added = "\n".join(line[1:] for line in path.read_text().splitlines() if re.match(r"\+(?!\+\+ )", line))
    except OSError as error:
        raise WorkspaceError(f"{path} cannot be read: {error.strerror}.") from error
    listed = re.findall(r"^\tM\((\w+)\)", added, re.MULTILINE)
    used = set(re.findall(r"\bMUTANT\((\w+)\)", re.sub(r"^#define .*$", "", added, flags=re.MULTILINE)))
    if listed[:1] != [NONE] or len(set(listed)) != len(listed):
        raise WorkspaceError(f"{path}: the list of mutants has to begin with {NONE}, and to have each name once.")
    if used != set(listed[1:]):
        odd = ", ".join(sorted(used ^ set(listed[1:])))
        raise WorkspaceError(f"{path}: {odd}: a mutant has to be both in the list and in the code.")
    return used


def chosen(mutants: dict[str, Mutant], only: Sequence[str]) -> dict[str, Mutant]:
    """Those of ``mutants`` that ``only`` names, or all if it is empty; a name that is none is an error."""
    wrong = [name for name in only if name not in mutants]
    if wrong:
        raise WorkspaceError(f"there is no mutant {', '.join(wrong)}: vmtests/{TABLE} has {', '.join(mutants)}.")
    return {name: mutant for name, mutant in mutants.items() if not only or name in only}


def one_of_each_section(mutants: dict[str, Mutant], promises: Promises, series: str) -> dict[str, Mutant]:
    """Of each section of the contract one mutant, none that crashes, hangs or leaves something behind.

    Which it is depends on the digest of the ``series``: another series tries others.
    """
    sections: dict[str, list[Mutant]] = {}
    for mutant in mutants.values():
        if mutant.ends is None and not mutant.last:
            sections.setdefault(promises.by_id[mutant.breaks[0]].section, []).append(mutant)
    chosen = (each[int(series[:8], 16) % len(each)] for each in sections.values())
    return {mutant.name: mutant for mutant in chosen}


def split(nodeid: str) -> tuple[str, str]:
    """The test and the mutant of a node id of a run of mutants, in which the mutant is the last parameter."""
    if not nodeid.endswith("]"):
        return nodeid, NONE
    test, dash, mutant = nodeid[:-1].rpartition("-")
    if dash and "[" not in mutant:
        return f"{test}]", mutant
    test, _, mutant = nodeid[:-1].rpartition("[")
    return test, mutant


def join(test: str, mutant: str) -> str:
    """The node id of a test with a mutant."""
    return f"{test[:-1]}-{mutant}]" if test.endswith("]") else f"{test}[{mutant}]"
