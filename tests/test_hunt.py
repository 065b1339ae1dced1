"""Who killed whom: the score, and a whole run with pytest's own workers in the place of guests."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
from stand_in import kernel

from workspace.hunt import Scores
from workspace.journal import keep_times
from workspace.mutants import Mutant
from workspace.results import Results, Test
from workspace.settings import Paths
from workspace.splat import ALLOWED

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
MUTANTS = {
    "deaf": Mutant("deaf", ("W10",), "d", v4=3),
    "slow": Mutant("slow", ("F1", "W2"), "s"),
}
DEAD = ["crashed", "hung", "timed out", "lost", "killed", "ended", "done"]


def report(
    nodeid: str,
    outcome: Literal["passed", "failed", "skipped"] = "passed",
    when: Literal["setup", "call", "teardown"] = "call",
    promise: str = "",
    kind: str = "",
) -> pytest.TestReport:
    properties: list[tuple[str, object]] = [("promise", promise)] if promise else []
    properties += [("outcome", kind)] if kind else []
    return pytest.TestReport(nodeid, ("f", 1, "t"), {}, outcome, None, when, user_properties=properties, duration=0.5)


class Run:
    """A run whose reports are given one by one."""

    def __init__(self, folder: Path, mutants: dict[str, Mutant] = MUTANTS) -> None:
        self.said: list[str] = []
        self.scores = Scores(mutants, Results(folder, {}, frozenset()), told=self.said.append)
        self.begin()

    def begin(self) -> None:
        for test, promise in (("vmtests/test_w.py::test_w[none]", "W10"), ("vmtests/test_f.py::test_f[none]", "F1")):
            self.add(report(test, promise=promise))
            self.add(report(test, when="teardown", promise=promise))
        self.scores.expect("deaf", 1)
        self.scores.expect("slow", 1)

    def add(self, one: pytest.TestReport) -> None:
        self.scores.results.add(one)
        self.scores.add(one)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_failed_test_of_its_own_promise_kills_a_mutant(run: Run) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed"))
    assert run.scores.killed("deaf")
    assert run.scores.survivors == []
    assert run.scores.undecided == ["slow"]
    assert run.said == ["   1/2  deaf: killed by test_w.py::test_w"]


def test_another_promises_test_kills_nothing(run: Run) -> None:
    run.add(report("vmtests/test_f.py::test_f[deaf]", "failed"))
    run.add(report("vmtests/test_f.py::test_f[deaf]", when="teardown"))
    assert not run.scores.killed("deaf")
    assert run.scores.survivors == ["deaf"]


def test_a_mutant_survives_when_all_its_tests_are_through(run: Run) -> None:
    run.add(report("vmtests/test_f.py::test_f[slow]", when="setup"))
    run.add(report("vmtests/test_f.py::test_f[slow]"))
    assert run.scores.survivors == []
    run.add(report("vmtests/test_f.py::test_f[slow]", when="teardown"))
    assert run.scores.survivors == ["slow"]
    assert run.said == ["   1/2  slow: SURVIVED 1 tests"]


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
def test_a_failure_in_any_phase_counts_and_once(run: Run, when: Literal["setup", "call", "teardown"]) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", when, kind="tainted"))
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", "teardown"))
    assert run.said == ["   1/2  deaf: killed by test_w.py::test_w (tainted)"]


@pytest.mark.parametrize("kind", DEAD)
def test_an_end_that_nobody_expects_is_no_kill_and_is_tried_once_more(run: Run, kind: str) -> None:
    run.add(report("vmtests/test_f.py::test_f[slow]", "failed"))
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind=kind))
    # What follows from it counts no more than the end itself.
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", "teardown"))
    assert run.said[1:] == [f"   1/2  deaf: to be tried once more, since nobody expects: test_w.py::test_w ({kind})"]
    assert run.scores.settled("deaf") and not run.scores.killed("deaf")
    assert (run.scores.survivors, run.scores.undecided) == ([], ["deaf"])
    assert run.scores.doubtful == {"deaf": [f"test_w.py::test_w ({kind})"]}

    assert list(run.scores.again()) == ["deaf"]
    assert not run.scores.settled("deaf") and run.scores.killed("slow")
    assert (run.scores.survivors, run.scores.undecided, run.scores.doubtful) == ([], ["deaf"], {})
    run.begin()
    assert run.scores.seconds("vmtests/test_w.py::test_w") == 1.0, "that of the first try is forgotten"
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind=kind))
    assert run.said[-1] == f"   1/2  deaf: UNDECIDED, again: test_w.py::test_w ({kind})"
    assert (run.scores.survivors, run.scores.undecided) == ([], ["deaf"])
    assert run.scores.doubtful == {"deaf": [f"test_w.py::test_w ({kind})"] * 2}
    assert run.scores.table().splitlines()[1:] == [
        "F1 W2    slow    test_f.py::test_f",
        "W10      deaf    undecided",
    ]


@pytest.mark.parametrize("kind", ["", "tainted"])
def test_a_second_try_that_fails_as_it_should_is_a_kill(run: Run, kind: str) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind="killed"))
    run.scores.again()
    run.begin()
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind=kind))
    assert run.scores.killed("deaf") and run.scores.doubtful == {}
    (data, _) = run.scores.data()
    assert (data["killed"], data["unexpected"]) == (True, ["test_w.py::test_w (killed)"])
    assert data["outcomes"] == [kind or "failed"]


def test_a_second_try_that_passes_is_a_survivor(run: Run) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind="timed out"))
    run.scores.again()
    run.begin()
    run.add(report("vmtests/test_w.py::test_w[deaf]", when="teardown"))
    assert (run.scores.survivors, run.scores.undecided) == (["deaf"], ["slow"])
    assert run.said[-1] == "   1/2  deaf: SURVIVED 1 tests"


def test_nothing_is_tried_again_if_all_ended_as_they_should(run: Run) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed"))
    assert run.scores.again() == {}
    assert run.scores.killed("deaf")


@pytest.mark.parametrize("kind", [*DEAD, "failed", "tainted"])
@pytest.mark.parametrize(
    ("ends", "kills"),
    [(None, set()), ("crash", {"crashed"}), ("hang", {"hung", "timed out"})],
)
def test_a_dead_guest_counts_only_if_the_mutant_is_known_to_end_so(
    tmp_path: Path, ends: str | None, kills: set[str], kind: str
) -> None:
    run = Run(tmp_path, {"deaf": Mutant("deaf", ("W10",), "d", ends=ends)})
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind=kind))
    assert run.scores.killed("deaf") is (kind in kills | {"failed", "tainted"})
    assert run.scores.settled("deaf")


def test_a_skipped_test_kills_nothing(run: Run) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "skipped", "setup"))
    run.add(report("vmtests/test_w.py::test_w[deaf]", when="teardown"))
    assert run.scores.survivors == ["deaf"]


def test_a_mutant_without_a_test_survives(run: Run) -> None:
    run.scores._expected.pop("slow")
    assert run.scores.survivors == ["slow"]


def test_before_the_start_all_are_undecided(tmp_path: Path) -> None:
    assert Scores(MUTANTS, Results(tmp_path, {}, frozenset())).undecided == ["deaf", "slow"]


def test_a_test_that_fails_without_a_mutant_is_told(run: Run) -> None:
    assert run.scores.healthy()
    run.add(report("vmtests/test_f.py::test_f[none]", "failed", "teardown"))
    assert run.scores.sick == ["vmtests/test_f.py::test_f"]
    assert not run.scores.healthy()


def test_the_table_is_in_the_order_of_the_promises(run: Run) -> None:
    run.add(report("vmtests/test_w.py::test_w[deaf]", "failed", kind="tainted"))
    assert run.scores.table().splitlines() == [
        "promise  mutant  killed by",
        "F1 W2    slow    undecided",
        "W10      deaf    test_w.py::test_w (tainted)",
    ]
    run.add(report("vmtests/test_f.py::test_f[slow]", when="teardown"))
    assert "F1 W2    slow    SURVIVED 1 tests" in run.scores.table()
    assert run.scores.data()[0] == {
        "name": "deaf",
        "breaks": ("W10",),
        "says": "d",
        "v4": 3,
        "killed": True,
        "killed_by": ["vmtests/test_w.py::test_w"],
        "why": "",
        "unexpected": [],
        "outcomes": ["tainted"],
        "tests": 1,
        "tests_run": 1,
        "seconds": 0.5,
    }


# --- whole runs

TESTS = """\
import os
import time
import pytest

@pytest.mark.promise("R1")
def test_cheap(mutant):
    note(mutant, "cheap")
    time.sleep(0.02)

@pytest.mark.promise("R1", "R2")
@pytest.mark.parametrize("at", ["a@b", "c"])
def test_dear(mutant, at):
    note(mutant, "dear")
    time.sleep(0.1)
    assert mutant != "deaf"
    if mutant == "deadly":
        die("crashed")
    if mutant == "unlucky":
        die("killed")
    if mutant == "shaken" and len(ran("shaken")) == 1:
        die("hung")
    assert mutant != "shaken"

@pytest.mark.promise("W1")
def test_other(mutant):
    note(mutant, "other")
    assert mutant != {sick!r}, "this machine is sick"

@pytest.mark.promise("W2")
def test_of_no_mutants_promise():
    note("", "never")

@pytest.mark.host
@pytest.mark.promise("R1")
def test_host():
    note("", "never")

def note(mutant, name):
    with open({log!r}, "a") as file:
        file.write(mutant + " " + name + "\\n")

def ran(mutant):
    with open({log!r}) as file:
        return [line for line in file if line.startswith(mutant + " ")]

def die(kind):
    with open({verdict!r} + os.environ["PYTEST_XDIST_WORKER"], "w") as file:
        file.write(kind)
    os._exit(1)
"""

CONFTEST = """\
import pytest
from pathlib import Path
from workspace.promises import Promises
from workspace.switch import Switch
from workspace.worker import Recall

def pytest_configure(config):
    told = getattr(config, "workerinput", None)
    if told is not None:
        promises = Promises.load(Path(__file__).with_name("promises.toml"))
        config.pluginmanager.register(Switch(told["workspace_breaks"], promises, parameter=Path({parameter!r})))
        config.pluginmanager.register(Told(promises))
        config.pluginmanager.register(Recall(told["workspace_passed"]))
    for marker in ("promise(*ids)", "host", "deadline(seconds)"):
        config.addinivalue_line("markers", marker)

class Told:
    def __init__(self, promises):
        self.promises = promises

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.get_closest_marker("host") is None]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        item.user_properties += [("promise", name) for name in self.promises.of(item)]
        if item.nodeid.endswith("-deaf]"):
            assert item.get_closest_marker("deadline").args == (3.0,)
        return (yield)
"""

DRIVER = """\
import sys
sys.path[:0] = [{tools!r}]
from pathlib import Path
from workspace import errors, hunt, machine, mutants, vmtest
from workspace.guest import Kind, Verdict
from workspace.promises import Promises
from workspace.kernel import Kernel
from workspace.settings import Paths
machine.require_tools = lambda: None
vmtest.in_guests = lambda run, guests, crashes: [
    "--dist", "load", "--tx", f"{{guests}}*popen", "--max-worker-restart", str(crashes)
]
vmtest._awaited_verdict = lambda folder: Verdict(Kind(Path({verdict!r} + folder.name).read_text()), "dead", None, "")
vmtest.Guests.pytest_xdist_newgateway = lambda self, gateway: self._names.update({{gateway.id: (gateway.id, "boot")}})
kernel = Kernel(Path({kernel!r}), "mutants", "7.3.4", "00" * 20)
try:
    paths = Paths(Path({clone!r}))
    promises = Promises.load(paths.vmtests / "promises.toml")
    resume = "--resume" in sys.argv
    chosen = mutants.chosen(mutants.load(paths.vmtests, promises), [word for word in sys.argv[2:] if word[0] != "-"])
    sys.exit(hunt.run(kernel, chosen, promises, paths=paths, guests=int(sys.argv[1]), wanted="kvm", resume=resume))
except errors.Terminated:
    sys.exit(143)
except errors.WorkspaceError as error:
    sys.exit(f"error: {{error}}")
"""


def switches(*names: str) -> str:
    return "".join(f"+\tM({name}) \\\n+ if (MUTANT({name}))\n" for name in names)


PATCH = "+\tM(none) \\\n" + switches("deaf", "deadly", "tough", "hated")
TABLE = """\
[deaf]
breaks = ["R2"]
says = "a"
[deadly]
breaks = ["R1"]
says = "a"
last = true
ends = "crash"
[tough]
breaks = ["R1", "R2"]
says = "a"
[hated]
breaks = ["W1"]
says = "a"
"""


class Clone:
    """A clone with a few tests and mutants."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "clone"
        self.vmtests = self.path / "vmtests"
        self.vmtests.mkdir(parents=True)
        (self.path / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = ["-ra"]\n')
        self._parameter, self._log, self._verdict = folder / "parameter", folder / "log", folder / "verdict"
        for name in ("promises.toml", ALLOWED):
            shutil.copy(ROOT / "vmtests" / name, self.vmtests)
        shutil.copytree(ROOT / "kconfig", self.path / "kconfig")
        (self.vmtests / "conftest.py").write_text(CONFTEST.format(parameter=str(self._parameter)))
        (self.vmtests / "mutants.toml").write_text(TABLE)
        (self.vmtests / "mutants.patch").write_text(PATCH)
        self.write_tests(sick="hated")
        kernel(folder / "kernel")
        self._driver = folder / "driver.py"
        self._driver.write_text(
            DRIVER.format(
                tools=str(ROOT / "tools"),
                kernel=str(folder / "kernel"),
                clone=str(self.path),
                verdict=str(self._verdict),
            )
        )

    def write_tests(self, *, sick: str) -> None:
        text = TESTS.format(log=str(self._log), verdict=str(self._verdict), sick=sick)
        (self.vmtests / "test_small.py").write_text(text)
        # The cheapest, and of another file than the test that was given out before it and is not needed any more.
        (self.vmtests / "test_other.py").write_text(
            "import pytest\n@pytest.mark.promise('R1')\ndef test_in_another_file(mutant):\n    pass\n"
        )

    def words(self, *words: str) -> list[str]:
        return [sys.executable, str(self._driver), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*words),
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )

    @property
    def ran(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []

    @property
    def results(self) -> dict[str, object]:
        data = json.loads((self.path / "build/results/mutants.json").read_text())
        assert isinstance(data, dict)
        return data


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_a_survivor_makes_the_run_fail(clone: Clone) -> None:
    done = clone.run("1")
    assert done.returncode == 1
    # Which of two is the cheaper differs.
    assert re.sub(r"test_dear\[.*?\]", "test_dear[]", done.stdout).splitlines() == [
        "promise  mutant  killed by",
        "W1       hated   test_small.py::test_other",
        "R1 R2    tough   SURVIVED 4 tests",
        "R1       deadly  test_small.py::test_dear[] (crashed)",
        "R2       deaf    test_small.py::test_dear[]",
    ]
    assert "5 tests pass without a mutant" in done.stderr
    assert "3 of 4 killed by a test of their own promises" in done.stderr
    assert "survived: strengthen a test of its promise, or replace the mutant: tough." in done.stderr
    assert clone.results["survivors"] == ["tough"]
    deaf = clone.results["mutants"][0]  # type: ignore[index]
    assert (deaf["name"], deaf["why"]) == ("deaf", "AssertionError: assert 'deaf' != 'deaf'")
    assert clone.results["exit_code"] == 1
    # First without any; then one after the other, none of them with a test that is not its own, the last last.
    assert clone.ran[:4] == ["none cheap", "none dear", "none dear", "none other"]
    assert [line for line in clone.ran[4:] if line.startswith("deaf")] == ["deaf dear"]
    assert sorted(line for line in clone.ran if line.startswith("tough")) == ["tough cheap", "tough dear", "tough dear"]
    assert [line for line in clone.ran if line.startswith("hated")] == ["hated other"]
    assert clone.ran[-1] == "deadly dear"


@pytest.mark.parametrize("guests", ["1", "2"])
def test_a_guest_that_died_is_no_kill_and_its_mutant_is_tried_once_more(clone: Clone, guests: str) -> None:
    with (clone.vmtests / "mutants.toml").open("a") as table, (clone.vmtests / "mutants.patch").open("a") as patch:
        table.write('[unlucky]\nbreaks = ["R2"]\nsays = "a"\n[shaken]\nbreaks = ["R2"]\nsays = "a"\n')
        patch.write(switches("unlucky", "shaken"))
    done = clone.run(guests, "deaf", "unlucky", "shaken", "deadly")
    assert done.returncode == 1, done.stderr
    assert "Once more, in new guests: unlucky, shaken." in done.stderr
    assert "3 of 4 killed by a test of their own promises" in done.stderr
    assert "survived" not in done.stderr and "not tried to the end" not in done.stderr
    told = re.sub(r"test_dear\[.*?\]", "test_dear[]", done.stderr)
    assert (
        "mutants: undecided: unlucky: test_small.py::test_dear[] (killed), test_small.py::test_dear[] (killed); "
        f"look at the consoles in {clone.path}/build/results/mutants: if it is the mutant that crashes or hangs, "
        "say so with `ends` in vmtests/mutants.toml."
    ) in told
    assert (clone.results["survivors"], clone.results["undecided"]) == ([], ["unlucky"])
    assert clone.results["exit_code"] == 1
    outcomes = {mutant["name"]: mutant["outcomes"] for mutant in clone.results["mutants"]}  # type: ignore[attr-defined]
    assert outcomes == {"deaf": ["failed"], "unlucky": [], "shaken": ["failed"], "deadly": ["crashed"]}
    counts = {name: clone.ran.count(f"{name} dear") for name in ("none", *outcomes)}
    # The second try knows the times, and runs without a mutant what failed, or what a guest runs last.
    assert counts.pop("none") in (3, 4)
    assert counts == {"deaf": 1, "unlucky": 2, "shaken": 2, "deadly": 1}


def test_a_second_try_that_kills_lets_the_run_pass(clone: Clone) -> None:
    with (clone.vmtests / "mutants.toml").open("a") as table, (clone.vmtests / "mutants.patch").open("a") as patch:
        table.write('[shaken]\nbreaks = ["R2"]\nsays = "a"\n')
        patch.write(switches("shaken"))
    done = clone.run("1", "deaf", "shaken")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 killed" in done.stderr
    assert clone.results["undecided"] == []


def test_a_run_that_kills_all_passes_also_in_two_guests(clone: Clone) -> None:
    done = clone.run("2", "deaf", "hated")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 killed" in done.stderr
    assert [mutant["name"] for mutant in clone.results["mutants"]] == ["deaf", "hated"]  # type: ignore[attr-defined]
    assert not any(line.startswith(("tough", "deadly")) for line in clone.ran)
    assert "none cheap" not in clone.ran, "a test of no promise of theirs"


def test_where_times_are_known_only_what_fails_with_a_mutant_is_run_without(clone: Clone) -> None:
    """The times are those of vmtest, in which it took longest what now is cheapest."""
    seconds = {"small.py::test_dear[a@b]": 1.0, "small.py::test_dear[c]": 2.0, "small.py::test_cheap": 3.0}
    seconds |= {"small.py::test_other": 1.0, "other.py::test_in_another_file": 4.0}
    keep_times(Paths(clone.path), {f"vmtests/test_{name}": Test(seconds=time) for name, time in seconds.items()})
    done = clone.run("1", "deaf", "hated", "deadly")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 killed" in done.stderr
    assert sorted(clone.ran) == ["deadly dear", "deaf dear", "hated other", "none dear", "none other"]


def test_a_test_that_fails_with_a_mutant_and_without_kills_nothing(clone: Clone) -> None:
    clone.write_tests(sick="hated")
    text = (clone.vmtests / "test_small.py").read_text()
    (clone.vmtests / "test_small.py").write_text(text.replace("assert mutant != 'hated'", "assert mutant == 'x'"))
    keep_times(Paths(clone.path), {"vmtests/test_small.py::test_other": Test(seconds=1.0)})
    done = clone.run("1", "hated")
    assert done.returncode == 1
    assert "test_other fails without a mutant:" in done.stderr
    assert clone.results["undecided"] == ["hated"]
    assert clone.results["fail_without_a_mutant"] == ["vmtests/test_small.py::test_other"]


def test_a_run_that_is_resumed_tries_only_what_was_not_killed(clone: Clone) -> None:
    clone.run("1", "deaf", "hated")
    before = clone.ran
    done = clone.run("1", "--resume")
    assert done.returncode == 1
    assert "2 of 4 mutants are killed already." in done.stderr
    assert "3 of 4 killed by a test of their own promises" in done.stderr
    rows = re.sub(r"test_dear\[.*?\]", "test_dear[]", done.stdout).splitlines()
    assert rows[1:3] == ["W1       hated   test_small.py::test_other", "R1 R2    tough   SURVIVED 4 tests"]
    mutants = {mutant["name"]: mutant for mutant in clone.results["mutants"]}  # type: ignore[attr-defined]
    assert [name for name, mutant in mutants.items() if mutant.get("remembered")] == ["deaf", "hated"]
    assert (mutants["deaf"]["outcomes"], mutants["deaf"]["tests"]) == (["failed"], 2)
    assert mutants["deaf"]["why"] == "AssertionError: assert 'deaf' != 'deaf'"
    # Of the tests without a mutant, those that the first run had no use for.
    assert sorted(clone.ran[len(before) :]) == [
        "deadly cheap",
        "deadly dear",
        "none cheap",
        *["tough cheap", "tough dear", "tough dear"],
    ]
    before = clone.ran
    assert clone.run("1", "--resume", "deaf", "deadly").returncode == 0
    assert clone.ran == before, "nothing is left to do"


def test_a_mutant_of_which_something_else_is_said_is_tried_again(clone: Clone) -> None:
    clone.run("1", "deaf", "hated")
    before = clone.ran
    table = clone.vmtests / "mutants.toml"
    table.write_text(TABLE.replace('[deaf]\nbreaks = ["R2"]', '[deaf]\nbreaks = ["R1", "R2"]'))
    done = clone.run("1", "--resume", "deaf", "hated")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 mutants are killed already." in done.stderr
    assert [line for line in clone.ran[len(before) :] if "none" not in line][-1] == "deaf dear"
    assert not any(line.startswith("hated") for line in clone.ran[len(before) :])


def test_other_tests_or_a_run_that_is_not_resumed_try_all(clone: Clone) -> None:
    clone.run("1", "deaf", "hated")
    before = clone.ran
    clone.run("1", "deaf", "hated")
    assert sorted(clone.ran[len(before) :]) == sorted(before)
    (clone.vmtests / "test_other.py").touch()
    (clone.vmtests / "test_new.py").write_text("def test_new():\n    pass\n")
    done = clone.run("1", "--resume", "deaf", "hated")
    assert "0 of 2 mutants are killed already." in done.stderr
    assert sorted(clone.ran[2 * len(before) :]) == sorted(before)


def test_a_test_that_fails_without_a_mutant_ends_the_run(clone: Clone) -> None:
    clone.write_tests(sick="none")
    done = clone.run("1")
    assert done.returncode == 1
    assert "test_other fails without a mutant:" in done.stderr
    assert "this machine is sick" in done.stderr
    assert "1 tests fail without a mutant, so that nothing is learned" in done.stderr
    assert done.stdout.strip() == ""
    assert clone.results["fail_without_a_mutant"] == ["vmtests/test_small.py::test_other"]
    # One more than needed had been given out.
    assert {"tough", "hated", "deadly"} <= set(clone.results["undecided"])  # type: ignore[call-overload]


def test_a_test_file_that_cannot_be_read_ends_the_run(clone: Clone) -> None:
    (clone.vmtests / "test_broken.py").write_text("def\n")
    done = clone.run("1")
    assert done.returncode not in (0, 5)
    assert "test_broken.py cannot be collected" in done.stderr
    assert "SyntaxError" in done.stderr


def test_an_unknown_name_is_told_before_anything_is_done(clone: Clone) -> None:
    done = clone.run("1", "deaf", "dead")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: there is no mutant dead: vmtests/mutants.toml has deaf, tough, hated, deadly."
    )
    assert clone.ran == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_worker_and_no_half_result(
    clone: Clone, number: signal.Signals, code: int
) -> None:
    (clone.vmtests / "test_slow.py").write_text(
        "import pathlib, pytest, time\n"
        f"@pytest.mark.promise('R1')\ndef test_slow():\n    pathlib.Path({str(clone.path / 'slow')!r}).touch()\n"
        "    time.sleep(50)\n"
    )
    process = subprocess.Popen(
        clone.words("1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    until = time.monotonic() + 30
    while not (clone.path / "slow").exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == code
    assert list((clone.path / "build/guests").iterdir()) == []
