"""The promises of ``/proc/task-diag``, tested inside a guest that runs the patched kernel.

No wait has a limit of its own: the test's deadline ends it, which is stretched for what the guest runs on and what its
kernel checks (``Machine.slowness``).
"""
