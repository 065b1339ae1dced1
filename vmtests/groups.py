"""Each group as ``/proc`` has it: the oracle's fields in the client's types."""

from __future__ import annotations

from taskdiag import Base, State
from vmtests.oracle import Process

STATES = {
    "R": State.RUNNING,
    "S": State.INTERRUPTIBLE,
    "D": State.UNINTERRUPTIBLE,
    "T": State.STOPPED,
    "t": State.TRACE_STOP,
    "X": State.DEAD,
    "Z": State.ZOMBIE,
    "P": State.PARKED,
    "I": State.IDLE,
}


def expected(process: Process) -> Base:
    """Return BASE as ``/proc`` has it."""
    # task->comm is cut at 15 bytes, the names of kernel threads in /proc are not.
    return Base(
        tgid=process.tgid,
        pid=process.pid,
        ppid=process.ppid,
        tpid=process.tpid,
        sid=process.sid,
        pgid=process.pgid,
        state=STATES[process.letter],
        comm=process.name[:15],
    )
