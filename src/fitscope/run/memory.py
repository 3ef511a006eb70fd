"""A stream held in memory, within a bound.

The newest quarter of the bound keeps every record. What leaves it goes into the history, which
spans the whole run evenly: when the history is full, every second record of each phase is
dropped from it, and from then on only every second one (then every fourth, ...) enters it. A
week-long run in memory therefore ends as an even sample of the week plus its last stretch in full,
and never as a week without its first day. Give the run a path to keep every record.
"""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pyarrow as pa

from fitscope.run.schema import phase_codes

RECENT_SHARE = 0.25

_COALESCED = 64  # flushes; a batch costs some kilobytes however few rows it has
_BATCH_OVERHEAD = 8192


class MemoryStream:
    """Record batches of one stream, at most about `limit` bytes.

    Args:
        schema: Schema of the batches.
        limit: Bytes of Arrow data to hold at most.
    """

    def __init__(self, schema: pa.Schema, limit: int) -> None:
        self.schema = schema
        self.limit = limit
        self.stride = 1
        self.dropped = 0  # records
        self._fresh: list[pa.RecordBatch] = []
        self._recent: deque[pa.RecordBatch] = deque()
        self._recent_bytes = 0
        self._history: list[pa.RecordBatch] = []
        self._history_bytes = 0
        self._entered: Counter[int] = Counter()  # records offered to the history, by phase

    def __len__(self) -> int:
        """Records held."""
        return sum(len(np.unique(batch.column("seq").to_numpy())) for batch in self.batches())

    def append(self, batch: pa.RecordBatch) -> None:
        """Keep a batch whose memory nobody else writes to."""
        self._fresh.append(batch)
        if len(self._fresh) < _COALESCED and _size(*self._fresh) < RECENT_SHARE * self.limit / 4:
            return
        joined = self._joined(self._fresh)
        self._fresh.clear()
        self._recent.append(joined)
        self._recent_bytes += _size(joined)
        while self._recent_bytes > RECENT_SHARE * self.limit and self._recent:
            oldest = self._recent.popleft()
            self._recent_bytes -= _size(oldest)
            self._keep(self._thinned(oldest))
            if self._history_bytes > (1 - RECENT_SHARE) * self.limit:
                self._halve()

    def batches(self) -> list[pa.RecordBatch]:
        """The batches held, in the order of writing; they share memory with the stream."""
        return [*self._history, *self._recent, *self._fresh]

    def pop(self) -> None:
        """Forget the oldest batch, such as after it has reached the disk after all."""
        if self._history:
            self._history_bytes -= _size(self._history.pop(0))
        elif self._recent:
            self._recent_bytes -= _size(self._recent.popleft())
        elif self._fresh:
            self._fresh.pop(0)
        if not self.batches():
            self.stride = 1
            self._entered.clear()

    def _keep(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._history.append(batch)
            self._history_bytes += _size(batch)
        if len(self._history) > _COALESCED:
            self._history = [self._joined(self._history)]
            self._history_bytes = _size(*self._history)

    def _thinned(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Every `stride`-th record of each phase, counted over the whole run."""
        seq, first = np.unique(batch.column("seq").to_numpy(), return_index=True)
        phases = phase_codes(batch)[first]
        wanted = np.zeros(len(seq), bool)
        for phase in np.unique(phases):
            places = np.flatnonzero(phases == phase)
            order = self._entered[int(phase)] + np.arange(len(places))
            wanted[places] = order % self.stride == 0
            self._entered[int(phase)] += len(places)
        self.dropped += int(len(seq) - wanted.sum())
        return batch if wanted.all() else _only(batch, seq[wanted])

    def _halve(self) -> None:
        """Double the stride and drop what no longer falls on it."""
        history = self._joined(self._history)
        seq, first = np.unique(history.column("seq").to_numpy(), return_index=True)
        phases = phase_codes(history)[first]
        wanted = np.zeros(len(seq), bool)
        for phase in np.unique(phases):
            # Entries fall on multiples of the old stride from 0, so every second one from the
            # first falls on multiples of the new one.
            wanted[np.flatnonzero(phases == phase)[::2]] = True
        self.stride *= 2
        self.dropped += int(len(seq) - wanted.sum())
        kept = _only(history, seq[wanted])
        self._history, self._history_bytes = [], 0
        self._keep(kept)

    def _joined(self, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        if len(batches) == 1:
            return batches[0]
        return pa.Table.from_batches(batches, self.schema).combine_chunks().to_batches()[0]


def _size(*batches: pa.RecordBatch) -> int:
    return sum(batch.nbytes + _BATCH_OVERHEAD for batch in batches)


def _only(batch: pa.RecordBatch, seqs: np.ndarray) -> pa.RecordBatch:
    mask = np.isin(batch.column("seq").to_numpy(), seqs)
    return batch.filter(pa.array(mask))
