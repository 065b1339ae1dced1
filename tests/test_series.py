"""The series on its base: deterministic, all or nothing, and never more written than changed."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import small_kernel

from workspace import series, tree
from workspace.errors import WorkspaceError
from workspace.series import Series
from workspace.settings import Paths
from workspace.tree import Tree

CHANGE = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: task_diag series <task-diag@localhost>
Date: Tue, 14 Nov 2023 22:13:20 +0200
Subject: [RFC PATCH v5 1/2] proc: Change a line

Why.
---
 fs/proc/base.c | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/fs/proc/base.c b/fs/proc/base.c
--- a/fs/proc/base.c
+++ b/fs/proc/base.c
@@ -1,4 +1,4 @@
 int line_1;
-int line_2;
+int line_two;
 int line_3;
 int line_4;
"""
ADDITION = """\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: task_diag series <task-diag@localhost>
Date: Tue, 14 Nov 2023 22:15:20 +0200
Subject: [RFC PATCH v5 2/2] proc: Add a file

Why.
---
 fs/proc/task_diag.c | 1 +
 1 file changed, 1 insertion(+)
 create mode 100644 fs/proc/task_diag.c

diff --git a/fs/proc/task_diag.c b/fs/proc/task_diag.c
new file mode 100644
--- /dev/null
+++ b/fs/proc/task_diag.c
@@ -0,0 +1 @@
+int task_diag;
"""


HEAD = ADDITION[: ADDITION.index("diff --git")]
RENAME = f"{HEAD}diff --git a/{{old}} b/{{new}}\nsimilarity index 100%\nrename from {{old}}\nrename to {{new}}\n"


def link(path: str, goal: str) -> str:
    """A patch that makes a symbolic link."""
    return (
        f"{HEAD}diff --git a/{path} b/{path}\nnew file mode 120000\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n"
        f"+{goal}\n\\ No newline at end of file\n"
    )


def write(path: str) -> str:
    """What makes a file, to go on in a patch."""
    return f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n"


@pytest.fixture
def base(tmp_path: Path) -> Tree:
    user = small_kernel.clone(tmp_path / "user")
    made = tree.obtain(Paths(tmp_path / "a clone"), small_kernel.SETTINGS, clone=user.path)
    small_kernel.age_all(made.path)
    return made


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "0001-change.patch").write_text(CHANGE)
    (folder / "0002-add.patch").write_text(ADDITION)
    return folder


def state(made: Tree) -> tuple[str | None, str, dict[str, tuple[int, bytes]], list[str]]:
    """All by which a user could tell that the tree was touched."""
    files = {
        str(path.relative_to(made.path)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in made.path.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }
    beside = sorted(path.name for path in made.path.parent.iterdir())
    return made.repository.commit(), made.repository.check("for-each-ref"), files, beside


def test_a_series_is_what_the_folder_holds_in_the_order_of_names(patches: Path) -> None:
    (patches / "README").touch()
    (patches / "0010-last.patch").write_text(ADDITION.replace("task_diag.c", "other.c"))
    (patches / series.COVER).write_text("cover")
    found = Series.load(patches)
    assert [path.name for path in found.patches] == ["0001-change.patch", "0002-add.patch", "0010-last.patch"]
    assert found.cover == patches / series.COVER
    assert found.touched == {"fs/proc/base.c", "fs/proc/task_diag.c", "fs/proc/other.c"}


def test_renames_modes_and_binary_files_count_as_touched(tmp_path: Path) -> None:
    (tmp_path / "1.patch").write_text(
        "diff --git a/old name.c b/new.c\nsimilarity index 100%\nrename from old name.c\nrename to new.c\n"
        "diff --git a/scripts/run b/scripts/run\nold mode 100644\nnew mode 100755\n"
        "diff --git a/b c.bin b/b c.bin\nGIT binary patch\n"
        "diff --git a/sp ace.c b/sp ace.c\n--- a/sp ace.c\t\n+++ b/sp ace.c\t\n@@ -1 +1 @@\n"
    )
    assert Series.load(tmp_path).touched == {"old name.c", "new.c", "scripts/run", "b c.bin", "sp ace.c"}


def test_the_digest_is_of_the_patches_and_not_of_the_cover(patches: Path) -> None:
    before = Series.load(patches).digest
    (patches / series.COVER).write_text("cover")
    assert Series.load(patches).digest == before
    (patches / "0002-add.patch").write_text(ADDITION + "\n")
    assert Series.load(patches).digest != before


def test_no_patches_are_the_base(base: Tree, tmp_path: Path) -> None:
    assert series.apply(base, Series.load(tmp_path / "none")) == base.base


def test_only_files_that_differ_are_written(base: Tree, patches: Path) -> None:
    commit = series.apply(base, Series.load(patches))
    assert base.repository.commit() == commit
    assert (base.path / "fs/proc/base.c").read_text() == small_kernel.BASE_C.replace("line_2;", "line_two;")
    assert (base.path / "fs/proc/task_diag.c").read_text() == "int task_diag;\n"
    _, _, files, beside = state(base)
    written = [name for name, (time, _) in files.items() if time != small_kernel.AGE * 10**9]
    assert sorted(written) == ["fs/proc/base.c", "fs/proc/task_diag.c"]
    assert beside == [".lock", base.key]
    # Another patch of the same series: what the first wrote stays.
    small_kernel.age_all(base.path)
    (patches / "0002-add.patch").write_text(ADDITION.replace("int task_diag", "int v2"))
    series.apply(base, Series.load(patches))
    _, _, files, _ = state(base)
    assert [name for name, (time, _) in files.items() if time != small_kernel.AGE * 10**9] == ["fs/proc/task_diag.c"]


def test_commit_ids_are_the_same_everywhere(
    base: Tree, patches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = series.apply(base, Series.load(patches))
    assert base.repository.check("log", "--format=%an <%ae> %ad %cn %cd", "--date=raw", "-2") == (
        "task_diag series <task-diag@localhost> 1699992920 +0200 task_diag series 1699992920 +0200\n"
        "task_diag series <task-diag@localhost> 1699992800 +0200 task_diag series 1699992800 +0200"
    )
    config = tmp_path / "config"
    config.write_text("[user]\n name = Me\n email = me@example.org\n[am]\n threeWay = true\n[core]\n autocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Somebody")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    other = tree.obtain(Paths(tmp_path / "other"), small_kernel.SETTINGS, clone=tmp_path / "user")
    assert series.apply(other, Series.load(patches)) == first


def test_what_was_applied_is_remembered(base: Tree, patches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Series.load(patches)
    first = series.apply(base, loaded)
    series.apply(base, Series(()))

    def never(*_: object) -> str:
        raise AssertionError("applied twice")

    monkeypatch.setattr(series, "am", never)
    assert series.apply(base, loaded) == first
    assert (base.path / "fs/proc/task_diag.c").exists()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (
            CHANGE.replace("-int line_2;", "-int line_9;"),
            "0001-change.patch does not apply to fs/proc/base.c at the hunk of line 1: ",
        ),
        (
            CHANGE.replace("@@ -1,4 +1,4 @@", "@@ -30,4 +30,4 @@").replace("int line_3;", "int line_0;"),
            "0001-change.patch does not apply to fs/proc/base.c at the hunk of line 30: ",
        ),
        (
            CHANGE.replace("fs/proc/base.c", "fs/proc/gone.c"),
            "0001-change.patch does not apply: fs/proc/gone.c: does not exist in index.",
        ),
        (CHANGE[: CHANGE.index(" int line_3")], "0001-change.patch does not apply: corrupt patch at "),
        (
            ADDITION.replace("b/fs/proc/task_diag.c", "b/../../outside"),
            "0001-change.patch does not apply: invalid path '../../outside'.",
        ),
        (
            ADDITION.replace("b/fs/proc/task_diag.c", "b/.git/hooks/post-checkout"),
            "0001-change.patch does not apply: invalid path '.git/hooks/post-checkout'.",
        ),
        (
            ADDITION.replace("b/fs/proc/task_diag.c", "b/fs/.GIT/config"),
            "0001-change.patch does not apply: invalid path 'fs/.GIT/config'.",
        ),
        (
            # Git takes the path for one below the tree, which it then is.
            CHANGE.replace("/fs/proc/base.c", "//etc/passwd"),
            "0001-change.patch does not apply: ",
        ),
        (
            link("fs/out", "../../outside") + write("fs/out/file"),
            "0001-change.patch does not apply: ",
        ),
        (
            link("fs/proc/out", "../../../outside"),
            "the series makes fs/proc/out a link that leads out of the tree, to '../../../outside': ",
        ),
        (
            link("fs/out", "/etc/passwd"),
            "the series makes fs/out a link that leads out of the tree, to '/etc/passwd': ",
        ),
        (
            RENAME.format(old="fs/proc/base.c", new=".git/hooks/pre-commit"),
            "0001-change.patch does not apply: invalid path '.git/hooks/pre-commit'.",
        ),
        (
            ADDITION.replace("100644", "160000")
            .replace("fs/proc/task_diag.c", "fs/module")
            .replace("+int task_diag;", f"+Subproject commit {'1' * 40}"),
            "the series makes fs/module a repository of its own: ",
        ),
        ("not a patch\n", "0001-change.patch does not apply: Patch is empty."),
        ("", "0001-change.patch does not apply: empty mbox"),
        ("\n \n", "0001-change.patch does not apply: "),
    ],
    ids=[
        *("context", "far", "no file", "cut", "outside", "hook", "GIT", "absolute", "through a link", "link out"),
        *("absolute link", "renamed to a hook", "repository", "no patch", "empty", "blank"),
    ],
)
def test_a_patch_that_does_not_apply_is_named_and_the_tree_stays(
    base: Tree, patches: Path, tmp_path: Path, harm: str, told: str
) -> None:
    series.apply(base, Series.load(patches))
    before = state(base)
    (patches / "0001-change.patch").write_text(harm)
    with pytest.raises(WorkspaceError, match=re.escape(told)) as caught:
        series.apply(base, Series.load(patches))
    assert "\n" not in str(caught.value)
    assert state(base) == before
    assert not (base.path / ".git/rebase-apply").exists()
    assert not list(tmp_path.rglob("*outside*"))


def test_the_second_patch_is_named_if_it_is_the_one(base: Tree, patches: Path) -> None:
    (patches / "0002-add.patch").write_text(CHANGE)
    with pytest.raises(
        WorkspaceError, match=r"^0002-add\.patch does not apply to fs/proc/base\.c at the hunk of line 1"
    ):
        series.apply(base, Series.load(patches))
    assert base.repository.commit() == base.base


def test_leftovers_of_killed_runs_are_swept(base: Tree, patches: Path) -> None:
    left = base.path.parent / f".{base.key}-am.12345"
    (left / ".git").mkdir(parents=True)
    series.apply(base, Series.load(patches))
    assert not left.exists()


def cover(subject: str, body: str, *, headers: str = "") -> str:
    """A cover letter, as git writes it."""
    return (
        "From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"
        "From: task_diag series <task-diag@localhost>\nDate: Tue, 14 Nov 2023 22:15:20 +0200\n"
        f"Subject: {subject}\n{headers}\n{body}\n\ntask_diag series (2):\n  one\n  two\n\n a | 1 +\n 1 file changed\n"
    )


@pytest.mark.parametrize(
    ("subject", "body", "wanted"),
    [
        ("[RFC PATCH v5 0/2] a subject", "text", "a subject\n\ntext"),
        ("[RFC PATCH v5 0/2] [odd] subject", "a\n\nb", "[odd] subject\n\na\n\nb"),
        ("[RFC PATCH v5 00/10] a long subject that\n goes on", "text", "a long subject that goes on\n\ntext"),
        ("[RFC PATCH v5 0/2] =?UTF-8?q?t=C3=A4sk?=", "täxt", "täsk\n\ntäxt"),
        ("[RFC PATCH v5 0/2] only a subject", "", "only a subject"),
        ("[RFC PATCH v5 0/2] s", "task_diag series (9):\n  mine\n\nmore", "s\n\ntask_diag series (9):\n  mine\n\nmore"),
    ],
)
def test_a_cover_letter_is_read_without_what_git_adds(subject: str, body: str, wanted: str) -> None:
    assert series.parse_cover(cover(subject, body), "c") == wanted


@pytest.mark.parametrize("text", ["", "Subject: none\n\ntext\n", cover("no prefix", "text")])
def test_a_cover_letter_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(WorkspaceError, match="c is not as `nox -s export` writes it"):
        series.parse_cover(text, "c")


def test_a_kernel_is_not_written_out_to_apply_a_patch(base: Tree, tmp_path: Path) -> None:
    scratch = series.borrowing(base.repository, tmp_path, base.base)
    series.write_only(scratch, frozenset({"fs/proc/base.c", "fs/[x]*.c", "!new"}))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("fs/**/*.c")) == ["fs/proc/base.c"]
    assert not (tmp_path / "kernel").exists()
    assert os.path.lexists(tmp_path / ".git/index")
