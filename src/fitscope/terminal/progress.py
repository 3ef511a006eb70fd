"""The line above the live table: where training is, and what watching costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitscope.terminal.numbers import compact, count, duration, percent

_WORTH_TELLING = 0.5
"""Seconds of compilation below which nobody waited."""


@dataclass(slots=True)
class Progress:
    """Where training is.

    Args:
        epoch: The current epoch, from 0.
        epochs: How many there will be; `None` when unknown.
        step: Steps done in this epoch.
        steps: Steps of an epoch; `None` until the first epoch of a stream has ended.
        logs: The latest metrics of Keras.
    """

    epoch: int = 0
    epochs: int | None = None
    step: int = 0
    steps: int | None = None
    logs: Mapping[str, Any] | None = None

    def position(self) -> str:
        """Epoch and step, counted from 1 as Keras prints them."""
        return f"epoch {_of(self.epoch + 1, self.epochs)}  step {_of(self.step, self.steps)}"

    def metrics(self) -> str:
        """The latest metrics, loss first, as Keras names them."""
        spoken: list[str] = []
        for name, value in (self.logs or {}).items():
            # Keras hands on what the backend gave: numbers, NumPy scalars, or tensors.
            try:
                spoken.append(f"{name} {compact(float(value))}")
            except (TypeError, ValueError):
                continue
        return "  ".join(spoken)


def cost_text(cost: Mapping[str, Any]) -> str:
    """What watching has cost so far, in one phrase.

    Args:
        cost: `Scope.cost`: `steps`, `observed_steps`, `seconds`, `share_of_time`,
            `compile_seconds`.

    Example:
        >>> cost_text({"steps": 450, "observed_steps": 57, "seconds": 0.12, "share_of_time": 0.014})
        'watching 57 of 450 steps, 1.4% of the time (120 ms)'
    """
    observed, steps = cost.get("observed_steps"), cost.get("steps")
    text = f"watching {count(observed)} of {count(steps)} steps"
    share, seconds = cost.get("share_of_time"), cost.get("seconds")
    if share is not None and not math.isnan(share):
        text += f", {percent(float(share))} of the time"
    if seconds is not None and not math.isnan(seconds):
        text += f" ({duration(float(seconds))})"
    compiling = float(cost.get("compile_seconds") or 0.0)
    if compiling >= _WORTH_TELLING:
        text += f", and {duration(compiling)} to compile"
    return text


def _of(done: int, total: int | None) -> str:
    return count(done) if total is None else f"{count(done)}/{count(total)}"
