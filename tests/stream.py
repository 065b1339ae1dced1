"""Streams of task_diag built byte by byte, for what decodes them.

The numbers and layouts are the contract's, written again here: a slip in the client's cannot hide itself.
"""

from __future__ import annotations

import random
import struct

BASE, CRED, VMA, VMA_STAT, STAT, CMDLINE, IDENT, MEM, SCHED, JOB = range(10)
CONT, TRUNC = 1, 2


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to 4 bytes."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def message(pid: int, *attributes: bytes, flags: int = 0, tgid: int | None = None, seq: int = 7) -> bytes:
    """Return one message; ``tgid`` is the pid unless said."""
    body = struct.pack("=III", pid, pid if tgid is None else tgid, flags) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), 0xD101, 2, seq, 0) + body


def base(
    pid: int = 5,
    *,
    tgid: int | None = None,
    ppid: int = 1,
    tpid: int = 0,
    sid: int = 3,
    pgid: int = 4,
    state: int = 1,
    comm: bytes = b"sh",
) -> bytes:
    """Return a payload of BASE."""
    return struct.pack("=6IB16s3x", pid if tgid is None else tgid, pid, ppid, tpid, sid, pgid, state, comm)


def cred(
    uids: tuple[int, int, int, int] = (0, 0, 0, 0),
    gids: tuple[int, int, int, int] = (0, 0, 0, 0),
    capabilities: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> bytes:
    """Return a payload of CRED; capabilities: inheritable, permitted, effective, bounding."""
    halves = [half for whole in capabilities for half in (whole & 0xFFFFFFFF, whole >> 32)]
    return struct.pack("=16I", *halves, *uids, *gids)


def stat(
    faults: tuple[int, int, int, int] = (0, 0, 0, 0),
    times: tuple[int, int, int, int] = (0, 0, 0, 0),
    threads: int = 1,
) -> bytes:
    """Return a payload of STAT; faults: minflt cminflt majflt cmajflt; times: utime stime cutime cstime."""
    return struct.pack("=8QII", *faults, *times, threads, 0)


def ident(start: int = 0, inode: int = 0, cgroup: int = 0) -> bytes:
    """Return a payload of IDENT."""
    return struct.pack("=3Q", start, inode, cgroup)


def mem(vsize: int = 0, rss: int = 0, *, locked: int = 0) -> bytes:
    """Return a payload of MEM."""
    return struct.pack("=8Q", vsize, rss, 0, 0, 0, locked, 0, 0)


def sched(policy: int = 0, nice: int = 0, priority: int = 20, rt_priority: int = 0, processor: int = 0) -> bytes:
    """Return a payload of SCHED."""
    return struct.pack("=3i3I2Q", policy, nice, priority, rt_priority, processor, 0, 0, 0)


def job(tty: int = 0, tpgid: int = -1, flags: int = 0, exit_signal: int = 17) -> bytes:
    """Return a payload of JOB."""
    return struct.pack("=iiIi", tty, tpgid, flags, exit_signal)


def vma(start: int, end: int, flags: int = 0, name: bytes = b"", stat: bytes = b"", more: bytes = b"") -> bytes:
    """Return one record of VMA: its head, ``more`` that a later kernel put behind that, name, statistics."""
    record = bytearray(64) + more
    name_at = len(record) if name else 0
    record += name
    stat_at = 0
    if stat:
        record += bytes(-len(record) % 8)
        stat_at = len(record)
        record += stat
    record += bytes(-len(record) % 8)
    file = (4096, 8, 1, 77, 0)
    offsets = (len(record), name_at, len(name), stat_at, len(stat), 0)
    struct.pack_into("=4QIIQI6H", record, 0, start, end, flags, *file, *offsets)
    return bytes(record)


def pieces(pid: int, *parts: bytes, flags: int = 0, comm: bytes = b"sh") -> list[bytes]:
    """Return the messages of one process: BASE, CMDLINE in these ``parts``, a message each, then IDENT and JOB.

    ``flags`` are those of the last part.
    """
    bodies = [[attribute(CMDLINE, part)] for part in parts]
    bodies[0].insert(0, attribute(BASE, base(pid, comm=comm)))
    messages = [message(pid, *body, flags=CONT) for body in bodies[:-1]]
    messages.append(message(pid, *bodies[-1], flags=CONT | flags))
    return [*messages, message(pid, attribute(IDENT, ident(pid)), attribute(JOB, job()))]


def split(pid: int, groups: dict[int, bytes], cuts: random.Random, *, flags: int = 0) -> bytes:
    """Return the messages of one task, split at random: between groups, and inside CMDLINE."""
    pieces: list[tuple[int, bytes]] = []
    for kind, payload in groups.items():
        while kind == CMDLINE and len(payload) > 1 and cuts.random() < 0.7:
            cut = cuts.randrange(1, len(payload))
            pieces.append((kind, payload[:cut]))
            payload = payload[cut:]
        pieces.append((kind, payload))
    messages: list[list[bytes]] = [[]]
    for kind, payload in pieces:
        if cuts.random() < 0.5:
            messages.append([])
        messages[-1].append(attribute(kind, payload))
    *firsts, last = messages
    return b"".join(message(pid, *part, flags=CONT) for part in firsts) + message(pid, *last, flags=flags)
