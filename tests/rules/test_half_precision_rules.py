"""Rules on loss scales and on gradients that float16 cannot hold."""

from __future__ import annotations

import numpy as np
import pytest

from fitscope.rules.gradient_underflow import gradient_underflow
from fitscope.rules.loss_scale import loss_scale
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.statistics.bins import bin_of
from fitscope.statistics.moments import COLUMNS, PLACE

FIT = {"event": "fit", "scales_loss": True, "custom_step": False}


def end(skipped, scale, steps=100):
    scaled = {"steps": steps, "skipped": skipped, "scale": scale}
    return [FIT, {"event": "end", "step": steps, "weights": [], "loss_scale": scaled}]


def record(sites, tensors, scales=None, history=()):
    """A run of the given tensors: by site, one float array for each step."""
    writer = RunWriter(None, config={})
    for each in history:
        writer.add_history(each)
    indices = np.asarray(writer.add_sites(sites))
    for step in range(len(tensors[0])):
        moments = np.zeros((len(sites), len(COLUMNS)))
        hist = []
        for row, values in enumerate(tensors):
            x = np.asarray(values[step], np.float64)
            for name, value in {
                "count": x.size, "zeros": (x == 0).sum(), "units": 4, "mean": x.mean(),
                "std": x.std(), "mean_abs": np.abs(x).mean(), "min": x.min(), "max": x.max(),
                "hist_count": x.size,
            }.items():  # fmt: skip
                moments[row, PLACE[name]] = value
            bins, counts = np.unique(bin_of(x), return_counts=True)
            hist.append((bins.astype(np.uint16), counts.astype(np.uint32)))
        extra = [] if scales is None else [(int(i), "loss_scale", scales[step]) for i in indices]
        writer.append(StepRecord(step, 0, "train", indices, moments, hist, extra))
    return writer.run


@pytest.mark.parametrize(
    ("skipped", "scale", "severity"),
    [(100, 1e-20, "fault"), (80, 2.0**-3, "fault"), (45, 4.0, "warning"), (15, 0.5, "warning")],
)
def test_updates_that_were_skipped(make_run, skipped, scale, severity):
    (found,) = loss_scale(make_run({}, history=end(skipped, scale)))
    assert (found.site, found.severity) == ("optimizer", severity)
    assert (found.evidence["skipped"], found.evidence["scale"]) == (skipped, scale)
    assert len(found.lines) == 3


@pytest.mark.parametrize(("skipped", "scale"), [(0, 2.0**15), (6, 2.0**9), (20, 2.0), (26, 8.0)])
def test_a_scale_that_is_found_is_healthy(make_run, skipped, scale):
    assert loss_scale(make_run({}, history=end(skipped, scale))) == []


def test_while_it_trains_halvings_are_counted(make_site):
    site = make_site("d:weight_gradient", None)
    values = [np.ones((4, 4))] * 40
    falling = record([site], [values], 2.0 ** (15 - np.arange(40)), [FIT])
    (found,) = loss_scale(falling)
    assert (found.severity, found.evidence["skipped"]) == ("fault", 39)
    steady = record([site], [values], np.r_[2.0**15, np.full(39, 2.0**14)], [FIT])
    assert loss_scale(steady) == []


def test_a_train_step_that_goes_past_the_scale(make_run, make_site):
    site = make_site("d:weight_gradient", None)
    own = {**FIT, "custom_step": True}
    (found,) = loss_scale(make_run({site: {}}, history=[own]))
    assert "does not multiply" in found.message
    assert loss_scale(make_run({site: {}}, history=[FIT])) == []
    scaled = record([site], [[np.ones((4, 4))] * 12], np.full(12, 2.0**15), [own])
    assert loss_scale(scaled) == []


RANDOM = np.random.default_rng(0)


def gradients(size, steps=12):
    return [size * RANDOM.normal(size=(64, 4)) for _ in range(steps)]


def test_gradients_on_the_last_bits_of_float16(make_site):
    sites = [make_site(f"{n}:gradient", None, dtype="float16") for n in "ab"]
    values = gradients(1e-7)
    (found,) = gradient_underflow(record(sites, [values, gradients(1e-3)]))
    assert found.site == "a:gradient"
    # Shares come from bins a quarter of a power of two wide: the one at the limit may be left out.
    every = np.abs(np.concatenate(values))
    exact = float((every < 2.0**-21).mean())
    assert found.evidence["coarse"] == pytest.approx(exact, abs=0.02)


def test_a_scale_lifts_them(make_site):
    sites = [make_site(f"{n}:gradient", None, dtype="float16") for n in "ab"]
    values = [gradients(1e-7), gradients(1e-3)]
    assert gradient_underflow(record(sites, values, np.full(12, 2.0**15))) == []


def test_float32_has_no_such_limit(make_site):
    assert gradient_underflow(record([make_site("a:gradient", None)], [gradients(1e-7)])) == []


def test_a_gradient_that_was_lost_on_the_way(make_site):
    outputs = [make_site(n, "relu", dtype="float16") for n in "ab"]
    sites = [make_site(f"{n}:gradient", None, dtype="float16") for n in "ab"]
    on, off = [np.ones((64, 4))] * 12, [np.zeros((64, 4))] * 12
    lost = [on, on, off, gradients(1e-3)]
    (found,) = gradient_underflow(record([*outputs, *sites], lost))
    assert (found.site, found.evidence["zero"]) == ("a:gradient", 1.0)
    # Where the layer itself is off, zeros are what is to be expected.
    assert gradient_underflow(record([*outputs, *sites], [off, on, off, gradients(1e-3)])) == []
    # Where no gradient of the model is there at all, the loss is to be asked.
    assert gradient_underflow(record([*outputs, *sites], [on, on, off, off])) == []
