"""From device rows to records of the run, on a thread of its own."""

from __future__ import annotations

import dataclasses
import itertools
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from fitscope.capsules.keeper import Keeper, Snapshot
from fitscope.engine.layout import Kept, Layout, Row, to_host
from fitscope.errors import FitscopeError
from fitscope.rules.execution import FIRST, Edges
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.scope.capsule import Capsule
from fitscope.scope.stopping import NonFinite, StepStatistics, StopOn
from fitscope.scope.targets import bad_targets
from fitscope.scope.tell import announce, tell
from fitscope.select.site import Site
from fitscope.statistics.moments import COLUMNS, DERIVED, derive
from fitscope.statistics.statistic import named_results
from fitscope.values.batch import StepBatch
from fitscope.values.record import Known, Record, step_values
from fitscope.values.stream import Event, Stop, Stream

BEAT_SECONDS = 1.0
IDLE_SECONDS = 1.5
_BEAT, _STOP = object(), object()

LIMIT = 256
"""Observed steps that may wait; when the thread falls behind further, the oldest are dropped."""

CAPSULE_LIMIT = 4
"""Steps kept for a capsule that may wait: each may hold a copy of all variables."""

STREAM_LIMIT = 64
"""Steps with values for streams that may wait; the training waits for the rest."""


VALUE_BYTES = 2**28
"""Bytes of values to be recorded that may wait; beyond that the oldest are dropped."""


@dataclasses.dataclass(eq=False)
class Pending:
    """The row of one step and when it was."""

    row: Row
    step: int
    epoch: int
    phase: str
    streams: Sequence[Stream] = ()
    """Which streams want its values."""
    records: Sequence[Record] = ()
    """Which of its values are recorded."""
    stops: Sequence[StopOn] = ()
    """Whose conditions are looked at."""
    nbytes: int = 0
    """Bytes of values that wait to be recorded."""
    absent: Collection[str] = ()
    """Paths of sites that have no value in this step, whatever the row says."""
    snapshot: Snapshot | None = None
    """From which its variables can be had again, for a capsule."""


@dataclasses.dataclass(frozen=True)
class _PassEnd:
    """An epoch or evaluation is over."""

    phase: str


@dataclasses.dataclass(frozen=True)
class Logs:
    """What Keras knows of loss and metrics after a step; the values may still be on the device."""

    step: int
    epoch: int
    place: int
    """How many steps of the epoch the averages span."""
    values: Any


class Drain:
    """Takes rows from training without ever making it wait.

    Args:
        writer: where the records go.
        stop_training: called when a stream asks for it.
        model: gives the model while it lives, whose losses tell that of each sample.
        keeper: writes the capsule.
    """

    def __init__(
        self,
        writer: RunWriter,
        stop_training: Callable[[], None] = lambda: None,
        model: Callable[[], Any] = lambda: None,
        keeper: Keeper | None = None,
    ) -> None:
        self.writer = writer
        self.dropped = 0
        self.dropped_values = 0
        """Steps whose values were not recorded."""
        self._model = model
        self._value_bytes = 0
        self._lock = threading.Lock()
        self._latest: dict[str, tuple[list[str], Any, Any]] = {}
        self._sites: dict[str, Site] = {}
        self._indices: dict[int, tuple[Layout, list[int]]] = {}
        self._stop_training = stop_training
        self._keeper = keeper
        self._capsule_room = threading.Semaphore(CAPSULE_LIMIT)
        self._room = threading.Semaphore(STREAM_LIMIT)
        self._known = Known()
        self._held: dict[int, tuple[Stream, Event]] = {}
        """By stream, the newest event of a pass whose last one is wanted."""
        self._complained: set[int] = set()
        self._stopped: set[int] = set()
        """Conditions that have held."""
        self._looked: tuple[Pending, StepStatistics] | None = None
        """The step that conditions were looked at for last, until its loss is known."""
        self._loss: tuple[int, bool] | None = None
        """Of the step before, the epoch and whether the loss was finite."""
        self._queue: queue.Queue[Any] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._failed = False
        self._last_beat = 0.0
        self._told_dropped = 0
        self._told_values = 0

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
        for wanted, room in (
            (pending.streams, self._room),
            (pending.snapshot is not None, self._capsule_room),
        ):
            while wanted and not room.acquire(timeout=IDLE_SECONDS):
                self.start()  # the thread may have ended by itself
        waits = bool(pending.streams) or pending.snapshot is not None
        if not waits and self._queue.qsize() >= LIMIT:
            self._drop_oldest()
        if pending.records and not pending.streams and pending.snapshot is None:
            pending.nbytes = pending.row.kept_bytes
            with self._lock:
                self._value_bytes += pending.nbytes
            self._make_room()
        self._queue.put(pending)
        self.start()

    def _drop_oldest(self) -> None:
        with self._queue.mutex:
            for place, work in enumerate(self._queue.queue):
                if isinstance(work, Pending) and not work.streams and work.snapshot is None:
                    del self._queue.queue[place]
                    self.dropped += 1
                    self._give_up_values(work)
                    return

    def _make_room(self) -> None:
        """Let go of the oldest values that wait, until the rest is within the bound."""
        with self._queue.mutex:
            for work in self._queue.queue:
                if self._value_bytes <= VALUE_BYTES:
                    return
                if isinstance(work, Pending) and work.nbytes:
                    self._give_up_values(work)
                    work.row, work.records = work.row.without_kept(), ()

    def _give_up_values(self, pending: Pending) -> None:
        if pending.records:
            self.dropped_values += 1
            self.writer.lose_values(1)
        self._settle(pending)

    def _settle(self, pending: Pending) -> None:
        with self._lock:
            self._value_bytes -= pending.nbytes
        pending.nbytes = 0

    def end_of_pass(self, phase: str) -> None:
        """An epoch or evaluation is over."""
        self._queue.put(_PassEnd(phase))
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
        if self.dropped_values > self._told_values:
            self._told_values = self.dropped_values
            tell(
                f"fitscope did not record the values of {self.dropped_values} steps, because the "
                "disk was slower than the training and memory is bounded. Record fewer of them "
                "(every=, samples=, dtype=), or to a faster disk; run.lost_values counts them."
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
        elif isinstance(work, Logs):
            self._guarded(self._log, work)
        elif work is not _STOP:
            self._guarded(self._record, work)
            try:
                self._guarded(self._hand_over, work)
            finally:
                self._settle(work)
                if work.streams:
                    self._room.release()
                if work.snapshot is not None:
                    self._capsule_room.release()

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
        if pending.snapshot is not None and pending.row.kept is not None:
            pending.snapshot.batches.append((pending.step, pending.row.kept.data))
        layout = pending.row.layout
        indices = np.asarray(self._site_indices(layout), np.int64)
        if not len(indices) and pending.records and not pending.streams:
            return  # only values are wanted of this step
        reading = pending.row.read()
        here = np.array([site.path not in pending.absent for site in layout.sites], bool)
        counts = reading.histograms[here].astype(np.uint32)
        bad = np.flatnonzero(here & (np.asarray(reading.first_bad) >= 0))
        record = StepRecord(
            step=pending.step,
            epoch=pending.epoch,
            phase=pending.phase,
            sites=indices[here],
            moments=reading.moments[here],
            hist=_sparse(counts),
            extra=[
                (indices[e.slot], name, value)
                for e in layout.extras
                if here[e.slot]
                for name, value in self._results(
                    e.statistic, reading.extra[e.offset : e.offset + e.length]
                ).items()
            ]
            + [(indices[i], FIRST, float(reading.first_bad[i])) for i in bad],
        )
        self.writer.append(record)
        sites = [site for site, is_here in zip(layout.sites, here, strict=True) if is_here]
        self._latest[pending.phase] = ([site.name for site in sites], record.moments, counts)
        if pending.stops:
            extra: dict[str, dict[str, float]] = {}
            places = dict(zip(indices.tolist(), layout.sites, strict=True))
            for index, name, value in record.extra:
                extra.setdefault(places[int(index)].name, {})[name] = value
            self._look(
                pending,
                StepStatistics(
                    pending.step,
                    pending.epoch,
                    pending.phase,
                    sites,
                    record.moments,
                    extra,
                    Edges(self.writer.graph.get("edges", ())),
                    None if pending.row.kept is None else pending.row.kept.data,
                ),
            )

    def _look(self, pending: Pending, step: StepStatistics) -> None:
        """Do what is to be done when a condition holds; what one raises is told once."""
        for stop in pending.stops:
            if id(stop) in self._stopped:
                continue
            try:
                reason = stop.reason(step)
            except Exception:
                self._complain(
                    stop,
                    f"The condition of fs.{stop.describe()['kind']} failed at {step.phase} step "
                    f"{step.step}; training goes on, and it is looked at again. The first cause "
                    "was:\n",
                )
                continue
            if reason is None:
                continue
            self._act(stop, pending, step, reason)
        if pending.phase == "train":
            judges = any(isinstance(s.condition, NonFinite) for s in self._waiting(pending))
            self._looked = (pending, step) if judges else None

    def _waiting(self, pending: Pending) -> list[StopOn]:
        """The conditions that have not held yet."""
        return [stop for stop in pending.stops if id(stop) not in self._stopped]

    def _act(self, stop: StopOn, pending: Pending, step: StepStatistics, reason: str) -> None:
        """A condition holds."""
        self._stopped.add(id(stop))
        if isinstance(stop, Capsule):
            self._keep(pending, step, reason)
            return
        self._stop_training()
        self.writer.add_history(_event("stop", step, reason))
        announce(f"fitscope ends the training because of {step.phase} step {step.step}: {reason}")

    def _look_at_loss(self, logs: Logs, loss: float) -> None:
        """The loss of a step may be all that is not finite in it."""
        before, self._loss = self._loss, (logs.epoch, math.isfinite(loss))
        looked, self._looked = self._looked, None
        # It is an average over the epoch, and stays what it is from the first bad step on.
        if math.isfinite(loss) or before == self._loss or looked is None:
            return
        pending, step = looked
        if step.step != logs.step:
            return
        for stop in self._waiting(pending):
            if isinstance(stop.condition, NonFinite):
                reason = stop.condition.of_loss(step, loss)
                if reason is not None:
                    self._act(stop, pending, step, reason)

    def _keep(self, pending: Pending, step: StepStatistics, reason: str) -> None:
        """Write the capsule."""
        if self._keeper is None or pending.snapshot is None:
            return
        try:
            folder = self._keeper.write(pending.snapshot, step, reason)
        except Exception as error:
            known = isinstance(error, (FitscopeError, OSError))
            told = str(error) if known else traceback.format_exc(limit=-6)
            tell(f"fitscope could not keep {step.phase} step {step.step} in a capsule: {told}")
            return
        self.writer.add_history(_event("capsule", step, reason))
        end = "" if reason.endswith((".", "!", "?")) else "."
        announce(
            f"fitscope keeps {step.phase} step {step.step} in {folder}: {reason}{end} "
            f"`fitscope replay {folder.parent.parent}` runs it again."
        )

    def put_logs(self, logs: Logs) -> None:
        """Keep the loss and metrics of a step."""
        self._queue.put(logs)
        self.start()

    def _log(self, logs: Logs) -> None:
        numbers = scalars(logs.values)
        if "loss" in numbers:
            self._guarded(self._look_at_loss, logs, numbers["loss"])
        self.writer.add_history(
            {
                "event": "step",
                "step": logs.step,
                "epoch": logs.epoch,
                "place": logs.place,
                "logs": numbers,
            }
        )

    def _hand_over(self, pending: Pending) -> None:
        """Record the values of a step, and hand them to the streams that want them."""
        kept = pending.row.kept if pending.streams or pending.records else None
        if kept is None:
            return
        batch = StepBatch(kept, self._model())
        when = pending.step, pending.epoch, pending.phase
        if pending.records:
            self._guarded(self._record_values, pending.records, kept, batch, *when)
        for stream in pending.streams:
            event = stream.event(kept, batch, *when)
            if not event.values and not stream.batch:
                continue
            if stream.at == "epoch_end":
                self._held[id(stream)] = (stream, event)
            else:
                self._tell_stream(stream, event)
        if batch.unseen:
            self.writer.add_unseen(batch.unseen)

    def _record_values(
        self, records: Sequence[Record], kept: Kept, batch: StepBatch, *when: Any
    ) -> None:
        values = step_values(records, kept, batch, self._known, *when)
        if values.tensors:
            self.writer.append_values(values)

    def _tell_stream(self, stream: Stream, event: Event) -> None:
        try:
            stream.function(event)
        except Stop:
            self._stop_training()
        except Exception:
            self._complain(
                stream,
                f"The function of fs.stream({stream.selector!r}, ...) failed at {event.phase} "
                f"step {event.step}; training goes on, and it is called again. The first cause "
                "was:\n",
            )

    def _complain(self, about: object, text: str) -> None:
        """Tell once of each instruction what went wrong in a function of the user's."""
        if id(about) not in self._complained:
            self._complained.add(id(about))
            tell(text + traceback.format_exc(limit=-6))

    def _results(self, statistic: Any, state: Any) -> dict[str, float]:
        """What a user statistic makes of its state; what fails leaves the built-in ones alone."""
        found: dict[str, float] = {}
        self._guarded(lambda: found.update(named_results(statistic, state)))
        return found

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


def scalars(logs: Any) -> dict[str, float]:
    """The numbers among Keras' logs, by name.

    Args:
        logs: What a train function or an epoch gives: a dict, numbers or arrays of one.
    """
    found: dict[str, float] = {}
    for name, value in logs.items() if isinstance(logs, dict) else ():
        number = np.asarray(to_host(value))
        if number.size == 1 and number.dtype.kind in "fiub":
            found[str(name)] = float(number.reshape(()))
    return found


def _event(kind: str, step: StepStatistics, reason: str) -> dict[str, Any]:
    """What stands in the history of a run when a condition has held."""
    return {
        "event": kind,
        "phase": step.phase,
        "step": step.step,
        "epoch": step.epoch,
        "reason": reason,
        "targets": [part.config() for part in bad_targets(step.data)],
    }


def _sparse(counts: np.ndarray[Any, Any]) -> list[tuple[Any, Any]]:
    """Per row, the bins that hold something and how much."""
    row, bins = np.nonzero(counts)
    ends = np.searchsorted(row, np.arange(len(counts) + 1))
    held = counts[row, bins]
    bins = bins.astype(np.uint16)
    return [(bins[a:b], held[a:b]) for a, b in itertools.pairwise(ends)]
