"""Recorded tensors for the page, cut to what a screen can show."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.errors import RunError

MOST_ROWS = 256
MOST_ELEMENTS = 2_000_000
MOST_STEPS = 5000


def recorded(run: Any) -> list[dict[str, Any]]:
    """The recorded sites of a run, each with where it was recorded.

    Args:
        run: The run; one whose fitscope records no tensors has none.
    """
    found: list[dict[str, Any]] = []
    for site in getattr(run, "recorded", ()):
        values = run.values(site.name)
        keys = list(zip(values.steps.tolist(), values.phases, strict=True))[-MOST_STEPS:]
        found.append(
            {
                "name": site.name,
                "class": site.layer_class,
                "dtype": site.dtype,
                "steps": [step for step, _ in keys],
                "phases": [phase for _, phase in keys],
            }
        )
    return found


def value(run: Any, name: str, step: int, phase: str) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """One recorded tensor.

    Args:
        run: The run.
        name: The recorded site.
        step: The step.
        phase: The phase.

    Returns:
        What it is, and its first rows as float32.

    Raises:
        RunError: The run holds no such tensor.
    """
    if name not in [site.name for site in getattr(run, "recorded", ())]:
        raise RunError(f"this run holds no recorded values of {name!r}.")
    piece = run.values(name).at(step, phase)
    array = np.asarray(piece.array)
    whole = array.shape
    if array.ndim and piece.has_rows:
        each = max(1, math.prod(whole[1:]))
        array = array[: max(1, min(MOST_ROWS, MOST_ELEMENTS // each))]
    shown = np.asarray(array, np.float32, order="C")
    if shown.size > MOST_ELEMENTS:
        raise RunError(
            f"one row of {name!r} has {shown.size:,} elements; the page shows up to "
            f"{MOST_ELEMENTS:,}. `run.values({name!r})` gives it in Python."
        )
    header = {
        "shape": list(shown.shape),
        "whole": list(whole),
        "positions": piece.positions[: len(shown) if piece.has_rows else 1].tolist(),
        "length": piece.length,
        "step": piece.step,
        "epoch": piece.epoch,
        "phase": piece.phase,
        "has_rows": piece.has_rows,
    }
    return header, shown
