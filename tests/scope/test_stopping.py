"""Trainings that are ended by a condition; those by what is not finite are in planted failures."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitscope as fs

BACKEND = keras.backend.backend()
N, BATCH, BAD = 48, 8, 3
"""Samples, batch size, and the step in which it goes wrong."""


def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1.5, (N, 4)).astype("float32")
    return x, random.standard_normal((N, 2)).astype("float32")


def model_of(*inner: Any, **compiled: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), *inner], name="net")
    model.compile(**{"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", **compiled})
    return model


def test_a_limit_and_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    x[BAD * BATCH] = 1000
    model = model_of(layers.Dense(2, name="out"), optimizer=keras.optimizers.SGD(0.0))
    seen: list[int] = []

    def mine(step: fs.StepStatistics) -> bool:
        seen.append(step.step)
        return False

    scope = fs.Scope(fs.stop_on(fs.above("**:gradient", "absmax", 50)), fs.stop_on(mine))
    model.fit(x, y, batch_size=BATCH, epochs=50, shuffle=False, verbose="0", callbacks=[scope])
    told = capsys.readouterr().err
    assert f"train step {BAD}: absmax of out:gradient was " in told
    assert told.count("fitscope ends the training") == 1
    assert seen[: BAD + 1] == list(range(BAD + 1))
    assert len(seen) < 50 * N // BATCH


def test_a_condition_that_fails_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(step: fs.StepStatistics) -> bool:
        return step.values("**", "no_such_statistic")["out"] > 0

    model = model_of(layers.Dense(2, name="out"))
    model.fit(*data(), batch_size=BATCH, verbose="0", callbacks=[fs.Scope(fs.stop_on(wrong))])
    told = capsys.readouterr().err
    assert told.count("The condition of fs.stop_on failed at train step 0") == 1
    assert "no_such_statistic" in told


def test_errors_say_what_to_do() -> None:
    with pytest.raises(fs.FitscopeError, match="expected a function of a step's statistics"):
        fs.stop_on("loss > 3")  # type: ignore[arg-type]
    with pytest.raises(fs.SelectionError, match="Did you mean 'gradient'"):
        fs.stop_on(lambda step: True, of="gradients")
    with pytest.raises(fs.SelectionError, match="phases"):
        fs.stop_on(fs.non_finite(), phases="fit")
