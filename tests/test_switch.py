"""How long a test may take with a mutant in the kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from workspace import switch
from workspace.promises import Promises
from workspace.switch import Switch


class Item:
    """As much of a test as is asked."""

    def __init__(self, nodeid: str, own: float | None) -> None:
        self.nodeid = nodeid
        self.marks = [] if own is None else [SimpleNamespace(name="deadline", args=(own,))]

    def get_closest_marker(self, _name: str) -> SimpleNamespace | None:
        return self.marks[0] if self.marks else None

    def iter_markers(self, name: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(args=("W1",))] if name == "promise" else []

    def add_marker(self, marker: Any, *, append: bool) -> None:
        assert not append
        self.marks.insert(0, marker.mark)


@pytest.mark.parametrize(
    ("own", "seconds", "limit"),
    [(None, None, 3.0), (None, 2.0, 3.0), (60.0, None, 3.0), (60.0, 5.0, 15.0), (60.0, 30.0, 60.0), (2.0, 5.0, 2.0)],
)
def test_a_mutant_has_more_time_only_where_the_test_takes_long(
    monkeypatch: pytest.MonkeyPatch, own: float | None, seconds: float | None, limit: float
) -> None:
    # A marker of the vmtests, which is none here.
    mark = SimpleNamespace(deadline=lambda limit: SimpleNamespace(mark=SimpleNamespace(args=(limit,))))
    monkeypatch.setattr(switch, "pytest", SimpleNamespace(mark=mark))
    times = {} if seconds is None else {"t": seconds}
    item = Item("t[m]", own)
    plain = Item("t[none]", own)
    items: list[Any] = [item, plain]
    config: Any = SimpleNamespace(hook=None)
    Switch({"m": ["W1"]}, Promises({}), times).pytest_collection_modifyitems(config, items)
    assert items == [plain, item], "first without"
    assert item.marks[0].args == (limit,)
    assert [mark.args for mark in plain.marks] == ([] if own is None else [(own,)])
