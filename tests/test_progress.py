from __future__ import annotations

import pytest

from workspace import progress
from workspace.progress import Progress


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    monkeypatch.setattr(progress, "QUIET_INTERVAL", 0.0)
    return lines


def test_without_a_terminal_progress_is_quiet_lines(said: list[str]) -> None:
    with Progress("unpack", total=200, unit="B") as bar:
        bar.advance(50)
        bar.advance(50)
    assert [line.strip() for line in said] == ["unpack: 50 B (25 %)", "unpack: 100 B (50 %)"]


def test_an_unknown_or_wrong_total_gives_no_share(said: list[str]) -> None:
    with Progress("building", unit="steps") as bar:
        bar.advance(3)
    with Progress("building", total=2, unit="steps") as bar:
        bar.advance(3)
    assert [line.strip() for line in said] == ["building: 3 steps"] * 2
