"""The developer's worktree ``linux/``: the series as commits, out of ``patches/`` and back to the byte."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from workspace import mutants, storage
from workspace import series as series_module
from workspace.errors import WorkspaceError, tells_of_no_room
from workspace.git import Repository
from workspace.progress import say
from workspace.series import Series
from workspace.settings import Paths, Settings
from workspace.tree import Tree, checkout

BRANCH = "task_diag"
BASE = "task_diag-base"  # a tag
DESCRIPTION = f"branch.{BRANCH}.description"
# What the worktree and patches/ had in common when one was last made from the other.
COMMITS, FILES = "workspace.commits", "workspace.files"
# The commit that a run is making the worktree; stays if the run is killed.
UPDATING = "workspace.updating"
# The mutants are one commit on this branch, on top of the series; and that commit when it was last in the patch.
MUTANTS, MUTANTS_COMMIT = "mutants", "workspace.mutants"
# All that git's configuration or its next version could decide otherwise.
FORMAT = (
    "--quiet",
    "--zero-commit",
    "--full-index",
    "--no-signature",
    "--suffix=.patch",
    "--filename-max-length=64",
    "--encode-email-headers",
    "--no-base",
    "--no-thread",
    "--no-attach",
    "--no-notes",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--find-renames=50%",
    "--diff-algorithm=myers",
    "--indent-heuristic",
    "--unified=3",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--binary",
)
SERIES_FORMAT = (*FORMAT, "--cover-letter", "--cover-from-description=subject", "--numbered", "--start-number=1")


@dataclass(frozen=True)
class _Commit:
    id: str
    parents: tuple[str, ...]
    date: str
    """Author's date, ``SECONDS ZONE``."""
    message: str

    def __str__(self) -> str:
        return f'{self.id[:12]} ("{self.message.partition(chr(10))[0]}")'


def edit(paths: Paths, base: Tree, series: Series) -> str:
    """Make ``linux/`` the series' commits on ``base``, on the branch ``task_diag``; give one sentence on it.

    The cover letter becomes the branch's description. The worktree does not depend on ``build/``.

    Raises:
        WorkspaceError: the worktree there holds work that is not in ``patches/``; it stays as it is.
    """
    with _held(paths):
        return _edit(paths, base, series)


def _held(paths: Paths) -> contextlib.AbstractContextManager[None]:
    return storage.locked(paths.build / "worktree.lock", what=f"{paths.worktree} and {paths.patches}")


def _edit(paths: Paths, base: Tree, series: Series) -> str:
    commit = series_module.commits(base.repository, base.base, series)
    path = paths.worktree
    common = _common(commit, series.description)
    if path.exists() and any(path.iterdir()):
        worktree = _worktree(paths)
        if (target := _recorded(worktree, UPDATING)) != "":
            # A killed run left files of two series; before it, all there was had been exported.
            Path(worktree.check("rev-parse", "--path-format=absolute", "--git-path", "index.lock")).unlink(
                missing_ok=True
            )
            worktree.check("reset", "--quiet", "--hard", target)
        elif (reason := unexported(paths)) is not None:
            raise WorkspaceError(reason)
        if worktree.commit(BASE) == base.base and _recorded(worktree, COMMITS) == common:
            _record(worktree, common, _files_digest(paths.patches))
            return f"{path} already holds the series ({len(series.patches)} patches on Linux {base.version})."
        worktree.check("fetch", "--quiet", "--no-tags", base.path, base.base, commit)
        worktree.check("config", "--local", UPDATING, commit)
        _describe(worktree, base, series)
        # Files that were touched, though not changed, would stop the reset.
        worktree.run("update-index", "-q", "--refresh")
        worktree.check("reset", "--quiet", "--keep", commit)
        _record(worktree, common, _files_digest(paths.patches))
        worktree.check("config", "--local", "--unset", UPDATING)
    else:
        say(f"making the worktree {path}: this copies the tree once")
        with storage.whole_folder(path) as making:
            words = ["--quiet", "--local", "--no-checkout", "--single-branch", "--branch=base", "--no-tags"]
            base.repository.check("clone", *words, base.path, making)
            worktree = Repository(making)
            # Left alone, it would name a branch that is not there any more.
            worktree.run("remote", "set-head", "origin", "--delete")
            worktree.check("remote", "remove", "origin")
            _describe(worktree, base, series)
            worktree.check("update-ref", f"refs/heads/{BRANCH}", commit)
            worktree.check("symbolic-ref", "HEAD", f"refs/heads/{BRANCH}")
            worktree.check("branch", "--quiet", "-D", "base")
            worktree.check("-c", "checkout.workers=0", "reset", "--quiet", "--hard")
            _record(worktree, common, _files_digest(paths.patches))
    return (
        f"{path} holds the series: {len(series.patches)} patches on Linux {base.version}, branch {BRANCH}, "
        f"base {BASE}; the cover letter is the branch's description (git branch --edit-description)."
    )


def edit_mutants(paths: Paths, base: Tree, series: Series) -> str:
    """As edit(), and then the mutants as one commit more, on the branch ``mutants``; give one sentence on it.

    What conflicts with the series is left for the developer to mend, as `git am` leaves it.
    """
    with _held(paths):
        return _edit_mutants(paths, base, series)


def _edit_mutants(paths: Paths, base: Tree, series: Series) -> str:
    told = _edit(paths, base, series)
    worktree = _worktree(paths)
    tip = worktree.commit(f"refs/heads/{MUTANTS}")
    if tip is not None and tip != _recorded(worktree, MUTANTS_COMMIT):
        raise WorkspaceError(
            f"{paths.worktree} has a branch {MUTANTS} that is not in vmtests/{mutants.PATCH}: check it out and run "
            f"`nox -s export`, or remove it (git branch -D {MUTANTS})."
        )
    worktree.check("checkout", "--quiet", "-B", MUTANTS, BRANCH)
    worktree.run("config", "--local", "--unset", MUTANTS_COMMIT)
    finished = worktree.run("am", *series_module.AM, "--3way", paths.vmtests / mutants.PATCH)
    if finished.code != 0:
        return (
            f"vmtests/{mutants.PATCH} conflicts with the series: mend {paths.worktree} (git status), `git add` what "
            "is mended, `git am --continue`, and run `nox -s export`."
        )
    worktree.check("config", "--local", MUTANTS_COMMIT, worktree.check("rev-parse", "HEAD"))
    return (
        f"{told} The mutants are on top of it, on the branch {MUTANTS}: amend that one commit, run `nox -s export`, "
        f"and go back with `git checkout {BRANCH}`."
    )


def export(paths: Paths, settings: Settings, *, overwrite: bool = False) -> str:
    """Write the worktree's commits and description to ``patches/``; give one sentence on what changed.

    The patches have the series' author, and each commit's own date. What is written was applied again, and
    gave the same commits. ``overwrite``: even if ``patches/`` changed since the worktree was made from it.

    The mutants are merged with what changed. On the branch ``mutants`` only they are exported.

    Raises:
        WorkspaceError: the worktree is not clean, its history is no series, or a commit does not survive the
            trip through a patch; ``patches/`` is as it was.
    """
    with _held(paths):
        return _export(paths, settings, overwrite)


def _export(paths: Paths, settings: Settings, overwrite: bool) -> str:
    worktree = _worktree(paths)
    if _branch(worktree) == MUTANTS:
        return _export_mutants(paths, worktree)
    if (reason := _dirty(paths, worktree)) is not None:
        raise WorkspaceError(reason)
    here = _files_digest(paths.patches)
    if here == _recorded(worktree, FILES) and unexported(paths) is None:
        # On another base the same commits would give other line numbers and blob ids.
        return "nothing to export: patches/ is up to date."
    base = worktree.commit(BASE)
    assert base is not None
    with storage.scratch_folder(paths.build, "export") as room:
        made = room / "patches"
        made.mkdir()
        head = format_series(worktree, base, made, prefix=settings.subject_prefix)
        if _files_digest(made) == here:
            changed: list[str] = []
        elif not overwrite and here not in (_recorded(worktree, FILES), _files_digest(room / "none")):
            raise WorkspaceError(
                f"{paths.patches} changed since {paths.worktree} was made from it: move the worktree away, "
                "run `nox -s edit` and take your commits over with git cherry-pick, "
                "or `nox -s export -- --overwrite`."
            )
        else:
            changed = _differing(made, paths.patches)
            _replace(made, paths.patches)
    _record(worktree, _common(head, _description(worktree)), _files_digest(paths.patches))
    problem = ""
    try:
        changed += _refresh_mutants(paths, worktree)
    except WorkspaceError as error:
        problem = f" But {error}"
    return (f"exported: {', '.join(changed)}." if changed else "nothing to export: patches/ is up to date.") + problem


def _refresh_mutants(paths: Paths, worktree: Repository) -> list[str]:
    """Make the mutants' patch one for the series as it is now; the name of the file if it changed."""
    patch = paths.vmtests / mutants.PATCH
    if not patch.exists():
        return []
    with storage.scratch_folder(paths.build, "mutants") as room:
        scratch = series_module.borrowing(worktree, room, worktree.check("rev-parse", "HEAD"))
        commit = series_module.merge(scratch, patch)
        return _write_mutants(patch, scratch, commit)


def _export_mutants(paths: Paths, worktree: Repository) -> str:
    """Write the one commit of the branch ``mutants``; give one sentence on what changed."""
    if (reason := _uncommitted(paths, worktree)) is not None:
        raise WorkspaceError(reason)
    series_tip, head = worktree.check("rev-parse", BRANCH), worktree.check("rev-parse", "HEAD")
    with storage.scratch_folder(paths.build, "mutants") as room:
        scratch = series_module.borrowing(worktree, room, series_tip)
        commits = _history(scratch, series_tip, head)
        if len(commits) != 1:
            raise WorkspaceError(
                f"the branch {MUTANTS} has {len(commits)} commits on top of {BRANCH}: make them one "
                f"(git reset --soft {BRANCH}; git commit)."
            )
        commit = _rewrite(scratch, series_tip, commits)
        series_module.write_only(scratch, _touched(scratch, series_tip, commit))
        changed = _write_mutants(paths.vmtests / mutants.PATCH, scratch, commit)
    worktree.check("config", "--local", MUTANTS_COMMIT, head)
    return f"exported: {changed[0]}." if changed else f"nothing to export: vmtests/{mutants.PATCH} is up to date."


def _write_mutants(patch: Path, scratch: Repository, commit: str) -> list[str]:
    # Through a file, because a text would lose its carriage returns.
    made = scratch.path / ".git" / patch.name
    words = [*FORMAT, "--no-numbered", "--subject-prefix=PATCH", f"--output={made}", "-1", commit]
    scratch.check("format-patch", *words)
    return [f"vmtests/{patch.name}"] if storage.write_whole(patch, made.read_bytes()) else []


def committed(paths: Paths, settings: Settings, out: Path) -> Series:
    """The worktree's commits as patches in the folder ``out``; work that is in no commit is an error."""
    worktree = _worktree(paths)
    if (reason := _dirty(paths, worktree)) is not None:
        raise WorkspaceError(reason)
    base = worktree.commit(BASE)
    assert base is not None
    format_series(worktree, base, out, prefix=settings.subject_prefix)
    return Series.load(out)


def snapshot(paths: Paths, base: Tree) -> str:
    """Make ``base``'s work tree what ``linux/`` holds right now, committed or not; the commit's id.

    Neither the worktree nor its index changes; in ``base`` only files that differ are written. Files that its
    .gitignore names are left out. The same content gives the same id.
    """
    with _held(paths):
        return _snapshot(paths, base)


def _snapshot(paths: Paths, base: Tree) -> str:
    worktree = _worktree(paths)
    index = Path(worktree.check("rev-parse", "--path-format=absolute", "--git-path", "index"))
    with storage.scratch_folder(paths.build, "index") as room:
        # Its times too: git trusts an entry only if the file is older than the index.
        shutil.copy2(index, room / "index")
        own = {"GIT_INDEX_FILE": str(room / "index")}
        worktree.check("add", "--all", **own)
        content = worktree.check("write-tree", **own)
    parent = worktree.commit(BASE)
    assert parent is not None
    date = worktree.check("show", "--no-patch", "--format=%ct +0000", parent)
    dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    words = ["commit-tree", "-p", parent, "-m", "The developer's worktree as it stands", content]
    commit = worktree.check(*words, **dates)
    if base.repository.commit(commit) is None:
        base.repository.check("fetch", "--quiet", "--no-tags", paths.worktree, commit)
    base.repository.check("update-ref", "refs/series/worktree", commit)
    checkout(base, commit)
    return commit


def unexported(paths: Paths) -> str | None:
    """One sentence on the work in ``linux/`` that is not in ``patches/``, or None if all of it is."""
    if not paths.worktree.exists():
        return None
    worktree = _worktree(paths)
    if (reason := _dirty(paths, worktree)) is not None:
        return reason
    base = worktree.commit(BASE)
    assert base is not None
    with storage.scratch_folder(paths.build, "export") as room:
        scratch = series_module.borrowing(worktree, room, base)
        head = _rewrite(scratch, base, _history(scratch, base, worktree.check("rev-parse", "HEAD")))
    if _recorded(worktree, COMMITS) == _common(head, _description(worktree)):
        return None
    return f"{paths.worktree} has commits, or a cover letter, that are not in patches/: run `nox -s export`."


def format_series(worktree: Repository, base: str, out: Path, *, prefix: str) -> str:
    """Write the commits ``base``..HEAD of any repository to ``out``, with the branch's description as cover.

    Gives the id that the last commit has with the series' author; applying the files gave it too.
    """
    with storage.scratch_folder(out.parent, f"{out.name}-scratch") as room:
        # All in a repository of its own, because the developer's has a configuration, too.
        scratch = series_module.borrowing(worktree, room, base)
        commits = _history(scratch, base, worktree.check("rev-parse", "HEAD"))
        if not commits:
            return base
        description = _description(worktree)
        if not description:
            raise WorkspaceError(
                f"{worktree.path} has no cover letter: write it with `git branch --edit-description {BRANCH}`."
            )
        head = _rewrite(scratch, base, commits)
        series_module.write_only(scratch, _touched(scratch, base, head))
        newest = max(commits, key=lambda commit: int(commit.date.split()[0]))
        scratch.check("config", DESCRIPTION, f"{description}\n")
        scratch.check("update-ref", f"refs/heads/{BRANCH}", head)
        words = [*SERIES_FORMAT, f"--subject-prefix={prefix}", f"--output-directory={out}", f"{base}..{BRANCH}"]
        # Git dates and signs a cover letter as the committer who writes it, now.
        scratch.check("format-patch", *words, GIT_COMMITTER_DATE=newest.date)
        written = Series.load(out)
        _try(scratch, base, head, written, commits)
    if written.description != description:
        raise WorkspaceError(
            "the cover letter does not survive the trip through a file: give it one line as subject, an "
            "empty line, and a text without a list like git's own."
        )
    return head


def _touched(scratch: Repository, base: str, head: str) -> frozenset[str]:
    listed = scratch.check("log", "--format=", "--name-only", "--no-renames", "-z", f"{base}..{head}")
    return frozenset(filter(None, listed.split("\0")))


def _history(scratch: Repository, base: str, head: str) -> list[_Commit]:
    """The commits ``base``..``head``, oldest first: one line of changes, each without a sign-off."""
    text = scratch.check("log", "--reverse", "-z", "--format=%H%n%P%n%ad%n%B", "--date=raw", f"{base}..{head}")
    commits = []
    for entry in filter(None, text.split("\0")):
        name, parents, date, message = entry.split("\n", 3)
        commits.append(_Commit(name, tuple(parents.split()), date, message))
    before = base
    for commit in commits:
        if commit.parents != (before,):
            raise WorkspaceError(
                f"{commit} does not follow {before[:12]} alone: make the branch one line of commits on the "
                f"tag {BASE} (git rebase {BASE})."
            )
        if re.search(r"^signed-off-by:", commit.message, re.MULTILINE | re.IGNORECASE):
            raise WorkspaceError(
                f"{commit} has a Signed-off-by, which is put on at submission: remove it (git rebase -i)."
            )
        if scratch.run("diff-tree", "--quiet", before, commit.id).code == 0:
            raise WorkspaceError(f"{commit} changes nothing: drop it (git rebase -i {BASE}).")
        before = commit.id
    return commits


def _rewrite(scratch: Repository, base: str, commits: list[_Commit]) -> str:
    """The same commits by the series' author, as `git am` would make them; the last one's id."""
    head = base
    for commit in commits:
        message = scratch.check("stripspace", stdin=commit.message) + "\n"
        dates = {"GIT_AUTHOR_DATE": commit.date, "GIT_COMMITTER_DATE": commit.date}
        words = ["commit-tree", "-p", head, f"{commit.id}^{{tree}}"]
        head = scratch.check(*words, stdin=message, **dates)
    return head


def _try(scratch: Repository, base: str, head: str, written: Series, commits: list[_Commit]) -> None:
    """Apply what was written, which has to give the same commits again."""
    scratch.check("reset", "--quiet", "--hard", base)
    try:
        if series_module.am(scratch, written) == head:
            return
    except WorkspaceError as error:
        if tells_of_no_room(str(error)):
            raise
    wanted, found = (scratch.check("rev-list", "--reverse", f"{base}..{end}").split() for end in (head, "HEAD"))
    first = next(commit for commit, a, b in itertools.zip_longest(commits, wanted, found[: len(wanted)]) if a != b)
    raise WorkspaceError(
        f"{first} does not survive the trip through a patch: give it one line as subject, an empty line, "
        "and a text without lines of a patch (`---`, `diff`, `From:`)."
    )


def _worktree(paths: Paths) -> Repository:
    worktree = Repository(paths.worktree)
    if not paths.worktree.is_dir():
        raise WorkspaceError(f"there is no worktree {paths.worktree}: run `nox -s edit`.")
    if not (paths.worktree / ".git").exists() or worktree.commit(BASE) is None:
        raise WorkspaceError(
            f"{paths.worktree} was not made by `nox -s edit` (no tag {BASE}): move it away, and run that."
        )
    return worktree


def _dirty(paths: Paths, worktree: Repository) -> str | None:
    """One sentence on what is in no commit, or on a branch that is not the series'."""
    if _branch(worktree) != BRANCH:
        return f"{paths.worktree} is not on the branch {BRANCH}: finish the rebase, or check the branch out."
    return _uncommitted(paths, worktree)


def _branch(worktree: Repository) -> str:
    return worktree.run("symbolic-ref", "--quiet", "HEAD").out.strip().removeprefix("refs/heads/")


def _uncommitted(paths: Paths, worktree: Repository) -> str | None:
    """One sentence on what is in no commit."""
    status = worktree.check("--no-optional-locks", "status", "--porcelain", "--untracked-files=all").splitlines()
    if not status:
        return None
    more = f" and {len(status) - 1} more" if len(status) > 1 else ""
    return f"{paths.worktree} has work in no commit ({status[0][3:]}{more}): commit it or remove it."


def _description(worktree: Repository) -> str:
    """The cover letter, with one empty line after its subject."""
    text = worktree.run("config", "--get", DESCRIPTION).out
    return worktree.check("stripspace", stdin=text)


def _describe(worktree: Repository, base: Tree, series: Series) -> None:
    worktree.check("tag", "--force", BASE, base.base)
    if series.description:
        worktree.check("config", DESCRIPTION, f"{series.description}\n")
    else:
        worktree.run("config", "--unset-all", DESCRIPTION)


def _common(commit: str, description: str) -> str:
    return storage.digest(commit, description)


def _recorded(worktree: Repository, name: str) -> str:
    return worktree.run("config", "--local", "--get", name).out.strip()


def _record(worktree: Repository, common: str, files: str) -> None:
    worktree.check("config", "--local", COMMITS, common)
    worktree.check("config", "--local", FILES, files)


def _files_digest(folder: Path) -> str:
    files = sorted(folder.glob("*.patch"))
    return storage.digest(*(part for path in files for part in (path.name, path)))


def _differing(made: Path, folder: Path) -> list[str]:
    old = {path.name: path.read_bytes() for path in folder.glob("*.patch")}
    new = {path.name: path.read_bytes() for path in made.glob("*.patch")}
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _replace(made: Path, folder: Path) -> None:
    """Make ``folder`` the patches of ``made`` and whatever else it held, in one step."""
    with storage.whole_folder(folder) as making:
        kept = [path for path in folder.glob("*") if path.suffix != ".patch"] if folder.exists() else []
        for path in [*kept, *made.glob("*.patch")]:
            if path.is_dir():
                shutil.copytree(path, making / path.name)
            else:
                shutil.copy2(path, making / path.name)
