"""Files and folders that are whole or not there, and one run at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workspace import storage
from workspace.errors import WorkspaceError


def test_the_same_content_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert storage.write_whole(path, "a")
    before = path.stat()
    assert not storage.write_whole(path, b"a")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert storage.write_whole(path, "b")
    assert path.read_text() == "b"


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write_whole(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_folder_takes_its_name_only_when_it_is_done(tmp_path: Path) -> None:
    wanted = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), storage.whole_folder(wanted) as making:
        (making / "half").touch()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with storage.whole_folder(wanted) as making:
        (making / "all").touch()
        assert not wanted.exists()
    assert [entry.name for entry in wanted.iterdir()] == ["all"]


def test_digest_tells_apart_where_the_parts_end(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("bc")
    assert storage.digest("a", file) == storage.digest("a", b"bc")
    assert storage.digest("a", "bc") != storage.digest("ab", "c")


def test_a_second_run_at_once_is_told_who_has_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with storage.locked(lock, what="the objects"):
        program = (
            "import sys; from pathlib import Path; from workspace import storage\n"
            "with storage.locked(Path(sys.argv[1]), what='the objects'): pass"
        )
        finished = subprocess.run(
            [sys.executable, "-c", program, str(lock)],
            env={"PYTHONPATH": str(Path(storage.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode != 0
        assert f"holds the objects (process {lock.read_text()})" in finished.stderr
    with pytest.raises(WorkspaceError), storage.locked(lock, what="x"), storage.locked(lock, what="x"):
        pass
