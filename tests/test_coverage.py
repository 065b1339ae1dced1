"""What of a file ran: the counts of the compiler's own, for a program of a few lines in the kernel's place."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stand_in import kernel

from workspace import coverage, gcov, vmtest
from workspace.coverage import Line, Place, Report
from workspace.errors import WorkspaceError
from workspace.settings import Paths

SOURCE = """\
int seldom(int x)
{
	if (x > 2 && x < 9)
		return 1;
	return x;
}

int main(int argc, char **argv)
{
	return seldom(argc) == 1 ? 3 : 0;
}
"""


class Counted:
    """A clone whose vmtests are runs of a program that counts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = Paths(folder / "clone")
        self.source = folder / "tree"
        self.kernel = kernel(folder / "objects", "CONFIG_TASK_DIAG=y\nCONFIG_GCOV_KERNEL=y\n")
        for room in (self.paths.vmtests, self.source / "fs", self.kernel.folder / "fs"):
            room.mkdir(parents=True)
        self.explain("")
        (self.source / "fs/diag.c").write_text(SOURCE)
        words = ["gcc", "-O0", "--coverage", "-c", str(self.source / "fs/diag.c"), "-o", "fs/diag.o"]
        subprocess.run(words, cwd=self.kernel.folder, check=True)
        subprocess.run(["gcc", "--coverage", "fs/diag.o", "-o", "diag"], cwd=self.kernel.folder, check=True)
        self.runs: list[list[int]] = []
        self.ends = 0
        monkeypatch.setattr(vmtest, "run", self.run_guests)

    def explain(self, text: str) -> None:
        (self.paths.vmtests / coverage.UNREACHED).write_text(text)

    def run_guests(self, *_words: object, **_more: object) -> int:
        shutil.rmtree(self.paths.results, ignore_errors=True)
        for number, numbers in enumerate(self.runs, 1):
            counted = self.kernel.folder / "fs/diag.gcda"
            counted.unlink(missing_ok=True)
            for more in numbers:
                subprocess.run([self.kernel.folder / "diag", *"x" * (more - 1)], check=False)
            place = self.paths.results / coverage.FOLDER / f"guest-{number}/fs"
            place.mkdir(parents=True)
            shutil.move(counted, place)
        return self.ends

    def run(self) -> int:
        return coverage.run(self.kernel, self.source, paths=self.paths, words=[], facts={"version": "7.3.4"})

    @property
    def data(self) -> dict[str, Any]:
        data = json.loads((self.paths.results / coverage.FILE).read_text())
        assert isinstance(data, dict)
        return data


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(tmp_path, monkeypatch)


def test_what_any_guest_reached_is_reached(counted: Counted, capsys: pytest.CaptureFixture[str]) -> None:
    counted.runs = [[1], [3, 3], [9]]
    assert counted.run() == 0
    assert counted.data["lines"] == {"reached": 6, "of": 6}
    assert counted.data["branches"] == {"reached": 6, "of": 6}
    assert (counted.data["missed"], counted.data["untaken"], counted.data["version"]) == ([], [], "7.3.4")
    assert "coverage: 6 of 6 lines reached (100.0 %)." in capsys.readouterr().err
    assert (counted.paths.results / "coverage/index.html").exists()


REASON = '[[line]]\nfunction = "seldom"\ncode = "return 1;"\nreason = "{}"\n'


def test_a_line_that_is_not_reached_needs_a_reason(counted: Counted, capsys: pytest.CaptureFixture[str]) -> None:
    counted.runs = [[1], [2]]
    assert counted.run() == 1
    said = capsys.readouterr().err
    assert "coverage: fs/diag.c:4: no test reaches `return 1;` in seldom(): write one, or say why not in" in said
    (missed,) = counted.data["missed"]
    assert missed == {"file": "fs/diag.c", "line": 4, "function": "seldom", "code": "return 1;", "reason": None}
    first = counted.data["untaken"][0]
    assert (first["line"], first["function"], first["branches"]) == (3, "seldom", [0, 2, 0, 0])
    counted.explain(REASON.format("no one is that tall"))
    assert counted.run() == 0
    (missed,) = counted.data["missed"]
    assert missed["reason"] == "no one is that tall"


def test_a_reason_for_what_is_reached_is_stale(counted: Counted, capsys: pytest.CaptureFixture[str]) -> None:
    counted.runs = [[1, 3]]
    counted.explain(REASON.format("no one is that tall"))
    assert counted.run() == 1
    assert "has a reason for `return 1;` in seldom(), which is reached, or gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[line]]\nfunction = 'f'\ncode = 'c'\n", "each line needs function, code and reason"),
        ("[[line", "cannot be read"),
        (REASON.format(" "), "`return 1;` has no reason"),
    ],
)
def test_reasons_that_are_not_whole_are_an_error_before_anything_runs(counted: Counted, text: str, says: str) -> None:
    counted.explain(text)
    with pytest.raises(WorkspaceError, match=says):
        counted.run()
    assert not counted.paths.results.exists()


def test_tests_that_fail_fail_the_session(counted: Counted) -> None:
    counted.runs, counted.ends = [[1, 3, 9]], 6
    assert counted.run() == 6


def test_guests_that_hand_out_nothing_are_an_error(counted: Counted) -> None:
    with pytest.raises(WorkspaceError, match="no guest handed out what it had counted"):
        counted.run()


def test_a_report_of_no_lines_is_no_success() -> None:
    assert Report((), {}).code == 1
    assert Report((Line("f.c", 1, Place("f", "c"), 1, ()),), {}).code == 0


def test_counts_are_known_by_the_path_of_their_object(tmp_path: Path) -> None:
    file = tmp_path / "work/objects/fs/proc/task_diag.gcda"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"adcg")
    (file.parent / "task_diag.gcno").symlink_to("/nowhere")
    assert gcov.counts(tmp_path) == {"work/objects/fs/proc/task_diag": b"adcg"}
