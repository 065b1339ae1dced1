"""The session `build` as processes: two at once in one clone, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import kernel_tree
import pytest
import small_kernel

TOOLS = Path(__file__).resolve().parents[1] / "tools"
DRIVER = """\
import sys
from pathlib import Path
from workspace import __main__ as main
from workspace.settings import Paths, Settings
main.Paths = lambda: Paths(Path({root!r}))
main.Settings.load = lambda: Settings("7.3", (), "", (), "PATCH")
sys.exit(main.main(["build", "--tree", {tree!r}, *sys.argv[1:]]))
"""
# The compiler says that it has begun, and waits.
COMPILES = "\t@$(CC) -c"
WAITS = "\t@touch {begun}; echo torn > $@; while test ! -e {go}; do sleep 0.05; done\n\t@$(CC) -c"


class Clone:
    """A clone with a developer's kernel of one file, the compiler of which waits until told to go."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        kconfig = self.root / "kconfig"
        kconfig.mkdir(parents=True)
        (kconfig / "flavours.toml").write_text('[default]\nfragments = ["base"]\n[other]\nfragments = ["base"]\n')
        (kconfig / "base.config").write_text("CONFIG_PROC=y\nCONFIG_TASK_DIAG=y\n")
        self._begun, self._go = folder / "begun", folder / "go"
        makefile = kernel_tree.MAKEFILE.replace(COMPILES, WAITS.format(begun=self._begun, go=self._go))
        user = small_kernel.clone(
            folder / "user",
            more={
                "Makefile": f"{small_kernel.MAKEFILE.format(sublevel=0, extra='')}{makefile}",
                "Kconfig": kernel_tree.KCONFIG,
                "fs/main.c": kernel_tree.MAIN,
                "follows": "CONFIG_NUMBER=4\n",
                "moves": "",
            },
        )
        self._driver = folder / "driver.py"
        self._driver.write_text(DRIVER.format(root=str(self.root), tree=str(user.path)))
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, self._driver, *words],
            env={**os.environ, "PYTHONPATH": str(TOOLS)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def compiling(self) -> subprocess.Popen[str]:
        """A build that has come to the compiler."""
        process = self.start()
        while not self._begun.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    def go(self) -> None:
        self._go.touch()

    def at_work(self) -> list[str]:
        """The processes that work in the clone's objects."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and (entry / "cwd").readlink().is_relative_to(self.root / "build/kernels"):
                    found.append(entry.name)
            except OSError:
                continue
        return found

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    clone = Clone(tmp_path)
    yield clone
    clone.end()


@pytest.mark.parametrize("words", [[], ["--flavour", "other"]])
def test_a_second_build_at_once_is_refused_and_leaves_the_first_alone(clone: Clone, words: list[str]) -> None:
    first = clone.compiling()
    second = clone.start(*words)
    _, told = second.communicate(timeout=30)
    assert second.returncode == 1
    assert told.splitlines()[-1] == (
        f"error: another run in this clone holds the kernel's source (process {first.pid}): "
        "wait for it to end, or end it."
    )
    assert first.poll() is None
    clone.go()
    _, told = first.communicate(timeout=30)
    assert first.returncode == 0
    third = clone.start()
    assert third.communicate(timeout=30)[1].splitlines()[-1] == told.splitlines()[-1]
    assert told.splitlines()[-1].startswith("Kernel: 7.3.4, flavour default, build id ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_of_a_build_goes_on_without_it_and_the_next_makes_it_good(clone: Clone, number: signal.Signals) -> None:
    first = clone.compiling()
    assert clone.at_work()
    first.send_signal(number)
    first.communicate(timeout=30)
    end = time.monotonic() + 10
    while clone.at_work() and time.monotonic() < end:
        time.sleep(0.02)
    assert clone.at_work() == []
    clone.go()
    second = clone.start()
    _, told = second.communicate(timeout=30)
    assert second.returncode == 0, told
    objects = clone.root / "build/kernels"
    (compiled,) = objects.rglob("main.o")
    assert compiled.read_bytes().startswith(b"\x7fELF")
