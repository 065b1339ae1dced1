"""The command behind the sessions: ``python -m workspace SESSION``, of build, vmtest, check and so on."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workspace import (
    accelerator,
    bench,
    check,
    coverage,
    guest_command,
    hunt,
    kconfig,
    kernel,
    mutants,
    series,
    shell,
    storage,
    tree,
    vmtest,
    worktree,
)
from workspace.errors import Terminated, WorkspaceError, says_no_room
from workspace.kernel import Kernel
from workspace.progress import say
from workspace.promises import Promises
from workspace.settings import Paths, Settings

NO_ANSWER = 125  # what `timeout` and `git bisect run` take for "this says nothing about the command"
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True)
class Built:
    """A kernel with the facts about it that belong into the results."""

    kernel: Kernel
    facts: dict[str, str]
    source: Path


def _build(paths: Paths, settings: Settings, arguments: argparse.Namespace) -> Built:
    flavour = kconfig.flavour(paths.kconfig, arguments.flavour)
    patches = series.Series.load(paths.patches)
    base = tree.obtain(paths, settings, clone=arguments.tree)
    say(tree.describe(base, patches.touched))
    # The work tree that is compiled must not be made another commit meanwhile.
    with storage.locked(paths.build / "build.lock", what="the kernel's source"):
        if arguments.worktree:
            commit, shown_as, source = worktree.snapshot(paths, base), paths.worktree, "the worktree, as it stood"
        else:
            commit, shown_as, source = series.apply(base, patches), None, f"patches/ ({patches.digest})"
            say(f"Series: {len(patches.patches)} patches, {patches.digest[:12]}.")
        if flavour.on_top is not None:
            commit, shown_as = series.on_top(base, commit, paths.root / flavour.on_top), None
        built = kernel.build(paths, base, arguments.flavour, commit=commit, shown_as=shown_as)
    say(f"Kernel: {built.release}, flavour {built.flavour}, build id {built.build_id}, {built.image}.")
    facts = {
        "tree": base.kind,
        "version": base.version,
        "origin": base.origin,
        "series": source,
        "commit": commit,
    }
    return Built(built, facts, base.path)


def _do_build(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    _build(paths, settings, arguments)
    return 0


def _do_vmtest(paths: Paths, settings: Settings, arguments: argparse.Namespace, rest: Sequence[str]) -> int:
    vmtest.Options.parse(rest)  # a slip of the pen is not to cost a build
    built = _build(paths, settings, arguments)
    return vmtest.run(built.kernel, rest, paths=paths, facts=built.facts)


def _do_bench(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    built = _build(paths, settings, arguments)
    return bench.run(
        built.kernel,
        paths=paths,
        tasks=arguments.tasks,
        rounds=arguments.rounds or (bench.QUICK_ROUNDS if arguments.quick else bench.ROUNDS),
        wanted=arguments.accel,
        facts=built.facts,
    )


def _do_mutants(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    only = [name for names in arguments.only for name in names.split(",") if name]
    # A slip of the pen is not to cost a build.
    promises = Promises.load(paths.vmtests / "promises.toml")
    chosen = mutants.chosen(mutants.load(paths.vmtests, promises), only)
    if arguments.each_section:
        chosen = mutants.one_of_each_section(chosen, promises, series.Series.load(paths.patches).digest)
    built = _build(paths, settings, arguments)
    return hunt.run(
        built.kernel,
        chosen,
        promises,
        paths=paths,
        guests=arguments.guests,
        wanted=arguments.accel,
        resume=arguments.resume,
        facts=built.facts,
    )


def _do_coverage(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    built = _build(paths, settings, arguments)
    words = ["-n", str(arguments.guests)] if arguments.guests else []
    words += ["--accel", arguments.accel] if arguments.accel else []
    return coverage.run(built.kernel, built.source, paths=paths, words=words, facts=built.facts)


def _do_shell(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    built = _build(paths, settings, arguments)
    return shell.interact(built.kernel, paths=paths, wanted=arguments.accel)


def _run(paths: Paths, settings: Settings, arguments: argparse.Namespace, words: Sequence[str]) -> int:
    built = _build(paths, settings, arguments)
    return guest_command.run(
        built.kernel,
        words,
        paths=paths,
        stdout=guest_command.onto(sys.stdout.fileno()),
        stderr=guest_command.onto(sys.stderr.fileno()),
        wanted=arguments.accel,
    )


def _do_run(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise WorkspaceError("there is no command to run: give one after the options, as in `nox -s run -- uname -r`.")
    return _run(paths, settings, arguments, words)


def _do_demo(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    return _run(paths, settings, arguments, [sys.executable, "-m", "taskdiag", "ps"])


def _do_check(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    checks = check.choose(arguments.only, fast=arguments.fast)
    base = tree.obtain(paths, settings, clone=arguments.tree)
    with storage.scratch_folder(paths.build, "check") as room:
        if arguments.worktree:
            (room / "patches").mkdir()
            patches = worktree.committed(paths, settings, room / "patches")
        else:
            patches = series.Series.load(paths.patches)
        say(tree.describe(base, patches.touched))
        facts = {
            "tree": base.kind,
            "version": base.version,
            "origin": base.origin,
            "base": base.base,
            "series": f"{'the worktree' if arguments.worktree else 'patches/'} ({patches.digest})",
        }
        return check.run(paths, base, patches, checks, facts=facts, accelerator=arguments.accel)


def _do_edit(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    base = tree.obtain(paths, settings, clone=arguments.tree)
    patches = series.Series.load(paths.patches)
    print((worktree.edit_mutants if arguments.mutants else worktree.edit)(paths, base, patches))
    return 0


def _do_export(paths: Paths, settings: Settings, arguments: argparse.Namespace, _rest: Sequence[str]) -> int:
    print(worktree.export(paths, settings, overwrite=arguments.overwrite))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workspace", description="The task_diag workspace.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--tree", type=Path, metavar="PATH", help="a git clone of your own; it is not modified")

    what, measured = (argparse.ArgumentParser(add_help=False) for _ in range(2))
    for parent, flavour in ((what, "default"), (measured, "plain")):
        parent.add_argument(
            "--flavour", default=flavour, metavar="NAME", help="a kernel of kconfig/flavours.toml (%(default)s)"
        )
        parent.add_argument("--worktree", action="store_true", help="build linux/ as it stands instead of patches/")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--accel", choices=accelerator.NAMES, help="instead of the one that boots the kernel")

    for name, does, parents, text in (
        ("build", _do_build, [source, what], "get the tree, apply the series, configure and build"),
        (
            "vmtest",
            _do_vmtest,
            [source, what],
            "build, then run vmtests/ in guests; takes pytest's options too",
        ),
        (
            "bench",
            _do_bench,
            [source, measured, where],
            "build, boot, and measure ways to look at many tasks",
        ),
        ("mutants", _do_mutants, [source, where], "build with the mutants, and see which the tests kill"),
        ("coverage", _do_coverage, [source, where], "build a kernel that counts, and see what of it vmtests/ reach"),
        ("check", _do_check, [source, where], "check each patch: style, warnings, compilers, builds, boots"),
        ("demo", _do_demo, [source, what, where], "build, boot, and print the guest's tasks"),
        ("run", _do_run, [source, what, where], "build, boot, and run one command in the guest"),
        ("shell", _do_shell, [source, what, where], "build, boot, and open a shell"),
        ("edit", _do_edit, [source], "give the worktree linux/ with the series as commits"),
        ("export", _do_export, [], "write the worktree's commits to patches/"),
    ):
        command = commands.add_parser(name, help=text, description=text, parents=parents, allow_abbrev=False)
        command.set_defaults(does=does)
        if name == "bench":
            command.add_argument("--quick", action="store_true", help=f"{bench.QUICK_ROUNDS} rounds")
            command.add_argument(
                "--tasks", type=bench.count, default=bench.TASKS, metavar="N", help="how many to make (%(default)s)"
            )
            command.add_argument(
                "--rounds", type=bench.count, metavar="N", help=f"how often each way is measured ({bench.ROUNDS})"
            )
        if name in ("mutants", "coverage"):
            command.add_argument("--worktree", action="store_true", help="on linux/ as it stands instead of patches/")
            command.add_argument(
                "-n",
                dest="guests",
                type=vmtest.guest_count,
                metavar="N",
                help="guests at once (as many as the host bears)",
            )
            command.set_defaults(flavour=name)
        if name == "mutants":
            command.add_argument("--only", action="append", default=[], metavar="NAME[,NAME]", help="not all of them")
            command.add_argument("--each-section", action="store_true", help="one of each section of the contract")
            command.add_argument("--resume", action="store_true", help="leave out those that are killed already")
        if name == "run":
            command.add_argument(
                "words", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="the rest of the line, as it is"
            )
            command.epilog = (
                "The command runs as root in the clone's folder, and can import taskdiag. It has no standard input, "
                "and the files that it writes go with the guest: what is to be kept, it prints. The exit code is the "
                f"command's, 128+N if signal N ended it, or {NO_ANSWER} if there is none: the kernel did not build, "
                "the guest died, or nobody reads the output any more."
            )
        if name == "edit":
            command.add_argument("--mutants", action="store_true", help="with vmtests/mutants.patch on a branch on top")
        if name == "export":
            command.add_argument(
                "--overwrite", action="store_true", help="even if patches/ changed since `nox -s edit`"
            )
        if name == "check":
            command.add_argument(
                "--only",
                action="append",
                default=[],
                metavar="NAME,..",
                help="these checks; a wrong name gets the list",
            )
            command.add_argument("--fast", action="store_true", help="the quick ones, which CI runs")
            command.add_argument("--worktree", action="store_true", help="the commits of linux/ instead of patches/")
        if name == "vmtest":
            command.epilog = (
                "-n N: N guests at once (as many as the host bears); --accel kvm|tcg; --until-fail N: up to N rounds; "
                "--keep-guest: a shell in the guest of a failed test; --resume: leave out what has passed already with "
                "this kernel and these tests; --junitxml PATH; -k, -x and the rest are pytest's."
            )
    return parser


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated


def _die_with_parent() -> None:
    # nox ends at SIGTERM without a word to its children: ask the kernel to pass it on.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(words: Sequence[str]) -> int:
    """Run one command; errors that the user can mend are one sentence, exit code 1 (of `run` 125; 2: wrong options)."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(list(words))
    if rest and arguments.command != "vmtest":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    _die_with_parent()
    failed = NO_ANSWER if arguments.command == "run" else 1
    try:
        return int(arguments.does(Paths(), Settings.load(), arguments, rest))
    except WorkspaceError as error:
        print(f"error: {error}", file=sys.stderr)
        return failed
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failed
    except OSError as error:
        if not says_no_room(error):
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(
            f"error: there is no room{where} ({error.strerror}): make some where the clone is and below "
            f"{tempfile.gettempdir()}, then run the same command again.",
            file=sys.stderr,
        )
        return failed
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Terminated:
        print("Terminated.", file=sys.stderr)
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
