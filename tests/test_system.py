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


def _program(path: Path, version: int) -> None:
    path.write_text(f"#!/bin/sh\necho clang version {version}.1.2\n")
    path.chmod(0o755)


def test_the_newest_llvm_that_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (clang, *_), names = system.FOR_CHECKS["clang"], ("clang", "ld.lld", "llvm-nm")
    assert system.llvm() is None
    assert not clang.present()
    for name in names:
        _program(tmp_path / name, 14)
    assert system.llvm() is None, "too old for the kernel"
    for name in names:
        _program(tmp_path / name, 19)
    assert system.llvm() == "1"
    for name in names:
        _program(tmp_path / f"{name}-18", 18)
    _program(tmp_path / "clang-20", 20)
    assert system.llvm() == "-18"
    assert clang.present()


def test_what_only_checks_need_is_asked_of_nobody_else() -> None:
    others = {need.apt for needs in system.FOR_CHECKS.values() for need in needs}
    assert others >= {"sparse", "coccinelle", "clang-19", "gcc-aarch64-linux-gnu", "gcc-s390x-linux-gnu"}
    assert not others & {need.apt for need in system.NEEDS}


def test_the_compiler_of_the_host_tests_is_asked_of_everybody() -> None:
    """tests/test_check_patch.py compiles headers for user space as C++, on a machine that checks nothing itself."""
    assert "g++" in {need.what for need in system.NEEDS}
