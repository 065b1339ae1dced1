from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from stand_in import kernel

from workspace import machine
from workspace.errors import WorkspaceError
from workspace.machine import Machine, Process, Record, host_boot


def test_missing_qemu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkspaceError, match=r"QEMU is missing.*install qemu-system-x86"):
        machine.require_tools()


def test_missing_udev_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_UDEV", (str(tmp_path / "udevd"),))
    with pytest.raises(WorkspaceError, match=r"udev is missing.*install udev"):
        machine.require_tools()


def test_a_kernel_that_was_not_built_is_named(tmp_path: Path) -> None:
    built = kernel(tmp_path / "kernel")
    built.image.unlink()
    with pytest.raises(WorkspaceError, match=r"there is no kernel at .*bzImage: build it first"):
        Machine(built, "tcg").words()


def test_what_goes_wrong_in_the_kernel_ends_the_guest(tmp_path: Path) -> None:
    words = Machine(kernel(tmp_path / "kernel"), "tcg").words(script="true")
    for option in ("oops=panic", "panic_on_warn=1", "softlockup_panic=1", "hung_task_panic=1"):
        assert words[words.index(option) - 1] == "--kopt"
    assert "--disable-kvm" in words
    # virtme-run adds panic=-1 to a script's kernel, and not to a shell's.
    assert "panic=-1" in Machine(kernel(tmp_path / "other"), "kvm").words()


def test_deadlines_stretch_for_emulation_and_for_what_makes_a_kernel_slow(tmp_path: Path) -> None:
    plain, debug = kernel(tmp_path / "plain"), kernel(tmp_path / "debug", "CONFIG_KASAN=y\nCONFIG_PROVE_LOCKING=y\n")
    assert Machine(plain, "kvm").slowness == 1
    assert Machine(plain, "tcg").slowness > 2
    assert Machine(debug, "tcg").slowness == 4 * Machine(plain, "tcg").slowness


@pytest.mark.parametrize(
    ("processors", "gigabytes", "config", "guests"),
    [(2, 23, "", 2), (8, 16, "", 6), (8, 16, "CONFIG_KASAN=y\n", 3), (4, 1, "", 1), (64, 512, "", 16)],
)
def test_as_many_guests_as_the_host_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int, gigabytes: int, config: str, guests: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes << 30))
    assert Machine(kernel(tmp_path / "kernel", config), "tcg").at_once == guests


def test_kasan_has_more_memory_and_the_page_tables_that_it_can_boot_with(tmp_path: Path) -> None:
    plain, debug = kernel(tmp_path / "plain"), kernel(tmp_path / "debug", "CONFIG_KASAN=y\n")
    for built, memory in ((plain, "2G"), (debug, "4G")):
        words = Machine(built, "tcg").words(script="true")
        assert words[words.index("--memory") + 1] == memory
        assert ("no5lvl" in words) is (built is debug)


def test_a_process_is_not_taken_for_another_with_its_pid() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = Process.of(child.pid)
    assert process is not None
    assert process.alive
    assert not replace(process, start=process.start - 1).alive
    child.kill()
    child.wait()
    assert not process.alive
    assert Process.of(child.pid) is None


def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    program = tmp_path / os.fsdecode(b"\xff) S 1 1")
    program.symlink_to(shutil.which("sleep") or "")
    stranger = subprocess.Popen([program, "60"], start_new_session=True)
    try:
        while Path(f"/proc/{stranger.pid}/comm").read_bytes() != b"\xff) S 1 1\n":
            assert stranger.poll() is None
        process = Process.of(stranger.pid)
        assert process is not None
        assert process.alive
        assert Record("60", process, process, host_boot()).members() == [stranger.pid]
    finally:
        stranger.kill()
        stranger.wait()


def test_only_processes_that_bear_the_guests_name_are_ended(tmp_path: Path) -> None:
    me = Process.of(os.getpid())
    assert me is not None
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    leader = Process.of(stranger.pid)
    assert leader is not None
    try:
        Record("a-name-it-does-not-have", me, leader, host_boot()).write(tmp_path)
        record = Record.read(tmp_path)
        assert record is not None
        assert record.end() == 0
        assert stranger.poll() is None
        assert replace(record, name="60", boot="another boot").end() == 0
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}', json.dumps({"owner": 1})])
def test_half_a_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    assert Record.read(tmp_path) is None


def test_a_live_run_is_left_alone_and_a_dead_ones_folder_goes(tmp_path: Path) -> None:
    guests = tmp_path / "guests"
    with machine.run_folder(guests, "mine") as mine:
        dead = guests / "dead"
        dead.mkdir()
        (dead / "virtme_ret1234").touch()
        assert machine.sweep(guests) == 0
        assert mine.exists()
        assert not dead.exists()
    assert not mine.exists()
