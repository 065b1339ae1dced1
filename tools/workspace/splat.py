"""What the kernel says when something is wrong with it and it goes on: a deny list."""

from __future__ import annotations

import re

# Each from the source file that prints it, so that a reader can check it.
DENIED = tuple(
    re.compile(pattern)
    for pattern in (
        r"^WARNING: ",  # kernel/panic.c, __warn(); kernel/locking/lockdep.c
        r"BUG: ",  # kernel/panic.c and mm/: KASAN, KCSAN, KFENCE, soft lockup, sleeping function, ...
        r"^UBSAN: ",  # lib/ubsan.c
        r"^INFO: task .* blocked",  # kernel/hung_task.c
        r"^INFO: (possible|trying to register non-static key|NMI handler)",  # kernel/locking/lockdep.c
        r"(possible|suspicious) (recursive locking|RCU usage|circular locking)",  # kernel/locking/lockdep.c
        r"inconsistent lock state|bad unlock balance|held lock freed|still held",  # kernel/locking/lockdep.c
        r"rcu: INFO: rcu",  # kernel/rcu/tree_stall.h
        r"kmemleak: \d+ new suspected memory leaks",  # mm/kmemleak.c
        r"refcount_t: ",  # lib/refcount.c
        r"list_(add|del) corruption",  # lib/list_debug.c
        r"^(Oops|general protection fault|divide error|invalid opcode|stack segment)\b",  # arch/x86/kernel
        r"unable to handle (page fault|kernel)",  # arch/x86/mm/fault.c
        r"^(usercopy|Bad rss-counter|Bad page|Bad page map|slab error)",  # mm/
        r"detected stalls|Watchdog detected hard LOCKUP",  # kernel/watchdog*.c
        r"^debugobjects?: |ODEBUG: ",  # lib/debugobjects.c
        r"unchecked MSR access",  # arch/x86/mm/extable.c
        r"scheduling while atomic",  # kernel/sched/core.c
        r"workqueue: .* (hogged|lockup)",  # kernel/workqueue.c
    )
)


def splats(messages: list[str]) -> list[str]:
    """Those of the kernel's ``messages`` that must not be there."""
    return [message for message in messages if any(pattern.search(message) for pattern in DENIED)]
