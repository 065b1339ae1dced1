"""The promises of ``/proc/task-diag``, tested inside a guest that runs the patched kernel."""
