"""`check`: what a maintainer's tools would say of each patch of the series, before a maintainer has to say it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from workspace import check_kernel, check_objects, check_patch, series, storage, system
from workspace.check_bench import Bench, Check, Patch, Verdict, definition
from workspace.check_report import Cell, Table
from workspace.errors import WorkspaceError
from workspace.progress import say
from workspace.series import Series
from workspace.settings import Paths
from workspace.tree import Tree

APPLIES = "applies"
_SAYS_APPLIES = "`git am` takes the patch on those before it"
# The quick ones first, for each patch; then patch by patch, so that each kernel is built on its neighbour's objects.
CHECKS: tuple[Check, ...] = (
    *check_patch.CHECKS,
    check_objects.WARNINGS,
    check_objects.SPARSE,
    check_objects.CLANG,
    *check_objects.CROSS,
    check_objects.COCCINELLE,
    *check_kernel.CHECKS,
)


def choose(only: Sequence[str] = (), *, fast: bool = False, known: Sequence[Check] = CHECKS) -> list[Check]:
    """The checks named in ``only``, or all (``fast``: the quick ones), in the order to run them.

    A name that is none, or that is of no quick one where those are wanted, is an error: nothing would be checked.
    """
    chosen = [check for check in known if check.fast or not fast]
    if only:
        names = [name.strip() for words in only for name in words.split(",") if name.strip()]
        there = [APPLIES, *(check.name for check in known)]
        asked = " ".join(f"--only {words}" for words in only)
        wrong = [name for name in names if name not in there]
        if wrong or not names:
            raise WorkspaceError(
                f"{asked}: there is no check `{wrong[0] if wrong else ''}`; there are {', '.join(there)}."
            )
        slow = [check.name for check in known if check.name in names and check not in chosen]
        if slow:
            raise WorkspaceError(f"--fast {asked}: {', '.join(slow)} would be left out: leave out --fast.")
        chosen = [check for check in chosen if check.name in names]
    return sorted(chosen, key=lambda check: not check.fast)


def run(
    paths: Paths,
    base: Tree,
    wanted: Series,
    checks: Sequence[Check],
    *,
    facts: dict[str, str],
    accelerator: str | None = None,
) -> int:
    """Check each patch of a series, print the table, write build/results/check.json; 1 if anything failed."""
    needs = list(dict.fromkeys(need for check in checks for need in check.needs))
    with storage.locked(paths.build / "checks.lock", what="the checks' tree"):
        system.ensure(needs)
        applying, refusal = _applying(base, wanted)
        table = Table(
            {APPLIES: _SAYS_APPLIES, **{check.name: check.says for check in checks}},
            [patch.name for patch in wanted.patches],
            facts,
        )
        for number, patch in enumerate(wanted.patches, 1):
            if number <= len(applying.patches):
                table.cells.append(Cell(APPLIES, number, "passed"))
            elif number == len(applying.patches) + 1:
                table.cells.append(Cell(APPLIES, number, "failed", lines=(refusal,)))
                say(f"{patch.name} {APPLIES}: FAILED; those after it are not checked.")
        results = paths.results / "check.json"
        try:
            _run(Bench.of(paths, base, wanted, applying=applying, accelerator=accelerator), checks, table)
        finally:
            table.cells += _not_run(table)
            table.write(results)
        print(table.text(), end="")
        say(f"Results: {results}.")
        return table.code


def _applying(base: Tree, wanted: Series) -> tuple[Series, str]:
    """The series up to the first patch that does not apply, and why that one does not."""
    try:
        series.commits(base.repository, base.base, wanted)
        return wanted, ""
    except WorkspaceError as error:
        refusal = str(error)
    for number in range(len(wanted.patches) - 1, 0, -1):
        part = Series(wanted.patches[:number])
        try:
            series.commits(base.repository, base.base, part)
        except WorkspaceError as error:
            refusal = str(error)
        else:
            return part, refusal
    return Series(()), refusal


def _run(bench: Bench, checks: Sequence[Check], table: Table) -> None:
    for patch in bench.patches:
        for check in (check for check in checks if check.fast):
            table.cells.append(_ask(bench, check, patch))
    # What `build` has compiled is the whole series, and so what ccache has: from there each step back is a small one.
    for patch in reversed(bench.patches):
        for check in (check for check in checks if not check.fast):
            table.cells.append(_ask(bench, check, patch))


def _ask(bench: Bench, check: Check, patch: Patch) -> Cell:
    """One check of one patch: what is remembered of it, or its answer now."""
    told = f"{patch.number}/{len(bench.patches)} {check.name}"
    if (idle := check.idle(bench, patch)) is not None:
        return Cell(check.name, patch.number, "idle", note=idle)
    key = storage.digest(definition(check), *check.inputs(bench, patch))
    known = bench.memory.get(check.name, key)
    if known is not None:
        verdict, seconds = Verdict(known["passed"], tuple(known["lines"]), known["note"]), known["seconds"]
    else:
        say(f"{told} ...")
        verdict, seconds, lasting = _timed(lambda: check.run(bench, patch))
        if lasting and (verdict.passed or check.lasting):
            bench.memory.put(
                check.name,
                key,
                {"passed": verdict.passed, "lines": verdict.lines, "note": verdict.note, "seconds": seconds},
            )
        say(f"{told}: {'ok' if verdict.passed else 'FAILED'} ({seconds:.1f} s)")
    return Cell(
        check.name,
        patch.number,
        "passed" if verdict.passed else "failed",
        seconds,
        known is not None,
        verdict.lines,
        verdict.note,
    )


def _timed(ask: Callable[[], Verdict]) -> tuple[Verdict, float, bool]:
    """The answer, the seconds that it took, and whether it will be the same next time."""
    start = time.monotonic()
    try:
        verdict, lasting = ask(), True
    except WorkspaceError as error:
        # A tool that failed has not said that the patch is good; the other checks have their own tools.
        verdict, lasting = Verdict(False, tuple(str(error).splitlines())), False
    return verdict, time.monotonic() - start, lasting


def _not_run(table: Table) -> list[Cell]:
    """The cells that a run did not get to."""
    there = {(cell.check, cell.patch) for cell in table.cells}
    numbers = range(1, len(table.patches) + 1)
    return [Cell(name, number, "not run") for name in table.checks for number in numbers if (name, number) not in there]
