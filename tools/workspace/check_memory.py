"""What the checks found earlier, by a digest of all that it depends on."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from workspace import storage


class Memory:
    """JSON values in a folder, one file each; a torn or foreign file is as none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, kind: str, key: str) -> Any | None:
        """What was put under this key, or None."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._path(kind, key).read_text())
        return None

    def put(self, kind: str, key: str, value: Any) -> None:
        """Remember a value, in one step."""
        storage.write_whole(self._path(kind, key), json.dumps(value, indent=1) + "\n")

    def _path(self, kind: str, key: str) -> Path:
        return self._folder / kind / f"{key[:32]}.json"
