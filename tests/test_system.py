"""What the machine has to have, and the one line that says how to get it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from workspace import system
from workspace.errors import WorkspaceError
from workspace.system import Need

THERE = Need("there", lambda: True, "there-deb", "there-rpm")
GONE = Need("gone", lambda: False, "gone-deb", "gone-rpm")
ALSO = Need("also gone", lambda: False, "also-deb", "also-rpm")


def test_a_machine_that_has_everything_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "_quietly", lambda *_: pytest.fail("ran a package manager"))
    system.ensure([THERE])


def test_missing_names_only_what_is_missing() -> None:
    assert system.missing([THERE, GONE, ALSO]) == [GONE, ALSO]


@pytest.mark.parametrize(
    ("root", "apt", "dnf", "line"),
    [
        (True, True, False, "apt-get install --no-install-recommends also-deb gone-deb"),
        (False, True, False, "sudo apt-get install --no-install-recommends also-deb gone-deb"),
        (False, False, True, "sudo dnf install also-rpm gone-rpm"),
        (
            False,
            False,
            False,
            "sudo apt-get install --no-install-recommends also-deb gone-deb (Debian, Ubuntu) or "
            "sudo dnf install also-rpm gone-rpm (Fedora)",
        ),
    ],
)
def test_one_line_to_copy(root: bool, apt: bool, dnf: bool, line: str) -> None:
    assert system.install_line([GONE, ALSO], root=root, apt=apt, dnf=dnf) == line


def test_who_is_not_root_gets_the_line_and_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(system, "_quietly", lambda *_: pytest.fail("ran a package manager"))
    with pytest.raises(WorkspaceError, match=r"lacks gone; install it with: .*apt-get install .*gone-deb"):
        system.ensure([THERE, GONE])


def test_root_installs_and_updates_the_lists_only_when_the_first_try_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []
    arrived = False

    def quietly(words: list[str], _environment: dict[str, str]) -> bool:
        nonlocal arrived
        ran.append(words[:2])
        arrived = ran == [["apt-get", "install"], ["apt-get", "update"], ["apt-get", "install"]]
        return arrived or words[1] == "update"

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(system, "_quietly", quietly)
    system.ensure([Need("gone", lambda: arrived, "gone-deb", "gone-rpm")])
    assert ran == [["apt-get", "install"], ["apt-get", "update"], ["apt-get", "install"]]


def test_a_package_that_did_not_bring_what_it_should_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    monkeypatch.setattr(system, "_quietly", lambda *_: True)
    with pytest.raises(WorkspaceError, match="lacks gone"):
        system.ensure([GONE])


def test_headers_are_found_in_the_folder_of_an_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    need = system._header("openssl/opensslv.h", "libssl-dev", "openssl-devel")
    monkeypatch.setattr(system, "_HEADERS", (tmp_path,))
    assert not need.present()
    header = tmp_path / "x86_64-linux-gnu" / "openssl" / "opensslv.h"
    header.parent.mkdir(parents=True)
    header.touch()
    assert need.present()
