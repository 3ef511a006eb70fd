"""From device rows to records of the run, on a thread of its own."""

from __future__ import annotations

import dataclasses
import itertools
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fitscope.engine.layout import Layout, Row, to_host
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.scope.tell import tell
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen
from fitscope.statistics.moments import COLUMNS, DERIVED, derive
from fitscope.statistics.statistic import named_results
from fitscope.values.stream import Event, Stop, Stream

BEAT_SECONDS = 1.0
IDLE_SECONDS = 1.5
_BEAT, _STOP = object(), object()

LIMIT = 256
"""Observed steps that may wait; when the thread falls behind further, the oldest are dropped."""

STREAM_LIMIT = 64
"""Steps with values for streams that may wait; the training waits for the rest."""


@dataclasses.dataclass(frozen=True)
class Pending:
    """The row of one step and when it was."""

    row: Row
    step: int
    epoch: int
    phase: str
    streams: Sequence[Stream] = ()
    """Which streams want its values."""


@dataclasses.dataclass(frozen=True)
class _PassEnd:
    """An epoch or evaluation is over."""

    phase: str


@dataclasses.dataclass(frozen=True)
class _Report:
    """Loss and metrics as Keras reported them, perhaps still on the device."""

    step: int
    epoch: int
    phase: str
    logs: Mapping[str, Any]


class Drain:
    """Takes rows from training without ever making it wait.

    Args:
        writer: where the records go.
        stop_training: called when a stream asks for it.
    """

    def __init__(self, writer: RunWriter, stop_training: Callable[[], None] = lambda: None) -> None:
        self.writer = writer
        self.dropped = 0
        self._latest: dict[str, tuple[list[str], Any, Any]] = {}
        self._sites: dict[str, Site] = {}
        self._indices: dict[int, tuple[Layout, list[int]]] = {}
        self._stop_training = stop_training
        self._room = threading.Semaphore(STREAM_LIMIT)
        self._held: dict[int, tuple[Stream, Event]] = {}
        """By stream, the newest event of a pass whose last one is wanted."""
        self._complained: set[int] = set()
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._failed = False
        self._last_beat = 0.0
        self._told_dropped = 0

    def latest_values(self, phase: str) -> dict[str, dict[str, Any]]:
        """See `Scope.latest`."""
        found = self._latest.get(phase)
        if found is None:
            return {}
        names, moments, counts = found
        values = {name: derive(moments, name) for name in (*COLUMNS, *DERIVED)}
        return {
            site: {**{n: float(v[i]) for n, v in values.items()}, "histogram": counts[i]}
            for i, site in enumerate(names)
        }

    def start(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._loop, name="fitscope-drain", daemon=True)
            self._thread.start()

    def put(self, pending: Pending) -> None:
        if pending.streams:
            while not self._room.acquire(timeout=IDLE_SECONDS):
                self.start()  # the thread may have ended by itself
        elif self._queue.qsize() >= LIMIT:
            self._drop_oldest()
        self._queue.put(pending)
        self.start()

    def _drop_oldest(self) -> None:
        with self._queue.mutex:
            for place, work in enumerate(self._queue.queue):
                if isinstance(work, Pending) and not work.streams:
                    del self._queue.queue[place]
                    self.dropped += 1
                    return

    def end_of_pass(self, phase: str) -> None:
        """An epoch or evaluation is over."""
        self._queue.put(_PassEnd(phase))
        self.start()

    def report(self, step: int, epoch: int, phase: str, outputs: Any) -> None:
        """Take the loss and metrics of what a step, or an epoch, reported.

        Args:
            step: the step after which it was reported.
            epoch: the epoch.
            phase: `"train"`, or `"epoch"` at the end of one.
            outputs: what the train function returned, or the logs of an epoch.
        """
        # On JAX the train function returns the logs and the new state.
        logs = outputs[0] if isinstance(outputs, tuple) and outputs else outputs
        if isinstance(logs, Mapping) and logs:
            self._queue.put(_Report(step, epoch, phase, logs))
            self.start()

    def beat(self) -> None:
        """Let other processes see that the run is alive; cheap enough for every step."""
        now = time.monotonic()
        if now - self._last_beat >= BEAT_SECONDS:
            self._last_beat = now
            self._queue.put(_BEAT)
            self.start()

    def stop(self) -> None:
        """Write what is waiting and end the thread."""
        if self._thread is not None:
            self._queue.put(_STOP)
            self._thread.join()
            self._thread = None
            while not self._queue.empty():  # the thread had just ended for want of work
                self._handle(self._queue.get_nowait())
        self._guarded(self.writer.rest)
        if self.dropped > self._told_dropped:
            self._told_dropped = self.dropped
            tell(
                f"fitscope dropped {self.dropped} observed steps, because recording was slower "
                "than training. Observe fewer steps (a larger every=, a smaller budget=)."
            )

    def _loop(self) -> None:
        # A fit that is interrupted tells nobody: the thread ends by itself when nothing comes.
        while True:
            try:
                work = self._queue.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                self._guarded(self.writer.flush)
                return
            if work is _STOP:
                return
            self._handle(work)

    def _handle(self, work: Any) -> None:
        if work is _BEAT:
            self._guarded(self.writer.heartbeat)
        elif isinstance(work, _PassEnd):
            for stream, event in [h for h in self._held.values() if h[1].phase == work.phase]:
                del self._held[id(stream)]
                self._tell_stream(stream, event)
        elif isinstance(work, _Report):
            self._guarded(self._report, work)
        elif work is not _STOP:
            self._guarded(self._record, work)
            try:
                self._guarded(self._stream, work)
            finally:
                if work.streams:
                    self._room.release()

    def _guarded(self, function: Callable[..., None], *args: Any) -> None:
        """Nothing that goes wrong here may reach the training; it is told once."""
        try:
            function(*args)
        except Exception:
            if not self._failed:
                self._failed = True
                tell(
                    "fitscope could not record a step; training goes on. The first cause was:\n"
                    + traceback.format_exc(limit=-6)
                )

    def _record(self, pending: Pending) -> None:
        reading = pending.row.read()
        layout = reading.layout
        fired = np.flatnonzero(reading.fired)
        indices = np.asarray(self._site_indices(layout), np.int64)
        if len(fired) < len(indices):
            self._report_lost(layout, ~reading.fired)
        counts = reading.histograms[fired].astype(np.uint32)
        record = StepRecord(
            step=pending.step,
            epoch=pending.epoch,
            phase=pending.phase,
            sites=indices[fired],
            moments=reading.moments[fired],
            hist=_sparse(counts),
            extra=[
                (indices[e.slot], name, value)
                for e in layout.extras
                if reading.fired[e.slot]
                for name, value in self._results(
                    e.statistic, reading.extra[e.offset : e.offset + e.length]
                ).items()
            ],
        )
        self.writer.append(record)
        names = [layout.sites[i].name for i in fired]
        self._latest[pending.phase] = (names, record.moments, counts)

    def _report(self, report: _Report) -> None:
        values: dict[str, float] = {}
        for name, value in report.logs.items():
            number = np.asarray(to_host(value))
            if number.size == 1 and number.dtype.kind in "fiub":
                values[str(name)] = float(number.reshape(()))
        if values:
            self.writer.add_metrics(report.step, report.epoch, report.phase, values)

    def _stream(self, pending: Pending) -> None:
        """Hand the values of a step to the streams that want them."""
        kept = pending.row.kept if pending.streams else None
        if kept is None:
            return
        for stream in pending.streams:
            event = stream.event(kept, pending.step, pending.epoch, pending.phase)
            if not event.values:
                continue
            if stream.at == "epoch_end":
                self._held[id(stream)] = (stream, event)
            else:
                self._tell_stream(stream, event)

    def _tell_stream(self, stream: Stream, event: Event) -> None:
        try:
            stream.function(event)
        except Stop:
            self._stop_training()
        except Exception:
            if id(stream) not in self._complained:
                self._complained.add(id(stream))
                tell(
                    f"The function of fs.stream({stream.selector!r}, ...) failed at {event.phase} "
                    f"step {event.step}; training goes on, and it is called again. The first cause "
                    "was:\n" + traceback.format_exc(limit=-6)
                )

    def _results(self, statistic: Any, state: Any) -> dict[str, float]:
        """What a user statistic makes of its state; what fails leaves the built-in ones alone."""
        found: dict[str, float] = {}
        self._guarded(lambda: found.update(named_results(statistic, state)))
        return found

    def _report_lost(self, layout: Layout, lost: np.ndarray[Any, Any]) -> None:
        self.writer.add_unseen(
            [
                Unseen(
                    layout.sites[i].name,
                    "was called, but its result did not leave the step: train_step drops the "
                    "updated non-trainable variables of that call",
                    "keep what stateless_call returns as non_trainable_variables",
                )
                for i in np.flatnonzero(lost)
            ]
        )

    def _site_indices(self, layout: Layout) -> list[int]:
        known = self._indices.get(id(layout))
        if known is None:
            # A later layout, for a short last batch for example, does not change a site's shape.
            sites = [
                self._sites.setdefault(site.name, dataclasses.replace(site, layer=None))
                for site in layout.sites
            ]
            known = self._indices[id(layout)] = (layout, self.writer.add_sites(sites))
            self.writer.add_unseen(layout.unseen)
        return known[1]


def _sparse(counts: np.ndarray[Any, Any]) -> list[tuple[Any, Any]]:
    """Per row, the bins that hold something and how much."""
    row, bins = np.nonzero(counts)
    ends = np.searchsorted(row, np.arange(len(counts) + 1))
    held = counts[row, bins]
    bins = bins.astype(np.uint16)
    return [(bins[a:b], held[a:b]) for a, b in itertools.pairwise(ends)]
