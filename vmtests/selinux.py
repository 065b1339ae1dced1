"""SELinux: a policy for the tests, and processes with its types (selinux.policy, beside this file)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from vmtests import syscalls
from vmtests.credentials import Credentials, run_in_child

T = TypeVar("T")

POLICY = Path(__file__).with_name("selinux.policy")
_CONTEXT = Path("/proc/thread-self/attr/current")


def retype(name: str) -> None:
    """Give the calling thread a type, which what it forks has too."""
    _CONTEXT.write_text(f"u:r:{name}")


def type_of(task: int) -> str:
    """Return the type of a process, or of a thread."""
    return Path(f"/proc/{task}/attr/current").read_text().rstrip("\n\0").split(":")[2]


class Policy:
    """The policy, which decides."""

    def __init__(self, root: int) -> None:
        self._root = root

    def load(self, binary: bytes) -> None:
        """Load it; all has the types of it from then on."""
        # In one write, as it has to be.
        self._write("load", binary)

    def enforce(self, *, on: bool) -> None:
        """Have what it refuses refused, or only recorded."""
        self._write("enforce", b"%d" % on)

    def forget(self) -> None:
        """Void what the kernel remembers of earlier decisions."""
        self.enforce(on=False)
        self.enforce(on=True)

    def _write(self, name: str, data: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._root)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)


@contextmanager
def enforced(folder: Path) -> Iterator[Policy]:
    """Have the policy decide; it stays loaded, and is not enforced any more afterwards."""
    binary = folder / "policy"
    words = ["checkpolicy", "-U", "allow", "-o", str(binary), str(POLICY)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    root = syscalls.mount("selinuxfs")
    policy = Policy(root)
    try:
        policy.load(binary.read_bytes())
        policy.enforce(on=True)
        yield policy
    finally:
        policy.enforce(on=False)
        os.close(root)


def run_as_type(name: str, who: Credentials, function: Callable[[], T]) -> T:
    """Run ``function`` in a child that has the type and is ``who``; return its result, or raise its exception."""

    def taken() -> T:
        retype(name)
        who.take()
        return function()

    return run_in_child(taken)
