"""One training, and what the doctor said of it when."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.doctor.faults import Fault
from benchmarks.doctor.program import Program

LOOKS = (0, 1, 2, 4, 9)
"""Epochs at whose end the findings are looked at, beside the end of the training."""


@dataclass
class Outcome:
    """What was found in one training."""

    program: str
    fault: str | None
    seed: int
    steps: int = 0
    error: str | None = None
    rules: list[list[str]] = field(default_factory=list)
    """Rule, severity and site of each finding, as told: the gravest first."""
    detected: bool = False
    cause_first: bool = False
    cause_told: bool = False
    site_right: bool | None = None
    first_right_step: int | None = None
    seconds: float = 0.0
    doctor_seconds: float = 0.0

    @property
    def faults(self) -> int:
        """Findings of severity fault."""
        return sum(severity == "fault" for _, severity, _ in self.rules)

    @property
    def warnings(self) -> int:
        """Findings of severity warning."""
        return sum(severity == "warning" for _, severity, _ in self.rules)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def measure(
    program: Program, fault: Fault | None, seed: int, *, gradients: bool = False
) -> Outcome:
    """Train once under a scope that sees every step, and ask the doctor.

    Args:
        program: The training, with the fault in it.
        fault: The fault; None for a healthy one.
        seed: Of the weights.
        gradients: Whether gradients, weights and updates are watched, as `fitscope doctor train.py`
            does, or outputs and their rank alone.
    """
    import keras

    import fitscope as fs
    from fitscope.launch.doctor_scope import DoctorScope

    outcome = Outcome(program.name, fault.name if fault else None, seed)
    keras.utils.set_random_seed(seed)
    ranks = fs.statistics.EffectiveRank()
    scope = DoctorScope() if gradients else fs.Scope(fs.watch("**", statistics=[ranks]), every=1)
    spent = 0.0

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            look(0)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if epoch in LOOKS:
                look(scope.cost["steps"])

    def look(step: int) -> list[Any]:
        nonlocal spent
        began = time.perf_counter()
        found = scope.findings
        spent += time.perf_counter() - began
        right = fault is not None and any(_right(f, fault) for f in found)
        if right and outcome.first_right_step is None:
            outcome.first_right_step = int(step)
        return found

    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = program.model()
            model.fit(
                program.x, program.y, epochs=program.epochs, batch_size=program.batch_size,
                callbacks=[scope, Look()], verbose=0, **program.fit,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - the backend refused what was seeded
            outcome.error = f"{type(error).__name__}: {str(error)[:200]}"
    outcome.seconds = time.perf_counter() - began
    outcome.steps = int(scope.cost["steps"])
    found = look(outcome.steps) if scope.runs else []
    outcome.doctor_seconds = spent
    told = [f for f in found if f.severity != "note"]
    outcome.rules = [[f.rule, f.severity, f.site] for f in found]
    outcome.detected = bool(told)
    if fault is not None and found:
        outcome.cause_first = found[0].rule in fault.causes
        right = [f for f in found if _right(f, fault)]
        outcome.cause_told = bool(right)
        if fault.sites and right:
            outcome.site_right = any(
                part.site.startswith(fault.sites)
                for f in right
                for part in (f, *f.consequences)
                if part.rule in fault.causes
            )
    return outcome


def _right(finding: Any, fault: Fault) -> bool:
    return any(part.rule in fault.causes for part in (finding, *finding.consequences))


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """The figures over many trainings."""
    ill = [o for o in outcomes if o.fault is not None]
    well = [o for o in outcomes if o.fault is None]
    steps = [o.first_right_step for o in ill if o.first_right_step is not None]
    placed = [o for o in ill if o.site_right is not None]
    return {
        "faulty": len(ill),
        "detected": float(np.mean([o.detected for o in ill])) if ill else None,
        "cause_first": float(np.mean([o.cause_first for o in ill])) if ill else None,
        "cause_told": float(np.mean([o.cause_told for o in ill])) if ill else None,
        "site_right": float(np.mean([bool(o.site_right) for o in placed])) if placed else None,
        "median_first_right_step": float(np.median(steps)) if steps else None,
        "healthy": len(well),
        "healthy_with_fault": float(np.mean([o.faults > 0 for o in well])) if well else None,
        "healthy_with_warning": float(np.mean([o.warnings > 0 for o in well])) if well else None,
        "alarms_per_healthy_run": float(np.mean([o.faults + o.warnings for o in well]))
        if well
        else None,
        "seconds_per_training": float(np.mean([o.seconds for o in outcomes])),
        "doctor_seconds": float(np.mean([o.doctor_seconds for o in outcomes])),
    }
