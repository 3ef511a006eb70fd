"""The callback: its arguments, its runs, its cost, what it says when it is given bad input."""

from __future__ import annotations

import errno
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import fitscope as fs
from fitscope.engine import keras_internals

BACKEND = keras.backend.backend()


def fit(model: Any, data: Any, *callbacks: Any, **arguments: Any) -> Any:
    return model.fit(
        *data, **{"batch_size": 8, "verbose": 0, **arguments}, callbacks=list(callbacks)
    )


def steps_of(run: Any, phase: str = "train") -> list[int]:
    return sorted({row["step"] for row in run.stats("dense_2", "rms", phase=phase)})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"every": 0}, "every=0"),
        ({"every": -1}, "every=-1"),
        ({"every": 1.5}, "every=1.5"),
        ({"every": True}, "every=True"),
        ({"budget": 0}, "budget=0"),
        ({"budget": -0.1}, "budget=-0.1"),
        ({"budget": 2}, "budget=2"),
        ({"budget": "2%"}, "budget='2%'"),
        ({"budget": float("nan")}, "budget=nan"),
    ],
    ids=str,
)
def test_arguments_that_are_not_accepted(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(fs.FitscopeError, match=says):
        fs.Scope(**arguments)


def test_a_selection_in_place_of_an_instruction_is_told() -> None:
    with pytest.raises(fs.FitscopeError, match=r"fs\.watch\('conv\*'\)"):
        fs.Scope("conv*")


def test_before_anything_is_watched() -> None:
    scope = fs.Scope()
    with pytest.raises(fs.FitscopeError, match="has not seen a model yet"):
        _ = scope.run
    assert scope.cost["steps"] == 0
    assert scope.latest() == {}
    assert scope.unseen == []
    assert list(scope.findings) == []


# Runs.


def test_the_run_is_on_disk(model: Any, data: Any, tmp_path: Path) -> None:
    scope = fs.Scope(run=tmp_path / "run", every=1)
    fit(model, data, scope, epochs=2, validation_data=data)
    read = fs.open_run(tmp_path / "run")
    assert steps_of(read) == [0, 1, 2, 3, 4, 5]
    assert steps_of(read, "validation") == [0, 1, 2, 3, 4, 5]
    assert [s.name for s in read.sites] == [s.name for s in scope.run.sites]
    mine = list(scope.run.stats("**", ["rms", "q50"]))
    assert mine == list(read.stats("**", ["rms", "q50"]))
    epochs = {row["step"]: row["epoch"] for row in read.stats("add", "rms", phase="validation")}
    assert epochs == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1}
    assert read.config["every"] == 1
    assert read.config["backend"] == BACKEND


def test_another_model_gets_a_directory_of_its_own(
    make_model: Any, data: Any, tmp_path: Path
) -> None:
    scope = fs.Scope(run=tmp_path / "run", every=1)
    fit(make_model(), data, scope)
    fit(make_model(), data, scope)
    assert [run.path for run in scope.runs] == [tmp_path / "run", tmp_path / "run-2"]
    assert fs.open_run(tmp_path / "run").status == "finished"
    assert steps_of(fs.open_run(tmp_path / "run-2")) == [0, 1, 2]


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(fs.RunExistsError, match=r"already holds note.txt.*new or empty"):
        fs.Scope(run=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_an_empty_directory_is_used(model: Any, data: Any, tmp_path: Path) -> None:
    fit(model, data, fs.Scope(run=tmp_path, every=1))
    assert steps_of(fs.open_run(tmp_path)) == [0, 1, 2]


def _unwritable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Root may write anywhere, so the refusal is the file system's answer put in by hand."""
    mkdir = os.mkdir

    def refuse(path: Any, *args: Any, **kwargs: Any) -> None:
        if str(path).startswith(str(folder)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", refuse)


def test_a_directory_that_cannot_be_written_is_told_before_training(
    model: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "locked"
    _unwritable(monkeypatch, target)
    scope = fs.Scope(run=target / "run", every=1)
    before = [w.tobytes() for w in model.get_weights()]
    threads = set(threading.enumerate())
    with pytest.raises(fs.RunError, match=r"locked.*[Pp]ermission"):
        fit(model, data, scope)
    assert [w.tobytes() for w in model.get_weights()] == before
    assert set(threading.enumerate()) == threads


def test_a_full_disk_is_one_warning(
    model: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitscope.run import stream

    scope = fs.Scope(run=tmp_path / "run", every=1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in dir(stream.StreamWriter):
        if name in ("append", "flush", "write"):
            monkeypatch.setattr(stream.StreamWriter, name, full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, data, scope, epochs=3)
    assert len(history.history["loss"]) == 3
    told = [w for w in caught if "No space left" in str(w.message)]
    assert len(told) == 1, [str(w.message) for w in caught]


# Errors of the observer.


def test_an_error_while_a_step_is_observed_is_one_warning(
    model: Any, data: Any, make_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(plain := make_model(), data, epochs=2, shuffle=False)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("inside the engine")

    from fitscope.engine.trace import Trace

    monkeypatch.setattr(Trace, "passes", broken)
    monkeypatch.setattr(Trace, "not_fired", broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, data, fs.Scope(every=1), epochs=2, shuffle=False)
    told = [str(w.message) for w in caught if "inside the engine" in str(w.message)]
    assert len(told) == 1, [str(w.message) for w in caught]
    assert "training goes on" in told[0]
    for mine, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert mine.tobytes() == theirs.tobytes()


def test_an_error_in_the_engine_s_making_is_one_warning(
    model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitscope.scope import session

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("no engine today")

    monkeypatch.setattr(session, "build", broken)
    with pytest.warns(RuntimeWarning, match="no engine today") as caught:
        fit(model, data, fs.Scope(every=1), epochs=2)
    assert len([w for w in caught if "no engine today" in str(w.message)]) == 1


def test_an_error_in_a_record_is_one_warning(
    model: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fitscope.run.writer import RunWriter

    def broken(*args: Any) -> None:
        raise ZeroDivisionError("no record today")

    monkeypatch.setattr(RunWriter, "append", broken)
    with pytest.warns(RuntimeWarning, match="no record today") as caught:
        fit(model, data, fs.Scope(every=1), epochs=2)
    assert len([w for w in caught if "no record today" in str(w.message)]) == 1


class Broken(fs.Statistic):
    name = "broken"

    def __init__(self, where: str) -> None:
        self.where = where

    def update(self, x: Any) -> Any:
        if self.where == "update":
            raise ZeroDivisionError("in update")
        if self.where == "shape":
            return ops.sum(x)
        if self.where == "dtype":
            return ops.cast(ops.reshape(ops.sum(x), (1,)), "int32")
        return ops.stack([ops.sum(x), ops.max(x)])

    def merge(self, a: Any, b: Any) -> Any:
        return a + b

    def result(self, state: Any) -> Any:
        if self.where == "result":
            raise ZeroDivisionError("in result")
        if self.where == "text":
            return "much"
        return state[0]


@pytest.mark.parametrize("where", ["shape", "dtype"])
def test_a_statistic_that_breaks_its_contract_is_told(model: Any, data: Any, where: str) -> None:
    scope = fs.Scope(fs.watch("dense_1", statistics=Broken(where)), every=1)
    with pytest.raises(fs.StatisticError, match=r"'broken'.*1-D float32"):
        fit(model, data, scope)


@pytest.mark.parametrize("where", ["update", "result", "text"])
def test_a_statistic_that_fails_does_not_stop_training(model: Any, data: Any, where: str) -> None:
    scope = fs.Scope(fs.watch("dense_1", statistics=Broken(where)), every=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, data, scope)
    assert len(history.history["loss"]) == 1
    told = [w for w in caught if "fitscope" in str(w.message)]
    unseen = [u for u in scope.unseen if u.site == "dense_1"]
    assert len(told) + len(unseen) == 1, (told, unseen)


class Choosy(fs.Statistic):
    """Fails for the tensors that have a shape."""

    name = "choosy"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def update(self, x: Any) -> Any:
        if tuple(x.shape) == self.shape:
            raise ZeroDivisionError("not that one")
        return ops.reshape(ops.sum(x), (1,))

    def merge(self, a: Any, b: Any) -> Any:
        return a + b

    def result(self, state: Any) -> Any:
        return {"sum": state[0]}


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(
    ("shape", "missing"),
    [
        ((4, 3), {"dense_2:weight[kernel]", "dense_2:update[kernel]"}),
        ((8, 3), {"dense_2"}),
    ],
)
def test_a_statistic_that_fails_for_one_tensor_leaves_the_others(
    make_model: Any, data: Any, shape: Any, missing: set[str], eager: bool
) -> None:
    watch = fs.watch("dense_*", of=["output", "weight", "update"], statistics=Choosy(shape))
    weights = []
    for scope in (fs.Scope(watch, every=1), None):
        model = make_model()
        model.run_eagerly = eager
        fit(model, data, *([scope] if scope else []))
        weights.append([w.tobytes() for w in model.get_weights()])
        if scope is None:
            continue
        assert {gap.site for gap in scope.unseen} == missing
        reason = "its statistic 'choosy' failed: ZeroDivisionError: not that one"
        assert {gap.reason for gap in scope.unseen} == {reason}
        assert {gap.remedy for gap in scope.unseen} == {
            "mend that statistic's update, or watch without it"
        }
        sums = scope.run.stats("**", "choosy.sum").to_pandas()
        assert set(sums.site) == set(scope.run.stats("**", "mean").to_pandas().site)
        assert set(sums.step) == {0, 1, 2}
        assert len(set(sums.site)) == 10 - len(missing)
    assert weights[0] == weights[1]


def test_an_error_of_the_user_s_own_step_is_theirs(data: Any) -> None:
    class Faulty(layers.Layer):
        def call(self, x: Any, training: bool = False) -> Any:
            if training:
                raise LookupError("my own mistake")
            return x

    model = keras.Sequential([keras.Input((4,)), Faulty(name="faulty"), layers.Dense(3)])
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    with pytest.raises(LookupError, match="mistake"), warnings.catch_warnings():  # noqa: PT012
        warnings.simplefilter("ignore")
        fit(model, data, fs.Scope(every=1))


# Models it cannot see, or not at once.


def test_an_unbuilt_model_is_observed_once_it_is_built(data: Any) -> None:
    model = keras.Sequential([layers.Dense(4, name="a"), layers.Dense(3, name="dense_2")])
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    scope = fs.Scope(every=1)
    fit(model, data, scope)
    found = steps_of(scope.run)
    # torch and TensorFlow build the model inside the first step.
    assert found == ([0, 1, 2] if BACKEND == "jax" else found)
    assert found[-1] == 2


@pytest.mark.backends("tensorflow")  # Keras' other trainers refuse a model that is not built
@pytest.mark.parametrize("steps", [1, 3])
def test_a_model_that_is_never_built_is_seen_or_reported(data: Any, steps: int) -> None:
    """Such as a GAN whose `call` is never used."""

    class Unbuilt(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.net = keras.Sequential(
                [keras.Input((4,)), layers.Dense(3, "relu", name="dense")], name="net"
            )

        def train_step(self, data: Any) -> Any:
            return {"loss": ops.mean(self.net(data[0], training=True))}

    model = Unbuilt()
    model.compile("sgd", jit_compile=True)
    scope = fs.Scope(every=1)
    x, y = (part[: 4 * steps] for part in data)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[scope])
    if steps == 1:
        assert [u.reason[:13] for u in scope.unseen] == ["was not built"]
    else:
        assert [s.name for s in scope.run.sites] == ["net/dense", "net"]
        assert {r["step"] for r in scope.run.stats("**", "mean")} == {1, 2}


def test_integers_are_reported_as_unseen(data: Any) -> None:
    class Rounded(layers.Layer):
        def call(self, x: Any) -> Any:
            return ops.cast(x > 0, "int32")

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape, dtype="int32")

    x = keras.Input((4,))
    y = layers.Flatten(name="flat")(
        layers.Embedding(2, 3, name="words")(Rounded(name="rounded")(x))
    )
    model = keras.Model(x, layers.Dense(3, name="dense_2")(y))
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    scope = fs.Scope(every=1)
    fit(model, data, scope)
    assert [s.name for s in scope.run.sites] == ["words", "flat", "dense_2"]
    (gap,) = scope.unseen
    assert gap.site == "rounded"
    assert "int32" in gap.reason


def test_a_layer_that_is_never_called_is_reported(data: Any) -> None:
    class Lazy(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="lazy")
            self.used = layers.Dense(3, name="used")
            self.spare = layers.Dense(3, name="spare")

        def call(self, x: Any) -> Any:
            return self.used(x)

    model = Lazy()
    model.used.build((None, 4))
    model.spare.build((None, 4))
    model.spare.trainable = False  # Keras warns of weights without a gradient
    model.built = True
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    scope = fs.Scope(every=1)
    fit(model, data, scope)
    assert [u.site for u in scope.unseen] == ["spare"]
    assert "was not called" in scope.unseen[0].reason
    assert {s.name for s in scope.run.sites} == {"used", "lazy"}


def test_an_unknown_keras_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        keras_internals, "_requirements", lambda: iter([("Layer._new_name", False)])
    )
    with pytest.raises(fs.UnsupportedError, match=r"checked on Keras .*lacks Layer\._new_name"):
        fs.Scope()


def test_an_unknown_backend_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_internals, "backend_name", lambda: "numpy")
    with pytest.raises(fs.UnsupportedError, match=r"'numpy'.*tensorflow, jax, torch"):
        fs.Scope()


def test_attach_needs_a_built_and_compiled_model(data: Any) -> None:
    unbuilt = keras.Sequential([layers.Dense(2)])
    with pytest.raises(fs.UnsupportedError, match="not built"), fs.Scope().attach(unbuilt):
        pass
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(fs.UnsupportedError, match="not compiled"), fs.Scope().attach(plain):
        pass


def test_attach_leaves_the_model_as_it_was(model: Any, data: Any) -> None:
    scope = fs.Scope(every=1)
    with pytest.raises(LookupError), scope.attach(model):  # noqa: PT012
        model.train_on_batch(*data)
        raise LookupError
    assert "fitscope" not in repr(vars(model).get("train_function"))
    model.train_on_batch(*data)
    assert steps_of(scope.run) == [0]
    with scope.attach(model):
        model.train_on_batch(*data)
    assert steps_of(scope.run) == [0, 1]


# What it tells.


def test_latest_is_the_last_step(model: Any, data: Any) -> None:
    scope = fs.Scope(every=1)
    fit(model, data, scope, validation_data=data)
    latest = scope.latest()
    assert set(latest) == {s.name for s in scope.run.sites}
    last = {
        row["site"]: row["value"] for row in scope.run.stats("**", "rms", phase="train", steps=2)
    }
    assert {site: values["rms"] for site, values in latest.items()} == last
    assert latest["add"]["histogram"].sum() == 8 * 4
    assert scope.latest("validation")["add"]["count"] == 8 * 4
    assert scope.latest("predict") == {}


def test_cost_counts_steps(model: Any, data: Any) -> None:
    scope = fs.Scope(every=2)
    fit(model, data, scope, epochs=2)
    cost = scope.cost
    assert cost["steps"] == 6
    assert cost["observed_steps"] == 3
    assert cost["seconds"] >= 0
    assert cost["share_of_time"] >= 0


def test_epochs_can_be_continued(model: Any, data: Any) -> None:
    scope = fs.Scope(every=3)
    fit(model, data, scope, epochs=2)
    fit(model, data, scope, epochs=4, initial_epoch=2)
    rows = scope.run.stats("add", "rms")
    assert [(row["step"], row["epoch"]) for row in rows] == [(0, 0), (3, 1), (6, 2), (9, 3)]


def test_no_thread_is_left(model: Any, data: Any) -> None:
    before = set(threading.enumerate())
    fit(model, data, fs.Scope(every=1), validation_data=data)
    now = set(threading.enumerate()) - before
    assert not [t for t in now if t.name.startswith("fitscope")]


def test_two_scopes_at_once_are_told(model: Any, data: Any) -> None:
    first, second = fs.Scope(fs.watch("dense_*"), every=1), fs.Scope(fs.watch("add"), every=1)
    with pytest.warns(RuntimeWarning, match="another Scope observes the same fit") as caught:
        fit(model, data, first, second)
    assert len([w for w in caught if "another Scope" in str(w.message)]) == 1
    assert [s.name for s in first.run.sites] == ["dense_1", "dense_2"]
    assert steps_of(first.run) == [0, 1, 2]


def test_findings_are_those_of_the_rules(make_model: Any, data: Any) -> None:
    model = make_model()
    model.get_layer("dense_1").set_weights([np.full((4, 4), np.nan), np.zeros(4)])
    scope = fs.Scope(every=1)
    fit(model, data, scope, epochs=2)
    assert scope.findings
    assert "dense_1" in str(scope.findings[0])


def _of_unknown_length() -> Any:
    """Three batches of eight, which Keras cannot count beforehand on any backend."""
    import tensorflow as tf

    x = np.arange(24, dtype="float32").reshape(24, 1)
    spec = tf.TensorSpec((None, 1))
    batches = [(x[i : i + 8], x[i : i + 8]) for i in (0, 8, 16)]
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=(spec, spec))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # how Keras learns its length
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_steps_are_counted_right_on_data_of_unknown_length(every: int, validate: bool) -> None:
    """On JAX and TensorFlow, Keras begins one step more than there is."""
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(2, "relu", name="d"), layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=BACKEND == "jax")
    first: dict[int, float] = {}
    scope = fs.Scope(
        fs.watch("d"),
        fs.stream("d", lambda e: first.update({e.step: float(e.batch.x[0, 0])}), every=every),
        every=every,
    )
    data = _of_unknown_length()
    model.fit(
        data, epochs=3, shuffle=False, verbose=0, callbacks=[scope],
        validation_data=data if validate else None,
    )  # fmt: skip
    assert first == {step: 8.0 * (step % 3) for step in range(0, 9, every)}
    assert scope.cost["steps"] == 9 + (9 if validate and every == 1 else 0) or (
        validate and every > 1  # how long an evaluation was is not known between observed steps
    )


@pytest.mark.parametrize("settings", [{}, {"every": 3}], ids=["budget", "every"])
def test_many_steps_of_a_loop_of_ones_own_are_timed(settings: Any, model: Any, data: Any) -> None:
    x, y = data
    scope = fs.Scope(**settings)
    with scope.attach(model):
        for _ in range(40):
            model.train_on_batch(x[:8], y[:8])
    cost = scope.cost
    assert cost["steps"] == 40
    assert 3 < cost["observed_steps"] <= 40
    assert cost["seconds"] >= 0
    model.train_on_batch(x[:8], y[:8])
