"""A disk that fills up, at every step that writes much: one sentence, nothing half-done, and room is all it takes."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import signal
from pathlib import Path
from typing import NoReturn

import kernel_tree
import pytest
import small_kernel
import stand_in
from small_disk import filled, on_small_disk
from web import serving

from workspace import __main__ as main
from workspace import download, kernel, tree, worktree
from workspace.console import Console
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.guest import Kind, boot_worker
from workspace.machine import Machine
from workspace.promises import Promises
from workspace.results import Results
from workspace.series import Series
from workspace.settings import Paths

FULL = Path("/dev/full")


# --- what is run on the small disk


def download_is_resumed(disk: Path) -> None:
    data = os.urandom(3 << 20)
    target, sum_of_it = disk / "file", hashlib.sha256(data).hexdigest()
    with serving({"file": data}) as site:
        with filled(disk, leave=1 << 20), pytest.raises(WorkspaceError) as caught:
            download.file(f"{site.url}file", target, sha256=sum_of_it)
        assert not isinstance(caught.value, download.UnavailableError), "another source would not help"
        assert str(caught.value).startswith(f"{target}.part cannot be written (No space left on device): make room")
        assert not target.exists()
        kept = (disk / "file.part").stat().st_size
        assert kept > 0
        download.file(f"{site.url}file", target, sha256=sum_of_it)
        assert target.read_bytes() == data
        assert [asked for _, asked in site.asked] == [None, f"bytes={kept}-"]


def no_other_source_is_tried(disk: Path) -> None:
    data = small_kernel.tarball(small_kernel.files())
    sums = f"{hashlib.sha256(data).hexdigest()}  linux-7.3.tar.xz\n".encode()
    paths = Paths(disk / "clone")
    paths.trees.mkdir(parents=True)
    with serving({"linux-7.3.tar.xz": data, "sha256sums.asc": sums}) as site:
        settings = dataclasses.replace(small_kernel.SETTINGS, kernel_org_url=site.url)
        with filled(disk, leave=0), pytest.raises(WorkspaceError, match="cannot be written"):
            tree.obtain(paths, settings)
        tree.obtain(paths, settings)


def tree_is_unpacked_later(disk: Path) -> None:
    large = {"fs/large.c": os.urandom(1 << 20).hex()}
    data = small_kernel.tarball({**small_kernel.files(), **large})
    sums = f"{hashlib.sha256(data).hexdigest()}  linux-7.3.tar.xz\n".encode()
    paths = Paths(disk / "clone")
    with serving({"linux-7.3.tar.xz": data, "sha256sums.asc": sums}) as site:
        settings = dataclasses.replace(small_kernel.SETTINGS, kernel_org_url=site.url)
        with (
            filled(disk, leave=len(data) + (1 << 20)),
            pytest.raises(WorkspaceError, match=r"Out of diskspace\.?\): make room, and run again\.$"),
        ):
            tree.obtain(paths, settings)
        assert [path.name for path in paths.trees.iterdir()] == [".lock"]
        asked = len(site.asked)
        assert (tree.obtain(paths, settings).path / "fs/large.c").stat().st_size == 2 << 20
        assert len(site.asked) == asked, "the download was kept"


def kernel_is_built_later(disk: Path) -> None:
    paths = Paths(disk / "clone")
    paths.kconfig.mkdir(parents=True)
    (paths.kconfig / "flavours.toml").write_text('[default]\nfragments = ["base"]\n')
    (paths.kconfig / "base.config").write_text("CONFIG_PROC=y\nCONFIG_TASK_DIAG=y\n")
    repository = kernel_tree.make(paths.trees / "a-tree")
    # Too large an object for the room that is left.
    (repository.path / "fs/main.c").write_text(f"int config = CONFIG;\nint large[{1 << 18}] = {{1}};\n")
    makefile = repository.path / "Makefile"
    # What is left half written, make takes for finished.
    compiles = "-o $@ $<\nvmlinux"
    assert compiles in makefile.read_text()
    makefile.write_text(makefile.read_text().replace(compiles, "-o $@ $< || { echo torn > $@; exit 1; }\nvmlinux"))
    commit = kernel_tree.commit(repository)
    made = tree.Tree(repository.path, "7.3.4", "mainline", "a test", commit, "a-tree")
    with (
        filled(disk, leave=512 << 10),
        pytest.raises(WorkspaceError, match=r"does not build, and .* MiB of room left: "),
    ):
        kernel.build(paths, made, "default", commit=commit)
    with pytest.raises(WorkspaceError, match="not to its end"):
        kernel.load(paths, made, "default")
    built = kernel.build(paths, made, "default", commit=commit)
    assert built.image.stat().st_size > 1 << 20


def export_leaves_the_patches(disk: Path) -> None:
    paths = Paths(disk / "clone")
    paths.patches.mkdir(parents=True)
    base = tree.obtain(paths, small_kernel.SETTINGS, clone=small_kernel.clone(disk / "user").path)
    worktree.edit(paths, base, Series.load(paths.patches))
    linux = Repository(paths.worktree)
    linux.check("config", worktree.DESCRIPTION, "a subject\n\nA text.\n")
    for number in range(2):
        (paths.worktree / "fs/proc/base.c").write_text(f"int changed = {number};\n{os.urandom(1 << 15).hex()}\n")
        small_kernel.commit(linux, f"proc: Change {number}")
        if number == 0:
            worktree.export(paths, small_kernel.SETTINGS)
    before = {path.name: path.read_bytes() for path in paths.patches.iterdir()}
    for leave in (0, 64 << 10, 256 << 10, 400 << 10):
        with filled(disk, leave=leave), pytest.raises((WorkspaceError, OSError), match="No space left on device"):
            worktree.export(paths, small_kernel.SETTINGS)
        assert {path.name: path.read_bytes() for path in paths.patches.iterdir()} == before
    assert worktree.export(paths, small_kernel.SETTINGS).startswith("exported: ")
    assert len(list(paths.patches.iterdir())) == 3


def results_say_so(disk: Path) -> None:
    vm = Machine(stand_in.kernel(disk / "kernel"), "kvm")
    results = Results.started(vm.kernel, vm, facts={}, folder=disk / "results", guests=1)
    promises = Promises({})
    results.write(promises)
    before = (disk / "results/results.json").read_bytes()
    results.facts["much"] = "x" * (1 << 20)
    with filled(disk, leave=4096), pytest.raises(OSError) as caught:
        results.write(promises)
    assert caught.value.errno == errno.ENOSPC
    assert (disk / "results/results.json").read_bytes() == before
    assert sorted(path.name for path in (disk / "results").glob("*.*")) == ["junit.xml", "results.json"]
    results.write(promises)


@pytest.mark.parametrize(
    "function",
    [download_is_resumed, no_other_source_is_tried, tree_is_unpacked_later, kernel_is_built_later,
     export_leaves_the_patches, results_say_so],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_on_a_small_disk(function: object, tmp_path: Path) -> None:
    assert callable(function)
    on_small_disk(function, tmp_path / "disk", size="16m")


def test_where_no_disk_can_be_mounted_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "unshare"
    program.write_text("#!/bin/sh\necho unshare: not here >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(pytest.skip.Exception, match=r"cannot mount a disk of its own here, .* \(unshare: not here\)$"):
        on_small_disk(results_say_so, tmp_path / "disk", size="16m")


# --- what a file on a full device is enough for


def test_a_build_whose_log_has_no_room_is_ended_and_made_good(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.kconfig.mkdir()
    (paths.kconfig / "flavours.toml").write_text('[default]\nfragments = ["base"]\n')
    (paths.kconfig / "base.config").write_text("CONFIG_PROC=y\nCONFIG_TASK_DIAG=y\n")
    repository = kernel_tree.make(paths.trees / "a-tree")
    commit = repository.check("rev-parse", "HEAD")
    made = tree.Tree(repository.path, "7.3.4", "mainline", "a test", commit, "a-tree")
    paths.logs.mkdir(parents=True)
    log = paths.logs / "build-default.log"
    log.symlink_to(FULL)
    with pytest.raises(OSError, match="No space left on device"):
        kernel.build(paths, made, "default", commit=commit)
    log.unlink()
    assert kernel.build(paths, made, "default", commit=commit).image.exists()


def test_a_guest_whose_log_has_no_room_is_judged_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = stand_in.StandIn(tmp_path / "bin")
    own.install(monkeypatch)
    own.behave("panics")
    monkeypatch.setattr("workspace.guest.LAST_WORDS", 0.2)
    guests = stand_in.run(tmp_path, patience=20)
    guests.consoles.mkdir()
    (guests.consoles / "guest-1.log").symlink_to(FULL)
    verdict = boot_worker(guests, ["-c", "pass"])
    assert verdict.kind is Kind.PANIC
    assert "log cannot be written any more: No space left on device" in verdict.tail
    assert "sysrq triggered crash" in verdict.tail


def test_a_console_goes_on_without_its_log(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(FULL)
    into, out = os.pipe()
    lines: list[str] = []
    with Console(into, tmp_path / "log", on_line=lines.append) as console:
        for text in (b"one\n", b"two\n"):
            os.write(out, text)
            console.read(1.0)
        os.close(out)
    assert lines == ["one", "two"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_whatever_else_finds_no_room_is_one_sentence(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number), "/x/file")

    monkeypatch.setattr(main, "_do_export", write)
    monkeypatch.setattr(main, "_die_with_parent", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main.main(["export"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: there is no room for /x/file ({os.strerror(number)}): make some")
    assert told.count("\n") == 1


def test_other_failures_of_the_system_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> NoReturn:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(main, "_do_export", write)
    monkeypatch.setattr(main, "_die_with_parent", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(OSError, match="Input/output"):
        main.main(["export"])
