"""Progress of long work: a bar where there is a terminal, quiet lines where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Never

from tqdm import tqdm

QUIET_INTERVAL = 30.0  # seconds between two lines in a log


def say(sentence: str) -> None:
    """Tell the user what is being done, on standard error (standard output is for results)."""
    tqdm.write(sentence, file=sys.stderr)


class Progress:
    """``with Progress("download", total=bytes, unit="B") as bar: bar.advance(n)``; ``total`` None: unknown."""

    def __init__(self, what: str, *, total: int | None = None, unit: str = "") -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._bar: tqdm[Never] | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self.what,
                total=self.total,
                unit=self.unit or "it",
                unit_scale=self.unit == "B",
                leave=False,
                dynamic_ncols=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, amount: int = 1) -> None:
        """``amount`` more units are done."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._said >= QUIET_INTERVAL:
            self._said = time.monotonic()
            share = f" ({100 * self.done // self.total} %)" if self.total and self.done <= self.total else ""
            say(f"  {self.what}: {self.done} {self.unit}{share}")
