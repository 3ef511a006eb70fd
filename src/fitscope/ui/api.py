"""The questions the page asks, and their answers: JSON, and pictures as float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fitscope.errors import FitscopeError, RunError
from fitscope.run.statistic_names import COLUMN_STATISTICS
from fitscope.ui.answers import binary_answer, json_answer
from fitscope.ui.ask import MOST_COLUMNS, Ask
from fitscope.ui.columns import held, outside, shown, to_columns
from fitscope.ui.describe import detail, extents, kind_of, summary
from fitscope.ui.fan import QUANTILES, fan
from fitscope.ui.opened import Opened, OpenRuns
from fitscope.ui.units import units
from fitscope.ui.values import recorded, value
from fitscope.ui.work import Work

MOST_CELLS = 400_000
"""Cells of one picture: more would take longer to send and to draw than to look at."""

MODES = ("notable", "min", "mean", "max")


class Api:
    """Answers the page's questions about the runs below some roots.

    Args:
        runs: The runs.
    """

    def __init__(self, runs: OpenRuns) -> None:
        self._runs = runs
        self._work = Work()

    def routes(self) -> list[Route]:
        """The routes, all of them reading."""
        answers: dict[str, Callable[[Request], Response]] = {
            "runs": self.runs,
            "run": self.run,
            "state": self.state,
            "strip": self.strip,
            "cell": self.cell,
            "series": self.series,
            "fan": self.fan,
            "findings": self.findings,
            "metrics": self.metrics,
            "recorded": self.recorded,
            "value": self.value,
            "units": self.units,
        }
        return [
            Route(f"/api/{name}", _guarded(answer), methods=["GET"])
            for name, answer in answers.items()
        ]

    def runs(self, request: Request) -> Response:
        """The table of runs."""
        return json_answer({"runs": [summary(run) for run in self._runs.roots.runs()]})

    def run(self, request: Request) -> Response:
        """A run: its model, sites, statistics, phases."""
        opened = self._opened(request)
        with opened.source.lock:
            version = opened.version()
            return json_answer({"version": version, **detail(opened.source, opened.found)})

    def state(self, request: Request) -> Response:
        """Whether the run has changed; asked for about once a second while it runs."""
        opened = self._opened(request)
        version = opened.version()
        if request.query_params.get("version") == version:
            rest = self._work.rest()
            return json_answer({"version": version, "changed": False, "rest": rest})
        with opened.source.lock:
            value = {
                "version": version,
                "changed": True,
                "status": opened.source.run.status,
                "sites": len(opened.source.run.sites),
                "lost_steps": opened.source.run.lost_steps,
                "phases": extents(opened.source),
            }
        return json_answer({**value, "rest": self._work.rest()})

    def strip(self, request: Request) -> Response:
        """Sites by columns of steps: one float32 a cell, NaN where nothing was observed."""
        opened, began = self._opened(request), time.perf_counter()
        ask = Ask(request, opened)
        with opened.source.lock:
            sites = ask.sites()
            width = ask.columns(max(1, MOST_CELLS // max(len(sites), 1)))
            first, last = ask.steps()
            reach = ask.reach()
            asked = (first - reach, last + reach)
            if "quick" in request.query_params and ask.statistic in COLUMN_STATISTICS:
                blocks = opened.source.quick(ask.statistic, ask.phase)
            else:
                blocks = opened.source.blocks(ask.statistic, ask.phase, asked, sites)
            width = max(1, min(width, last - first + 1))
            columns = to_columns(blocks, sites, first, last, width)
            columns = held(columns, outside(blocks, sites, first, last))
        kind = kind_of(ask.statistic)
        mode = request.query_params.get("mode", "notable")
        if mode not in MODES:
            raise RunError(f"mode={mode!r} is not one of {', '.join(MODES)}.")
        columns = columns.narrow()
        cells = shown(columns, mode, by_ratio=kind in ("magnitude", "count"))
        # Observed without a value: of no finite element, or not a thing this layer has.
        missing = np.isnan(cells)
        if missing.any():
            cells = np.where(missing & (columns.rows > 0), np.float32(np.inf), cells)
        exact = bool((blocks.rows == 1).all())
        header = {
            "statistic": ask.statistic,
            "kind": kind,
            "mode": mode,
            "first": first,
            "last": last,
            "columns": width,
            "rows": len(sites),
            "sites": sites.tolist(),
            "exact": exact,
            "seconds": time.perf_counter() - began,
        }
        return binary_answer(header, cells)

    def cell(self, request: Request) -> Response:
        """Exactly what lies behind some steps of one site."""
        opened = self._opened(request)
        ask = Ask(request, opened)
        site = ask.site()
        with opened.source.lock:
            first, last = ask.steps()
            asked = (first - ask.reach(), last)
            blocks = opened.source.blocks(ask.statistic, ask.phase, asked, np.array([site]))
            blocks = blocks.of_site(site)
            inside = (blocks.last >= first) & (blocks.first <= last)
            if not inside.any() and (blocks.last < first).any():
                # Not observed here: the picture holds the observation before.
                inside[np.flatnonzero(blocks.last < first)[-1]] = True
            blocks = blocks.take(inside)
        found: dict[str, Any] = {"site": site, "observed": int(blocks.rows.sum())}
        if len(blocks):
            known = ~np.isnan(blocks.mean)
            weight = np.where(known, blocks.rows, 0)
            mean = float(np.where(known, blocks.mean, 0) @ weight)
            found |= {
                "first": int(blocks.first.min()),
                "last": int(blocks.last.max()),
                "low": float(np.fmin.reduce(blocks.low)),
                "mean": mean / float(weight.sum()) if weight.any() else None,
                "high": float(np.fmax.reduce(blocks.high)),
            }
        return json_answer(found)

    def series(self, request: Request) -> Response:
        """Statistics of one site over time, each as minimum, mean and maximum a column."""
        opened = self._opened(request)
        ask = Ask(request, opened)
        site = ask.site()
        series: dict[str, Any] = {}
        with opened.source.lock:
            first, last = ask.steps()
            width = min(ask.columns(MOST_COLUMNS), last - first + 1)
            wanted = opened.source.of_site(site, ask.statistics(), ask.phase, (first, last))
            for statistic, blocks in wanted.items():
                columns = to_columns(blocks, np.array([site]), first, last, width)
                held = np.flatnonzero(columns.rows[0])
                series[statistic] = {
                    "step": _middles(held, first, last, width).tolist(),
                    "low": columns.low[0][held].tolist(),
                    "mean": columns.mean[0][held].tolist(),
                    "high": columns.high[0][held].tolist(),
                    "kind": kind_of(statistic),
                }
                inside = (blocks.last >= first) & (blocks.first <= last)
                if inside.sum() <= width and (blocks.rows[inside] == 1).all():
                    # Fewer observations than columns: each as it is, at its own step.
                    values = blocks.mean[inside].tolist()
                    steps = blocks.first[inside].tolist()
                    series[statistic] |= dict.fromkeys(("low", "mean", "high"), values)
                    series[statistic]["step"] = steps
        return json_answer({"first": first, "last": last, "series": series})

    def fan(self, request: Request) -> Response:
        """Quantiles of one site over time."""
        opened = self._opened(request)
        ask = Ask(request, opened)
        site = ask.site()
        with opened.source.lock:
            steps = ask.steps()
            found = fan(opened.source, site, ask.phase, steps, ask.columns(400))
        return json_answer(
            {
                "quantiles": list(QUANTILES),
                "first": found.first.tolist(),
                "last": found.last.tolist(),
                "values": found.quantiles.tolist(),
                "zeros": found.zeros.tolist(),
                "nonfinite": found.nonfinite.tolist(),
                "rows": found.rows.tolist(),
                "read": found.read,
            }
        )

    def findings(self, request: Request) -> Response:
        """What the rules found, the gravest first."""
        opened = self._opened(request)
        with opened.source.lock:
            version = opened.version()
            rows = sum(phase["rows"] for phase in extents(opened.source).values())
            running = opened.source.run.status == "running"
        latest = opened.findings.latest(version, rows, running=running)
        return json_answer(
            {
                "findings": latest.found,
                "complete": latest.complete,
                "fresh": latest.fresh,
                "wait": latest.wait,
                "note": latest.note,
            }
        )

    def metrics(self, request: Request) -> Response:
        """Loss and metrics over time, as Keras reported them."""
        opened = self._opened(request)
        with opened.source.lock:
            return json_answer(
                {"series": opened.metrics.series(Ask(request, opened).columns(2000))}
            )

    def recorded(self, request: Request) -> Response:
        """The sites whose tensors were recorded, and when."""
        opened = self._opened(request)
        with opened.source.lock:
            return json_answer({"recorded": recorded(opened.source.run)})

    def value(self, request: Request) -> Response:
        """One recorded tensor."""
        opened = self._opened(request)
        ask = Ask(request, opened)
        with opened.source.lock:
            name = request.query_params.get("site", "")
            header, array = value(opened.source.run, name, ask.step(), ask.phase)
        return binary_answer(header, array)

    def units(self, request: Request) -> Response:
        """Which units of a recorded layer are on in which step, and which are off since when."""
        opened = self._opened(request)
        ask = Ask(request, opened)
        with opened.source.lock:
            run, name = opened.source.run, request.query_params.get("site", "")
            activation = run.sites[name].activation if name in run.sites.names else None
            pieces = run.values(name, phase=ask.phase) if name in run.recorded.names else []
            found = units(pieces, activation, partial(opened.source.of_piece, name))
        if found is None:
            return binary_answer({"recorded": 0, "steps": [], "since": []}, np.empty(0, np.float32))
        header = {
            "recorded": found.recorded,
            "steps": found.steps.tolist(),
            "since": found.since.tolist(),
            "rows": found.rows,
            "units": found.units,
        }
        return binary_answer(header, found.on)

    def _opened(self, request: Request) -> Opened:
        return self._runs.get(request.query_params.get("run", ""))


def _middles(held: NDArray[np.int64], first: int, last: int, width: int) -> NDArray[np.float64]:
    return np.asarray(first + (held + 0.5) * ((last - first + 1) / width) - 0.5, np.float64)


def _guarded(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def guarded(request: Request) -> Response:
        try:
            return answer(request)
        except (FitscopeError, OSError, ValueError, KeyError) as error:
            # A run that is half written, broken or gone: the page says so in words.
            message = str(error) or type(error).__name__
            return JSONResponse({"problem": message}, 404)

    return guarded
