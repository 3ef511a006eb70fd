"""Norms over all variables, against the weights before and after each step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitscope as fs

RATE, STEPS, BATCH = 0.125, 3, 8
PORTS = ["weight", "weight_gradient", "update"]


class Weights(keras.callbacks.Callback):
    """All weights before and after each step, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Any] = []
        self.after: list[Any] = []

    def _flat(self) -> Any:
        model: Any = self.model
        return np.concatenate([w.astype("float64").ravel() for w in model.get_weights()])

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.before.append(self.after[-1] if self.after else self._flat())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.after.append(self._flat())


def trained(x: Any) -> tuple[Any, Weights]:
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(5, "tanh", bias_initializer="ones")
    model = keras.Sequential([keras.Input((4,)), hidden, layers.Dense(2)])
    model.compile(keras.optimizers.SGD(RATE), "mse")
    scope, weights = fs.Scope(fs.watch("**", of=PORTS), every=1), Weights()
    y = np.ones((len(x), 2), "float32")
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=[scope, weights])
    return scope.run, weights


def test_the_norms_are_those_of_all_variables_together() -> None:
    random = np.random.default_rng(0)
    run, weights = trained(random.standard_normal((STEPS * BATCH, 4)).astype("float32"))
    changes = [a - b for a, b in zip(weights.after, weights.before, strict=True)]
    expected = {
        "weight": [np.linalg.norm(b) for b in weights.before],
        "update": [np.linalg.norm(c) for c in changes],
        "weight_gradient": [np.linalg.norm(c) / RATE for c in changes],
    }
    for port, norms in expected.items():
        table = run.global_norm(port)
        assert table.columns == run.stats(f"**:{port}", "l2").columns
        rows = list(table)
        assert [row["step"] for row in rows] == list(range(STEPS))
        assert {row["site"] for row in rows} == {f"**:{port}"}
        np.testing.assert_allclose([row["value"] for row in rows], norms, rtol=1e-4)


def test_a_step_with_a_nan_has_none() -> None:
    x = np.ones((STEPS * BATCH, 4), "float32")
    x[BATCH] = np.nan
    run, _ = trained(x)
    values = [row["value"] for row in run.global_norm("update")]
    assert np.isfinite(values[0])
    assert np.isnan(values[1:]).all()


def test_only_ports_of_variables_have_one() -> None:
    run, _ = trained(np.ones((BATCH, 4), "float32"))
    with pytest.raises(fs.RunError, match="expected one of 'weight_gradient'"):
        run.global_norm("gradient")
