"""The base class for statistics of the user."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fitscope.errors import StatisticError
from fitscope.statistics.descriptions import ALL, describe
from fitscope.statistics.moments import COLUMNS, DERIVED
from fitscope.statistics.statistic import Statistic, check_statistic, named_results


class Outliers(Statistic):
    name = "outliers"

    def update(self, x: Any) -> Any:
        return np.float32([(np.abs(x) > 3).sum(), x.size])

    def merge(self, a: Any, b: Any) -> Any:
        return a + b

    def result(self, state: Any) -> float:
        return float(state[0] / state[1])


class Bare(Statistic):
    name = "bare"

    def update(self, x: Any) -> Any:
        return x


def test_the_worked_example_merges_to_the_whole() -> None:
    x = np.random.default_rng(0).normal(size=1000) * 2
    statistic = check_statistic(Outliers())
    state = statistic.merge(statistic.update(x[:300]), statistic.update(x[300:]))
    assert named_results(statistic, state) == {"outliers": pytest.approx((np.abs(x) > 3).mean())}


def test_a_merge_is_never_guessed() -> None:
    with pytest.raises(StatisticError, match=r"merge.*a \+ b.*maximum"):
        Bare().merge(np.zeros(1), np.zeros(1))


def test_results() -> None:
    assert named_results(Bare(), np.float32([2])) == {"bare": 2.0}
    with pytest.raises(StatisticError, match="result"):
        named_results(Bare(), np.float32([2, 3]))

    class Two(Bare):
        def result(self, state: Any) -> Any:
            return {"low": state[0], "high": state[1]}

    class Wrong(Bare):
        def result(self, state: Any) -> Any:
            return "much"

    assert named_results(Two(), np.float32([2, 3])) == {"bare.low": 2.0, "bare.high": 3.0}
    with pytest.raises(StatisticError, match="much"):
        named_results(Wrong(), np.float32([2]))


@pytest.mark.parametrize(
    "name", ["rms", "mean", "q50", "histogram", "step", "a b", "", "a.b", "1x"]
)
def test_names_that_cannot_be_used(name: str) -> None:
    with pytest.raises(StatisticError, match="name"):
        type("Named", (Bare,), {"name": name})


@pytest.mark.parametrize("thing", [Outliers, "outliers", None])
def test_what_is_not_a_statistic(thing: object) -> None:
    with pytest.raises(StatisticError):
        check_statistic(thing)


def test_a_statistic_without_a_name_is_refused() -> None:
    class Nameless(Statistic):
        def update(self, x: Any) -> Any:
            return x

    with pytest.raises(StatisticError, match="name"):
        check_statistic(Nameless())


def test_every_statistic_has_a_line() -> None:
    assert set(COLUMNS) | set(DERIVED) < set(ALL)
    assert all(describe(name) for name in ALL)
    with pytest.raises(StatisticError, match="rms"):
        describe("rmz")


def test_neither_package_loads_keras_or_a_backend() -> None:
    code = (
        "import sys, fitscope.select, fitscope.statistics; "
        "print([m for m in ('keras', 'jax', 'torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
