"""The guest's side of coverage: the counts of a kernel that was built to count (Documentation/dev-tools/gcov.rst)."""

from __future__ import annotations

from pathlib import Path

OPTION = "CONFIG_GCOV_KERNEL"
FOLDER = Path("/sys/kernel/debug/gcov")


def counts(folder: Path = FOLDER) -> dict[str, bytes]:
    """What has run since boot, by the path of each object file in the build's folder, without its ending."""
    return {str(file.relative_to(folder).with_suffix("")): file.read_bytes() for file in sorted(folder.rglob("*.gcda"))}
