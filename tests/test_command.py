"""Programs that are run: output, errors, and that none of them stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workspace import command
from workspace.errors import WorkspaceError


def gone(pid: int, *, within: float = 5.0) -> bool:
    """Whether the process ends (or is a zombie that nobody reaps) in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
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


def test_a_missing_program_is_one_sentence() -> None:
    with pytest.raises(WorkspaceError, match="`no-such-program` was not found: install it"):
        command.run(["no-such-program"])


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_to_the_workspace_leaves_no_process(number: signal.Signals, code: int, tmp_path: Path) -> None:
    child = tmp_path / "child"
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from workspace import __main__ as main, command\n"
        f"def work(*_): command.run(['sh', '-c', 'sleep 600 & echo $! > {child}; wait'])\n"
        "main._do_build = work\n"
        "sys.exit(main.main(['build']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[1])}
    with subprocess.Popen([sys.executable, str(program)], env=environment, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 20
        while not (child.exists() and child.read_text().strip()) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(20) == code
    assert gone(int(child.read_text()))
