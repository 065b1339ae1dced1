"""Reports of compilers and checkers, and which of them are a patch's."""

from __future__ import annotations

from workspace import check_warnings

GCC = """\
In file included from /t/include/linux/a.h:4,
                 from /t/fs/x.c:1:
/t/include/linux/a.h: In function 'f':
/t/include/linux/a.h:7:6: warning: unused variable 'i' [-Wunused-variable]
    7 |  int i;
      |      ^
/t/include/linux/a.h:3:1: note: declared here
/t/fs/x.c:9:1: error: no 'y'
make[3]: *** [scripts/Makefile.build:1: fs/x.o] Error 1
"""
SPARSE = """\
/t/fs/x.c:12:9: warning: incorrect type in argument 1 (different address spaces)
/t/fs/x.c:12:9:    expected void const *
/t/fs/x.c:12:9:    got char [noderef] __user *
/t/fs/x.c:20:13: warning: context imbalance in 'f' - wrong count at exit
"""
COCCINELLE = """\
/usr/bin/spatch -D report --no-show-diff --very-quiet --cocci-file /t/scripts/coccinelle/free/kfree.cocci
/t/fs/x.c:30:1-6: ERROR: reference preceded by free on line 28
/t/fs/x.c:41:2-3: Unneeded semicolon
"""


def test_compilers_lines_are_kept_together() -> None:
    warning, error = check_warnings.parse(GCC, source="/t")
    assert (warning.path, warning.says) == (
        "include/linux/a.h",
        "warning: unused variable 'i' [-Wunused-variable]",
    )
    assert warning.lines[1:] == (
        "    7 |  int i;",
        "      |      ^",
        "include/linux/a.h:3:1: note: declared here",
    )
    assert error.lines == ("fs/x.c:9:1: error: no 'y'",)


def test_sparse_says_what_it_expected_and_got_below() -> None:
    types, context = check_warnings.parse(SPARSE, source="/t")
    assert len(types.lines) == 3
    assert context.lines == ("fs/x.c:20:13: warning: context imbalance in 'f' - wrong count at exit",)


def test_coccinelle_reports_without_saying_warning() -> None:
    free, semicolon = check_warnings.parse(COCCINELLE, source="/t", any_text=True)
    assert free.says == "ERROR: reference preceded by free on line N"
    assert semicolon.lines == ("fs/x.c:41:2-3: Unneeded semicolon",)


def test_a_line_in_a_header_that_two_files_include_counts_once() -> None:
    assert len(check_warnings.parse(GCC + GCC, source="/t")) == 2


def test_lines_that_only_moved_are_not_new() -> None:
    before = check_warnings.parse(SPARSE, source="/t")
    after = check_warnings.parse(SPARSE.replace(":12:", ":112:").replace(":20:13", ":121:1"), source="/t")
    assert check_warnings.new(after, before) == []
    moved = COCCINELLE.replace(":30:", ":130:").replace("line 28", "line 128")
    old, new = (check_warnings.parse(text, source="/t", any_text=True) for text in (COCCINELLE, moved))
    assert check_warnings.new(new, old) == []


def test_another_of_the_same_kind_is_new() -> None:
    before = check_warnings.parse(SPARSE, source="/t")
    after = check_warnings.parse(SPARSE + SPARSE.replace(":20:13", ":44:1"), source="/t")
    assert [report.lines[0].partition(": ")[0] for report in check_warnings.new(after, before)] == ["fs/x.c:44:1"]


def test_the_same_in_another_file_is_new() -> None:
    before = check_warnings.parse(SPARSE, source="/t")
    after = check_warnings.parse(SPARSE.replace("/t/fs/x.c", "/t/fs/y.c"), source="/t")
    assert check_warnings.new(after, before) == after
