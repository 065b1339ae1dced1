"""Fixtures of the vmtests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmtests import programs
from vmtests.namespaces import PidNamespace
from vmtests.population import Gate, Population


@pytest.fixture
def machine() -> Iterator[Population]:
    """Make processes in the guest's own pid namespace, ended with the test."""
    with Population() as population:
        yield population


@pytest.fixture
def world() -> Iterator[PidNamespace]:
    """Make a pid namespace with nothing in it but process 1 and what the test adds."""
    with PidNamespace() as namespace:
        yield namespace


@pytest.fixture
def task_diag(world: PidNamespace) -> Iterator[int]:
    """Open the task-diag of ``world``'s own procfs."""
    fd = world.procfs.open()
    yield fd
    os.close(fd)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Make a gate, which is shut."""
    made = Gate()
    yield made
    made.close()


@pytest.fixture(scope="module")
def crowd() -> Iterator[PidNamespace]:
    """Make a pid namespace of more processes than fit into the kernel's buffer, or pass under one RCU section.

    Only to look at.
    """
    with PidNamespace() as namespace:
        namespace.crowd(445)
        yield namespace


@pytest.fixture
def crowd_diag(crowd: PidNamespace) -> Iterator[int]:
    """Open the task-diag of ``crowd``'s own procfs."""
    fd = crowd.procfs.open()
    yield fd
    os.close(fd)


@pytest.fixture(scope="session")
def execer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program that executes itself from a thread, for ever."""
    return programs.compiled("exec_from_thread", tmp_path_factory.mktemp("programs"), "-pthread")


@pytest.fixture(scope="session")
def headers(pytestconfig: pytest.Config) -> Path:
    """Return the running kernel's headers for programs."""
    return Path(pytestconfig.workerinput["workspace_headers"])  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def leaks_are_looked_for(pytestconfig: pytest.Config) -> bool:
    """Return whether lost memory of any size is found at the end of the run (kmemleak)."""
    return "CONFIG_DEBUG_KMEMLEAK" in pytestconfig.workerinput["workspace_options"]  # type: ignore[attr-defined]


@pytest.fixture
def proc() -> Iterator[int]:
    """Open the root of the guest's own procfs, for the oracle."""
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def whole_machine() -> Iterator[int]:
    """Open ``/proc/task-diag`` itself."""
    fd = os.open("/proc/task-diag", os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)
