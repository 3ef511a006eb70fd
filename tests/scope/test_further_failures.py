"""More planted failures: what the loss is given, what only the loss holds, and less common layers.

Where it goes wrong is known from where it was planted.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from planted import (
    BACKEND,
    BAD,
    BATCH,
    JITS,
    Applies,
    N,
    Planted,
    compiled,
    data,
    ended,
    marked,
    model_of,
    out,
    same,
)

import fitscope as fs

ROWS = slice(BAD * BATCH, (BAD + 1) * BATCH)


def still(*inner: Any, **settings: Any) -> Any:
    """A model that does not learn, so that nothing changes before the bad step."""
    return model_of(*inner, **{"optimizer": keras.optimizers.SGD(0.0), **settings})


def zero_row() -> tuple[np.ndarray, np.ndarray]:
    x, y = data()
    x[BAD * BATCH + 2] = 0
    return x, y


def attention() -> Any:
    def weights(x: Any) -> Any:
        return ops.softmax(ops.where(x > 0.1, x, -float("inf")))

    return still(Applies(weights, name="planted"), out()), *zero_row()


def log_softmax() -> Any:
    planted = Applies(lambda x: ops.log_softmax(ops.exp(x)), name="planted")
    return still(planted, out()), *marked(100.0)


def custom_gradient() -> Any:
    @ops.custom_gradient
    def function(x: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            given = args[0] if upstream is None else upstream
            return given / x

        return x * 1.0, gradient

    return still(same(), Applies(function, name="planted"), out()), *marked(0.0)


def nested_and_reused() -> Any:
    block = keras.Sequential(
        [
            keras.Input((4,)),
            same("first"),
            Applies(lambda x: ops.sqrt(ops.abs(x)), name="planted"),
        ],
        name="block",
    )
    inputs = keras.Input((4,))
    total = block(inputs + 1.0) + block(inputs)
    model = keras.Model(inputs, out()(total), name="net")
    return compiled(model, optimizer=keras.optimizers.SGD(0.0)), *marked(0.0)


def half_precision() -> Any:
    planted = layers.Dense(
        4, name="planted", dtype="float16", use_bias=False,
        kernel_initializer=keras.initializers.Identity(100.0),
    )  # fmt: skip
    return still(planted, Applies(lambda x: x * 1.0, name="after"), out()), *marked(1e3)


def masked_loss(y: Any, y_pred: Any) -> Any:
    """A mean over what is known; of nothing, it is 0 / 0."""
    known = ops.cast(y > -1e5, "float32")
    return ops.sum(known * ops.square(y - y_pred)) / ops.sum(known)


def nothing_known() -> Any:
    x, y = data()
    y[ROWS] = -1e6
    return still(same(), out(), loss=masked_loss), x, y


@keras.saving.register_keras_serializable("further_failures")
class Vanishing(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that is divided by the steps that are left."""

    def __call__(self, step: Any) -> Any:
        return 0.01 / ops.maximum(float(BAD) - ops.cast(step, "float32"), 0.0)

    def get_config(self) -> dict[str, Any]:
        return {}


def schedule() -> Any:
    return model_of(same(), out(), optimizer=keras.optimizers.SGD(Vanishing())), *data()


def constraint() -> Any:
    head = layers.Dense(
        2, name="out", kernel_initializer="ones", use_bias=False,
        kernel_constraint=lambda w: w / ops.sum(w * 0.0),
    )  # fmt: skip
    return model_of(head), *data()


def regularizer() -> Any:
    def distance(w: Any) -> Any:
        return ops.sqrt(ops.sum(ops.square(w - 1.0)))

    head = layers.Dense(
        2, name="out", kernel_initializer="ones", use_bias=False, kernel_regularizer=distance
    )
    return model_of(head), *data()


def adam_without_epsilon() -> Any:
    x, y = data()
    x[:, 3] = 0  # so the last row of the kernel has no gradient
    head = layers.Dense(2, name="out", use_bias=False)
    return model_of(head, optimizer=keras.optimizers.Adam(0.01, epsilon=0.0)), x, y


def bad_target() -> Any:
    x, y = data()
    y[BAD * BATCH + 2, 1] = np.nan
    return still(same(), out()), x, y


FURTHER: dict[str, Planted] = {
    "attention to nothing": Planted(attention, "planted", index=(2, 0), says="4 NaN"),
    "log_softmax of infinity": Planted(log_softmax, "planted", index=(2, 0)),
    "custom gradient": Planted(
        custom_gradient, "before:gradient", "backward", layer="planted", says="+infinity"
    ),
    "in one call of a nested block": Planted(
        nested_and_reused, "block/first#1:gradient", "backward", layer="block/planted",
        says="in the backward pass of block/planted",
    ),
    "half precision in one layer": Planted(half_precision, "planted", index=(2, 1)),
    "learning rate of a schedule": Planted(schedule, "before:update[kernel]", "update",
        index=(0, 0), says="its gradient: ",
    ),
    "constraint": Planted(
        constraint, "out:update[kernel]", "update", 0, index=(0, 0), says="8 +infinity",
    ),
    "regularizer": Planted(
        regularizer, "out:weight_gradient[kernel]", "backward", 0, index=(0, 0),
        says="out:gradient before it: ",
    ),
    "division by zero in Adam": Planted(
        adam_without_epsilon, "out:update[kernel]", "update", 0, index=(3, 0), says="2 NaN",
    ),
    "target": Planted(
        bad_target, "out:gradient", "backward", layer="the loss", index=(2, 1),
        says="the batch held 1 NaN or infinity in y, first at [2, 1]",
    ),
}  # fmt: skip

HIDDEN: dict[str, Planted] = {
    "half precision in one layer": Planted(half_precision, "after", index=(2, 1)),
    "regularizer": dataclasses.replace(
        FURTHER["regularizer"], site="out:update[kernel]", direction="the backward pass or",
        says="",
    ),
}  # fmt: skip
"""Where TensorFlow without XLA fuses the tensor at fault away: the next one that can be seen."""


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize("name", FURTHER)
def test_the_origin_is_named(name: str, jit: bool) -> None:
    planted = FURTHER[name]
    if BACKEND == "tensorflow" and not jit:
        planted = HIDDEN.get(name, planted)
    scope, reason = ended(planted, jit)
    assert reason.startswith(f"train {planted.step}: {planted.site} held "), reason
    assert planted.direction in reason, reason
    assert planted.says in reason, reason
    (finding,) = _with_consequences(scope, "non_finite")
    assert (finding.site, finding.first_step) == (planted.site, planted.step), finding
    evidence = finding.evidence
    layer = planted.layer or planted.site.partition(":")[0].partition("#")[0]
    assert (evidence["layer"], tuple(evidence["index"])) == (layer, planted.index)
    if planted.site == "after":
        assert evidence["unseen_before"] == ["planted"]


def _with_consequences(scope: Any, rule: str) -> list[Any]:
    told = [*scope.findings, *(c for f in scope.findings for c in f.consequences)]
    return [finding for finding in told if finding.rule == rule]


def stopped(model: Any, x: Any, y: Any, **given: Any) -> tuple[Any, str]:
    scope = fs.Scope(fs.stop_on(fs.non_finite()))
    model.fit(
        x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose="0", callbacks=[scope], **given
    )
    (stop,) = [e for e in scope.run.history if e["event"] == "stop"]
    return scope, f"{stop['step']}: {stop['reason']}"


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_a_sample_weight_is_named(jit: bool) -> None:
    weight = np.ones(N, "float32")
    weight[BAD * BATCH + 5] = np.inf
    model = still(same(), out())
    model.jit_compile = jit
    scope, reason = stopped(model, *data(), sample_weight=weight)
    assert reason.startswith(f"{BAD}: out:gradient held 2 "), reason
    assert "in the backward pass of the loss" in reason
    assert "the batch held 1 NaN or infinity in sample_weight, first at [5]" in reason
    (finding,) = _with_consequences(scope, "non_finite")
    assert finding.evidence["targets"] == [
        {"name": "sample_weight", "bad": 1, "count": BATCH, "index": [5]}
    ]
    assert "row 5 first" in finding.remedy


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_a_loss_that_overflows_alone_ends_the_training(jit: bool) -> None:
    """2000 squared is more than float16 holds; the gradient, 2 * 2000 / 16, is not."""
    x, y = data()
    y[BAD * BATCH + 2] = 2000
    model = still(out(), loss=keras.losses.MeanSquaredError(dtype="float16"))
    model.jit_compile = jit
    _, reason = stopped(model, x, y)
    assert reason.startswith(f"{BAD}: the loss was +infinity, with outputs, gradients,"), reason


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_a_mean_over_nothing(jit: bool) -> None:
    """XLA may find that no gradient depends on it; then the loss alone holds it."""
    model, x, y = nothing_known()
    model.jit_compile = jit
    _, reason = stopped(model, x, y)
    first = (f"{BAD}: out:gradient held 16 NaN", f"{BAD}: the loss was NaN")
    assert reason.startswith(first), reason


def test_a_metric_alone_ends_no_training() -> None:
    class Bad(keras.metrics.Mean):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            super().update_state(ops.log(y_pred * 0 - 1))

    x, y = data()
    scope = fs.Scope(fs.stop_on(fs.non_finite()))
    model = still(same(), out(), metrics=[Bad(name="bad")])
    history = model.fit(x, y, batch_size=BATCH, verbose="0", callbacks=[scope])
    assert np.isnan(history.history["bad"]).all()
    assert not [e for e in scope.run.history if e["event"] == "stop"]
    assert not _with_consequences(scope, "non_finite")


def under_a_scale(x: Any, y: Any, planted: Any, scale: float, **how: Any) -> Any:
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.001), initial_scale=scale, dynamic_growth_steps=10
    )
    head = layers.Dense(2, name="out", dtype="float32")
    model = model_of(same(), planted, head, optimizer=optimizer)
    scope = fs.Scope(fs.stop_on(fs.non_finite()))
    model.fit(x, y, batch_size=BATCH, epochs=6, verbose="0", callbacks=[scope], **how)
    return scope


def test_a_scale_that_looks_for_its_place_is_a_note_however_batches_fall() -> None:
    """It grows every ten steps, so gradients overflow in about one step of ten to the end."""
    x, y = data()
    scope = under_a_scale(x, 100 * y, Applies(lambda v: v * 1.0, name="planted"), 2.0**126)
    assert max(r["value"] for r in scope.run.stats("**:weight_gradient", "nonfinite")) > 0
    assert not [e for e in scope.run.history if e["event"] == "stop"]
    assert [f.severity for f in _with_consequences(scope, "non_finite")] == ["note"]


def test_what_no_scale_explains_is_a_fault() -> None:
    """The derivative of a root at 0, once in each epoch: the scale falls, and it stays."""
    x, y = zero_row()
    root = Applies(lambda v: ops.sqrt(ops.abs(v)), name="planted")
    scope = under_a_scale(x, y, root, 2.0**10, shuffle=False)
    faults = [f for f in _with_consequences(scope, "non_finite") if f.severity != "note"]
    assert [f.first_step for f in faults] == [BAD]
    assert faults[0].site == "before:gradient"
    assert faults[0].evidence["layer"] == "planted"


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_a_variance_that_overflows(jit: bool) -> None:
    """1e25 squared is infinite: the output is bad, or 0, and then the moving variance is bad."""
    model = model_of(layers.BatchNormalization(name="norm"), out())
    model.jit_compile = jit
    scope, reason = stopped(model, *marked(1e25))
    (finding,) = _with_consequences(scope, "non_finite")
    assert finding.evidence["layer"] == "norm", reason
    moving = reason.startswith(f"{BAD + 1}: norm:weight[moving_variance] held 1 +infinity")
    assert moving or reason.startswith(f"{BAD}: norm held"), reason
