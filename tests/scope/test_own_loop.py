"""Models that are trained by `train_on_batch`, or evaluated only, are judged as well."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitscope as fs
from fitscope.rules.history import batches


def classifier() -> Any:
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="out")(hidden))
    model.compile("sgd", "mean_squared_error")
    return model


@pytest.fixture
def labelled() -> tuple[Any, Any]:
    x = np.random.default_rng(0).standard_normal((96, 4)).astype("float32")
    return x, 2 * (x[:, :1] > 0).astype("float32")  # beyond what a sigmoid gives


def test_the_losses_of_a_loop_are_those_of_its_batches(model: Any, data: Any) -> None:
    scope, returned = fs.Scope(every=1), []
    x, y = data
    with scope.attach(model):
        for place in range(6):
            rows = slice(4 * place, 4 * place + 4)
            returned.append(model.train_on_batch(x[rows], y[rows]))
    # Keras begins its averages anew in each call.
    np.testing.assert_allclose(batches(scope.run).values, np.array(returned), rtol=1e-6)


def test_a_loop_is_judged_before_and_after(labelled: Any) -> None:
    x, y = labelled
    model, scope = classifier(), fs.Scope(every=1)
    with scope.attach(model):
        for step in range(12):
            rows = slice(8 * step, 8 * step + 8)
            model.train_on_batch(x[rows], y[rows])
            if step == 1:
                assert [f.rule for f in scope.findings] == ["targets_in_range"]
    (found,) = scope.findings.of("targets_in_range")
    assert found.stage == "contract"
    assert scope.findings[0] == found
    assert found.site in ("y", "out")
    # How far weights moved is known at the end of the loop.
    assert [r["step"] for r in scope.run.history if r["event"] == "end"] == [12]


def test_a_batch_of_one_class_is_what_a_discriminator_is_given(labelled: Any) -> None:
    x, _ = labelled
    model, scope = classifier(), fs.Scope(every=1)
    with scope.attach(model):
        for step in range(12):
            rows = slice(8 * step, 8 * step + 8)
            model.train_on_batch(x[rows], np.full((8, 1), step % 2, "float32"))
    assert [f.rule for f in scope.findings if f.severity != "note"] == []


def test_an_evaluation_alone_is_judged(labelled: Any) -> None:
    model, scope = classifier(), fs.Scope(every=1)
    model.evaluate(*labelled, verbose=0, callbacks=[scope])
    assert [f.rule for f in scope.findings] == ["targets_in_range"]
    before = len(scope.run.findings)
    model.evaluate(*labelled, verbose=0, callbacks=[scope])
    assert len(scope.run.findings) == before


def test_the_evaluation_within_a_fit_is_not_judged_for_itself(labelled: Any) -> None:
    model, scope = classifier(), fs.Scope(every=1)
    model.fit(*labelled, verbose=0, validation_data=labelled, callbacks=[scope])
    model.evaluate(*labelled, verbose=0, callbacks=[scope])
    assert sum(r["event"] == "fit" for r in scope.run.history) == 1
