"""Reading a run: while it is written, after its end, after a kill."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fitscope.errors import RunError, SelectionError
from fitscope.run.histograms import SparseRows
from fitscope.run.history import metrics_of
from fitscope.run.norms import global_norm
from fitscope.run.parts import Rows, read_parts
from fitscope.run.query import moments_of, tidy
from fitscope.run.record import PHASES
from fitscope.run.recorded import Values, join
from fitscope.run.rolled import rolled
from fitscope.run.schema import PHASE_CODES
from fitscope.run.sites import SiteTable
from fitscope.run.statistic_names import COLUMN_STATISTICS, compute, unknown_statistic
from fitscope.run.steps import step_mask
from fitscope.run.store import DiskStore, Store
from fitscope.run.table import Table
from fitscope.select.nearest import resolve
from fitscope.select.selector import select as make_selector
from fitscope.select.unseen import Unseen
from fitscope.statistics.descriptions import ALL
from fitscope.statistics.histogram import Histogram
from fitscope.statistics.moments import COLUMNS


class Run:
    """What a scope has written; every query reads what is there at that moment.

    Opening a run changes nothing in its directory, which may be read-only. Make one with
    `open_run`, or take `scope.run`.

    Args:
        store: Where the data are.

    Example:
        >>> from fitscope.run.writer import RunWriter
        >>> run = RunWriter(None, config={"lr": 0.1}).run
        >>> run.config["lr"], run.status, len(run.sites)
        (0.1, 'running', 0)
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def path(self) -> Path | None:
        """The run directory; None for a run in memory."""
        return self._store.path

    @property
    def config(self) -> Mapping[str, Any]:
        """What the run was started with."""
        return self._store.config

    @property
    def status(self) -> str:
        """`"running"`, `"interrupted"` (its process is gone), or as closed: `"finished"`, ...

        On another machine a writer that has been silent for two minutes counts as gone.
        """
        return self._store.status

    @property
    def lost_steps(self) -> int:
        """Observed steps that a full disk or the bound on memory has cost; 0 when all is well."""
        return self._store.lost_steps

    @property
    def lost_values(self) -> int:
        """Steps whose tensors were to be recorded and were not; 0 when all is well.

        A disk slower than the training, a full one, or the bound on memory costs them.
        """
        return self._store.lost_values

    @property
    def recorded(self) -> SiteTable:
        """The sites whose tensors were recorded; `values` gives those."""
        return self._store.recorded

    @property
    def sites(self) -> SiteTable:
        """The sites of the run, in the order in which they were added."""
        return self._store.sites

    @property
    def graph(self) -> Mapping[str, Any]:
        """The model: layers, calls, edges, as its writer described it."""
        return self._store.graph

    @property
    def unseen(self) -> list[Unseen]:
        """Selected sites that were not seen, with the reasons."""
        return self._store.unseen

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What rules found while the run was written, oldest first."""
        return self._store.findings

    @property
    def history(self) -> list[dict[str, Any]]:
        """What is known of each `fit`, oldest first.

        Records by `"event"`: `"fit"` (settings, and the loss of the best constant answer),
        `"step"` (`logs` of an observed step: Keras' averages over the epoch so far, which is
        `place` steps old), `"epoch"` (`logs` at its end) and `"end"` (how far each weight moved).
        """
        return self._store.history

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Loss and metrics as Keras reported them, oldest first.

        Each has `step`, `epoch`, `phase` and `values` by name. Phase `"train"` holds what Keras
        reported after an observed step, a mean over the epoch up to there; phase `"epoch"` what it
        reported at the end of an epoch, `val_` metrics among it.
        """
        return metrics_of(self.history)

    @property
    def user_statistics(self) -> list[str]:
        """Names of the statistics of the user that the run holds, sorted."""
        names = self._read("extra", ["statistic"], Rows()).column("statistic")
        return sorted(names.unique().to_pylist())

    def stats(
        self,
        select: Any = "**",
        statistic: str | Sequence[str] | None = None,
        phase: str | None = None,
        steps: Any = None,
    ) -> Table:
        """Statistics over time, as a tidy table.

        Args:
            select: Sites: a pattern, a name, a `Site`, a predicate, a list of these, a selector.
            statistic: A statistic or several: stored (`"mean"`), derived (`"rms"`), from the
                histogram (`"q95"`, `"float16_underflow"`) or the user's. None for the stored ones
                and the user's.
            phase: `"train"`, `"validation"`, `"test"` or `"predict"`; None for all.
            steps: A step, `range(first, stop)`, `slice(first, stop)` where negative numbers count
                back from the last step, or a list of steps; None for all.

        Returns:
            A table of step, epoch, phase, site, statistic, value, ordered by site, statistic and
            time of writing.

        Raises:
            SelectionError: No site is selected.
            StatisticError: A statistic is unknown.
            RunError: The phase or the steps are not understood.
        """
        sites = self.sites
        statistics = self._statistics(statistic)
        rows = Rows(self._indices(select, sites), _phase(phase), self._steps(steps, phase))
        return Table(tidy(self._read, rows, statistics, sites.names))

    def global_norm(self, port: str, phase: str = "train", steps: Any = None) -> Table:
        """The Euclidean norm of all variables' gradients, values or updates together.

        Computed from the statistics of the single variables in float64; it is the norm of those
        that were watched.

        Args:
            port: `"weight_gradient"`, `"weight"` or `"update"`.
            phase: As in `stats`.
            steps: As in `stats`.

        Returns:
            A table as of `stats`, one row for each step, whose site is `**:<port>`. Where a
            variable held NaN or an infinity, the norm is NaN.

        Raises:
            RunError: The port is another one.
            SelectionError: Nothing was watched at this port.
        """
        return global_norm(self, port, phase, steps)

    def histogram(self, site: Any, steps: Any = None, phase: str = "train") -> Histogram:
        """The magnitude histogram of one site, merged over steps.

        Args:
            site: The name of a site, or a selection of exactly one.
            steps: As in `stats`.
            phase: The phase.

        Returns:
            The merged histogram; empty when none was stored for these steps.

        Raises:
            SelectionError: No site is selected.
            RunError: Several are.
        """
        sites = self.sites
        if isinstance(site, str) and site in sites:
            chosen = np.array([sites.index_of(site)])
        else:
            found = resolve(make_selector(site), sites)
            chosen = np.array([sites.index_of(one.name) for one in found])
        if len(chosen) > 1:
            names = ", ".join(sites.names[i] for i in chosen[:5])
            raise RunError(
                f"{site!r} selects {len(chosen)} sites ({names}, ...); a histogram is of one. "
                "Histograms of several add up with `+`."
            )
        rows = Rows(chosen, _phase(phase), self._steps(steps, phase))
        return Histogram(SparseRows(self._read("hist", ["bins", "counts"], rows)).total())

    def values(self, site: Any, phase: str | None = None, steps: Any = None) -> Values:
        """The recorded tensors of one site, with the steps they are of.

        Args:
            site: The name of a recorded site, or a selection of exactly one; `run.recorded` lists
                them. `"@batch/x"`, `"@batch/y"`, `"@batch/y_pred"`, `"@batch/loss"` and the like
                hold what `fs.record(fs.BATCH)` recorded.
            phase: As in `stats`.
            steps: As in `stats`.

        Returns:
            A sequence in the order of writing; nothing is read before an array is asked for.

        Raises:
            SelectionError: No recorded site is selected.
            RunError: Several are.
        """
        recorded = self.recorded
        if isinstance(site, str) and site in recorded.names:
            chosen = recorded[site]
        elif not len(recorded):
            raise SelectionError(
                f"{site!r}: this run has recorded no tensors. Give fs.record(...) to the scope."
            )
        else:
            found = resolve(make_selector(site), recorded)
            if len(found) > 1:
                names = ", ".join(one.name for one in found[:5])
                raise RunError(
                    f"{site!r} selects {len(found)} recorded sites ({names}); give one of them."
                )
            chosen = found[0]
        code, mask = _phase(phase), self._value_steps(steps, chosen.name)
        pieces = [
            piece
            for piece in self._store.pieces(chosen.name)
            if (code is None or piece.phase == phase)
            and (mask is None or mask(np.array([piece.step]))[0])
        ]
        return Values(chosen, pieces)

    def join(
        self, sites: Sequence[Any], phase: str = "train", steps: Any = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The recorded rows of several sites that belong to the same samples.

        Args:
            sites: Names of recorded sites, each with one row for each sample of a batch.
            phase: As in `stats`.
            steps: As in `stats`.

        Returns:
            Arrays of equal length: `"step"`, `"epoch"`, `"phase"`, `"position"` (the row's place in
            its batch), and one for each site under its name. Rows that were not recorded of all
            sites are left out.

        Raises:
            SelectionError: A site was not recorded.
            RunError: The sites do not have one row for each sample, or rows differ in shape.
        """
        if isinstance(sites, str) or not len(sites):
            raise RunError(f"join({sites!r}): expected a list of recorded sites, one or more.")
        tables = [self.values(site, phase, steps) for site in sites]
        return join({values.site.name: values for values in tables})

    def last(self, phase: str = "train") -> dict[str, dict[str, float]]:
        """The latest observed step of a phase.

        Args:
            phase: The phase.

        Returns:
            By site, every stored and derived statistic and the user's; empty before the first
            step.
        """
        step = self._last_step(phase)
        if step is None:
            return {}
        names = self.sites.names
        rows = Rows(phase=_phase(phase), steps=step_mask(step, lambda: step))
        table = self._newest("stats", COLUMNS, rows)
        moments = moments_of(table, COLUMNS)
        columns = {name: compute(moments, name).tolist() for name in COLUMN_STATISTICS}
        latest: dict[str, dict[str, float]] = {}
        for row, site in enumerate(table.column("site").to_pylist()):
            if site < len(names):
                latest[names[site]] = {name: values[row] for name, values in columns.items()}
        extra = self._newest("extra", ["statistic", "value"], rows)
        for row in extra.select(["site", "statistic", "value"]).to_pylist():
            if row["site"] < len(names):
                latest.setdefault(names[row["site"]], {})[row["statistic"]] = row["value"]
        return dict(sorted(latest.items(), key=lambda item: self.sites.index_of(item[0])))

    def rollup(
        self,
        select: Any = "**",
        statistic: str | Sequence[str] = "rms",
        phase: str | None = None,
        level: int = 64,
    ) -> Table:
        """Statistics over a long time, in blocks of observations with minimum, mean and maximum.

        Reads about 1/64 (or 1/4096) of what `stats` reads.

        Args:
            select: As in `stats`.
            statistic: Stored or derived statistics.
            phase: As in `stats`.
            level: Observations per block, 64 or 4096; the last block of a file holds fewer.

        Returns:
            A table of step (the first of the block), last_step, epoch, phase, site, statistic,
            rows (observations in the block), min, mean, max.

        Raises:
            SelectionError: No site is selected.
            StatisticError: A statistic is unknown, or is not rolled up.
            RunError: There is no such level.
        """
        sites = self.sites
        names = [statistic] if isinstance(statistic, str) else list(statistic)
        for name in names:
            if name not in COLUMN_STATISTICS:
                raise unknown_statistic(name, COLUMN_STATISTICS, ())
        rows = Rows(self._indices(select, sites), _phase(phase))
        return Table(rolled(self._store, rows, names, sites.names, level))

    def refresh(self) -> Run:
        """This run; kept for symmetry, since every query reads what is there at that moment."""
        return self

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else str(self.path)
        return f"<Run {where}, {self.status}, {len(self.sites)} sites>"

    def _read(self, kind: str, columns: Sequence[str], rows: Rows) -> pa.Table:
        return read_parts(lambda: self._store.parts(kind), kind, columns, rows)

    def _newest(self, kind: str, columns: Sequence[str], rows: Rows) -> pa.Table:
        """The wanted rows of the newest record among them, looking backwards."""

        def newest() -> list[Any]:
            for part in reversed(self._store.parts(kind)):
                table = part.read([], rows)
                if table.num_rows:
                    return [part]
            return []

        table = read_parts(newest, kind, columns, rows)
        seq = table.column("seq").to_numpy()
        # One step may come as several records (site groups); a repeated step number is older.
        sites = table.column("site").to_numpy()
        order = np.lexsort((seq, sites))
        last = np.append(sites[order][1:] != sites[order][:-1], True) if len(order) else order
        if kind == "extra":
            return table
        return table.take(pa.array(order[last]) if len(order) else pa.array([], pa.int64()))

    def _last_step(self, phase: str | None) -> int | None:
        rows = Rows(phase=_phase(phase))
        for _ in range(3):
            try:
                for part in reversed(self._store.parts("stats")):
                    table = part.read([], rows)
                    if table.num_rows:
                        newest = int(np.argmax(table.column("seq").to_numpy()))
                        return int(table.column("step")[newest].as_py())
            except FileNotFoundError:
                continue
            return None
        return None

    def _steps(self, steps: Any, phase: str | None) -> Any:
        return step_mask(steps, lambda: self._last_step(phase) or 0)

    def _value_steps(self, steps: Any, name: str) -> Any:
        def last() -> int:
            return max((piece.step for piece in self._store.pieces(name)), default=0)

        return step_mask(steps, last)

    def _statistics(self, statistic: str | Sequence[str] | None) -> list[str]:
        if statistic is None:
            return [*COLUMNS, *(n for n in self.user_statistics if n not in ALL)]
        names = [statistic] if isinstance(statistic, str) else list(dict.fromkeys(statistic))
        if all(name in ALL for name in names):
            return names
        users = self.user_statistics
        for name in names:
            if name not in ALL and name not in users:
                raise unknown_statistic(name, ALL, users)
        return names

    @staticmethod
    def _indices(select: Any, sites: SiteTable) -> Any:
        if isinstance(select, str) and select == "**" and len(sites):
            return None
        found = resolve(make_selector(select), sites)
        return (
            None
            if len(found) == len(sites)
            else np.array(sorted(sites.index_of(site.name) for site in found))
        )


def open_run(path: str | os.PathLike[str], *, rank: int = 0) -> Run:
    """Open a run directory for reading, also while another process writes it.

    Args:
        path: The run directory.
        rank: Which process of a distributed run.

    Returns:
        The run. The directory is not changed, whatever state a kill has left it in.

    Raises:
        RunError: There is no such directory, or it cannot be read.
        RunFormatError: The directory holds no run, or one of a later format.

    Example:
        >>> open_run("runs/first").stats("conv*", "rms")  # doctest: +SKIP
    """
    return Run(DiskStore(Path(path), rank))


def _phase(phase: str | None) -> int | None:
    if phase is None:
        return None
    if phase not in PHASE_CODES:
        raise RunError(f"unknown phase {phase!r}; expected one of {', '.join(PHASES)}, or None.")
    return PHASE_CODES[phase]
