from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from stand_in import StandIn, kernel

from workspace import accelerator
from workspace.errors import WorkspaceError
from workspace.kernel import Kernel
from workspace.machine import Record
from workspace.settings import Paths


class Bench:
    """A host whose QEMU is a stand-in, and whose user reads what it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = Paths(folder / "clone")
        self.kernel: Kernel = kernel(folder / "kernel")
        self.stand_in = StandIn(folder / "bin")
        self.stand_in.install(monkeypatch)
        self.device = folder / "kvm"
        self.device.touch()
        self.said: list[str] = []
        monkeypatch.setattr(accelerator, "say", self.said.append)
        monkeypatch.setattr(accelerator, "_qemu_version", lambda: "QEMU 7.2")
        monkeypatch.setattr(accelerator, "DEADLINE", 2.0)

    def choose(self, mode: str = "silent", wanted: str | None = None) -> str:
        self.stand_in.behave(mode)
        return accelerator.choose(self.kernel, paths=self.paths, wanted=wanted, device=self.device)

    @property
    def memory(self) -> Path:
        return self.paths.build / "accelerator.json"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_a_kernel_that_reaches_user_space_under_kvm_decides_for_it_once(bench: Bench) -> None:
    assert bench.choose("reaches") == "kvm"
    # Remembered: nothing is booted that could hang.
    assert bench.choose("silent") == "kvm"


def test_the_attempt_leaves_our_output_alone(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """Both are files here, as in `nox -s vmtest >log 2>&1`."""
    for output in (1, 2):
        os.write(output, b"before")
    assert bench.choose("reaches") == "kvm"
    assert all(output.startswith("before") for output in capfd.readouterr())


@pytest.mark.parametrize(
    ("mode", "why"), [("silent", "a guest hangs"), ("stops at boot", "a guest hangs"), ("gone", "QEMU gave up")]
)
def test_a_device_that_opens_is_no_proof(bench: Bench, mode: str, why: str) -> None:
    assert bench.choose(mode) == "tcg"
    assert f"/dev/kvm opens, but {why}" in bench.said[-1]
    assert "slower" in bench.said[-1]
    said = len(bench.said)
    assert bench.choose("reaches") == "tcg"
    # The reason is told in one line, and nothing is tried again.
    assert len(bench.said) == said + 1
    assert [Record.read(folder) for folder in bench.paths.guests.glob("*/*/")] == []


def test_a_kernel_that_panics_says_nothing_lasting_about_kvm(bench: Bench) -> None:
    assert bench.choose("panics at boot") == "kvm"
    assert not bench.memory.exists()


def test_a_missing_device_and_one_that_does_not_open_are_told(bench: Bench) -> None:
    bench.device.unlink()
    assert bench.choose("reaches") == "tcg"
    assert "there is no" in bench.said[-1]
    bench.memory.unlink()
    bench.device.mkdir()
    assert bench.choose("reaches") == "tcg"
    assert "does not open" in bench.said[-1]


def test_the_user_overrides_and_nothing_is_tried(bench: Bench) -> None:
    assert bench.choose("silent", wanted="kvm") == "kvm"
    assert bench.choose("silent", wanted="tcg") == "tcg"
    assert bench.said == []
    with pytest.raises(WorkspaceError, match="--accel xen: there are kvm and tcg"):
        bench.choose(wanted="xen")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "another boot", "obstacle": "something"}', '{"key": 1}'])
def test_a_memory_of_another_boot_or_none_is_not_believed(bench: Bench, content: str) -> None:
    bench.memory.parent.mkdir(parents=True)
    bench.memory.write_text(content)
    assert bench.choose("reaches") == "kvm"
    assert json.loads(bench.memory.read_text())["obstacle"] == ""
