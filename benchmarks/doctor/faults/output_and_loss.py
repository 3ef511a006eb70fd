"""Output, loss and targets that do not belong together."""

from __future__ import annotations

import numpy as np

from benchmarks.doctor.faults.fault import Family
from benchmarks.doctor.faults.labels import labels
from benchmarks.doctor.program import Program

OUTPUT_AND_LOSS = Family()
_fault = OUTPUT_AND_LOSS.fault


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
    p.y, p.units, p.activation, p.loss = labels(p), 1, "sigmoid", "binary_crossentropy"
    return None


@_fault("loss_activation", at=("out",))
def softmax_with_binary_loss(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.y, p.loss = np.eye(p.units)[labels(p)], "binary_crossentropy"
    return None


@_fault("loss_activation", at=("out",))
def softmax_with_squared_error(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    p.y, p.loss = np.eye(p.units)[labels(p)], "mean_squared_error"
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
    p.y, p.units, p.activation, p.loss = labels(p), 1, None, "mean_squared_error"
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
