"""How often the page looks for findings in a run that goes on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from page_runs import write

from fitscope.ui import watch
from fitscope.ui.cache import ByteCache
from fitscope.ui.source import Source
from fitscope.ui.watch import EAGER, EAGER_PAUSE, PAUSE, Findings, FindingsWatch


@pytest.fixture
def clock(monkeypatch):
    found = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(watch.time, "monotonic", lambda: found.now)
    return found


def test_a_run_that_is_too_long_for_the_rules_does_not_pass_for_well(tmp_path):
    write(tmp_path / "run", steps=20)
    source = Source(tmp_path / "run", ByteCache())
    found = FindingsWatch(source).latest("now", watch.RULE_ROWS + 1)
    assert found.found == []
    assert not found.complete
    assert "does not run the rules again" in found.note


class Slow(FindingsWatch):
    """Looks for half a second."""

    def __init__(self, clock):
        super().__init__(SimpleNamespace())
        self.clock = clock
        self.computed = 0

    def _compute(self, rows):
        self.computed += 1
        self.clock.now += 0.5
        return Findings([{"rule": str(self.computed)}])


def test_the_first_few_looks_come_soon_and_later_ones_seldom(clock):
    looking = Slow(clock)
    gaps, last = [], clock.now
    version = 0
    while len(gaps) < EAGER + 3:
        version += 1
        if looking.latest(version, 0).fresh:
            gaps.append(clock.now - last)
            last = clock.now
        clock.now += 0.1
    soon, seldom = gaps[1 : EAGER + 1], gaps[EAGER + 1 :]
    assert soon == pytest.approx([EAGER_PAUSE * 0.5] * EAGER, abs=0.7)
    assert seldom == pytest.approx([PAUSE * 0.5] * 2, abs=0.7)


def test_a_run_that_has_not_changed_is_not_looked_at_again(clock):
    looking = Slow(clock)
    for _ in range(3):
        assert looking.latest("same", 0).fresh
        clock.now += 1e6
    assert looking.computed == 1


def test_between_two_looks_the_last_findings_stand_and_say_that_they_are_old(clock):
    looking = Slow(clock)
    looking.latest(1, 0)
    held = looking.latest(2, 0)
    assert not held.fresh
    assert held.wait == pytest.approx(EAGER_PAUSE * 0.5 - 0.5)
    assert held.found == [{"rule": "1"}]
    # Once the training has ended, there is nothing to wait for.
    assert looking.latest(3, 0, running=False).found == [{"rule": "2"}]
