"""``taskdiag ps``: what ps of procps-ng prints, from one answer of task_diag instead of several files for each task."""
