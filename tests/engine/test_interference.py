"""Training is the same to the bit with and without a scope, and nothing is left on the model."""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from compared import JITS, PORTS, STEPS, as_bytes, assert_same, describe, train
from keras import ops
from replay import optimizer_variables
from zoo import BACKEND, BATCH, BY_NAME, COMPARED, Case, rows, setting_id

import fitscope as fs

OUTPUTS_ALONE = ("sequential", "nested", "transformer", "trees", "custom_metric", "integers")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same training without a scope, once for each setting."""

    @functools.cache
    def run(name: str, **setting: Any) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("plain") / "files"
        return train(BY_NAME[name], folder, None, **setting)

    return run


@pytest.mark.parametrize(("case", "jit"), COMPARED, ids=setting_id)
def test_training_is_the_same_to_the_bit(case: Case, jit: bool, plain: Any, tmp_path: Path) -> None:
    watch = fs.watch("**", of="output" if case.name in OUTPUTS_ALONE else PORTS)
    scope = fs.Scope(watch, every=1)
    watched = train(case, tmp_path / "files", scope, optimizer="adam", jit_compile=jit)
    assert_same(watched, plain(case.name, optimizer="adam", jit_compile=jit))
    assert scope.cost["observed_steps"] >= 2 * STEPS


@pytest.mark.parametrize("name", ["convolutions", "recurrent", "gan", "custom_metric"])
def test_within_a_budget(name: str, plain: Any, tmp_path: Path) -> None:
    scope = fs.Scope(run=tmp_path / "run")
    watched = train(BY_NAME[name], tmp_path / "files", scope, optimizer="adam", jit_compile=JITS[0])
    assert_same(watched, plain(name, optimizer="adam", jit_compile=JITS[0]))
    assert 0 < scope.cost["observed_steps"] < scope.cost["steps"]


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize("name", ["siamese", "mixed_float16"])
def test_inputs_preactivations_and_user_statistics(
    name: str, jit: bool, plain: Any, tmp_path: Path
) -> None:
    class Peak(fs.Statistic):
        name = "peak"

        def update(self, x: Any) -> Any:
            return ops.reshape(ops.max(x), (1,))

    watch = fs.watch("**", of=["input", "preactivation", "output"], statistics=Peak())
    watched = train(
        BY_NAME[name], tmp_path / "files", fs.Scope(watch, every=2),
        optimizer="adam", jit_compile=jit,
    )  # fmt: skip
    assert_same(watched, plain(name, optimizer="adam", jit_compile=jit))


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", ["subclassed", "two_outputs"])
def test_short_last_batch(name: str, every: int, plain: Any, tmp_path: Path) -> None:
    setting = {"n": 2 * BATCH + 3, "jit_compile": JITS[0]}
    watched = train(BY_NAME[name], tmp_path / "files", fs.Scope(every=every), **setting)
    assert_same(watched, plain(name, **setting))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras' torch trainer runs one step per execution")
@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize("name", ["noisy", "custom_step"])
def test_several_steps_per_execution(name: str, jit: bool, plain: Any, tmp_path: Path) -> None:
    setting = {"n": 7 * BATCH, "jit_compile": jit, "steps_per_execution": 4, "optimizer": "adam"}
    watched = train(BY_NAME[name], tmp_path / "files", fs.Scope(every=1), **setting)
    assert_same(watched, plain(name, **setting))


def _before_a_reduction(last: list[Any], pooling: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((40, 40, 1)),
            keras.layers.Conv2D(16, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            *last,
            pooling,
            keras.layers.Dense(3, name="out"),
        ]
    )


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize(
    ("last", "pooling"),
    [
        (list, keras.layers.GlobalAveragePooling2D),
        (lambda: [keras.layers.ReLU()], keras.layers.GlobalAveragePooling2D),
        (lambda: [keras.layers.Activation("gelu")], keras.layers.GlobalMaxPooling2D),
        (lambda: [keras.layers.LayerNormalization()], keras.layers.GlobalAveragePooling2D),
        (lambda: [keras.layers.Dropout(0.3, seed=1)], keras.layers.GlobalAveragePooling2D),
    ],
    ids=["norm", "relu", "gelu-max", "layer_norm", "dropout"],
)
def test_an_output_that_only_a_reduction_reads(last: Any, pooling: Any, jit: bool) -> None:
    """Compilers take such an output into the reduction, if nobody else reads it."""

    def run(scope: Any | None) -> tuple[list[bytes], Any]:
        keras.utils.set_random_seed(0)
        model = _before_a_reduction(last(), pooling())
        model.compile("sgd", "mse", jit_compile=jit)
        random = np.random.default_rng(1)
        x = random.standard_normal((24, 40, 40, 1)).astype("float32")
        y = random.standard_normal((24, 3)).astype("float32")
        history = model.fit(
            x, y, batch_size=8, verbose=0, shuffle=False, validation_data=(x[:8], y[:8]),
            callbacks=[scope] if scope else None,
        )  # fmt: skip
        return [as_bytes(v) for v in model.variables], history.history

    assert run(fs.Scope(every=1)) == run(None)


@pytest.mark.parametrize("of", ["output", ("output", "gradient")])
def test_sums_of_tensors_that_several_loops_read(of: Any) -> None:
    """A residual sum is a loop like any other, made anew where it is used."""

    def run(scope: Any | None) -> tuple[list[bytes], Any]:
        keras.utils.set_random_seed(1)
        x = start = keras.Input((4, 24))
        y = keras.layers.LayerNormalization()(x)
        x = x + keras.layers.MultiHeadAttention(2, 8)(y, y)
        for inner, between in (("relu", "silu"), ("sigmoid", None)):
            y = keras.layers.Dense(48, activation=inner)(keras.layers.LayerNormalization()(x))
            x = keras.layers.Add()([x, keras.layers.Dense(24)(y)])
            if between is not None:
                y = keras.layers.LayerNormalization()(x)
                x = x + keras.layers.Dense(24, activation=between)(y)
        model = keras.Model(start, keras.layers.Dense(1)(keras.layers.Flatten()(x)))
        model.compile("adam", "mse", jit_compile=JITS[0])
        random = np.random.default_rng(1)
        x = random.standard_normal((24, 4, 24)).astype("float32")
        y = random.standard_normal((24, 1)).astype("float32")
        history = model.fit(
            x, y, batch_size=8, verbose=0, shuffle=False, callbacks=[scope] if scope else None
        )
        return [as_bytes(v) for v in model.variables], history.history

    assert run(fs.Scope(fs.watch("**", of=of), every=1)) == run(None)


@pytest.mark.parametrize("name", ["convolutions"])
def test_values_that_are_not_finite(name: str, tmp_path: Path) -> None:
    """The loss turns NaN in the second step; with a loss scale that skips the update."""

    def run(scope: Any | None) -> list[bytes]:
        model = BY_NAME["mixed_float16"].make(optimizer=keras.optimizers.Adam(0.01))
        x, y = BY_NAME["mixed_float16"].data(4 * BATCH)
        x[BATCH] = np.nan
        x[2 * BATCH + 1] = 1e38
        model.fit(
            x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[scope] if scope else None
        )  # fmt: skip
        return [as_bytes(v) for v in [*model.variables, *model.optimizer.variables]]

    assert run(fs.Scope(every=1)) == run(None)


@pytest.mark.parametrize("every", [1, 2])
def test_train_on_batch(every: int) -> None:
    def run(scope: Any | None) -> tuple[list[bytes], list[Any]]:
        case = BY_NAME["custom_step"]
        model = case.make(optimizer=keras.optimizers.Adam(0.01))
        x, y = case.data(3 * BATCH)
        with scope.attach(model) if scope else contextlib.nullcontext():
            logs = [
                model.train_on_batch(rows(x, i, i + BATCH), rows(y, i, i + BATCH))
                for i in range(0, 3 * BATCH, BATCH)
            ]
            logs.append(model.test_on_batch(x, y))
            logs.append(model.predict_on_batch(x).tobytes())
        assert "fitscope" not in repr(model.train_function)
        values = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        return [as_bytes(v) for v in values], [
            np.asarray(log).tobytes() for log in logs[:-1]
        ] + logs[-1:]

    assert run(fs.Scope(every=every)) == run(None)


def test_evaluate_and_predict(tmp_path: Path) -> None:
    def run(scope: Any | None) -> tuple[Any, bytes, list[bytes]]:
        case = BY_NAME["convolutions"]
        model = case.make(jit_compile=JITS[0])
        x, y = case.data(2 * BATCH + 3)
        callbacks = [scope] if scope else None
        score = model.evaluate(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks)
        y = model.predict(x, batch_size=BATCH, verbose=0, callbacks=callbacks)
        return score, y.tobytes(), [as_bytes(v) for v in model.variables]

    assert run(fs.Scope(every=1)) == run(None)


# What is left after an interruption.


class Bomb(keras.callbacks.Callback):
    """Raises at a hook of the second batch."""

    def __init__(self, hook: str, error: type[BaseException]) -> None:
        super().__init__()
        self.hook, self.error = hook, error

    def _at(self, hook: str, batch: int) -> None:
        if hook == self.hook and batch == 1:
            raise self.error("stop here")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._at("begin", batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at("end", batch)


def _failing_data(x: Any, y: Any) -> Any:
    yield x[:BATCH], y[:BATCH]
    raise OSError("the disk of the data set is gone")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("hook", ["begin", "end", "data"])
def test_an_interrupted_fit_leaves_nothing(hook: str, error: type[BaseException]) -> None:
    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(2 * BATCH)
    model.fit(x, y, batch_size=BATCH, verbose=0)
    function = model.train_function
    attributes = [sorted(vars(layer)) for layer in model._flatten_layers()]
    scope = fs.Scope(every=1)
    with pytest.raises((error, OSError)):  # noqa: PT012
        if hook == "data":
            model.fit(_failing_data(x, y), shuffle=False, epochs=2, verbose=0, callbacks=[scope])
        else:
            model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[scope, Bomb(hook, error)])
    if hook == "end":
        assert model.train_function is function
    observed = scope.cost["observed_steps"]
    model.fit(x, y, batch_size=BATCH, verbose=0)
    assert model.train_function is function, "what is left behind survives the next fit"
    assert scope.cost["observed_steps"] == observed, "a fit without the scope was observed"
    found = [
        sorted(set(vars(layer)) - {"_jax_state", "_jax_state_synced"})
        for layer in model._flatten_layers()
    ]
    plain = [sorted(set(names) - {"_jax_state", "_jax_state_synced"}) for names in attributes]
    assert found == plain
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[scope])
    assert model.train_function is function
    # No thread either: the fixture of this folder looks for one after every test.


@pytest.mark.parametrize("hook", ["begin", "data"])
def test_a_fit_without_the_scope_is_not_observed_after_an_interruption(hook: str) -> None:
    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(2 * BATCH)
    scope = fs.Scope(every=1)
    with contextlib.suppress(RuntimeError, OSError):
        if hook == "data":
            model.fit(_failing_data(x, y), shuffle=False, epochs=2, verbose=0, callbacks=[scope])
        else:
            model.fit(
                x, y, batch_size=BATCH, verbose=0, callbacks=[scope, Bomb(hook, RuntimeError)]
            )
    observed = scope.cost["observed_steps"]
    model.fit(x, y, batch_size=BATCH, verbose=0)
    assert scope.cost["observed_steps"] == observed
    # The thread of the interrupted fit may live until the scope is used again.
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[scope])


def test_a_fit_without_the_scope_is_not_observed() -> None:
    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(2 * BATCH)
    scope = fs.Scope(every=1)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[scope])
    before = dict(scope.cost)
    function = model.train_function
    model.fit(x, y, batch_size=BATCH, verbose=0, validation_data=(x, y))
    assert model.train_function is function
    np.testing.assert_equal(scope.cost, before)
    assert {row["step"] for row in scope.run.stats("last", "rms")} == {0, 1}


def test_training_stopped_by_another_callback() -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(4 * BATCH)
    scope = fs.Scope(every=1)
    model.fit(x, y, batch_size=BATCH, epochs=3, verbose=0, callbacks=[scope, Stop()])
    assert {row["step"] for row in scope.run.stats("last", "rms")} == {0, 1}
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[scope])
    steps = {row["step"] for row in scope.run.stats("last", "rms")}
    assert len(steps) == 6, f"steps of two fits share numbers: {sorted(steps)}"


def test_backup_and_restore(tmp_path: Path) -> None:
    def run(folder: Path, scope: Any | None) -> list[bytes]:
        case = BY_NAME["noisy"]
        around = [scope] if scope else []
        for attempt in range(2):
            model = case.make(optimizer=keras.optimizers.Adam(0.01))
            x, y = case.data(3 * BATCH)

            class Fall(keras.callbacks.Callback):
                def on_epoch_begin(
                    self, epoch: int, logs: Any = None, attempt: int = attempt
                ) -> None:
                    if epoch == 1 and attempt == 0:
                        raise RuntimeError("power cut")

            backup = keras.callbacks.BackupAndRestore(folder, save_freq=2)
            with contextlib.suppress(RuntimeError):
                model.fit(
                    x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0,
                    callbacks=[backup, *around, Fall()],
                )  # fmt: skip
        return [as_bytes(v) for v in [*model.variables, *optimizer_variables(model)]]

    watched = run(tmp_path / "watched", fs.Scope(every=1))
    assert watched == run(tmp_path / "plain", None)


def test_summary_does_not_name_us() -> None:
    model = BY_NAME["convolutions"].make(jit_compile=JITS[0])
    x, y = BY_NAME["convolutions"].data(BATCH)
    model.fit(x, y, verbose=0, callbacks=[fs.Scope(every=1)])
    assert not re.search("fitscope", str(describe(model)))


def test_a_saved_model_loads_without_fitscope_classes(tmp_path: Path) -> None:
    model = BY_NAME["convolutions"].make(jit_compile=JITS[0])
    x, y = BY_NAME["convolutions"].data(2 * BATCH)
    path = tmp_path / "model.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_freq=1)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[fs.Scope(every=1), checkpoint])
    loaded = keras.models.load_model(path)
    for mine, theirs in zip(model.weights, loaded.weights, strict=True):
        assert as_bytes(mine) == as_bytes(theirs)


def test_the_model_can_be_collected_afterwards() -> None:
    import gc
    import weakref

    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(BATCH)
    scope = fs.Scope(every=1)
    model.fit(x, y, verbose=0, callbacks=[scope])
    run, ref = scope.run, weakref.ref(model)
    del model, scope
    keras.utils.clear_session()
    gc.collect()
    gc.collect()
    assert ref() is None, "the run keeps the model alive"
    assert len(run.sites) == 5
