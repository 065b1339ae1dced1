"""What can go wrong in a way the user can mend."""

from __future__ import annotations


class WorkspaceError(Exception):
    """A failure to report, not to trace: ``str()`` is one clear sentence that names the fix."""


class Terminated(BaseException):
    """SIGTERM arrived: unwind as for ^C, so that every ``finally`` runs and no process stays behind."""
