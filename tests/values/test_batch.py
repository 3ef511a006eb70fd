"""`fs.BATCH`: what a step was given, what it predicted, and each sample's loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND, BY_NAME

import fitscope as fs
from fitscope.engine.layout import Kept
from fitscope.engine.points import batch_site
from fitscope.values.batch import StepBatch

JIT = BACKEND == "jax"


def fresh() -> None:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(5)


def fit(model: Any, x: Any, y: Any, scope: fs.Scope, **how: Any) -> Any:
    how = {"batch_size": 8, "epochs": 1, "shuffle": False, "verbose": 0, **how}
    history = model.fit(x, y, callbacks=[scope], **how)
    assert scope._session is None or scope._session.broken is None
    return history.history


def one(scope: fs.Scope, part: str) -> np.ndarray[Any, Any]:
    (piece,) = scope.run.values(f"@batch/{part}")
    return piece.array


def classifier(loss: Any, **how: Any) -> Any:
    fresh()
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile("sgd", loss, jit_compile=JIT, **how)
    return model


def data(n: int = 8) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, 4)).astype("float32"), rng.integers(0, 3, n).astype("int32")


@pytest.mark.oldest_keras
def test_the_loss_of_each_sample_makes_the_loss_that_keras_reports() -> None:
    """With weights of samples and classes: Keras' number is their weighted mean."""
    x, y = data()
    weight = np.linspace(0.5, 2, 8).astype("float32")
    scope = fs.Scope(fs.record(fs.BATCH))
    model = classifier("sparse_categorical_crossentropy")
    reported = fit(model, x, y, scope, sample_weight=weight)["loss"][0]
    predicted = one(scope, "y_pred").astype("float64")
    np.testing.assert_allclose(one(scope, "loss"), -np.log(predicted[np.arange(8), y]), rtol=1e-5)
    np.testing.assert_array_equal(one(scope, "sample_weight"), weight)
    np.testing.assert_allclose((one(scope, "loss") * weight).mean(), reported, rtol=1e-5)

    scope = fs.Scope(fs.record(fs.BATCH))
    model = classifier("sparse_categorical_crossentropy")
    reported = fit(model, x, y, scope, class_weight={0: 1.0, 1: 3.0, 2: 0.5})["loss"][0]
    np.testing.assert_allclose(one(scope, "sample_weight"), np.array([1.0, 3.0, 0.5])[y])
    weighted = one(scope, "loss") * one(scope, "sample_weight")
    np.testing.assert_allclose(weighted.mean(), reported, rtol=1e-5)


def test_a_loss_that_depends_on_the_whole_batch_is_of_the_whole_batch() -> None:
    """`samples=` cuts what is written, not what the loss is computed of."""

    def centred(y_true: Any, y_pred: Any) -> Any:
        return ops.mean((y_pred - ops.mean(y_pred, 0)) ** 2, -1)

    x, y = data()
    scope = fs.Scope(fs.record(fs.BATCH), fs.record(fs.BATCH, samples=3))
    few = fs.Scope(fs.record(fs.BATCH, samples=3))
    fit(classifier(centred), x, y, scope)
    fit(classifier(centred), x, y, few)
    predicted = one(scope, "y_pred")
    expected = ((predicted - predicted.mean(0)) ** 2).mean(-1)
    np.testing.assert_allclose(one(scope, "loss"), expected, rtol=1e-4)
    np.testing.assert_allclose(one(few, "loss"), expected[:3], rtol=1e-4)


def test_several_outputs() -> None:
    fresh()
    x = keras.Input((4,))
    outputs = {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(1, name="b")(x)}
    model = keras.Model(x, outputs)
    model.compile(
        "sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 0.5}, jit_compile=JIT
    )
    x, _ = data()
    y = {"a": x[:, :2] * 2, "b": x[:, :1] + 1}
    seen: list[fs.Event] = []
    scope = fs.Scope(fs.record(fs.BATCH), fs.stream(fs.BATCH, seen.append))
    reported = fit(model, x, y, scope)["loss"][0]
    a, b = one(scope, "y_pred[a]"), one(scope, "y_pred[b]")
    np.testing.assert_array_equal(one(scope, "y[a]"), y["a"])
    np.testing.assert_allclose(one(scope, "loss[a]"), ((a - y["a"]) ** 2).mean(-1), rtol=1e-4)
    np.testing.assert_allclose(one(scope, "loss[b]"), abs(b - y["b"]).mean(-1), rtol=1e-4)
    total = one(scope, "loss[a]").mean() + 0.5 * one(scope, "loss[b]").mean()
    np.testing.assert_allclose(total, reported, rtol=1e-4)
    batch = seen[0].batch
    np.testing.assert_array_equal(batch.loss["b"], one(scope, "loss[b]"))
    np.testing.assert_array_equal(batch.y_pred["a"], a)
    assert seen[0].values == {}


def test_masks() -> None:
    """What is masked counts as Keras counts it: not at all."""
    fresh()
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Embedding(7, 4, mask_zero=True, name="embedding"),
            layers.Dense(2, name="head"),
        ]
    )
    model.compile("sgd", "mse", jit_compile=JIT)
    x = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 0], [1, 1, 1, 1, 1]], "int32")
    y = np.random.default_rng(0).standard_normal((3, 5, 2)).astype("float32")
    scope = fs.Scope(fs.record(fs.BATCH))
    reported = fit(model, x, y, scope)["loss"][0]
    each = ((one(scope, "y_pred") - y) ** 2).mean(-1)
    np.testing.assert_array_equal(one(scope, "mask"), x != 0)
    np.testing.assert_allclose(one(scope, "loss"), np.where(x != 0, each, 0), rtol=1e-4)
    np.testing.assert_allclose(one(scope, "loss").sum() / (x != 0).sum(), reported, rtol=1e-4)


@pytest.mark.parametrize("select", ["head", None])
def test_sample_ids(select: str | None) -> None:
    fresh()
    features = keras.Input((4,), name="features")
    ids = keras.Input((), dtype="int32", name="id")
    model = keras.Model({"features": features, "id": ids}, layers.Dense(2, name="head")(features))
    model.compile("sgd", "mse", jit_compile=JIT)
    x, _ = data(20)
    given = {"features": x, "id": np.arange(100, 120, dtype="int32")}
    what = fs.BATCH if select is None else select
    scope = fs.Scope(fs.record(what, samples=3, sample_id="id"))
    fit(model, given, x[:, :2], scope, shuffle=True)
    other = "@batch/y" if select is None else "head"
    found = scope.run.join(["@batch/sample_id", other])
    assert len(found["step"]) == 9
    if select is None:
        np.testing.assert_array_equal(found[other], x[found["@batch/sample_id"] - 100, :2])
    scope = fs.Scope(fs.record(what, sample_id="number"))
    fit(model, given, x[:, :2], scope)
    (gap,) = [u for u in scope.unseen if u.site == "@batch/sample_id"]
    assert "nothing at 'number'; they are features, id" in gap.reason


class OwnLoss(keras.Model):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        return ops.mean(ops.abs(y_pred - y)) * 3


def test_where_the_loss_of_a_sample_cannot_be_had_it_is_said() -> None:
    x, _ = data()

    def reasons(model: Any) -> tuple[fs.Scope, str]:
        scope = fs.Scope(fs.record(fs.BATCH))
        fit(model, x, x[:, :2], scope)
        assert "@batch/loss" not in scope.run.recorded.names
        return scope, "".join(u.reason for u in scope.unseen if u.site == "@batch/loss")

    fresh()
    inputs = keras.Input((4,))
    model = OwnLoss(inputs, layers.Dense(2, name="head")(inputs))
    model.compile("sgd", "mse", jit_compile=JIT)
    scope, reason = reasons(model)
    assert "in a way of its own" in reason
    assert one(scope, "y_pred").shape == (8, 2)

    model = classifier(lambda y, p: ops.mean((p[:, :2] - y) ** 2))
    scope, reason = reasons(model)
    assert "gives (), not one number for each of the 8 samples" in reason


def test_a_step_that_calls_no_model() -> None:
    """A GAN's step calls its two halves only: x is there, the rest is said to be missing."""
    case = BY_NAME["gan"]
    model = case.make(jit_compile=JIT)
    x, y = case.data(8)
    scope = fs.Scope(fs.record(fs.BATCH))
    fit(model, x, y, scope)
    for name, rows in x.items():
        np.testing.assert_array_equal(one(scope, f"x[{name}]"), rows)
    (gap,) = [u for u in scope.unseen if u.site == "@batch/y_pred"]
    assert "compute_loss" in gap.remedy


def test_a_prediction_that_was_not_seen() -> None:
    """As where TensorFlow fuses it with what follows; the targets were."""
    model = classifier("sparse_categorical_crossentropy")
    x, y = data()
    tensors = [ops.convert_to_tensor(y)]
    kept = Kept((batch_site("y"),), tensors, (x, y), [slice(None)], [len(y)])
    batch = StepBatch(kept, model)
    assert not any(batch.losses.values())
    (gap,) = batch.unseen
    assert (gap.site, gap.reason) == (
        "@batch/loss", "the prediction that it is computed of was not seen",
    )  # fmt: skip


@pytest.mark.oldest_keras
def test_validation_and_prediction() -> None:
    x, y = data()
    model = classifier("sparse_categorical_crossentropy")
    scope = fs.Scope(fs.record(fs.BATCH, phases=["validation", "predict"]))
    reported = fit(model, x, y, scope, validation_data=(x, y), validation_batch_size=8)
    losses = scope.run.values("@batch/loss")
    assert losses.phases == ["validation"]
    np.testing.assert_allclose(losses[0].array.mean(), reported["val_loss"][0], rtol=1e-5)
    predicted = model.predict(x, batch_size=8, verbose=0, callbacks=[scope])
    found = scope.run.values("@batch/y_pred", phase="predict")
    np.testing.assert_allclose(found[0].array, predicted, rtol=1e-6)


@pytest.mark.parametrize("eagerly", [True, False])
def test_in_a_loop_of_ones_own_and_eagerly(eagerly: bool) -> None:
    """There the targets are NumPy's."""
    fresh()
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="head")(inputs))
    how = {"run_eagerly": True} if eagerly else {"jit_compile": JIT}
    model.compile("sgd", "mse", **how)
    x, _ = data()
    scope = fs.Scope(fs.record(["head", fs.BATCH]))
    with scope.attach(model):
        reported = [model.train_on_batch(x[:n], x[:n, :2]) for n in (4, 7)]
    for piece, loss in zip(scope.run.values("@batch/loss"), reported, strict=True):
        assert piece.rows == 4 + 3 * piece.step
        each = scope.run.values("head").at(piece.step).array - x[: piece.rows, :2]
        np.testing.assert_allclose(piece.array, (each**2).mean(-1), rtol=1e-4)
        if piece.step == 0:
            np.testing.assert_allclose(piece.array.mean(), loss, rtol=1e-4)
