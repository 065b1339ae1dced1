from __future__ import annotations

import os
from pathlib import Path

import pytest

from workspace.console import KEPT_LINES, LINE_LIMIT, LINE_SHOWN, Console, Sign, sign

# As a guest printed it: the end of a panic by sysrq.
PANIC = (
    b"[   63.581496] vmtest: start vmtests/test_bad.py::test_panic\r\r\n"
    b"[   63.607912] sysrq: Trigger a crash\r\r\n"
    b"[   63.608312] Kernel panic - not syncing: sysrq triggered crash\r\r\n"
    b"[   63.609972] CPU: 0 UID: 0 PID: 76 Comm: python Not tainted 7.3.4 #1 PREEMPTLAZY  \r\r\n"
    b"[   63.611252] Call Trace:\r\r\n"
)


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("[   63.608312] Kernel panic - not syncing: sysrq triggered crash", Sign.PANIC),
        ("[   63.608312][   T76] Kernel panic - not syncing: softlockup: hung tasks", Sign.PANIC),
        ("[   32.1] watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [python:76]", Sign.LOCKUP),
        ("[   32.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Sign.LOCKUP),
        ("[   32.1] rcu: INFO: rcu_sched self-detected stall on CPU", Sign.LOCKUP),
        ("[  242.1] INFO: task python:76 blocked for more than 120 seconds.", Sign.LOCKUP),
        ("[   70.2] reboot: Power down", Sign.POWER_DOWN),
        ("[    0.1] Linux version 7.3.4", None),
        # Not the kernel's words: a program's, and a test's name in our own mark.
        ("Kernel panic - not syncing: says a program", None),
        ("[   63.5] vmtest: start test_x.py::test[Kernel panic - not syncing]", None),
    ],
)
def test_only_the_kernels_own_lines_are_signs(line: str, meaning: Sign | None) -> None:
    assert sign(line) is meaning


def test_a_recorded_panic_is_seen_in_whatever_pieces_it_comes(tmp_path: Path) -> None:
    for size in (1, 7, len(PANIC)):
        into, out = os.pipe()
        log = tmp_path / f"{size}.log"
        lines: list[str] = []
        with Console(into, log, on_line=lines.append) as console:
            for at in range(0, len(PANIC), size):
                os.write(out, PANIC[at : at + size])
            os.close(out)
            while not console.ended:
                console.read(1.0)
            assert console.signs == [Sign.PANIC]
            assert console.tail.splitlines() == lines == PANIC.decode().replace("\r", "").splitlines()
        assert log.read_bytes() == PANIC


def test_what_is_not_text_and_a_last_line_without_its_end_are_kept(tmp_path: Path) -> None:
    into, out = os.pipe()
    with Console(into, tmp_path / "log") as console:
        os.write(out, b"\xff\xfe\x00 torn")
        os.close(out)
        while not console.ended:
            console.read(1.0)
        assert "torn" in console.tail
    assert (tmp_path / "log").read_bytes() == b"\xff\xfe\x00 torn"


def test_silence_is_no_end_and_the_log_grows_with_the_console(tmp_path: Path) -> None:
    into, out = os.pipe()
    with Console(into, tmp_path / "log") as console:
        assert not console.read(0.01)
        assert not console.ended
        os.write(out, b"one\n")
        assert console.read(1.0)
        assert (tmp_path / "log").read_bytes() == b"one\n"
        os.close(out)


def test_the_tail_is_bounded(tmp_path: Path) -> None:
    into, out = os.pipe()
    with Console(into, tmp_path / "log") as console:
        for number in range(3 * KEPT_LINES):
            os.write(out, b"%d\n" % number)
        os.close(out)
        while not console.ended:
            console.read(1.0)
        assert console.tail.splitlines() == [str(number) for number in range(2 * KEPT_LINES, 3 * KEPT_LINES)]


def test_a_line_without_end_is_cut_and_counts(tmp_path: Path) -> None:
    into, out = os.pipe()
    lines: list[str] = []
    with Console(into, tmp_path / "log", on_line=lines.append) as console:
        for _ in range(5):
            os.write(out, b"x" * (LINE_LIMIT // 2))
            console.read(1.0)
        assert len(lines) == 1
        assert sum(map(len, lines)) > LINE_LIMIT
        assert len(console.tail) == LINE_SHOWN
        os.write(out, b"\n[    1.0] Kernel panic - not syncing: x\n")
        os.close(out)
        while not console.ended:
            console.read(1.0)
        assert console.signs == [Sign.PANIC]


def test_a_log_is_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workspace.console.LOG_LIMIT", 10)
    into, out = os.pipe()
    lines: list[str] = []
    with Console(into, tmp_path / "log", on_line=lines.append) as console:
        for text in (b"one\n", b"two\n", b"three\n", b"four\n"):
            os.write(out, text)
            console.read(1.0)
        os.close(out)
    assert (tmp_path / "log").read_bytes().startswith(b"one\ntwo\nth\n(The guest printed more than")
    assert b"four" not in (tmp_path / "log").read_bytes()
    assert lines == ["one", "two", "three", "four"]
