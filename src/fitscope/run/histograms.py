"""Statistics of many sparse histograms at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fitscope.statistics.bins import BINS, IN_ORDER, ZERO_BINS, bin_middle
from fitscope.statistics.descriptions import QUANTILES
from fitscope.statistics.histogram import derive_from_histogram

# Place of each bin by value, -1 for inf and NaN. The two bins of zero are one value.
_RANK = np.full(BINS, -1, np.int64)
_RANK[IN_ORDER] = np.arange(len(IN_ORDER))
_RANK[ZERO_BINS[1]] = _RANK[ZERO_BINS[0]]

_DENSE_ROWS = 512


class SparseRows:
    """Histograms of several rows of the `hist` stream.

    Args:
        table: A table with `bins` and `counts`.
    """

    def __init__(self, table: pa.Table) -> None:
        self.rows = table.num_rows
        lengths, bins, counts = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
        for batch in table.select(["bins", "counts"]).to_batches():
            lists = batch.column("bins")
            lengths.append(np.diff(lists.offsets.to_numpy()).astype(np.int64))
            bins.append(lists.flatten().to_numpy().astype(np.int64))
            counts.append(batch.column("counts").flatten().to_numpy())
        self._row = np.repeat(np.arange(self.rows), np.concatenate(lengths))
        self._bins = np.concatenate(bins)
        self._counts = np.concatenate(counts).astype(np.int64)

    def total(self) -> NDArray[np.int64]:
        """All rows merged: int64 `[2048]`."""
        return _added(self._bins, self._counts, BINS)

    def statistic(self, name: str) -> NDArray[np.float64]:
        """A histogram statistic of each row."""
        if name in QUANTILES:
            return self._quantile(QUANTILES[name])
        result = np.empty(self.rows)
        for start in range(0, self.rows, _DENSE_ROWS):
            stop = min(start + _DENSE_ROWS, self.rows)
            low, high = np.searchsorted(self._row, (start, stop))
            places = (self._row[low:high] - start) * BINS + self._bins[low:high]
            dense = _added(places, self._counts[low:high], (stop - start) * BINS)
            result[start:stop] = derive_from_histogram(dense.reshape(-1, BINS), name)
        return result

    def _quantile(self, q: float) -> NDArray[np.float64]:
        """`fitscope.statistics.histogram.quantile` of each row, without making it dense."""
        rank = _RANK[self._bins]
        finite = rank >= 0
        row, rank, counts = self._row[finite], rank[finite], self._counts[finite]
        order = np.argsort(row * BINS + rank, kind="stable")
        rank, running = rank[order], np.cumsum(counts[order])
        total = np.zeros(self.rows, np.int64)
        np.add.at(total, row, counts)
        before = np.cumsum(total) - total
        wanted = np.minimum(np.clip(np.ceil(total * q - 1) + 1, 1, None), total).astype(np.int64)
        result = np.full(self.rows, np.nan)
        some = total > 0
        place = np.searchsorted(running, (before + wanted)[some], side="left")
        result[some] = bin_middle(IN_ORDER[rank[place]])
        return result


def _added(places: NDArray[np.int64], counts: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    result = np.zeros(size, np.int64)
    np.add.at(result, places, counts)
    return result
