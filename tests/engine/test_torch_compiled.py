"""Steps that `torch.compile` compiles: the same training to the bit, and the values of the step."""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Generator
from typing import Any

import keras
import numpy as np
import pytest
from compared import as_bytes
from keras import layers, ops
from zoo import BATCH

import fitscope as fs

pytestmark = [
    pytest.mark.backends("torch"),  # no other backend compiles with torch.compile
    # Of torch itself, while it compiles; ours are RuntimeWarnings.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

PORTS = (
    "output", "gradient", "weight", "weight_gradient", "update", "input", "preactivation",
)  # fmt: skip
RATE = 0.1


@pytest.fixture(scope="module", autouse=True)
def _compiles_everywhere() -> Generator[None]:
    """Where there is no C++ compiler, Dynamo's graphs are run operation by operation."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
            patch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        yield


class Named(layers.Layer):
    """Names a tensor that no layer returns."""

    def call(self, x: Any) -> Any:
        return fs.tap(x * 2.0, "twice") + 1.0


def reused() -> Any:
    """A layer that is called twice, a normalization, and a tensor with a name."""
    x = keras.Input((5,))
    shared = layers.Dense(8, activation="tanh", name="shared")
    y = layers.Dense(8, activation="relu", name="first")(x)
    y = shared(layers.BatchNormalization(name="norm")(shared(y)))
    return keras.Model(x, layers.Dense(3, name="out")(Named(name="named")(y)))


def convolutions() -> Any:
    """Dynamo breaks Keras' step at each convolution, and at a dropout with a seed."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.3, seed=1),
            layers.Dense(3),
        ]
    )


class Weights(keras.callbacks.Callback):
    """Copies the weights before each step and after the last."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, np.ndarray]] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append({w.path: np.array(ops.convert_to_numpy(w)) for w in self.model.weights})

    def on_train_end(self, logs: Any = None) -> None:
        self.on_train_batch_begin(-1)


def trained(
    make: Any, *callbacks: Any, optimizer: str = "sgd", steps: int = 3
) -> tuple[Any, Any, Any, Any]:
    import torch

    torch.compiler.reset()  # what other tests compiled counts against what is kept of this model
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    model = make()
    chosen = keras.optimizers.SGD(RATE) if optimizer == "sgd" else optimizer
    model.compile(chosen, "mse", jit_compile=True)
    random = np.random.default_rng(1)
    x = random.standard_normal((steps * BATCH, *model.input_shape[1:])).astype("float32")
    y = random.standard_normal((steps * BATCH, 3)).astype("float32")
    history = model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=list(callbacks)
    )  # fmt: skip
    return model, x, y, history.history


def bits(model: Any) -> dict[str, bytes]:
    return {v.path: as_bytes(v) for v in [*model.variables, *model.optimizer.variables]}


@pytest.fixture(scope="module")
def observed() -> Any:
    scope, held = fs.Scope(fs.watch("**", of=PORTS), every=2), Weights()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "fitscope")  # nothing is to be warned of
        model, x, y, history = trained(reused, held, scope)
    assert scope._session is not None
    assert scope._session.broken is None
    return model, x, y, history, scope, held


def test_a_compiled_training_is_the_same_to_the_bit(observed: Any) -> None:
    model, _, _, history, scope, _ = observed
    assert scope.cost["observed_steps"] == 2
    plain, _, _, expected = trained(reused, Weights())
    assert bits(model) == bits(plain)
    assert history == expected
    assert not [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    assert not {"apply", "scale_loss"} & set(vars(model.optimizer))


@pytest.mark.skipif(
    not os.environ.get("FITSCOPE_TEST_ALL"), reason="compiles for two minutes; make test-all"
)
@pytest.mark.parametrize("every", [1, 2])
def test_a_step_in_many_pieces_is_the_same_to_the_bit(every: int) -> None:
    scope = fs.Scope(fs.watch("**", of=PORTS), every=every)
    model, _, _, history = trained(convolutions, scope, optimizer="adam", steps=4)
    plain, _, _, expected = trained(convolutions, optimizer="adam", steps=4)
    assert bits(model) == bits(plain)
    assert history == expected


def replayed(weights: dict[str, np.ndarray], x: Any, y: Any) -> dict[str, np.ndarray]:
    """Forward and backward pass of one step in float64, by torch itself, without Keras."""
    import torch

    w = {path.removeprefix("functional/"): torch.tensor(value.astype("float64")) for path, value in
         weights.items()}  # fmt: skip
    trained_ones = {k: v.requires_grad_() for k, v in w.items() if "moving" not in k}
    found: dict[str, Any] = {}

    def keep(name: str, tensor: Any) -> Any:
        tensor.retain_grad()
        found[name] = tensor
        return tensor

    def dense(name: str, value: Any, call: str = "") -> Any:
        found[f"{name}{call}:input"] = value
        return value @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    found["functional:input"] = torch.tensor(x.astype("float64"))
    a = keep("first:preactivation", dense("first", found["functional:input"]))
    a = keep("first", torch.relu(a))
    b = keep("shared#0:preactivation", dense("shared", a, "#0"))
    b = keep("shared#0", torch.tanh(b))
    found["norm:input"] = b
    mean, variance = b.mean(0), b.var(0, unbiased=False)
    n = (b - mean) / torch.sqrt(variance + 1e-3) * w["norm/gamma"] + w["norm/beta"]
    n = keep("norm", n)
    c = keep("shared#1:preactivation", dense("shared", n, "#1"))
    c = keep("shared#1", torch.tanh(c))
    found["named:input"], found["named/twice"] = c, c * 2.0
    d = keep("named", c * 2.0 + 1.0)
    out = keep("out", dense("out", d))
    ((out - torch.tensor(y.astype("float64"))) ** 2).mean().backward()
    arrays = {name: tensor.detach().numpy() for name, tensor in found.items()}
    for name in ("first", "shared#0", "norm", "shared#1", "named", "out"):
        arrays[f"{name}:gradient"] = found[name].grad.numpy()
    for path, value in w.items():
        layer, _, leaf = path.rpartition("/")
        arrays[f"{layer}:weight[{leaf}]"] = value.detach().numpy()
    for path, value in trained_ones.items():
        layer, _, leaf = path.rpartition("/")
        arrays[f"{layer}:weight_gradient[{leaf}]"] = value.grad.numpy()
        arrays[f"{layer}:update[{leaf}]"] = -RATE * value.grad.numpy()
    return arrays


def test_every_value_is_that_of_the_compiled_step(observed: Any) -> None:
    _, x, y, _, scope, held = observed
    rows = list(scope.run.stats("**", ["mean", "rms", "min", "max"]))
    seen: dict[tuple[int, str, str], float] = {
        (row["step"], row["site"], row["statistic"]): row["value"] for row in rows
    }
    for step in (0, 2):
        part = slice(step * BATCH, (step + 1) * BATCH)
        arrays = replayed(held.seen[step], x[part], y[part])
        assert {site for at, site, _ in seen if at == step} == set(arrays)
        for site, array in arrays.items():
            extent = float(np.abs(array).max())
            expected = {
                "mean": array.mean(), "rms": np.sqrt((array**2).mean()), "min": array.min(),
                "max": array.max(),
            }  # fmt: skip
            # An update is a difference of two float32 weights, which are about one.
            near = 1e-5 * extent + (2e-7 if ":update" in site else 1e-9)
            for name, value in expected.items():
                assert seen[step, site, name] == pytest.approx(value, abs=near), (step, site, name)


def test_joining_a_model_that_has_trained_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "compile", lambda function, *args, **kwargs: function)
    model, x, y, _ = trained(reused)
    with pytest.warns(RuntimeWarning, match="joins a model that has trained before") as told:
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[fs.Scope(every=2)])
    assert sum("torch.compile" in str(warning.message) for warning in told) == 1
