"""What the kernel says when something is wrong: found in recorded logs, let pass by exceptions that say enough."""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workspace import kmemleak, splat
from workspace.console import Console, Sign, kernel_messages
from workspace.errors import WorkspaceError
from workspace.settings import Paths
from workspace.splat import Exceptions, Record, TaintedError, splats

RECORDED = Path(__file__).with_name("recorded")

# In each recording, the complaints that are in it; `clean` is a whole run's, of this workspace's own kernel.
COMPLAINTS = {
    "clean": [],
    "programs": [],
    "debug_objects": ["ODEBUG: free active"],
    "hard_lockup": ["watchdog: CPU0: Watchdog detected hard LOCKUP"],
    "hung_task": ["INFO: task python:231 blocked for more than"],
    "hung_task_io": ["INFO: task kworker/u8:2:41 blocked in I/O wait"],
    "kasan": ["BUG: KASAN: slab-use-after-free"],
    "kasan_killed": ["BUG: KASAN: slab-out-of-b"],
    "kmemleak": ["kmemleak: 3 new suspected"],
    "kmemleak_gave_up": ["kmemleak: Memory pool empty", "kmemleak: Cannot allocate", "kmemleak: Kernel memory leak de"],
    "lockdep_circular": ["WARNING: possible circular locking"],
    "lockdep_off": ["BUG: MAX_LOCKDEP_CHAIN_HLOCKS too low!", "turning off the locking"],
    "lockdep_wait_context": ["[ BUG: Invalid wait context ]"],
    "oops": ["BUG: kernel NULL pointer dereference", "Oops: Oops: 0000"],
    "rcu_stall": ["rcu: INFO: rcu_preempt detected stalls"],
    "rcu_suspicious": ["WARNING: suspicious RCU usage"],
    "rcu_tasks_stall": ["INFO: rcu_tasks detected stalls"],
    "refcount": ["WARNING: lib/refcount.c:28", "refcount_t: underflow"],
    "slab": ["BUG kmalloc-64 (Not tainted): Right Redzone"],
    "sleeping": ["BUG: sleeping function called"],
    "torn": ["WARNING: possible recur", "BUG: scheduling while atomic"],
    "ubsan": ["UBSAN: array-index-out-of-bounds"],
}


def messages(name: str) -> list[str]:
    lines = (RECORDED / f"{name}.log").read_text().splitlines()
    return [message for line in lines for message in kernel_messages(line)]


@pytest.mark.parametrize("name", COMPLAINTS)
def test_a_recorded_log_has_the_complaints_that_are_in_it(name: str) -> None:
    found = splats(messages(name))
    assert len(found) == len(COMPLAINTS[name])
    for complaint, start in zip(found, COMPLAINTS[name], strict=True):
        assert complaint.startswith(start)


def test_every_recording_is_tested() -> None:
    assert {path.stem for path in RECORDED.glob("*.log")} == COMPLAINTS.keys()


def test_each_pattern_finds_something_that_no_other_does() -> None:
    """What none of the recordings has, word for word as its source prints it."""
    texts = [text for name in COMPLAINTS for text in messages(name)] + [
        "kernel BUG at mm/slub.c:4400!",
        "INFO: trying to register non-static key.",
        "INFO: lockdep is turned off.",
        "CPU 1 left hardirqs enabled!",
        "rcu: rcu_preempt kthread starved for 5252 jiffies! g10877 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=1",
        "list_add corruption. prev->next should be next (ffff888000000000), but was 0000000000000000. (prev=0).",
        "list_del corruption, ffff888000000000->next is NULL",
        "traps: PANIC: double fault, error_code: 0x0",
        "Thread overran stack, or stack corrupted",
        "python: Corrupted page table at address 7f0000000000",
        "usercopy: Kernel memory exposure attempt detected from SLUB object 'task_struct' (offset 0, size 8)!",
        "unchecked MSR access error: WRMSR to 0x1d9 (tried to write 0x0) at rIP: 0x0 (native_write_msr+0x0/0x30)",
        "GUP no longer grows the stack in python (71): 7f6ae3a01000-7f6ae3a02000 (7f6ae39ff000)",
    ]
    for pattern in splat.DENIED:
        others = [other for other in splat.DENIED if other is not pattern]
        alone = [text for text in texts if pattern.search(text) and not any(other.search(text) for other in others)]
        assert alone, f"{pattern.pattern} finds nothing, or nothing that others do not find"


@pytest.mark.parametrize(("name", "seen"), [("hung_task_io", Sign.LOCKUP), ("hard_lockup", Sign.LOCKUP),
                                            ("rcu_stall", Sign.LOCKUP), ("rcu_tasks_stall", Sign.LOCKUP),
                                            ("programs", None), ("clean", None)])  # fmt: skip
def test_the_console_knows_the_lockups_among_them(name: str, seen: Sign | None, tmp_path: Path) -> None:
    into, out = os.pipe()
    os.write(out, (RECORDED / f"{name}.log").read_bytes())
    os.close(out)
    with Console(into, tmp_path / "log") as console:
        while not console.ended:
            console.read(1.0)
        assert console.signs == ([] if seen is None else [seen])


# --- exceptions


TODAY = datetime.date(2026, 11, 23)
ENTRY = {
    "message": "'BUG: KASAN: .* in odd_driver.*'",
    "reason": '"a defect of another driver"',
    "link": '"https://lore.kernel.org/r/1"',
    "expires": "2026-11-23",
}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Exceptions]:
    def load(**changes: str | None) -> Exceptions:
        entry = {**ENTRY, **changes}
        lines = [f"{key} = {value}" for key, value in entry.items() if value is not None]
        (tmp_path / "allowed.toml").write_text("\n".join(['["an odd driver"]', *lines]))
        return Exceptions.load(tmp_path / "allowed.toml", today=TODAY)

    return load


def test_an_exception_lets_one_complaint_pass_and_no_other(load: Callable[..., Exceptions]) -> None:
    exceptions = load()
    known, other = (
        "BUG: KASAN: slab-use-after-free in odd_driver+0x1/0x2",
        "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
    )
    assert splats([known, other], exceptions) == [other]
    assert splats([f"A prefix: {known}"], exceptions) != [], "the whole message has to match"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reason": None}, "has no `reason`"),
        ({"reason": '""'}, "has no `reason`"),
        ({"link": None}, "has no `link`"),
        ({"link": '"see the mail"'}, "its link is to begin with https://"),
        ({"expires": None}, "has no `expires`"),
        ({"expires": '"2027-01-01"'}, "has no `expires`"),
        ({"expires": "2026-11-22"}, "expired on 2026-11-22: see https://lore.kernel.org/r/1"),
        ({"message": None}, "has no `message`"),
        ({"message": '"("'}, "no regular expression"),
        ({"message": '".*"'}, "lets everything pass"),
        ({"until": "2027-01-01"}, "has no `until`, only message, reason, link, expires"),
    ],
)
def test_an_exception_that_does_not_say_enough_is_an_error_that_names_it(
    load: Callable[..., Exceptions], changes: dict[str, str | None], says: str
) -> None:
    with pytest.raises(WorkspaceError, match=rf"allowed\.toml, \[an odd driver\].*{re.escape(says)}"):
        load(**changes)


@pytest.mark.parametrize("text", ["[half", "top = 1", None])
def test_a_file_that_holds_no_exceptions_is_an_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "allowed.toml").write_text(text)
    with pytest.raises(WorkspaceError, match=r"allowed\.toml"):
        Exceptions.load(tmp_path / "allowed.toml", today=TODAY)


def test_the_exceptions_of_this_workspace_hold_today() -> None:
    Exceptions.load(Paths().vmtests / splat.ALLOWED)


# --- records of /dev/kmsg


def test_a_record_is_taken_apart() -> None:
    record = Record.parse(rb"12,7,88,-;a \xc3\xa9\x0aWARNING: b;c" + b"\n SUBSYSTEM=x\n")
    assert record == Record(number=7, facility=1, lines=("a é", "WARNING: b;c"))


@pytest.mark.parametrize("data", [b"", b"6,1,5,-", b"x,1,5,-;text\n", b"6;text\n"])
def test_what_is_no_record_cannot_be_scanned(data: bytes) -> None:
    with pytest.raises(TaintedError, match="cannot be read"):
        Record.parse(data)


# --- leaks


def test_leaks_are_told(tmp_path: Path) -> None:
    file = tmp_path / "kmemleak"
    file.write_text(" " * 8 + "unreferenced object 0xffff888007c3a140 (size 64):\n")
    # Each command is written where the file starts, as it is opened anew.
    assert kmemleak.leaks(file, age=0.0) == "scan    unreferenced object 0xffff888007c3a140 (size 64):\n"


def test_a_leak_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "kmemleak"
    file.write_text("unreferenced object 0xffff888007c3a140 (size 64):\n")
    kmemleak.leaks(file, age=0.0)
    assert file.read_text().startswith("clear")


def test_leaks_are_looked_for_a_second_time_when_objects_are_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    file = tmp_path / "kmemleak"
    file.touch()
    monkeypatch.setattr(time, "sleep", lambda seconds: steps.append(f"{seconds:g}, {file.read_text()!r}"))
    assert kmemleak.leaks(file) == "scan"
    assert steps == ["6, ''", "6, 'scan'"]


def test_a_scan_for_leaks_that_cannot_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(TaintedError, match=r"no memory was leaked: .*kmemleak: No such file"):
        kmemleak.leaks(tmp_path / "kmemleak", age=0.0)
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(TaintedError, match="No space left"):
        kmemleak.leaks(tmp_path / "full", age=0.0)
