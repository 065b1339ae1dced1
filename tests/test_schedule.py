"""Tests first as they are, then mutant by mutant, each until it is killed; guests come and go."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from workspace.mutants import split
from workspace.schedule import Schedule

COLLECTION = [f"{name[0]}[{name[1:] or 'none'}]" for name in ("a", "b", "c", "am", "bm", "cm", "bn", "cn")]


@dataclass(eq=False)
class Node:
    """What the scheduler sees of a worker."""

    sent: list[int] = field(default_factory=list)
    shutting_down: bool = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True


@dataclass
class Known:
    """What a run knows."""

    dead: set[str] = field(default_factory=set)
    sick: bool = False
    times: dict[str, float] = field(default_factory=lambda: {"a": 3, "b": 1, "c": 2})
    expected: dict[str, int] = field(default_factory=dict)
    timed_tests: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def timed(self, test: str) -> bool:
        return test in self.timed_tests

    def wanted(self) -> list[str]:
        return self.asked

    def settled(self, mutant: str) -> bool:
        return mutant in self.dead

    def healthy(self) -> bool:
        return not self.sick

    def seconds(self, test: str) -> float:
        return self.times[test]

    def expect(self, mutant: str, tests: int) -> None:
        self.expected[mutant] = tests


@pytest.fixture
def known() -> Known:
    return Known()


def begun(known: Known, count: int = 1) -> tuple[Schedule, list[Node]]:
    schedule = Schedule(count, known)
    nodes = [Node() for _ in range(count)]
    for node in nodes:
        assert not schedule.collection_is_completed
        schedule.add_node(node)
        schedule.add_node_collection(node, COLLECTION)
    schedule.schedule()
    return schedule, nodes


def finish(schedule: Schedule, node: Node, known: Known, kills: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Run what the node is sent, to its end; those of ``kills`` fail. What ran, in order."""
    ran = []
    at = 0
    # As a worker does: a test is begun when the next one, or the end, is known.
    while at < len(node.sent) and (at + 1 < len(node.sent) or node.shutting_down):
        name = COLLECTION[node.sent[at]]
        mutant = split(name)[1]
        if not known.settled(mutant):
            ran.append(name)
        if name in kills:
            known.dead.add(mutant)
        schedule.mark_test_complete(node, node.sent[at])
        at += 1
    return ran


def test_tests_as_they_are_come_first_and_then_the_cheapest_of_each_mutant(known: Known) -> None:
    schedule, (node,) = begun(known)
    assert finish(schedule, node, known) == ["a[none]", "b[none]", "c[none]", "b[m]", "c[m]", "a[m]", "b[n]", "c[n]"]
    assert known.expected == {"none": 3, "m": 3, "n": 2}
    assert schedule.tests_finished
    assert not schedule.has_pending
    assert node.shutting_down


def test_a_killed_mutant_is_left_at_once(known: Known) -> None:
    schedule, (node,) = begun(known)
    assert finish(schedule, node, known, {"b[m]", "c[n]"}) == ["a[none]", "b[none]", "c[none]", "b[m]", "b[n]", "c[n]"]
    assert schedule.tests_finished


def test_times_are_those_that_are_known_when_the_mutants_turn_comes(known: Known) -> None:
    schedule, (node,) = begun(known)
    known.times = {"a": 1, "b": 2, "c": 3}
    assert finish(schedule, node, known)[3:6] == ["a[m]", "b[m]", "c[m]"]


def test_a_test_that_fails_without_a_mutant_ends_the_run(known: Known) -> None:
    schedule, (node,) = begun(known)
    known.sick = True
    assert finish(schedule, node, known) == ["a[none]", "b[none]", "c[none]"]
    assert node.shutting_down
    assert schedule.tests_finished


def test_a_test_whose_time_is_known_is_run_without_a_mutant_only_if_it_is_asked_for(known: Known) -> None:
    known.timed_tests = {"b", "c"}
    schedule, (node,) = begun(known)
    assert known.expected["none"] == 1
    # b has failed with m.
    known.asked = ["b"]
    known.dead.add("m")
    # What comes last is asked of the guest in any case, whose last test may fail as well.
    assert finish(schedule, node, known) == ["a[none]", "b[none]", "b[n]", "c[n]", "c[none]"]
    assert schedule.tests_finished and not schedule.has_pending


def test_what_is_asked_for_is_left_to_a_guest_that_comes_later(known: Known) -> None:
    known.timed_tests = {"a", "b", "c"}
    schedule, (node,) = begun(known)
    known.dead |= {"m", "n"}
    known.asked = ["b"]
    assert schedule.remove_node(node) == "b[m]"
    assert schedule.has_pending and not schedule.tests_finished
    fresh = Node()
    schedule.add_node(fresh)
    schedule.add_node_collection(fresh, COLLECTION)
    schedule.schedule()
    assert finish(schedule, fresh, known) == ["b[none]"]


def test_two_guests_have_a_mutant_each(known: Known) -> None:
    schedule, (one, two) = begun(known, 2)
    assert [COLLECTION[index] for index in one.sent] == ["a[none]", "b[none]"]
    assert [COLLECTION[index] for index in two.sent] == ["c[none]", "b[m]"]
    finish(schedule, one, known)
    finish(schedule, two, known)
    assert sorted(one.sent + two.sent) == list(range(len(COLLECTION)))
    assert one.shutting_down and two.shutting_down


def test_a_guest_that_dies_is_replaced_and_its_mutant_is_dead(known: Known) -> None:
    schedule, (node,) = begun(known)
    for index in (0, 1, 2):
        schedule.mark_test_complete(node, index)
    assert [COLLECTION[index] for index in node.sent[3:]] == ["b[m]", "c[m]"]
    assert schedule.remove_node(node) == "b[m]"
    known.dead.add("m")
    assert schedule.has_pending and not schedule.tests_finished
    fresh = Node()
    schedule.add_node(fresh)
    schedule.add_node_collection(fresh, COLLECTION)
    schedule.schedule()
    assert finish(schedule, fresh, known) == ["b[n]", "c[n]"]


def test_what_a_dead_guest_still_had_is_run_by_the_next(known: Known) -> None:
    schedule, (node,) = begun(known)
    assert schedule.remove_node(node) == "a[none]"
    fresh = Node()
    schedule.add_node(fresh)
    schedule.add_node_collection(fresh, COLLECTION)
    schedule.schedule()
    assert finish(schedule, fresh, known) == ["b[none]", "c[none]", "b[m]", "c[m]", "a[m]", "b[n]", "c[n]"]
    assert schedule.remove_node(fresh) is None


def test_guests_that_see_different_tests_end_the_run(known: Known) -> None:
    schedule, _ = begun(known)
    other = Node()
    schedule.add_node(other)
    with pytest.raises(pytest.exit.Exception, match="different tests"):
        schedule.add_node_collection(other, COLLECTION[1:])
