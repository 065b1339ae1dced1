"""The command ``taskdiag ps``."""

from __future__ import annotations

import argparse
import locale
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from taskdiag.client import Transaction
from taskdiag.errors import NoSuchTaskError, RefusedError, UnknownGroupError
from taskdiag.ps.column import COLUMNS
from taskdiag.ps.forest import forest
from taskdiag.ps.host import Host
from taskdiag.ps.process import OF_LEADERS, Process
from taskdiag.ps.sheet import UNLIMITED, Choice, Sheet
from taskdiag.retry import retry_command_lines
from taskdiag.screen import Screen
from taskdiag.uapi import Group, Strategy
from taskdiag.wire import Task

_USUAL = "user,pid,pcpu,pmem,vsz,rss,tname,stat,start_time,bsdtime,args"
_USUAL_WITH_SPID = _USUAL.replace("pid,", "pid,spid,", 1)
_USUAL_WITH_LWP = _USUAL.replace("pid,pcpu,", "pid,lwp,pcpu,nlwp,", 1)
_WIDE = 132


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run()`` takes."""
    parser.add_argument(
        *("-o", "--format"),
        action="append",
        metavar="NAME[:WIDTH][=HEADING],..",
        help="the columns, instead of those of `ps aux`",
    )
    parser.add_argument("--sort", metavar="[-]NAME,..", help="sort by these columns; with a - in descending order")
    parser.add_argument("--forest", action="store_true", help="show processes below their parents")
    threads = parser.add_mutually_exclusive_group()
    threads.add_argument("-T", dest="spid", action="store_true", help="show threads, with a column SPID")
    threads.add_argument("-L", dest="lwp", action="store_true", help="show threads, with columns LWP and NLWP")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("-p", "--pid", action="append", type=_numbers, metavar="PID,..", help="these processes only")
    chosen.add_argument("--ppid", action="append", type=_numbers, metavar="PID,..", help="children of these only")
    parser.add_argument("--no-headers", action="store_true", help="leave out the line of headings")
    parser.add_argument("-w", dest="wide", action="count", default=0, help="132 cells at least; twice: no limit")
    parser.add_argument("--width", "--columns", type=_width, metavar="CELLS", help="how wide the lines may be")


def run(options: argparse.Namespace, screen: Screen) -> int:
    """Print the lines; 1 if there was no process to print."""
    # Names of months, the order of text and what is printable follow the user's locale, as in ps.
    try:
        locale.setlocale(locale.LC_ALL, "")
    except locale.Error:
        # As a C program does: one that is not installed is as none.
        locale.setlocale(locale.LC_ALL, "C")
    host = Host.of(options.proc)
    sheet, groups = _sheet(options, host, screen)
    processes: Iterable[Process] = _processes(options, host, groups)
    if keys := _sort_keys(options.sort):
        processes = _sorted(processes, keys)
    if options.forest:
        # Brothers and sisters by their age, unless they are sorted.
        family = list(processes) if keys else sorted(processes, key=lambda process: process.started)
        lines = forest(family)
    else:
        lines = ((process, "") for process in processes)
    # What is wrong with the request is known with the first of them: then there is to be no heading.
    first = next(lines, None)
    if heading := None if options.no_headers else sheet.heading():
        screen.heading(heading)
    if first is None:
        return 1
    for process, branches in chain([first], lines):
        screen.line(sheet.line(process, branches))
    return 0


def _sheet(options: argparse.Namespace, host: Host, screen: Screen) -> tuple[Sheet, frozenset[Group]]:
    """Return the columns, and the groups that they and the order of the lines take."""
    usual = _USUAL_WITH_SPID if options.spid else _USUAL_WITH_LWP if options.lwp else _USUAL
    names = ",".join(options.format or [usual]).split(",")
    choices = [Choice.parse(name.strip(), host) for name in names]
    groups = {Group.BASE}.union(*(choice.column.groups for choice in choices))
    groups.update(*(COLUMNS[name].groups for name, _ in _sort_keys(options.sort)))
    if options.forest or options.spid or options.lwp or Group.CMDLINE in groups:
        # Of a command line: to ask for it again, of the same process.
        groups.add(Group.IDENT)
    room = options.width or screen.width or UNLIMITED
    if options.wide:
        room = UNLIMITED if options.wide > 1 else max(room, _WIDE)
    return Sheet(choices, room), frozenset(groups)


def _processes(options: argparse.Namespace, host: Host, groups: frozenset[Group]) -> Iterator[Process]:
    if options.pid:
        tasks = _dump(groups, Strategy.ONE, set(chain.from_iterable(options.pid)), options.proc)
    elif options.ppid:
        tasks = _dump(groups, Strategy.CHILDREN, set(chain.from_iterable(options.ppid)), options.proc)
    else:
        tasks = _dump(groups, Strategy.ALL, {0}, options.proc)
    # The number of a thread is that of a task, but for ps of no process.
    leaders = retry_command_lines((task for task in tasks if task.pid == task.tgid), proc=options.proc)
    if not (options.spid or options.lwp):
        return (Process(task, task, host) for task in leaders)
    if options.forest:
        raise ValueError("--forest shows processes, not threads: leave out -T and -L")
    # The line of a leader tells of the whole process, also in ps: so it is of a request of its own.
    processes = {task.pid: Process(task, task, host) for task in leaders}
    few = options.pid or options.ppid
    strategy, pids = (Strategy.THREAD, processes.keys()) if few else (Strategy.ALL_THREAD, {0})
    return _with_threads(processes, _dump(groups - OF_LEADERS, strategy, pids, options.proc))


def _with_threads(processes: Mapping[int, Process], tasks: Iterable[Task]) -> Iterator[Process]:
    """Give processes in the order of their numbers, behind each its other threads by their age."""
    threads: dict[int, list[Process]] = {}
    for task in tasks:
        if task.pid != task.tgid and (leader := processes.get(task.tgid)):
            threads.setdefault(task.tgid, []).append(Process(task, leader.task, leader.host))
    for pid, process in sorted(processes.items()):
        yield process
        yield from sorted(threads.get(pid, ()), key=lambda thread: (thread.ident.start_boottime, thread.base.pid))


def _dump(groups: frozenset[Group], strategy: Strategy, pids: Collection[int], proc: Path) -> Iterator[Task]:
    """Give the tasks of which everything may be read, and that were there to the end.

    What an execve() hides for a moment, under ``hidepid=``, is no reason to leave one out. Nor is a command line that
    was cut: there is an attribute of it, if only an empty one.
    """
    for pid in sorted(pids):
        try:
            transaction = Transaction(groups, strategy, pid=pid, proc=proc)
        except UnknownGroupError as error:
            if error.groups != {Group.CMDLINE}:
                raise
            # There is a file for it.
            groups -= error.groups
            transaction = Transaction(groups, strategy, pid=pid, proc=proc)
        with transaction as tasks:
            try:
                for task in tasks:
                    if task.complete and groups <= task.payloads.keys() | (task.cut & {Group.MEM}):
                        yield task
            except (NoSuchTaskError, RefusedError):
                # As for ps, a process that is not there, or may not be looked at, is no error but no line.
                continue


def _sort_keys(text: str | None) -> list[tuple[str, bool]]:
    """Return the names of columns to sort by, and whether in descending order."""
    keys = []
    for word in (text or "").split(","):
        name = word.strip().lstrip("+-")
        if not word:
            continue
        if name not in COLUMNS:
            raise ValueError(f"there is no column {name!r} to sort by: there are {', '.join(COLUMNS)}")
        keys.append((name, word.strip().startswith("-")))
    return keys


def _sorted(processes: Iterable[Process], keys: Sequence[tuple[str, bool]]) -> list[Process]:
    found = list(processes)
    # Sorting keeps the order of equals: so the last key comes first.
    for name, descending in reversed(keys):
        found.sort(key=COLUMNS[name].key, reverse=descending)
    return found


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


def _width(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
