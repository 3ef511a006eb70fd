"""Trainings written by hand, before their first step."""

from __future__ import annotations

from typing import Any

import numpy as np

from fitscope.rules.fit import (
    ArrayFact,
    Fit,
    LayerFact,
    LossFact,
    OptimizerFact,
    OutputFact,
    WeightFact,
)


def array(name: str, values: Any, **fields: Any) -> ArrayFact:
    values = np.asarray(values)
    return ArrayFact(name, values, len(values), str(values.dtype), values[:256], **fields)


def dense(path: str, shape: tuple[int, int], activation: str | None = None, **fields: Any) -> Any:
    values = fields.pop("values", None)
    if values is None:
        values = np.random.default_rng(len(path)).normal(size=shape) / np.sqrt(shape[0])
    values = np.broadcast_to(np.asarray(values, float), shape)
    trainable = fields.get("trainable", True)
    kernel = WeightFact(
        "kernel", shape, values.ravel(), bool((values == values[:, :1]).all()), trainable
    )
    return LayerFact(
        path, "Dense", activation, shape[1], parameters=values.size, weights=(kernel,),
        output_shape=(None, shape[1]), **fields,
    )  # fmt: skip


def fit_of(
    activation: str = "softmax",
    units: int = 3,
    loss: str = "sparse_categorical_crossentropy",
    x: Any = None,
    y: Any = None,
    **fields: Any,
) -> Fit:
    """A healthy classifier of three classes, but for what is said."""
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 4)) if x is None else np.asarray(x)
    y = np.arange(120) % 3 if y is None else np.asarray(y)
    from_logits = fields.pop("from_logits", False)
    hidden = dense("hidden", (4, 8), "relu")
    out = dense("out", (8, units), None if activation == "linear" else activation,
                sources=("hidden",))  # fmt: skip
    output = OutputFact(
        "out", activation, fields.pop("output_shape", (None, units)),
        LossFact(loss, from_logits), (activation,), "Dense",
    )  # fmt: skip
    given: dict[str, Any] = {
        "layers": (hidden, out), "outputs": (output,), "inputs": (array("x", x),),
        "targets": (array("y", y),), "optimizer": OptimizerFact("adam", 1e-3), "batch_size": 16,
        "steps": 8, "epochs": 20, "shuffle": True, "sequential": True, "metrics": ("accuracy",),
    }  # fmt: skip
    return Fit(**{**given, **fields})
