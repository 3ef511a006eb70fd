"""What TensorFlow alone has: strategies, and a step that is traced in two parts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitscope as fs

pytestmark = pytest.mark.backends("tensorflow")


def _model() -> Any:
    x = keras.Input((40, 40, 1))
    y = layers.Conv2D(4, 3, activation="relu", name="conv")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.GlobalAveragePooling2D(name="pool")(layers.Dropout(0.2, seed=1, name="drop")(y))
    return keras.Model(x, layers.Dense(1, activation="tanh", name="out")(y))


def _fit(
    scope: Any | None, strategy: Any | None = None, *, jit: bool = True, checked: bool = True
) -> list[Any]:
    keras.utils.set_random_seed(4)
    x = np.random.default_rng(0).standard_normal((20, 40, 40, 1)).astype("float32")
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = _model()
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit)
    history = model.fit(
        x, x[:, 0, 0], batch_size=8, epochs=2, verbose=0, callbacks=[scope] if scope else []
    )
    if scope and checked:
        assert scope._session.broken is None, scope._session.broken
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables), history.history]


def _table(scope: Any) -> dict[Any, float]:
    rows = scope.run.stats("**", ["mean", "std", "zeros", "min", "max", "q50", "dead_units"])
    return {(r["step"], r["site"], r["statistic"]): r["value"] for r in rows}


def _same(a: list[Any], b: list[Any]) -> None:
    assert a[-1] == b[-1]
    for mine, theirs in zip(a[:-1], b[:-1], strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("jit", [True, False])
def test_a_strategy_of_one_device(jit: bool) -> None:
    import tensorflow as tf

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with_strategy, without = fs.Scope(every=1), fs.Scope(every=1)
    _same(_fit(with_strategy, strategy, jit=jit), _fit(None, strategy, jit=jit))
    _same(_fit(without, jit=jit), _fit(None, jit=jit))
    mine, theirs = _table(with_strategy), _table(without)
    assert mine == theirs
    assert len(mine) == 6 * 7 * len(with_strategy.run.sites)


def test_a_strategy_that_synchronizes_needs_no_xla() -> None:
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(["/cpu:0"])
    scope = fs.Scope(every=1)
    _same(_fit(scope, strategy, jit=False), _fit(None, strategy, jit=False))
    assert _table(scope)
    with pytest.warns(RuntimeWarning, match="under MirroredStrategy.*jit_compile=False"):
        _fit(fs.Scope(every=1), strategy, checked=False)


_TWO_REPLICAS = """
import warnings
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import fitscope as fs

def fit(scope):
    keras.utils.set_random_seed(1)
    with tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]).scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden")])
        model.compile("sgd", "mse")
    x = np.arange(32, dtype="float32").reshape(8, 4) / 32
    model.fit(x, x[:, :3], batch_size=4, verbose=0, callbacks=[scope] if scope else [])
    return model.get_weights()

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    watched = fit(fs.Scope(every=1))
assert all((a == b).all() for a, b in zip(watched, fit(None)))
print([str(w.message) for w in told if "fitscope" in str(w.message)])
"""


def test_several_replicas_train_unobserved() -> None:
    """In a process of its own: the devices are fixed when TensorFlow starts."""
    done = subprocess.run(
        [sys.executable, "-c", _TWO_REPLICAS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "on 2 replicas (MirroredStrategy) yet. Train on one device to observe" in done.stdout


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("place", ["TensorFlowEngine._measurable", "Ring.write"])
def test_what_fails_in_our_part_of_a_step_leaves_the_step_whole(
    place: str, jit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitscope.engine import tensorflow_engine, tensorflow_ring

    holder, _, method = place.partition(".")
    module = tensorflow_ring if holder == "Ring" else tensorflow_engine

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no space in our part")

    monkeypatch.setattr(getattr(module, holder), method, fail)
    scope = fs.Scope(every=1)
    keras.utils.set_random_seed(4)
    model = _model()
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=jit)
    x = np.random.default_rng(0).standard_normal((20, 40, 40, 1)).astype("float32")
    with pytest.warns(RuntimeWarning, match="no space in our part"):
        history = model.fit(
            x, x[:, 0, 0], batch_size=8, epochs=2, verbose=0, callbacks=[scope]
        ).history
    monkeypatch.undo()
    plain = _fit(None, jit=jit)
    assert history == plain[-1]
    _same([*model.get_weights(), *(v.numpy() for v in model.optimizer.variables), history], plain)


def _stored(make: Any, *shapes: Any, dtype: str = "float32") -> list[bool]:
    """Whether what `make` gives first is stored, of tensors of these shapes."""
    import tensorflow as tf

    from fitscope.engine.tensorflow_stored import Stored

    found = []

    def step(*tensors: Any) -> Any:
        x, outputs = make(*tensors)
        found.append(x in Stored(x.graph, outputs))
        return outputs

    tf.function(step, autograph=False).get_concrete_function(
        *(tf.TensorSpec(shape, dtype) for shape in shapes)
    )
    return found


def test_what_goes_into_a_matrix_product_is_stored() -> None:
    import tensorflow as tf

    def product(x: Any, w: Any, **how: Any) -> Any:
        y = tf.nn.relu(x)
        return y, [tf.matmul(tf.reshape(y, [-1, y.shape[-1]]), w, **how)]

    def dropped(x: Any, w: Any) -> Any:
        y = tf.nn.relu(x)
        tf.matmul(y, w)
        return y, [y + 1]

    assert _stored(product, (8, 4), (4, 3)) == [True]
    assert _stored(product, (None, 5, 4), (4, 3)) == [True]
    assert _stored(product, (8, 4), (4, 1)) == [False]  # with a vector: a loop
    assert _stored(product, (8, 1), (1, 3)) == [False]  # of two vectors
    assert _stored(product, (8, 4), (4, 3), dtype="float16") == [False]  # is converted
    assert _stored(dropped, (8, 4), (4, 3)) == [False]  # not in the program
    assert _stored(lambda x, w: (x, [x * w]), (4, 4), (4, 4)) == [False]

    def summed_over_batch(x: Any, g: Any) -> Any:
        y = tf.nn.relu(x)
        return y, [tf.matmul(y, g, transpose_a=True)]

    assert _stored(summed_over_batch, (8, 4), (8, 3)) == [True]
    assert _stored(summed_over_batch, (None, 4), (None, 3)) == [False]  # may be a batch of one


def test_one_tensor_of_two_layers_is_measured_for_both() -> None:
    """An attention block puts out what its last inner layer does, large enough to be swept."""
    x = keras.Input((16, 64))
    y = layers.MultiHeadAttention(2, 8, name="attention")(x, x)
    model = keras.Model(x, layers.Dense(1, name="out")(y))
    model.compile("sgd", "mse", jit_compile=True)
    scope = fs.Scope(fs.watch("**", of=["output", "gradient"]), every=1)
    data = np.random.default_rng(0).standard_normal((16, 16, 64)).astype("float32")
    model.fit(data, data[:, :, :1], batch_size=16, verbose=0, callbacks=[scope])
    latest = scope.latest()
    for port in ("", ":gradient"):
        outer, inner = latest[f"attention{port}"], latest[f"attention/attention_output{port}"]
        assert outer["count"] == 16 * 16 * 64
        assert outer["histogram"].sum() > 0
        for name in outer:
            np.testing.assert_array_equal(outer[name], inner[name])
