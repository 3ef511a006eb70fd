"""How often the observed function runs, on a clock that the test holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fitscope.scope.schedule import Budget, Every


def run(
    schedule: Budget, executions: int, plain: float, observed: float, first: float = 5.0
) -> tuple[int, float]:
    """Executions that were observed, and their share of the time after the compilations."""
    compiled: set[bool] = set()
    seen, extra, total = 0, 0.0, 0.0
    for step in range(executions):
        due = schedule.due(step, 1)
        seconds = observed if due else plain
        if due not in compiled:
            compiled.add(due)
            schedule.took(first, observed=due)  # this one compiled
            seen += due
            continue
        schedule.took(seconds, observed=due)
        seen += due
        extra += (observed - plain) * due
        total += plain
    return seen, extra / total


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1])
@pytest.mark.parametrize("slower", [1.05, 1.5, 4.0])
def test_a_budget_is_kept(share: float, slower: float) -> None:
    plain = 0.01
    # Calibration costs a few observed executions, so the budget is one of a long training.
    seen, cost = run(Budget(share), 20_000, plain, plain * slower)
    assert cost <= share
    assert seen > 1
    # Nor is it left unused: at least a third of what it pays for, up to every step.
    paid = min(20_000, share / (slower - 1) * 20_000)
    assert seen >= paid / 3


def test_the_first_execution_is_observed_and_the_second_is_not() -> None:
    schedule = Budget(0.02)
    due = [schedule.due(step, 1) for step in range(14)]
    assert due[0]
    assert not due[1]
    assert 1 < sum(due) < 14


@pytest.mark.parametrize("slower", [1.0, 1.05])
@pytest.mark.parametrize("seed", range(5))
def test_a_budget_is_kept_on_a_noisy_machine(slower: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    schedule, seen, executions = Budget(0.02), 0, 3000
    for step in range(executions):
        due = schedule.due(step, 1)
        # The machine is at times half as fast, and no two executions take the same.
        speed = 0.01 * (1 + (step // 400) % 2) * random.gamma(50, 1 / 50)
        schedule.took(speed * (slower if due else 1), observed=due)
        seen += due
    assert seen / executions * (slower - 1) <= 0.02
    assert seen > 50


def test_what_is_spent_beside_the_steps_is_paid_for() -> None:
    plain, slower, fits, steps, beside = 0.01, 1.1, 8, 500, 0.05
    seen = {}
    for spends in (False, True):
        schedule = Budget(0.02)
        seen[spends] = 0
        for fit in range(fits):
            if spends:
                schedule.spent(beside)
            for step in range(steps):
                due = schedule.due(fit * steps + step, 1)
                schedule.took(plain * (slower if due else 1), observed=due)
                seen[spends] += due
    extra = seen[True] * plain * (slower - 1) + fits * beside
    assert extra <= 0.02 * fits * steps * plain
    # However much is spent, about half of what is observed otherwise still is.
    assert seen[False] / 2 - 10 <= seen[True] < seen[False]


def test_the_interval_follows_when_watching_becomes_dear() -> None:
    schedule = Budget(0.02)
    for step in range(6000):
        due = schedule.due(step, 1)
        slower = 1.0 if step < 1000 else 1.5
        schedule.took(0.01 * (slower if due else 1), observed=due)
    assert schedule.interval() >= 20


def test_what_an_observed_execution_leaves_to_the_next_one_is_a_cost() -> None:
    schedule, before = Budget(0.02), False
    for step in range(100):
        due = schedule.due(step, 1)
        schedule.took(0.011 if before else 0.01, observed=due)
        before = due
    assert schedule.cost() == pytest.approx(0.001)


def test_a_cost_below_noise_is_observed_often_but_not_always() -> None:
    seen, _ = run(Budget(0.02), 1000, 0.01, 0.01)
    assert 200 < seen <= 1000


def test_compilation_does_not_count_as_cost() -> None:
    quick, slow = (run(Budget(0.02), 5000, 0.01, 0.011, first)[0] for first in (0.02, 60.0))
    assert quick == slow


def test_one_disturbed_execution_does_not_move_the_interval() -> None:
    schedule = Budget(0.02)
    for step in range(200):
        due = schedule.due(step, 1)
        schedule.took(0.011 if due else 0.01, observed=due)
    before = schedule.interval()
    schedule.took(3.0, observed=True)
    schedule.took(3.0, observed=False)
    assert schedule.interval() <= 2 * before


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [1, 4, 5])
def test_every_n_th_step_is_in_an_observed_execution(n: int, length: int) -> None:
    schedule = Every(n)
    covered = [
        step
        for first in range(0, 60, length)
        if schedule.due(first, length)
        for step in range(first, first + length)
    ]
    assert set(itertools.takewhile(lambda s: s < 60, itertools.count(0, n))) <= set(covered)
    for first in range(0, 60, length):
        wanted = any(step % n == 0 for step in range(first, first + length))
        assert schedule.due(first, length) == wanted


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_cost_of_every_n_th_step_is_known(n: int) -> None:
    schedule = Every(n)
    for step in range(20 * n):
        due = schedule.due(step, 1)
        schedule.took(0.012 if due else 0.01, observed=due)
    assert schedule.cost() == pytest.approx(0.002)


def test_nothing_is_compared_where_every_step_is_observed() -> None:
    schedule = Every(1)
    for step in range(20):
        schedule.took(0.01, observed=schedule.due(step, 1))
    assert schedule.cost() is None


def test_no_cost_is_known_before_anything_ran() -> None:
    assert Budget(0.02).cost() is None
    assert Every(3).cost() is None
