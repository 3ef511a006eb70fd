"""Weights, and layers that keep others from learning."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.doctor.faults.fault import Family
from benchmarks.doctor.program import Program

LAYERS = Family()
_fault = LAYERS.fault


@_fault("layer_left_behind", "weights_barely_moved", "vanishing_gradients", at=("dense", "fit"))
def thin_gradient(p: Program) -> bool | None:
    if len(p.hidden()) < 2 or p.x.ndim != 2:
        return False
    p.layers.insert(1, ("ThinGradient", {"name": "thin"}))
    p.optimizer, p.settings = "SGD", {"learning_rate": 0.02, "momentum": 0.9}
    return None


@_fault("attention", "unchanged_weights", "constant_output", at=("selfattention",))
def queries_of_nothing(p: Program) -> bool | None:
    if p.layers[0][0] != "SelfAttention":
        return False
    p.layers[0][1].update(query=0.0, use_bias=False)
    return None


@_fault("attention", "initial_weights", at=("selfattention",))
def attention_too_sure(p: Program) -> bool | None:
    if p.layers[0][0] != "SelfAttention":
        return False
    p.layers[0][1]["kernel_initializer"] = _normal(30.0)
    return None


@_fault("initial_weights", at=("dense", "conv"))
def zeros_everywhere(p: Program) -> bool | None:
    if len(p.hidden()) < 1:
        return False
    for given in [*p.hidden(), p.output]:
        given["kernel_initializer"] = "zeros"
    return None


@_fault("initial_weights", at=("dense", "conv"))
def constant_weights(p: Program) -> bool | None:
    if len(p.hidden()) < 1:
        return False
    for given in p.hidden():
        given["kernel_initializer"] = _constant()
    return None


@_fault("initial_weights", "saturation", at=("dense", "conv"))
def large_weights(p: Program) -> bool | None:
    if len(p.hidden()) < 2 or any(kind == "BatchNormalization" for kind, _ in p.layers):
        return False
    for given in p.hidden():
        given["kernel_initializer"] = _normal(8.0)
    return None


@_fault("hidden_activation", at=("dense",))
def no_hidden_activation(p: Program) -> bool | None:
    if len(p.hidden()) < 2 or p.name == "images":
        return False
    for given in p.hidden():
        given["activation"] = None
    return None


@_fault("hidden_activation", at=("dense",))
def softmax_inside(p: Program) -> bool | None:
    if len(p.hidden()) < 2:
        return False
    for given in p.hidden()[1:]:
        given["activation"] = "softmax"
    return None


@_fault("vanishing_gradients", "no_better_than_constant", "loss_flat", "weights_barely_moved",
        "metric_flat")  # fmt: skip
def deep_sigmoid(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.task == "tokens":
        return False
    p.layers = [("Dense", {"units": 16, "activation": "sigmoid"}) for _ in range(10)]
    p.optimizer, p.settings = "SGD", {"learning_rate": 0.01}
    return None


@_fault("dead_units", at=("dense",))
def dead_relu(p: Program) -> bool | None:
    relu = [given for given in p.hidden() if given.get("activation") == "relu"]
    if not relu:
        return False
    relu[-1]["bias_initializer"] = _constant(-20.0)
    return None


@_fault("dropout_rate", at=("dropout",))
def keep_taken_for_drop(p: Program) -> None:
    p.layers.append(("Dropout", {"rate": 0.95}))


@_fault("frozen_layers", at=("fit",))
def all_frozen(p: Program) -> bool | None:
    if p.task == "tokens" or any(kind == "LSTM" for kind, _ in p.layers):
        return False
    for _, given in p.layers:
        given["trainable"] = False
    p.output["trainable"] = False
    return None


@_fault("frozen_layers", at=("out",))
def head_frozen(p: Program) -> None:
    p.output["trainable"] = False


@_fault("unchanged_weights", at=("dense", "conv"))
def gradient_stopped(p: Program) -> bool | None:
    if len(p.hidden()) < 2:
        return False
    p.layers.insert(len(p.layers) - 1, ("StopGradient", {"name": "stop"}))
    return None


@_fault("input_kind", at=("embedding",))
def table_too_small(p: Program) -> bool | None:
    if p.task != "tokens":
        return False
    p.layers[0][1]["input_dim"] = 10
    return None


@_fault("input_kind", at=("embedding",))
def quantities_into_embedding(p: Program) -> bool | None:
    if p.task != "tokens":
        return False
    p.x = (p.x / 20.0).astype("float32")
    return None


@_fault("input_kind", at=("conv",))
def channels_first(p: Program) -> bool | None:
    if p.x.ndim != 4:
        return False
    p.x = np.repeat(np.repeat(np.moveaxis(p.x, -1, 1), 2, 2), 2, 3)
    p.x = np.repeat(p.x, 3, 1)
    p.layers[1:2] = []
    return None


@_fault("regularization", at=("dense", "conv"))
def strong_regularizer(p: Program) -> bool | None:
    if not p.hidden():
        return False
    for given in p.hidden():
        given["kernel_regularizer"] = _l2(5.0)
    return None


@_fault("batch_size_one", at=("batchnormalization",))
def batches_of_one(p: Program) -> bool | None:
    if not any(kind == "BatchNormalization" for kind, _ in p.layers):
        return False
    p.batch_size, p.epochs, p.x, p.y = 1, 2, p.x[:150], p.y[:150]
    return None


@_fault("batch_norm_disagrees", at=("batchnormalization",))
def averages_that_stand(p: Program) -> bool | None:
    norms = [given for kind, given in p.layers if kind == "BatchNormalization"]
    if not norms:
        return False
    norms[0]["momentum"] = 0.99999
    p.x = p.x * 5
    return None


def _constant(value: float = 0.05) -> Any:
    import keras

    return keras.initializers.Constant(value)


def _normal(deviation: float) -> Any:
    import keras

    return keras.initializers.RandomNormal(stddev=deviation, seed=3)


def _l2(strength: float) -> Any:
    import keras

    return keras.regularizers.L2(strength)
