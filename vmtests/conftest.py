"""vmtests run in a guest of the run that collected them, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = str(Path(__file__).resolve().parents[1] / "tools")
if TOOLS not in sys.path:
    sys.path.insert(0, TOOLS)

from workspace.promises import MARKERS, Promises  # noqa: E402
from workspace.splat import ALLOWED, Exceptions  # noqa: E402
from workspace.worker import ON_HOST, Worker  # noqa: E402

pytest_plugins = ["vmtests.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    """Hold every test to account, unless this process only hands tests out or drives guests from the host."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not config.stash.get(ON_HOST, False):
        folder = Path(__file__).parent
        promises = Promises.load(folder / "promises.toml")
        exceptions = Exceptions.load(folder / ALLOWED)
        config.pluginmanager.register(Worker(config, promises, exceptions), "workspace-worker")
