"""A kernel tree of a few files: as a tarball, as a package's tarball, and as a developer's clone."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

from workspace.git import Repository
from workspace.settings import Settings

MAKEFILE = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = {sublevel}\nEXTRAVERSION ={extra}\nNAME = Small\n"
BASE_C = "".join(f"int line_{number};\n" for number in range(1, 41))
FILES = {
    ".gitattributes": "*.[ch] diff=cpp\n",
    ".gitignore": ".*\n*.o\n!.gitignore\n!.gitattributes\n",
    "Kbuild": "obj-y := fs/\n",
    "fs/proc/base.c": BASE_C,
    "fs/proc/Makefile": "obj-y := base.o\n",
    "kernel/fork.c": "int fork;\n",
}
AGE = 1_700_000_000  # seconds since the epoch
SETTINGS = Settings("7.3", ("kernel.org", "debian"), "http://127.0.0.1:9/", ("trixie",), "RFC PATCH v5")


def files(*, sublevel: int = 0, extra: str = "") -> dict[str, str]:
    """The tree, path by path."""
    return {**FILES, "Makefile": MAKEFILE.format(sublevel=sublevel, extra=f" {extra}" if extra else "")}


def member(name: str, content: str = "", *, age: int = AGE, link: str | None = None) -> tarfile.TarInfo:
    """A member of a tarball, without its content."""
    info = tarfile.TarInfo(name)
    info.mtime, info.size, info.mode = age, len(content.encode()), 0o644
    if link is not None:
        info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
    return info


def tarball(
    contents: Mapping[str, str],
    *,
    top: str = "linux-7.3",
    ages: Mapping[str, int] | None = None,
    others: tuple[tarfile.TarInfo, ...] = (),
) -> bytes:
    """An xz tarball of a tree; ``others`` are further members, empty or links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for path, content in contents.items():
            tar.addfile(member(f"{top}/{path}", content, age=(ages or {}).get(path, AGE)), io.BytesIO(content.encode()))
        for info in others:
            tar.addfile(info, io.BytesIO(b"\0" * info.size))
    return buffer.getvalue()


def clone(path: Path, *, sublevel: int = 0, extra: str = "", more: Mapping[str, str] | None = None) -> Repository:
    """A developer's repository with one commit, tagged as its Makefile says."""
    path.mkdir(parents=True)
    repository = Repository(path)
    repository.check("init", "--quiet", "--initial-branch=master")
    for name, content in {**files(sublevel=sublevel, extra=extra), **(more or {})}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    commit(repository, "Linux")
    version = f"7.3{f'.{sublevel}' if sublevel else ''}"
    repository.check("tag", f"v{version}")
    return repository


def commit(repository: Repository, message: str, *, date: int = AGE, author: str = "Dev <dev@example.org>") -> str:
    """Commit all there is, by a developer; the commit's id."""
    name, _, mail = author.rstrip(">").partition(" <")
    who = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail, "GIT_AUTHOR_DATE": f"{date} +0200"}
    repository.check("add", "--force", "--all")
    repository.check("commit", "--quiet", "--message", message, **who)
    return repository.check("rev-parse", "HEAD")


def age_all(path: Path) -> None:
    """Give all files of a tree an old time, so that a later write shows; git's index agrees."""
    for file in (file for file in path.rglob("*") if file.is_file() and ".git/" not in f"{file}/"):
        os.utime(file, (AGE, AGE))
    Repository(path).run("update-index", "--refresh")
