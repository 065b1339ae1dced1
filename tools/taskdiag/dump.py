"""The commands that show records as they are: ``taskdiag dump``, ``show`` and ``groups``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from taskdiag import wire
from taskdiag.client import FILE, TaskDiag, Transaction
from taskdiag.screen import Screen
from taskdiag.table import rows
from taskdiag.uapi import Group, State, Strategy, VmaFlag
from taskdiag.wire import Task

_Named = TypeVar("_Named", Group, Strategy)

_MANY = frozenset({Group.VMA, Group.VMA_STAT})
"""The groups of many records for each task, and only given when they are asked for."""


def add_dump_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``dump()`` takes."""
    parser.add_argument(
        "--groups",
        type=_groups,
        metavar="NAME,..",
        help=f"of {', '.join(group.name.lower() for group in Group)}, or all; unless said, those that the kernel has "
        "but vma and vma_stat",
    )
    parser.add_argument("--strategy", type=_strategy, metavar="NAME", help="all, one, all_thread, children, thread")
    parser.add_argument("--pid", type=int, default=0, help="the task for the strategies one, children and thread")
    parser.add_argument("--start", type=int, default=0, metavar="PID", help="the lowest pid to look at; not with one")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON object for each task, a line each; this is usual")
    form.add_argument("--raw", action="store_true", help="the kernel's bytes as they come, for `taskdiag show`")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there, not to standard output")


def dump(options: argparse.Namespace, screen: Screen) -> int:
    """Write one answer."""
    if options.raw and options.output is None and screen.terminal:
        raise ValueError("a raw answer is nothing for a terminal: say --output FILE, or send it through a pipe")
    strategy = options.strategy if options.strategy is not None else Strategy.ONE if options.pid else Strategy.ALL
    groups = options.groups if options.groups is not None else _had(options.proc) - _MANY
    with Transaction(groups, strategy, pid=options.pid, start=options.start, proc=options.proc) as transaction:
        if options.raw:
            if options.output is None:
                _write_raw(transaction.reads(), sys.stdout.fileno())
            else:
                _write_raw(transaction.reads(), options.output)
        elif options.output is None:
            _write_json(transaction, screen)
        else:
            with options.output.open("w", encoding="utf-8") as output:
                _write_json(transaction, Screen(output))
    return 0


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``show()`` takes."""
    parser.add_argument("file", help="what `taskdiag dump --raw` wrote; - is standard input")
    parser.add_argument("--json", action="store_true", help="a JSON object for each task, a line each, not a table")


def show(options: argparse.Namespace, screen: Screen) -> int:
    """Write what a recorded answer says."""
    with sys.stdin.buffer if options.file == "-" else Path(options.file).open("rb") as file:
        tasks = wire.join(wire.decode_file(file))
        if options.json:
            _write_json(tasks, screen)
        else:
            write_table(tasks, screen)
    return 0


def write_table(tasks: Iterable[Task], screen: Screen) -> None:
    """Write a heading and a line for each task."""
    left = iter(tasks)
    # What is wrong with the request is known with the first of them: then there is to be no heading.
    first = list(islice(left, 1))
    lines = rows(chain(first, left))
    screen.heading(next(lines))
    for line in lines:
        screen.line(line)


def groups(options: argparse.Namespace, screen: Screen) -> int:
    """Write the groups that the kernel has."""
    for group in sorted(_had(options.proc)):
        screen.line(group.name.lower())
    return 0


def as_json(task: Task) -> dict[str, Any]:
    """Return all that is known of a task, in the types that JSON has.

    The groups that came are objects with the fields of their records (``vma`` a list of them, ``cmdline`` a string
    with the NULs in it); ``cut`` names those of which not all could be had. Bytes are text of UTF-8, a byte that is
    none of it as Python's surrogateescape has it; states and flags go by their names, what has none is a number.
    """
    shown: dict[str, Any] = {"pid": task.pid, "tgid": task.tgid, "complete": task.complete}
    for name in ("base", "cred", "stat", "ident", "mem", "sched", "job"):
        if (record := getattr(task, name)) is not None:
            shown[name] = _plain(dataclasses.asdict(record))
    if task.cmdline is not None:
        shown["cmdline"] = _plain(task.cmdline)
        shown["cmdline_cut"] = task.cmdline_cut
    if task.cut:
        shown["cut"] = [_name_of(kind) for kind in sorted(task.cut)]
    if task.vmas is not None:
        shown["vma"] = [_plain(dataclasses.asdict(area)) for area in task.vmas]
    return shown


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case bytes():
            return value.decode("utf-8", "surrogateescape")
        case State():
            return value.name
        case VmaFlag():
            unnamed = int(value) & ~sum(VmaFlag)
            return [flag.name for flag in value] + ([unnamed] if unnamed else [])
        case _:
            return value


def _name_of(kind: int) -> str | int:
    return next((group.name for group in Group if group == kind), kind)


def _write_json(tasks: Iterable[Task], screen: Screen) -> None:
    for task in tasks:
        screen.line(json.dumps(as_json(task)))


def _write_raw(reads: Iterable[bytes], file: Path | int) -> None:
    with open(file, "wb", closefd=not isinstance(file, int)) as output:
        output.writelines(reads)


def _had(proc: Path) -> frozenset[Group]:
    with TaskDiag(proc / FILE) as source:
        return source.groups()


def _groups(text: str) -> frozenset[Group]:
    if text == "all":
        return frozenset(Group)
    return frozenset(_named(Group, word.strip()) for word in text.split(","))


def _strategy(text: str) -> Strategy:
    return _named(Strategy, text.replace("-", "_"))


def _named(kind: type[_Named], name: str) -> _Named:
    """Return the member of ``kind`` with this name, in small letters or capitals."""
    try:
        return kind[name.upper()]
    except KeyError:
        names = ", ".join(member.name.lower() for member in kind)
        raise argparse.ArgumentTypeError(f"there is no {name!r}: there are {names}") from None
