"""A stand-in for an open /proc/task-diag, as far as its errors and its buffers go."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class FakeTaskDiag:
    """What the contract says of ``write()`` and ``read()``, over messages that were made before."""

    messages: list[bytes] = field(default_factory=list)
    """The answer, whole messages; of ONE those of that task."""
    threads: list[bytes] | None = None
    """The answer to ALL_THREAD and THREAD, if it is another one."""
    again: dict[int, list[bytes]] = field(default_factory=dict)
    """The answers to THREAD about a process, the last of them again and again; an empty one is ESRCH."""
    known: int = 0b11_1111_1111
    """The groups that it has, as ``show_flags``."""
    ends: int = 0
    """The errno that the first read of an answer gives, 0 for none."""
    requests: list[tuple[int, int, int]] = field(default_factory=list)
    """show_flags, dump_strategy and pid of each request that was taken."""
    starts: list[int] = field(default_factory=list)
    """The start of each of them."""
    refused: list[int] = field(default_factory=list)
    """show_flags of each request that was EINVAL."""
    sizes: list[int] = field(default_factory=list)
    """The buffer of each read."""
    closed: bool = False
    _answer: list[bytes] | None = None
    _gone: bool = False

    def write(self, data: bytes) -> int:
        """Take a request."""
        show, strategy, pid, start = struct.unpack("=QQII", data[16:])
        if self._answer is not None:
            raise _error(errno.EBUSY)
        if (
            show & ~self.known
            or strategy > 4
            or bool(pid) is not (strategy in (1, 3, 4))
            or show & 12 == 8
            or (start and strategy == 1)
        ):
            self.refused.append(show)
            raise _error(errno.EINVAL)
        self.requests.append((show, strategy, pid))
        self.starts.append(start)
        self._answer = list(self.messages)
        if strategy == 4 and pid in self.again:
            answers = self.again[pid]
            self._answer = list(_split(answers.pop(0) if len(answers) > 1 else answers[0]))
            self._gone = not self._answer
        elif strategy == 1:
            self._answer = [message for message in self.messages if struct.unpack_from("=I", message, 16) == (pid,)]
        elif strategy in (2, 4) and self.threads is not None:
            self._answer = list(self.threads)
        if start:
            self._answer = [message for message in self._answer if struct.unpack_from("=I", message, 16)[0] >= start]
        return len(data)

    def read(self, size: int) -> bytes:
        """Give as many messages as fit."""
        self.sizes.append(size)
        if self._answer is None:
            return b""
        if number := errno.ESRCH if self._gone else self.ends:
            self._answer, self._gone = None, False
            raise _error(number)
        if self._answer and len(self._answer[0]) > size:
            raise _error(errno.EMSGSIZE)
        answer = b""
        while self._answer and len(answer) + len(self._answer[0]) <= size:
            answer += self._answer.pop(0)
        if not answer:
            self._answer = None
        return answer

    def close(self) -> None:
        """Give up."""
        self.closed = True
        self._answer = None

    def opener(self) -> Callable[[object, str], FakeTaskDiag]:
        """Return what stands in for ``io.FileIO``."""

        def fake(_file: object, mode: str) -> FakeTaskDiag:
            assert mode == "r+"
            self.closed = False
            return self

        return fake


def _split(answer: bytes) -> Iterator[bytes]:
    while answer:
        (length,) = struct.unpack_from("=I", answer)
        yield answer[:length]
        answer = answer[length:]


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
