"""`coverage`: which lines and branches of task_diag the vmtests reach, and why the others are not reached."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workspace import command, storage, vmtest
from workspace.errors import WorkspaceError
from workspace.kernel import Kernel
from workspace.progress import say
from workspace.settings import Paths

UNREACHED = "unreached.toml"
FOLDER = "coverage"  # in build/results
FILE = "coverage.json"


@dataclass(frozen=True)
class Place:
    """A line of code, by what stays the same when lines move: its function, and its text without indentation."""

    function: str
    code: str


@dataclass(frozen=True)
class Line:
    """One line that the compiler made code of: how often it ran, and how often each of its branches was taken."""

    file: str
    number: int
    place: Place
    count: int
    branches: tuple[int, ...]


def reasons(path: Path) -> dict[Place, str]:
    """Why lines are not reached: the entries of ``unreached.toml``; one that is not whole is an error."""
    try:
        table = tomllib.loads(path.read_text())
        found = {Place(entry["function"], entry["code"]): str(entry["reason"]) for entry in table.get("line", ())}
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise WorkspaceError(f"{path} cannot be read ({error}): each line needs function, code and reason.") from error
    if empty := [place.code for place, reason in found.items() if not reason.strip()]:
        raise WorkspaceError(f"{path}: `{empty[0]}` has no reason: say why no test reaches it.")
    return found


@dataclass(frozen=True)
class Report:
    """What ran, against what is known not to."""

    lines: tuple[Line, ...]
    reasons: Mapping[Place, str]

    @property
    def missed(self) -> list[Line]:
        """The lines that no test reached."""
        return [line for line in self.lines if not line.count]

    @property
    def unexplained(self) -> list[Line]:
        """Those of them that have no reason."""
        return [line for line in self.missed if line.place not in self.reasons]

    @property
    def stale(self) -> list[Place]:
        """The places that have a reason and are reached, or are gone."""
        missed = {line.place for line in self.missed}
        return [place for place in self.reasons if place not in missed]

    @property
    def untaken(self) -> list[Line]:
        """The lines that ran, but not in every way."""
        return [line for line in self.lines if line.count and not all(line.branches)]

    def counts(self) -> dict[str, tuple[int, int]]:
        """How many lines, and branches of lines, ran of all that there are."""
        branches = [count for line in self.lines for count in line.branches]
        return {
            "lines": (len(self.lines) - len(self.missed), len(self.lines)),
            "branches": (sum(map(bool, branches)), len(branches)),
        }

    @property
    def code(self) -> int:
        """The exit code: there are lines, and each of them is reached or explained."""
        return int(not self.lines or bool(self.unexplained or self.stale))

    def sentences(self) -> Iterator[str]:
        """What there is to say."""
        for name, (ran, total) in self.counts().items():
            yield f"{ran} of {total} {name} reached ({100 * ran / max(total, 1):.1f} %)"
        for line in self.unexplained:
            yield (
                f"{line.file}:{line.number}: no test reaches `{line.place.code}` in {line.place.function}(): "
                f"write one, or say why not in vmtests/{UNREACHED}"
            )
        for place in self.stale:
            yield (
                f"vmtests/{UNREACHED} has a reason for `{place.code}` in {place.function}(), which is reached, "
                "or gone: take it out"
            )

    def data(self) -> dict[str, object]:
        """All of it, for build/results/coverage.json."""
        return {
            **{name: {"reached": ran, "of": total} for name, (ran, total) in self.counts().items()},
            "missed": [
                {**_place(line), "reason": self.reasons.get(line.place)} for line in sorted(self.missed, key=_order)
            ],
            "untaken": [{**_place(line), "branches": line.branches} for line in sorted(self.untaken, key=_order)],
        }


def _place(line: Line) -> dict[str, object]:
    return {"file": line.file, "line": line.number, "function": line.place.function, "code": line.place.code}


def _order(line: Line) -> tuple[str, int]:
    return line.file, line.number


def parsed(merged: Path, source: Path) -> tuple[Line, ...]:
    """The lines of gcovr's JSON (`--json`), whose files are below ``source``; macros' code counts where it is used."""
    found = []
    for file in json.loads(merged.read_text())["files"]:
        text = (source / file["file"]).read_text().splitlines()
        for line in file["lines"]:
            if line.get("gcovr/noncode") or line.get("gcovr/excluded"):
                continue
            place = Place(line.get("function_name", ""), text[line["line_number"] - 1].strip())
            branches = tuple(branch["count"] for branch in line["branches"])
            found.append(Line(file["file"], line["line_number"], place, line["count"], branches))
    return tuple(found)


def run(kernel: Kernel, source: Path, *, paths: Paths, words: Iterable[str], facts: Mapping[str, str]) -> int:
    """Run the vmtests in ``kernel``, which counts, and say what of it they did not reach; 0 if all is explained.

    ``source`` is the tree that it was built from. The report is in build/results/coverage/.
    """
    known = reasons(paths.vmtests / UNREACHED)
    code = vmtest.run(kernel, list(words), paths=paths, facts=facts)
    folder = paths.results / FOLDER
    report = Report(parsed(_merged(kernel, source, folder), source), known)
    storage.write_whole(paths.results / FILE, json.dumps({**facts, **report.data()}, indent=1) + "\n")
    for sentence in report.sentences():
        say(f"coverage: {sentence}.")
    say(f"coverage: {folder / 'index.html'} shows it line by line.")
    if code:
        say("coverage: not all tests passed, so that not everything was reached.")
    return code or report.code


def _merged(kernel: Kernel, source: Path, folder: Path) -> Path:
    """The counts of all guests as one file of gcovr's, and a page for each source file."""
    guests = sorted(folder.glob("guest-*/"))
    if not guests:
        raise WorkspaceError("no guest handed out what it had counted: see that the tests run, with `nox -s vmtest`.")
    gcovr = [sys.executable, "-m", "gcovr", "--root", str(source)]
    traces = []
    for guest in guests:
        # gcov wants what the compiler noted beside what the kernel counted.
        for counted in guest.rglob("*.gcda"):
            notes = kernel.folder / counted.relative_to(guest).with_suffix(".gcno")
            shutil.copy(notes, counted.with_suffix(".gcno"))
        trace = folder / f"{guest.name}.json"
        command.check([*gcovr, "--json", str(trace), str(guest)], cwd=kernel.folder)
        traces += ["--add-tracefile", str(trace)]
    merged = folder / "all.json"
    words = [*gcovr, *traces, "--json", str(merged), "--html-details", str(folder / "index.html")]
    command.check([*words, "--html-title", "task_diag"], cwd=kernel.folder)
    return merged
