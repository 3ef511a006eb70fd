"""`fs.tap`: tensors that no layer returns."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND

import fitscope as fs
from fitscope.engine import points

JIT = BACKEND == "jax"


class Attention(layers.Layer):
    """Scores that are computed inside `call` and given to nobody."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query = layers.Dense(3, name="query")
        self.key = layers.Dense(3, name="key")

    def build(self, shape: Any) -> None:
        self.query.build(shape)
        self.key.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        q, k = self.query(x), self.key(x)
        scores = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))))
        scores = fs.tap(scores, "scores")
        return ops.matmul(scores, x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


class Plain(Attention):
    def call(self, x: Any) -> Any:
        q, k = self.query(x), self.key(x)
        return ops.matmul(ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1)))), x)


def model_of(kind: type, **how: Any) -> Any:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(2)
    x = keras.Input((4, 5))
    attended = kind(name="attn")(x)
    twice = kind(name="attn2")(attended)
    model = keras.Model(x, layers.Dense(1, name="head")(twice))
    model.compile("sgd", "mse", jit_compile=how.pop("jit", JIT), **how)
    return model


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 4, 5)).astype("float32"), np.zeros((8, 4, 1), "float32")


def softmax_scores(layer: Any, x: Any) -> Any:
    """By NumPy, in double precision."""
    weights = [np.array(ops.convert_to_numpy(v), "float64") for v in layer.weights]
    q, k = x @ weights[0] + weights[1], x @ weights[2] + weights[3]
    raw = np.exp(q @ k.transpose(0, 2, 1))
    return raw / raw.sum(-1, keepdims=True)


@pytest.mark.oldest_keras
@pytest.mark.parametrize("jit", [True, False] if BACKEND == "tensorflow" else [JIT])
def test_a_tap_is_recorded_streamed_watched_and_captured(jit: bool) -> None:
    x, y = data()
    model = model_of(Attention, jit=jit)
    expected = softmax_scores(model.get_layer("attn"), x)
    _, taps = fs.capture(model, ops.convert_to_tensor(x), "*/scores")
    assert list(taps) == ["attn/scores", "attn2/scores"]
    np.testing.assert_allclose(ops.convert_to_numpy(taps["attn/scores"]), expected, rtol=1e-4)
    seen: list[fs.Event] = []
    scope = fs.Scope(
        fs.record("attn/scores", samples=3),
        fs.stream("**/scores", seen.append),
        fs.watch("attn2/scores"),
        every=1,
    )
    assert "attn2/scores" in str(scope.preview(model))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[scope])
    assert scope._session is not None
    assert scope._session.broken is None
    np.testing.assert_allclose(scope.run.values("attn/scores")[0].array, expected[:3], rtol=1e-4)
    np.testing.assert_allclose(seen[0].values["attn/scores"], expected, rtol=1e-4)
    mean = scope.latest()["attn2/scores"]["mean"]
    np.testing.assert_allclose(mean, seen[0].values["attn2/scores"].mean(), rtol=1e-5)
    assert not points._running


def test_a_tap_changes_nothing() -> None:
    x, y = data()

    def weights(kind: type, scope: Any = None) -> list[bytes]:
        model = model_of(kind)
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[scope] if scope else [])
        return [np.asarray(ops.convert_to_numpy(v)).tobytes() for v in model.weights]

    plain = weights(Plain)
    assert weights(Attention) == plain
    assert weights(Attention, fs.Scope(fs.record("*/scores"), every=1)) == plain


def test_a_name_that_no_tap_has() -> None:
    x, y = data()
    with pytest.raises(fs.SelectionError, match=r"scoers.*attn/scores"):
        model_of(Attention).fit(x, y, verbose=0, callbacks=[fs.Scope(fs.record("*/scoers"))])
    with pytest.raises(fs.SelectionError, match=r"tap\(\.\.\., ''\)"):
        fs.tap(x, "")


class Loop(layers.Layer):
    """A tap inside a loop, of what may not leave it, and one beside."""

    def call(self, x: Any) -> Any:
        def body(i: Any, total: Any) -> Any:
            return i + 1, fs.tap(total + x, "inside")

        _, total = ops.while_loop(lambda i, _: i < 3, body, (0, fs.tap(x * 2.0, "name")))
        return fs.tap({"sum": total, "pair": [x, x]}, "tree")["sum"]


class Named(layers.Layer):
    """A layer of the tap's own name."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = layers.Dense(5, name="name")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return fs.tap(self.inner(x), "name") + fs.tap(x, "name")


def test_places_of_taps() -> None:
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((5,))
    model = keras.Model(x, Named(name="named")(Loop(name="loop")(x)))
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    scope = fs.Scope(fs.record(["**/name*", "loop/*"]))
    rows = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    model.fit(rows, rows, verbose=0, callbacks=[scope], shuffle=False)
    assert scope._session is not None
    assert scope._session.broken is None
    names = scope.run.recorded.names
    assert {"loop/name", "named/name", "named/name~2#0", "named/name~2#1"} <= set(names)
    assert {"loop/tree[sum]", "loop/tree[pair][0]", "loop/tree[pair][1]"} <= set(names)
    np.testing.assert_allclose(scope.run.values("loop/name")[0].array, rows * 2)
    if BACKEND != "torch":  # whose loops are Python's
        assert [u.site for u in scope.unseen] == ["loop/inside"]


class OwnLoss(keras.Model):
    """A tap where no layer is called."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        error = fs.tap(y_pred - y, "error")
        return ops.mean(error**2)


def test_a_tap_in_a_step_of_ones_own() -> None:
    keras.utils.clear_session(free_memory=False)
    x = keras.Input((4, 5))
    model = OwnLoss(x, layers.Dense(1, name="head")(x))
    model.compile("sgd", jit_compile=BACKEND != "torch")
    rows, targets = data()
    scope = fs.Scope(fs.record(["error", "head"]), fs.record("eror"))
    model.fit(rows, targets + 1, batch_size=8, shuffle=False, verbose=0, callbacks=[scope])
    expected = scope.run.values("head")[0].array - 1
    np.testing.assert_allclose(scope.run.values("error")[0].array, expected, rtol=1e-6)
    (gap,) = scope.unseen
    assert gap.site == "select('eror')"
    assert "no fs.tap" in gap.reason
