"""The guest's side of a run of mutants: each test of a mutant's promises, once more with that mutant in the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from workspace.mutants import NONE, split
from workspace.promises import Promises

PARAMETER = Path("/sys/module/task_diag/parameters/mutant")
DEADLINE = 3.0  # seconds on the hardware for a test that a mutant may hang; most take a tenth of it
PATIENCE = 3.0  # times as long as without a mutant, for those that take longer


class Switch:
    """The plugin; ``breaks`` has the promises of each mutant, ``times`` the seconds of tests without one, if known."""

    def __init__(
        self,
        breaks: Mapping[str, Sequence[str]],
        promises: Promises,
        times: Mapping[str, float] = MappingProxyType({}),
        *,
        parameter: Path = PARAMETER,
    ) -> None:
        self._breaks = breaks
        self._promises = promises
        self._times = times
        self._parameter = parameter
        self._settled: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Each test as it is, and once more with each mutant that it may notice."""
        held = set(self._promises.of(metafunc.definition))
        names = [name for name, breaks in self._breaks.items() if held & set(breaks)]
        metafunc.parametrize("mutant", [NONE, *names], indirect=True, ids=str)

    @pytest.fixture(autouse=True)
    def mutant(self, request: pytest.FixtureRequest) -> Iterator[str]:
        """Have the mutant in the kernel while the test runs."""
        self._parameter.write_text(request.param)
        yield request.param
        self._parameter.write_text(NONE)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Mutant by mutant; tests that hold no promise of theirs are not wanted, as they are neither."""
        wanted = {promise for breaks in self._breaks.values() for promise in breaks}
        dropped = [item for item in items if wanted.isdisjoint(self._promises.of(item))]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
        order = [NONE, *self._breaks]
        items[:] = sorted(
            (item for item in items if item not in dropped), key=lambda item: order.index(split(item.nodeid)[1])
        )
        for item in items:
            test, mutant = split(item.nodeid)
            if mutant != NONE:
                own = item.get_closest_marker("deadline")
                limit = max(DEADLINE, PATIENCE * self._times.get(test, 0.0))
                limit = min(limit, float(own.args[0])) if own else DEADLINE
                # Before its own: the first marker counts.
                item.add_marker(pytest.mark.deadline(limit), append=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """After a test that was not passed the mutant is left alone; the host may have sent one more test."""
        if split(item.nodeid)[1] in self._settled:
            pytest.skip("the mutant is settled")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember of which mutants a test was not passed."""
        mutant = split(report.nodeid)[1]
        if report.failed and mutant != NONE:
            self._settled.add(mutant)
