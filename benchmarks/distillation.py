"""Distillation with features matched: `fs.objective` beside `keras.distillation.Distiller`.

python -m benchmarks.distillation --backend jax

Whole fits on one batch, in turn. The distiller runs the student once for its prediction and once
more for its features; the objective takes them from the pass that the prediction came from.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

BACKENDS = ("jax", "tensorflow", "torch")
BATCH, INPUTS, CLASSES = 128, 256, 10


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--steps", type=int, default=40, help="steps of each fit")
    parser.add_argument("--rounds", type=int, default=7, help="fits of each way")
    return parser.parse_args()


def network(name: str) -> Any:
    """Six Dense layers of width 1024 with dropout; the fourth puts out the features."""
    from keras import Input, Sequential, layers

    parts: list[Any] = [Input((INPUTS,))]
    for number in range(6):
        parts.append(layers.Dense(1024, activation="relu", name=f"dense_{number}"))
        parts.append(layers.Dropout(0.1, name=f"dropout_{number}"))
    return Sequential([*parts, layers.Dense(CLASSES, "softmax", name="out")], name=name)


def ways(steps: int) -> dict[str, Callable[[], Sequence[float]]]:
    """A fit of the student alone, of the distiller, and with the objective."""
    import keras
    import numpy as np
    from keras import ops

    import fitscope as fs
    from benchmarks.models import Work
    from benchmarks.whole_fit import fitting

    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, INPUTS), np.float32)
    y = rng.integers(0, CLASSES, BATCH)
    keras.utils.set_random_seed(0)
    teacher = network("teacher")
    loss = "sparse_categorical_crossentropy"
    alone, student, taught = (network(name) for name in ("alone", "student", "taught"))
    distiller = keras.distillation.Distiller(
        teacher=keras.models.clone_model(teacher),
        student=student,
        distillation_losses=keras.distillation.FeatureDistillation(
            loss="mse", teacher_layer_name="dense_3", student_layer_name="dense_3"
        ),
    )
    for model in (alone, distiller, taught):
        model.compile("adam", loss)
    match = fs.objective(
        "dense_3", lambda a, b: ops.mean((a - b) ** 2), name="match",
        teacher=teacher, teacher_sites="dense_3",
    )  # fmt: skip
    return {
        "plain": fitting(Work(alone, x, y), steps),
        "Distiller": fitting(Work(distiller, x, y), steps),
        "objective": fitting(Work(taught, x, y), steps, fs.Scope(match)),
    }


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend
    from benchmarks.interleave import interleave
    from benchmarks.report import milliseconds, page, ratio, table

    turns = ways(options.steps)
    for turn in turns.values():
        turn()
        turn()
    timings = interleave(turns, options.rounds)
    plain = milliseconds(timings.seconds("plain") / options.steps)
    head = ["", "student alone", "Distiller", "fs.objective"]
    row = ["MLP", f"{plain} a step", ratio(timings, "Distiller"), ratio(timings, "objective")]
    print(page("Feature matching", "distillation", options.backend, table(head, [row])))


if __name__ == "__main__":
    main()
