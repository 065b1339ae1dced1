"""What only the host can tell: that the kernel gets to user space, and how it ends when it does not go on."""

from __future__ import annotations

import pytest

from workspace.boot import Booted
from workspace.guest import Kind

pytestmark = pytest.mark.host


@pytest.mark.promise("F1")
def test_user_space_is_reached_and_the_file_is_there_with_its_option_only(guest: Booted) -> None:
    assert guest.run("uname -r") == (0, f"{guest.vm.kernel.release}\n")
    code, mode = guest.run("stat -c %a /proc/task-diag")
    assert (code, mode) == (0, "666\n") if guest.vm.kernel.has("CONFIG_TASK_DIAG") else code == 1


def test_an_interrupted_command_gives_the_console_back(guest: Booted) -> None:
    guest.type("sleep 1000")
    guest.interrupt()
    assert guest.run("echo $((6 * 7))") == (0, "42\n")
    # Nothing of it is left behind.
    assert guest.run("pidof sleep")[0] == 1


def test_a_panic_is_told(guest: Booted) -> None:
    guest.type("echo c >/proc/sysrq-trigger")
    assert guest.fate() is Kind.PANIC
    assert "sysrq triggered crash" in guest.tail


def test_a_hang_and_a_killed_guest_are_told_apart(guest: Booted) -> None:
    assert guest.fate() is Kind.DONE
    guest.freeze()
    assert guest.fate(seconds=3) is Kind.HANG
    guest.kill()
    assert guest.fate() is Kind.KILLED
