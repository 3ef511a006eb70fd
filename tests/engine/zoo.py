"""Small models of every kind that a scope must see truly and leave alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from custom_steps import BACKEND, CustomStep, Gan
from keras import layers, ops

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, what it is trained on, and how."""

    name: str
    build: Callable[[], Any]
    data: Callable[[int], tuple[Any, Any]]
    loss: Any = "mse"
    metrics: tuple[Any, ...] = ()
    half: bool = False
    evaluates: bool = True
    plain_adam: bool = True
    """Whether the optimizer is one that the test may choose."""
    optimizer: Callable[[], Any] = lambda: keras.optimizers.SGD(0.05, momentum=0.9)
    """Makes the optimizer where the test chooses none."""

    def make(self, *, optimizer: Any = None, **compile_arguments: Any) -> Any:
        """The compiled model, the same at every call, names and seeds included."""
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(11)
        model = self.build()
        if isinstance(model, Gan):
            model.compile(**compile_arguments)
            return model
        model.compile(
            optimizer=optimizer or self.optimizer(),
            loss=self.loss,
            metrics=[m() if isinstance(m, type) else m for m in self.metrics] or None,
            **compile_arguments,
        )
        return model


def rows(x: Any, start: int, stop: int) -> Any:
    return keras.tree.map_structure(lambda a: a[start:stop], x)


def _normal(*shape: int, scale: float = 1.0) -> Callable[[int], Any]:
    def data(n: int) -> Any:
        rng = np.random.default_rng(3)
        return (scale * rng.standard_normal((n, *shape))).astype("float32")

    return data


def _regression(*shape: int, out: int = 2) -> Callable[[int], tuple[Any, Any]]:
    def data(n: int) -> tuple[Any, Any]:
        return _normal(*shape)(n), _normal(out)(n)[:, ::-1].copy()

    return data


def _tokens(n: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(4)
    x = rng.integers(1, 12, (n, 6)).astype("int32")
    for row, length in enumerate(rng.integers(2, 7, n)):
        x[row, length:] = 0
    return x, rng.standard_normal((n, 2)).astype("float32")


def sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(7, activation="relu", name="first"),
            layers.Dense(6, activation="tanh", name="second"),
            layers.Dense(5, activation="sigmoid", name="third"),
            layers.Activation("gelu", name="fourth"),
            layers.Dense(2, name="last"),
        ],
        name="plain",
    )


def branches() -> Any:
    x = keras.Input((5,))
    a = layers.Dense(6, name="a")(x)
    b = layers.Dense(6, activation="tanh", name="b")(x)
    c = ops.relu(a + b) * 2.0
    d = layers.Concatenate(name="joined")([a, c])
    e = layers.Dense(2, name="out")(d)
    return keras.Model(x, e, name="branches")


class Block(layers.Layer):
    """A residual block; the third level down is where names are told apart."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.inner = layers.Dense(units, activation="relu", name="inner")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape: Any) -> None:
        self.inner.build(shape)
        self.norm.build((*shape[:-1], self.units))
        self.built = True

    def call(self, x: Any) -> Any:
        return self.norm(x + self.inner(x))

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stem = layers.Dense(6, name="stem")
        self.blocks = [Block(6, name=f"block_{i}") for i in range(2)]
        self.drop = layers.Dropout(0.3, seed=7, name="drop")
        self.head = layers.Dense(2, name="head")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x, training=training))


def subclassed() -> Any:
    model = Subclassed(name="subclassed")
    model(np.zeros((1, 5), "float32"))
    return model


class Attention(layers.Layer):
    """A Dense inside an attention block inside a block."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.query = layers.Dense(width, name="query")
        self.key = layers.Dense(width, name="key")

    def build(self, shape: Any) -> None:
        self.query.build(shape)
        self.key.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        score = ops.matmul(self.query(x), ops.transpose(self.key(x), (0, 2, 1)))
        return ops.matmul(ops.softmax(score), x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


class AttentionBlock(layers.Layer):
    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = Attention(width, name="attention")
        self.mlp = keras.Sequential(
            [
                layers.Dense(2 * width, activation="gelu", name="up"),
                layers.Dense(width, name="down"),
            ],
            name="mlp",
        )

    def build(self, shape: Any) -> None:
        self.attention.build(shape)
        self.mlp.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        x = x + self.attention(x)
        return x + self.mlp(x)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def nested() -> Any:
    inputs = keras.Input((3, 4))
    stem = keras.Sequential(
        [
            keras.Input((3, 4)),
            layers.Dense(4, activation="relu", name="a"),
            layers.Dense(4, name="b"),
        ],
        name="stem",
    )
    x = AttentionBlock(4, name="block")(stem(inputs))
    inner_in = keras.Input((3, 4))
    inner = keras.Model(inner_in, layers.Dense(3, name="b")(inner_in) * 0.5, name="inner")
    x = layers.Flatten(name="flat")(inner(x))
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="nested")


def siamese() -> Any:
    a, b = keras.Input((5,), name="left"), keras.Input((5,), name="right")
    tower = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="relu", name="in_tower"),
            layers.Dropout(0.2, seed=3, name="drop"),
        ],
        name="tower",
    )
    shared = layers.Dense(4, activation="tanh", name="shared")
    x = layers.Subtract(name="difference")([shared(tower(a)), shared(tower(b))])
    return keras.Model([a, b], layers.Dense(2, name="out")(x), name="siamese")


def _pairs(n: int) -> tuple[Any, Any]:
    x = _normal(2, 5)(n)
    return [x[:, 0].copy(), x[:, 1].copy()], _normal(2)(n)


def convolutions() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(max_value=6.0, name="act"),
            layers.MaxPooling2D(name="pool"),
            layers.SeparableConv2D(4, 3, activation="relu", name="separable"),
            layers.Dropout(0.4, seed=9, name="drop"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(2, name="out"),
        ],
        name="convolutions",
    )


def channels_first() -> Any:
    return keras.Sequential(
        [
            keras.Input((2, 6, 6)),
            layers.Conv2D(
                4, 3, activation="relu", data_format="channels_first", name="conv",
                bias_initializer=keras.initializers.RandomNormal(seed=1, stddev=3.0),
            ),
            layers.MaxPooling2D(data_format="channels_first", name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="out"),
        ],
        name="first",
    )  # fmt: skip


def recurrent() -> Any:
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(12, 4, mask_zero=True, name="words")(x)
    y = layers.LSTM(5, return_sequences=True, name="lstm")(y)
    out, state = layers.GRU(4, return_state=True, name="gru")(y)
    y = layers.Concatenate(name="both")([out, state])
    return keras.Model(x, layers.Dense(2, name="out")(y), name="recurrent")


def transformer() -> Any:
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(12, 8, name="words")(x)
    a = layers.MultiHeadAttention(2, 4, dropout=0.1, seed=2, name="attention")(y, y)
    y = layers.LayerNormalization(name="norm_1")(layers.Add(name="skip_1")([y, a]))
    f = layers.Dense(12, activation="gelu", name="up")(y)
    f = layers.Dense(8, name="down")(f)
    y = layers.LayerNormalization(name="norm_2")(layers.Add(name="skip_2")([y, f]))
    y = layers.GlobalAveragePooling1D(name="pool")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="transformer")


class Fork(layers.Layer):
    """Gives back a tree of tensors."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, activation="tanh", name="dense")

    def build(self, shape: Any) -> None:
        self.dense.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        y = self.dense(x)
        return {"y": y, "parts": [y * 2.0, (x, -y)]}


class Trees(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fork = Fork(name="fork")
        self.head = layers.Dense(2, name="head")

    def call(self, x: Any) -> Any:
        tree = self.fork(x)
        return self.head(tree["y"] + tree["parts"][0] + tree["parts"][1][1])


def trees() -> Any:
    model = Trees(name="trees")
    model(np.zeros((1, 4), "float32"))
    return model


def two_outputs() -> Any:
    x = keras.Input((5,), name="x")
    y = layers.Dense(6, activation="relu", name="body")(x)
    outputs = {
        "logits": layers.Dense(2, name="logits")(y),
        "value": layers.Dense(1, activation="sigmoid", name="value")(y),
    }
    return keras.Model({"x": x}, outputs, name="two")


def _two(n: int) -> tuple[Any, Any]:
    return {"x": _normal(5)(n)}, {"logits": _normal(2)(n), "value": np.abs(_normal(1)(n))}


def noisy() -> Any:
    return keras.Sequential(
        [
            keras.Input((4, 4)),
            layers.GaussianNoise(0.5, seed=1, name="noise"),
            layers.Dense(4, activation="relu", name="dense"),
            layers.SpatialDropout1D(0.4, seed=2, name="spatial"),
            layers.Dropout(0.3, name="drop"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="out"),
        ],
        name="noisy",
    )


def frozen() -> Any:
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="relu", name="fixed"),
            layers.BatchNormalization(name="fixed_norm"),
            layers.Dense(2, name="out"),
        ],
        name="frozen",
    )
    model.get_layer("fixed").trainable = False
    model.get_layer("fixed_norm").trainable = False
    return model


def mixed(policy: str) -> Callable[[], Any]:
    def build() -> Any:
        x = keras.Input((6, 6, 2))
        y = layers.Conv2D(4, 3, dtype=policy, name="conv")(x)
        y = layers.BatchNormalization(dtype=policy, name="norm")(y)
        y = layers.Activation("relu", dtype=policy, name="act")(y)
        y = layers.Flatten(dtype=policy, name="flat")(y)
        y = layers.Dense(6, activation="tanh", dtype=policy, name="dense")(y)
        y = layers.Dropout(0.2, seed=4, dtype=policy, name="drop")(y)
        return keras.Model(x, layers.Dense(2, dtype="float32", name="out")(y), name="mixed")

    return build


def custom_step() -> Any:
    x = keras.Input((5,))
    y = layers.Dense(6, activation="relu", name="body")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.Dropout(0.3, seed=6, name="drop")(y)
    return CustomStep(x, layers.Dense(2, name="out")(y), name="custom")


def _gan_data(n: int) -> tuple[Any, Any]:
    noise = _normal(3)(n)
    return {"real": _normal(4)(n) + 1.0, "noise": noise}, None


def regularized() -> Any:
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, activation="relu", activity_regularizer="l2", name="active"),
            layers.Dense(6, kernel_regularizer="l1", name="kernel"),
            layers.ActivityRegularization(l1=0.01, name="activity"),
            layers.Dense(2, activation="softmax", name="out"),
        ],
        name="regularized",
    )


class Bias(keras.metrics.Metric):
    """A metric with state of its own."""

    def __init__(self, name: str = "bias", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_pred = ops.stop_gradient(ops.convert_to_tensor(y_pred))
        y_true = ops.convert_to_tensor(y_true)
        self.total.assign_add(ops.sum(y_pred - y_true))
        self.count.assign_add(ops.cast(ops.shape(y_pred)[0], "float32"))

    def result(self) -> Any:
        return self.total / (self.count + 1e-7)


class Strongest(layers.Layer):
    """Gives back whole numbers."""

    def call(self, x: Any) -> Any:
        return ops.argmax(x, axis=-1)

    def compute_output_shape(self, shape: Any) -> Any:
        return shape[:-1]

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape[:-1], dtype="int32")


def integers() -> Any:
    x = keras.Input((5,))
    y = Strongest(name="strongest")(x)
    y = layers.Embedding(5, 4, name="words")(y)
    return keras.Model(x, layers.Dense(2, name="out")(y), name="integers")


ALL: tuple[Case, ...] = (
    Case("sequential", sequential, _regression(5)),
    Case("branches", branches, _regression(5)),
    Case("subclassed", subclassed, _regression(5)),
    Case("nested", nested, _regression(3, 4)),
    Case("siamese", siamese, _pairs),
    Case("convolutions", convolutions, _regression(8, 8, 2)),
    Case("channels_first", channels_first, _regression(2, 6, 6)),
    Case("recurrent", recurrent, _tokens),
    Case("transformer", transformer, _tokens),
    Case("trees", trees, _regression(4)),
    Case("two_outputs", two_outputs, _two, loss={"logits": "mse", "value": "mae"}),
    Case("noisy", noisy, _regression(4, 4)),
    Case("frozen", frozen, _regression(5)),
    Case("mixed_float16", mixed("mixed_float16"), _regression(6, 6, 2), half=True),
    Case("mixed_bfloat16", mixed("mixed_bfloat16"), _regression(6, 6, 2), half=True),
    Case("custom_step", custom_step, _regression(5), metrics=("mae",)),
    Case("gan", Gan, _gan_data, evaluates=False, plain_adam=False),
    Case("regularized", regularized, _regression(5)),
    Case("custom_metric", sequential, _regression(5), metrics=(Bias, "mae")),
    Case("integers", integers, _regression(5)),
)

# Without jit, JAX compiles every operation by itself, which takes long: a few models stand for all.
_EAGER_ON_JAX = ("sequential", "noisy", "custom_step", "gan")
SETTINGS: tuple[tuple[Case, bool], ...] = tuple(
    (case, jit)
    for case in ALL
    for jit in (True, False)
    if (not jit or BACKEND != "torch") and (jit or BACKEND != "jax" or case.name in _EAGER_ON_JAX)
    # Without XLA, TensorFlow itself trains no channels_first convolution on every CPU.
    if jit or BACKEND != "tensorflow" or case.name != "channels_first"
)
"""Models with and without `jit_compile`. torch runs eagerly: inductor needs a C++ compiler."""

_DAILY = {
    ("jax", True): (
        "branches", "subclassed", "convolutions", "recurrent", "transformer", "frozen", "noisy",
        "mixed_float16", "gan", "regularized",
    ),
    ("jax", False): ("custom_step",),
    ("tensorflow", True): ("sequential", "convolutions", "custom_step"),
    ("tensorflow", False): (
        "sequential", "nested", "convolutions", "recurrent", "transformer", "mixed_float16",
        "custom_step", "gan",
    ),
}  # fmt: skip
"""Each is trained twice and compiled as often: what `make test` has the time for."""

COMPARED: tuple[tuple[Case, bool], ...] = tuple(
    (case, jit)
    for case, jit in SETTINGS
    if os.environ.get("FITSCOPE_TEST_ALL")
    or case.name in _DAILY.get((BACKEND, jit), [c.name for c in ALL])
)
"""Models whose training is compared bit for bit; all of them on torch, and with `make test-all`."""

VALIDATED = ("convolutions", "noisy", "recurrent", "custom_step", "mixed_float16", "two_outputs")
"""Trained with validation data; each costs the compilation of another function."""


def setting_id(value: Any) -> str:
    return value.name if isinstance(value, Case) else "jit" if value else "nojit"


BY_NAME = {case.name: case for case in ALL}

__all__ = [
    "ALL", "BACKEND", "BATCH", "BY_NAME", "COMPARED", "SETTINGS", "VALIDATED", "Case", "rows",
    "setting_id",
]  # fmt: skip
