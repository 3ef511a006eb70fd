"""The operation at fault in a replayed step: of the forward pass, the backward pass, the update."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from planted import BACKEND, BATCH, Applies, compiled, data, marked, model_of, out, same

import fitscope as fs
from fitscope.capsules import file
from fitscope.capsules.replay import replay
from fitscope.cli.main import main


def still(*inner: Any, **settings: Any) -> Any:
    return model_of(*inner, **{"optimizer": keras.optimizers.SGD(0.0), **settings})


def applied(function: Callable[[Any], Any]) -> Callable[[], Any]:
    return lambda: still(same(), Applies(function, name="planted"), out())


def two_branches() -> Any:
    inputs = keras.Input((4,))
    before = same()(inputs)
    first = Applies(lambda x: ops.sqrt(ops.abs(x)), name="planted")(before)
    total = layers.Add(name="sum")([first, same("other")(before)])
    model = keras.Model(inputs, out()(total), name="net")
    return compiled(model, optimizer=keras.optimizers.SGD(0.0))


def nested() -> Any:
    root = Applies(lambda x: ops.sqrt(ops.abs(x)), name="planted")
    block = keras.Sequential([keras.Input((4,)), same("first"), root], name="block")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, out()(block(inputs + 1.0) + block(inputs)), name="net")
    return compiled(model, optimizer=keras.optimizers.SGD(0.0))


def custom_gradient() -> Any:
    @ops.custom_gradient
    def function(x: Any) -> Any:
        def gradient(*args: Any, upstream: Any = None) -> Any:
            return (args[0] if upstream is None else upstream) / x

        return x * 1.0, gradient

    return still(same(), Applies(function, name="planted"), out())


def root_of_error(y: Any, y_pred: Any) -> Any:
    """Finite where all is zero, and its derivative is not."""
    return ops.sqrt(ops.sum(ops.square(0 * y + y_pred * 0), -1))


def huge_rate() -> Any:
    return model_of(same(), out(), optimizer=keras.optimizers.SGD(1e38))


@dataclasses.dataclass
class Fault:
    """A model, and the operation that is at fault in it, by backend."""

    make: Callable[[], Any]
    names: dict[str, str]
    part: str
    layer: str | None
    bad: int | None = 1
    of: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the backend says was differentiated."""


ROOT = {"torch": "div", "jax": "div", "tensorflow": "SqrtGrad"}
DIVISION = {"torch": "div", "jax": "div", "tensorflow": "RealDiv"}
FAULTS = {
    "operator": Fault(applied(lambda x: x / (x * 1.0)), DIVISION, "forward", "planted"),
    "derivative": Fault(
        applied(lambda x: ops.sqrt(ops.abs(x))), ROOT, "backward", "planted",
        of={"torch": "SqrtBackward0", "tensorflow": "Sqrt"},
    ),
    "one of two branches": Fault(two_branches, ROOT, "backward", "planted"),
    "nested and reused": Fault(nested, ROOT, "backward", "block/planted"),
    "custom gradient": Fault(custom_gradient, DIVISION, "backward", "planted"),
    "derivative of the loss": Fault(
        lambda: still(same(), out(), loss=root_of_error), ROOT, "backward", None, BATCH
    ),
    "update": Fault(
        huge_rate, {"torch": "_foreach_add_", "jax": "mul", "tensorflow": "Mul"},
        "update", None, None,
    ),
}  # fmt: skip


def kept(make: Callable[[], Any], run: Path) -> Path:
    keras.utils.clear_session(free_memory=False)
    x, y = marked(0.0)
    scope = fs.Scope(fs.capsule(), fs.stop_on(fs.non_finite()), run=run)
    make().fit(x, 1000 * y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=[scope])
    return file.find(run)


@pytest.mark.parametrize("name", FAULTS)
def test_the_operation_at_fault_is_named(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    folder = kept(fault.make, tmp_path / "run")
    before = _patched()
    _, eager = replay(folder, make=fault.make)
    assert _patched() == before
    made = eager.operation
    assert made is not None
    assert made.name == fault.names[BACKEND], made
    assert made.layer == fault.layer, made
    assert made.part == fault.part, made
    if fault.bad is not None:
        assert made.bad == fault.bad, made
        assert made.given is not None
        assert made.given[0] <= 0 <= made.given[1], made
    assert not fault.of or made.of == fault.of.get(BACKEND), made


def _patched() -> list[Any]:
    """What is replaced while operations are looked at."""
    found: list[Any] = [ops.log, keras.Model.train_step, keras.layers.Dense.call]
    if BACKEND == "tensorflow":
        import tensorflow as tf
        from tensorflow.python import pywrap_tfe

        found += [tf.GradientTape.gradient, pywrap_tfe.TFE_Py_FastPathExecute]
    return found


def test_the_command_with_a_function_that_gives_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FAULTS["derivative"].make
    kept(make, tmp_path / "run")
    assert "not the model itself" in capsys.readouterr().err  # a lambda cannot be written down
    assert main(["replay", str(tmp_path / "run")]) == 2
    assert "--model MODULE:FUNCTION" in capsys.readouterr().err
    module = ModuleType("my_training")
    module.make, module.nothing = make, None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_training", module)
    assert main(["replay", str(tmp_path / "run"), "--model", "my_training:make"]) == 0
    told = capsys.readouterr().out
    assert "in the backward pass of planted" in told
    assert "made 1 of" in told
    for wrong in ("my_training", "my_training:gone", "my_training:nothing", "no_such:make"):
        assert main(["replay", str(tmp_path / "run"), "--model", wrong]) == 2
        assert "--model" in capsys.readouterr().err


def test_a_weight_that_was_bad_before_is_no_operation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of(same(), layers.Dense(2, name="out"))
    kernel, bias = model.get_layer("out").get_weights()
    kernel[1, 0] = np.nan
    model.get_layer("out").set_weights([kernel, bias])
    scope = fs.Scope(fs.capsule(), run=tmp_path / "run")
    x, y = data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=[scope])
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "run")]) == 0
    assert "none; the weight was bad before the step" in capsys.readouterr().out


def overflowing_loss() -> Any:
    return still(out(), loss=keras.losses.MeanSquaredError(dtype="float16"))


def test_a_loss_that_overflows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = data()
    y[2 * BATCH + 1] = 2000
    scope = fs.Scope(fs.capsule(), run=tmp_path / "run")
    overflowing_loss().fit(x, y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=[scope])
    assert "does not write down the dtype of its loss" in capsys.readouterr().err
    folder = file.find(tmp_path / "run")
    assert folder.name == "step-000002"
    outcomes = replay(folder, make=overflowing_loss)
    assert [o.reproduced for o in outcomes] == [True, True]
    assert "the loss was +infinity, with outputs, gradients," in str(outcomes[0].reason)
    made = outcomes[1].operation
    assert made is not None
    assert (made.name, made.layer, made.bad, made.size) == ("square", None, 2, 16)
