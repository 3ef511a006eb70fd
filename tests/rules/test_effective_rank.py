"""The rule for representations that lie on a line."""

from __future__ import annotations

import numpy as np
import pytest

from fitscope.rules.effective_rank import POSSIBLE, RANK, SPREAD, effective_rank
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.statistics.moments import COLUMNS

STEPS = 40


def run_of(sites, ranks, loss=0.69, possible=15, spread=0.3, **fit):
    writer = RunWriter(None, config={})
    given = {"event": "fit", "constant_answer_loss": 0.69, **fit}
    writer.add_history(given)
    for step in range(STEPS):
        writer.add_history(
            {"event": "step", "step": step, "epoch": step, "place": 1, "logs": {"loss": loss}}
        )
    indices = np.asarray(writer.add_sites(sites))
    for step in range(STEPS):
        moments = np.ones((len(sites), len(COLUMNS)))
        extra = []
        for index, rank in zip(indices, ranks, strict=True):
            at = np.broadcast_to(np.asarray(rank, float), (STEPS,))[step]
            extra += [
                (int(index), RANK, float(at)),
                (int(index), POSSIBLE, float(possible)),
                (int(index), SPREAD, spread),
            ]
        writer.append(StepRecord(step, 0, "train", indices, moments, extra=extra))
    return writer.run


def test_a_hidden_layer_on_a_line_while_nothing_is_learned(make_site):
    sites = [make_site(n) for n in ("a", "b", "c", "out")]
    (found,) = effective_rank(run_of(sites, [6.0, 1.05, 1.01, 1.0]))
    assert (found.site, found.severity) == ("b", "warning")
    assert found.evidence["other_sites"] == ["c"]
    assert len(found.lines) == 3


def test_collapse_of_a_classifier_that_has_learned_is_none(make_site):
    sites = [make_site(n) for n in ("a", "b", "out")]
    assert effective_rank(run_of(sites, [6.0, 1.0, 1.0], loss=0.05)) == []


def test_a_narrow_layer_or_a_small_batch_has_no_other_rank(make_site):
    sites = [make_site(n) for n in ("a", "b", "out")]
    assert effective_rank(run_of(sites, [1.0, 1.0, 1.0], possible=2)) == []


def test_data_on_a_line_make_layers_on_a_line(make_site):
    sites = [make_site(n, None) for n in ("m:input", "a", "b", "out")]
    assert effective_rank(run_of(sites, [1.0, 1.0, 1.0, 1.0])) == []
    assert effective_rank(run_of(sites, [5.0, 1.0, 1.0, 1.0])) != []


def test_data_of_few_features_have_no_rank_to_lose(make_site):
    sites = [make_site(n, None) for n in ("a", "out")]
    assert effective_rank(run_of(sites, [1.0, 1.0], features=2)) == []
    assert effective_rank(run_of(sites, [1.0, 1.0], features=30)) != []


def test_one_number_needs_one_line_and_no_point(make_site):
    sites = [make_site(n) for n in ("a", "out")]
    assert effective_rank(run_of(sites, [1.0, 1.0], output_units=[1])) == []
    assert effective_rank(run_of(sites, [1.0, 1.0], output_units=[3])) != []
    assert effective_rank(run_of(sites, [1.0, 1.0], output_units=[1], spread=1e-6)) != []


def test_a_rank_that_recovers(make_site):
    ranks = np.where(np.arange(STEPS) < 30, 1.0, 3.0)
    assert effective_rank(run_of([make_site("a"), make_site("out")], [ranks, 1.0])) == []


def test_embeddings_that_collapse(make_site):
    sites = [make_site("a"), make_site("out")]
    own = {"constant_answer_loss": None, "own_loss": True}
    (found,) = effective_rank(run_of(sites, [5.0, 1.0], **own))
    assert (found.site, found.severity) == ("out", "warning")
    (found,) = effective_rank(run_of(sites, [5.0, 1.0], constant_answer_loss=None))
    assert found.severity == "note"


def test_without_the_statistic_nothing_is_said(make_run, make_site):
    assert effective_rank(make_run({make_site("a"): {}})) == []


def test_rows_that_are_about_equal(make_site):
    sites = [make_site("a"), make_site("out")]
    (found,) = effective_rank(run_of(sites, [6.0, 6.0], spread=1e-6))
    assert found.site == "a"
    assert found.evidence["deviation"] == pytest.approx(1e-3)
    assert "within 0.1%" in found.message
