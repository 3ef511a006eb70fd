"""Faults, each seeded alone into a healthy training.

The kinds follow the taxonomy of Humbatova et al. (2020) and the mutation operators of DeepCrime
(Humbatova et al., 2021): wrong loss and activation, targets, data, initialization, layers,
optimizer and training process. A kind says which rules name its cause, and at which site; these are
written down from what the fault is, before any run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.doctor.program import Program

Seed = Callable[[Program], "bool | None"]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    `seed` changes a program, and returns False where the kind does not apply. `causes` are the
    rules that name the cause; `sites` where it is, as prefixes, or empty where it has no place.
    """

    name: str
    seed: Seed
    causes: frozenset[str]
    sites: tuple[str, ...] = ()


FAULTS: list[Fault] = []


def _fault(*causes: str, at: tuple[str, ...] = ()) -> Callable[[Seed], Seed]:
    def keep(seed: Seed) -> Seed:
        FAULTS.append(Fault(seed.__name__, seed, frozenset(causes), at))
        return seed

    return keep


def _labels(p: Program) -> np.ndarray:
    return p.y.argmax(1) if p.y.ndim > 1 and p.y.shape[1] > 1 else p.y


# Output, loss and targets


@_fault("one_unit_softmax", at=("out",))
def one_unit_softmax(p: Program) -> bool | None:
    if p.units != 1 or p.activation != "sigmoid":
        return False
    p.activation = "softmax"
    return None


@_fault("from_logits", at=("out",))
def probabilities_as_logits(p: Program) -> bool | None:
    import keras

    losses = {
        "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
        "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
        "binary_crossentropy": keras.losses.BinaryCrossentropy,
    }
    if p.loss not in losses:
        return False
    p.loss = losses[p.loss](from_logits=True)
    return None


@_fault("from_logits", at=("out",))
def no_output_activation(p: Program) -> bool | None:
    if p.activation not in ("softmax", "sigmoid"):
        return False
    p.activation = None
    return None


@_fault("from_logits", at=("out",))
def relu_output(p: Program) -> bool | None:
    if p.activation not in ("softmax", "sigmoid"):
        return False
    p.activation = "relu"
    return None


@_fault("from_logits", at=("out",))
def tanh_output(p: Program) -> bool | None:
    if p.activation != "sigmoid":
        return False
    p.activation = "tanh"
    return None


@_fault("targets_in_range", at=("y", "out"))
def one_sigmoid_for_classes(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.y, p.units, p.activation, p.loss = _labels(p), 1, "sigmoid", "binary_crossentropy"
    return None


@_fault("loss_activation", at=("out",))
def softmax_with_binary_loss(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.y, p.loss = np.eye(p.units)[_labels(p)], "binary_crossentropy"
    return None


@_fault("loss_activation", at=("out",))
def softmax_with_squared_error(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.y, p.loss = np.eye(p.units)[_labels(p)], "mean_squared_error"
    return None


@_fault("loss_activation", at=("out",))
def sigmoid_for_one_of_many(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.activation = "sigmoid"
    return None


@_fault("loss_task", at=("out",))
def regression_on_labels(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.y, p.units, p.activation, p.loss = _labels(p), 1, None, "mean_squared_error"
    return None


@_fault("targets_in_range", at=("out", "y"))
def relu_for_quantities(p: Program) -> bool | None:
    if p.task != "quantity":
        return False
    p.activation = "relu"
    return None


@_fault("targets_in_range", at=("out", "y"))
def sigmoid_for_quantities(p: Program) -> bool | None:
    if p.task != "quantity":
        return False
    p.activation = "sigmoid"
    return None


@_fault("targets_in_range", at=("y", "out"))
def cross_entropy_for_quantities(p: Program) -> bool | None:
    if p.task != "quantity":
        return False
    p.activation, p.loss = "sigmoid", "binary_crossentropy"
    return None


@_fault("double_activation", at=("again", "out"))
def activation_twice(p: Program) -> bool | None:
    if p.activation not in ("softmax", "sigmoid"):
        return False
    p.behind = [("Activation", {"activation": p.activation, "name": "again"})]
    return None


@_fault("double_activation", at=("drop", "out"))
def dropout_behind_output(p: Program) -> bool | None:
    if p.activation not in ("softmax", "sigmoid"):
        return False
    p.behind = [("Dropout", {"rate": 0.4, "name": "drop"})]
    return None


@_fault("labels_in_range", at=("y", "out"))
def labels_from_one(p: Program) -> bool | None:
    if p.loss != "sparse_categorical_crossentropy":
        return False
    p.y = p.y + 1
    return None


@_fault("labels_in_range", at=("y", "out"))
def too_few_units(p: Program) -> bool | None:
    if p.loss != "sparse_categorical_crossentropy":
        return False
    p.units -= 1
    return None


@_fault("loss_unit_mismatch", at=("out",))
def sequences_left_on(p: Program) -> bool | None:
    if p.layers[-1][0] != "LSTM":
        return False
    p.layers[-1][1]["return_sequences"] = True
    return None


@_fault("metric_task", at=("out", "fit"))
def accuracy_of_quantities(p: Program) -> bool | None:
    if p.task != "quantity":
        return False
    p.metrics = ["accuracy"]
    return None


# Data


@_fault("no_better_than_constant", "metric_flat", "loss_flat", "overfitting")
def shuffled_labels(p: Program) -> None:
    p.y = np.random.default_rng(5).permutation(p.y)


@_fault("data_values", at=("y",))
def constant_targets(p: Program) -> None:
    p.y = np.zeros_like(p.y) + p.y[:1]


@_fault("data_values", at=("x",))
def nan_inputs(p: Program) -> bool | None:
    if p.task == "tokens":
        return False
    p.x = p.x.copy()
    p.x[7::50] = np.nan
    return None


@_fault("data_values", at=("x",))
def inputs_cut_to_zero(p: Program) -> bool | None:
    if p.task == "tokens":
        return False
    p.x = np.zeros_like(p.x)
    return None


@_fault("inputs_scaled", at=("x",))
def inputs_not_scaled(p: Program) -> bool | None:
    if p.task == "tokens":
        return False
    p.x = p.x * 255
    return None


@_fault("inputs_scaled", at=("x",))
def one_large_column(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.task == "tokens":
        return False
    p.x = p.x.copy()
    p.x[:, 2 % p.x.shape[1]] *= 1e4
    return None


@_fault("targets_scaled", at=("y",))
def targets_not_scaled(p: Program) -> bool | None:
    if p.task != "quantity":
        return False
    p.y = p.y * 1e4
    return None


@_fault("single_class_batches", at=("y",))
def sorted_not_shuffled(p: Program) -> bool | None:
    if p.task == "quantity":
        return False
    order = np.argsort(_labels(p), kind="stable")
    p.x, p.y, p.fit = p.x[order], p.y[order], {"shuffle": False}
    return None


@_fault("single_class_batches", at=("validation", "y"))
def sorted_and_split(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    order = np.argsort(_labels(p), kind="stable")
    p.x, p.y = p.x[order], p.y[order]
    return None


@_fault("class_balance", at=("y",))
def one_class_only(p: Program) -> bool | None:
    if p.task != "binary":
        return False
    rare = np.flatnonzero(p.y == 1)
    keep = np.setdiff1d(np.arange(len(p.y)), rare[5:])
    p.x, p.y = p.x[keep], p.y[keep]
    return None


@_fault("target_leak", at=("x",))
def target_among_inputs(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.y.ndim != 1 or p.task == "tokens":
        return False
    p.x = np.column_stack([p.x, p.y]).astype("float32")
    return None


@_fault("target_leak", at=("validation",))
def validated_on_training_rows(p: Program) -> None:
    p.fit = {"validation_data": (p.x[:100], p.y[:100])}


@_fault("sample_weights", at=("sample_weight",))
def weights_of_zero(p: Program) -> None:
    p.fit = {"sample_weight": np.zeros(len(p.x))}


@_fault("contradicting_labels", at=("y",))
def twins_with_other_labels(p: Program) -> bool | None:
    if p.task == "quantity":
        return False
    labels, classes = _labels(p), max(2, p.units)
    again = np.random.default_rng(6).permutation(len(labels))[: len(labels) // 4]
    other = (labels[again] + 1) % classes
    p.x = np.concatenate([p.x, p.x[again]])
    added = np.eye(classes, dtype=p.y.dtype)[other] if p.y.ndim > 1 else other
    p.y = np.concatenate([p.y, added])
    order = np.random.default_rng(7).permutation(len(p.y))
    p.x, p.y = p.x[order], p.y[order]
    return None


@_fault("loss_zero", at=("loss",))
def prediction_as_target(p: Program) -> None:
    p.loss = _of_itself


@_fault("effective_rank", "constant_output", at=("out", "unit"))
def nothing_holds_apart(p: Program) -> bool | None:
    if p.task != "classes" or p.x.ndim != 2:
        return False
    p.loss, p.units, p.activation, p.metrics, p.epochs = _pulls, 16, None, [], 20
    p.behind = [("UnitNormalization", {"name": "unit"})]
    return None


# Weights and layers


@_fault("layer_left_behind", "weights_barely_moved", at=("dense", "fit"))
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


# Optimizer and training


@_fault("learning_rate", at=("optimizer",))
def rate_far_too_high(p: Program) -> None:
    p.settings = {**p.settings, "learning_rate": 5.0 if p.optimizer == "Adam" else 50.0}


@_fault("learning_rate", at=("optimizer",))
def rate_far_too_low(p: Program) -> None:
    p.settings = {**p.settings, "learning_rate": 1e-8}


@_fault("learning_rate", at=("optimizer",))
def rate_of_zero(p: Program) -> None:
    p.settings = {**p.settings, "learning_rate": 0.0}


@_fault("learning_rate", "loss_oscillates", "loss_diverges", at=("optimizer", "loss"))
def momentum_near_one(p: Program) -> bool | None:
    if p.optimizer != "SGD":
        return False
    p.settings = {"learning_rate": 0.1, "momentum": 0.999}
    return None


@_fault("gradient_clipping", "weights_barely_moved", "update_ratio", "loss_flat",
        at=("fit", "optimizer"))  # fmt: skip
def clipped_to_nothing(p: Program) -> bool | None:
    p.optimizer, p.settings = "SGD", {"learning_rate": 0.01, "clipnorm": 1e-7}
    return None


@_fault("half_precision", at=("optimizer",))
def half_without_scale(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.task == "tokens":
        return False
    for given in p.hidden():
        given["dtype"] = "mixed_float16"
    return None


@_fault("loss_scale", at=("optimizer",))
def loss_too_large_for_half(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.task == "tokens":
        return False
    p.policy, p.compile = "mixed_float16", {**p.compile, "loss_weights": [1e9]}
    return None


@_fault("few_steps", "stopped_early", at=("fit",))
def one_large_batch(p: Program) -> None:
    p.batch_size, p.epochs = len(p.x), 5


def _constant(value: float = 0.05) -> Any:
    import keras

    return keras.initializers.Constant(value)


def _normal(deviation: float) -> Any:
    import keras

    return keras.initializers.RandomNormal(stddev=deviation, seed=3)


def _l2(strength: float) -> Any:
    import keras

    return keras.regularizers.L2(strength)


def _of_itself(y: Any, prediction: Any) -> Any:
    """A loss that was given the prediction twice."""
    from keras import ops

    del y
    return ops.mean(ops.square(prediction - prediction), axis=-1)


def _pulls(y: Any, prediction: Any) -> Any:
    """A loss that draws samples together, and has nothing that holds them apart."""
    from keras import ops

    del y
    return ops.mean(ops.square(prediction - ops.roll(prediction, 1, axis=0)), axis=-1)
