"""What can go wrong in a way the user can mend."""

from __future__ import annotations

import errno
import os

# As the C library says it, and git.
_NO_ROOM = (*map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)), "Out of diskspace")


class WorkspaceError(Exception):
    """A failure to report, not to trace: ``str()`` is one clear sentence that names the fix."""


def says_no_room(error: OSError) -> bool:
    """Whether a disk, a quota or a limit is what stopped a write."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def tells_of_no_room(text: str) -> bool:
    """Whether a program that failed says that this is why."""
    return any(words in text for words in _NO_ROOM)


class Terminated(BaseException):
    """SIGTERM arrived: unwind as for ^C, so that every ``finally`` runs and no process stays behind."""
