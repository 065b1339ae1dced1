"""The package linux-source-X.Y of Debian's archive, fetched without a change to the machine's apt."""

from __future__ import annotations

import collections
import contextlib
import email.parser
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from workspace import archive, command, download, storage
from workspace.download import UnavailableError
from workspace.errors import WorkspaceError
from workspace.progress import Progress, say

APT = Path("/etc/apt")
KEYRINGS = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{kind}") for kind in ("pgp", "gpg"))
ALIASES = frozenset({"oldstable", "stable", "testing", "unstable", "sid"})
TIMEOUT = 10  # seconds that apt waits for a server
DATA = "usr/src/linux-source-{base}.tar.xz"
PATCHES = "debian/patches"


@dataclass(frozen=True)
class Package:
    """A package of the archive that holds the wanted source."""

    version: str
    file: Path
    sha256: str
    suite: str
    patches: dict[str, list[str]] | None
    """For each file that Debian changes, the titles of its patches; None if they cannot be had here."""


def mirrors(apt: Path, *, codename: str | None = None) -> list[str]:
    """The addresses that the machine's own sources (one-line and deb822) name for Debian's main archive."""
    suites = ALIASES | {codename or _codename()}
    found: dict[str, None] = {}
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    for path in (path for path in lists if path.is_file()):
        for line in path.read_text().splitlines():
            entry = re.match(r"deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s+(.*)", line.strip())
            if entry and entry[2] in suites and "main" in entry[3].partition("#")[0].split():
                found[entry[1]] = None
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
            fields = email.parser.HeaderParser().parsestr(stanza.strip())
            words = {name: fields.get(name, "").split() for name in ("Types", "URIs", "Suites", "Components")}
            wanted = "deb" in words["Types"] and "main" in words["Components"] and suites & set(words["Suites"])
            if wanted and fields.get("Enabled", "yes").strip().lower() not in ("no", "false"):
                found.update(dict.fromkeys(words["URIs"]))
    return [uri for uri in found if not uri.startswith("cdrom:")]


def fetch(base: str, suites: Sequence[str], downloads: Path) -> Package:
    """Download the newest linux-source-``base`` of the first suite that has it; apt verifies what arrives.

    Raises:
        UnavailableError: no apt, no mirror, no network, or no such package.
        WorkspaceError: what arrived was altered.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UnavailableError("this machine has no apt-get and dpkg-deb")
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise UnavailableError("this machine has no Debian keyring (package debian-archive-keyring)")
    found = mirrors(APT)
    if not found:
        raise UnavailableError("this machine's apt sources name no Debian mirror")
    name = f"linux-source-{base}"
    failures: dict[str, None] = {}
    for mirror in found:
        for suite in suites:
            with _private_apt(downloads, f"[signed-by={keyring}] {mirror} {suite} main") as options:
                update = command.run(["apt-get", *options, "update"], env=_environment())
                if update.code != 0:
                    failures[_complaint(update)] = None
                    continue
                listed = command.run(["apt-get", *options, "download", "--print-uris", name], env=_environment()).out
                entry = re.match(r"'[^']+' (\S+) (\d+) SHA256:([0-9a-f]{64})", listed)
                if entry is None:
                    failures[f"{suite} has no {name}"] = None
                    continue
                # apt-get writes a `:` of the version as %3a into the name, which has no epoch here.
                version = entry[1].split("_")[1]
                say(f"Debian's {suite} has {name} {version}: downloading it.")
                file = _download(options, name, entry[1], int(entry[2]), entry[3], downloads)
                patches = _patches(options, version, downloads)
                return Package(version, file, entry[3], suite, patches)
    raise UnavailableError("; ".join(failures))


def _codename() -> str:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return "stable"
    found = re.search(r'^VERSION_CODENAME="?([\w-]+)', text, re.MULTILINE)
    return found[1] if found else "stable"


@contextlib.contextmanager
def _private_apt(downloads: Path, source: str) -> Iterator[list[str | Path]]:
    """Options that give apt-get sources, lists, state and caches of its own, for one archive."""
    with storage.scratch_folder(downloads, "apt") as room:
        for folder in ("state/lists/partial", "cache/archives/partial", "empty"):
            (room / folder).mkdir(parents=True)
        (room / "status").touch()
        (room / "sources.list").write_text(f"deb {source}\ndeb-src {source}\n")
        settings = {
            "Dir::Etc::sourcelist": room / "sources.list",
            "Dir::Etc::sourceparts": room / "empty",
            # A pin of the machine must not choose the version.
            "Dir::Etc::preferences": os.devnull,
            "Dir::Etc::preferencesparts": room / "empty",
            "Dir::State": room / "state",
            "Dir::State::lists": room / "state/lists",
            "Dir::State::status": room / "status",
            "Dir::Cache": room / "cache",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": 0,
            "Acquire::http::Timeout": TIMEOUT,
            "Acquire::https::Timeout": TIMEOUT,
        }
        yield [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def _complaint(finished: command.Finished) -> str:
    lines = [line for line in finished.err.splitlines() if line.startswith(("E:", "W:"))]
    return lines[0][2:].strip() if lines else f"apt-get ended with {finished.code}"


def _download(options: Sequence[str | Path], name: str, file: str, size: int, sha256: str, downloads: Path) -> Path:
    room = downloads / f"{name}.part"
    room.mkdir(parents=True, exist_ok=True)
    words = ["apt-get", *options, "download", name]
    with (
        tempfile.TemporaryFile("w+") as output,
        command.started(words, cwd=room, env=_environment(), stdout=output, stderr=output) as process,
        Progress(file, total=size, unit="B") as bar,
    ):
        while process.poll() is None:
            here = max((path.stat().st_size for path in room.glob("*")), default=0)
            bar.advance(max(0, here - bar.done))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        output.seek(0)
        said = output.read()
    if process.returncode != 0:
        finished = command.Finished(tuple(map(str, words)), process.returncode, "", said)
        if "Hash Sum mismatch" in said or "unexpected size" in said:
            shutil.rmtree(room)
            raise WorkspaceError(
                f"{file} does not have the sum Debian's archive publishes; it has been removed: run again."
            )
        raise UnavailableError(_complaint(finished))
    download.verify(room / file, sha256)
    target = downloads / file
    (room / file).replace(target)
    shutil.rmtree(room)
    return target


def _patches(options: Sequence[str | Path], version: str, downloads: Path) -> dict[str, list[str]] | None:
    """What Debian changes in the source, from the source package (its small part, with debian/patches)."""
    with storage.scratch_folder(downloads, "source") as room:
        words = ["source", "--diff-only", "--download-only", f"linux={version}"]
        command.run(["apt-get", *options, *words], cwd=room, env=_environment())
        for path in room.glob("*.debian.tar.*"):
            with path.open("rb") as file:
                return changes(file)
    return None


def changes(debian_tar: IO[bytes]) -> dict[str, list[str]]:
    """For each file that the patches of a ``.debian.tar`` change: ``TITLE (PATCH)``, in their order."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    with tarfile.open(fileobj=debian_tar) as tar:

        def read(path: str) -> str:
            member = tar.extractfile(path)
            return member.read().decode(errors="replace") if member else ""

        for line in read(f"{PATCHES}/series").splitlines():
            name = line.partition("#")[0].strip()
            if not name:
                continue
            text = read(f"{PATCHES}/{name}")
            title = re.search(r"^(?:Subject|Description): *(?:\[[^]]*\] *)?(.+)", text, re.MULTILINE)
            for path in sorted(set(re.findall(r"^(?:---|\+\+\+) [^/\s]+/(\S+)", text, re.MULTILINE))):
                found[path].append(f"{title[1]} ({name})" if title else name)
    return dict(found)


@contextlib.contextmanager
def tarball(package: Path, base: str) -> Iterator[IO[bytes]]:
    """The source tarball in a package file, read as a stream; nothing is written."""
    with command.started(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=False
    ) as process:
        assert process.stdout is not None
        wanted = DATA.format(base=base)
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=archive.PIECE) as members:
                for member in members:
                    if member.name.removeprefix("./") == wanted and (stream := members.extractfile(member)):
                        yield stream
                        return
        except tarfile.ReadError as error:
            raise WorkspaceError(f"{package.name} cannot be read ({error}): remove it and run again.") from error
    raise WorkspaceError(f"{package.name} holds no {wanted}: name another suite in pyproject.toml.")
