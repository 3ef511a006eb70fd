"""The rule for losses that measure nothing."""

from __future__ import annotations

import numpy as np
import pytest

from fitscope.rules.loss_zero import loss_zero

FIT = {"event": "fit", "constant_answer_loss": 0.69, "custom_step": False, "resumed": False}


def history(losses, **fit):
    """One epoch: the k-th record holds the mean of the first k + 1 losses."""
    means = np.cumsum(losses) / np.arange(1, len(losses) + 1)
    return [
        {**FIT, **fit},
        *(
            {"event": "step", "step": i, "epoch": 0, "place": i + 1, "logs": {"loss": float(mean)}}
            for i, mean in enumerate(means)
        ),
    ]


@pytest.mark.parametrize("value", [0.0, 1e-9])
def test_zero_from_the_first_step_on(make_run, value):
    (found,) = loss_zero(make_run({}, history=history(np.full(20, value))))
    assert (found.site, found.severity, found.first_step, found.last_step) == (
        "loss",
        "fault",
        0,
        19,
    )
    assert len(found.lines) == 3


@pytest.mark.parametrize(
    ("losses", "fit"),
    [
        (
            np.full(20, 1e-9),
            {"constant_answer_loss": None},
        ),  # small, and nothing to hold it against
        (np.full(20, 1e-9), {"constant_answer_loss": 1e-6}),  # targets of that size
        (np.r_[0.5, 0.1, np.zeros(18)], {}),  # it has learned
        (np.full(4, 0.0), {}),  # a first few batches
        (np.zeros(20), {"resumed": True}),
        (np.geomspace(0.7, 1e-12, 20), {}),
    ],
)
def test_small_losses_that_may_be(make_run, losses, fit):
    assert loss_zero(make_run({}, history=history(losses, **fit))) == []


def test_a_step_of_its_own_that_does_not_report_is_a_note(make_run):
    (found,) = loss_zero(make_run({}, history=history(np.zeros(20), custom_step=True)))
    assert found.severity == "note"


def _gradients(make_run, make_site, after):
    # Sums of powers of two are exact, so that the later losses come out as zero to the last bit.
    losses = np.r_[np.full(8, 0.5), np.zeros(16)]
    size = np.where(np.arange(24) < 8, 0.25, 0.25 * after)
    site = make_site("d:weight_gradient", None)
    return make_run({site: {"mean": 0, "std": size}}, steps=range(24), history=_by_epoch(losses))


def _by_epoch(losses):
    """Every step an epoch: its mean is its loss."""
    return [FIT] + [
        {"event": "step", "step": i, "epoch": i, "place": 1, "logs": {"loss": float(loss)}}
        for i, loss in enumerate(losses)
    ]


def test_gradients_that_go_on_at_a_loss_of_zero(make_run, make_site):
    (found,) = loss_zero(_gradients(make_run, make_site, 0.5))
    assert (found.severity, found.first_step) == ("warning", 8)
    assert found.evidence["gradient_kept"] == {"d:weight_gradient": pytest.approx(0.5)}
    assert loss_zero(_gradients(make_run, make_site, 1e-4)) == []
