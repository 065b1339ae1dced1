"""Debian's package: where it is looked for, and what it is made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fake_debian
import pytest

from workspace import debian
from workspace.download import UnavailableError
from workspace.errors import WorkspaceError


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fake_debian.Archive:
    return fake_debian.install(monkeypatch, tmp_path)


def apt_folder(path: Path, **files: str) -> Path:
    (path / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        target = "sources.list" if name == "main" else f"sources.list.d/{name.replace('__', '.')}"
        (path / target).write_text(text)
    return path


def test_mirrors_are_read_from_one_line_sources(tmp_path: Path) -> None:
    text = """\
# deb http://commented/debian bookworm main
deb-src http://source/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/a b.gpg] http://mirror/debian bookworm main contrib # why
deb http://mirror/debian bookworm main
deb http://mirror/security bookworm-security main
deb http://other/debian bookworm contrib
deb http://docker bookworm stable
deb cdrom:[Debian]/ bookworm main
"""
    apt = apt_folder(tmp_path / "apt", main=text, more__list="deb file:/srv/debian stable main\n", off__save=text)
    assert debian.mirrors(apt, codename="bookworm") == ["http://mirror/debian", "file:/srv/debian"]


def test_mirrors_are_read_from_deb822_sources(tmp_path: Path) -> None:
    text = """\
# A comment
Types: deb deb-src
URIs: http://first/debian
  mirror+file:/etc/apt/mirrors/debian.list
# another, in the middle
Suites: trixie trixie-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://off/debian
Suites: trixie
Components: main
Enabled: no

Types: deb
URIs: http://security/debian-security
Suites: trixie-security
Components: main

Types: deb-src
URIs: http://source/debian
Suites: trixie
Components: main
"""
    apt = apt_folder(tmp_path / "apt", debian__sources=text)
    assert debian.mirrors(apt, codename="trixie") == [
        "http://first/debian",
        "mirror+file:/etc/apt/mirrors/debian.list",
    ]


def test_a_machine_of_another_distribution_has_no_mirror(tmp_path: Path) -> None:
    apt = apt_folder(tmp_path / "apt", main="deb http://archive/ubuntu noble universe\n")
    assert debian.mirrors(apt, codename="noble") == []
    assert debian.mirrors(tmp_path / "none", codename="noble") == []


def test_the_first_suite_that_has_the_package_gives_it(archive: fake_debian.Archive, tmp_path: Path) -> None:
    (archive.path / "empty").mkdir()
    made = archive.add("good")
    archive.add("later", "7.3.5-1")
    package = debian.fetch("7.3", ["gone", "empty", "good", "later"], tmp_path / "downloads")
    assert package == debian.Package(
        version="7.3.4-1~bpo13+1",
        file=tmp_path / "downloads" / made.name,
        sha256=hashlib.sha256(made.read_bytes()).hexdigest(),
        suite="good",
        patches=None,
    )
    # No trace of apt's own rooms.
    assert list((tmp_path / "downloads").iterdir()) == [package.file]


def test_nothing_found_says_what_each_suite_answered(archive: fake_debian.Archive, tmp_path: Path) -> None:
    (archive.path / "empty").mkdir()
    with pytest.raises(UnavailableError) as caught:
        debian.fetch("7.3", ["gone", "empty"], tmp_path / "downloads")
    assert str(caught.value) == "The repository 'gone' has no Release file.; empty has no linux-source-7.3"


def test_what_apt_finds_altered_is_not_kept(archive: fake_debian.Archive, tmp_path: Path) -> None:
    package = archive.add("good")
    package.write_bytes(package.read_bytes() + b"more")
    with pytest.raises(WorkspaceError, match="does not have the sum") as caught:
        debian.fetch("7.3", ["good"], tmp_path / "downloads")
    assert not isinstance(caught.value, UnavailableError)
    assert list((tmp_path / "downloads").iterdir()) == []
    archive.publish(package)
    assert debian.fetch("7.3", ["good"], tmp_path / "downloads").file.exists()


def test_missing_tools_keyring_or_mirror_are_named(
    archive: fake_debian.Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt" / "sources.list").unlink()
    with pytest.raises(UnavailableError, match="name no Debian mirror"):
        debian.fetch("7.3", ["good"], tmp_path)
    monkeypatch.setattr(debian, "KEYRINGS", ())
    with pytest.raises(UnavailableError, match="package debian-archive-keyring"):
        debian.fetch("7.3", ["good"], tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no apt-get"):
        debian.fetch("7.3", ["good"], tmp_path)
    assert archive.calls == []


def test_the_vendors_patches_are_listed_by_file(archive: fake_debian.Archive, tmp_path: Path) -> None:
    archive.add("good", patches=True)
    assert debian.fetch("7.3", ["good"], tmp_path / "downloads").patches == {
        "fs/proc/base.c": ["proc: a vendor's change (bugfix/a.patch)"],
        "Makefile": ["plain.patch"],
    }


def test_the_tarball_is_read_out_of_the_package(archive: fake_debian.Archive) -> None:
    package = archive.add("good")
    with debian.tarball(package, "7.3") as stream:
        assert stream.read(6) == b"\xfd7zXZ\0"
    with (
        pytest.raises(WorkspaceError, match=r"holds no usr/src/linux-source-7\.9\.tar\.xz"),
        debian.tarball(package, "7.9"),
    ):
        pass
    package.write_bytes(b"no package")
    with pytest.raises(WorkspaceError, match="cannot be read"), debian.tarball(package, "7.3"):
        pass
