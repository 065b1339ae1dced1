"""The client by itself: built, installed without anything else, and used from there."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
import stream
from stream import attribute, message

PACKAGE = Path(__file__).resolve().parents[1] / "tools" / "taskdiag"

LIBRARY = """
import sys, taskdiag
from taskdiag import wire
assert "workspace" not in sys.modules
with open(sys.argv[1], "rb") as file:
    print([(task.pid, task.base.comm) for task in wire.join(wire.decode_file(file))])
"""


def run(*words: object) -> str:
    """Run something without this environment; return what it printed."""
    finished = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-index", "--no-build-isolation", "--wheel-dir", folder / "wheel", PACKAGE)
    (wheel,) = (folder / "wheel").iterdir()
    venv.create(folder / "venv", symlinks=True)
    # Without an index, all that it depends on would have to be there already; nothing is.
    run(*pip, "--python", folder / "venv" / "bin" / "python", "install", "--no-index", wheel)
    return folder / "venv" / "bin"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "answer"
    file.write_bytes(b"".join(message(pid, attribute(stream.BASE, stream.base(pid))) for pid in (5, 6)))
    return file


def test_the_command_tells_of_itself(installed: Path) -> None:
    version = run(installed / "taskdiag", "--version")
    assert version.startswith("taskdiag ")
    assert run(installed / "python", "-c", "import importlib.metadata as m; print(m.version('taskdiag'))") == (
        version.removeprefix("taskdiag ")
    )
    usage = run(installed / "taskdiag", "--help")
    assert all(f"    {command} " in usage for command in ("ps", "dump", "show", "groups"))


def test_the_command_shows_a_recording(installed: Path, recording: Path) -> None:
    assert run(installed / "taskdiag", "show", recording).splitlines()[1:] == [
        "      5       1 S sh",
        "      6       1 S sh",
    ]


def test_the_library_reads_a_recording(installed: Path, recording: Path) -> None:
    assert run(installed / "python", "-c", LIBRARY, recording) == "[(5, b'sh'), (6, b'sh')]\n"


def test_the_library_says_that_it_is_typed(installed: Path) -> None:
    where = "import importlib.resources as r; print((r.files('taskdiag') / 'py.typed').is_file())"
    assert run(installed / "python", "-c", where) == "True\n"
