"""The optimizer, and the way the training is run."""

from __future__ import annotations

from benchmarks.doctor.faults.fault import Family
from benchmarks.doctor.program import Program

TRAINING = Family()
_fault = TRAINING.fault


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


# Where gradients are watched, the first that overflows is named, and the scale with it.
@_fault("loss_scale", "non_finite", at=("optimizer", "dense", "out"))
def loss_too_large_for_half(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.task == "tokens":
        return False
    p.policy, p.compile = "mixed_float16", {**p.compile, "loss_weights": [1e9]}
    return None


@_fault("few_steps", "stopped_early", at=("fit",))
def one_large_batch(p: Program) -> None:
    p.batch_size, p.epochs = len(p.x), 5


@_fault("gradient_underflow", at=("dense", "dropout", "out"))
def loss_too_small_for_half(p: Program) -> bool | None:
    if p.x.ndim != 2 or p.task == "tokens":
        return False
    # Keras' first scale of 32,768 lifts gradients of 1e-10 to 3e-6, and its last bits are 6e-8.
    p.policy, p.compile = "mixed_float16", {**p.compile, "loss_weights": [1e-9]}
    return None


@_fault("gradient_underflow", "half_precision", at=("dense", "dropout", "optimizer"))
def small_loss_without_scale(p: Program) -> bool | None:
    if half_without_scale(p) is False:
        return False
    p.compile = {**p.compile, "loss_weights": [1e-5]}
    return None
