"""The patch series in ``patches/``, and the commit that it makes of a base."""

from __future__ import annotations

import email.header
import email.parser
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workspace import archive, storage, tree
from workspace.command import Finished
from workspace.errors import WorkspaceError
from workspace.git import NAME, Repository

COVER = "0000-cover-letter.patch"
AM = (
    "--quiet",
    "--patch-format=mbox",
    "--committer-date-is-author-date",
    "--keep-non-patch",
    "--keep-cr",
    "--no-scissors",
)
# What git writes below a cover letter's text: the list of the patches, by their one author.
SHORTLOG = re.compile(rf"^{re.escape(NAME)} \(\d+\):$", re.MULTILINE)


@dataclass(frozen=True)
class Series:
    """Patch files in the order of their names, and the cover letter if there is one."""

    patches: tuple[Path, ...]
    cover: Path | None = None

    @classmethod
    def load(cls, folder: Path) -> Series:
        """What ``git format-patch`` wrote to ``folder``; no folder or an empty one is an empty series."""
        cover = folder / COVER
        patches = tuple(path for path in sorted(folder.glob("*.patch")) if path != cover)
        return cls(patches, cover if cover.exists() else None)

    @cached_property
    def digest(self) -> str:
        """Over the contents of the patches, in order; the cover letter does not count."""
        return storage.digest(*self.patches)

    @cached_property
    def touched(self) -> frozenset[str]:
        """The paths that the patches name, in the tree before or after."""
        pattern = re.compile(r"^(?:(?:---|\+\+\+) [ab]/|(?:rename|copy) (?:from|to) )(.+?)\t?$", re.MULTILINE)
        modes = re.compile(r"^diff --git a/(.+) b/\1$", re.MULTILINE)
        texts = [path.read_text(errors="surrogateescape") for path in self.patches]
        return frozenset(name for text in texts for name in pattern.findall(text) + modes.findall(text))

    @cached_property
    def description(self) -> str:
        """The cover letter as git keeps it for a branch: the subject, an empty line, the text; or nothing."""
        return "" if self.cover is None else parse_cover(self.cover.read_text(), self.cover.name)


def parse_cover(text: str, name: str) -> str:
    """Subject and text of a cover letter that git wrote, without what git adds below."""
    message = email.parser.HeaderParser().parsestr(text)
    header = re.sub(r"\n(?=[ \t])", "", message.get("Subject", ""))
    subject = str(email.header.make_header(email.header.decode_header(header)))
    prefix = re.match(r"\[[^]]*\] *", subject)
    body = str(message.get_payload())
    # The text itself may hold a line like the list's first: git's own is the last.
    starts = [found.start() for found in SHORTLOG.finditer(body)]
    if prefix is None or not starts:
        raise WorkspaceError(f"{name} is not as `nox -s export` writes it: restore it with git.")
    return "\n\n".join(part for part in (subject[prefix.end() :], body[: starts[-1]].strip("\n")) if part)


def apply(base: tree.Tree, series: Series) -> str:
    """Make the work tree of ``base`` the series' last commit, and give its id.

    The ids depend on nothing but base and patches. Files that stay the same keep their times, and what was
    applied once is only checked out.

    Raises:
        WorkspaceError: a patch does not apply; it names file and hunk, and the tree is as it was.
    """
    commit = commits(base.repository, base.base, series)
    tree.checkout(base, commit)
    return commit


def commits(repository: Repository, base: str, series: Series) -> str:
    """Bring the series' commits on ``base`` into ``repository``, whose work tree stays; the last one's id."""
    if not series.patches:
        return base
    applied = f"refs/series/{storage.digest(base, series.digest)[:16]}"
    commit = repository.commit(applied)
    if commit is None:
        with storage.scratch_folder(repository.path.parent, f"{repository.path.name}-am") as room:
            scratch = borrowing(repository, room, base)
            write_only(scratch, series.touched)
            commit = am(scratch, series)
            _require_harmless(scratch, base, commit)
            repository.check("fetch", "--quiet", "--no-tags", room, commit)
        repository.check("update-ref", applied, commit)
    return commit


def on_top(base: tree.Tree, commit: str, patch: Path) -> str:
    """Make the work tree of ``base`` what ``patch`` makes of ``commit``, which it has; the new commit's id.

    The patch is merged, so that it may have been made for another state of the series.
    """
    with storage.scratch_folder(base.path.parent, f"{base.path.name}-am") as room:
        scratch = borrowing(base.repository, room, commit)
        made = merge(scratch, patch)
        base.repository.check("fetch", "--quiet", "--no-tags", room, made)
    base.repository.check("update-ref", f"refs/series/{patch.name}", made)
    tree.checkout(base, made)
    return made


def merge(scratch: Repository, patch: Path) -> str:
    """Apply one patch to a scratch repository's HEAD, by a merge if need be; the last commit's id."""
    write_only(scratch, Series((patch,)).touched)
    finished = scratch.run("am", *AM, "--3way", patch)
    if finished.code != 0:
        raise WorkspaceError(_unmergeable(scratch, finished, patch.name))
    commit = scratch.commit()
    assert commit is not None
    return commit


def _unmergeable(scratch: Repository, finished: Finished, patch: str) -> str:
    """One sentence on why a patch could not be merged, with the first lines that conflict."""
    how = "run `nox -s edit -- --mutants`, mend it there, and `nox -s export`."
    places = []
    for name in scratch.check("diff", "--name-only", "--diff-filter=U").splitlines():
        lines = (scratch.path / name).read_text(errors="replace").splitlines()
        places += [f"{name} at line {n}" for n, line in enumerate(lines, 1) if line.startswith("<<<<<<< ")]
    if places:
        return f"{patch} conflicts with the series in {', '.join(places)}: {how}"
    return f"{_failure(finished, patch).partition(': rebase')[0].rstrip('.')}: {how}"


def _require_harmless(scratch: Repository, base: str, commit: str) -> None:
    """Refuse what git takes and a kernel tree has not: whatever reads the tree would follow it elsewhere."""
    changes = scratch.check("diff-tree", "-r", "-z", "--no-renames", base, commit).split("\0")
    for told, path in zip(changes[::2], changes[1::2], strict=False):
        _, mode, _, blob, _ = told.split()
        if mode == "160000":
            raise WorkspaceError(f"the series makes {path} a repository of its own: drop that from its patch.")
        if mode == "120000" and archive.leads_out(path, goal := scratch.check("cat-file", "blob", blob)):
            raise WorkspaceError(
                f"the series makes {path} a link that leads out of the tree, to {goal!r}: drop that from its patch."
            )


def borrowing(repository: Repository, room: Path, commit: str) -> Repository:
    """A throw-away repository in ``room`` on another's objects, at ``commit``, with no files yet."""
    scratch = Repository(room)
    scratch.check("init", "--quiet", "--initial-branch=task_diag")
    objects = repository.check("rev-parse", "--path-format=absolute", "--git-path", "objects")
    (room / ".git/objects/info/alternates").write_text(f"{objects}\n")
    scratch.check("update-ref", "HEAD", commit)
    return scratch


def write_only(scratch: Repository, names: frozenset[str]) -> None:
    """Write HEAD's files of these names, so that no time is lost on a kernel's other files."""
    escaped = [re.sub(r"([\\*?\[\]!#])", r"\\\1", name) for name in sorted(names)]
    # An empty list of patterns would mean all files to git.
    patterns = "".join(f"/{name}\n" for name in escaped) or "/.gitattributes\n"
    scratch.check("sparse-checkout", "set", "--no-cone", "--stdin", stdin=patterns)
    scratch.check("reset", "--quiet", "--hard")


def am(scratch: Repository, series: Series) -> str:
    """Apply the patches to a scratch repository's HEAD; the last commit's id."""
    # One by one, because git does not always say at which it stopped.
    for patch in series.patches:
        finished = scratch.run("am", *AM, "--no-3way", patch)
        if finished.code != 0:
            raise WorkspaceError(_failure(finished, patch.name))
    commit = scratch.commit()
    assert commit is not None
    return commit


def _failure(finished: Finished, patch: str) -> str:
    """One sentence on why `git am` stopped."""
    said = finished.err + finished.out
    hunks = re.findall(r"^error: patch failed: (.+):(\d+)$", said, re.MULTILINE)
    if hunks:
        places = ", ".join(f"{path} at the hunk of line {line}" for path, line in hunks)
        return f"{patch} does not apply to {places}: rebase the series (`nox -s edit`), then export it."
    lines = [line for line in said.splitlines() if not line.startswith(("warning:", "hint:"))]
    return f"{patch} does not apply: {re.sub('^(error|fatal): ', '', lines[0]).rstrip('.')}."
