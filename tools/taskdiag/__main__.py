"""Print the tasks of this machine: ``python -m taskdiag``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from taskdiag.client import PROC, tasks
from taskdiag.table import rows
from taskdiag.uapi import Group, Strategy


def main() -> int:
    """Return the exit status: 0, or 1 with one line on standard error."""
    parser = argparse.ArgumentParser(prog="taskdiag", description="Print the tasks of this machine.")
    parser.add_argument("--pid", type=int, help="this task only")
    parser.add_argument("--proc", type=Path, default=PROC, help="the procfs mount (%(default)s)")
    options = parser.parse_args()
    strategy = Strategy.ALL if options.pid is None else Strategy.ONE
    try:
        for row in rows(tasks((Group.BASE,), strategy, pid=options.pid or 0, proc=options.proc)):
            print(row)
    except OSError as error:
        print(f"taskdiag: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
