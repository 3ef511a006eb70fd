"""Writing a run: one writer per process, fed by the thread that drains the device."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitscope.errors import RunError
from fitscope.run.buffer import check_record
from fitscope.run.claim import claim, create_streams
from fitscope.run.layout import (
    FINDINGS_FILE,
    GRAPH_FILE,
    HEARTBEAT_FILE,
    HISTORY_FILE,
    RUN_FILE,
    STREAMS,
    json_text,
    rank_name,
    replace_json,
    write_json,
)
from fitscope.run.live import LiveStore
from fitscope.run.liveness import beat
from fitscope.run.manifest import manifest
from fitscope.run.parts import Part
from fitscope.run.reader import Run
from fitscope.run.record import StepRecord
from fitscope.run.recovery import recover_for_writing
from fitscope.run.sites import SiteTable
from fitscope.run.store import DiskStore
from fitscope.run.stream import StreamWriter, Surroundings
from fitscope.run.uninterrupted import UninterruptedLock
from fitscope.run.value_store import StepValues, ValueWriter
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen

if TYPE_CHECKING:
    from typing import Self

MEMORY_BYTES = 256 * 2**20
_SHARES = {"stats": 0.5, "hist": 0.4, "extra": 0.1}
_HEARTBEAT_SECONDS = 1.0
_FINDINGS_KEPT = 10_000
_HISTORY_KEPT = 50_000


class RunWriter:
    """Writes a run, on disk or in memory.

    Safe to use from several threads; it has none of its own. What was flushed survives
    `kill -9`, not a power cut: nothing is fsynced. Once it is constructed, a failing disk never
    raises: what cannot be written stays in memory (at most `memory_bytes`, thinned evenly over
    time beyond that), one warning says so, and the disk is tried again every 30 seconds.

    In memory a run is bounded the same way: its newest quarter keeps every step, what is
    older is an even sample of the whole run; see `fitscope.run.memory`.

    Args:
        path: Directory to create; it may exist if it is empty. None for memory only.
        config: What the run was started with, anything JSON can say; the rest becomes strings.
        flush_steps: Records after which `append` flushes.
        flush_seconds: Seconds after which `append` or `heartbeat` flushes.
        rank: Number of this process in a distributed run. Rank 0 writes `run.json`.
        memory_bytes: Bytes held in memory at most.

    Raises:
        RunExistsError: The directory holds something.
        RunError: The directory cannot be made or written to.

    Example:
        >>> import numpy as np
        >>> from fitscope.statistics.moments import COLUMNS
        >>> writer = RunWriter(None, config={})
        >>> writer.append(StepRecord(0, 0, "train", np.array([], int), np.empty((0, len(COLUMNS)))))
        >>> writer.close()
        >>> writer.run.status
        'finished'
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        config: Mapping[str, Any],
        flush_steps: int = 50,
        flush_seconds: float = 1.0,
        rank: int = 0,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.path = None if path is None else Path(path)
        self.rank = rank
        self._folder = None if self.path is None else self.path / rank_name(rank)
        self._flush_steps, self._flush_seconds = flush_steps, flush_seconds
        # A Mapping that JSON reads back; the caller may go on changing its own.
        self.manifest = manifest(config, rank, kept=self.path is not None)
        self.lock = UninterruptedLock()
        self._pid = os.getpid()
        self._sites: list[Site] = []
        self._names: dict[str, int] = {}
        self.graph: Mapping[str, Any] = {}
        self._unseen: dict[tuple[str, str], Unseen] = {}
        self._findings: list[dict[str, Any]] = []
        self._history: list[dict[str, Any]] = []
        self._status = "running"
        self._resting: str | None = None
        self._last_step = -1
        self._first_pending = 0.0
        self._last_beat = 0.0
        self._problem: str | None = None
        self._warned = False
        self._start({}, memory_bytes)
        if self.path is not None and self._folder is not None:
            claim(self.path, rank)
            create_streams(self._folder)
            try:
                if rank == 0:
                    write_json(self.path / RUN_FILE, self.manifest)
                self._beat()
            except OSError as error:
                raise RunError(
                    f"{self.path} cannot be written to: {error}. Give a directory on a disk with "
                    "room that you may write to, or run=None to keep the run in memory."
                ) from error
        self.run = Run(LiveStore(self))

    @classmethod
    def reopen(
        cls,
        path: str | os.PathLike[str],
        *,
        flush_steps: int = 50,
        flush_seconds: float = 1.0,
        rank: int = 0,
        memory_bytes: int = MEMORY_BYTES,
    ) -> Self:
        """Append to a run that was closed or killed.

        What a kill left is recovered first: torn messages are cut, hot streams sealed and
        temporary files deleted.

        Args:
            path: The run directory.
            flush_steps: See `RunWriter`.
            flush_seconds: See `RunWriter`.
            rank: See `RunWriter`.
            memory_bytes: See `RunWriter`.

        Raises:
            RunError: Another process writes the run, or it cannot be written to.
            RunFormatError: The directory holds no run, or one of a later format.
        """
        store = DiskStore(Path(path), rank)
        next_seqs = recover_for_writing(store)
        self = cls(
            None,
            config={},
            flush_steps=flush_steps,
            flush_seconds=flush_seconds,
            rank=rank,
            memory_bytes=memory_bytes,
        )
        self.path, self._folder, self.manifest = Path(path), store.folder, store.manifest
        self._sites = list(store.sites)
        self._names = {site.name: index for index, site in enumerate(self._sites)}
        self.graph = store.graph
        self._unseen = {(gap.site, gap.reason): gap for gap in store.unseen}
        self._findings = store.findings
        self._history = store.history
        self._last_step = int((store.heartbeat or {}).get("last_step", -1))
        self._start(next_seqs, memory_bytes)
        try:
            self._beat()
        except OSError as error:
            raise RunError(f"{path} cannot be written to: {error}.") from error
        self.run = Run(LiveStore(self))
        return self

    def add_sites(self, sites: Sequence[Site]) -> list[int]:
        """Add sites, and give the indices that `StepRecord.sites` refers to.

        Args:
            sites: The sites; one whose name the run has already keeps its index.
        """
        with self.lock:
            changed = False
            for site in sites:
                index = self._names.setdefault(site.name, len(self._sites))
                if index == len(self._sites):
                    self._sites.append(site)
                    changed = True
                elif self._sites[index] != site:
                    self._sites[index] = site
                    changed = True
            if changed:
                self._write_graph()
            return [self._names[site.name] for site in sites]

    def set_graph(self, graph: Mapping[str, Any]) -> None:
        """Describe the model: its layers, calls and edges.

        Args:
            graph: Anything JSON can say.
        """
        with self.lock:
            self.graph = dict(graph)
            self._write_graph()

    def add_unseen(self, unseen: Sequence[Unseen]) -> None:
        """Report selected sites that were not seen.

        Args:
            unseen: What was not seen; what is known already is left aside.
        """
        with self.lock:
            before = len(self._unseen)
            self._unseen.update({(gap.site, gap.reason): gap for gap in unseen})
            if len(self._unseen) > before:
                self._write_graph()

    def add_finding(self, finding: Mapping[str, Any]) -> None:
        """Add what a rule found.

        Args:
            finding: Anything JSON can say.
        """
        with self.lock:
            # Memory keeps the newest; the file keeps all.
            self._findings.append(dict(finding))
            del self._findings[:-_FINDINGS_KEPT]
            self._append_line(FINDINGS_FILE, finding, "write a finding")

    def add_history(self, record: Mapping[str, Any]) -> None:
        """Add what is known of the training itself; see `Run.history`.

        Args:
            record: Anything JSON can say.
        """
        with self.lock:
            self._history.append(dict(record))
            if len(self._history) > _HISTORY_KEPT:
                # The first records say how the training began; every second later one stays.
                del self._history[_HISTORY_KEPT // 4 :: 2]
            self._append_line(HISTORY_FILE, record, "write the history")

    def _append_line(self, name: str, value: Mapping[str, Any], doing: str) -> None:
        if self._foreign() or self._folder is None:
            return
        try:
            with open(self._folder / name, "ab", buffering=0) as file:
                file.write((json_text(value) + "\n").encode())
        except OSError as error:
            self._on_problem(error, doing)

    def append(self, record: StepRecord) -> None:
        """Add one observed step; its arrays are copied.

        Flushes after `flush_steps` records, and after `flush_seconds`.

        Args:
            record: The step.

        Raises:
            RunError: The record's parts do not fit together, or the writer is closed.
        """
        check_record(record)
        with self.lock:
            if self._foreign():
                return
            if self._status == self._resting:
                self._status, self._resting = "running", None
                self._beat_if_due(time.monotonic(), force=True)
            if self._status != "running":
                raise RunError(
                    f"step {record.step} was appended to a closed run. "
                    "`RunWriter.reopen(path)` opens it again."
                )
            now = time.monotonic()
            if not self._pending():
                self._first_pending = now
            for stream in self._streams.values():
                stream.push(record)
            self._last_step = record.step
            self._flush_if_due(now)

    def append_values(self, values: StepValues) -> None:
        """Add the recorded tensors of one step; nobody may write to their arrays afterwards.

        They count as `append` does: after `flush_steps` steps or `flush_seconds`.

        Args:
            values: The tensors.
        """
        with self.lock:
            if os.getpid() != self._pid:  # as `_foreign` does; small tensors come by the thousand
                return
            self._values.append(values)
            now = time.monotonic()
            if now >= self._values_due:
                self._flush_values_if_due(now)

    def lose_values(self, steps: int) -> None:
        """Count steps whose tensors were given up before they came here."""
        with self.lock:
            self._given_up += steps

    @property
    def values(self) -> ValueWriter:
        """The recorded tensors; under `lock`."""
        return self._values

    @property
    def lost_values(self) -> int:
        """Steps whose tensors were to be recorded, and neither disk nor memory holds."""
        return self._given_up + self._values.lost

    def heartbeat(self) -> None:
        """Say that this process is alive, and flush what has waited for `flush_seconds`.

        Call it about once a second while no step comes, such as during a compilation.
        """
        with self.lock:
            if self._foreign() or self._status != "running":
                return
            now = time.monotonic()
            self._flush_if_due(now)
            self._flush_values_if_due(now)
            self._beat_if_due(now)

    def flush(self) -> None:
        """Write everything appended so far, so that other processes see it."""
        with self.lock:
            if self._foreign() or self._status != "running":
                return
            self._flush_streams()
            self._beat_if_due(time.monotonic(), force=True)

    def rest(self, status: str = "finished") -> None:
        """Flush, and say how things stand; a later `append` takes the run up again.

        Args:
            status: What other processes read as `Run.status` until then.
        """
        with self.lock:
            if self._foreign() or self._status not in ("running", self._resting):
                return
            self._flush_streams()
            self._values.flush(last=True)
            self._status = self._resting = status
            self._beat_if_due(time.monotonic(), force=True)

    def close(self, status: str = "finished") -> None:
        """Flush, seal and mark the end of the run; a second call does nothing.

        Args:
            status: What `Run.status` says from now on: `"finished"`, `"failed"`, ...
        """
        with self.lock:
            if self._foreign() or self._status not in ("running", self._resting):
                return
            for stream in self._streams.values():
                stream.close()
            self._values.flush(last=True)
            self._status, self._resting = status, None
            self._beat_if_due(time.monotonic(), force=True)

    @property
    def sites(self) -> SiteTable:
        """The sites added so far."""
        with self.lock:
            return SiteTable(self._sites)

    @property
    def lost_steps(self) -> int:
        """Observed steps that neither disk nor memory holds any more."""
        return self._streams["stats"].memory.dropped

    @property
    def status(self) -> str:
        """`"running"`, or what `close` was told."""
        return self._status

    @property
    def unseen(self) -> list[Unseen]:
        """What was reported as not seen."""
        with self.lock:
            return list(self._unseen.values())

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The findings added, at most the newest 10,000."""
        with self.lock:
            return list(self._findings)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The history added, thinned out beyond 50,000 records."""
        with self.lock:
            return list(self._history)

    def parts(self, kind: str) -> list[Part]:
        """What is not on disk; for `LiveStore`."""
        return self._streams[kind].parts()

    @property
    def problem(self) -> str | None:
        """What went wrong with the disk last; None when all is well."""
        return self._problem

    def _start(self, next_seqs: Mapping[str, int], memory_bytes: int) -> None:
        around = Surroundings(
            rank=self._folder,
            names=lambda: [site.name for site in self._sites],
            problem=self._on_problem,
        )
        self._streams = {
            kind: StreamWriter(
                kind, around, int(_SHARES[kind] * memory_bytes), next_seqs.get(kind, 0)
            )
            for kind in STREAMS
        }
        self._values = ValueWriter(self._folder, self._on_problem, memory_bytes)
        self._given_up = 0
        self._values_due = time.monotonic() + self._flush_seconds

    def _foreign(self) -> bool:
        # A forked child (a data loader's worker) inherits the writer and its descriptors; were it
        # to write, it would tear the parent's stream.
        return os.getpid() != self._pid

    def _pending(self) -> int:
        return max(stream.pending for stream in self._streams.values())

    def _flush_if_due(self, now: float) -> None:
        pending = self._pending()
        if pending and (
            pending >= self._flush_steps or now - self._first_pending >= self._flush_seconds
        ):
            self._flush_streams()
            self._beat_if_due(now)

    def _flush_values_if_due(self, now: float) -> None:
        if now >= self._values_due and self._values.waiting:
            self._values.flush()
            # With hundreds of sites a flush takes seconds, and what records must not do only that.
            after = time.monotonic()
            self._values_due = after + max(self._flush_seconds, 9 * (after - now))

    def _flush_streams(self) -> None:
        for stream in self._streams.values():
            stream.flush()
        self._values.flush()

    def _beat_if_due(self, now: float, *, force: bool = False) -> None:
        if self._folder is None or not (force or now - self._last_beat >= _HEARTBEAT_SECONDS):
            return
        try:
            self._beat()
        except OSError as error:
            self._on_problem(error, "write the heartbeat")

    def _beat(self) -> None:
        self._last_beat = time.monotonic()
        if self._folder is None:
            return
        details = {
            "last_step": self._last_step,
            "unsaved_steps": self._streams["stats"].unsaved,
            "lost_steps": self.lost_steps,
            "unsaved_values": self._values.unsaved,
            "lost_values": self.lost_values,
            "problem": self._problem,
        }
        replace_json(self._folder / HEARTBEAT_FILE, beat(self._status, details))

    def _write_graph(self) -> None:
        if self._foreign() or self.path is None or self._folder is None:
            return
        # Ranks share no file.
        folder = self.path if self.rank == 0 else self._folder
        value = {
            "sites": [site.to_json() for site in self._sites],
            "graph": self.graph,
            "unseen": [gap.to_json() for gap in self._unseen.values()],
        }
        try:
            write_json(folder / GRAPH_FILE, value)
        except OSError as error:
            self._on_problem(error, "write the graph")

    def _on_problem(self, error: Exception, doing: str) -> None:
        self._problem = f"could not {doing}: {error}"
        if self._warned:
            return
        self._warned = True
        message = (
            f"fitscope could not {doing} in {self.path}: {error}. Training goes on; what cannot "
            "be written stays in memory, where `scope.run` reads it, and what was written before "
            "stays readable. Make room or restore the directory: the disk is tried again every "
            "30 seconds and at the end."
        )
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:
            # Python was told to raise warnings; training still must not end for a full disk.
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"RuntimeWarning: {message}\n")
