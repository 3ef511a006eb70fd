"""Objectives are part of the loss of the very pass that is trained, as add_loss is."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND, BATCH, BY_NAME

import fitscope as fs

JIT = BACKEND == "jax"
N = 3 * BATCH


def size(x):
    return ops.mean(ops.square(x))


def apart(a, b):
    return ops.mean(ops.square(a[:, :5] - b[:, :5]))


class AddsLoss(keras.Model):
    """The objectives of the tests, written into a model by hand."""

    def __init__(self, losses, dtype=None, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(7, activation="relu", dtype=dtype, name="first")
        self.drop = layers.Dropout(0.3, seed=5, dtype=dtype, name="drop")
        self.second = layers.Dense(6, activation="tanh", dtype=dtype, name="second")
        self.last = layers.Dense(2, dtype="float32", name="last")
        self.losses_by_hand = losses

    def call(self, x, training=False):
        a = self.drop(self.first(x), training=training)
        b = self.second(a)
        for weight, function in self.losses_by_hand:
            self.add_loss(weight * function(ops.cast(a, "float32"), ops.cast(b, "float32")))
        return self.last(b)


def data():
    rng = np.random.default_rng(2)
    return (
        rng.standard_normal((N, 5)).astype("float32"),
        rng.standard_normal((N, 2)).astype("float32"),
    )


def trained(losses=(), scope=None, *, dtype=None, validate=False, **compiled):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(4)
    model = AddsLoss(losses, dtype, name="student")
    model(np.zeros((1, 5), "float32"))
    model.compile("sgd", "mse", **{"jit_compile": JIT, **compiled})
    x, y = data()
    history = model.fit(
        x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0,
        validation_data=(x, y) if validate else None,
        callbacks=[] if scope is None else [scope],
    ).history  # fmt: skip
    return history, model.get_weights(), model


def assert_same(one, other, rtol=1e-6):
    assert one[0].keys() == other[0].keys()
    for name, values in one[0].items():
        np.testing.assert_allclose(values, other[0][name], rtol=rtol, err_msg=name)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def test_an_objective_is_as_add_loss_in_the_model():
    scope = fs.Scope(
        fs.objective("second", size, weight=0.3),
        fs.objective(["drop", "second"], apart, weight=0.7, name="apart"),
        every=2,
    )
    found = trained((), scope, validate=True)
    losses = [(0.3, lambda a, b: size(b)), (0.7, apart)]
    assert_same(found, trained(losses, validate=True))
    seen = scope.run.stats("@objective/*", "mean").to_pandas()
    assert sorted(set(seen["site"])) == ["@objective/apart", "@objective/size"]
    own = seen[(seen["site"] == "@objective/size") & (seen["phase"] == "train")]
    assert sorted(own["step"]) == [0, 2, 4]


@pytest.mark.backends("jax", "tensorflow")
def test_several_steps_in_one_execution():
    how = {"steps_per_execution": 2}
    scope = fs.Scope(fs.objective("second", size, weight=0.3), fs.watch("second"), every=2)
    assert_same(trained((), scope, **how), trained([(0.3, lambda a, b: size(b))], **how))


def test_in_half_precision_the_function_is_given_float32():
    def checked(x):
        assert keras.backend.standardize_dtype(x.dtype) == "float32"
        return ops.mean(ops.square(x * 1000.0))  # beyond float16

    scope = fs.Scope(fs.objective("second", checked, weight=1e-6))
    losses = [(1e-6, lambda a, b: ops.mean(ops.square(b * 1000.0)))]
    found = trained((), scope, dtype="mixed_float16")
    assert_same(found, trained(losses, dtype="mixed_float16"), rtol=1e-4)


def test_in_a_train_step_of_ones_own():
    case = BY_NAME["custom_step"]
    x, y = case.data(N)
    losses = []
    for weight in (0.0, 0.5):
        model = case.make(jit_compile=JIT)
        scope = fs.Scope(fs.objective("norm", size, weight=weight), every=1)
        history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[scope])
        losses.append((history.history["loss"][0], scope))
    first = (
        scope.run.stats("@objective/size", "mean", steps=slice(0, 1)).to_pandas()["value"].item()
    )
    assert losses[1][0] > losses[0][0] + 0.25 * 0.5 * first


def test_the_value_is_that_of_the_step_and_the_total_has_it():
    scope = fs.Scope(fs.objective("second", size, weight=0.25), fs.watch("second"), every=1)
    weighted = trained((), scope)[0]["loss"]
    values = scope.run.stats("@objective/size", "mean").to_pandas().set_index("step")["value"]
    rms = scope.run.stats("second", "rms").to_pandas().set_index("step")["value"]
    np.testing.assert_allclose(values, rms**2, rtol=1e-5)
    assert weighted[0] > 0.25 * values[:3].mean()


def test_a_schedule_and_a_strength_by_hand():
    plain = trained()
    off = fs.Scope(fs.objective("second", size, when=fs.epochs(5)))
    found = trained((), off)
    for a, b in zip(found[1], plain[1], strict=True):
        np.testing.assert_array_equal(a, b)
    half = fs.Scope(
        fs.objective("second", size, weight=0.6, when=fs.ramp(0.5, 0.5, epochs=(0, 1))),
        fs.objective("drop", size, name="never", when=fs.epochs(8)),
    )
    assert_same(trained((), half), trained([(0.3, lambda a, b: size(b))]))


def test_an_objective_that_is_off_has_no_value():
    scope = fs.Scope(
        fs.edit("second", fs.Scale(2.0)),
        fs.objective("second", size, when=fs.epochs(1, 2)),
        fs.watch("second"),
        every=1,
    )
    trained((), scope)
    seen = scope.run.stats("@objective/size", "mean").to_pandas()
    assert sorted(seen["step"]) == [3, 4, 5]
    assert (seen["value"] > 0).all()


def test_a_teacher_that_shares_layers_is_refused():
    keras.utils.set_random_seed(4)
    x = keras.Input((5,))
    h = layers.Dense(3, name="h")(x)
    model = keras.Model(x, layers.Dense(2)(h))
    model.compile("sgd", "mse", jit_compile=JIT)
    scope = fs.Scope(
        fs.objective("h", apart, name="match", teacher=keras.Model(x, h), teacher_sites="h")
    )
    with pytest.raises(fs.EditError, match="shares layers"):
        model.fit(*data(), verbose=0, callbacks=[scope])


def teacher_model():
    keras.utils.set_random_seed(9)
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="tanh", name="hint"),
            layers.Dropout(0.9, name="off"),
            layers.Dense(2, name="out"),
        ],
        name="teacher",
    )


def test_a_teacher_runs_in_inference_and_is_not_trained():
    teacher = teacher_model()
    before = [np.array(w) for w in teacher.get_weights()]
    kernel, bias = before[:2]

    def near(student, hint):
        return ops.mean(ops.square(student - hint))

    scope = fs.Scope(
        fs.objective("second", near, weight=0.4, teacher=teacher, teacher_sites="off"), every=1
    )
    found = trained((), scope)
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(found[2].weights) == 6

    class ByHand(AddsLoss):
        def call(self, x, training=False):
            hint = ops.tanh(x @ ops.convert_to_tensor(kernel) + ops.convert_to_tensor(bias))
            self.losses_by_hand = [(0.4, lambda a, b: near(b, hint))]
            return super().call(x, training=training)

    globals()["AddsLoss"], original = ByHand, AddsLoss
    try:
        assert_same(found, trained())
    finally:
        globals()["AddsLoss"] = original


class WithoutComputeLoss(keras.Sequential):
    """A step that computes its loss by itself."""

    def compute_loss_of_its_own(self, y, y_pred):
        return ops.mean(ops.square(y - y_pred))

    if BACKEND == "jax":

        def train_step(self, state, data):
            x, y = data
            y_pred, fixed = self.stateless_call(state[0], state[1], x, training=True)
            loss = self.compute_loss_of_its_own(y, y_pred)
            return {"loss": loss}, (state[0], fixed, state[2], state[3])

    else:

        def train_step(self, data):
            x, y = data
            y_pred = self(x, training=True)
            return {"loss": self.compute_loss_of_its_own(ops.convert_to_tensor(y), y_pred)}


def test_a_step_without_compute_loss_is_told():
    model = WithoutComputeLoss([keras.Input((5,)), layers.Dense(2, name="out")])
    model.compile("sgd", "mse", jit_compile=JIT)
    x, y = data()
    with pytest.raises(fs.EditError, match=r"never called compute_loss.*self\.compute_loss"):
        model.fit(
            x, y, batch_size=BATCH, verbose=0, callbacks=[fs.Scope(fs.objective("out", size))]
        )


@pytest.mark.parametrize(
    ("sites", "function", "error", "says"),
    [
        ("secnd", size, fs.SelectionError, "second"),
        ("second", lambda x: x, fs.EditError, r"shape \(\?, 6\); expected a scalar"),
        ("second", lambda x: ops.mean(x @ x), fs.EditError, r"computed of .* shape \(\?, 6\): "),
        ("second", lambda x, y: ops.mean(x), fs.EditError, r"computed of .* shape \(\?, 6\): "),
        ("second", lambda x: 0.5, fs.EditError, "gave a float"),
    ],
)
def test_what_is_no_objective_is_told_before_the_first_step(sites, function, error, says):
    with pytest.raises(error, match=says):
        trained((), fs.Scope(fs.objective(sites, function)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fs.objective("a", 3), "expected a function"),
        (lambda: fs.objective("a", size, weight="b"), "expected a number"),
        (lambda: fs.objective([], size), "one or more selections"),
        (lambda: fs.objective(fs.BATCH, size), "layers' outputs"),
        (lambda: fs.objective("a", size, phases="predict"), "no loss is computed"),
        (lambda: fs.objective("a", size, teacher_sites="b"), "both of them"),
        (lambda: fs.objective("a", size, teacher=3, teacher_sites="b"), "built keras.Model"),
    ],
)
def test_what_objective_does_not_accept(make, says):
    with pytest.raises(fs.EditError, match=says):
        make()
