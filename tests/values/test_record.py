"""Tensors recorded into the run, from the very steps of `fit`."""

from __future__ import annotations

import errno
import os
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from replay import Snapshots, Twin, resolve
from zoo import BACKEND, BATCH, BY_NAME, Case, rows

import fitscope as fs
from fitscope.run import array_file, value_store
from fitscope.run.value_store import ValueWriter
from fitscope.scope import drain
from fitscope.select.naming import SiteName

JIT = BACKEND == "jax"
XLA = ("sequential",) if BACKEND == "tensorflow" else ()
# An eager replay is slow where steps are compiled; test_stream goes through more models.
OTHERS = ("mixed_float16", "custom_step", "recurrent")
NAMES = ("sequential", "mixed_bfloat16", *(() if JIT else OTHERS))


def fit(model: Any, x: Any, y: Any, scope: fs.Scope, **how: Any) -> Any:
    how = {"batch_size": BATCH, "epochs": 1, "shuffle": False, "verbose": 0, **how}
    callbacks = [*how.pop("callbacks", ()), scope]
    history = model.fit(x, y, callbacks=callbacks, **how)
    assert scope._session is None or scope._session.broken is None
    return history


def dense(*, out: int = 2, jit: bool = JIT, loss: Any = "mse", **how: Any) -> Any:
    """A model whose first layer hands its input on, so that rows say whose they are."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(3)
    x = keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="tanh", name="hidden")(layers.Identity(name="same")(x))
    model = keras.Model(x, layers.Dense(out, name="head")(hidden))
    model.compile("sgd", loss, jit_compile=jit, **how)
    return model


def numbered(n: int, out: int = 2) -> tuple[Any, Any]:
    """Rows that carry their number, in x and in y."""
    x = np.random.default_rng(0).standard_normal((n, 4)).astype("float32")
    x[:, 0] = np.arange(n)
    return x, np.repeat(np.arange(n, dtype="float32")[:, None], out, 1)


@pytest.mark.parametrize(
    ("case", "jit"),
    [*((BY_NAME[n], JIT) for n in NAMES), *((BY_NAME[n], True) for n in XLA)],
    ids=lambda value: value.name if isinstance(value, Case) else "jit" if value else "nojit",
)
def test_recorded_values_equal_an_eager_replay(case: Case, jit: bool, tmp_path: Path) -> None:
    model = case.make(jit_compile=jit)
    model.optimizer.build(model.trainable_variables)
    x, y = case.data(2 * BATCH)
    states = Snapshots(train=2)
    scope = fs.Scope(fs.record(["**", fs.BATCH]), run=tmp_path / "run")
    fit(model, x, y, scope, callbacks=[states], epochs=2)
    run = fs.open_run(tmp_path / "run")
    twin = Twin(case, x, y, jit=jit)
    near = {"rtol": 2e-2, "atol": 2e-2} if case.half else {"rtol": 1e-4, "atol": 1e-5}
    unseen = {u.site for u in scope.unseen}
    layer_sites = [n for n in run.recorded.names if not n.startswith("@")]
    assert layer_sites
    for step in range(4):
        twin.load(states.states["train", step])
        first = step % 2 * BATCH
        batch = rows(x, first, first + BATCH), rows(y, first, first + BATCH)
        recorder = twin.step("train", *batch)
        for name in layer_sites:
            site = SiteName.parse(name)
            call = recorder.calls[id(resolve(twin.model, site.path))][site.call or 0]
            expected, dtype = {tuple(map(str, k)): v for k, v in call.items()}[
                tuple(map(str, site.leaf))
            ]
            value = run.values(name).at(step).array
            assert str(value.dtype) == dtype
            np.testing.assert_allclose(value.astype("float32"), expected, **near, err_msg=name)
        np.testing.assert_array_equal(run.values("@batch/x").at(step).array, batch[0])
        np.testing.assert_array_equal(run.values("@batch/y").at(step).array, batch[1])
        if "@batch/y_pred" in unseen:
            continue
        ((predicted, _),) = recorder.calls[id(twin.model)][0].values()
        found = run.values("@batch/y_pred").at(step).array.astype("float32")
        np.testing.assert_allclose(found, predicted, **near)
        if case.name != "custom_step":
            loss = ((batch[1] - found) ** 2).mean(-1)
            np.testing.assert_allclose(run.values("@batch/loss").at(step).array, loss, rtol=1e-5)
    assert "@batch/y_pred" not in unseen


@pytest.mark.parametrize("name", ["convolutions", *(() if JIT else ("sequential",))])
def test_training_is_the_same_to_the_bit(name: str) -> None:
    case = BY_NAME[name]
    jit = JIT or (BACKEND == "tensorflow" and name == "convolutions")

    def train(scope: Any | None) -> tuple[list[bytes], Any]:
        model = case.make(optimizer=keras.optimizers.Adam(0.01), jit_compile=jit)
        x, y = case.data(2 * BATCH + 3)
        history = model.fit(
            x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[scope] if scope else []
        )
        found = [*model.variables, *model.optimizer.variables]
        return [np.asarray(ops.convert_to_numpy(v)).tobytes() for v in found], history.history

    scope = fs.Scope(fs.record("**", samples=slice(1, 5)), fs.record(fs.BATCH, every=2))
    assert train(scope) == train(None)
    assert [p.rows for p in scope.run.values("@batch/x")] == [8, 3, 8]
    name = next(n for n in scope.run.recorded.names if not n.startswith("@"))
    assert {p.rows for p in scope.run.values(name)} == {2, 4}


@pytest.mark.oldest_keras
def test_joined_rows_belong_together(tmp_path: Path) -> None:
    """Shuffled rows that carry their number, cut differently at each site."""
    x, y = numbered(5 * BATCH + 3)
    scope = fs.Scope(
        fs.record("same", samples=slice(2, 7)),
        fs.record("hidden", samples=slice(0, 8, 2)),
        fs.record(fs.BATCH, samples=6, every=2),
        run=tmp_path / "run",
    )
    model = dense()
    kernels: dict[int, Any] = {}

    class Weights(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            values = [
                np.array(ops.convert_to_numpy(v)) for v in self.model.get_layer("hidden").weights
            ]
            kernels[len(kernels)] = values

    fit(model, x, y, scope, epochs=2, shuffle=True, callbacks=[Weights()])
    found = fs.open_run(tmp_path / "run").join(["same", "hidden", "@batch/y", "@batch/x"])
    assert set(found["step"]) == {0, 2, 4, 6, 8, 10}
    assert set(found["position"]) == {2, 4}
    number = found["same"][:, 0].astype(int)
    assert len(set(number)) >= 6
    np.testing.assert_array_equal(found["same"], x[number])
    np.testing.assert_array_equal(found["@batch/x"], x[number])
    np.testing.assert_array_equal(found["@batch/y"], y[number])
    for row, step in enumerate(found["step"]):
        kernel, bias = kernels[step]
        expected = np.tanh(x[number[row]].astype("float64") @ kernel + bias)
        np.testing.assert_allclose(found["hidden"][row], expected, rtol=1e-4, atol=1e-5)


def test_samples_and_short_batches() -> None:
    x, y = numbered(2 * BATCH + 3)
    scope = fs.Scope(fs.record("same", samples=5), fs.record("hidden", samples=slice(4, None, 3)))
    fit(dense(), x, y, scope)
    same, hidden = scope.run.values("same"), scope.run.values("hidden")
    assert [p.positions.tolist() for p in same] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2]]
    assert [p.length for p in same] == [8, 8, 3]
    np.testing.assert_array_equal(same[2].array, x[16:19])
    assert [p.positions.tolist() for p in hidden] == [[4, 7], [4, 7], []]
    assert hidden[2].array.shape == (0, 6)
    stacked = same.rows()
    np.testing.assert_array_equal(stacked.values[:, 0], 8 * stacked.steps + stacked.positions)


def test_several_instructions_for_one_site() -> None:
    """A step that several want a site of has all rows that any of them asks for."""
    x, y = numbered(4 * BATCH)
    scope = fs.Scope(
        fs.record("same", samples=2),
        fs.record("same", samples=slice(4, 8), every=2),
        fs.record("same", every=3),
    )
    fit(dense(), x, y, scope)
    found = scope.run.values("same")
    assert [p.positions.tolist() for p in found] == [
        list(range(8)), [0, 1], list(range(8)), list(range(8)),
    ]  # fmt: skip
    for piece in found:
        np.testing.assert_array_equal(piece.array, x[8 * piece.step + piece.positions])


def test_several_dtypes_for_one_site() -> None:
    """The dtype of a step that several want a site of holds what any of them asks for."""
    x, y = numbered(8 * BATCH)
    x = (x / 3).astype("float32")
    scope = fs.Scope(
        fs.record("same", samples=2, every=2),
        fs.record("same", dtype="float16", every=3),
        fs.record([fs.BATCH, "same"], samples=slice(4, 6), dtype="bfloat16", every=4),
        fs.record(fs.BATCH, samples=1, dtype="float64", every=4),
    )
    fit(dense(), x, y, scope)
    found = scope.run.values("same")
    assert [(p.step, p.rows, str(p.array.dtype)) for p in found] == [
        (0, 8, "float32"), (2, 2, "float32"), (3, 8, "float16"), (4, 6, "float32"),
        (6, 8, "float32"),
    ]  # fmt: skip
    for piece in found:
        given = x[8 * piece.step + piece.positions]
        np.testing.assert_array_equal(piece.array, given.astype(piece.array.dtype))
    for piece in scope.run.values("@batch/x"):
        assert piece.array.dtype == "float64"
        assert piece.positions.tolist() == list(range(6))
        np.testing.assert_array_equal(piece.array, x[8 * piece.step + piece.positions])


def test_dtypes() -> None:
    x, y = numbered(BATCH)
    scope = fs.Scope(fs.record("hidden", dtype="float16"), fs.record("head", dtype="bfloat16"))
    fit(dense(), x, y, scope)
    assert scope.run.values("hidden")[0].array.dtype == np.float16
    assert scope.run.values("head")[0].array.dtype.name == "bfloat16"
    assert scope.run.recorded["head"].dtype == "bfloat16"


class Odd(layers.Layer):
    """What layers may put out: numbers of all kinds, in a dict, and a scalar."""

    def call(self, x: Any) -> Any:
        return {
            "large": x > 1.0,
            "bin": ops.cast(x, "int32"),
            "mean": ops.mean(x),
            "none": x[:, :0],
            "same": x,
        }


def test_outputs_of_all_kinds(tmp_path: Path) -> None:
    keras.utils.clear_session(free_memory=False)

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.odd = Odd(name="odd")
            self.head = layers.Dense(2, name="head")

        def call(self, x: Any) -> Any:
            return self.head(self.odd(x)["same"])

    model = Model()
    model.compile("sgd", "mse", jit_compile=JIT)
    x, y = numbered(2 * BATCH)
    model(x[:2])
    scope = fs.Scope(fs.record(["odd", fs.BATCH]), run=tmp_path / "run")
    fit(model, x, y, scope)
    run = fs.open_run(tmp_path / "run")
    last = {name: run.values(f"odd[{name}]").at(1).array for name in ("large", "bin", "mean")}
    np.testing.assert_array_equal(last["large"], x[8:] > 1.0)
    np.testing.assert_array_equal(last["bin"], x[8:].astype("int32"))
    assert last["large"].dtype == bool
    assert last["mean"].shape == ()
    np.testing.assert_allclose(last["mean"], x[8:].mean(), rtol=1e-5)
    assert run.values("odd[none]")[0].array.shape == (8, 0)
    with pytest.raises(fs.RunError, match=r"one row for each sample.*'odd\[mean\]' has 1"):
        run.join(["odd[same]", "odd[mean]"])
    assert [u for u in scope.unseen if "odd" in u.site] == []


def test_sequences_of_varying_length(tmp_path: Path) -> None:
    keras.utils.clear_session(free_memory=False)
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.Identity(name="steps"), layers.GRU(4, name="gru")]
    )
    model.compile("sgd", "mse", jit_compile=False)
    rng = np.random.default_rng(1)
    batches = [
        (rng.standard_normal((n, t, 3)).astype("float32"), np.zeros((n, 4), "float32"))
        for n, t in ((4, 5), (4, 2), (3, 5), (2, 7))
    ]
    scope = fs.Scope(fs.record(["steps", "gru"]), run=tmp_path / "run")
    with scope.attach(model):
        for x, y in batches:
            model.train_on_batch(x, y)
    found = fs.open_run(tmp_path / "run").values("steps")
    assert found.steps.tolist() == [0, 1, 2, 3]
    for piece, (x, _) in zip(found, batches, strict=True):
        np.testing.assert_array_equal(piece.array, x)
    with pytest.raises(fs.RunError, match="differ in shape"):
        found.rows()
    assert len(fs.open_run(tmp_path / "run").values("gru").rows().values) == 13


class Sequences(keras.utils.PyDataset):
    """Batches of several lengths whose rows carry their number."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Any] = []
        ids = np.arange(15, dtype="int32")
        rng = np.random.default_rng(2)
        for first, n, length in ((0, 4, 5), (4, 4, 2), (8, 4, 5), (12, 3, 2)):
            own = ids[first : first + n]
            x = rng.standard_normal((n, length, 3)).astype("float32")
            x[:, :, 0] = own[:, None]
            self.batches.append(({"x": x, "id": own}, own[:, None].astype("float32")))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


@pytest.mark.parametrize("at_once", [1] if BACKEND == "torch" else [1, 3])
def test_sequences_in_fit(at_once: int, tmp_path: Path) -> None:
    """Beside slices of the batch, ids, several steps in one execution and a validation."""
    keras.utils.clear_session(free_memory=False)
    x, number = keras.Input((None, 3), name="x"), keras.Input((), name="id", dtype="int32")
    mean = layers.GlobalAveragePooling1D(name="mean")(layers.Identity(name="same")(x))
    model = keras.Model({"x": x, "id": number}, layers.Dense(1, name="head")(mean))
    model.compile("sgd", "mse", jit_compile=JIT, steps_per_execution=at_once)
    data, phases = Sequences(), ("train", "validation")
    scope = fs.Scope(
        fs.record("same", samples=2, phases=phases),
        fs.record(["mean", fs.BATCH], samples=slice(1, 4, 2), sample_id="id", phases=phases),
        run=tmp_path / "run",
    )
    model.fit(data, epochs=2, shuffle=False, verbose=0, validation_data=data, callbacks=[scope])
    assert scope._session is not None
    assert scope._session.broken is None
    run = fs.open_run(tmp_path / "run")
    for phase in phases:
        for piece in run.values("same", phase=phase):
            given = data[piece.step % 4][0]["x"]
            np.testing.assert_array_equal(piece.array, given[:2])
            assert piece.length == len(given)
        assert run.values("same", phase=phase).steps.tolist() == list(range(8))
        found = run.join(["@batch/sample_id", "mean", "@batch/y"], phase=phase)
        assert found["@batch/sample_id"].tolist() == [1, 3, 5, 7, 9, 11, 13] * 2
        np.testing.assert_array_equal(found["@batch/y"][:, 0], found["@batch/sample_id"])
        rows_of = {
            int(i): row for x, _ in data.batches for i, row in zip(x["id"], x["x"], strict=True)
        }
        means = [rows_of[int(i)].astype("float64").mean(0) for i in found["@batch/sample_id"]]
        np.testing.assert_allclose(found["mean"], means, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras' torch trainer runs one step per execution")
def test_several_steps_per_execution() -> None:
    x, y = numbered(7 * BATCH)
    scope = fs.Scope(fs.record("same", samples=2, every=3), fs.record(fs.BATCH, every=3))
    fit(dense(jit=True, steps_per_execution=4), x, y, scope, epochs=2)
    found = scope.run.values("same")
    assert found.steps.tolist() == [0, 3, 6, 9, 12]
    for piece, batch in zip(found, scope.run.values("@batch/x"), strict=True):
        first = piece.step % 7 * BATCH
        np.testing.assert_array_equal(piece.array, x[first : first + 2])
        np.testing.assert_array_equal(batch.array, x[first : first + BATCH])


def test_phases_and_memory() -> None:
    x, y = numbered(BATCH)
    scope = fs.Scope(fs.record("same", phases=["validation", "predict"]))
    model = dense()
    fit(model, x, y, scope, validation_data=(x, y), validation_batch_size=BATCH)
    model.predict(x, batch_size=BATCH, verbose=0, callbacks=[scope])
    assert scope.run.values("same").phases == ["validation", "predict"]
    assert len(scope.run.values("same", phase="predict")) == 1
    with pytest.raises(fs.RunError, match=r"several phases.*Give phase="):
        scope.run.values("same").at(0)


def test_a_buffer_that_the_data_use_again() -> None:
    x, y = numbered(4 * BATCH)

    def batches() -> Any:
        held = np.empty((BATCH, 4), "float32")
        for i in range(4):
            held[:] = x[8 * i : 8 * i + 8]
            yield held, y[8 * i : 8 * i + 8]

    model = dense()
    scope = fs.Scope(fs.record(["same", fs.BATCH]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how Keras learns the length
        model.fit(batches(), verbose=0, callbacks=[scope])
    inputs, same = scope.run.values("@batch/x").arrays, scope.run.values("same").arrays
    for given, seen in zip(inputs, same, strict=True):
        np.testing.assert_array_equal(given, seen)


class SlowDisk:
    """Each append takes a while, so the training runs ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        append = ValueWriter.append

        def slow(writer: Any, values: Any) -> None:
            time.sleep(seconds)
            append(writer, values)

        monkeypatch.setattr(ValueWriter, "append", slow)


def test_a_disk_slower_than_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, y = numbered(40 * BATCH)
    one = BATCH * 4 * 4 + BATCH * 4 * 4 + BATCH * 2 * 4  # `same`, x and y
    monkeypatch.setattr(drain, "VALUE_BYTES", 6 * one)
    SlowDisk(monkeypatch, 0.05)
    held: list[int] = []
    put = drain.Drain.put

    def watched(self: Any, pending: Any) -> None:
        put(self, pending)
        held.append(self._value_bytes)

    monkeypatch.setattr(drain.Drain, "put", watched)
    scope = fs.Scope(fs.record("same"), run=tmp_path / "run")
    with pytest.warns(RuntimeWarning, match=r"did not record the values of \d+ steps"):
        fit(dense(), x, y, scope)
    run = fs.open_run(tmp_path / "run")
    found = run.values("same")
    assert 0 < run.lost_values < 40
    assert len(found) == 40 - run.lost_values
    assert found.steps[-1] == 39  # the oldest are let go
    assert max(held) <= 7 * one
    for piece in found:
        np.testing.assert_array_equal(piece.array, x[8 * piece.step : 8 * piece.step + 8])


def test_streams_wait_where_recording_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "VALUE_BYTES", 1)
    monkeypatch.setattr(drain, "STREAM_LIMIT", 2)
    SlowDisk(monkeypatch, 0.01)
    steps: list[int] = []
    x, y = numbered(10 * BATCH)
    scope = fs.Scope(fs.record("same"), fs.stream("same", lambda e: steps.append(e.step)))
    fit(dense(), x, y, scope)
    assert steps == scope.run.values("same").steps.tolist() == list(range(10))
    assert scope.run.lost_values == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails(code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that was recorded is lost, one message is clear, the training goes on."""
    x, y = numbered(6 * BATCH)
    real, room = array_file._write_at, [0]

    def write(file: int, buffers: list[Any], offset: int) -> None:
        room[0] -= sum(b.nbytes for b in buffers)
        if room[0] < 0:
            os.write(file, buffers[0][: len(buffers[0]) // 2])  # a part gets through
            raise OSError(code, os.strerror(code))
        real(file, buffers, offset)

    monkeypatch.setattr(array_file, "_write_at", write)
    monkeypatch.setattr(value_store, "BUFFER_BYTES", 0)  # each step is written at once
    room[0] = 60_000
    model = dense()
    scope = fs.Scope(fs.record("same"), run=tmp_path / "run")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = fit(model, x, y, scope)
        first = len(scope.run.values("same"))
        room[0] = 0
        fit(model, x, y, scope)
    assert len(history.history["loss"]) == 1
    ours = [str(w.message) for w in told if "fitscope" in str(w.message)]
    assert len(ours) == 1
    assert os.strerror(code) in ours[0]
    assert "Training goes on" in ours[0]
    assert first == 6
    assert scope.run.values("same").steps.tolist() == list(range(12))  # memory has the rest
    on_disk = fs.open_run(tmp_path / "run")
    assert on_disk.values("same").steps.tolist() == list(range(6))
    assert on_disk.lost_values == 6
    for piece in on_disk.values("same"):
        np.testing.assert_array_equal(piece.array, x[8 * piece.step : 8 * piece.step + 8])


def test_a_directory_that_holds_a_run(tmp_path: Path) -> None:
    x, y = numbered(BATCH)
    fit(dense(), x, y, fs.Scope(fs.record("same"), run=tmp_path / "run"))
    with pytest.raises(fs.RunExistsError, match=r"already holds a run.*new or empty"):
        fs.Scope(fs.record("same"), run=tmp_path / "run")


def test_two_runs_in_one_directory(tmp_path: Path) -> None:
    """The second is told before its training begins, and the first goes on."""
    x, y = numbered(4 * BATCH)
    path, told = tmp_path / "run", []
    early = fs.Scope(fs.record("same"), run=path)  # nobody had it yet

    class Beside(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch != 1:
                return
            other = dense()
            before = [w.tobytes() for w in other.get_weights()]
            for attempt in (
                lambda: fs.Scope(fs.record("same"), run=path),
                lambda: other.fit(x, y, verbose=0, callbacks=[early]),
                lambda: fs.extractor(other, "same").to_run(path, x),
            ):
                with pytest.raises(fs.RunError) as caught:
                    attempt()
                told.append(str(caught.value))
            assert [w.tobytes() for w in other.get_weights()] == before

    scope = fs.Scope(fs.record("same"), run=path)
    history = fit(dense(), x, y, scope, callbacks=[Beside()])
    assert len(history.history["loss"]) == 1
    assert len(told) == 3
    for message in told:
        assert f"is being written by process {os.getpid()}" in message
        assert "new or empty" in message
    run = fs.open_run(path)
    assert run.values("same").steps.tolist() == [0, 1, 2, 3]
    for piece in run.values("same"):
        np.testing.assert_array_equal(piece.array, x[8 * piece.step : 8 * piece.step + 8])


def test_preview_tells_what_recording_takes() -> None:
    scope = fs.Scope(fs.record(["same", "hidden"], samples=4, dtype="float16"), fs.record(fs.BATCH))
    text = str(scope.preview(dense()))
    assert "a recorded step writes" in text


def test_errors_say_what_to_do() -> None:
    with pytest.raises(fs.FitscopeError, match=r"samples=0.*1 or more"):
        fs.record("a", samples=0)
    with pytest.raises(fs.FitscopeError, match=r"samples=slice\(-4.*from the beginning"):
        fs.record("a", samples=slice(-4, None))
    with pytest.raises(fs.FitscopeError, match=r"dtype='int8'.*'bfloat16'"):
        fs.record("a", dtype="int8")
    with pytest.raises(fs.FitscopeError, match="every=0"):
        fs.record("a", every=0)
    with pytest.raises(fs.SelectionError, match=r"phases='fit'"):
        fs.record("a", phases="fit")
    with pytest.raises(fs.FitscopeError, match=r"sample_id=True.*key of a dict"):
        fs.record(fs.BATCH, sample_id=True)
    with pytest.raises(fs.SelectionError, match=r"fs\.record\(fs\.BATCH\)"):
        fs.watch(fs.BATCH)
    x, y = numbered(BATCH)
    with pytest.raises(fs.SelectionError, match=r"hiden.*hidden"):
        fit(dense(), x, y, fs.Scope(fs.record("hiden")))
    scope = fs.Scope(fs.record("hidden"))
    fit(dense(), x, y, scope)
    with pytest.raises(fs.SelectionError, match=r"head.*hidden"):
        scope.run.values("head")
    with pytest.raises(fs.RunError, match=r"not recorded at step 7.*1 recordings"):
        scope.run.values("hidden").at(7)
    watched = fs.Scope(fs.watch("hidden"))
    fit(dense(), x, y, watched)
    with pytest.raises(fs.SelectionError, match=r"recorded no tensors.*fs\.record"):
        watched.run.values("hidden")
