"""What is known of the training itself, as losses and metrics over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def metrics_of(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The losses and metrics in records of `Run.history`; see `Run.metrics`.

    Args:
        history: records, oldest first; others than those of steps and epochs are left out.
    """
    found: list[dict[str, Any]] = []
    for record in history:
        event, logs = record.get("event"), record.get("logs")
        if event not in ("step", "epoch") or not isinstance(logs, Mapping) or not logs:
            continue
        step = int(record.get("step", 0))
        found.append(
            {
                # The record of an epoch has the number of steps before the next one.
                "step": step if event == "step" else max(step - 1, 0),
                "epoch": int(record.get("epoch", 0)),
                "phase": "train" if event == "step" else "epoch",
                "values": {str(name): _number(value) for name, value in logs.items()},
            }
        )
    return found


def _number(value: Any) -> float:
    """A number; JSON has no NaN, so on disk it is a word."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
