from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from stand_in import StandIn, kernel

from workspace.errors import WorkspaceError
from workspace.guest import Kind, Run, Verdict
from workspace.journal import Journal
from workspace.machine import Machine, Process, Record, host_boot
from workspace.promises import Promises
from workspace.results import Results
from workspace.splat import NONE
from workspace.vmtest import Guests, Options

ROOT = Path(__file__).resolve().parents[1]

Outcome = Literal["passed", "failed", "skipped"]


def test_our_options_are_taken_out_and_the_rest_is_pytests() -> None:
    options = Options.parse(
        ["-k", "ebusy", "-x", "-n", "2", "--junitxml=a.xml", "--until-fail", "7", "--keep-guest", "vmtests/test_x.py"]
    )
    assert options.guests == 2
    assert options.junitxml == Path("a.xml")
    assert options.rounds == 7
    assert options.keep_guest
    assert options.pytest == ("-k", "ebusy", "-x", "vmtests/test_x.py")
    assert Options.parse(["-n3"]).guests == Options.parse(["--numprocesses=3"]).guests == 3
    assert Options.parse([]).guests is None


@pytest.mark.parametrize("words", [["--tx", "popen"], ["--dist=no"], ["--pdb"], ["-n", "auto"], ["-n", "0"]])
def test_what_would_lead_tests_out_of_their_guests_is_refused(words: list[str]) -> None:
    with pytest.raises(WorkspaceError, match="guest"):
        Options.parse(words)


def test_rounds_are_not_resumed() -> None:
    assert Options.parse(["--resume"]).resume and not Options.parse([]).resume
    with pytest.raises(WorkspaceError, match="take one"):
        Options.parse(["--resume", "--until-fail", "2"])


def test_rounds_are_one_or_more() -> None:
    with pytest.raises(WorkspaceError, match="1 or more"):
        Options.parse(["--until-fail", "0"])


class Clone:
    """A clone with two vmtests, whose guests are stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clone"
        tests = self.path / "vmtests"
        tests.mkdir(parents=True)
        for room in ("tools", "kconfig"):
            (self.path / room).symlink_to(ROOT / room)
        ours = [path for path in (ROOT / "vmtests").glob("*.py") if not path.name.startswith("test_")]
        for path in (*ours, *(ROOT / "vmtests").glob("*.toml")):
            shutil.copy(path, tests)
        (tests / "programs").symlink_to(ROOT / "vmtests" / "programs")
        shutil.copy(ROOT / "pyproject.toml", self.path)
        (tests / "test_small.py").write_text(
            "import pytest\n"
            "def test_one():\n    pass\n"
            "@pytest.mark.promise('R3')\ndef test_two():\n    pass\n"
            "@pytest.mark.host\ndef test_host():\n    pass\n"
        )
        kernel(folder / "kernel")
        self.stand_in = StandIn(folder / "bin")
        self.driver = folder / "driver.py"
        self._folder = folder

    def words(self, *words: str) -> list[str]:
        self.driver.write_text(
            "import sys\n"
            f"sys.path[:0] = [{str(ROOT / 'tools')!r}]\n"
            "from pathlib import Path\n"
            "from workspace import errors, guest, machine, vmtest\n"
            "from workspace.kernel import Kernel\n"
            "from workspace.settings import Paths\n"
            f"machine._virtme_run = lambda: {str(self.stand_in.program)!r}\n"
            "machine.require_tools = guest.require_tools = lambda: None\n"
            "if sys.argv[1] == 'guest':\n"
            "    sys.exit(guest.main(sys.argv[2:]))\n"
            "write = guest.Run.write\n"
            "def write_ours(run):\n"
            "    program = write(run)\n"
            "    program.write_text(f'#!/bin/sh\\nexec {sys.executable} {__file__} guest {run.folder} \"$@\"\\n')\n"
            "    return program\n"
            "guest.Run.write = write_ours\n"
            f"kernel = Kernel(Path({str(self._folder / 'kernel')!r}), 'default', '7.3.4', '00' * 20)\n"
            "try:\n"
            f"    sys.exit(vmtest.run(kernel, sys.argv[1:], paths=Paths(Path({str(self.path)!r}))))\n"
            "except errors.WorkspaceError as error:\n"
            "    sys.exit(f'error: {error}')\n"
            "except errors.Terminated:\n"
            "    sys.exit(143)\n"
        )
        return [sys.executable, str(self.driver), "--accel", "kvm", "-n", "1", *words]

    def run(self, mode: str, *words: str) -> subprocess.CompletedProcess[str]:
        self.stand_in.behave(mode)
        return subprocess.run(
            self.words(*words), capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
        )

    def run_dying(self, moment: str, whom: str, *chosen: str) -> subprocess.CompletedProcess[str]:
        """Run three tests, or those ``chosen``, in guests that end, or whose watcher does, at the moment in each."""
        self.stand_in.behave("works")
        (self.path / "vmtests/conftest.py").write_text(DYING.format(moment=moment, whom=whom))
        names = ("one", "two", "three")
        (self.path / "vmtests/test_dying.py").write_text("".join(f"def test_{name}():\n    pass\n" for name in names))
        words = self.words("vmtests/test_dying.py", *chosen)
        # The stand-in runs the worker, faithfully, on this host, which is taken for a guest for once.
        self.driver.write_text(
            "from workspace import vmtest\n"
            "vmtest.MAX_CRASHES = 1\n"
            "vmtest.Guests.pytest_xdist_newgateway = lambda self, gateway: self._names.update(\n"
            "    {gateway.id: (str(1 + int(gateway.id[2:])), 'a boot')}\n)\n" + self.driver.read_text()
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
        return subprocess.run(
            words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, env=environment
        )

    @property
    def results(self) -> dict[str, Any]:
        data = json.loads((self.path / "build/results/results.json").read_text())
        assert isinstance(data, dict)
        return data


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.mark.parametrize("words", [[], ["-n", "1"], ["-p", "no:xdist"]])
def test_a_vmtest_outside_a_guest_is_an_error(clone: Clone, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, "vmtests"],
        cwd=clone.path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "3 errors" in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]
    assert "runs only in a guest of its own run" in done.stdout


@pytest.mark.parametrize("stop", [[], ["-x"]])
def test_a_worker_that_is_no_guest_tests_nothing(clone: Clone, stop: list[str]) -> None:
    # The stand-in runs the worker, faithfully, on this host. That no boot test was chosen stops nothing.
    done = clone.run("works", "-k", "test_one", *stop)
    assert done.returncode == 3
    assert "a worker answered that is no guest of this run" in done.stdout
    assert clone.results["exit_code"] == 3
    assert clone.results["tests"] == []


@pytest.mark.parametrize(
    ("mode", "says"), [("panics at boot", "the kernel panicked before any test ran"), ("gone", "QEMU ended")]
)
def test_a_guest_that_never_boots_is_lost_with_a_code_of_its_own(clone: Clone, mode: str, says: str) -> None:
    done = clone.run(mode, "vmtests/test_small.py::test_one")
    assert done.returncode == 6
    assert says in done.stdout
    assert "INTERNALERROR" not in done.stdout
    assert (clone.path / "build/results/consoles/guest-1.log").exists()
    assert list((clone.path / "build/guests").iterdir()) == []
    assert clone.results["exit_code"] == 6


@pytest.mark.parametrize(
    ("chosen", "code", "tests"),
    [("test_one", 0, ["test_one"]), ("no_such_test", 5, []), ("test_dying and host", 5, [])],
)
def test_a_run_that_selects_nothing_fails(clone: Clone, chosen: str, code: int, tests: list[str]) -> None:
    """In guests that are well, so that nothing else fails."""
    done = clone.run_dying("never", "guest", "-k", chosen)
    assert (done.returncode, clone.results["exit_code"]) == (code, code), done.stderr
    assert [test["id"].rpartition("::")[2] for test in clone.results["tests"]] == tests
    complaint = "no test ran, so nothing was tested"
    assert clone.results["complaints"] == ([complaint] if code else [])
    assert (f"vmtest: {complaint}." in done.stderr) is bool(code)


def started(clone: Clone, *, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """A run whose guest has come as far as its first line."""
    clone.stand_in.behave("stops at boot")
    process = subprocess.Popen(clone.words("vmtests/test_small.py::test_one"), stdin=subprocess.DEVNULL, stdout=stdout)
    log = clone.path / "build/results/consoles/guest-1.log"
    while not log.exists() or b"Linux version" not in log.read_bytes():
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_an_interrupted_run_leaves_results_and_no_guest(clone: Clone, number: signal.Signals, code: int) -> None:
    process = started(clone)
    process.send_signal(number)
    assert process.wait(30) == code
    assert clone.results["interrupted"] is True
    ET.parse(clone.path / "build/results/junit.xml")
    assert list((clone.path / "build/guests").iterdir()) == []
    assert not alive(str(clone.stand_in.program))


def test_a_second_run_at_once_is_refused_and_leaves_the_first_alone(clone: Clone) -> None:
    process = started(clone)
    guests = alive(str(clone.stand_in.program))
    assert guests
    second = clone.run("stops at boot", "vmtests/test_small.py::test_one")
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1] == (
        f"error: another run in this clone holds build/results (process {process.pid}): wait for it to end, or end it."
    )
    assert process.poll() is None
    assert alive(str(clone.stand_in.program)) == guests
    assert b"Linux version" in (clone.path / "build/results/consoles/guest-1.log").read_bytes()
    process.terminate()
    process.wait(30)


def test_the_end_of_who_watches_a_guest_ends_the_run_with_a_sentence(clone: Clone) -> None:
    process = started(clone, stdout=subprocess.PIPE)
    (watching,) = alive(f"{clone.driver}\0guest")
    os.kill(watching, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 6
    assert b"the program that watched the guest was killed" in said
    assert b"INTERNALERROR" not in said
    assert not alive(str(clone.stand_in.program))
    assert list((clone.path / "build/guests").iterdir()) == []


@pytest.mark.parametrize("watched", [True, False])
def test_no_guest_outlives_a_run_that_is_killed_and_the_next_cleans_up(clone: Clone, watched: bool) -> None:
    process = started(clone)
    if not watched:
        (watching,) = alive(f"{clone.driver}\0guest")
        os.kill(watching, signal.SIGKILL)
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while alive(str(clone.stand_in.program)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(str(clone.stand_in.program))
    left = list((clone.path / "build/guests").iterdir())
    assert len(left) == 1

    done = clone.run("panics at boot", "vmtests/test_small.py::test_one")
    assert done.returncode == 6
    assert not alive(str(clone.stand_in.program))
    assert list((clone.path / "build/guests").iterdir()) == []
    assert clone.results["exit_code"] == 6
    assert b"Kernel panic" in (clone.path / "build/results/consoles/guest-1.log").read_bytes()


def test_a_disk_that_is_full_at_the_end_is_told_and_leaves_no_guest(clone: Clone) -> None:
    (clone.path / "build").mkdir()
    (clone.path / "build/vmtest.lock").touch()
    # Whatever a run writes into the results finds no room.
    words = clone.words("vmtests/test_small.py::test_one")
    driver = Path(words[1])
    driver.write_text(
        "import errno, os, tempfile\n"
        "mkstemp = tempfile.mkstemp\n"
        "def full(*words, dir=None, **more):\n"
        "    if 'results' in str(dir) and 'consoles' not in str(dir) and 'configs' not in str(dir):\n"
        "        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(dir))\n"
        "    return mkstemp(*words, dir=dir, **more)\n"
        "tempfile.mkstemp = full\n" + driver.read_text()
    )
    clone.stand_in.behave("panics at boot")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OSError: [Errno 28] No space left on device")
    assert list((clone.path / "build/guests").iterdir()) == []
    assert not alive(str(clone.stand_in.program))


def alive(word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


# --- guests that die under their tests

# In place of the guest's side: what it tells the host, and its end where a test asks for it.
DYING = """\
import json, os, signal, time
import pytest
from workspace.worker import Recall

MOMENT, WHOM = "{moment}", "{whom}"

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Dying())

def at(moment):
    if moment == MOMENT and not os.path.exists("../moment"):
        # What was said so far is on its way through another process.
        time.sleep(0.5)
        if WHOM == "guest":
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os.kill(int(os.environ["GUEST_WATCHER"]), signal.SIGKILL)
        signal.pause()

class Dying:
    def __init__(self):
        self.say("alive")

    def pytest_sessionstart(self, session):
        self.recall = Recall(session.config.workerinput["workspace_passed"])
        session.config.pluginmanager.register(self.recall)

    def say(self, event, **facts):
        with open(os.environ["GUEST_LINK"], "a") as file:
            file.write(json.dumps(dict(facts, event=event)) + "\\n")

    def pytest_collection(self):
        at("collection")

    def pytest_runtest_logstart(self, nodeid):
        self.say("test", test=nodeid)

    def pytest_runtest_call(self, item):
        if item.name == "test_two":
            at("test")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self, nodeid):
        self.say("test", test=None)
        if nodeid.endswith("test_two"):
            at("between")

    def pytest_sessionfinish(self, session):
        session.config.workeroutput["workspace_end"] = ""
        session.config.workeroutput["workspace_left_out"] = self.recall.left_out
        at("finish")

    def pytest_unconfigure(self):
        at("exit")
"""


KILLED = {
    "guest": "killed: QEMU was killed from outside",
    "watcher": "killed: the program that watched the guest was killed",
}


@pytest.mark.parametrize(
    ("moment", "whom"),
    [("test", "watcher"), *((moment, "guest") for moment in ("collection", "test", "between", "finish", "exit"))],
)
def test_a_guest_that_dies_fails_the_run_and_costs_no_other_test(clone: Clone, moment: str, whom: str) -> None:
    done = clone.run_dying(moment, whom)
    outcomes = {test["id"].rpartition("::")[2]: test["outcome"] for test in clone.results["tests"]}
    assert not alive(str(clone.stand_in.program))
    assert [*(clone.path / "build/guests").rglob("*")] == [], done.stderr
    expected = dict.fromkeys(("test_one", "test_two", "test_three"), "passed")
    if moment == "exit":
        # All was said.
        assert (done.returncode, outcomes) == (0, expected)
        return
    assert done.returncode == clone.results["exit_code"] == 1
    if moment in ("test", "between"):
        assert outcomes == {**expected, "test_two": "killed"}
        assert f"{KILLED[whom]}, while vmtests/test_dying.py::test_two ran in guest-1" in done.stdout
        assert clone.results["complaints"] == []
    else:
        assert outcomes == (expected if moment == "finish" else {})
        # Guests are replaced, but not without end.
        assert len(clone.results["complaints"]) == 2
        assert f"guest-1 ended while it ran no test: {KILLED[whom]}" in done.stderr


def test_a_run_that_is_resumed_runs_what_has_not_passed(clone: Clone) -> None:
    """And holds what the whole run held; other tests, or another choice, are not taken for these."""
    assert clone.run_dying("test", "guest", "-k", "not three").returncode == 1
    tests = clone.path / "vmtests"
    keep = {path: path.read_text() for path in (tests / "conftest.py", tests / "test_dying.py")}
    # The same tests in a guest that stays well.
    clone.driver.with_name("moment").touch()
    done = clone.run_dying("test", "guest", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.read_text() for path in keep} == keep
    assert "1 tests have passed already with this kernel" in done.stderr
    found = {test["id"].rpartition("::")[2]: test for test in clone.results["tests"]}
    assert {name: test["outcome"] for name, test in found.items()} == dict.fromkeys(
        ("test_one", "test_two", "test_three"), "passed"
    )
    assert [name for name, test in found.items() if test.get("remembered")] == ["test_one"]
    suites = ET.parse(clone.path / "build/results/junit.xml").getroot()
    cases = [case.get("name") for case in suites.iter("testcase")]
    assert sorted(map(str, cases)) == ["test_one", "test_three", "test_two"]

    done = clone.run_dying("test", "guest", "--resume", "-k", "one or two")
    assert (done.returncode, clone.results["exit_code"]) == (0, 0), "all of it passed earlier"
    assert [test.get("remembered") for test in clone.results["tests"]] == [True, True]
    done = clone.run_dying("test", "guest", "-k", "one")
    assert [test.get("remembered") for test in clone.results["tests"]] == [None]
    (tests / "test_other.py").touch()
    done = clone.run_dying("test", "guest", "--resume")
    assert "0 tests have passed already" in done.stderr


def test_where_leaks_are_looked_for_only_a_look_proves_what_came_before(tmp_path: Path) -> None:
    vm = Machine(kernel(tmp_path / "kernel", "CONFIG_TASK_DIAG=y\nCONFIG_DEBUG_KMEMLEAK=y\n"), "tcg")
    run = Run(tmp_path, tmp_path, tmp_path, "nonce", vm)
    results = Results(tmp_path, {}, vm.kernel.options)
    journal = Journal.opened(tmp_path / "journal", "key")
    host = Guests(Options.parse([]), results, Promises({}), run, NONE, frozenset(), journal)

    def through(name: str, guest: str, *more: tuple[str, object], outcome: Outcome = "passed") -> None:
        properties: list[tuple[str, object]] = [("guest", guest), *more]
        host.pytest_runtest_logreport(
            pytest.TestReport(name, ("f", 1, "t"), {}, outcome, None, "teardown", user_properties=properties)
        )

    def known() -> list[str]:
        return [entry["test"] for entry in Journal.opened(tmp_path / "journal", "key").entries]

    through("a", "guest-1")
    through("b", "guest-2")
    assert known() == []
    through("c", "guest-1", outcome="failed")
    assert known() == ["c"], "that it failed is known at once"
    through("d", "guest-1", ("looked_for_leaks", True))
    assert known() == ["c", "a", "d"]
    through("e", "guest-1")
    for number, gateway in (("1", "gw0"), ("2", "gw1")):
        host._names[gateway] = (number, "boot")
    end = {"gw0": "", "gw1": "unreferenced object"}
    for gateway, found in end.items():
        node = SimpleNamespace(gateway=SimpleNamespace(id=gateway), workeroutput={"workspace_end": found})
        host.pytest_testnodedown(node, None)
    assert known() == ["c", "a", "d", "e"], "guest-2 has leaked, and its tests are to run again"


def test_an_error_of_the_run_itself_is_not_laid_to_a_guest(tmp_path: Path) -> None:
    vm = Machine(kernel(tmp_path / "kernel"), "tcg")
    folder = tmp_path / "guests"
    (folder / "junit").mkdir(parents=True)
    run = Run(folder, tmp_path, tmp_path, "nonce", vm)
    results = Results(tmp_path, {}, vm.kernel.options)
    host = Guests(Options.parse([]), results, Promises({}), run, NONE, frozenset(), Journal(tmp_path / "journal"))

    def ended() -> None:
        with host._explained():
            raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(OSError, match="Too many open files"):
        ended()
    for number in ("2", "10"):
        (folder / number).mkdir()
    me = Process.of(os.getpid())
    assert me is not None
    Record("name", me, me, host_boot()).write(folder / "10")
    with pytest.raises(OSError, match="Too many open files"):
        ended()
    Verdict(Kind.DONE, "the guest's work is done", None, "").write(folder / "10")
    with pytest.raises(OSError, match="Too many open files"):
        ended()
    Verdict(Kind.HANG, "the guest gave no sign of life", None, "its last line").write(folder / "10")
    with pytest.raises(pytest.exit.Exception, match="no sign of life\nits last line") as caught:
        ended()
    assert caught.value.returncode == 6
