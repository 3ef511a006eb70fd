"""Trainings that are ended, and where in a step something turned non-finite first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import fitscope as fs

BACKEND = keras.backend.backend()
N, BATCH, BAD = 48, 8, 3
"""Samples, batch size, and the step in which it goes wrong."""


def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1.5, (N, 4)).astype("float32")
    return x, random.standard_normal((N, 2)).astype("float32")


class Applies(layers.Layer):
    """A custom layer of one operation."""

    def __init__(self, function: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def model_of(*inner: Any, **compiled: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), *inner], name="net")
    model.compile(**{"optimizer": keras.optimizers.SGD(0.01), "loss": "mse", **compiled})
    return model


def marked(x: np.ndarray, value: float) -> np.ndarray:
    """The data with one value planted in the first row of the bad step."""
    x = x.copy()
    x[BAD * BATCH, 0] = value
    return x


def failing_on(function: Callable[[Any], Any], value: float, last: Any = None) -> Any:
    def make() -> tuple[Any, np.ndarray, np.ndarray]:
        x, y = data()
        dense = last or layers.Dense(2, name="out", kernel_initializer="ones")
        return model_of(Applies(function, name="planted"), dense), marked(x, value), y

    return make


def bad_input() -> tuple[Any, np.ndarray, np.ndarray]:
    x, y = data()
    return model_of(layers.Dense(2, name="out")), marked(x, np.nan), y


def bad_weight() -> tuple[Any, np.ndarray, np.ndarray]:
    model = model_of(layers.Dense(3, name="hidden"), layers.Dense(2, name="out"))
    kernel, bias = model.get_layer("out").get_weights()
    kernel[0, 0] = np.nan
    model.get_layer("out").set_weights([kernel, bias])
    return model, *data()


def huge_learning_rate() -> tuple[Any, np.ndarray, np.ndarray]:
    x, y = data()
    model = model_of(layers.Dense(2, name="out"), optimizer=keras.optimizers.SGD(1e38))
    return model, x, 1000 * y


PLANTED: dict[str, tuple[Any, str, str]] = {
    "log of zero": (failing_on(ops.log, 0.0), "planted", "forward"),
    "division": (failing_on(lambda x: 1 / x, 0.0), "planted", "forward"),
    "exp overflow": (failing_on(ops.exp, 200.0), "planted", "forward"),
    "square root of a negative": (failing_on(ops.sqrt, -1.0), "planted", "forward"),
    "inside a custom layer": (
        failing_on(lambda x: ops.where(x > 5, ops.log(x - 10), x), 10.0), "planted", "forward"
    ),
    "bad input": (bad_input, "net:input", "given"),
    "bad weight": (bad_weight, "out:weight[kernel]", "before"),
}  # fmt: skip


def ended(make: Any, jit: bool) -> tuple[Any, str]:
    model, x, y = make()
    model.jit_compile = jit
    scope = fs.Scope(fs.stop_on(fs.non_finite()))
    model.fit(x, y, batch_size=BATCH, epochs=9, shuffle=False, verbose="0", callbacks=[scope])
    assert scope._session is not None
    assert scope._session.broken is None, scope._session.broken
    (stop,) = [e for e in scope.run.history if e["event"] == "stop"]
    return scope, f"{stop['step']}: {stop['reason']}"


# torch compiles nothing, and on JAX nothing here depends on it.
JITS = [True, False] if BACKEND == "tensorflow" else [BACKEND == "jax"]


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize("name", PLANTED)
def test_the_origin_is_named(name: str, jit: bool, capsys: pytest.CaptureFixture[str]) -> None:
    make, site, direction = PLANTED[name]
    scope, reason = ended(make, jit)
    step = 0 if name == "bad weight" else BAD
    assert reason.startswith(f"{step}: {site} held "), reason
    assert direction in reason, reason
    assert reason.removeprefix(f"{step}: ") in capsys.readouterr().err
    # A fault of the data or the weights that was found beforehand tells it as its consequence.
    found = [each for f in scope.findings for each in (f, *f.consequences)]
    (finding,) = [f for f in found if f.rule == "non_finite"]
    assert (finding.site, finding.first_step) == (site, step)
    # It ended before the epochs did.
    assert scope.cost["steps"] < 9 * N // BATCH


def test_a_square_root_fails_in_the_backward_pass_alone() -> None:
    """At zero its value is fine and its derivative is not, and 0 times infinity is NaN."""

    def make() -> tuple[Any, np.ndarray, np.ndarray]:
        x, y = data()
        x[BAD * BATCH] = 0
        model = model_of(
            layers.Dense(4, name="before", kernel_initializer="identity", use_bias=False),
            Applies(lambda x: ops.sqrt(ops.abs(x)), name="planted"),
            layers.Dense(2, name="out"),
            optimizer=keras.optimizers.SGD(0.0),
        )
        return model, x, y

    _, reason = ended(make, JITS[0])
    assert reason.startswith(f"{BAD}: before:gradient held "), reason
    assert "backward" in reason
    assert "planted:gradient before it was within" in reason


def test_one_call_of_a_reused_layer() -> None:
    def make() -> tuple[Any, np.ndarray, np.ndarray]:
        keras.utils.set_random_seed(0)
        x, y = data()
        shared = Applies(ops.log, name="shared")
        inputs = keras.Input((4,))
        total = shared(inputs + 10.0) + shared(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="out")(total), name="net")
        model.compile("sgd", "mse")
        return model, marked(x, 0.0), y

    _, reason = ended(make, JITS[0])
    assert reason.startswith(f"{BAD}: shared#1 held "), reason


def test_an_update_alone() -> None:
    _, reason = ended(huge_learning_rate, JITS[0])
    assert ":update[" in reason, reason
    assert "in the update" in reason


def test_an_overflow_that_the_loss_scale_absorbs_is_none() -> None:
    x, y = data()
    model = model_of(
        layers.Dense(3, name="hidden"),
        layers.Dense(2, name="out", dtype="float32"),
        optimizer=keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.001), initial_scale=2.0**126
        ),
    )
    scope = fs.Scope(fs.stop_on(fs.non_finite()))
    model.fit(x, 100 * y, batch_size=BATCH, verbose="0", callbacks=[scope])
    nonfinite = [r["value"] for r in scope.run.stats("**:weight_gradient", "nonfinite")]
    assert max(nonfinite) > 0, "nothing overflowed"
    assert not [e for e in scope.run.history if e["event"] == "stop"]


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
