"""Data that are not what they are taken for."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.doctor.faults.fault import Family
from benchmarks.doctor.faults.labels import labels
from benchmarks.doctor.program import Program

DATA = Family()
_fault = DATA.fault


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
    order = np.argsort(labels(p), kind="stable")
    p.x, p.y, p.fit = p.x[order], p.y[order], {"shuffle": False}
    return None


@_fault("single_class_batches", at=("validation", "y"))
def sorted_and_split(p: Program) -> bool | None:
    if p.task != "classes":
        return False
    order = np.argsort(labels(p), kind="stable")
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
    known, classes = labels(p), max(2, p.units)
    again = np.random.default_rng(6).permutation(len(known))[: len(known) // 4]
    other = (known[again] + 1) % classes
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
