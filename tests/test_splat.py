from __future__ import annotations

import pytest

from workspace.splat import splats


@pytest.mark.parametrize(
    "message",
    [
        "WARNING: kernel/fork.c:123 at copy_process+0x1/0x2, CPU#1: python/76",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "WARNING: bad unlock balance detected!",
        "BUG: sleeping function called from invalid context at mm/slab.h:321",
        "BUG: KASAN: slab-use-after-free in task_diag_read+0x1/0x2",
        "BUG: KCSAN: data-race in a / b",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "BUG: scheduling while atomic: python/76/0x00000002",
        "INFO: task python:76 blocked for more than 120 seconds.",
        "INFO: trying to register non-static key.",
        "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        "refcount_t: underflow; use-after-free.",
        "UBSAN: array-index-out-of-bounds in fs/proc/task_diag.c:1:2",
        "Oops: general protection fault, probably for non-canonical address 0xdead",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [python:76]",
        "list_add corruption. prev->next should be next",
    ],
)
def test_each_complaint_is_found_among_harmless_lines(message: str) -> None:
    assert splats(["Linux version 7.3.4", message, "Freeing unused kernel image memory"]) == [message]


def test_what_a_healthy_guest_prints_is_none() -> None:
    assert (
        splats(
            [
                "Linux version 7.3.4 (gcc 12.2.0) #1 SMP PREEMPT_DYNAMIC",
                "Command line: oops=panic panic_on_warn=1 softlockup_panic=1 hung_task_panic=1",
                "rcu: Preemptible hierarchical RCU implementation.",
                "rcu: RCU event tracing is enabled.",
                "virtme-ng-init: mount devtmpfs -> /dev: EBUSY: Device or resource busy",
                "hpet: Lost 1 RTC interrupts",
                "process 'bin/x' started with executable stack",
                "traps: python[76] general protection fault ip:7f sp:7f error:0 in libc.so.6",
                "workqueue: blk_mq_requeue_work will be created",
            ]
        )
        == []
    )
