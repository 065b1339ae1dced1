"""The sessions run and demo: what a command in a guest prints, how it ends, and what a guest that dies is told as."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in import StandIn, kernel
from test_command import gone

from workspace import guest_command
from workspace.guest_command import GuestError, Stream
from workspace.kernel import Kernel
from workspace.settings import Paths

TESTS = Path(__file__).resolve().parent
TOOLS = TESTS.parent / "tools"

# The workspace, with a kernel that is built and a stand-in for what boots it.
SESSION = """
import sys
from pathlib import Path
from workspace import __main__ as main, accelerator, machine
from workspace.kernel import Kernel
from workspace.settings import Paths

clone = Path(sys.argv[1])
machine._virtme_run = lambda: str(clone / "bin/virtme-run")
machine.require_tools = lambda: None
accelerator.choose = lambda *_, **__: "kvm"
built = Kernel(clone / "kernel", "default", "7.3.4", "00")
main.Paths = lambda: Paths(clone)
main._build = lambda *_: main.Built(built, {}, built.folder)
sys.exit(main.main(sys.argv[2:]))
"""


class Clone:
    """A clone whose kernel is built and boots at once; the next guest behaves as told."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root)
        self.kernel: Kernel = kernel(root / "kernel")
        self.stand_in = StandIn(root / "bin")
        self.stand_in.behave("runs")

    def start(self, *words: str | bytes, **environment: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(map(str, (TOOLS, TESTS)))
        return subprocess.Popen(
            [sys.executable, "-c", SESSION, self.paths.root, *words],
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def session(self, *words: str | bytes, **environment: str) -> tuple[int, bytes, str]:
        with self.start(*words, **environment) as process:
            out, err = process.communicate(b"typed\n", timeout=30)
        assert self.guests() == []
        return process.returncode, out, err.decode(errors="replace")

    def guests(self) -> list[Path]:
        return list(self.paths.guests.glob("*")) if self.paths.guests.exists() else []


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_output_errors_and_exit_code_are_the_commands(clone: Clone) -> None:
    code, out, err = clone.session("run", "sh", "-c", "echo told; echo wrong >&2; pwd; cat; exit 7")
    assert (code, out, err) == (7, f"told\n{clone.paths.root}\n".encode(), "wrong\n")


def test_words_arrive_unchanged(clone: Clone) -> None:
    words = [b"a b", b"it's", b'"', b"$HOME `x` \\", b"two\nlines\n", b"", b"--help", b"--", bytes(range(1, 256))]
    words += ["ü".encode(), b"\xff\xfe", b"A=b"]
    for session in (["run"], ["run", "--flavour", "default", "--worktree", "--accel", "kvm"], ["run", "--"]):
        code, out, err = clone.session(
            *session,
            sys.executable,
            "-c",
            "import sys, os; os.write(1, ARGV)".replace("ARGV", r"b'\0'.join(map(os.fsencode, sys.argv[1:]))"),
            *words,
        )
        assert (code, out.split(b"\0"), err) == (0, words, "")


def test_bytes_are_carried_unchanged(clone: Clone) -> None:
    data = bytes(range(256)) * 4096
    (clone.paths.root / "data").write_bytes(data)
    code, out, err = clone.session("run", "sh", "-c", "cat data; echo x >&2; printf '\\036end-'")
    assert (code, out, err) == (0, data + b"\x1eend-", "x\n")


def test_taskdiag_can_be_imported(clone: Clone) -> None:
    _, out, _ = clone.session("run", "python3", "-c", "import taskdiag; print(taskdiag.__file__)")
    assert out == f"{TOOLS}/taskdiag/__init__.py\n".encode()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_is_told_as_a_shell_tells_it(clone: Clone, number: signal.Signals) -> None:
    code, out, _ = clone.session("run", "sh", "-c", f"kill -{number.value} $$")
    assert (code, out) == (128 + number, b"")


@pytest.mark.parametrize(("words", "code"), [(["no-such-command"], 127), (["/"], 126)])
def test_a_command_that_is_none_is_told_as_a_shell_tells_it(clone: Clone, words: list[str], code: int) -> None:
    found, out, err = clone.session("run", *words)
    assert (found, out) == (code, b"")
    assert words[0] in err


def test_a_shells_own_commands_are_not_meant(clone: Clone) -> None:
    code, _, err = clone.session("run", "exit", "3")
    assert (code, "exit" in err) == (127, True)


@pytest.mark.parametrize("words", [["run"], ["run", "--flavour", "full"], ["run", "--"]])
def test_without_a_command_nothing_is_built(clone: Clone, words: list[str]) -> None:
    code, out, err = clone.session(*words)
    assert (code, out) == (125, b"")
    assert err == "error: there is no command to run: give one after the options, as in `nox -s run -- uname -r`.\n"


def test_a_wrong_option_is_a_usage_error(clone: Clone) -> None:
    code, _, err = clone.session("run", "--flavor", "x", "true")
    assert (code, "unrecognized arguments: --flavor" in err) == (2, True)


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("panics at boot", "did not start in the guest: the kernel panicked."),
        ("is killed at boot", "did not start in the guest: QEMU ended."),
        ("runs, panics", "did not get to its end in the guest: the kernel panicked."),
        ("runs, locks up", "did not get to its end in the guest: the kernel locked up."),
        ("runs, powers off", "did not get to its end in the guest: it shut itself down."),
        ("runs", "did not get to its end in the guest: QEMU ended."),
    ],
)
def test_a_guest_that_dies_is_one_sentence_and_no_code_of_the_commands(clone: Clone, mode: str, why: str) -> None:
    clone.stand_in.behave(mode)
    # What runs it in the guest, too.
    code, out, err = clone.session("run", "sh", "-c", "echo before; kill -KILL $PPID")
    assert code == 125
    assert out == (b"before\n" if mode.startswith("runs") else b"")
    error = next(line for line in err.splitlines() if line.startswith("error: "))
    assert error.startswith("error: `sh -c 'echo before; kill -KILL $PPID'` did not")
    assert f"{why} Its console ({clone.paths.logs}/guest.log) ended with:" in error
    assert "Linux version 7.3.4" in err


def test_what_a_command_prints_comes_at_once(clone: Clone) -> None:
    with clone.start("run", "sh", "-c", "printf open; while [ ! -e go ]; do sleep 0.1; done; echo; exit 3") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"open"
        (clone.paths.root / "go").touch()
        assert process.stdout.read() == b"\n"
        assert process.wait(20) == 3


def test_what_a_command_leaves_running_is_not_waited_for(clone: Clone) -> None:
    start = time.monotonic()
    assert clone.session("run", "sh", "-c", "sleep 600 & echo gone") == (0, b"gone\n", "")
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_guest(clone: Clone, number: signal.Signals, code: int) -> None:
    with clone.start("run", "sh", "-c", "echo $$; sleep 600") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(20) == code
    assert clone.guests() == []
    assert gone(pid)


def test_a_reader_that_has_had_enough_ends_the_guest(clone: Clone) -> None:
    with clone.start("run", "yes") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 125
        # `yes` itself may complain of its output before it is ended.
        assert b"error: " not in process.stderr.read()
    assert clone.guests() == []


# The session demo


FAKE = """
import io
from pathlib import Path
from fake_task_diag import FakeTaskDiag
from taskdiag import wire

answer = Path({answer!r}).read_bytes()
messages, at = [], 0
while at < len(answer):
    start, (_, at) = at, wire.decode_one(answer, at)
    messages.append(answer[start:at])
opener, real = FakeTaskDiag(messages).opener(), io.FileIO
io.FileIO = lambda file, mode: opener(file, mode) if str(file) == "/proc/task-diag" else real(file, mode)
"""


def test_demo_prints_what_ps_prints(clone: Clone, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    # Python runs this before anything else.
    (fake / "sitecustomize.py").write_text(FAKE.format(answer=str(TESTS / "recorded/ps/processes")))
    code, out, err = clone.session("demo", PYTHONPATH=os.pathsep.join(map(str, (fake, TOOLS, TESTS))))
    assert (code, err) == (0, "")
    heading, *lines = out.decode().splitlines()
    assert heading.split() == ["USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME", "COMMAND"]
    assert len(lines) > 10


def test_demo_tells_why_it_cannot(clone: Clone) -> None:
    # The kernel that runs this has no such file.
    code, out, err = clone.session("demo")
    assert (code, out) == (1, b"")
    assert err.startswith("taskdiag: ")


# What the workspace itself asks of a guest


@pytest.fixture
def here(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Clone:
    clone.stand_in.install(monkeypatch)
    return clone


def test_output_and_errors_come_as_one_in_their_order(here: Clone) -> None:
    lines: list[str] = []
    words = ["sh", "-c", "echo a; echo b >&2; printf 'c\\r\\n'; printf d; exit 4"]
    found = guest_command.output_of(here.kernel, words, paths=here.paths, wanted="kvm", on_line=lines.append)
    assert found == (4, "a\nb\nc\r\nd")
    assert lines == ["a", "b", "c"]


def test_a_command_may_have_a_limit(here: Clone) -> None:
    with pytest.raises(
        GuestError, match=r"`sleep 600` did not get to its end .*: the command did not end within 1 s\."
    ):
        guest_command.output_of(here.kernel, ["sleep", "600"], paths=here.paths, wanted="kvm", limit=0.6)
    assert here.guests() == []


def test_a_boot_has_a_limit(here: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_command, "BOOT", 1.0)
    here.stand_in.behave("stops at boot")
    with pytest.raises(GuestError, match=r"`true` did not start in the guest: it did not boot within 1 s\."):
        guest_command.output_of(here.kernel, ["true"], paths=here.paths, wanted="kvm")


def test_an_error_of_the_sink_ends_the_guest(here: Clone) -> None:
    def full(_data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        guest_command.run(here.kernel, ["yes"], paths=here.paths, stdout=full, wanted="kvm")
    assert here.guests() == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_marks_are_found_however_they_are_cut(size: int) -> None:
    got: list[bytes] = []
    stream = Stream(-1, "ab", got.append)
    data = b"noise\nbegin-ab\n\x1eend-a\x1eend-\n\x1eend-ab=12\n"
    for at in range(0, len(data), size):
        assert stream.code is None
        stream.take_in(data[at : at + size])
    assert (stream.begun, b"".join(got), stream.code) == (True, b"\x1eend-a\x1eend-\n", 12)


@pytest.mark.parametrize("late", [b"late", b"late\n", b"1\n2\n"])
def test_what_is_written_behind_the_end_is_no_part_of_it(late: bytes) -> None:
    got: list[bytes] = []
    stream = Stream(-1, "ab", got.append)
    stream.take_in(b"begin-ab\nx\x1eend-ab=7\n" + late)
    assert (b"".join(got), stream.code) == (b"x", 7)


def test_only_what_may_be_a_mark_is_held_back() -> None:
    got: list[bytes] = []
    stream = Stream(-1, "ab", got.append)
    for piece in (b"begin-ab\n", b"text", b" and \x1een", b"d", b"ing"):
        stream.take_in(piece)
    assert got == [b"text", b" and ", b"\x1eending"]


def test_a_nox_of_ones_own_ends_with_the_commands_code(tmp_path: Path) -> None:
    # nox has only 0 and 1 for a session; here the session takes its place.
    (tmp_path / "tools").mkdir()
    shutil.copy(TESTS.parent / "noxfile.py", tmp_path)
    package = tmp_path / "tools/workspace"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "environment.py").write_text("import sys\ndef ensure():\n    return sys.executable\n")
    (package / "__main__.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(42)\n")
    words = [sys.executable, "-m", "nox", "--noxfile", "noxfile.py", "-s", "run", "--", "a b", "--", "-s"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (42, "['run', 'a b', '--', '-s']\n")
