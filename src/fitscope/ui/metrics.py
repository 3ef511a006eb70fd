"""Loss and metrics of a run over time, read as far as they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitscope.run.history import metrics_of


class Metrics:
    """Reads `history.jsonl` as it grows.

    Args:
        path: The file; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0
        self._points: dict[str, tuple[list[int], list[float]]] = {}

    def series(self, columns: int = 2000) -> dict[str, dict[str, Any]]:
        """Steps and values by metric, thinned to the extremes of `columns` stretches.

        Returns:
            By name (`"loss"`, `"val_loss"`): `step`, `value`.
        """
        self._refresh()
        return {name: _thinned(*points, columns) for name, points in self._points.items()}

    def _refresh(self) -> None:
        try:
            with open(self._path, "rb") as file:
                file.seek(self._end)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data.rfind(b"\n") + 1
        self._end += whole
        for line in data[:whole].splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            for metrics in metrics_of([record] if isinstance(record, Mapping) else []):
                for name, value in metrics["values"].items():
                    steps, values = self._points.setdefault(name, ([], []))
                    steps.append(metrics["step"])
                    values.append(value)


def _thinned(steps: list[int], values: list[float], columns: int) -> dict[str, Any]:
    if len(steps) <= 2 * columns:
        return {"step": steps, "value": values}
    x, y = np.array(steps), np.array(values)
    kept: set[int] = set()
    for part in np.array_split(np.arange(len(x)), columns):
        finite = part[np.isfinite(y[part])]
        kept |= {int(i) for i in part if not np.isfinite(y[i])}
        if len(finite):
            kept |= {int(finite[np.argmin(y[finite])]), int(finite[np.argmax(y[finite])])}
    order = sorted(kept)
    return {"step": x[order].tolist(), "value": y[order].tolist()}
