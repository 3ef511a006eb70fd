"""Capsules of many kinds of models: the step again makes the weights that the training made.

Each model is trained three times: alone, with a capsule, and from what the capsule kept. All three
have to come to the same variables, to the last bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from custom_steps import CustomStep, Gan
from keras import layers, ops

import fitscope as fs
from fitscope.capsules import file
from fitscope.capsules.replay import Random, batches_of, made_again, rebuild, replay
from fitscope.engine.state import State

BACKEND = keras.backend.backend()
BATCH, AT = 8, 3
N = 4 * BATCH + 4
"""Samples: the last batch is a short one."""


@keras.saving.register_keras_serializable("capsule_models")
class Block(layers.Layer):
    """Layers inside a layer."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, name="dense")
        self.drop = layers.Dropout(0.5, name="drop")

    def build(self, shape: Any) -> None:
        self.dense.build(shape)
        self.built = True

    def call(self, x: Any, training: bool = False) -> Any:
        return self.drop(self.dense(x), training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("capsule_models")
class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, units: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.block = Block(units, name="block")
        self.head = layers.Dense(2, name="out")

    def call(self, x: Any, training: bool = False) -> Any:
        return self.head(self.block(x, training=training))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("capsule_models")
class Stepping(CustomStep):
    """A functional model with a train_step of its own."""


def arrays() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1.5, (N, 4)).astype("float32")
    return x, random.standard_normal((N, 2)).astype("float32")


def chain(*inner: Any, shape: Any = (4,), **settings: Any) -> Any:
    head = layers.Dense(2, name="out", dtype="float32")
    return compiled(keras.Sequential([keras.Input(shape), *inner, head], name="net"), **settings)


def compiled(model: Any, **settings: Any) -> Any:
    chosen: dict[str, Any] = {"optimizer": keras.optimizers.Adam(0.01), "loss": "mse"}
    model.compile(**{**chosen, "jit_compile": False, **settings})
    return model


def batch_normalization() -> Any:
    return chain(layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5))


def nested_and_reused() -> Any:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dropout(0.3)], name="in")
    inputs = keras.Input((4,))
    total = inner(inputs) + inner(ops.tanh(inner(inputs)))
    return compiled(keras.Model(inputs, layers.Dense(2, name="out")(total), name="net"))


def subclassed() -> Any:
    model = Subclassed(name="net")
    model(np.zeros((1, 4), "float32"))
    return compiled(model)


def custom_step() -> Any:
    inputs = keras.Input((4,))
    hidden = layers.Dropout(0.5)(layers.Dense(5)(inputs))
    return compiled(Stepping(inputs, layers.Dense(2, name="out")(hidden), name="net"))


def two_inputs() -> Any:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((2,), name="b")}
    both = layers.Concatenate()([inputs["a"], layers.Dense(3)(inputs["b"])])
    outputs = {
        "first": layers.Dense(2, name="first")(both),
        "out": layers.Dense(2, name="out")(both),
    }
    return compiled(
        keras.Model(inputs, outputs, name="net"), loss={"first": "mse", "out": "mae"},
        loss_weights={"first": 0.3, "out": 1.0}, metrics={"out": ["mse"]},
    )  # fmt: skip


def normalized() -> Any:
    norm = layers.Normalization(name="norm")
    norm.adapt(arrays()[0] * 3 + 1)
    return chain(norm, layers.Dense(5))


def words() -> Any:
    lookup = layers.IntegerLookup(name="lookup")
    lookup.adapt(np.arange(3, 20))
    inputs = keras.Input((6,), dtype="int64")
    embedded = layers.Embedding(25, 4, mask_zero=True)(lookup(inputs))
    hidden = layers.GRU(3)(embedded)
    return compiled(keras.Model(inputs, layers.Dense(2, name="out")(hidden), name="net"))


def classes() -> Any:
    return chain(
        layers.Dense(5), layers.Dropout(0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )  # fmt: skip


def texts() -> Any:
    vectorize = layers.TextVectorization(output_sequence_length=3, name="vectorize")
    vectorize.adapt(np.array(WORDS))
    inputs = keras.Input((1,), dtype="string")
    hidden = layers.GRU(3)(layers.Embedding(9, 4, mask_zero=True)(vectorize(inputs)))
    return compiled(keras.Model(inputs, layers.Dense(2, name="out")(hidden), name="net"))


def embedded() -> Any:
    inputs = keras.Input((6,), dtype="int32")
    hidden = layers.GRU(3)(layers.Embedding(25, 4, mask_zero=True)(inputs))
    return compiled(keras.Model(inputs, layers.Dense(2, name="out")(hidden), name="net"))


def stateful() -> Any:
    inputs = keras.Input(batch_shape=(BATCH, 4, 1))
    hidden = layers.GRU(3, stateful=True)(inputs)
    return compiled(keras.Model(inputs, layers.Dense(2, name="out")(hidden), name="net"))


WORDS = ["one two", "three", "two two one", "four five"]


def sentences() -> Any:
    import tensorflow as tf

    return tf.constant([[WORDS[i % 4]] for i in range(N)]), arrays()[1]


def labels() -> Any:
    return arrays()[0], np.arange(N) % 2


def tokens() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 25, (N, 6)), arrays()[1]


def dicts() -> Any:
    x, y = arrays()
    return {"a": x, "b": x[:, :2]}, {"first": y, "out": 2 * y}


def full_batches() -> Any:
    x, y = arrays()
    return x[: 4 * BATCH, :, None], y[: 4 * BATCH]


def half(policy: str) -> Callable[[], Any]:
    def make() -> Any:
        return chain(
            layers.Dense(5, dtype=policy), layers.BatchNormalization(dtype=policy),
            layers.Dense(4, dtype=policy),
            optimizer=keras.optimizers.LossScaleOptimizer(
                keras.optimizers.Adam(0.01), initial_scale=2.0**8, dynamic_growth_steps=2
            ),
        )  # fmt: skip

    return make


def with_optimizer(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: chain(layers.Dense(5), layers.Dropout(0.5), optimizer=make())


def schedule() -> Any:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)


@dataclasses.dataclass
class Case:
    """A model, its data, and how it is trained."""

    make: Callable[[], Any]
    data: Callable[[], Any] = arrays
    fit: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    keep_weights: int = 1
    first: int = AT
    """The step that the kept variables are of."""
    jit: bool = False
    """Whether JAX compiles it; eagerly it takes a fraction of the time."""
    replays: bool = False
    """Whether `replay` runs where it takes long."""


CASES = {
    "batch normalization and dropout": Case(batch_normalization, jit=True),
    "nested and reused": Case(nested_and_reused),
    "subclassed": Case(subclassed),
    "custom train_step": Case(custom_step, replays=True),
    "dict inputs, outputs and losses": Case(two_inputs, dicts),
    "Normalization": Case(normalized),
    "Embedding with a mask": Case(embedded, tokens),
    "mixed_float16 under a loss scale": Case(half("mixed_float16")),
    "mixed_bfloat16": Case(half("mixed_bfloat16")),
    "keep_weights": Case(batch_normalization, keep_weights=3, first=3, jit=True),
    "keep_weights in between": Case(batch_normalization, keep_weights=2, first=2),
    "sample_weight": Case(
        batch_normalization, fit={"sample_weight": np.linspace(0, 2, N).astype("float32")}
    ),
    "class_weight": Case(classes, labels, fit={"class_weight": {0: 0.2, 1: 3.0}}),
    "gradient accumulation": Case(
        with_optimizer(lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2))
    ),
    "EMA and clipping": Case(
        with_optimizer(
            lambda: keras.optimizers.AdamW(
                0.01, use_ema=True, ema_overwrite_frequency=2, global_clipnorm=0.5
            )
        )
    ),
    "a schedule": Case(with_optimizer(schedule)),
    "initial_epoch": Case(batch_normalization, fit={"initial_epoch": 3, "epochs": 5}),
}


class After(keras.callbacks.Callback):
    """Keeps the variables as they are after a batch; EMA writes over them at the end."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.values: list[Any] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.batch and not self.values:
            self.values = values(self.model)


if BACKEND != "torch":  # where Keras cannot train it, with or without a scope
    CASES["stateful RNN"] = Case(stateful, full_batches)
    CASES["steps_per_execution"] = Case(
        batch_normalization,
        fit={"epochs": 2},
        settings={"steps_per_execution": 2},
        first=2,
        jit=True,
    )
if BACKEND != "jax":  # where Keras builds no such model
    CASES["IntegerLookup"] = Case(words, tokens)
if BACKEND == "tensorflow":
    CASES["strings"] = Case(texts, sentences)


def trained(case: Case, *callbacks: Any) -> Any:
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = case.make()
    model.jit_compile = BACKEND == "jax" and case.jit
    for name, value in case.settings.items():
        setattr(model, name, value)
    x, y = case.data()
    model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=list(callbacks), **case.fit
    )
    return model


def values(model: Any) -> list[Any]:
    # Copies: on torch an array shares the variable's memory.
    return [np.array(keras.ops.convert_to_numpy(v)) for v in State(model).variables]


def same(one: Any, two: Any) -> None:
    assert len(one) == len(two)
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"variable {i}")


def at_step(step: fs.StepStatistics) -> str | None:
    return "now" if step.step == AT else None


def check(case: Case, run: Path, make: Callable[[], Any] | None = None) -> None:
    after, again = After(AT), After(AT - case.first)
    alone = trained(case, after)
    scope = fs.Scope(fs.capsule(at_step, keep_weights=case.keep_weights), run=run)
    same(values(alone), values(trained(case, scope)))

    folder = file.find(run)
    contents = file.read(folder)
    assert (contents.settings["first_step"], contents.settings["step"]) == (case.first, AT)
    keras.utils.clear_session(free_memory=False)
    model = rebuild(contents, make or (lambda: made_again(contents)))
    model.jit_compile = contents.settings["jit_compile"]
    model.fit(
        batches_of(contents), steps_per_epoch=len(contents.batches), shuffle=False, verbose="0",
        callbacks=[Random(contents), again],
    )  # fmt: skip
    same(after.values, again.values)
    if BACKEND == "torch" or case.replays:
        assert [o.origin for o in replay(folder, make=make)] == [None, None]


@pytest.mark.parametrize("name", CASES)
def test_the_step_again_makes_the_same_variables(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path / "run")


def gan() -> Any:
    model = Gan(name="net")
    model.compile(jit_compile=False)
    return model


def unbuilt_gan() -> Any:
    """Its optimizers are built by its first step, as in Keras' own guide."""
    model = Gan(name="net")
    model.compile(jit_compile=False)
    model.g_optimizer = keras.optimizers.Adam(0.05)
    model.d_optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
    return model


@pytest.mark.backends("tensorflow", "torch")  # on JAX they have to be built before
def test_two_optimizers_that_the_first_step_builds(tmp_path: Path) -> None:
    check(Case(unbuilt_gan, pairs), tmp_path / "run", unbuilt_gan)


def pairs() -> Any:
    x, y = arrays()
    return {"real": x, "noise": x[:, :3]}, y


def test_two_optimizers_with_a_function_that_gives_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(Case(gan, pairs), tmp_path / "run", gan)
    assert "--model MODULE:FUNCTION" in capsys.readouterr().err
    with pytest.raises(fs.FitscopeError, match="--model MODULE:FUNCTION"):
        replay(file.find(tmp_path / "run"), {"Gan": Gan})
