"""``--until-fail``, by pytest itself."""

from __future__ import annotations

import pytest

from workspace.worker import Rounds

pytest_plugins = ["pytester"]

TESTS = """
    import pytest
    from pathlib import Path

    def note(text):
        with open("log", "a") as log:
            print(text, file=log)

    @pytest.fixture(scope="module")
    def module():
        yield note("module")

    @pytest.fixture
    def fresh(module):
        yield [note("set up")]
        note("torn down")

    def test_first(fresh):
        fresh.append(1)
        assert len(fresh) == 2

    @pytest.mark.parametrize("n", [1, 2])
    def test_second(fresh, n):
        assert n == 1 or Path("log").read_text().count("set up") < {limit}
"""


def test_each_round_is_a_fresh_start_and_each_test_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.replace("{limit}", "100"))
    result = pytester.inline_run("-p", "no:cacheprovider", plugins=[Rounds(5)])
    result.assertoutcome(passed=3)
    log = (pytester.path / "log").read_text().splitlines()
    assert [line for line in log if line != "module"] == ["set up", "torn down"] * 15
    reports = [report for report in result.getreports("pytest_runtest_logreport") if report.when == "call"]
    assert {dict(report.user_properties)["rounds"] for report in reports} == {"passed in round 5 of 5"}


def test_the_round_that_fails_is_the_last(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.replace("{limit}", "13"))
    result = pytester.inline_run("-p", "no:cacheprovider", plugins=[Rounds(5)])
    result.assertoutcome(passed=2, failed=1)
    assert (pytester.path / "log").read_text().count("torn down") == 13
    (failed,) = [report for report in result.getreports("pytest_runtest_logreport") if report.failed]
    assert dict(failed.user_properties)["rounds"] == "failed in round 3 of 5"
