"""What a scope says of a real training before its first step, and that it only looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitscope as fs
from fitscope.scope.facts import facts

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 6)).astype("float32")
Y = (np.arange(96) % 3).astype("int64")


def network(activation: str = "softmax", units: int = 3, built: bool = True) -> Any:
    head = [layers.Dense(units, name="out"), layers.Activation(activation, name="end")]
    begin = [keras.Input((6,))] if built else []
    return keras.Sequential([*begin, layers.Dense(8, "relu", name="hidden"), *head])


class Look(keras.callbacks.Callback):
    """Keeps the facts of the fit it is given to."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.facts = facts(self._model)


def seen(model: Any, *data: Any, **given: Any) -> Any:
    look = Look()
    model.fit(*data, callbacks=[look], verbose=0, **given)
    return look.facts


@pytest.mark.parametrize("built", [True, False])
def test_facts_of_arrays(built: bool) -> None:
    model = network(built=built)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    fit = seen(model, X, Y, batch_size=16, epochs=2, validation_split=0.25)
    assert (fit.batch_size, fit.epochs, fit.steps, fit.shuffle) == (16, 2, 5, True)
    np.testing.assert_array_equal(fit.inputs[0].sample, X[:72])
    np.testing.assert_array_equal(fit.targets[0].sample, Y[:72])
    assert fit.validation is not None
    np.testing.assert_array_equal(fit.validation[0][0].sample, X[72:])
    (output,) = fit.outputs
    assert (output.path, output.activation, output.units) == ("end", "softmax", 3)
    assert output.loss is not None
    assert output.loss.name == "sparse_categorical_crossentropy"
    assert fit.metrics == ("accuracy",)
    assert fit.optimizer is not None
    assert fit.optimizer.learning_rate == pytest.approx(1e-3)
    assert [f.sources for f in fit.layers[1:]] == [(), ("hidden",), ("out",)]


def test_nothing_is_taken_from_a_generator() -> None:
    given = []

    def batches() -> Any:
        for i in range(12):
            given.append(i)
            yield X[i : i + 8], Y[i : i + 8]

    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    scope = fs.Scope(every=1)
    model.fit(batches(), steps_per_epoch=12, shuffle=False, callbacks=[scope], verbose=0)
    assert given == list(range(12))
    with_scope = [np.asarray(w) for w in model.get_weights()]
    assert all(np.isfinite(w).all() for w in with_scope)


@pytest.mark.filterwarnings("ignore:.*from_logits=True:UserWarning")  # Keras on TensorFlow, too
def test_losses_by_name_and_outputs_of_a_functional_model() -> None:
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, "relu")(inputs)
    outputs = {
        "size": layers.Dense(1, name="size")(hidden),
        "kind": layers.Dense(3, "softmax", name="kind")(hidden),
    }
    model = keras.Model(inputs, outputs)
    losses = {
        "size": keras.losses.Huber(),
        "kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    }
    model.compile("sgd", losses)
    fit = seen(model, X, {"kind": Y, "size": X[:, 0]})
    found = {o.path: (o.activation, o.loss and o.loss.name) for o in fit.outputs}
    assert found == {
        "kind": ("softmax", "sparse_categorical_crossentropy"),
        "size": ("linear", "huber"),
    }
    assert [o.loss.from_logits for o in fit.outputs if o.loss] == [True, False]


@pytest.mark.filterwarnings("ignore:.*from_logits=True:UserWarning")
def test_the_contract_is_told_kept_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network("softmax", 2)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    scope = fs.Scope(run=tmp_path / "run", every=1)
    model.fit(X, np.minimum(Y, 1), callbacks=[scope], verbose=2)
    said = capsys.readouterr().out
    assert said.index("before the first step") < said.index("loss:")
    (found,) = scope.findings.of("from_logits")
    assert (found.severity, found.stage, found.site) == ("fault", "contract", "end")
    assert "from_logits" in repr(scope.findings)
    held = fs.open_run(tmp_path / "run").findings
    assert [f["rule"] for f in held].count("from_logits") == 1


def test_a_loss_is_held_against_a_constant_answer_only_where_it_is_its_mean() -> None:
    def answer(loss: Any, **compile_with: Any) -> Any:
        model = network()
        model.compile("adam", loss, **compile_with)
        return seen(model, X, Y).summary()["constant_answer_loss"]

    loss = keras.losses.SparseCategoricalCrossentropy
    assert answer(loss()) == pytest.approx(np.log(3))
    assert answer("sparse_categorical_crossentropy") == pytest.approx(np.log(3))
    assert answer(loss(reduction="sum")) is None
    assert answer(loss(), loss_weights=[3.0]) is None


@pytest.mark.parametrize("adds", [True, False])
def test_a_layer_of_ones_own_keeps_the_constant_answer_unless_it_adds_a_loss(adds: bool) -> None:
    class Own(layers.Layer):
        def call(self, x: Any) -> Any:
            return keras.ops.tanh(x)

    class Adds(Own):
        def call(self, x: Any) -> Any:
            self.add_loss(keras.ops.mean(x))
            return super().call(x)

    middle = Adds() if adds else Own()
    model = keras.Sequential([keras.Input((6,)), middle, layers.Dense(3, "softmax")])
    answer = seen(compiled(model), X, Y).summary()["constant_answer_loss"]
    assert answer is None if adds else answer == pytest.approx(np.log(3))


@pytest.mark.parametrize("kind", ["dataset", "generator"])
def test_the_first_batch_is_looked_at_as_it_passes_by(kind: str) -> None:
    """Of batches that Keras has not taken yet, one is seen and none is lost."""

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 6

        def __getitem__(self, place: int) -> Any:
            self.asked.append(place)
            rows = slice(16 * place, 16 * place + 16)
            return X[rows] * 300, Y[rows]

    def trained(*callbacks: Any) -> Any:
        keras.utils.set_random_seed(3)
        model = network()
        model.compile("adam", "sparse_categorical_crossentropy")
        batches = Batches()
        batches.asked = []  # type: ignore[attr-defined]
        data = batches if kind == "dataset" else (batches[i] for i in range(6))
        # No shuffle: Keras says that it cannot, of a generator.
        model.fit(data, steps_per_epoch=6, shuffle=False, callbacks=list(callbacks), verbose=0)
        return model.get_weights(), batches.asked

    scope = fs.Scope(every=1)
    plain, observed = trained(), trained(scope)
    assert [f.rule for f in scope.findings if f.stage == "contract"] == ["inputs_scaled"]
    assert observed[1] == plain[1]
    for ours, theirs in zip(observed[0], plain[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("jit", [True, False])
def test_the_first_batch_of_tf_data_is_looked_at(jit: bool) -> None:
    import tensorflow as tf

    def trained(*callbacks: Any) -> Any:
        keras.utils.set_random_seed(3)
        model = network()
        model.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit)
        x = np.where(np.arange(96)[:, None] == 4, np.nan, X).astype("float32")
        data = tf.data.Dataset.from_tensor_slices((X if jit else x, Y, np.zeros(96, "float32")))
        data = data.shuffle(96, seed=1).batch(96)
        model.fit(data, epochs=2, shuffle=False, callbacks=list(callbacks), verbose=0)
        return model.get_weights()

    scope = fs.Scope(every=1)
    plain, observed = trained(), trained(scope)
    rules = {part.rule for f in scope.findings for part in (f, *f.consequences)}
    assert rules >= ({"sample_weights"} if jit else {"sample_weights", "data_values"})
    for ours, theirs in zip(observed, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_facts_of_weights_and_precision() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
        model.compile("adam", "sparse_categorical_crossentropy")
    finally:
        keras.config.set_dtype_policy("float32")
    fit = seen(model, X, Y, class_weight={0: 0.5, 1: 2.0, 2: 1.0})
    np.testing.assert_array_equal(fit.sample_weights[0].sample, np.array([0.5, 2.0, 1.0])[Y])
    assert fit.weighted
    assert fit.optimizer is not None
    assert (fit.optimizer.name, fit.optimizer.scales_loss) == ("adam", True)
    hidden = next(layer for layer in fit.layers if layer.path == "hidden")
    assert (hidden.dtype, hidden.variable_dtype) == ("float16", "float32")
    fit = seen(compiled(network()), X, Y)
    assert fit.optimizer is not None
    assert (fit.sample_weights, fit.optimizer.scales_loss) == ((), False)


def compiled(model: Any) -> Any:
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize(("initial", "skipped"), [(2.0**8, 0), (2.0**40, None)])
def test_what_the_loss_scale_did_is_kept(initial: float, skipped: int | None) -> None:
    """The counts of Keras' own optimizer, which begins at a scale that overflows, or does not."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
        scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial)
        model.compile(scaling, "sparse_categorical_crossentropy")
    finally:
        keras.config.set_dtype_policy("float32")
    scope = fs.Scope(every=5)
    model.fit(X, Y, batch_size=16, epochs=4, callbacks=[scope], verbose=0)
    (end,) = [r for r in scope.run.history if r["event"] == "end"]
    made = int(np.asarray(keras.ops.convert_to_numpy(scaling.inner_optimizer.iterations)))
    scale = float(np.asarray(keras.ops.convert_to_numpy(scaling.dynamic_scale)))
    assert end["loss_scale"] == {"scale": scale, "steps": 24, "skipped": 24 - made}
    # Each skipped step halves the scale.
    assert scale == initial * 2.0 ** (made - 24)
    assert (24 - made == skipped) if skipped is not None else (24 - made > 0)
    # A second fit counts its own steps.
    model.fit(X, Y, batch_size=16, epochs=1, callbacks=[scope], verbose=0)
    assert [r["loss_scale"]["steps"] for r in scope.run.history if r["event"] == "end"] == [24, 6]


def test_rules_are_tuned_silenced_and_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @fs.rule("wide", "A layer is wide.", stage="contract", severity="note")
    def wide(fit: Any, *, units: int = 4) -> Any:
        for layer in fit.layers:
            if (layer.units or 0) > units:
                yield fs.Sign(layer.path, f"{layer.units} units.")

    monkeypatch.chdir(tmp_path)
    Path("fitscope.toml").write_text("[rules]\nlearning_rate = false\n[rules.wide]\nunits = 100\n")

    def found(rules: Any) -> set[str]:
        model = network()
        model.compile(keras.optimizers.SGD(50.0), "sparse_categorical_crossentropy")
        scope = fs.Scope(rules=rules)
        model.fit(X[:16], Y[:16], callbacks=[scope], verbose=0)
        return {f.rule for f in scope.findings if f.stage == "contract"}

    assert found(None) == {"few_steps"}
    assert found([wide, {"few_steps": False}]) == set()
    assert found([wide, {"wide": {"units": 2}}]) == {"few_steps", "wide"}
    Path("fitscope.toml").unlink()
    assert found({"few_steps": {"steps": 0}}) == {"learning_rate"}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"dead_unit": False}, "Did you mean 'dead_units'"),
        ({"dead_units": {"shares": 1}}, "no setting 'shares'"),
        ({"dead_units": {"severity": "bad"}}, "not one of fault"),
        ({"dead_units": 3}, "was given 3"),
        ("dead_units", "expected rules made by fs.rule"),
    ],
)
def test_wrong_rules_are_explained(rules: Any, said: str) -> None:
    with pytest.raises(fs.FitscopeError, match=said):
        fs.Scope(rules=rules)
