"""What compilers and checkers report, told apart from what they already reported of the patch's parent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PLACE = re.compile(r"(?P<path>[^\s:][^:\n]*):(?P<line>\d+):(?:(?P<column>\d+(?:-\d+)?):)? ?(?P<text>.*)")
_SEVERE = re.compile(r"(?:fatal error|error|warning): ")
_NUMBERS = re.compile(r"\bline(s?) \d+(?:-\d+)?|:\d+(?::\d+)?")
# Below a report: the line of the source, the caret, and where something was declared.
_BELOW = re.compile(r"\s|.*: note: ")


@dataclass(frozen=True)
class Report:
    """One warning or error: ``path`` in the tree, what is said without numbers of lines, and the tool's own lines."""

    path: str
    says: str
    lines: tuple[str, ...]


def parse(output: str, *, source: str, any_text: bool = False) -> list[Report]:
    """The reports in a tool's output, each once: several files may include the line that it is about.

    Compilers and sparse say `warning:` or `error:`; with ``any_text`` whatever names a line is a report, as with
    Coccinelle.
    """
    found: dict[tuple[str, ...], Report] = {}
    path, says, lines = "", "", list[str]()
    for line in [*output.replace(f"{source}/", "").splitlines(), ""]:
        place = _PLACE.fullmatch(line)
        starts = place is not None and (any_text or _SEVERE.match(place["text"]) is not None)
        if lines and not starts and line and (_BELOW.match(line) or (place and place["text"].startswith(" "))):
            lines.append(line)
            continue
        if lines:
            found.setdefault(tuple(lines), Report(path, says, tuple(lines)))
            lines = []
        if starts and place is not None:
            path, says, lines = place["path"], _NUMBERS.sub(r"line\1 N", place["text"]), [line]
    return list(found.values())


def new(reports: Sequence[Report], before: Iterable[Report]) -> list[Report]:
    """Those that were not there ``before``; lines may have moved, and a second one like another is new."""
    known = Counter((report.path, report.says) for report in before)
    added = []
    for report in reports:
        key = report.path, report.says
        if known[key]:
            known[key] -= 1
        else:
            added.append(report)
    return added
