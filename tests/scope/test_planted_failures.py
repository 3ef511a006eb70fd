"""Failures that were planted in small models: the layer, the direction and the step are named.

What is expected is known from where the failure was planted; where it grows by itself, a training
of the same model in NumPy tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from fitscope.terminal.report import findings_text


def applied(function: Callable[[Any], Any], value: float, **kwargs: Any) -> Any:
    return lambda: (model_of(Applies(function, name="planted", **kwargs), out()), *marked(value))


def masked_log(x: Any) -> Any:
    """The value is masked, its gradient is not: the trap of `where`."""
    return ops.where(x > 0.1, ops.log(x), 0.0)


def tapped(x: Any) -> Any:
    inner = fs.tap(ops.log(ops.abs(x)), "inner")
    return ops.where(ops.isfinite(inner), inner, 0.0)


def bad_weight() -> Any:
    model = model_of(layers.Dense(3, name="hidden"), layers.Dense(2, name="out"))
    kernel, bias = model.get_layer("out").get_weights()
    kernel[1, 0] = np.nan
    model.get_layer("out").set_weights([kernel, bias])
    return model, *data()


def one_call() -> Any:
    keras.utils.set_random_seed(0)
    shared = Applies(ops.log, name="shared")
    inputs: Any = keras.Input((4,))
    total = shared(inputs + 10.0) + shared(inputs)
    return compiled(keras.Model(inputs, out()(total), name="net")), *marked(0.0)


def two_branches() -> Any:
    """In the backward pass of one of two branches, the one that was built first."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    before = same()(inputs)
    first = Applies(lambda x: ops.sqrt(ops.abs(x)), name="planted")(before)
    second = same("other")(before)
    total = layers.Add(name="sum")([first, second])
    model = keras.Model(inputs, out()(total), name="net")
    return compiled(model, optimizer=keras.optimizers.SGD(0.0)), *marked(0.0)


def nested() -> Any:
    keras.utils.set_random_seed(0)
    block = keras.Sequential(
        [keras.Input((4,)), same("first"), Applies(ops.log, name="planted")], name="block"
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, out()(block(inputs)), name="net")
    return compiled(model, optimizer=keras.optimizers.SGD(0.0)), *marked(0.0)


def in_the_loss() -> Any:
    def loss(y: Any, y_pred: Any) -> Any:
        return ops.mean(ops.log(y_pred) + 0 * y, -1)

    x, y = data()
    x[BAD * BATCH + 2] = 0
    head = out(use_bias=False)
    return model_of(head, loss=loss, optimizer=keras.optimizers.SGD(0.0)), x, y


GROWTH = 1e15


def exploding() -> Any:
    head = layers.Dense(2, name="out", kernel_initializer="ones", use_bias=False)
    return model_of(head, optimizer=keras.optimizers.SGD(GROWTH)), *data()


def explodes_at() -> tuple[str, str, int]:
    """The same training in NumPy: where it is not finite first."""
    x, y = data()
    kernel = np.ones((4, 2), "float32")
    with np.errstate(all="ignore"):
        for step in range(N // BATCH):
            rows = slice(step * BATCH, (step + 1) * BATCH)
            y_pred = x[rows] @ kernel
            gradient = 2 * (y_pred - y[rows]) / np.float32(y_pred.size)
            of_kernel = x[rows].T @ gradient
            update = -np.float32(GROWTH) * of_kernel
            for site, value, direction in (
                ("out", y_pred, "forward"),
                ("out:gradient", gradient, "backward"),
                ("out:weight_gradient[kernel]", of_kernel, "backward"),
                ("out:update[kernel]", update, "update"),
            ):
                if not np.isfinite(value).all():
                    return site, direction, step
            kernel += update
    raise AssertionError("it did not explode")


def huge_rate() -> Any:
    x, y = data()
    return model_of(out(), optimizer=keras.optimizers.SGD(1e38)), x, 1000 * y


def root_at_zero(x: Any) -> Any:
    return ops.sqrt(ops.abs(x))


def backward(function: Callable[[Any], Any], value: float) -> Any:
    def make() -> Any:
        still = keras.optimizers.SGD(0.0)
        planted = Applies(function, name="planted")
        return model_of(same(), planted, out(), optimizer=still), *marked(value)

    return make


def only_in_validation() -> Any:
    model = model_of(Applies(ops.log, name="planted"), out())
    return model, *data()


SITE, DIRECTION, STEP = explodes_at()
PLANTED: dict[str, Planted] = {
    "log of zero": Planted(applied(ops.log, 0.0), "planted", says="-infinity"),
    "division": Planted(applied(lambda x: 1 / x, 0.0), "planted", says="+infinity"),
    "exp overflow": Planted(
        applied(ops.exp, 200.0), "planted", says="net:input before it: "
    ),
    "square root of a negative": Planted(applied(ops.sqrt, -1.0), "planted", says="1 NaN"),
    "float16 overflow": Planted(
        applied(lambda x: x * 1000, 100.0, dtype="float16"), "planted", says="+infinity"
    ),
    "inside a custom layer": Planted(
        applied(lambda x: ops.where(x > 5, ops.log(x - 10), x), 10.0), "planted"
    ),
    "at a tap inside a custom layer": Planted(applied(tapped, 0.0), "planted/inner"),
    "square root at zero": Planted(
        backward(root_at_zero, 0.0), "before:gradient", "backward", layer="planted",
        says="in the backward pass of planted",
    ),
    "masked in the forward pass": Planted(
        backward(masked_log, 0.0), "before:gradient", "backward", layer="planted",
        says="planted:gradient before it: ",
    ),
    "in one of two branches": Planted(
        two_branches, "before:gradient", "backward", layer="planted or other",
    ),
    "in the loss": Planted(
        in_the_loss, "out:gradient", "backward", layer="the loss", index=(2, 0),
        says="in the backward pass of the loss",
    ),
    "bad input row": Planted(
        lambda: (model_of(out()), *marked(np.nan)), "net:input", "given", layer="net",
        says="the batch was bad before the model saw it",
    ),
    "bad weight": Planted(bad_weight, "out:weight[kernel]", "before", 0, index=(1, 0)),
    "one call of a reused layer": Planted(one_call, "shared#1"),
    "in a nested model": Planted(nested, "block/planted"),
    "exploding learning rate": Planted(exploding, SITE, DIRECTION, STEP, index=(0, 0)),
    "the update alone": Planted(huge_rate, "out:update[kernel]", "update", 0, index=(0, 0)),
    "validation alone": Planted(
        only_in_validation, "planted", step=1, index=(0, 1), phase="validation"
    ),
}  # fmt: skip


UNSEEN: dict[str, Planted] = {
    "one call of a reused layer": Planted(one_call, "add_1"),
}
"""Where TensorFlow without XLA fuses the layer at fault away: the next one that can be seen."""


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize("name", PLANTED)
def test_the_origin_is_named(name: str, jit: bool, capsys: pytest.CaptureFixture[str]) -> None:
    planted = PLANTED[name]
    if name in UNSEEN and BACKEND == "tensorflow" and not jit:
        planted = UNSEEN[name]
    scope, reason = ended(planted, jit)
    assert reason.startswith(f"{planted.phase} {planted.step}: {planted.site} held "), reason
    assert planted.direction in reason, reason
    assert planted.says in reason, reason
    assert reason.partition(": ")[2] in capsys.readouterr().err
    # A fault of the data or the weights that was found beforehand tells it as its consequence.
    (finding,) = scope.findings.of("non_finite")
    assert (finding.site, finding.first_step) == (planted.site, planted.step), finding
    evidence = finding.evidence
    assert evidence["phase"] == planted.phase
    assert planted.direction in evidence["direction"]
    layer = planted.layer or planted.site.partition(":")[0].partition("#")[0]
    assert evidence["layer"] == layer, evidence
    assert evidence["index"] == list(planted.index or ()), evidence
    if planted in UNSEEN.values():
        assert "shared#1" in evidence["unseen_before"]
        assert "not seen before it, and maybe first: shared#" in finding.message
    kinds = ("nan", "posinf", "neginf")
    assert 0 < sum(evidence[kind] for kind in kinds) <= evidence["count"]
    if planted.phase == "train" and planted.site != "net:input":
        site, low, high, bad = evidence["batch"]
        x = planted.make()[1][planted.step * BATCH :][:BATCH]
        assert (site, bad) == ("net:input", 0)
        np.testing.assert_allclose((low, high), (x.min(), x.max()), rtol=1e-6)
    assert evidence["recent"]["steps"] == list(range(planted.step))
    assert evidence["previous_observed_step"] == (planted.step - 1 if planted.step else None)
    # What happened, where and since when; why it matters and what to try.
    told = findings_text([replace(finding, consequences=())], 100).plain.splitlines()[1:]
    assert len(told) <= 3, "\n".join(told)


def test_the_last_statistics_are_those_of_the_steps_before() -> None:
    """Of an identity: they are those of the batches, by NumPy."""
    planted = Planted(applied(lambda x: ops.where(x > 5, ops.log(x - 10), x), 10.0), "planted")
    scope, _ = ended(planted, JITS[0])
    (finding,) = scope.findings.of("non_finite")
    x, _ = data()
    before = [x[i * BATCH : (i + 1) * BATCH] for i in range(BAD)]
    recent = finding.evidence["recent"]
    np.testing.assert_allclose(recent["absmax"], [np.abs(b).max() for b in before], rtol=1e-6)
    rms = [np.sqrt(np.square(b, dtype="float64").mean()) for b in before]
    np.testing.assert_allclose(recent["rms"], rms, rtol=1e-5)
    assert "absmax before: " in finding.message


def test_an_overflow_that_the_loss_scale_absorbs_is_a_note() -> None:
    x, y = data()
    model = model_of(
        layers.Dense(3, name="hidden"),
        layers.Dense(2, name="out", dtype="float32"),
        optimizer=keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.001), initial_scale=2.0**126
        ),
    )
    scope = fs.Scope(fs.stop_on(fs.non_finite()))
    model.fit(x, 100 * y, batch_size=BATCH, epochs=4, shuffle=False, verbose="0", callbacks=[scope])
    nonfinite = [r["value"] for r in scope.run.stats("**:weight_gradient", "nonfinite")]
    assert max(nonfinite) > 0, "nothing overflowed"
    assert not [e for e in scope.run.history if e["event"] == "stop"]
    found = scope.findings.of("non_finite")
    assert [f.severity for f in found] == ["note"], found
    finding = found[0]
    assert "overflowed under the loss scale" in finding.message
    assert finding.evidence["loss_scale"] == 2.0**126


@pytest.mark.parametrize("size", [(5, 7, 11, 97), (3, 20001)], ids=str)
def test_the_first_of_several_is_told_in_a_large_tensor(size: tuple[int, ...]) -> None:
    """NumPy says which it is; channels may lie in another order than they are reduced in."""
    x = np.random.default_rng(1).uniform(0.5, 1.5, size).astype("float32")
    flat = x.reshape(-1)
    flat[[len(flat) // 3 + 1, len(flat) // 2, -1]] = [np.inf, np.nan, -np.inf]
    keras.utils.set_random_seed(0)
    inputs = keras.Input(size[1:])
    seen = Applies(lambda v: v * 1.0, name="seen")(inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(seen)))
    model.compile("sgd", "mse")
    scope = fs.Scope(fs.watch("seen"), every=1)
    y = np.zeros((size[0], 1), "float32")
    model.fit(x, y, batch_size=size[0], epochs=1, shuffle=False, verbose="0", callbacks=[scope])
    (finding,) = scope.findings.of("non_finite")
    expected = np.unravel_index(np.flatnonzero(~np.isfinite(x.reshape(-1)))[0], size)
    assert finding.evidence["index"] == [int(n) for n in expected]
