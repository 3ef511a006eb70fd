"""How the magnitudes of one site are spread, over time: quantiles of merged histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.run.parts import Rows
from fitscope.run.record import PHASES
from fitscope.statistics.bins import BINS, IN_ORDER, ZERO_BINS
from fitscope.statistics.histogram import quantile
from fitscope.ui.source import Source

QUANTILES: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
PARTS = 32
"""Files read for one picture at most; of more, every n-th is read, and the picture says so."""


@dataclass(slots=True, eq=False)
class Fan:
    """Quantiles per column.

    Args:
        first: int64 `[columns]`, the first step in each column; columns without data are left out.
        last: int64 `[columns]`, the last one.
        quantiles: float64 `[len(QUANTILES), columns]`, right to the histogram's bin.
        zeros: float64 `[columns]`, share of elements in the two bins of zero.
        nonfinite: float64 `[columns]`, share of NaN and infinite elements.
        rows: int64 `[columns]`, histograms merged.
        read: The share of the run's files that was read.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    quantiles: NDArray[np.float64]
    zeros: NDArray[np.float64]
    nonfinite: NDArray[np.float64]
    rows: NDArray[np.int64]
    read: float


def fan(source: Source, site: int, phase: str, steps: tuple[int, int], columns: int) -> Fan:
    """The spread of one site over some steps.

    Args:
        source: The run.
        site: Index of the site.
        phase: The phase.
        steps: First and last step.
        columns: Into how many columns the steps are merged at most.
    """
    parts = source.touching(source.store.parts("hist"), steps)
    stride = -(-len(parts) // PARTS) if parts else 1
    chosen = parts[::stride] if stride == 1 else [*parts[:-1:stride], parts[-1]]
    rows = Rows(sites=np.array([site]), phase=PHASES.index(phase))
    width = steps[1] - steps[0] + 1
    columns = max(1, min(columns, width))
    counts = np.zeros(columns * BINS, np.int64)
    merged = np.zeros(columns, np.int64)
    first = np.full(columns, np.iinfo(np.int64).max)
    last = np.full(columns, -1)
    for part in chosen:
        table = part.read(["bins", "counts"], rows)
        step = table.column("step").to_numpy()
        inside = (step >= steps[0]) & (step <= steps[1])
        if not inside.any():
            continue
        row, bins, count = _flat(table)
        column = (np.clip(step, *steps) - steps[0]) * columns // width
        kept = inside[row]
        np.add.at(counts, column[row[kept]] * BINS + bins[kept], count[kept])
        np.add.at(merged, column[inside], 1)
        np.minimum.at(first, column[inside], step[inside])
        np.maximum.at(last, column[inside], step[inside])
    held = np.flatnonzero(merged)
    dense = counts.reshape(columns, BINS)[held]
    total = dense.sum(1)
    finite = dense[:, IN_ORDER].sum(1)
    whole = np.maximum(total, 1)
    return Fan(
        first[held],
        last[held],
        quantile(dense, QUANTILES) if len(held) else np.empty((len(QUANTILES), 0)),
        dense[:, list(ZERO_BINS)].sum(1) / whole,
        (total - finite) / whole,
        merged[held],
        len(chosen) / len(parts) if parts else 1.0,
    )


def _flat(table: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The rows, bins and counts of sparse histograms, one entry per occupied bin."""
    rows, bins, counts, start = [], [], [], 0
    for batch in table.select(["bins", "counts"]).to_batches():
        lists = batch.column("bins")
        lengths = np.diff(lists.offsets.to_numpy())
        rows.append(np.repeat(start + np.arange(len(lengths)), lengths))
        bins.append(lists.flatten().to_numpy().astype(np.int64))
        counts.append(batch.column("counts").flatten().to_numpy().astype(np.int64))
        start += len(lengths)
    none = [np.empty(0, np.int64)]
    return (
        np.concatenate(none + rows),
        np.concatenate(none + bins),
        np.concatenate(none + counts),
    )
