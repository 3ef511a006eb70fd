"""Faults, each seeded alone into a healthy training.

The kinds follow the taxonomy of Humbatova et al. (2020) and the mutation operators of DeepCrime
(Humbatova et al., 2021): wrong loss and activation, targets, data, initialization, layers,
optimizer and training process. A kind says which rules name its cause, and at which site; these are
written down from what the fault is, before any run.
"""

from __future__ import annotations

from benchmarks.doctor.faults.data import DATA
from benchmarks.doctor.faults.fault import Fault
from benchmarks.doctor.faults.layers import LAYERS
from benchmarks.doctor.faults.output_and_loss import OUTPUT_AND_LOSS
from benchmarks.doctor.faults.training import TRAINING

FAULTS: list[Fault] = [*OUTPUT_AND_LOSS, *DATA, *LAYERS, *TRAINING]
"""Every kind. A kind's place says at which base it begins, so new ones come last."""

__all__ = ["FAULTS", "Fault"]
