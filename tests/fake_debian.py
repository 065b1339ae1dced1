"""Programs in place of apt-get and dpkg-deb, and an archive in place of Debian's: a folder."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import small_kernel

from workspace import debian

# The package's file is its own data tarball, so that the stand-in for dpkg-deb only has to copy it.
APT_GET = """\
#!{python}
import hashlib, os, pathlib, shutil, sys
archive = pathlib.Path({archive!r})
words = sys.argv[1:]
options = dict(word.split("=", 1) for before, word in zip(words, words[1:]) if before == "-o")
rest = [word for before, word in zip([""] + words, words) if word != "-o" and before != "-o"]
with (archive / "calls").open("a") as calls:
    calls.write(" ".join(rest) + "\\n")
suite = pathlib.Path(options["Dir::Etc::sourcelist"]).read_text().split()[3]
package = next(iter((archive / suite).glob("*.deb")), None) if (archive / suite).is_dir() else None
if rest == ["update"]:
    for name in ("Dir::State::lists", "Dir::Cache"):
        assert pathlib.Path(options[name]).is_dir(), name
    if package is None and not (archive / suite).is_dir():
        sys.exit(print(f"E: The repository '{{suite}}' has no Release file.", file=sys.stderr) or 100)
elif rest[0] == "source":
    found = next(iter((archive / suite).glob("*.debian.tar.xz")), None)
    if found is None:
        sys.exit(print("E: 404  Not Found", file=sys.stderr) or 100)
    shutil.copy(found, ".")
elif package is None:
    sys.exit(print("E: Unable to locate package", file=sys.stderr) or 100)
elif "--print-uris" in rest:
    published = (archive / suite / "sum").read_text()
    print(f"'http://mirror/{{package.name}}' {{package.name}} {{package.stat().st_size}} SHA256:{{published}}")
else:
    if hashlib.sha256(package.read_bytes()).hexdigest() != (archive / suite / "sum").read_text():
        pathlib.Path(package.name).write_bytes(b"half")
        sys.exit(print("E: Failed to fetch it  Hash Sum mismatch", file=sys.stderr) or 100)
    shutil.copy(package, ".")
"""
DPKG_DEB = '#!/bin/sh\nexec cat "$2"\n'
PATCH = """\
From: Someone <someone@example.org>
Subject: [PATCH 1/2] proc: a vendor's change
Forwarded: no

--- a/fs/proc/base.c
+++ b/fs/proc/base.c
@@ -1 +1 @@
-a
+b
"""
GITIGNORE = small_kernel.FILES[".gitignore"] + "#\n# Debian packaging\n#\n/*\n!/debian/\n"


class Archive:
    """A folder with suites; the machine's sources name it as a mirror."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, suite: str, version: str = "7.3.4-1~bpo13+1", *, patches: bool = False) -> Path:
        """A package of the small kernel, of which a vendor changed base.c and Makefile."""
        (self.path / suite).mkdir(parents=True)
        contents = {**small_kernel.files(sublevel=4), ".gitignore": GITIGNORE}
        later = dict.fromkeys(("fs/proc/base.c", "Makefile", ".gitignore"), small_kernel.AGE + 60)
        inner = small_kernel.tarball(contents, top="linux-source-7.3", ages=later)
        package = self.path / suite / f"linux-source-7.3_{version}_all.deb"
        package.write_bytes(_tar({"./usr/src/linux-source-7.3.tar.xz": inner, "./usr/share/doc": b""}))
        self.publish(package)
        if patches:
            data = {"debian/patches/series": b"# comment\nbugfix/a.patch\n\nplain.patch # why\n"}
            data["debian/patches/bugfix/a.patch"] = PATCH.encode()
            data["debian/patches/plain.patch"] = b"--- linux.orig/Makefile\n+++ linux/Makefile\n@@ -1 +1 @@\n-a\n+b\n"
            (package.parent / "linux_7.3.debian.tar.xz").write_bytes(_tar(data, "w:xz"))
        return package

    def publish(self, package: Path) -> None:
        """Make the file's sum the one that the archive names."""
        (package.parent / "sum").write_text(hashlib.sha256(package.read_bytes()).hexdigest())

    @property
    def calls(self) -> list[str]:
        """The commands apt-get was given, without their options."""
        path = self.path / "calls"
        return path.read_text().splitlines() if path.exists() else []


def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Archive:
    """Put the stand-ins first on PATH; the machine has one mirror, and a keyring."""
    archive, programs, apt = (tmp_path / name for name in ("archive", "programs", "apt"))
    for folder in (archive, programs, apt):
        folder.mkdir()
    for name, text in (
        ("apt-get", APT_GET.format(python=sys.executable, archive=str(archive))),
        ("dpkg-deb", DPKG_DEB),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (apt / "sources.list").write_text("deb http://mirror/debian stable main\n")
    (apt / "keyring.gpg").touch()
    monkeypatch.setattr(debian, "APT", apt)
    monkeypatch.setattr(debian, "KEYRINGS", (apt / "keyring.gpg",))
    return Archive(archive)


def _tar(files: Mapping[str, bytes], mode: str = "w:") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
