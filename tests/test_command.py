"""Programs that are run: output, errors, and that none of them stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from workspace import command
from workspace.errors import WorkspaceError


def gone(pid: int, *, within: float = 5.0) -> bool:
    """Whether the process ends (or is a zombie that nobody reaps) in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_run_gives_code_and_both_outputs() -> None:
    finished = command.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (finished.code, finished.out, finished.err) == (3, "out\n", "err\n")


def test_run_feeds_standard_input() -> None:
    assert command.check(["cat"], stdin="text\n") == "text\n"


def test_check_names_the_command_its_end_and_its_last_words() -> None:
    with pytest.raises(command.CommandError) as caught:
        command.check(["sh", "-c", "echo why >&2; exit 4"], hint="mend it")
    assert "ended with exit code 4; mend it:" in str(caught.value)
    assert "why" in str(caught.value)
    assert caught.value.finished.code == 4


def test_a_signal_is_named() -> None:
    with pytest.raises(command.CommandError, match="signal SIGKILL"):
        command.check(["sh", "-c", "kill -KILL $$"])


@pytest.mark.parametrize("tethered", [True, False])
def test_a_missing_program_is_one_sentence(tethered: bool) -> None:
    with (
        pytest.raises(WorkspaceError, match="`no-such-program` was not found: install it"),
        command.started(["no-such-program"], tethered=tethered),
    ):
        pass


def test_a_program_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(WorkspaceError, match=r"did not end within 0\.5 s"):
        command.run(["sh", "-c", f"sleep 600 & echo $! $$ > {pids}; wait"], timeout=0.5)
    for pid in map(int, pids.read_text().split()):
        assert gone(pid)


def test_one_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "GRACE", 0.2)
    with command.started(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        command.end_group(process, grace=0.2)
    assert process.returncode == -signal.SIGKILL


def test_an_exception_in_the_block_ends_the_program() -> None:
    with pytest.raises(KeyboardInterrupt), command.started(["sleep", "600"]) as process:
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGTERM


def test_follow_writes_the_log_and_hands_on_each_line(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "logs" / "x.log"
    finished = command.follow(["sh", "-c", "echo a; echo b >&2; exit 2"], log=log, on_line=lines.append)
    assert (finished.code, lines, log.read_text()) == (2, ["a", "b"], "a\nb\n")


TOOLS = Path(command.__file__).parents[1]


def working(tmp_path: Path, code: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A Python that runs ``code``, and the pids that this leads to in the file ``pids``."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TOOLS)}, stderr=subprocess.PIPE
    )
    pids = tmp_path / "pids"
    while not pids.exists() or not pids.read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.02)
    return process, [int(pid) for pid in pids.read_text().split()]


WORKSPACE = """
import sys
from workspace import __main__ as main, command
def work(*_): command.run(["sh", "-c", "sleep 600 & echo $! $$ >pids; wait"])
main._do_build = work
sys.exit(main.main(["build"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_to_the_workspace_leaves_no_process(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process, pids = working(tmp_path, WORKSPACE)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == code
    assert [pid for pid in pids if not gone(pid)] == []


def test_a_signal_while_a_program_starts_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(subprocess.Popen[Any]):
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **more)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    started: list[int] = []
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        command.run(["sleep", "600"], cwd=tmp_path)
    assert [pid for pid in started if not gone(pid, within=0.5)] == []
    assert len(started) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_what_we_ignore_a_program_ignores() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command.run(["sh", "-c", "kill -s HUP $$; echo lives"]).out == "lives\n"
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_workspace_ends_with_who_started_it(number: signal.Signals, tmp_path: Path) -> None:
    # At SIGTERM nox, too, ends without a word to its children.
    process, pids = working(tmp_path, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKSPACE!r}])")
    process.send_signal(number)
    process.communicate(timeout=20)
    assert [pid for pid in pids if not gone(pid)] == []


STARTED = "with command.started({words!r}, tethered=True): signal.pause()"
FOLLOWED = "command.follow({words!r}, log=Path('log'))"


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (STARTED, "sleep 600 & echo $! $$ >pids; wait"),
        (FOLLOWED, "sleep 600 & echo $! $$ >pids; wait"),
        (STARTED, "trap '' TERM HUP INT; sleep 600 & echo $! $$ >pids; wait"),
        (STARTED, "sh -c 'kill -s STOP $$' & echo $! $$ >pids; kill -s STOP $$"),
        (STARTED, "sh -c 'sleep 0.2; echo $$ >pids; exec sleep 600' & :"),
    ],
    ids=["plain", "followed", "deaf", "stopped", "without a leader"],
)
def test_what_is_tethered_ends_with_us_when_we_are_killed(tmp_path: Path, how: str, line: str) -> None:
    imports = "import signal; from pathlib import Path; from workspace import command"
    process, pids = working(tmp_path, f"{imports}\n{how.format(words=['sh', '-c', line])}")
    process.kill()
    process.communicate(timeout=20)
    assert [pid for pid in pids if not gone(pid)] == []


def test_what_is_tethered_sees_no_difference(tmp_path: Path) -> None:
    # SigQ counts the signals of all processes of the user.
    line = "grep Sig[^Q] /proc/self/status; ls /proc/self/fd; cat; pwd; env; exit 7"
    seen = []
    for tethered in (False, True):
        with command.started(
            ["sh", "-c", line],
            cwd=tmp_path,
            env={"HOME": "x", "LANG": "C", "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            tethered=tethered,
        ) as process:
            assert os.getpgid(process.pid) == os.getsid(process.pid) == process.pid
            # To the end of its output, which nothing else holds.
            seen.append((process.communicate(timeout=20), process.returncode))
    assert seen[0] == seen[1]
    assert seen[0][1] == 7


def test_nothing_of_a_tether_stays() -> None:
    with command.started(["sh", "-c", "echo $$"], stdout=subprocess.PIPE, tethered=True) as process:
        assert process.stdout is not None
        group = int(process.stdout.readline())
        process.wait()
        waiting = members(group)
    assert len(waiting) == 1
    assert gone(waiting[0])


def members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            state, _, number = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(number) == group and state != "Z":
                found.append(int(entry.name))
    return found
