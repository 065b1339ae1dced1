"""Which files a patch's checks compile."""

from __future__ import annotations

import pytest

from workspace import check_files

SERIES = ["fs/proc/base.c", "fs/proc/task_diag.c", "fs/proc/internal.h", "include/linux/ptrace.h", "MAINTAINERS"]
TREE = {"fs/proc/base.c", "fs/proc/task_diag.c", "kernel/ptrace.c", "arch/s390/x.c", "tools/x.c", "kernel/pid.c"}


@pytest.mark.parametrize(
    ("touched", "compiled"),
    [
        (["kernel/pid.c"], ("kernel/pid.c",)),
        (["MAINTAINERS", "fs/proc/Makefile"], ()),
        (["fs/proc/gone.c"], ()),
        (["fs/proc/internal.h"], ("fs/proc/base.c", "fs/proc/task_diag.c")),
        (["include/uapi/linux/ptrace.h"], ("fs/proc/base.c", "fs/proc/task_diag.c")),
        (["include/linux/ptrace.h"], ("fs/proc/base.c", "fs/proc/task_diag.c", "kernel/ptrace.c")),
        (["include/linux/nowhere.h"], ("fs/proc/base.c", "fs/proc/task_diag.c")),
        (["tools/x.c", "tools/x.h"], ()),
        (["arch/s390/x.c", "arch/s390/x.h"], ()),
    ],
)
def test_the_rule(touched: list[str], compiled: tuple[str, ...]) -> None:
    assert check_files.to_compile(touched, series=SERIES, exists=TREE.__contains__, srcarch="x86") == compiled


def test_an_architecture_compiles_its_own() -> None:
    touched = ["arch/s390/x.c"]
    assert check_files.to_compile(touched, series=SERIES, exists=TREE.__contains__, srcarch="s390") == (*touched,)


def test_a_file_that_comes_later_is_not_compiled_yet() -> None:
    found = check_files.to_compile(
        ["fs/proc/internal.h"], series=SERIES, exists={"fs/proc/base.c"}.__contains__, srcarch="x86"
    )
    assert found == ("fs/proc/base.c",)


def test_headers_for_user_space() -> None:
    touched = [
        "include/uapi/linux/task_diag.h",
        "include/uapi/Kbuild",
        "include/linux/a.h",
        "include/uapi/linux/gone.h",
    ]
    there = {"include/uapi/linux/task_diag.h", "include/linux/a.h", "include/uapi/Kbuild"}
    assert check_files.uapi_headers(touched, exists=there.__contains__) == ("linux/task_diag.h",)
