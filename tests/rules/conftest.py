"""Runs in memory whose every value is chosen by the test, and findings that are read aloud."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fitscope.rules.finding import Finding
from fitscope.rules.registry import RULES
from fitscope.rules.rule import Rule
from fitscope.run.reader import Run
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.statistics.moments import COLUMNS

HEALTHY = {
    "count": 4096.0,
    "zeros": 100.0,
    "units": 32.0,
    "mean": 0.4,
    "std": 0.5,
    "mean_abs": 0.4,
    "min": 0.0,
    "max": 3.0,
}
MakeRun = Callable[..., Run]


def site(name: str, activation: str | None = "relu", **fields: Any) -> Site:
    return Site.of(
        SiteName.parse(name),
        activation=activation,
        shape=fields.pop("shape", (128, 32)),
        layer_class=fields.pop("layer_class", "Dense"),
        **fields,
    )


@pytest.fixture
def make_run() -> MakeRun:
    """`make_run({site: {column: value or series}}, steps=[...])`, every other value healthy."""

    def make(
        sites: Mapping[Site, Mapping[str, Any]],
        steps: Sequence[int] = range(0, 200, 5),
        phase: str = "train",
        history: Sequence[Mapping[str, Any]] = (),
    ) -> Run:
        writer = RunWriter(None, config={})
        for record in history:
            writer.add_history(record)
        indices = np.asarray(writer.add_sites(list(sites)))
        for place, step in enumerate(steps):
            moments = np.zeros((len(sites), len(COLUMNS)))
            for row, values in enumerate(sites.values()):
                for column, value in {**HEALTHY, **values}.items():
                    series = np.broadcast_to(np.asarray(value, float), (len(steps),))
                    moments[row, COLUMNS.index(column)] = series[place]
            writer.append(StepRecord(step, step // 45, phase, indices, moments))
        writer.close()
        return writer.run

    return make


@pytest.fixture
def make_site() -> Callable[..., Site]:
    return site


COLUMNS_OF_A_LINE = 100


@pytest.fixture(autouse=True)
def _every_finding_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever our rules find in these tests is told in three lines."""
    plain = Rule.__call__

    def read(self: Rule, subject: Any, **settings: Any) -> list[Finding]:
        found = plain(self, subject, **settings)
        for finding in found if RULES.get(self.id) is not None else ():
            _read(finding)
        return found

    monkeypatch.setattr(Rule, "__call__", read)


def _read(finding: Finding) -> None:
    what, why, remedy = finding.message, finding.why, finding.remedy
    # What was seen, why it matters, what to try: a line each, beside where and since when.
    # Where a NaN came from takes a few more words: its message is left to what prints it.
    for line in (what, why, remedy)[finding.rule == "non_finite" :]:
        assert 10 < len(line) <= COLUMNS_OF_A_LINE, f"{finding.rule}, {len(line)}: {line}"
        assert line.strip() == line
        assert "\n" not in line
    assert what.endswith(".")
    assert why.endswith(".")
    assert len(finding.lines) == 3
    assert finding.site in finding.lines[0]
    assert finding.since in finding.lines[0]
