"""The command ``taskdiag``, which is ``python -m taskdiag`` too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from taskdiag import dump, version
from taskdiag.client import PROC, tasks
from taskdiag.ps import command as ps
from taskdiag.screen import Screen
from taskdiag.uapi import Group, Strategy


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0; 1 with one line on standard error, or if ps found no process; 2 for wrong options."""
    options = _parser().parse_args(list(_attached(sys.argv[1:] if words is None else words)))
    screen = Screen()
    try:
        status = int(options.run(options, screen))
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has had enough. What is still buffered cannot be written, nor complained about at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"taskdiag: {error}", file=sys.stderr)
        return 1
    return status


def _attached(words: Sequence[str]) -> Iterator[str]:
    """Attach to ``--sort`` the word behind it: argparse takes ``-rss`` for an option of its own."""
    left = iter(words)
    for word in left:
        following = next(left, None) if word == "--sort" else None
        yield word if following is None else f"{word}={following}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="taskdiag",
        description="Tell about the tasks of this machine, by asking /proc/task-diag.",
        epilog="Without a command: a short list of processes.",
    )
    parser.add_argument("--version", action="version", version=f"taskdiag {version.VERSION}")
    _add_common(parser, PROC)
    parser.add_argument("--pid", type=int, help="list this task only")
    parser.set_defaults(run=_list)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, run, add_options, about in (
        ("ps", ps.run, ps.add_options, "print what ps of procps-ng prints"),
        ("dump", dump.dump, dump.add_dump_options, "write every group of the tasks as JSON, or as it comes"),
        ("show", dump.show, dump.add_show_options, "tell what a recorded answer says"),
        ("groups", dump.groups, None, "list the groups that this kernel has"),
    ):
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        # Given before the command or behind it; a default here would undo what was said before it.
        _add_common(command, argparse.SUPPRESS)
        if add_options:
            add_options(command)
        command.set_defaults(run=run)
    return parser


def _add_common(parser: argparse.ArgumentParser, default: Path | str) -> None:
    parser.add_argument("--proc", type=Path, default=default, metavar="MOUNT", help="the procfs mount, if not /proc")


def _list(options: argparse.Namespace, screen: Screen) -> int:
    strategy = Strategy.ALL if options.pid is None else Strategy.ONE
    dump.write_table(tasks((Group.BASE,), strategy, pid=options.pid or 0, proc=options.proc), screen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
