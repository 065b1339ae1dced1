"""A source tarball as one git commit, without ever writing its members to the file system."""

from __future__ import annotations

import collections
import io
import posixpath
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from workspace import command, git
from workspace.errors import WorkspaceError, tells_of_no_room

BRANCH = "refs/heads/base"
PIECE = 1 << 18  # bytes read at once


@dataclass(frozen=True)
class Imported:
    """What became of a tarball: the commit, and the files that are not as old as most of them."""

    commit: str
    newer: tuple[str, ...]


def as_it_is(_path: str, content: bytes) -> bytes:
    """Change nothing."""
    return content


def import_tarball(
    tarball: IO[bytes] | io.RawIOBase,
    repository: git.Repository,
    *,
    message: str,
    rewrite: Callable[[str, bytes], bytes] = as_it_is,
) -> Imported:
    """Make ``tarball`` (xz) the only commit of the branch ``base`` in an empty repository.

    The top folder is left out of the paths. ``rewrite(path, content)`` may change a file. The commit's date
    is that of the newest member, so that the same tarball gives the same commit id on each machine.

    Raises:
        WorkspaceError: the tarball is no readable xz tarball, or has a member that leads out of its folder.
    """
    modes: dict[str, tuple[str, int]] = {}  # path: (git's mode, mark)
    ages: dict[str, int] = {}  # path: seconds since the epoch
    with command.started(
        ["git", "-c", "core.compression=1", "fast-import", "--quiet", "--done", "--depth=0"],
        cwd=repository.path,
        env=git.environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        write = process.stdin.write
        try:
            with tarfile.open(fileobj=tarball, mode="r|xz", bufsize=PIECE) as members:
                for member in members:
                    if member.isdir():
                        continue
                    path = _path(member)
                    if member.issym():
                        content, mode = member.linkname.encode(errors="surrogateescape"), "120000"
                    else:
                        source = members.extractfile(member)
                        content = rewrite(path, source.read() if source else b"")
                        mode = "100755" if member.mode & 0o100 else "100644"
                    mark = len(modes) + 1
                    write(b"blob\nmark :%d\ndata %d\n" % (mark, len(content)))
                    write(content)
                    modes[path], ages[path] = (mode, mark), int(member.mtime)
            if not modes:
                raise WorkspaceError("the tarball holds no files: remove it and run again.")
            words = message.encode()
            stamp = f"{git.NAME} <{git.EMAIL}> {max(ages.values())} +0000".encode()
            write(b"commit %s\nauthor %s\ncommitter %s\n" % (BRANCH.encode(), stamp, stamp))
            write(b"data %d\n%s\n" % (len(words), words))
            for path, (mode, mark) in sorted(modes.items()):
                write(b"M %s :%d %s\n" % (mode.encode(), mark, _quoted(path)))
            write(b"done\n")
            process.stdin.close()
        except BrokenPipeError:
            pass  # git has stopped, and says why below
        except (tarfile.TarError, EOFError, OSError) as error:
            raise WorkspaceError(f"the tarball cannot be unpacked ({error}): remove it and run again.") from error
        complaint = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            reason = complaint.partition("\n")[0]
            mend = ": make room, and run again" if tells_of_no_room(complaint) else ""
            raise WorkspaceError(f"git fast-import did not take the tarball ({reason}){mend}.")
    commit = repository.commit(BRANCH)
    assert commit is not None
    usual, _ = collections.Counter(ages.values()).most_common(1)[0]
    return Imported(commit, tuple(sorted(path for path, age in ages.items() if age > usual)))


def _path(member: tarfile.TarInfo) -> str:
    """The path below the top folder of a member that is a file or link and stays in that folder."""
    name = posixpath.normpath(member.name)
    top, _, path = name.partition("/")
    parts = path.split("/")
    if member.name.startswith("/") or top == ".." or ".." in member.name.split("/") or not path:
        raise WorkspaceError(f"the tarball's member {member.name!r} lies outside its top folder: do not use it.")
    if any(part.lower() == ".git" for part in parts):
        raise WorkspaceError(f"the tarball's member {member.name!r} would change a git repository: do not use it.")
    if not (member.isreg() or member.issym()):
        raise WorkspaceError(f"the tarball's member {member.name!r} is neither file, folder nor symbolic link.")
    if member.issym() and leads_out(path, member.linkname):
        raise WorkspaceError(
            f"the tarball's link {member.name!r} leads out of it, to {member.linkname!r}: do not use it."
        )
    return path


def leads_out(path: str, goal: str) -> bool:
    """Whether the symbolic link at ``path``, relative to a folder, points out of that folder."""
    meant = posixpath.normpath(posixpath.join(posixpath.dirname(path), goal))
    return meant.startswith(("/", "../")) or meant == ".."


def _quoted(path: str) -> bytes:
    plain = path.encode(errors="surrogateescape")
    escaped = plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'


class Counting(io.RawIOBase):
    """A readable file that tells how many bytes were read from it."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """As the file's own."""
        data = self._file.read(size)
        self._advance(len(data))
        return data
