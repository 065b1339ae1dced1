"""Names of terminals for their device numbers, as ``/dev`` has them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taskdiag.ps.text import printable

_DRIVER = re.compile(rb" /dev/(\S+) +(\d+) +(\d+)(?:-(\d+))?")
_DEVICE_NAME = re.compile(rb"^DEVNAME=(.+)$", re.MULTILINE)


def device_of(path: bytes) -> int | None:
    """Return the device number of the special file ``path``, None if there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a name may be no text)
    except OSError:
        return None
    return found.st_rdev if stat.S_ISCHR(found.st_mode) else 0


@dataclass(frozen=True)
class Terminals:
    """The machine's drivers of terminals: where to look for the name of one."""

    drivers: bytes
    """What ``/proc/tty/drivers`` says."""
    sysfs: Path = Path("/sys/dev/char")
    device: Callable[[bytes], int | None] = device_of

    def name(self, number: int) -> str:
        """Return what ps calls the terminal with the device number ``number``: its path below /dev, or ``?``."""
        # A number with its top bit set comes as a negative one.
        number &= 0xFFFFFFFF
        if number:
            for path in self._paths(os.major(number), os.minor(number)):
                found = self.device(b"/dev/" + path)
                if found is not None:
                    if found == number:
                        return printable(path)
                    break
            registered = self._registered(number)
            if registered and self.device(b"/dev/" + registered) == number:
                return printable(registered)
        return "?"

    def _paths(self, major: int, minor: int) -> Iterator[bytes]:
        """Give the names that the driver's name stands for, in the order in which they are tried."""
        for name, *numbers in reversed(_DRIVER.findall(self.drivers)):
            owner, first, last = (int(number or numbers[1]) for number in numbers)
            if owner == major and first <= minor <= last:
                stem = name.removesuffix(b"%d")
                yield b"%b%d" % (stem, minor)
                yield b"%b/%d" % (stem, minor)
                if stem == name:
                    yield name
                return

    def _registered(self, number: int) -> bytes | None:
        """Return the name that the kernel gave the device itself: serial lines count from another number."""
        try:
            text = (self.sysfs / f"{os.major(number)}:{os.minor(number)}" / "uevent").read_bytes()
        except OSError:
            return None
        found = _DEVICE_NAME.search(text)
        return found[1] if found else None
