"""What a run has found, kept line by line as it comes, so that a run that was cut off can be resumed.

A journal is of one kernel and one state of the tests: what another kernel or other tests have left is forgotten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workspace import storage
from workspace.kernel import Kernel
from workspace.results import Test
from workspace.settings import Paths

_TIMES = "times.json"
_BESIDES = ("pyproject.toml", "tools/requirements.lock")


def key_of(paths: Paths, kernel: Kernel, accelerator: str) -> str:
    """A digest of what the outcome of a test depends on: the kernel, the test, and all that runs it.

    The table of the mutants is not part of it, and their patch is part of the kernel.
    """
    files = [paths.root / name for name in _BESIDES]
    for room in (paths.vmtests, *(paths.root / "tools" / name for name in ("taskdiag", "workspace"))):
        files += (path for path in room.rglob("*") if path.is_file() and not _aside(path))
    parts: list[str | Path] = [kernel.build_id, accelerator, kernel.config]
    for path in sorted(path for path in files if path.exists()):
        parts += [str(path.relative_to(paths.root)), path]
    return storage.digest(*parts)


def _aside(path: Path) -> bool:
    return path.suffix == ".pyc" or path.stem == "mutants" or any(part.startswith(".") for part in path.parts[-2:])


@dataclass
class Journal:
    """A file with a JSON object in each line, the first of which says what the others are about."""

    path: Path
    entries: list[dict[str, Any]] = field(default_factory=list)
    """What runs before this one have left, oldest first."""

    @classmethod
    def opened(cls, path: Path, key: str) -> Journal:
        """Go on with the journal at ``path`` if it is about ``key``, or else begin a new one in its place."""
        head = json.dumps({"key": key}).encode() + b"\n"
        try:
            data = path.read_bytes()
        except OSError:
            data = b""
        if not data.startswith(head):
            storage.write_whole(path, head)
            return cls(path)
        entries, size = [], len(head)
        for line in data[size:].splitlines(keepends=True):
            # A line in which the machine was switched off, and whatever is behind it.
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not isinstance(entry, dict) or not line.endswith(b"\n"):
                break
            entries.append(entry)
            size += len(line)
        if size < len(data):
            storage.write_whole(path, data[:size])
        return cls(path, entries)

    def add(self, **entry: object) -> None:
        """Keep one thing that was found; it is on the disk when this returns."""
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")
            os.fsync(file.fileno())


def times(paths: Paths) -> dict[str, float]:
    """The seconds that each test took when it passed last, whatever kernel and files that was with."""
    try:
        found = json.loads((paths.journals / _TIMES).read_text())
        return {str(test): float(seconds) for test, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep_times(paths: Paths, tests: Mapping[str, Test]) -> None:
    """Remember how long these took; of the others, what is known stays."""
    new = {name: round(test.seconds, 3) for name, test in tests.items() if test.outcome == "passed"}
    storage.write_whole(paths.journals / _TIMES, json.dumps(times(paths) | new, indent=0) + "\n")
