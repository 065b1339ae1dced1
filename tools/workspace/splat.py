"""What the kernel says when something is wrong with it and it goes on: a deny list, and the exceptions from it."""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workspace.errors import WorkspaceError

# Each from the source files that print it, so that a reader can check it; all as Linux 7.3 has them.
# They hold for the first words where that is enough: a line may be torn at its end.
DENIED = tuple(
    re.compile(pattern)
    for pattern in (
        r"^WARNING: ",  # kernel/panic.c, __warn(); kernel/locking/lockdep.c; arch/x86/kernel/unwind_*.c
        r"\bBUG: ",  # mm/kasan, mm/kfence, kernel/kcsan, kernel/watchdog.c, kernel/sched/core.c, arch/x86/mm/fault.c
        r"^BUG \S+ \(",  # mm/slub.c, slab_bug()
        r"\b[Kk]ernel BUG at ",  # lib/bug.c
        r"^UBSAN: ",  # lib/ubsan.c
        r"^INFO: task .*\bblocked\b",  # kernel/hung_task.c
        r"^INFO: trying to register non-static key",  # kernel/locking/lockdep.c
        # After these two lockdep is silent, whatever is done with locks.
        r"^turning off the locking correctness validator",  # kernel/locking/lockdep.c
        r"^INFO: lockdep is turned off",  # kernel/locking/lockdep.c
        r"^CPU \d+ left hardirqs enabled",  # kernel/locking/lockdep.c
        r"\bINFO: \w+ (self-)?detected .*\bstall",  # kernel/rcu/tree_stall.h, tree_exp.h, tasks.h
        r"^rcu: \w+ kthread (starved|timer wakeup didn't happen)",  # kernel/rcu/tree_stall.h
        # What it does not name here is a leak, or that it gave up looking for leaks.
        r"^kmemleak: (?!Kernel memory leak detector initialized|Automatic memory scanning thread)",  # mm/kmemleak.c
        r"^refcount_t: ",  # lib/refcount.c
        r"^list_(add|del) corruption",  # lib/list_debug.c
        r"^Oops: ",  # arch/x86/kernel/dumpstack.c
        r"\bPANIC: double fault",  # arch/x86/kernel/traps.c
        r"^Thread overran stack",  # arch/x86/mm/fault.c, kernel/sched/core.c
        r": Corrupted page table at ",  # arch/x86/mm/fault.c
        r"^usercopy: Kernel memory ",  # mm/usercopy.c
        r"Watchdog detected hard LOCKUP",  # kernel/watchdog.c
        r"^ODEBUG: ",  # lib/debugobjects.c
        r"^unchecked MSR access error",  # arch/x86/mm/extable.c
        r"^GUP no longer grows the stack",  # mm/gup.c
    )
)

ALLOWED = "allowed_splats.toml"  # beside the vmtests
_NEEDED = {"message": str, "reason": str, "link": str, "expires": datetime.date}
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


class TaintedError(Exception):
    """The kernel complained, or its log could not be read to see whether it did."""


@dataclass(frozen=True)
class Allowed:
    """A complaint that is let pass: which (all of its message), why, where that is discussed, until when."""

    name: str
    message: re.Pattern[str]
    reason: str
    link: str
    expires: datetime.date


@dataclass(frozen=True)
class Exceptions:
    """The complaints that are let pass for now."""

    allowed: tuple[Allowed, ...] = ()

    @classmethod
    def load(cls, path: Path, *, today: datetime.date | None = None) -> Exceptions:
        """Read the exceptions; one that does not say all that it has to, or whose time is over, is an error."""
        try:
            table = tomllib.loads(path.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise WorkspaceError(f"what a kernel may say cannot be read: {path}: {error}.") from error
        return cls(
            tuple(
                _allowed(f"{path.name}, [{name}]", name, entry, today or datetime.datetime.now(datetime.UTC).date())
                for name, entry in table.items()
            )
        )

    def allow(self, message: str) -> bool:
        """True if this complaint is let pass."""
        return any(entry.message.fullmatch(message) for entry in self.allowed)


def _allowed(where: str, name: str, entry: object, today: datetime.date) -> Allowed:
    told = entry if isinstance(entry, dict) else {}
    for key, kind in _NEEDED.items():
        if type(told.get(key)) is not kind or told[key] == "":
            raise WorkspaceError(
                f"{where} has no `{key}`: an exception says message (a regular expression), reason, link and "
                "expires (a date)."
            )
    if unknown := told.keys() - _NEEDED.keys():
        raise WorkspaceError(f"{where}: an exception has no `{min(unknown)}`, only {', '.join(_NEEDED)}.")
    if not told["link"].startswith("https://"):
        raise WorkspaceError(f"{where}: its link is to begin with https://, and is {told['link']!r}.")
    if told["expires"] < today:
        raise WorkspaceError(
            f"{where} expired on {told['expires']}: see {told['link']} whether it is needed still; remove it, or "
            "give it another date and say why."
        )
    try:
        message = re.compile(told["message"])
    except re.error as error:
        raise WorkspaceError(f"{where}: its message is no regular expression: {error}.") from error
    if message.fullmatch(""):
        raise WorkspaceError(f"{where}: its message lets everything pass: write what this one complaint says.")
    return Allowed(name, message, told["reason"], told["link"], told["expires"])


NONE = Exceptions()


def splats(messages: Iterable[str], exceptions: Exceptions = NONE) -> list[str]:
    """Those of the kernel's ``messages`` that must not be there."""
    return [
        message
        for message in messages
        if any(pattern.search(message) for pattern in DENIED) and not exceptions.allow(message)
    ]


@dataclass(frozen=True)
class Record:
    """One record of /dev/kmsg: its place in the log, who wrote it, its lines."""

    number: int
    facility: int
    lines: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes) -> Record:
        """Take one record apart, as a read of /dev/kmsg gives it. Raises TaintedError if it is none."""
        head, found, rest = data.partition(b";")
        try:
            level, number = (int(field) for field in head.split(b",")[:2])
        except ValueError:
            found = b""
        if not found:
            raise TaintedError(f"the kernel log has a record that cannot be read, {data[:80]!r}")
        # What follows the first line are facts about a device. The message's own line ends are escaped.
        text = _ESCAPED.sub(lambda escape: bytes([int(escape[1], 16)]), rest.partition(b"\n")[0])
        return cls(number, level >> 3, tuple(text.decode(errors="replace").split("\n")))
