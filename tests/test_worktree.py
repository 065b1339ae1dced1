"""The worktree and patches/: inverse to the byte, and no work lost on the way."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import small_kernel

from workspace import series, storage, tree, worktree
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.series import Series
from workspace.settings import Paths
from workspace.tree import Tree

SETTINGS = small_kernel.SETTINGS
DESCRIPTION = (
    "task_diag: a cover letter with ümlauts whose subject is longer than a line of a mail may be\n\nText.\n\n  More.\n"
)
HOSTILE = """\
[user]
    name = Me
    email = me@example.org
[core]
    autocrlf = true
    abbrev = 5
    attributesFile = {home}/attributes
    quotePath = false
[diff]
    noprefix = true
    mnemonicPrefix = true
    algorithm = patience
    context = 9
    renames = copies
    orderFile = {home}/order
    external = false
    submodule = log
[format]
    signOff = true
    attach = "boundary"
    thread = deep
    signature = mine
    suffix = .txt
    numbered = false
    coverLetter = false
    subjectPrefix = HOSTILE
    outputDirectory = {home}/elsewhere
    useAutoBase = true
    pretty = fuller
    notes = true
    encodeEmailHeaders = false
    headers = "X-Mine: yes\\n"
    to = someone@example.org
    from = Me <me@example.org>
[am]
    threeWay = true
    keepcr = false
[mailinfo]
    scissors = true
[commit]
    gpgSign = true
    cleanup = verbatim
[i18n]
    commitEncoding = latin1
    logOutputEncoding = latin1
[log]
    showSignature = true
    date = relative
[color]
    ui = always
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Tree]:
    """A workspace with a developed and exported series; made once, because git takes its time."""
    folder = tmp_path_factory.mktemp("template")
    paths = Paths(folder / "a clone")
    base = tree.obtain(paths, SETTINGS, clone=small_kernel.clone(folder / "user").path)
    develop(paths, base)
    worktree.export(paths, SETTINGS)
    return paths, base


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "a clone")


@pytest.fixture
def base(template: tuple[Paths, Tree], paths: Paths) -> Tree:
    made = template[1]
    path = paths.trees / made.key
    shutil.copytree(made.path, path)
    return dataclasses.replace(made, path=path)


def develop(paths: Paths, base: Tree) -> Repository:
    """Two commits of a developer, and a cover letter, on an empty series."""
    worktree.edit(paths, base, Series.load(paths.patches))
    developed = Repository(paths.worktree)
    (developed.path / "fs/proc/base.c").write_text(small_kernel.BASE_C.replace("line_20;", "line_twenty;"))
    (developed.path / "kernel/fork.c").rename(developed.path / "kernel/clone.c")
    small_kernel.commit(
        developed, "[odd] proc: Chänge a line\n\nBecause é.\n\nLink: https://example.org", date=1_700_000_500
    )
    (developed.path / "fs/proc/task_diag.c").write_text("int task_diag;\r\nint x;\n")
    (developed.path / "fs/proc/run.sh").write_text("#!/bin/sh\n")
    (developed.path / "fs/proc/run.sh").chmod(0o755)
    (developed.path / "fs/proc/data").write_bytes(bytes(range(256)))
    small_kernel.commit(developed, f"proc: {'A subject that is very long ' * 4}end\n\nText.", date=1_700_000_400)
    developed.check("config", worktree.DESCRIPTION, DESCRIPTION)
    return developed


@pytest.fixture
def developed(template: tuple[Paths, Tree], paths: Paths) -> Repository:
    shutil.copytree(template[0].patches, paths.patches)
    shutil.copytree(template[0].worktree, paths.worktree)
    return Repository(paths.worktree)


def patches(paths: Paths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths.patches.iterdir()} if paths.patches.exists() else {}


def content(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mode)
        for file in path.rglob("*")
        if file.is_file() and ".git" not in file.parts
    }


def test_a_new_series_is_exported_under_its_fixed_author(paths: Paths, developed: Repository) -> None:
    found = patches(paths)
    assert sorted(found) == [
        "0000-cover-letter.patch",
        "0001-odd-proc-Ch-nge-a-line.patch",
        "0002-proc-A-subject-that-is-very-long-A-subject-that-is-v.patch",
    ]
    for data in found.values():
        head, _, text = data.decode().partition("\n\n")
        assert head.startswith("From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n")
        assert "\nFrom: task_diag series <task-diag@localhost>\n" in head
        assert "\nSubject: [RFC PATCH v5 " in head
        assert "example.org>" not in data.decode()
        assert "Signed-off-by" not in text
        assert not text.endswith("-- \n")
    # The cover has the date of the newest patch, whichever that is.
    assert b"\nDate: Wed, 15 Nov 2023 00:21:40 +0200\n" in found["0000-cover-letter.patch"]
    assert b"\nDate: Wed, 15 Nov 2023 00:21:40 +0200\n" in found["0001-odd-proc-Ch-nge-a-line.patch"]
    assert developed.check("log", "-1", "--format=%an") == "Dev"


def test_edit_and_export_are_inverse_to_the_byte(
    paths: Paths, base: Tree, developed: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, files = patches(paths), content(paths.worktree)
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    (home / "config").write_text(HOSTILE.format(home=home))
    for name in ("attributes", ".config/git/attributes"):
        (home / name).write_text("*.c -diff\n* text eol=crlf\n")
    (home / ".config/git/ignore").write_text("*.c\n")
    (home / "order").write_text("fs/proc/task_diag.c\nfs/proc/run.sh\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "config"))
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2001-01-01")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "user/.git"))
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    shutil.rmtree(developed.path)
    worktree.edit(paths, base, Series.load(paths.patches))
    assert content(paths.worktree) == files
    assert developed.check("log", "--format=%s", f"{worktree.BASE}..").splitlines()[1] == "[odd] proc: Chänge a line"
    assert developed.check("config", worktree.DESCRIPTION) + "\n" == DESCRIPTION
    assert worktree.export(paths, SETTINGS) == "nothing to export: patches/ is up to date."
    # Written anew all the same, because the line above may have come from memory.
    shutil.rmtree(paths.patches)
    assert worktree.export(paths, SETTINGS).startswith("exported: 0000-cover-letter.patch, 0001-odd")
    assert patches(paths) == before
    assert not (home / "elsewhere").exists()


def test_the_configuration_of_the_worktree_decides_nothing_either(paths: Paths, developed: Repository) -> None:
    before = patches(paths)
    with (developed.path / ".git/config").open("a") as config:
        config.write(HOSTILE.format(home=developed.path / ".git"))
    (developed.path / ".git/info/attributes").write_text("*.c -diff\n")
    shutil.rmtree(paths.patches)
    worktree.export(paths, SETTINGS)
    assert patches(paths) == before


def test_the_same_series_on_another_base_leaves_patches_alone(
    paths: Paths, developed: Repository, tmp_path: Path
) -> None:
    before = patches(paths)
    shutil.rmtree(developed.path)
    more = {"fs/proc/base.c": "int line_0;\n" * 3 + small_kernel.BASE_C}
    other = tree.obtain(paths, SETTINGS, clone=small_kernel.clone(tmp_path / "other", more=more).path)
    worktree.edit(paths, other, Series.load(paths.patches))
    assert worktree.export(paths, SETTINGS).startswith("nothing to export")
    assert patches(paths) == before


def test_what_is_exported_is_what_is_built(paths: Paths, base: Tree, developed: Repository) -> None:
    series.apply(base, Series.load(paths.patches))
    assert content(base.path) == content(developed.path)


def test_an_amended_commit_is_exported_and_a_dropped_patch_goes(paths: Paths, developed: Repository) -> None:
    (paths.patches / "README").write_text("kept")
    developed.check("reset", "--quiet", "--hard", "HEAD~1")
    told = worktree.export(paths, SETTINGS)
    assert told == (
        "exported: 0000-cover-letter.patch, 0001-odd-proc-Ch-nge-a-line.patch, "
        "0002-proc-A-subject-that-is-very-long-A-subject-that-is-v.patch."
    )
    assert sorted(patches(paths)) == ["0000-cover-letter.patch", "0001-odd-proc-Ch-nge-a-line.patch", "README"]
    assert b"[RFC PATCH v5 1/1]" in patches(paths)["0001-odd-proc-Ch-nge-a-line.patch"]


def test_the_worktree_stands_without_build(paths: Paths, developed: Repository) -> None:
    assert not paths.build.exists()
    developed.check("fsck", "--connectivity-only")
    assert developed.check("status", "--porcelain") == ""
    assert worktree.unexported(paths) is None


# --- what is not exported


def refused(paths: Paths) -> str:
    before = patches(paths)
    with pytest.raises(WorkspaceError) as caught:
        worktree.export(paths, SETTINGS)
    assert patches(paths) == before
    return str(caught.value)


def test_a_worktree_has_to_be_there(paths: Paths) -> None:
    assert refused(paths) == f"there is no worktree {paths.worktree}: run `nox -s edit`."
    assert worktree.unexported(paths) is None


def test_a_folder_of_another_kind_is_not_touched(paths: Paths, base: Tree) -> None:
    paths.worktree.mkdir(parents=True)
    (paths.worktree / "mine").write_text("mine")
    assert "was not made by `nox -s edit`" in refused(paths)
    with pytest.raises(WorkspaceError, match="move it away"):
        worktree.edit(paths, base, Series(()))
    assert [path.name for path in paths.worktree.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["fs/proc/base.c", "fs/proc/new.c"])
def test_work_in_no_commit_is_refused_and_named(paths: Paths, base: Tree, developed: Repository, name: str) -> None:
    (developed.path / name).write_text("int edited;\n")
    wanted = f"{developed.path} has work in no commit ({name}): commit it or remove it."
    assert refused(paths) == wanted
    assert worktree.unexported(paths) == wanted
    with pytest.raises(WorkspaceError) as caught:
        worktree.edit(paths, base, Series.load(paths.patches))
    assert str(caught.value) == wanted
    assert (developed.path / name).read_text() == "int edited;\n"


def test_commits_and_cover_letters_that_are_not_exported_stop_edit(
    paths: Paths, base: Tree, developed: Repository
) -> None:
    head = developed.commit()
    developed.check("config", worktree.DESCRIPTION, DESCRIPTION + "more\n")
    with pytest.raises(WorkspaceError, match=r"not in patches/: run `nox -s export`"):
        worktree.edit(paths, base, Series.load(paths.patches))
    developed.check("config", worktree.DESCRIPTION, DESCRIPTION)
    assert worktree.unexported(paths) is None
    developed.check("commit", "--quiet", "--amend", "--message", "proc: Another subject")
    with pytest.raises(WorkspaceError, match=r"not in patches/: run `nox -s export`"):
        worktree.edit(paths, base, Series.load(paths.patches))
    assert developed.commit() != head
    worktree.export(paths, SETTINGS)
    assert worktree.unexported(paths) is None
    assert "already holds the series (2 patches" in worktree.edit(paths, base, Series.load(paths.patches))


def test_a_rebase_in_progress_is_refused(paths: Paths, developed: Repository) -> None:
    developed.run("rebase", "--quiet", "--exec", "false", worktree.BASE)
    assert "is not on the branch task_diag: finish the rebase" in refused(paths)


def test_a_sign_off_is_refused_and_its_commit_named(paths: Paths, developed: Repository) -> None:
    message = "proc: Signed\n\nText.\n\nSigned-off-by: Me <me@example.org>"
    developed.check("commit", "--quiet", "--amend", "--message", message)
    told = refused(paths)
    assert told == (
        f'{(developed.commit() or "")[:12]} ("proc: Signed") has a Signed-off-by, which is put on at submission: '
        "remove it (git rebase -i)."
    )


def test_a_merge_and_an_empty_commit_are_refused(paths: Paths, developed: Repository) -> None:
    head = developed.check("rev-parse", "HEAD")
    developed.check("commit", "--quiet", "--allow-empty", "--message", "nothing")
    assert '("nothing") changes nothing: drop it' in refused(paths)
    developed.check("checkout", "--quiet", "-b", "side", worktree.BASE)
    (developed.path / "side.c").touch()
    small_kernel.commit(developed, "side")
    developed.check("checkout", "--quiet", worktree.BRANCH)
    developed.check("reset", "--quiet", "--hard", head)
    developed.check("merge", "--quiet", "--no-ff", "--message", "merged", "side")
    assert "make the branch one line of commits on the tag task_diag-base" in refused(paths)


def test_a_series_needs_a_cover_letter(paths: Paths, developed: Repository) -> None:
    developed.check("config", "--unset", worktree.DESCRIPTION)
    assert refused(paths) == (
        f"{developed.path} has no cover letter: write it with `git branch --edit-description task_diag`."
    )


@pytest.mark.parametrize(
    "message",
    [
        "proc: Title\n\nText\n---\nlost",
        "proc: Title\n\ndiff --git a/x b/x",
        "proc: Title\n\nFrom: Other <other@example.org>\n\nText",
        "proc: first line\nsecond line\n\nText",
        "[PATCH] proc: Title\n\nText",
    ],
)
def test_a_message_that_a_patch_cannot_carry_is_refused(paths: Paths, developed: Repository, message: str) -> None:
    developed.check("commit", "--quiet", "--amend", "--message", message)
    told = refused(paths)
    assert told.startswith((developed.commit() or "")[:12])
    assert "does not survive the trip through a patch" in told


@pytest.mark.parametrize("text", ["two\nlines\n\nText", "Title\n\ntask_diag series (2):\n  mine\n"])
def test_a_cover_letter_that_a_file_cannot_carry_is_refused_or_kept(
    paths: Paths, developed: Repository, text: str
) -> None:
    developed.check("config", worktree.DESCRIPTION, text)
    if text.startswith("two"):
        assert "the cover letter does not survive" in refused(paths)
    else:
        worktree.export(paths, SETTINGS)
        assert Series.load(paths.patches).description == text.rstrip("\n")


def test_patches_that_changed_meanwhile_are_not_overwritten(paths: Paths, developed: Repository) -> None:
    cover = paths.patches / series.COVER
    cover.write_text(cover.read_text() + "pulled\n")
    developed.check("commit", "--quiet", "--amend", "--message", "proc: Another subject")
    assert "changed since" in refused(paths)
    assert worktree.export(paths, SETTINGS, overwrite=True).startswith("exported: ")
    assert b"pulled" not in patches(paths)[series.COVER]


# --- edit on top of what is there


def test_edit_takes_over_patches_that_changed(paths: Paths, base: Tree, developed: Repository) -> None:
    for path in paths.patches.glob("000[02]-*"):
        path.unlink()
    small_kernel.age_all(developed.path)
    worktree.edit(paths, base, Series.load(paths.patches))
    assert developed.check("log", "--format=%s", f"{worktree.BASE}..") == "[odd] proc: Chänge a line"
    assert not (developed.path / "fs/proc/task_diag.c").exists()
    assert developed.check("status", "--porcelain") == ""
    assert (developed.path / "fs/proc/base.c").stat().st_mtime == small_kernel.AGE
    assert worktree.unexported(paths) is None


def test_edit_moves_to_a_new_base(paths: Paths, developed: Repository, tmp_path: Path) -> None:
    user = small_kernel.clone(tmp_path / "user")
    (user.path / "Kbuild").write_text("obj-y := other/\n")
    head = small_kernel.commit(user, "moved on")
    moved = tree.obtain(paths, SETTINGS, clone=user.path)
    worktree.edit(paths, moved, Series.load(paths.patches))
    assert developed.commit(worktree.BASE) == head
    assert (developed.path / "Kbuild").read_text() == "obj-y := other/\n"
    assert developed.check("rev-list", "--count", f"{head}..HEAD") == "2"
    assert worktree.export(paths, SETTINGS).startswith("nothing to export")


def test_a_patch_that_does_not_apply_leaves_the_worktree(paths: Paths, base: Tree, developed: Repository) -> None:
    before, head = content(developed.path), developed.commit()
    first = next(paths.patches.glob("0001-*"))
    first.write_text(first.read_text().replace("-int line_20;", "-int line_99;"))
    with pytest.raises(WorkspaceError, match=r"0001-.* does not apply to fs/proc/base\.c"):
        worktree.edit(paths, base, Series.load(paths.patches))
    assert (content(developed.path), developed.commit()) == (before, head)


def test_an_edit_that_was_killed_is_finished(
    paths: Paths, base: Tree, developed: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in paths.patches.glob("000[02]-*"):
        path.unlink()
    real = Repository.check

    def killed(self: Repository, *words: str | Path, **extra: str) -> str:
        if words[:1] == ("reset",) and self.path == developed.path:
            # As a SIGKILL in the middle of git's work leaves it.
            (self.path / ".git/index.lock").touch()
            (self.path / "fs/proc/base.c").write_text("half")
            raise KeyboardInterrupt
        return real(self, *words, **extra)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Repository, "check", killed)
        worktree.edit(paths, base, Series.load(paths.patches))
    worktree.edit(paths, base, Series.load(paths.patches))
    assert developed.check("status", "--porcelain") == ""
    assert worktree.unexported(paths) is None
    assert developed.check("log", "--format=%s", f"{worktree.BASE}..") == "[odd] proc: Chänge a line"


def test_a_killed_first_edit_leaves_no_worktree(paths: Paths, base: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    left = paths.root / ".linux.123"
    left.mkdir(parents=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(worktree, "_record", killed)
        worktree.edit(paths, base, Series(()))
    assert sorted(path.name for path in paths.root.iterdir()) == ["build"]


# --- the worktree as it stands


def test_a_snapshot_is_the_worktree_with_all_that_is_not_ignored(
    paths: Paths, base: Tree, developed: Repository
) -> None:
    series.apply(base, Series.load(paths.patches))
    small_kernel.age_all(base.path)
    (developed.path / "fs/proc/base.c").write_text("int staged;\n")
    developed.check("add", "fs/proc/base.c")
    (developed.path / "fs/proc/base.c").write_text("int edited;\n")
    (developed.path / "fs/proc/new.c").write_text("int new;\n")
    (developed.path / "fs/proc/new.o").write_text("object")
    (developed.path / "fs/proc/task_diag.c").unlink()
    before = content(developed.path), developed.check("status", "--porcelain"), developed.check("for-each-ref")
    index = (developed.path / ".git/index").read_bytes()
    commit = worktree.snapshot(paths, base)
    wanted = {name: entry for name, entry in content(developed.path).items() if name != "fs/proc/new.o"}
    assert content(base.path) == wanted
    assert base.repository.commit() == commit
    assert (developed.path / ".git/index").read_bytes() == index
    assert (
        content(developed.path),
        developed.check("status", "--porcelain"),
        developed.check("for-each-ref"),
    ) == before
    times = {name: (base.path / name).stat().st_mtime for name in wanted}
    written = sorted(name for name, when in times.items() if when != small_kernel.AGE)
    assert written == ["fs/proc/base.c", "fs/proc/new.c"]
    assert worktree.snapshot(paths, base) == commit
    (developed.path / "fs/proc/new.c").write_text("int newer;\n")
    assert worktree.snapshot(paths, base) != commit
    assert (base.path / "fs/proc/new.c").read_text() == "int newer;\n"


def test_an_edit_in_the_second_of_the_last_git_command_is_seen(paths: Paths, base: Tree, developed: Repository) -> None:
    # Same size, same second: git decides by the time of its index alone.
    path = developed.path / "kernel/clone.c"
    path.write_text("int aaaa;\n")
    developed.check("add", "kernel/clone.c")
    times = path.stat().st_mtime_ns
    path.write_text("int bbbb;\n")
    os.utime(path, ns=(times, times))
    os.utime(developed.path / ".git/index", ns=(times, times))
    worktree.snapshot(paths, base)
    assert (base.path / "kernel/clone.c").read_text() == "int bbbb;\n"


def test_a_snapshot_works_in_the_middle_of_a_rebase(paths: Paths, base: Tree, developed: Repository) -> None:
    developed.run("rebase", "--quiet", "--exec", "false", worktree.BASE)
    worktree.snapshot(paths, base)
    assert content(base.path) == content(developed.path)


def test_the_developers_own_git_works_in_the_worktree(paths: Paths, developed: Repository, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    who = ["-c", "user.name=Me", "-c", "user.email=me@example.org"]
    for words in (["status", "--short"], [*who, "commit", "--allow-empty", "-qm", "x"], ["fsck", "--no-dangling"]):
        subprocess.run(["git", *words], cwd=developed.path, env=env, check=True, capture_output=True)
    assert '("x") changes nothing' in refused(paths)


# --- the mutants, which go on top of the series


MUTATED = "int task_diag;\r\nint x;\nint mutant;\n"


@pytest.fixture
def mutants(paths: Paths, base: Tree, developed: Repository) -> Path:
    """A patch of mutants that was made on the worktree, exported, and the worktree as before."""
    patch = paths.vmtests / "mutants.patch"
    patch.parent.mkdir()
    developed.check("checkout", "--quiet", "-b", worktree.MUTANTS)
    (developed.path / "fs/proc/task_diag.c").write_text(MUTATED)
    base_c = developed.path / "fs/proc/base.c"
    base_c.write_text(base_c.read_text().replace("line_30;", "line_30, mutant;"))
    small_kernel.commit(developed, "proc: Mutants", date=1_700_000_600)
    assert worktree.export(paths, SETTINGS) == "exported: vmtests/mutants.patch."
    developed.check("checkout", "--quiet", worktree.BRANCH)
    assert base.base == developed.commit(worktree.BASE)
    return patch


def test_the_mutants_are_exported_by_the_series_author(mutants: Path, paths: Paths, developed: Repository) -> None:
    text = mutants.read_bytes().decode()
    head, _, rest = text.partition("\n\n")
    assert head.splitlines()[1:] == [
        "From: task_diag series <task-diag@localhost>",
        "Date: Wed, 15 Nov 2023 00:23:20 +0200",
        "Subject: [PATCH] proc: Mutants",
    ]
    assert "+int mutant;\n" in rest and "task_diag.c b/fs/proc" in rest
    assert not list(paths.patches.glob("*utant*"))
    assert worktree.export(paths, SETTINGS) == "nothing to export: patches/ is up to date."
    developed.check("checkout", "--quiet", worktree.MUTANTS)
    assert worktree.export(paths, SETTINGS) == "nothing to export: vmtests/mutants.patch is up to date."


def test_export_merges_the_mutants_with_what_changed(mutants: Path, paths: Paths, developed: Repository) -> None:
    before = mutants.read_text()
    base_c = developed.path / "fs/proc/base.c"
    base_c.write_text("int line_0;\n" + base_c.read_text())
    small_kernel.commit(developed, "proc: Another line", date=1_700_000_700)
    told = worktree.export(paths, SETTINGS)
    assert told.startswith("exported: 0000-cover-letter.patch, ")
    assert told.endswith("0003-proc-Another-line.patch, vmtests/mutants.patch.")
    after = mutants.read_text()
    assert after != before
    assert "@@ -28,7 +28,7 @@" in after and "@@ -27,7 +27,7 @@" in before
    assert after.partition("\n---\n")[0] == before.partition("\n---\n")[0]
    # Of the new state, and to the byte: git needs no merge.
    developed.check("apply", "--check", mutants)


def test_export_leaves_mutants_alone_that_the_change_does_not_concern(
    mutants: Path, paths: Paths, developed: Repository
) -> None:
    before = mutants.read_text()
    (developed.path / "kernel/clone.c").write_text("int another;\n")
    small_kernel.commit(developed, "proc: Elsewhere", date=1_700_000_700)
    assert "mutants.patch" not in worktree.export(paths, SETTINGS)
    assert mutants.read_text() == before


def conflict(developed: Repository) -> None:
    base_c = developed.path / "fs/proc/base.c"
    base_c.write_text(base_c.read_text().replace("line_30;", "line_thirty;"))
    small_kernel.commit(developed, "proc: The very line", date=1_700_000_700)


def test_export_names_what_is_to_be_mended_and_edit_lets_it_be(
    mutants: Path, paths: Paths, base: Tree, developed: Repository
) -> None:
    before = mutants.read_text()
    conflict(developed)
    told = worktree.export(paths, SETTINGS)
    assert told.startswith("exported: 0000-cover-letter.patch, ")
    assert told.endswith(
        "0003-proc-The-very-line.patch. But mutants.patch conflicts with the series in fs/proc/base.c at line 30: "
        "run `nox -s edit -- --mutants`, mend it there, and `nox -s export`."
    )
    assert mutants.read_text() == before
    assert worktree.unexported(paths) is None

    series = Series.load(paths.patches)
    assert "conflicts with the series: mend" in worktree.edit_mutants(paths, base, series)
    base_c = developed.path / "fs/proc/base.c"
    assert "<<<<<<<" in base_c.read_text()
    base_c.write_text(
        re.sub(r"<<<<<<<.*>>>>>>>[^\n]*", "int line_thirty, mutant;", base_c.read_text(), flags=re.DOTALL)
    )
    developed.check("add", "fs/proc/base.c")
    developed.check("am", "--continue")
    assert worktree.export(paths, SETTINGS) == "exported: vmtests/mutants.patch."
    developed.check("checkout", "--quiet", worktree.BRANCH)
    developed.check("apply", "--check", mutants)
    assert "+int line_thirty, mutant;\n" in mutants.read_text()


def test_mutants_are_edited_as_one_commit_on_top(
    mutants: Path, paths: Paths, base: Tree, developed: Repository
) -> None:
    told = worktree.edit_mutants(paths, base, Series.load(paths.patches))
    assert "amend that one commit" in told
    assert developed.check("rev-parse", "HEAD~1") == developed.check("rev-parse", worktree.BRANCH)
    (developed.path / "fs/proc/task_diag.c").write_text(f"{MUTATED}int another_mutant;\n")
    assert "has work in no commit (fs/proc/task_diag.c)" in refused(paths)
    developed.check("add", "--all")
    developed.check("commit", "--quiet", "--amend", "--no-edit")
    developed.check("checkout", "--quiet", worktree.BRANCH)
    with pytest.raises(WorkspaceError, match=r"branch mutants that is not in vmtests/mutants\.patch"):
        worktree.edit_mutants(paths, base, Series.load(paths.patches))
    developed.check("checkout", "--quiet", worktree.MUTANTS)
    assert worktree.export(paths, SETTINGS) == "exported: vmtests/mutants.patch."
    assert "+int another_mutant;\n" in mutants.read_text()
    small = developed.path / "fs/proc/small.c"
    small.touch()
    small_kernel.commit(developed, "proc: A second commit")
    assert "has 2 commits on top of task_diag: make them one" in refused(paths)


def test_a_kernel_with_mutants_is_the_series_and_the_patch(
    mutants: Path, paths: Paths, base: Tree, developed: Repository
) -> None:
    commit = series.apply(base, Series.load(paths.patches))
    mutated = series.on_top(base, commit, mutants)
    assert (base.path / "fs/proc/task_diag.c").read_bytes() == MUTATED.encode()
    assert base.repository.check("rev-parse", f"{mutated}~1") == commit
    assert series.on_top(base, commit, mutants) == mutated, "the same source has one name"
    # The developer's state as it stands, with the patch on it already.
    developed.check("checkout", "--quiet", worktree.MUTANTS)
    snapshot = worktree.snapshot(paths, base)
    assert series.on_top(base, snapshot, mutants) == snapshot
    developed.check("checkout", "--quiet", worktree.BRANCH)
    conflict(developed)
    with pytest.raises(
        WorkspaceError, match=r"conflicts with the series in fs/proc/base.c at line 30: run `nox -s edit"
    ):
        series.on_top(base, worktree.snapshot(paths, base), mutants)


def test_a_second_run_at_once_is_refused(paths: Paths, base: Tree, developed: Repository) -> None:
    (developed.path / "fs/proc/base.c").write_text("int other;\n")
    small_kernel.commit(developed, "proc: Change a line again")
    before = patches(paths), content(paths.worktree)
    with storage.locked(paths.build / "worktree.lock", what="them"):
        refused = pytest.raises(WorkspaceError, match=r"another run in this clone holds .*linux and .*patches")
        with refused:
            worktree.edit(paths, base, Series.load(paths.patches))
        with refused:
            worktree.export(paths, SETTINGS)
        with refused:
            worktree.snapshot(paths, base)
    assert (patches(paths), content(paths.worktree)) == before
    assert worktree.export(paths, SETTINGS).startswith("exported: ")


def test_commits_as_patches_without_exporting(paths: Paths, developed: Repository, tmp_path: Path) -> None:
    before = patches(paths)
    (developed.path / "fs/proc/base.c").write_text("int other;\n")
    small_kernel.commit(developed, "proc: One more\n\nWhy.", date=1_700_000_600)
    (tmp_path / "out").mkdir()
    series_there = worktree.committed(paths, SETTINGS, tmp_path / "out")
    assert [path.name for path in series_there.patches][2:] == ["0003-proc-One-more.patch"]
    assert patches(paths) == before
    (developed.path / "fs/proc/base.c").write_text("int in_no_commit;\n")
    (tmp_path / "again").mkdir()
    with pytest.raises(WorkspaceError, match=r"work in no commit \(fs/proc/base.c\)"):
        worktree.committed(paths, SETTINGS, tmp_path / "again")
