"""A `fit` that records, for a process of its own: to be killed, or to lose its disk.

fit_recorder.py kill PATH         trains until it is killed; says each step
fit_recorder.py read-only FOLDER  mounts a disk there that becomes read-only in the middle;
needs a mount namespace of its own
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from typing import Any

import keras
import numpy as np

import fitscope as fs

BATCH, STEPS = 8, 30
mode, folder = sys.argv[1:]


def data(steps: int) -> tuple[Any, Any]:
    """Rows that carry their number."""
    x = np.zeros((steps * BATCH, 4), "float32")
    x[:, 0] = np.arange(len(x))
    return x, np.zeros((len(x), 1), "float32")


def model() -> Any:
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    same = keras.layers.Identity(name="same")(x)
    found = keras.Model(x, keras.layers.Dense(1, name="head")(same))
    found.compile(keras.optimizers.SGD(1e-9), "mse", jit_compile=keras.backend.backend() == "jax")
    return found


def right_steps(run: Any) -> list[int]:
    """The recorded steps whose rows are those of the step."""
    rows = np.arange(BATCH)
    return [
        int(piece.step)
        for piece in run.values("same")
        if (piece.array[:, 0] == piece.step % STEPS * BATCH + rows).all()
    ]


class Each(keras.callbacks.Callback):
    """Calls a function after each batch."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.function(batch)


def fit(scope: fs.Scope, trained: Any, function: Any, epochs: int) -> Any:
    x, y = data(STEPS)
    how = {"batch_size": BATCH, "shuffle": False, "verbose": 0, "epochs": epochs}
    return trained.fit(x, y, callbacks=[Each(function), scope], **how)


def read_only() -> None:
    disk = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    subprocess.run(disk, check=True)
    scope = fs.Scope(fs.record(["same", fs.BATCH]), run=f"{folder}/run")
    trained = model()

    def lock(batch: int) -> None:
        if batch == STEPS // 3:
            while "same" not in scope.run.recorded.names:  # the first step may take its time
                time.sleep(0.01)
            # What is there is flushed by whoever asks for it.
            before.append(len(scope.run.values("same")))
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)

    before: list[int] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        history = fit(scope, trained, lock, 1)
        live = right_steps(scope.run)
        on_disk = right_steps(fs.open_run(f"{folder}/run"))
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        fit(scope, trained, lambda batch: None, 1)
    after = fs.open_run(f"{folder}/run")
    print(
        json.dumps(
            {
                "epochs": len(history.history["loss"]),
                "before": before[0],
                "live": live,
                "on_disk": on_disk,
                "after": right_steps(after),
                "lost": after.lost_values,
                "told": [str(w.message) for w in told if "fitscope" in str(w.message)],
            }
        )
    )


if mode == "kill":
    scope = fs.Scope(fs.record(["same", fs.BATCH]), run=folder)

    def say(batch: int) -> None:
        print(batch, flush=True)
        time.sleep(0.02)  # tiny steps would come faster than they can be recorded

    fit(scope, model(), say, 10**6)
else:
    read_only()
