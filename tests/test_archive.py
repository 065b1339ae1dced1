"""Tarballs as commits: the same everywhere, and nothing that leads out of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import small_kernel

from workspace import archive
from workspace.errors import WorkspaceError
from workspace.git import Repository


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    made.path.mkdir()
    made.check("init", "--quiet", "--initial-branch=base")
    return made


def load(repository: Repository, data: bytes) -> archive.Imported:
    return archive.import_tarball(io.BytesIO(data), repository, message="Linux 7.3\n")


def test_a_tarball_is_one_commit_with_its_files_links_and_modes(repository: Repository) -> None:
    script = small_kernel.member("linux-7.3/scripts/run")
    script.mode = 0o755
    odd = small_kernel.member('linux-7.3/odd "name"\\é')
    link = small_kernel.member("linux-7.3/scripts/link", link="../fs/proc/base.c")
    imported = load(repository, small_kernel.tarball(small_kernel.files(), others=(script, odd, link)))
    listed = repository.check("ls-tree", "-r", "-z", "base").split("\0")
    modes = {line.partition("\t")[2]: line.split()[0] for line in listed if line}
    assert modes == {
        **dict.fromkeys(small_kernel.files(), "100644"),
        "scripts/run": "100755",
        'odd "name"\\é': "100644",
        "scripts/link": "120000",
    }
    assert repository.check("show", "base:fs/proc/base.c") == small_kernel.BASE_C.rstrip("\n")
    assert repository.check("show", "base:scripts/link") == "../fs/proc/base.c"
    assert repository.commit("base") == imported.commit


def test_the_commit_depends_on_the_tarball_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for number, zone in enumerate(("UTC", "Asia/Tokyo")):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("GIT_AUTHOR_NAME", f"Someone {number}")
        made = Repository(tmp_path / str(number))
        made.path.mkdir()
        made.check("init", "--quiet")
        ids.append(load(made, small_kernel.tarball(small_kernel.files(), top=f"linux-{number}")).commit)
        assert made.check("log", "-1", "--format=%ct %an <%ae>", "base") == (
            f"{small_kernel.AGE} task_diag series <task-diag@localhost>"
        )
    assert ids[0] == ids[1]


def test_files_that_are_younger_than_most_are_named(repository: Repository) -> None:
    ages = {"kernel/fork.c": small_kernel.AGE + 5, "Makefile": small_kernel.AGE + 5, "Kbuild": small_kernel.AGE - 5}
    imported = load(repository, small_kernel.tarball(small_kernel.files(), ages=ages))
    assert imported.newer == ("Makefile", "kernel/fork.c")


def _hard_link() -> tarfile.TarInfo:
    info = small_kernel.member("linux-7.3/hard", link="linux-7.3/Makefile")
    info.type = tarfile.LNKTYPE
    return info


def _device() -> tarfile.TarInfo:
    info = small_kernel.member("linux-7.3/null")
    info.type = tarfile.CHRTYPE
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        small_kernel.member("/etc/passwd"),
        small_kernel.member("../outside"),
        small_kernel.member("linux-7.3/../../outside"),
        small_kernel.member("linux-7.3/fs/../../outside"),
        small_kernel.member("file"),
        small_kernel.member("linux-7.3/.git/hooks/post-checkout"),
        small_kernel.member("linux-7.3/fs/.GIT/config"),
        small_kernel.member("linux-7.3/link", link="/etc/passwd"),
        small_kernel.member("linux-7.3/fs/link", link="../../outside"),
        small_kernel.member("linux-7.3/link", link=".."),
        _hard_link(),
        _device(),
    ],
    ids=lambda info: info.name + (f"->{info.linkname}" if info.linkname else ""),
)
def test_a_hostile_member_stops_it_and_is_named(
    repository: Repository, tmp_path: Path, hostile: tarfile.TarInfo
) -> None:
    with pytest.raises(WorkspaceError) as caught:
        load(repository, small_kernel.tarball(small_kernel.files(), others=(hostile,)))
    assert repr(hostile.name) in str(caught.value)
    assert repository.commit("base") is None
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


@pytest.mark.parametrize("data", [b"", b"no tarball", small_kernel.tarball(small_kernel.files())[:-200]])
def test_what_cannot_be_read_is_no_tree(repository: Repository, data: bytes) -> None:
    with pytest.raises(WorkspaceError, match="remove it and run again"):
        load(repository, data)
    assert repository.commit("base") is None


def test_an_empty_tarball_is_no_tree(repository: Repository) -> None:
    with pytest.raises(WorkspaceError, match="no files"):
        load(repository, small_kernel.tarball({}))
