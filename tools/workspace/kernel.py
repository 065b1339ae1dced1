"""Build the kernel of a tree out of tree, do nothing twice, and say which kernel it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from workspace import command, kconfig, progress, storage
from workspace.errors import WorkspaceError
from workspace.git import Repository
from workspace.kbuild import Kbuild
from workspace.kconfig import Flavour
from workspace.settings import Paths
from workspace.tree import Tree

_IMAGE = "arch/x86/boot/bzImage"
# Ours among make's objects: what a finished kernel was made from, and that make is, or was, at work.
_STAMP, _AT_WORK = "workspace-kernel.json", "workspace-building"
_STEP = re.compile(r"  [A-Z][A-Z0-9_+-]*(?: \[[A-Z]\])? +\S")  # "  CC      fs/proc/base.o"
_ERROR = re.compile(r": (?:fatal )?error: |: undefined reference to |^\S*ld: |: Error: |^ERROR: ")
_SCARCE = 64 << 20  # bytes: with less, a failed build is suspected to have failed for want of it
_TORN = 10.0  # seconds: far longer than any object takes to be written


class BuildError(WorkspaceError):
    """The source does not compile or link: no fault of the machine's."""


@dataclass(frozen=True)
class Kernel:
    """A built kernel: ``folder`` is make's O=; ``build_id`` the GNU build id of its vmlinux, in hex."""

    folder: Path
    flavour: str
    release: str
    build_id: str

    @property
    def config(self) -> Path:
        """The .config that it was built with."""
        return self.folder / ".config"

    def has(self, option: str) -> bool:
        """Whether it was built with ``option`` (CONFIG_NAME)."""
        return option in self.options

    @cached_property
    def options(self) -> frozenset[str]:
        """The options (CONFIG_NAME) that are y in it."""
        return kconfig.switched_on(self.config.read_text())

    @property
    def image(self) -> Path:
        """What is booted."""
        return self.folder / _IMAGE

    @property
    def headers(self) -> Path:
        """Its headers for programs: what ``make headers_install`` installs."""
        return self.folder / "usr/include"


def folder(paths: Paths, tree: Tree, flavour: str) -> Path:
    """Where the kernel of a flavour is built."""
    return paths.kernels / tree.key / flavour


def load(paths: Paths, tree: Tree, flavour: str) -> Kernel:
    """The kernel that was built last, whatever has been edited since."""
    built = _stamped(folder(paths, tree, flavour))
    if built is None:
        raise WorkspaceError(
            f"the kernel of flavour {flavour} is not built, or not to its end: "
            f"run `nox -s build -- --flavour {flavour}`."
        )
    return built[0]


def build(
    paths: Paths,
    tree: Tree,
    flavour: str,
    *,
    commit: str,
    shown_as: Path | None = None,
    without: frozenset[str] = frozenset(),
) -> Kernel:
    """Configure and build ``commit``, which ``tree.path`` stands at, as ``flavour``.

    In what the user sees, ``shown_as`` takes the place of ``tree.path``. ``without``: options of the flavour that
    are not asked for, because the commit is one of the series' first and does not know them. Raises BuildError
    with the first errors of the compiler and the path of the log.
    """
    wanted = kconfig.flavour(paths.kconfig, flavour).leaving_out(without)
    objects = folder(paths, tree, flavour)
    kbuild = Kbuild.cached(paths, tree.path, objects)
    with _held(objects):
        if wanted.objects_from and not (objects / ".config").exists():
            _start_from(folder(paths, tree, wanted.objects_from), objects)
        inputs = storage.digest(
            commit, *map(str, wanted.options.values()), json.dumps(kbuild.exported(), sort_keys=True)
        )
        last = _stamped(objects)
        if last and last[1] == {"inputs": inputs, "config": storage.digest(last[0].config)}:
            return last[0]
        if (stands := Repository(tree.path).commit()) != commit:
            raise WorkspaceError(f"{tree.path} stands at {stands}, not at {commit} that is to be built.")
        (objects / _STAMP).unlink(missing_ok=True)
        kconfig.configure(kbuild, wanted)
        _make(paths, kbuild, wanted, shown_as or tree.path)
        kernel = Kernel(objects, flavour, _release(objects), _build_id(objects / "vmlinux"))
        record = {
            "inputs": inputs,
            "config": storage.digest(kernel.config),
            "release": kernel.release,
            "build_id": kernel.build_id,
        }
        storage.write_whole(objects / _STAMP, json.dumps(record))
    return kernel


def _held(objects: Path) -> contextlib.AbstractContextManager[None]:
    return storage.locked(objects.with_name(f".{objects.name}.lock"), what=f"the objects of flavour {objects.name}")


def _stamped(objects: Path) -> tuple[Kernel, dict[str, str]] | None:
    """The kernel that a finished build left, and what it was made from."""
    try:
        record = json.loads((objects / _STAMP).read_text())
        kernel = Kernel(objects, objects.name, record.pop("release"), record.pop("build_id"))
    except (OSError, ValueError, KeyError):
        return None
    return (kernel, record) if kernel.image.is_file() and kernel.config.is_file() else None


def _start_from(donor: Path, objects: Path) -> None:
    """Begin with a copy of another flavour's objects; make redoes those that differ."""
    if _stamped(donor) is None:
        return
    for left_by_a_killed_run in objects.parent.glob(f".{objects.name}.*/"):
        shutil.rmtree(left_by_a_killed_run)
    progress.say(f"starting flavour {objects.name} from a copy of {donor.name}'s objects")
    with _held(donor), storage.whole_folder(objects) as copy:
        command.check(["cp", "-a", "--reflink=auto", f"{donor}/.", copy])
        _move_programs(copy, donor, objects)
        (copy / _STAMP).unlink()


def _move_programs(copy: Path, donor: Path, objects: Path) -> None:
    """Make what make remembers of tools/ true of the new folder: it has whole paths, other than the kernel's own.

    Else objtool is linked anew, and with it each object that it has looked at.
    """
    for path in (path for kind in ("*.cmd", "*.d") for path in (copy / "tools").rglob(kind)):
        old = path.read_bytes()
        new = old.replace(f"{donor}/".encode(), f"{objects}/".encode())
        if new != old:
            times = path.stat()
            path.write_bytes(new)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _make(paths: Paths, kbuild: Kbuild, flavour: Flavour, shown_as: Path) -> None:
    log = paths.logs / f"build-{flavour.name}.log"
    failures = Failures(str(kbuild.source), str(shown_as))
    marker = kbuild.objects / _AT_WORK
    if marker.exists():
        _drop_torn(kbuild.objects)
    marker.touch()
    total = _steps(kbuild.objects, flavour)
    with progress.Progress(f"building {flavour.name}", total=total, unit="steps") as bar:

        def on_line(line: str) -> None:
            if _STEP.match(line):
                bar.advance()
            failures.see(line)

        finished = command.follow(
            kbuild.at_once("bzImage", "headers"),
            log=log,
            env=kbuild.environment(),
            on_line=on_line,
        )
    full = "" if finished.code == 0 else _full(kbuild)
    # What a full disk cut short may look finished, as what a killed build left.
    if not full:
        marker.unlink()
    if finished.code != 0:
        head = f"the kernel (flavour {flavour.name}) does not build{full}; whole log: {log}"
        raise BuildError("\n    ".join([head, *failures.shown(finished.out)]))


def _full(kbuild: Kbuild) -> str:
    """Whether a disk is full, which the compiler says in its own way, and ccache not at all."""
    for place in (kbuild.objects, Path(kbuild.extra.get("CCACHE_DIR", kbuild.objects))):
        if place.exists() and shutil.disk_usage(place).free < _SCARCE:
            return f", and {place} has less than {_SCARCE >> 20} MiB of room left: make some, and run again"
    return ""


def _steps(objects: Path, flavour: Flavour) -> int | None:
    """About how many steps are to come in a first build; None if most is done or nothing is known."""
    if flavour.steps is None or (objects / "vmlinux").exists():
        return None
    left = flavour.steps - sum(1 for _ in objects.rglob("*.o"))
    return left if left > flavour.steps // 10 else None


class Failures:
    """The first errors in make's output, with the lines that explain them; warnings are told as they come."""

    def __init__(self, source: str, shown_as: str) -> None:
        """In what is shown, ``shown_as`` takes the place of the folder ``source``."""
        self._source, self._shown_as = source, shown_as
        self._lines: list[str] = []
        self._errors = 0
        self._open = False

    def _as_shown(self, line: str) -> str:
        return line.replace(self._source, self._shown_as)

    def see(self, line: str) -> None:
        """Take in one line of make's output."""
        if ": warning: " in line:
            progress.say(self._as_shown(line))
        if _ERROR.search(line):
            self._errors += 1
            self._open = self._errors <= 3
        elif not line.startswith(" ") or _STEP.match(line):
            # The compiler indents the source line, caret and notes of an error; anything else is over it.
            self._open = self._open and ": note: " in line
        if self._open:
            self._lines.append(self._as_shown(line))

    def shown(self, tail: str) -> list[str]:
        """The lines to show: the compiler's, or else make's last words."""
        return self._lines[:30] or [self._as_shown(line) for line in tail.splitlines()[-12:]]


def _drop_torn(objects: Path) -> None:
    """Delete what a killed build may have left half written: make would take it for finished.

    That is among the newest files. Below include/ everything is renamed into place once it is whole, and
    include/config is make's memory of which options changed.
    """
    files = list(_products(objects))
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    for path in files:
        if path.stat().st_mtime >= newest - _TORN:
            path.unlink()


def _products(objects: Path) -> Iterator[Path]:
    for below in objects.iterdir():
        if below.is_dir() and not below.is_symlink() and below.name != "include":
            yield from (path for path in below.rglob("*") if path.is_file() and not path.is_symlink())
        elif below.is_file() and below.name.startswith(("vmlinux", ".tmp_vmlinux")):
            yield below


def _release(objects: Path) -> str:
    return (objects / "include/config/kernel.release").read_text().strip()


def _build_id(vmlinux: Path) -> str:
    """The id that the linker computes over the kernel, which a running kernel has in /sys/kernel/notes."""
    notes = command.check(["readelf", "--notes", "--wide", vmlinux])
    found = re.search(r"Build ID: ([0-9a-f]{16,})", notes)
    if found is None:
        raise WorkspaceError(f"{vmlinux} has no GNU build id: was it linked by something else than make?")
    return found[1]
