"""The contract, "Request": the same for 32-bit programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vmtests import programs, raw
from vmtests.namespaces import PidNamespace
from vmtests.raw import Request


@pytest.mark.promise("W2", "W6", "R1", "G1")
def test_a_32_bit_program_gets_the_same_bytes(
    world: PidNamespace, task_diag: int, headers: Path, tmp_path: Path
) -> None:
    """v4's request had 4 bytes less there, so that every one was refused."""
    program = programs.compiled("dump_all", tmp_path, "-m32", *programs.BARE, "-nostdinc", f"-isystem{headers}")
    for _ in range(30):
        world.sleeping()
    done = subprocess.run(
        [program], cwd=f"/proc/self/fd/{world.procfs.fd}", pass_fds=[world.procfs.fd], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    raw.ask(task_diag, Request(seq=32))
    assert done.stdout == b"".join(raw.drain(task_diag, 1000))
    assert len(raw.pids(done.stdout)) == 31
