"""Trains on two devices under a distribution of Keras on JAX, watched; a process of its own.

distributed.py data|model  prints what was found, as JSON
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import keras
import numpy as np
from keras import layers

import fitscope as fs

KIND = sys.argv[1]
BATCH, STEPS = 8, 4
X = np.random.default_rng(0).standard_normal((BATCH * STEPS - 2, 6)).astype("float32")
Y = X[:, :2].copy()
PORTS = ["output", "gradient", "weight", "weight_gradient", "update"]


def distribution() -> Any:
    devices = keras.distribution.list_devices()
    if KIND == "data":
        return keras.distribution.DataParallel(devices=devices)
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout["hidden/kernel"], layout["hidden/bias"] = (None, "model"), ("model",)
    layout["head/kernel"] = ("model", None)
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def model() -> Any:
    keras.utils.clear_session(free_memory=False)
    keras.distribution.set_distribution(distribution())
    keras.utils.set_random_seed(0)
    parts = [
        layers.Dense(8, activation="relu", name="hidden"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.3, name="drop"),
        layers.Dense(2, name="head"),
    ]
    made = keras.Sequential([keras.Input((6,)), *parts])
    made.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    return made


class Weights(keras.callbacks.Callback):
    """Keeps what each step found."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.found.append({v.path: np.array(v.value) for v in self.model.variables})


def fit(*callbacks: Any) -> tuple[list[bytes], Any]:
    made = model()
    how = {"batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
    history = made.fit(X, Y, validation_data=(X, Y), callbacks=list(callbacks), **how)
    optimizer: Any = made.optimizer
    variables = [*made.variables, *optimizer.variables]
    return [np.array(v.value).tobytes() for v in variables], history.history


def compared(scope: Any, weights: list[Any]) -> int:
    """Counts the statistics of each step that NumPy confirms, and raises for another."""
    run, count = scope.run, 0

    def check(site: str, step: int, x: Any) -> None:
        nonlocal count
        x = x.astype("float64")
        expected = {
            "mean": x.mean(), "std": x.std(), "rms": np.sqrt((x * x).mean()),
            "min": x.min(), "max": x.max(), "l1": np.abs(x).sum(), "zero_fraction": (x == 0).mean(),
        }  # fmt: skip
        for name, right in expected.items():
            table = run.stats(site, name, phase="train").to_pandas()
            value = table[(table.step == step) & (table.site == site)].value.item()
            near = 1e-6 * max(1e-3, float(np.abs(x).max()))
            told = f"{site} {name} {step}"
            np.testing.assert_allclose(value, right, rtol=1e-4, atol=near, err_msg=told)
            count += 1

    for step, (before, after) in enumerate(itertools.pairwise(weights)):
        first = step % STEPS * BATCH
        x, y = X[first : first + BATCH], Y[first : first + BATCH]
        path = next(p for p in before if p.endswith("hidden/kernel")).removesuffix("kernel")
        kernel, bias = before[path + "kernel"], before[path + "bias"]
        check("hidden", step, np.maximum(x.astype("float64") @ kernel + bias, 0))
        check("hidden:weight[kernel]", step, kernel)
        update = after[path + "kernel"].astype("float64") - kernel
        check("hidden:update[kernel]", step, update)
        check("hidden:weight_gradient[kernel]", step, update / -0.1)
        predicted = next(p for p in run.values("head") if (p.step, p.phase) == (step, "train"))
        if KIND == "data":
            check("head:gradient", step, 2 * (predicted.array - y) / y.size)
    return count


if __name__ == "__main__":
    keeper = Weights()
    plain = fit(keeper)
    scope = fs.Scope(fs.watch("**", of=PORTS), fs.record(["**", fs.BATCH]), every=1)
    watched = fit(scope)
    halved = fs.edit("hidden", fs.Scale(0.5))
    edited = fs.Scope(halved, fs.watch("hidden", of=["output", "before_edit"]), every=1)
    fit(edited)
    means = [
        edited.run.stats(name, "mean", phase="train").to_pandas().value.to_numpy()
        for name in ("hidden:output", "hidden:before_edit")
    ]
    print(
        json.dumps(
            {
                "same": watched == plain,
                "compared": compared(scope, keeper.found),
                "recorded": len(scope.run.values("@batch/loss")),
                "unseen": [str(gap) for gap in scope.unseen],
                "edited": len(means[0]) == 2 * STEPS and np.allclose(2 * means[0], means[1]),
            }
        )
    )
