"""Which guest runs which test next in a run of mutants: mutant by mutant, and without one what the answers hang on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import pytest

from workspace.mutants import NONE, split

if TYPE_CHECKING:
    # pytest imports its plugins itself, and complains of those that are there already.
    from xdist.workermanage import WorkerController


class Memory(Protocol):
    """What is known so far of the run."""

    def settled(self, mutant: str) -> bool:
        """Whether no more tests are to be tried on the mutant: it is killed, or was left undecided."""

    def healthy(self) -> bool:
        """Whether every test has passed so far without a mutant."""

    def seconds(self, test: str) -> float:
        """How long a test took without a mutant."""

    def timed(self, test: str) -> bool:
        """Whether ``seconds()`` knows anything of the test."""

    def wanted(self) -> Iterable[str]:
        """The tests that failed with a mutant, and of which has to be known whether they pass without."""

    def expect(self, mutant: str, tests: int) -> None:
        """So many tests hold the mutant's promises; or, without a mutant, are run first."""


class Schedule:
    """A scheduler of pytest-xdist's: gives tests out one by one, the cheapest of a mutant's first, until it is settled.

    Tests whose time nobody knows are run without a mutant first; others only once they failed with one. A worker runs a
    test only when it knows the next one, so each has two.
    """

    def __init__(self, guests: int, memory: Memory) -> None:
        self._guests = guests
        self._memory = memory
        self._collection: list[str] = []
        self._collected: set[WorkerController] = set()
        self._pending: dict[WorkerController, list[int]] = {}
        self._tests: deque[int] = deque()
        # The tests without a mutant that nobody has asked for yet.
        self._plain: dict[str, int] = {}
        self._mutants: dict[str, list[int]] = {}
        self._own: dict[WorkerController, tuple[str, deque[int]]] = {}
        self._begun = False

    @property
    def nodes(self) -> list[WorkerController]:
        """The guests that are there."""
        return list(self._pending)

    @property
    def collection_is_completed(self) -> bool:
        """Whether all guests of the start have told what there is."""
        return self._begun or len(self._collected) >= self._guests

    @property
    def tests_finished(self) -> bool:
        """Whether nothing is left to be given out."""
        return self._begun and not self._left() and all(len(pending) < 2 for pending in self._pending.values())

    @property
    def has_pending(self) -> bool:
        """Whether a guest is at work, or will be."""
        return self._left() or any(self._pending.values())

    def _left(self) -> bool:
        if self._tests:
            return True
        if not self._memory.healthy():
            return False
        if any(test in self._plain for test in self._memory.wanted()):
            return True
        own = any(tests and not self._memory.settled(mutant) for mutant, tests in self._own.values())
        return own or any(not self._memory.settled(mutant) for mutant in self._mutants)

    def add_node(self, node: WorkerController) -> None:
        """A guest is there."""
        self._pending[node] = []

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """A guest has told what there is; all have to tell the same."""
        if self._collection and list(collection) != self._collection:
            pytest.exit("two guests collected different tests: is somebody editing vmtests/?", returncode=3)
        self._collection = list(collection)
        self._collected.add(node)

    def schedule(self) -> None:
        """Begin, or go on with a guest that came later."""
        if not self._begun:
            self._begun = True
            for index, nodeid in enumerate(self._collection):
                test, mutant = split(nodeid)
                if mutant != NONE:
                    self._mutants.setdefault(mutant, []).append(index)
                elif self._memory.timed(test):
                    self._plain[test] = index
                else:
                    self._tests.append(index)
            for mutant, tests in ((NONE, self._tests), *self._mutants.items()):
                self._memory.expect(mutant, len(tests))
        for node in self.nodes:
            self._feed(node)

    def mark_test_complete(self, node: WorkerController, item_index: int, duration: float = 0) -> None:  # noqa: ARG002
        """A guest is through with a test, and what it reported is known."""
        self._pending[node].remove(item_index)
        self._feed(node)

    def _feed(self, node: WorkerController) -> None:
        while len(self._pending[node]) < 2 and not node.shutting_down:
            index = self._next(node)
            if index is None:
                node.shutdown()
                return
            self._pending[node].append(index)
            node.send_runtest_some([index])

    def _next(self, node: WorkerController) -> int | None:
        if self._tests:
            return self._tests.popleft()
        if not self._memory.healthy():
            return None
        for test in self._memory.wanted():
            if test in self._plain:
                return self._plain.pop(test)
        mutant, tests = self._own.get(node, (NONE, deque()))
        while not tests or self._memory.settled(mutant):
            if not self._mutants:
                return self._in_case(node)
            mutant = next(iter(self._mutants))
            # Sorted only now, when the times are known.
            tests = deque(sorted(self._mutants.pop(mutant), key=self._seconds))
            self._own[node] = mutant, tests
        return tests.popleft()

    def _in_case(self, node: WorkerController) -> int | None:
        # The guest is to end, but what it runs last may fail: only it can tell then whether that means anything.
        tests = (split(self._collection[index])[0] for index in self._pending[node])
        return next((self._plain.pop(test) for test in tests if test in self._plain), None)

    def _seconds(self, index: int) -> float:
        return self._memory.seconds(split(self._collection[index])[0])

    def remove_node(self, node: WorkerController) -> str | None:
        """A guest is gone; the test that it was running, or None. What else it had is for others."""
        mutant, tests = self._own.pop(node, (NONE, deque()))
        pending = self._pending.pop(node)
        for index in reversed(pending[1:]):
            plain = split(self._collection[index])[1] == NONE
            (self._tests if plain else tests).appendleft(index)
        if tests:
            self._mutants = {mutant: [*tests], **self._mutants}
        return self._collection[pending[0]] if pending else None

    def mark_test_pending(self, item: str) -> None:
        """Of xdist's interface; only its plugins that run a test again would call it."""
        raise NotImplementedError(item)

    def remove_pending_tests_from_node(self, node: WorkerController, indices: Sequence[int]) -> None:
        """Of xdist's interface; only called for schedulers that take tests back."""
        raise NotImplementedError(node, indices)
