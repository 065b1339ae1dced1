"""Where lines go: a terminal, for a person, or a pipe or a file, for a program."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class Screen:
    """Standard output: a heading stands out and lines fit in a terminal; anything else gets plain lines."""

    def __init__(self, output: TextIO | None = None) -> None:
        """Write to ``output``, or to standard output."""
        self._output = output or sys.stdout
        self.terminal = self._output.isatty()
        self.width = self._width()
        """Cells of a line, None without a limit; the environment's COLUMNS decides."""
        self._bold = self.terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"

    def heading(self, text: str) -> None:
        """Write a line of headings."""
        self.line(f"\x1b[1m{text}\x1b[0m" if self._bold else text)

    def line(self, text: str) -> None:
        """Write a line; a character that the output's encoding lacks is a ``?``."""
        encoding = self._output.encoding or "ascii"
        self._output.write(text.encode(encoding, "replace").decode(encoding) + "\n")

    def _width(self) -> int | None:
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns):
            return int(columns)
        if not self.terminal:
            return None
        # A terminal that does not know its size says 0.
        return os.get_terminal_size(self._output.fileno()).columns or 80
