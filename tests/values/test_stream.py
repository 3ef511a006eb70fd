"""Values of the very steps of `fit`, called back on the host."""

from __future__ import annotations

import threading
import time
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from replay import Snapshots, Twin, resolve
from zoo import ALL, BACKEND, BATCH, BY_NAME, Case, rows

import fitscope as fs
from fitscope.select.naming import SiteName

# Compilation and an eager replay take long; the engine's own tests go through all models.
FEW = (
    "sequential", "nested", "siamese", "recurrent", "transformer", "trees", "mixed_bfloat16",
    "custom_step", "gan",
)  # fmt: skip
CASES = [
    case
    for case in ALL
    if case.name in FEW
    or (BACKEND == "torch" and case.name not in ("channels_first", "two_outputs"))
]
# XLA compiles a step of TensorFlow for seconds; there a few cases stand for all.
JIT = BACKEND == "jax"
XLA = ("sequential", "custom_step") if BACKEND == "tensorflow" else ()


class Kept:
    """A function for a stream that keeps its events."""

    def __init__(self) -> None:
        self.events: list[fs.Event] = []
        self.threads: set[str] = set()

    def __call__(self, event: fs.Event) -> None:
        self.threads.add(threading.current_thread().name)
        self.events.append(event)


def _fit(
    case: Case, scope: fs.Scope, *, n: int = 2 * BATCH, callbacks: Any = (), **how: Any
) -> Any:
    model = case.make(jit_compile=how.pop("jit", JIT))
    if case.name != "gan":  # which has two, and builds them
        model.optimizer.build(model.trainable_variables)  # or the first state lacks their variables
    x, y = case.data(n)
    how = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0, **how}
    model.fit(x, y, callbacks=[*callbacks, scope], **how)
    assert scope._session is None or scope._session.broken is None
    return model


@pytest.mark.parametrize(
    ("case", "jit"),
    [*((case, JIT) for case in CASES), *((BY_NAME[name], True) for name in XLA)],
    ids=lambda value: value.name if isinstance(value, Case) else "jit" if value else "nojit",
)
def test_the_values_are_those_of_the_step(case: Case, jit: bool) -> None:
    """Each equals an eager replay of the same step; the batch is the one that made them."""
    seen, states = Kept(), Snapshots(train=2)
    scope = fs.Scope(fs.stream("**", seen))
    _fit(case, scope, callbacks=[states], jit=jit)
    assert [e.step for e in seen.events] == [0, 1, 2, 3]
    assert [e.epoch for e in seen.events] == [0, 0, 1, 1]
    x, y = case.data(2 * BATCH)
    twin = Twin(case, x, y, jit=jit)
    # A replay sums in another order than the compiled step, and half precision shows it.
    near = {"rtol": 2e-2, "atol": 2e-2} if case.half else {"rtol": 1e-4, "atol": 1e-5}
    for event in seen.events:
        twin.load(states.states["train", event.step])
        first = event.step % 2 * BATCH
        batch = rows(x, first, first + BATCH), None if y is None else rows(y, first, first + BATCH)
        recorder = twin.step("train", *batch)
        assert event.values
        for name, value in event.values.items():
            site = SiteName.parse(name)
            kept = recorder.calls[id(resolve(twin.model, site.path))][site.call or 0]
            expected, dtype = {tuple(map(str, k)): v for k, v in kept.items()}[
                tuple(map(str, site.leaf))
            ]
            assert str(value.dtype) == dtype
            np.testing.assert_allclose(value.astype("float32"), expected, **near, err_msg=name)
        for given, expected in zip((event.batch.x, event.batch.y), batch, strict=True):
            flat = [np.asarray(a) for a in keras.tree.flatten(given)]
            for a, b in zip(flat, keras.tree.flatten(expected), strict=True):
                if b is not None:
                    np.testing.assert_array_equal(a, b)
    assert seen.threads == {"fitscope-drain"}


@pytest.mark.parametrize(
    ("name", "jit"),
    [
        *((n, JIT) for n in ("sequential", "noisy", "convolutions", "custom_step")),
        *((n, True) for n in XLA),
    ],
)
def test_training_is_the_same_to_the_bit(name: str, jit: bool) -> None:
    case = BY_NAME[name]

    def run(scope: Any | None) -> list[bytes]:
        model = case.make(optimizer=keras.optimizers.Adam(0.01), jit_compile=jit)
        x, y = case.data(2 * BATCH + 3)
        model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[scope] if scope else [])
        return [np.asarray(ops.convert_to_numpy(v)).tobytes() for v in model.variables]

    seen = Kept()
    assert run(fs.Scope(fs.stream("**", seen, every=2))) == run(None)
    assert [len(next(iter(e.values.values()))) for e in seen.events] == [8, 3, 8]


def test_every_and_budget() -> None:
    a, b = Kept(), Kept()
    scope = fs.Scope(fs.stream("first", a, every=3), fs.stream("second", b, every=4))
    _fit(BY_NAME["sequential"], scope, n=5 * BATCH)
    assert [e.step for e in a.events] == [0, 3, 6, 9]
    assert [e.step for e in b.events] == [0, 4, 8]
    assert {tuple(e.values) for e in a.events} == {("first",)}
    assert {tuple(e.values) for e in b.events} == {("second",)}
    assert scope.cost["observed_steps"] == 6  # no more than what was asked for
    assert sorted(set(scope.run.stats("*", "mean").to_pandas()["step"])) == [
        0,
        3,
        4,
        6,
        8,
        9,
    ]


@pytest.mark.oldest_keras
def test_beside_watching() -> None:
    seen = Kept()
    scope = fs.Scope(fs.watch("second"), fs.stream("first", seen, every=3), every=2)
    _fit(BY_NAME["sequential"], scope, n=4 * BATCH, epochs=1)
    assert [e.step for e in seen.events] == [0, 3]
    assert sorted(set(scope.run.stats("second", "mean").to_pandas()["step"])) == [0, 2, 3]


@pytest.mark.skipif(BACKEND == "torch", reason="Keras' torch trainer runs one step per execution")
def test_several_steps_per_execution() -> None:
    seen = Kept()
    case = BY_NAME["sequential"]
    model = case.make(jit_compile=True, steps_per_execution=4)
    x, y = case.data(7 * BATCH)
    scope = fs.Scope(fs.stream("first", seen, every=3))
    model.fit(x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[scope])
    assert [e.step for e in seen.events] == [0, 3, 6, 9, 12]
    for event in seen.events:
        first = event.step % 7 * BATCH
        np.testing.assert_array_equal(event.batch.x, x[first : first + BATCH])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # how Keras learns its length
def test_epoch_ends() -> None:
    known, unknown = Kept(), Kept()
    case = BY_NAME["sequential"]
    scope = fs.Scope(fs.stream("first", known, at="epoch_end", phases=["train", "validation"]))
    x, y = case.data(3 * BATCH)
    _fit(case, scope, n=3 * BATCH, validation_data=(x[:12], y[:12]), validation_batch_size=BATCH)
    assert [(e.phase, e.step, e.epoch) for e in known.events if e.phase == "train"] == [
        ("train", 2, 0),
        ("train", 5, 1),
    ]
    ends = [e for e in known.events if e.phase == "validation"]
    assert [e.step for e in ends] == [1, 3]
    np.testing.assert_array_equal(ends[0].batch.x, x[8:12])

    def batches() -> Any:
        for i in range(3):
            yield rows(x, 8 * i, 8 * i + 8), rows(y, 8 * i, 8 * i + 8)

    model = case.make(jit_compile=JIT)
    scope = fs.Scope(fs.stream("first", unknown, at="epoch_end"))
    model.fit(batches(), shuffle=False, verbose=0, callbacks=[scope])
    assert len(unknown.events) == 1
    np.testing.assert_array_equal(unknown.events[0].batch.x, x[16:])


def test_phases() -> None:
    seen = Kept()
    case = BY_NAME["sequential"]
    scope = fs.Scope(fs.stream("first", seen, phases=["validation", "test", "predict"]))
    x, y = case.data(BATCH)
    model = _fit(case, scope, n=BATCH, validation_data=(x, y), validation_batch_size=BATCH)
    model.evaluate(x, y, batch_size=BATCH, verbose=0, callbacks=[scope])
    model.predict(x, batch_size=BATCH, verbose=0, callbacks=[scope])
    assert [e.phase for e in seen.events] == ["validation", "validation", "test", "predict"]
    assert seen.events[-1].batch.y is None


def test_sample_weights_are_in_the_batch() -> None:
    seen = Kept()
    case = BY_NAME["sequential"]
    w = np.arange(2 * BATCH, dtype="float32")
    _fit(case, fs.Scope(fs.stream("first", seen)), sample_weight=w, epochs=1)
    np.testing.assert_array_equal([e.batch.sample_weight for e in seen.events], w.reshape(2, -1))


def test_a_function_that_fails_is_told_once_and_called_again() -> None:
    steps: list[int] = []

    def fails(event: fs.Event) -> None:
        steps.append(event.step)
        raise ValueError("no thanks")

    with pytest.warns(RuntimeWarning, match=r"(?s)step 0; training goes on.*no thanks") as told:
        _fit(BY_NAME["sequential"], fs.Scope(fs.stream("first", fails)))
    assert steps == [0, 1, 2, 3]
    assert len([w for w in told if "no thanks" in str(w.message)]) == 1


def test_a_function_can_end_the_training() -> None:
    def stops(event: fs.Event) -> None:
        if event.step == 3:
            raise fs.Stop

    ended: list[int] = []

    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            time.sleep(0.05)  # the function is called within this time
            ended.append(batch)

    _fit(
        BY_NAME["sequential"], fs.Scope(fs.stream("first", stops)), n=20 * BATCH, callbacks=[Slow()]
    )
    assert 4 <= len(ended) < 20


def test_a_slow_function_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fitscope.scope.drain.STREAM_LIMIT", 2)
    seen = Kept()

    def slow(event: fs.Event) -> None:
        time.sleep(0.02)
        seen(event)

    _fit(BY_NAME["sequential"], fs.Scope(fs.stream("first", slow)), n=10 * BATCH)
    assert [e.step for e in seen.events] == list(range(20))


def test_in_a_loop_of_ones_own() -> None:
    seen = Kept()
    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JIT)
    x, y = case.data(3 * BATCH)
    with fs.Scope(fs.stream("first", seen)).attach(model):
        for i in range(3):
            model.train_on_batch(rows(x, 8 * i, 8 * i + 8), rows(y, 8 * i, 8 * i + 8))
    assert [e.step for e in seen.events] == [0, 1, 2]
    np.testing.assert_array_equal(np.concatenate([e.batch.x for e in seen.events]), x)


class InPlace(layers.Layer):
    def call(self, x: Any) -> Any:
        return x.mul_(2.0)


@pytest.mark.backends("torch")
def test_a_later_layer_that_works_in_place() -> None:
    """On torch alone a tensor can change after it was streamed."""
    seen = Kept()
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, name="d"), InPlace(), layers.Dense(1, name="o")]
    )
    model.compile("sgd", "mse", jit_compile=False)
    x = np.ones((4, 5), "float32")
    kernel, bias = (ops.convert_to_numpy(v) for v in model.get_layer("d").weights)
    model.fit(x, x[:, :1], verbose=0, callbacks=[fs.Scope(fs.stream("d", seen))])
    np.testing.assert_allclose(seen.events[0].values["d"], x @ kernel + bias, rtol=1e-5)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(fs.FitscopeError, match=r"expected a function of one fs\.Event"):
        fs.stream("first", "print")  # type: ignore[arg-type]
    with pytest.raises(fs.FitscopeError, match="every=0"):
        fs.stream("first", print, every=0)
    with pytest.raises(fs.FitscopeError, match=r"at='epoch'.*'step' or 'epoch_end'"):
        fs.stream("first", print, at="epoch")
    with pytest.raises(fs.SelectionError, match=r"phases='fit'.*'train'"):
        fs.stream("first", print, phases="fit")
    with pytest.raises(fs.SelectionError, match="Did you mean 'gradient'"):
        fs.stream("first", print, of="gradients")
    with pytest.raises(fs.SelectionError, match="frist"):
        _fit(BY_NAME["sequential"], fs.Scope(fs.stream("frist", print)))
