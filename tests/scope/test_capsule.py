"""Capsules: what they hold is compared with trainings that no scope looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from custom_steps import CustomStep
from keras import layers, ops

import fitscope as fs
from fitscope.capsules import file
from fitscope.capsules.replay import made_again, rebuild, replay
from fitscope.cli.main import main
from fitscope.engine.state import State

BACKEND = keras.backend.backend()
BATCH, BAD = 8, 4
"""Batch size, and the step in which it goes wrong."""
N = 6 * BATCH + 4
"""Samples: the last batch is a short one."""


class Overflow(layers.Layer):
    """exp, which overflows for the bad batch only."""

    def call(self, x: Any) -> Any:
        return ops.exp(x)


class LogOfZero(layers.Layer):
    """log of what relu made zero."""

    def call(self, x: Any) -> Any:
        return ops.log(ops.relu(x))


CUSTOM = {"Overflow": Overflow, "LogOfZero": LogOfZero}


def data(bad: int | None = BAD, value: float = 1e4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.uniform(0.5, 1.5, (N, 4)).astype("float32")
    if bad is not None:
        x[bad * BATCH + 1] = value
    return x, random.standard_normal((N, 2)).astype("float32")


def model_of(*inner: Any, jit: bool = BACKEND == "jax") -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), *inner, layers.Dropout(0.5, seed=7), layers.Dense(2, name="out")],
        name="net",
    )
    adam = keras.optimizers.Adam(0.01)
    model.compile(adam, "mse", jit_compile=jit and BACKEND != "torch")  # type: ignore[arg-type]
    return model


def overflowing(**how: Any) -> Any:
    keras.utils.set_random_seed(0)
    first = layers.Dense(4, kernel_initializer="identity", name="first")
    return model_of(first, Overflow(name="exp"), layers.BatchNormalization(name="norm"), **how)


def fit(model: Any, *callbacks: Any, steps: int = N // BATCH + 1, **given: Any) -> Any:
    x, y = data(**given)
    rows = slice(0, steps * BATCH)
    return model.fit(
        x[rows], y[rows], batch_size=BATCH, shuffle=False, verbose="0", callbacks=list(callbacks)
    )


def values(model: Any) -> list[Any]:
    return [keras.ops.convert_to_numpy(v) for v in State(model).variables]


def same(one: Any, two: Any) -> None:
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a capsule."""
    run = tmp_path_factory.mktemp("kept") / "run"
    fit(overflowing(), fs.Scope(fs.capsule(), run=run))
    return run


def check_contents(contents: file.Contents, first: int) -> None:
    settings = contents.settings
    assert (settings["step"], settings["first_step"]) == (BAD, first)
    plain = overflowing(jit=settings["jit_compile"])
    fit(plain, steps=first)
    same(contents.state, values(plain))
    x, y = data()
    assert len(contents.batches) == BAD - first + 1
    for step, batch in enumerate(contents.batches, first):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        same(batch[:2], (x[rows], y[rows]))


def check_replay(folder: Path) -> None:
    outcomes = replay(folder, CUSTOM)
    assert [o.reproduced for o in outcomes] == [True, True]
    for each in outcomes:
        assert each.origin is not None
        assert each.origin.site == "exp"
        assert each.origin.index == (1, 0)
    made = outcomes[1].operation
    assert made is not None
    assert (made.name, made.layer, made.bad) == ("exp", "exp", 4)


def test_what_is_kept_is_from_before_the_step(kept: Path) -> None:
    folder = file.find(kept)
    check_contents(file.read(folder), BAD)
    check_replay(folder)


def test_batches_since_an_earlier_copy_of_the_weights(tmp_path: Path) -> None:
    model = overflowing()
    fit(model, fs.Scope(fs.capsule(keep_weights=3), run=tmp_path / "run"))
    folder = file.find(tmp_path / "run")
    check_contents(file.read(folder), 3)
    check_replay(folder)


def test_the_step_again_makes_the_same_weights(tmp_path: Path) -> None:
    """A limit that a finite step passes: its update, dropout included, comes out bit for bit.

    And the training with the capsule is that without.
    """
    plain, watched = overflowing(), overflowing()
    one = fit(plain, value=5.0)
    limit = fs.above("exp", "max", 50.0)
    two = fit(watched, fs.Scope(fs.capsule(limit), run=tmp_path / "run"), value=5.0)
    same(values(plain), values(watched))
    assert one.history["loss"] == two.history["loss"]
    assert np.isfinite(one.history["loss"]).all()

    folder = file.find(tmp_path / "run")
    contents = file.read(folder)
    assert contents.settings["step"] == BAD
    plain = overflowing()
    fit(plain, steps=BAD + 1, value=5.0)
    again = rebuild(contents, lambda: made_again(contents, CUSTOM))
    again.fit(*contents.batches[0][:2], batch_size=BATCH, shuffle=False, verbose="0")
    same(values(plain), values(again))
    assert [o.reproduced for o in replay(folder, CUSTOM)] == [True, True]


def test_log_of_zero_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    model = model_of(
        layers.Dense(4, kernel_initializer="identity", name="first"), LogOfZero(name="log"),
        jit=False,
    )  # fmt: skip
    scope = fs.Scope(fs.capsule(), fs.stop_on(fs.non_finite()), run=run)
    fit(model, scope, bad=6, value=-1.0)  # in the short last batch
    assert "`fitscope replay" in capsys.readouterr().err
    assert [e["step"] for e in scope.run.history if e["event"] in ("capsule", "stop")] == [6, 6]
    with keras.utils.custom_object_scope(CUSTOM):
        assert main(["replay", "--json", str(run)]) == 0
        told = json.loads(capsys.readouterr().out)
        compiled, eager = told["outcomes"]
        # TensorFlow without XLA fuses the layer away, and says so.
        hidden = compiled["unseen"] if BACKEND == "tensorflow" else []
        assert "log" in (compiled["layer"], *hidden)
        assert eager["layer"] == "log"
        assert eager["operation"] == "log"
        assert main(["replay", str(run)]) == 0
    assert "operation: log in log made 4 of 16 values not finite" in capsys.readouterr().out


def test_the_command_says_what_is_missing(
    kept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = kept
    assert main(["replay", str(run)]) == 2
    assert "--custom MODULE:NAME" in capsys.readouterr().err
    other = "torch" if BACKEND == "jax" else "jax"
    monkeypatch.setenv("KERAS_BACKEND", other)
    assert main(["replay", str(run)]) == 2
    assert f"KERAS_BACKEND={BACKEND}" in capsys.readouterr().err
    assert main(["replay", str(tmp_path)]) == 2
    assert "holds no capsule" in capsys.readouterr().err


def test_a_step_that_does_not_fail_again(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "capsule"
    shutil.copytree(file.find(kept), folder)
    with np.load(folder / "batches.npz") as batches:
        changed = {name: np.ones_like(batches[name]) for name in batches.files}
    np.savez(folder / "batches.npz", **changed)
    with keras.utils.custom_object_scope(CUSTOM):
        assert main(["replay", str(folder)]) == 1
    assert capsys.readouterr().out.count("not reproduced") == 2


def test_the_first_step_of_all(tmp_path: Path) -> None:
    """On TensorFlow that step itself builds the optimizer."""
    model = overflowing()
    fit(model, fs.Scope(fs.capsule(), run=tmp_path / "run"), steps=1, bad=0)
    fresh = overflowing()
    fresh.optimizer.build(fresh.trainable_variables)
    contents = file.read(file.find(tmp_path / "run"))
    again = rebuild(contents, lambda: made_again(contents, CUSTOM))
    same(values(fresh), values(again))


def test_a_model_that_cannot_be_kept_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = overflowing()
    model.second = keras.optimizers.SGD()
    fit(model, fs.Scope(fs.capsule(), run=tmp_path / "run"), steps=2)
    assert "it has 2 optimizers" in capsys.readouterr().err
    assert not (tmp_path / "run" / file.FOLDER).exists()


def test_arrays_and_structures_come_back(tmp_path: Path) -> None:
    half = np.arange(3, dtype=np.float32).astype(ml_dtypes.bfloat16)
    batch = ({"a": [np.eye(2), None], "b": (half,)}, np.int64(3))
    contents = file.Contents({"step": 7}, {}, [half, np.zeros((0, 2), "uint32")], [batch])
    found = file.read(file.write(tmp_path, contents))
    (x, y), state = found.batches[0], found.state
    assert x["a"][1] is None
    assert isinstance(x["b"], tuple)
    same([x["a"][0], x["b"][0], y], [np.eye(2), half, np.int64(3)])
    same(state, contents.state)
    assert [a.dtype for a in (x["b"][0], *state)] == [half.dtype, half.dtype, np.dtype("uint32")]
    with pytest.raises(fs.FitscopeError, match="keeps numbers and strings"):
        file.write(tmp_path, file.Contents({"step": 8}, {}, [], [np.array(["a", None], object)]))


def test_a_condition_that_never_holds_leaves_nothing(tmp_path: Path) -> None:
    fit(overflowing(), fs.Scope(fs.capsule(), run=tmp_path / "run"), bad=None)
    assert not (tmp_path / "run" / file.FOLDER).exists()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(fs.FitscopeError, match="whole number of steps"):
        fs.capsule(keep_weights=0)
    with pytest.raises(fs.FitscopeError, match="expected a function"):
        fs.capsule("loss > 3")  # type: ignore[arg-type]
    with pytest.raises(fs.FitscopeError, match="run="):
        fs.Scope(fs.capsule())
    with pytest.raises(fs.FitscopeError, match="takes one"):
        fs.Scope(fs.capsule(), fs.capsule(), run=tmp_path / "a")
    with pytest.raises(fs.FitscopeError, match="cannot be run"):
        fs.Scope(
            fs.capsule(),
            fs.edit("**", fs.Noise(0.1)),  # type: ignore[arg-type]
            run=tmp_path / "a",
        )


class Undefined(keras.optimizers.SGD):
    """Gradients are finite, and what it makes of them in step `BAD` and later is not."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        factor = ops.sqrt(BAD - 0.5 - ops.cast(self.iterations, "float32"))
        self.assign_sub(variable, learning_rate * gradient * factor)


@pytest.mark.parametrize("jit", [False, True] if BACKEND != "torch" else [False])
@pytest.mark.parametrize("kind", [keras.Model, CustomStep])
def test_what_is_not_finite_in_the_update_alone(kind: Any, jit: bool, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = kind(inputs, layers.Dense(2, name="out")(layers.Dense(4, name="first")(inputs)))
    model.compile(Undefined(0.01), "mse", jit_compile=jit)
    fit(model, fs.Scope(fs.capsule(), run=tmp_path / "run"), bad=None)
    folder = file.find(tmp_path / "run")
    assert file.read(folder).settings["step"] == BAD
    own = {"Undefined": Undefined, "CustomStep": CustomStep}
    outcomes = replay(folder, own)
    assert [o.reproduced for o in outcomes] == [True, True]
    for each in outcomes:
        assert each.origin is not None
        assert each.origin.site == "first:update[kernel]"
    made = outcomes[1].operation
    assert made is not None
    assert made.name.lower() == "sqrt"
