"""Which C files are compiled to check a patch, and which headers are tried by themselves.

The rule:

- a .c file that the patch changes is compiled;
- if the patch changes a header, so is every .c file of the whole series that is there already, and for
  include/linux/NAME.h also kernel/NAME.c, where there is one;
- what is no part of a kernel (tools/, samples/, scripts/, Documentation/, usr/) is not compiled, and arch/NAME/ only
  for that architecture.

A header that uses a new declaration is so compiled where the series uses it, and where it is implemented. What else
includes it is compiled by the whole builds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_NO_KERNEL = ("Documentation/", "samples/", "scripts/", "tools/", "usr/")
_LINUX = re.compile(r"include/linux/([^/]+)\.h")
_UAPI = "include/uapi/"


def to_compile(
    touched: Iterable[str], *, series: Iterable[str], exists: Callable[[str], bool], srcarch: str
) -> tuple[str, ...]:
    """The .c files for a patch that changes ``touched``, in a series that changes ``series``."""
    changed = set(touched)
    names = {name for name in changed if name.endswith(".c")}
    headers = {name for name in changed if name.endswith(".h") and _in_kernel(name, srcarch)}
    if headers:
        names |= {name for name in series if name.endswith(".c")}
        names |= {f"kernel/{found[1]}.c" for name in headers if (found := _LINUX.fullmatch(name))}
    return tuple(sorted(name for name in names if _in_kernel(name, srcarch) and exists(name)))


def uapi_headers(touched: Iterable[str], *, exists: Callable[[str], bool]) -> tuple[str, ...]:
    """The headers for user space among ``touched``, as a program includes them: ``linux/task_diag.h``."""
    names = (name for name in sorted(touched) if name.startswith(_UAPI) and name.endswith(".h"))
    return tuple(name.removeprefix(_UAPI) for name in names if exists(name))


def _in_kernel(name: str, srcarch: str) -> bool:
    if name.startswith("arch/"):
        return name.startswith(f"arch/{srcarch}/")
    return not name.startswith(_NO_KERNEL)
