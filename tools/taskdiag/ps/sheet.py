"""The lines of ps: columns side by side, none narrower than its heading says, and long values made up for later on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taskdiag.ps.column import COLUMNS, Column, Fit
from taskdiag.ps.host import Host
from taskdiag.ps.process import Process
from taskdiag.ps.text import cut, width

UNLIMITED = 131072
"""How wide a line can be."""

_BRANCH = {"|": " |  ", " ": "    ", "+": " \\_ ", "L": " \\_ "}
_CHOICE = re.compile(r"(?P<name>[^:=]+)(:(?P<width>[1-9]\d*))?(=(?P<heading>.*))?")


@dataclass(frozen=True)
class Choice:
    """A column as it was asked for: ``name[:width][=heading]``."""

    column: Column
    heading: str
    width: int

    @classmethod
    def parse(cls, text: str, host: Host) -> Choice:
        """Read one; ValueError if there is no such column."""
        found = _CHOICE.fullmatch(text)
        column = COLUMNS.get(found["name"]) if found else None
        if found is None or column is None:
            raise ValueError(f"there is no column {text!r}: there are {', '.join(COLUMNS)}")
        heading = column.heading if found["heading"] is None else found["heading"]
        room = max(host.pid_digits, len(column.heading)) if column.pid else column.width
        return cls(column, heading, int(found["width"] or max(room, len(heading) if found["heading"] else 0)))


class Sheet:
    """Lines of the same columns, each of at most ``room`` cells, or as many times that as the columns need."""

    def __init__(self, choices: Sequence[Choice], room: int = UNLIMITED) -> None:
        """Set up the columns."""
        self._choices = choices
        last = choices[-1]
        least = sum(choice.width + 1 for choice in choices[:-1])
        least += 3 if last.column.fit is Fit.CUT else last.width
        self._room = room * max(-(-least // room), 1)

    def heading(self) -> str | None:
        """Return the line of headings, None if all of them are empty."""
        if not any(choice.heading for choice in self._choices):
            return None
        return self._line(lambda choice, _room: choice.heading)

    def line(self, process: Process, branches: str = "") -> str:
        """Return the line of a process; ``branches`` are what connects it to those above it in the forest."""
        return self._line(lambda choice, room: _fitted(choice.column, process, branches, room))

    def _line(self, fitted: Callable[[Choice, int], str]) -> str:
        """Put side by side what ``fitted`` gives for each column and the cells that there are for it."""
        line = ""
        at = due = gap = 0
        for choice in self._choices:
            last = choice is self._choices[-1]
            text = fitted(choice, max(self._room - max(due, at + gap), 0) if last else choice.width)
            cells = width(text)
            left = max(choice.width - cells, 0) if choice.column.fit is Fit.RIGHT else 0
            # A value that was too long has taken the place of the blanks behind it: make up for it where there are any.
            space = max(due - at + left, gap)
            line += " " * space + text
            at += space + cells
            due += choice.width + 1
            gap = 1
        return line


def _fitted(column: Column, process: Process, branches: str, room: int) -> str:
    text = column.value(process)
    if column.fit is Fit.CUT:
        shown = branches[: room // 4] if column.tree else ""
        tree = "".join(_BRANCH[branch] for branch in shown)
        return tree + cut(text, room - len(tree))
    if column.fit is Fit.NAME and width(text) > room:
        number = str(column.number(process)) if column.number else ""
        return f"{text[: room - 1]}+" if room and text.isascii() else number
    return text
