"""Edits act in every step as if they stood in the layers, and leave nothing behind."""

from __future__ import annotations

import contextlib
import io

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND, BATCH, BY_NAME, rows

import fitscope as fs

JIT = BACKEND == "jax"
"""TensorFlow compiles with XLA where a test says so: it takes several times as long."""
N = 3 * BATCH


def trained(case, scope=None, by_hand=None, *, epochs=1, validate=False, compiled=None, **fit):
    """Loss and metrics, weights and the model, after a training with a scope or edited by hand."""
    compiled = {"jit_compile": JIT} if compiled is None else compiled
    model = case.make(**compiled)
    if by_hand is not None:
        by_hand(model)
    x, y = case.data(N)
    options = {"epochs": epochs, "batch_size": BATCH, "shuffle": False, "verbose": 0, **fit}
    if validate:
        options["validation_data"] = (x, y)
    callbacks = [*options.pop("callbacks", []), *([scope] if scope is not None else [])]
    history = model.fit(x, y, callbacks=callbacks, **options).history
    return history, [np.asarray(w) for w in model.get_weights()], model


def wrapped(path, function, leaf=None):
    """The edit written into the layer, for good."""

    def by_hand(model):
        layer = model
        for name in path.split("/"):
            layer = next(x for x in layer._flatten_layers(recursive=False) if x.name == name)
        call = layer.call

        def edited(*args, **kwargs):
            outputs = call(*args, **kwargs)
            if leaf is None:
                return function(outputs)
            return {**outputs, leaf: function(outputs[leaf])}

        vars(layer)["call"] = edited

    return by_hand


def assert_same(one, other, tolerance=1e-6):
    for name, values in one[0].items():
        np.testing.assert_allclose(values, other[0][name], rtol=1e-6, atol=1e-6, err_msg=name)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=tolerance)


def half(x):
    return x * 0.5


def without_first(x):
    kept = np.ones(x.shape[-1], "float32")
    kept[0] = 0
    return x * ops.convert_to_tensor(kept, dtype=x.dtype)


def clipped(x):
    return ops.clip(x, -0.3, 0.3)


EDITED = [
    ("branches", "b", fs.Zero(units=0), without_first, None),
    ("subclassed", "block_0/norm", fs.Clip(-0.3, 0.3), clipped, None),
    ("siamese", "shared", fs.Scale(0.5), half, None),
    ("trees", "fork", half, half, "y"),
    ("mixed_float16", "act", fs.Scale(0.5), half, None),
    ("custom_step", "norm", ops.tanh, ops.tanh, None),
    ("recurrent", "lstm", half, half, None),
]


if BACKEND != "torch":  # where each is compiled three times
    EDITED = [e for e in EDITED if e[0] in ("siamese", "custom_step")]


@pytest.mark.parametrize(
    ("name", "path", "edit", "function", "leaf"), EDITED, ids=[f"{e[0]}-{e[1]}" for e in EDITED]
)
def test_an_edit_is_what_the_layer_would_do(name, path, edit, function, leaf):
    case = BY_NAME[name]
    select = path if leaf is None else f"{path}[{leaf}]"
    scope = fs.Scope(fs.edit(select, edit), fs.watch(path), every=2)
    assert_same(trained(case, scope), trained(case, None, wrapped(path, function, leaf)))
    assert scope.cost["observed_steps"] == 2


@pytest.mark.backends("tensorflow")
def test_with_xla_too():
    case, compiled = BY_NAME["sequential"], {"jit_compile": True}
    scope = fs.Scope(fs.edit("first", fs.Scale(0.5)), fs.watch("first"), every=2)
    by_hand = trained(case, None, wrapped("first", half), compiled=compiled)
    assert_same(trained(case, scope, compiled=compiled), by_hand)


@pytest.mark.backends("jax", "tensorflow")
def test_without_compilation_too():
    how = {"jit_compile": False} if BACKEND == "jax" else {"run_eagerly": True}
    case = BY_NAME["sequential"]
    scope = fs.Scope(fs.edit("first", fs.Scale(0.5)), fs.watch("first"), every=2)
    steps = {"compiled": how, "steps_per_epoch": 1}
    by_hand = trained(case, None, wrapped("first", half), **steps)
    assert_same(trained(case, scope, **steps), by_hand)


def _small(make, scope, *, epochs=1, **compiled):
    """The history and weights of a model whose middle `make` builds."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(6)
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="out")(make(x)))
    model.compile("sgd", "mse", **{"jit_compile": JIT, **compiled})
    rng = np.random.default_rng(3)
    data = rng.standard_normal((N, 4)).astype("float32")
    history = model.fit(
        data, data[:, :2], batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0,
        callbacks=[] if scope is None else [scope],
    ).history  # fmt: skip
    return history, model.get_weights(), model


@pytest.mark.parametrize("call", [0, 1])
def test_one_call_of_a_reused_layer(call):
    def twice(x, by_hand=False):
        shared = layers.Dense(4, name="shared")
        for number in range(2):
            x = shared(x)
            if by_hand and number == call:
                x = layers.Rescaling(3.0, name="tripled")(x)
        return x

    scope = fs.Scope(fs.edit(f"shared#{call}", fs.Scale(3.0)))
    assert_same(_small(twice, scope), _small(lambda x: twice(x, by_hand=True), None))


def test_noise_differs_between_calls():
    def twice(x):
        shared = layers.Dense(4, name="shared")
        return layers.Subtract(name="difference")([shared(x), shared(x)])

    scope = fs.Scope(fs.edit("shared", fs.Noise(1.0)), fs.watch("difference"), every=1)
    _small(twice, scope)
    assert scope.latest()["difference"]["rms"] > 0.7  # of two that are alike it would be 0


@pytest.mark.parametrize("edit", [fs.StopGradient(), fs.ReverseGradient(2.0)])
def test_a_watched_gradient_is_that_before_it_is_edited(edit):
    """At a learning rate of nothing, so that both trainings stand at the same weights."""

    def one(x):
        return layers.Dense(4, name="h")(x)

    found = []
    for edits in ([], [fs.edit("h", edit)]):
        scope = fs.Scope(*edits, fs.watch("h", of=["output", "gradient"]), every=1)
        keras.utils.set_random_seed(1)
        x = keras.Input((4,))
        model = keras.Model(x, layers.Dense(2, name="out")(one(x)))
        model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=JIT)
        model.fit(np.eye(4, dtype="float32"), np.ones((4, 2)), verbose=0, callbacks=[scope])
        found.append(scope.latest()["h:gradient"]["rms"])
    assert found[0] > 0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_an_array_for_the_whole_batch():
    def one(x):
        return layers.Dense(4, name="h")(x)

    mask = np.arange(BATCH)[:, None] % 2 == np.zeros((1, 4))
    scope = fs.Scope(fs.edit("h", fs.Zero(mask=mask)), fs.watch("h"), every=1)
    _small(one, scope)
    assert scope.latest()["h"]["zero_fraction"] == 0.5


@pytest.mark.backends("jax", "tensorflow")  # Keras' torch trainer runs one step per execution
def test_the_record_of_an_execution_that_ends_early():
    scope = fs.Scope(fs.edit("h", fs.Scale(0.5), when=fs.ramp(0, 1, steps=(1, 6))))
    _small(layers.Dense(4, name="h"), scope, epochs=2, steps_per_execution=2)
    records = [r for r in scope.run.history if r["event"] == "edited"]
    assert [r["ranges"] for r in records] == [[[2, 2]], [[3, 5]]]
    for record in records:
        for (first, last), strengths in zip(record["ranges"], record["strengths"], strict=True):
            np.testing.assert_allclose(strengths, [(first - 1) / 5, (last - 1) / 5], rtol=1e-6)
        assert record["least"] == record["strengths"][0][0]
        assert record["most"] == record["strengths"][0][1]


def test_a_training_that_is_broken_off_has_its_record():
    class Broken(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    scope = fs.Scope(fs.edit("first", fs.Scale(0.5)))
    with pytest.raises(KeyboardInterrupt):
        trained(BY_NAME["sequential"], scope, callbacks=[Broken()])
    scope.close()
    assert [r["ranges"] for r in scope.run.history if r["event"] == "edited"] == [[[0, 0]]]


def test_a_handle_takes_no_other_settings():
    scope = fs.Scope(fs.edit("first", fs.Scale(0.5), name="e"))
    with pytest.raises(AttributeError):
        scope.edits["e"].strenght = 0.3
    with pytest.raises(fs.EditError, match="expected a bool"):
        scope.edits["e"].enabled = "no"


def test_edits_act_in_the_order_given_and_before_watching():
    def both(x):
        return ops.clip(x * 3.0, -0.5, 0.5)

    scope = fs.Scope(
        fs.edit("second", fs.Scale(3)),
        fs.edit("second", fs.Clip(-0.5, 0.5)),
        fs.watch("second", of=["before_edit", "output"]),
        every=1,
    )
    found = trained(BY_NAME["sequential"], scope)
    assert list(scope.edits) == ["scale", "clip"]
    assert_same(found, trained(BY_NAME["sequential"], None, wrapped("second", both)))
    latest = scope.latest()
    assert latest["second"]["max"] <= 0.5 < 3 * latest["second:before_edit"]["max"]
    assert np.isclose(latest["second"]["max"], 0.5)  # the other order would give 1.5


def test_reversing_stopping_and_scaling_gradients():
    reversed_ = wrapped("first", lambda x: ops.stop_gradient(x * 2) - x)
    scope = fs.Scope(fs.edit("first", fs.ReverseGradient()))
    assert_same(
        trained(BY_NAME["sequential"], scope), trained(BY_NAME["sequential"], None, reversed_)
    )
    scaled = wrapped("first", lambda x: x * 0.25 + ops.stop_gradient(x * 0.75))
    scope = fs.Scope(fs.edit("first", fs.Scale(0.25), port="gradient"))
    assert_same(trained(BY_NAME["sequential"], scope), trained(BY_NAME["sequential"], None, scaled))


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_clipped_gradient_moves_the_weights_as_computed_by_hand(scale):
    limit, rate = 0.01, 0.5
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, use_bias=False, name="a"),
            layers.Dense(2, use_bias=False, name="b"),
        ]
    )
    optimizer = keras.optimizers.SGD(rate, loss_scale_factor=scale)
    model.compile(optimizer, "mse", jit_compile=JIT)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((8, 3)), rng.standard_normal((8, 2))
    a, b = (np.asarray(w, "float64") for w in model.get_weights())
    at_a = 2 * (x @ a @ b - y) / y.size @ b.T
    assert abs(at_a).max() > limit > abs(at_a).min()
    want = a - rate * x.T @ np.clip(at_a, -limit, limit)
    scope = fs.Scope(fs.edit("a", fs.ClipGradient(limit)), fs.watch("a", of="gradient"), every=1)
    model.fit(x.astype("float32"), y.astype("float32"), batch_size=8, verbose=0, callbacks=[scope])
    np.testing.assert_allclose(model.get_weights()[0], want, atol=1e-6)


def test_the_gradient_that_is_watched_has_been_edited():
    plain = fs.Scope(fs.watch("second", of="gradient"), every=1)
    trained(BY_NAME["sequential"], plain, epochs=1, steps_per_epoch=1)
    scope = fs.Scope(
        fs.edit("second", fs.Scale(0.5), port="gradient"),
        fs.watch("second", of="gradient"),
        every=1,
    )
    trained(BY_NAME["sequential"], scope, epochs=1, steps_per_epoch=1)
    one, other = plain.latest()["second:gradient"], scope.latest()["second:gradient"]
    assert other["rms"] == pytest.approx(0.5 * one["rms"], rel=1e-5)


class Strengths(keras.callbacks.Callback):
    """Sets a strength by hand before each batch."""

    def __init__(self, scope, strengths):
        super().__init__()
        self.scope, self.strengths = scope, strengths

    def on_train_batch_begin(self, batch, logs=None):
        self.scope.edits["own"].strength = self.strengths[batch]


def test_strengths_and_schedules_never_trace_again():
    traces = []

    def counted(x):
        traces.append(1)
        return x * 2.0

    scope = fs.Scope(
        fs.edit("first", counted, name="own", when=fs.probability(0.7) & fs.steps(0, 20)),
        fs.edit("second", counted, when=fs.ramp(0, 1, steps=(0, 20))),
        fs.edit("third", counted, when=fs.epochs(1, 3)),
    )
    model = BY_NAME["sequential"].make(jit_compile=JIT)
    x, y = BY_NAME["sequential"].data(N)
    options = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    by_hand = Strengths(scope, [0.2, 0.9, 0.4])
    model.fit(x, y, epochs=2, callbacks=[by_hand, scope], **options)
    after_two = len(traces)
    model.fit(x, y, epochs=5, callbacks=[by_hand, scope], **options)
    if BACKEND == "torch":
        assert len(traces) > after_two  # nothing is compiled: the function runs at every step
    else:
        assert len(traces) == after_two


@pytest.mark.backends("jax", "tensorflow")
def test_several_steps_in_one_execution_have_strengths_of_their_own():
    case = BY_NAME["sequential"]
    edits = [
        fs.edit("first", fs.Scale(0.0), when=fs.ramp(0, 1, steps=(0, 3))),
        fs.edit("second", fs.Noise(0.1), when=fs.steps(1, 2)),
    ]
    compiled = {"jit_compile": JIT, "steps_per_execution": 3}
    together = trained(case, fs.Scope(*edits), compiled=compiled)
    assert_same(together, trained(case, fs.Scope(*edits)))
    watching = fs.Scope(*edits, fs.watch("first"), every=2)
    assert_same(trained(case, watching, compiled=compiled), together)
    assert watching.cost["observed_steps"] == 2


def test_an_edit_that_is_off_leaves_every_bit():
    case = BY_NAME["sequential"]
    scope = fs.Scope(
        fs.edit("first", fs.Noise(1.0), when=fs.epochs(5)),
        fs.edit("second", fs.Zero(), name="by_hand"),
    )
    scope.edits["by_hand"].enabled = False
    found, plain = trained(case, scope), trained(case)
    assert found[0] == plain[0]
    for a, b in zip(found[1], plain[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not [record for record in scope.run.history if record["event"] == "edited"]


def test_edits_that_are_off_beside_one_that_is_on_do_nothing():
    def breaks(x):
        return ops.sqrt(x - 1e6)  # NaN, and so is its gradient

    scope = fs.Scope(
        fs.edit("first", fs.Scale(0.5)), fs.edit("second", breaks, when=fs.epochs(7)), run=None
    )
    found = trained(BY_NAME["sequential"], scope)
    assert_same(found, trained(BY_NAME["sequential"], None, wrapped("first", half)))


def test_edits_act_from_their_step_on_and_a_second_fit_goes_on():
    case = BY_NAME["sequential"]
    scope = fs.Scope(fs.edit("first", fs.Scale(0.5), when=fs.epochs(1, 3)))
    model, other = case.make(jit_compile=JIT), case.make(jit_compile=JIT)
    x, y = case.data(N)
    options = {"batch_size": BATCH, "verbose": 0, "shuffle": False}
    model.fit(x, y, epochs=2, callbacks=[scope], **options)
    model.fit(x, y, epochs=1, callbacks=[scope], **options)
    other.fit(x, y, epochs=1, **options)
    wrapped("first", half)(other)
    other.make_train_function(force=True)
    other.fit(x, y, epochs=2, **options)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    records = [r for r in scope.run.history if r["event"] == "edited"]
    assert [r["ranges"] for r in records] == [[[3, 5]], [[6, 8]]]
    assert all(r["edit"] == "scale" and r["phase"] == "train" for r in records)


def test_validation_and_prediction_are_edited_as_asked():
    case = BY_NAME["sequential"]
    scope = fs.Scope(fs.edit("first", fs.Zero(), phases=("validation", "predict")))
    found, plain = trained(case, scope, validate=True), trained(case, validate=True)
    assert found[0]["loss"] == plain[0]["loss"]
    by_hand = case.make(jit_compile=JIT)
    by_hand.set_weights(found[1])
    wrapped("first", ops.zeros_like)(by_hand)
    x, y = case.data(N)
    want = by_hand.evaluate(x, y, batch_size=BATCH, verbose=0)
    assert found[0]["val_loss"][-1] == pytest.approx(want, rel=1e-5)
    edited = found[2].predict(x, batch_size=BATCH, verbose=0, callbacks=[scope])
    np.testing.assert_allclose(
        edited, by_hand.predict(x, batch_size=BATCH, verbose=0), rtol=1e-6, atol=1e-6
    )
    assert found[2].evaluate(x, y, verbose=0) != pytest.approx(want, rel=1e-3)


@pytest.mark.backends("jax", "torch")
def test_nothing_is_left_and_a_saved_model_has_no_edits(tmp_path):
    case = BY_NAME["sequential"]
    scope = fs.Scope(fs.edit("first", fs.Noise(0.5)), fs.watch("**"), every=2)
    saved = tmp_path / "middle.weights.h5"

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            text = io.StringIO()
            with contextlib.redirect_stdout(text):
                self.model.summary(print_fn=lambda line: text.write(line + "\n"))
            looks.append(([w.path for w in self.model.variables], text.getvalue()))
            self.model.save_weights(saved)

    looks = []
    plain = trained(case, None, epochs=1, callbacks=[Look()])
    before, looks = looks, []
    found = trained(case, scope, epochs=1, callbacks=[Look()])
    assert looks == before
    model = found[2]
    for layer in model._flatten_layers():
        assert "call" not in vars(layer)
    assert "compute_loss" not in vars(model)
    loaded = case.make(jit_compile=JIT)
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(saved)
    x, _ = case.data(N)
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6, atol=1e-6
    )
    assert not np.allclose(plain[1][0], found[1][0])


@pytest.mark.backends("torch")  # the others take long; see tests/edits for noise on them
def test_noise_leaves_the_models_own_random_numbers():
    case = BY_NAME["noisy"]
    found = trained(case, fs.Scope(fs.edit("dense", fs.Noise(0.0))))
    assert_same(found, trained(case))
    one = trained(case, fs.Scope(fs.edit("dense", fs.Noise(0.3, seed=1))))
    again = trained(case, fs.Scope(fs.edit("dense", fs.Noise(0.3, seed=1))))
    for a, b in zip(one[1], again[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.allclose(one[1][0], found[1][0])


def test_train_on_batch_is_edited_inside_attach():
    case = BY_NAME["sequential"]
    x, y = case.data(N)
    scope = fs.Scope(fs.edit("first", fs.Scale(0.5)))
    model, other = case.make(jit_compile=JIT), case.make(jit_compile=JIT)
    wrapped("first", half)(other)
    with scope.attach(model):
        found = [model.train_on_batch(rows(x, i, i + 8), rows(y, i, i + 8)) for i in (0, 8)]
    want = [other.train_on_batch(rows(x, i, i + 8), rows(y, i, i + 8)) for i in (0, 8)]
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(want, float), rtol=1e-5)


WRONG = [
    (
        "sequential",
        "first",
        fs.Patch(np.ones((8, 9))),
        fs.EditError,
        r"first has values of.*\(8, 9\)",
    ),
    ("sequential", "frist", fs.Scale(0.5), fs.SelectionError, "first"),
    ("sequential", "first", lambda x: x[:, :3], fs.EditError, r"first gave.*\(., 3\); expected"),
    ("sequential", "first", lambda x: ops.cast(x, "float16"), fs.EditError, "float16; expected"),
    ("sequential", "first", fs.Zero(units=9), fs.EditError, "unit 9; the tensor has 7 units"),
    ("integers", "strongest", fs.Scale(0.5), fs.EditError, "strongest.*holds int32"),
    ("recurrent", "lstm/lstm_cell", fs.Scale(0.5), fs.EditError, "time loop of a LSTM"),
    ("siamese", "shared#2", fs.Scale(0.5), fs.EditError, "no call in the train step reached"),
]


@pytest.mark.parametrize(("name", "path", "edit", "error", "says"), WRONG)
def test_what_cannot_be_edited_is_said_before_the_first_step(name, path, edit, error, says):
    model = BY_NAME[name].make(jit_compile=JIT)
    before = [np.array(w) for w in model.get_weights()]
    x, y = BY_NAME[name].data(N)
    scope = fs.Scope(fs.edit(path, edit, when=fs.epochs(3)))
    with pytest.raises(error, match=says):
        model.fit(x, y, batch_size=BATCH, epochs=1, verbose=0, callbacks=[scope])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(error, match=says):
        scope.preview(model)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


def test_two_scopes_that_edit_are_refused():
    scopes = [fs.Scope(fs.edit("first", fs.Scale(0.5))) for _ in range(2)]
    with pytest.raises(fs.UnsupportedError, match="one Scope"):
        trained(BY_NAME["sequential"], scopes[0], callbacks=[scopes[1]])


def test_the_preview_tells_what_is_changed_and_where():
    model = BY_NAME["subclassed"].make(jit_compile=JIT)
    scope = fs.Scope(
        fs.edit("block_*/norm", fs.Scale(0.5), when=fs.epochs(1, 2)),
        fs.edit("stem", fs.Clip(-1, 1), name="kept_small", port="gradient"),
    )
    found = scope.preview(model)
    assert [(n, [s.name for s in sites]) for n, _, sites in found.edits] == [
        ("scale", ["block_0/norm", "block_1/norm"]),
        ("kept_small", ["stem"]),
    ]
    assert "scale: Scale(factor=0.5), epochs(1, 2), in train: block_0/norm" in str(found)
    assert "of the gradient" in str(found)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fs.edit("a", fs.Scale(1), port="input"), "'output' or 'gradient'"),
        (lambda: fs.edit("a", fs.StopGradient(), port="gradient"), "leave port out"),
        (lambda: fs.edit("a", fs.StopGradient(), phases="predict"), "in training alone"),
        (lambda: fs.edit(fs.BATCH, fs.Scale(1)), "batch cannot be edited"),
        (lambda: fs.edit("a", fs.Scale(1), name="a/b"), "expected a name"),
        (
            lambda: fs.Scope(
                fs.edit("a", fs.Scale(1), name="x"), fs.edit("a", fs.Scale(1), name="x")
            ),
            "two edits .* 'x'",
        ),
        (lambda: fs.Scope(fs.edit("a", fs.Scale(1))).edits["b"], "no edit 'b'; it has 'scale'"),
    ],
)
def test_what_edit_does_not_accept(make, says):
    with pytest.raises(fs.EditError, match=says):
        make()


def test_a_strength_is_a_finite_number():
    scope = fs.Scope(fs.edit("a", fs.Scale(1)))
    with pytest.raises(fs.EditError, match="finite number"):
        scope.edits["scale"].strength = float("nan")
    scope.edits["scale"].strength = 0.3
    assert scope.edits["scale"].strength == 0.3
