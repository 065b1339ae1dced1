"""What the machine itself has to have: programs and headers, and the packages that bring them.

Standard library only: this runs before the locked environment exists.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from workspace.errors import WorkspaceError

_HEADERS = (Path("/usr/include"), Path("/usr/local/include"))


@dataclass(frozen=True)
class Need:
    """One thing that is needed, how to see whether it is there, and who brings it."""

    what: str
    present: Callable[[], bool]
    apt: str
    dnf: str


def _program(name: str, apt: str, dnf: str | None = None) -> Need:
    # udevadm and others are in /sbin, which is not on everybody's PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return Need(name, lambda: shutil.which(name, path=path) is not None, apt, dnf or apt)


def _header(name: str, apt: str, dnf: str) -> Need:
    def present() -> bool:
        # Debian keeps what differs between architectures in a folder of its name.
        return any(any(root.glob(pattern)) for root in _HEADERS for pattern in (name, f"*-linux-gnu*/{name}"))

    return Need(f"<{name}>", present, apt, dnf)


NEEDS: tuple[Need, ...] = (
    Need(
        "python3 -m venv",
        lambda: find_spec("venv") is not None and find_spec("ensurepip") is not None,
        "python3-venv",
        "python3",
    ),
    _program("gcc", "gcc"),
    # Headers for user space are compiled as C++ as well: by a check, and by the tests of that check.
    _program("g++", "g++", "gcc-c++"),
    _program("make", "make"),
    _program("ld", "binutils"),
    _program("flex", "flex"),
    _program("bison", "bison"),
    _program("bc", "bc"),
    _program("perl", "perl"),
    _program("xz", "xz-utils", "xz"),
    _program("cpio", "cpio"),
    _program("kmod", "kmod"),
    _program("ccache", "ccache"),
    _program("git", "git"),
    _program("qemu-system-x86_64", "qemu-system-x86", "qemu-system-x86-core"),
    # virtme-ng finds its ports by the names that udev gives them.
    _program("udevadm", "udev", "systemd-udev"),
    # What the client's ps is compared with.
    _program("ps", "procps", "procps-ng"),
    # Makes the policy that SELinux is tested with.
    _program("checkpolicy", "checkpolicy"),
    _header("stdio.h", "libc6-dev", "glibc-devel"),
    _header("gelf.h", "libelf-dev", "elfutils-libelf-devel"),
    _header("openssl/opensslv.h", "libssl-dev", "openssl-devel"),
)

_OLDEST_LLVM, _NEWEST_LLVM = 17, 40


def llvm() -> str | None:
    """What make takes after LLVM= for the newest whole LLVM of this machine: ``-19``, or ``1`` if it has no number."""
    for suffix in (*(f"-{number}" for number in range(_NEWEST_LLVM, _OLDEST_LLVM - 1, -1)), ""):
        if all(shutil.which(f"{name}{suffix}") for name in ("clang", "ld.lld", "llvm-nm")):
            if suffix:
                return suffix
            told = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"version (\d+)", told)
            return "1" if version and int(version[1]) >= _OLDEST_LLVM else None
    return None


def _of_llvm(name: str, apt: str, dnf: str) -> Need:
    return Need(f"{name} {_OLDEST_LLVM} or newer", lambda: llvm() is not None, apt, dnf)


# What the checks of these names need beyond that; nobody else has to install it.
FOR_CHECKS: dict[str, tuple[Need, ...]] = {
    "sparse": (_program("sparse", "sparse"),),
    # Two of the kernel's semantic patches have parts in OCaml, and its script stops at the first that fails.
    "coccinelle": (_program("spatch", "coccinelle"), _program("ocamlopt", "ocaml")),
    "clang": (
        _of_llvm("clang", "clang-19", "clang"),
        _of_llvm("ld.lld", "lld-19", "lld"),
        _of_llvm("llvm-nm", "llvm-19", "llvm"),
    ),
    "arm64": (_program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),),
    "s390x": (_program("s390x-linux-gnu-gcc", "gcc-s390x-linux-gnu"),),
}


def missing(needs: Sequence[Need] = NEEDS) -> list[Need]:
    """The needs that this machine does not meet."""
    return [need for need in needs if not need.present()]


def install_line(needs: Sequence[Need], *, root: bool, apt: bool, dnf: bool) -> str:
    """One line to copy that brings ``needs``, for the package manager that is there (else both are named)."""
    sudo = "" if root else "sudo "
    lines = []
    if apt or not dnf:
        names = sorted({need.apt for need in needs})
        lines.append(f"{sudo}apt-get install --no-install-recommends {shlex.join(names)}")
    if dnf or not apt:
        names = sorted({need.dnf for need in needs})
        lines.append(f"{sudo}dnf install {shlex.join(names)}")
    return " (Debian, Ubuntu) or ".join(lines) + (" (Fedora)" if len(lines) > 1 else "")


def ensure(needs: Sequence[Need] = NEEDS) -> None:
    """See that the machine meets ``needs``: by apt when root, else one line says what to install."""
    lacking = missing(needs)
    if not lacking:
        return
    root, apt, dnf = os.geteuid() == 0, shutil.which("apt-get") is not None, shutil.which("dnf") is not None
    what = ", ".join(need.what for need in lacking)
    if root and apt:
        print(f"Installing what this machine lacks: {what}.", file=sys.stderr, flush=True)
        if _apt(sorted({need.apt for need in lacking})):
            lacking = missing(needs)
            if not lacking:
                return
            what = ", ".join(need.what for need in lacking)
    raise WorkspaceError(
        f"this machine lacks {what}; install it with: {install_line(lacking, root=root, apt=apt, dnf=dnf)}"
    )


def _apt(packages: Sequence[str]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    # The lists of a fresh machine are empty or old: only then is an update worth its time.
    return _quietly(install, environment) or (
        _quietly(["apt-get", "update"], environment) and _quietly(install, environment)
    )


def _quietly(words: Sequence[str], environment: dict[str, str]) -> bool:
    finished = subprocess.run(
        words,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        print("\n".join(finished.stdout.splitlines()[-5:]), file=sys.stderr, flush=True)
    return finished.returncode == 0
