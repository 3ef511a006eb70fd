"""Gradients, weights and updates are those of the very step; the other path is autodiff itself."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from autodiff import PORTS, check
from keras import layers, ops
from zoo import BACKEND, BATCH, BY_NAME

import fitscope as fs

JITS = [True, False] if BACKEND != "torch" else [False]
CASES = [
    "sequential", "branches", "subclassed", "siamese", "convolutions", "recurrent", "transformer",
    "trees", "two_outputs", "noisy", "frozen", "regularized", "mixed_bfloat16",
]  # fmt: skip
SLOW = {
    "jax": ("sequential", "siamese", "transformer", "noisy", "regularized"),
    "tensorflow": ("sequential", "siamese", "transformer", "noisy", "regularized"),
    "torch": (),
}
"""Left to the comparison of trainings bit for bit on backends that compile them for long."""


@pytest.mark.parametrize("name", [n for n in CASES if n not in SLOW[BACKEND]])
def test_they_are_those_of_the_step(name: str) -> None:
    check(BY_NAME[name], JITS[0])


# JAX runs and compiles one operation at a time without jit: one model stands for all.
@pytest.mark.parametrize("name", ["branches"] if BACKEND == "jax" else ["branches", "convolutions"])
def test_they_are_those_of_a_step_without_jit(name: str) -> None:
    check(BY_NAME[name], False)


def test_a_short_last_batch() -> None:
    check(BY_NAME["branches"], JITS[0], n=BATCH + 3)


def model_of(*inner: Any, units: int = 4) -> Any:
    return keras.Sequential([keras.Input((units,)), *inner])


def data(units: int = 4, n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((n, units)).astype("float32")
    return x, random.standard_normal((n, 2)).astype("float32")


def trained(model: Any, ports: Any, *, steps: int = 1, **compiled: Any) -> Any:
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    x, y = data(n=8 * steps)
    scope = fs.Scope(fs.watch("**", of=ports), every=1)
    model.fit(x, y, batch_size=8, shuffle=False, verbose="0", callbacks=[scope])
    assert scope._session is not None
    assert scope._session.broken is None, scope._session.broken
    return scope


def one(scope: Any, site: str, statistic: str) -> float:
    """The value of the only step."""
    (row,) = scope.run.stats(site, statistic)
    return row["value"]


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_a_scaled_loss_is_taken_out_again(jit: bool) -> None:
    def run(optimizer: Any) -> Any:
        keras.utils.set_random_seed(1)
        model = model_of(layers.Dense(3, "tanh", name="a"), layers.Dense(2, name="b"))
        ports = ["gradient", "weight_gradient", "update"]
        return trained(model, ports, optimizer=optimizer, jit_compile=jit)

    inner = keras.optimizers.SGD(0.1)
    plain = run(keras.optimizers.SGD(0.1))
    scaled = run(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1024.0))
    for site in plain.run.sites:
        for statistic in ("rms", "max", "l1"):
            a, b = (one(scope, site.name, statistic) for scope in (plain, scaled))
            np.testing.assert_allclose(
                a, b, rtol=1e-5, atol=1e-7, err_msg=f"{site.name} {statistic}"
            )
    scales = {row["value"] for row in scaled.run.stats("**:weight_gradient", "loss_scale")}
    assert scales == {1024.0}
    assert {row["value"] for row in scaled.run.stats("**:gradient", "loss_scale")} == {1024.0}
    assert "loss_scale" not in plain.run.user_statistics


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize(
    "options",
    [{"clipnorm": 0.01}, {"global_clipnorm": 0.01}, {"use_ema": True}, {"weight_decay": 0.1},
     {"gradient_accumulation_steps": 2}],
    ids=lambda o: next(iter(o)),
)  # fmt: skip
def test_the_update_is_what_was_applied(options: dict[str, Any], jit: bool) -> None:
    model = model_of(layers.Dense(2, name="out"))
    before = model.get_weights()
    optimizer = keras.optimizers.AdamW(0.1, **{"weight_decay": 0.0, **options})
    scope = trained(model, ["update", "weight_gradient"], optimizer=optimizer, jit_compile=jit)
    change = model.get_weights()[0] - before[0]
    update = one(scope, "out:update[kernel]", "l2")
    np.testing.assert_allclose(update, np.linalg.norm(change), rtol=1e-4, atol=1e-7)
    if "gradient_accumulation_steps" in options:
        assert update == 0
    # The gradient is the one before clipping.
    fused = [u for u in scope.unseen if u.site == "out:weight_gradient[kernel]"]
    assert not fused or (BACKEND == "tensorflow" and not jit)
    assert fused or one(scope, "out:weight_gradient[kernel]", "l2") > 0.1


@pytest.mark.backends("tensorflow", "torch")
def test_the_optimizer_of_a_model_inside() -> None:
    """By hand: the gradient of a mean of squares of a linear model."""
    from custom_steps import InnerOptimizer

    inner = model_of(layers.Dense(2, name="out"))
    inner.name = "inner"
    inner.compile(keras.optimizers.SGD(0.1), "mse")
    inputs = keras.Input((4,))
    model = InnerOptimizer(inputs, inner(inputs))
    kernel, bias = inner.get_weights()
    scope = trained(model, ["weight_gradient", "update"], jit_compile=BACKEND == "tensorflow")
    x, y = data()
    gradient = x.T @ (x @ kernel + bias - y) * 2 / y.size
    norm = np.linalg.norm(gradient)
    found = one(scope, "inner/out:weight_gradient[kernel]", "l2")
    np.testing.assert_allclose(found, norm, rtol=1e-4)
    np.testing.assert_allclose(one(scope, "inner/out:update[kernel]", "l2"), 0.1 * norm, rtol=1e-4)


def test_what_has_no_gradient_is_reported() -> None:
    frozen = layers.Dense(4, name="frozen", trainable=False)
    scope = trained(
        model_of(frozen, layers.Dense(2, name="out")), ["gradient", "weight_gradient", "update"]
    )
    gaps = {u.site: u.reason for u in scope.unseen}
    assert "got no gradient" in gaps["frozen:gradient"]
    assert "is frozen" in gaps["frozen:update"]
    assert {s.path for s in scope.run.sites} == {"out"}


def test_they_are_of_training_only() -> None:
    model = model_of(layers.Dense(2, name="out"))
    model.compile("sgd", "mse")
    x, y = data()
    scope = fs.Scope(fs.watch("**", of=["output", "gradient", "weight"]), every=1)
    model.fit(x, y, validation_data=(x, y), verbose="0", callbacks=[scope])
    phases = {(r["phase"], r["site"]) for r in scope.run.stats("**", "rms")}
    train = {
        ("train", s) for s in ("out", "out:gradient", "out:weight[kernel]", "out:weight[bias]")
    }
    assert phases == {*train, ("validation", "out")}
    assert not scope.unseen


def test_a_gradient_can_be_streamed() -> None:
    model = model_of(layers.Dense(2, name="out"))
    model.compile("sgd", "mse")
    x, y = data()
    events: list[Any] = []
    before = model(x)
    scope = fs.Scope(fs.stream("out", events.append, of="gradient"))
    model.fit(x, y, batch_size=8, shuffle=False, verbose="0", callbacks=[scope])
    want = 2 * (ops.convert_to_numpy(before) - y) / y.size
    np.testing.assert_allclose(events[0].values["out:gradient"], want, rtol=1e-4, atol=1e-6)


def test_nothing_is_left_on_optimizer_or_tape() -> None:
    model = model_of(layers.Dense(2, name="out"))
    optimizer = keras.optimizers.Adam()
    names = set(vars(optimizer))
    trained(model, PORTS, optimizer=optimizer)
    assert not {"apply", "scale_loss", "stateless_apply"} & (set(vars(optimizer)) - names)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        assert tf.GradientTape.gradient.__module__.startswith("tensorflow")


def test_a_weight_port_is_no_part_of_a_capture() -> None:
    model = model_of(layers.Dense(2, name="out"))
    with pytest.raises(fs.SelectionError, match="not part of a forward pass"):
        fs.capture(model, data()[0], "out", of="gradient")
