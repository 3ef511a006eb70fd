"""Rules on gradients, updates and scales along depth, on runs whose every value is planted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fitscope.rules.registry import RULES, findings
from fitscope.select.unseen import Unseen

STEPS = 40


def constant_rms(value: Any) -> dict[str, Any]:
    """The moments of a tensor of that rms: mean 0, and no extremes beyond it."""
    return {"mean": 0.0, "std": value, "mean_abs": value, "min": -np.abs(value), "max": value}


def gradients(make_site: Any, *sizes: Any) -> dict[Any, Any]:
    """Weight gradients of layers in a row, of the given rms."""
    return {
        make_site(f"d{i}:weight_gradient[kernel]", None, shape=(32, 32)): constant_rms(size)
        for i, size in enumerate(sizes)
    }


def fit(optimizer: str) -> list[dict[str, Any]]:
    return [{"event": "fit", "optimizer": optimizer}]


def test_gradients_that_vanish_along_depth(make_run, make_site):
    sizes = 10.0 ** -np.arange(4, -1, -1)
    run = make_run(gradients(make_site, *sizes), history=fit("sgd"))
    (found,) = RULES["vanishing_gradients"](run)
    assert found.site == "d0:weight_gradient[kernel]"
    # The line through the logarithms of an exact geometric row falls by what the row does.
    assert found.evidence["decades"] == pytest.approx(4)
    assert RULES["vanishing_gradients"](make_run(gradients(make_site, *sizes[::-1]))) == []


def test_adam_divides_by_their_size(make_run, make_site):
    sizes = 10.0 ** -np.arange(4, -1, -1)
    run = make_run(gradients(make_site, *sizes), history=fit("adam"))
    assert RULES["vanishing_gradients"](run) == []


def test_one_odd_layer_is_no_profile(make_run, make_site):
    run = make_run(gradients(make_site, 1.0, 1e-4, 1.0, 1.0, 1.0), history=fit("sgd"))
    assert RULES["vanishing_gradients"](run) == []


def test_gradients_that_explode_in_time(make_run, make_site):
    growing = 10.0 ** np.linspace(-1, 4, STEPS)
    (found,) = RULES["exploding_gradients"](make_run(gradients(make_site, 1.0, growing)))
    quarter = STEPS // 4
    ratio = np.median(growing[-quarter:]) / np.median(growing[:quarter])
    assert found.site == "d1:weight_gradient[kernel]"
    assert found.evidence["ratio"] == pytest.approx(ratio)
    assert (found.first_step, found.last_step) == (5 * (STEPS - quarter), 5 * (STEPS - 1))
    assert RULES["exploding_gradients"](make_run(gradients(make_site, 1.0, growing[::-1]))) == []


@pytest.mark.parametrize(("ratio", "remedy"), [(1.0, "lower"), (1e-9, "higher"), (1e-3, None)])
def test_updates_beside_their_weights(monkeypatch, make_run, make_site, ratio, remedy):
    from fitscope.rules import update_ratio as module
    from fitscope.rules.series import Series

    run = make_run({make_site("d:update[kernel]", None, shape=(32, 32)): {}})
    monkeypatch.setattr(module, "_KNOWN", ("update_ratio",))
    series = Series(np.arange(STEPS), {"update_ratio": np.full(STEPS, ratio)})
    monkeypatch.setattr(module, "series_of", lambda *_: {"d:update[kernel]": series})
    found = RULES["update_ratio"](run)
    assert [f.site for f in found] == (["d:update[kernel]"] if remedy else [])
    assert all(remedy in f.remedy for f in found)


def test_outputs_that_grow_along_depth(make_run, make_site):
    sizes = 10.0 ** np.arange(5)
    row = {make_site(f"d{i}", "relu"): constant_rms(size) for i, size in enumerate(sizes)}
    (found,) = RULES["signal_scale"](make_run(row))
    assert (found.site, found.evidence["ratio"]) == ("d4", pytest.approx(1e4))
    level = {make_site(f"d{i}", "relu"): constant_rms(1.0) for i in range(5)}
    assert RULES["signal_scale"](make_run(level)) == []


@pytest.mark.parametrize(("size", "first"), [(1e13, "signal_scale"), (1.0, "non_finite")])
def test_what_is_huge_at_the_first_step_explains_the_infinity_after_it(
    make_run, make_site, size, first
):
    rnn = {**constant_rms(size), "posinf": np.r_[0.0, np.full(STEPS - 1, 5.0)]}
    run = make_run({make_site("rnn", "relu"): rnn, make_site("out", None): constant_rms(size)})
    assert findings(run)[0].rule == first


def test_a_layer_that_nothing_called():
    def of(unseen: list[Unseen]) -> Any:
        history = [{"event": "fit", "trainable": ["a", "spare"]}]
        return SimpleNamespace(history=history, unseen=unseen)

    assert RULES["not_called"](of([])) == []
    (found,) = RULES["not_called"](of([Unseen("spare", "was not called", "")]))
    assert found.site == "spare"
