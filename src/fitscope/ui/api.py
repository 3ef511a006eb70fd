"""The questions the page asks, and their answers: JSON, and pictures as float32."""

from __future__ import annotations

import json
import os
import struct
import threading
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
from fitscope.run.record import PHASES
from fitscope.run.statistic_names import COLUMN_STATISTICS
from fitscope.ui.columns import held, outside, shown, to_columns
from fitscope.ui.describe import detail, extents, kind_of, plain, summary
from fitscope.ui.fan import QUANTILES, fan
from fitscope.ui.opened import Opened, OpenRuns
from fitscope.ui.units import units
from fitscope.ui.values import recorded, value

MOST_COLUMNS = 2000
MOST_CELLS = 400_000
"""Cells of one picture: more would take longer to send and to draw than to look at."""

FOLLOWING_SHARE = 0.005
"""Of all processors, what following a running training may take of the server."""

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
            Route(f"/api/{name}", _guarded(answer, self._work), methods=["GET"])
            for name, answer in answers.items()
        ]

    def runs(self, request: Request) -> Response:
        """The table of runs."""
        return _json({"runs": [summary(run) for run in self._runs.roots.runs()]})

    def run(self, request: Request) -> Response:
        """A run: its model, sites, statistics, phases."""
        opened = self._opened(request)
        with opened.source.lock:
            version = opened.version()
            return _json({"version": version, **detail(opened.source, opened.found)})

    def state(self, request: Request) -> Response:
        """Whether the run has changed; asked for about once a second while it runs."""
        opened = self._opened(request)
        version = opened.version()
        if request.query_params.get("version") == version:
            return _json({"version": version, "changed": False})
        with opened.source.lock:
            value = {
                "version": version,
                "changed": True,
                "status": opened.source.run.status,
                "sites": len(opened.source.run.sites),
                "lost_steps": opened.source.run.lost_steps,
                "phases": extents(opened.source),
            }
        return _json({**value, "rest": self._work.rest()})

    def strip(self, request: Request) -> Response:
        """Sites by columns of steps: one float32 a cell, NaN where nothing was observed."""
        opened, began = self._opened(request), time.perf_counter()
        ask = _Ask(request, opened)
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
        return _binary(header, cells)

    def cell(self, request: Request) -> Response:
        """Exactly what lies behind some steps of one site."""
        opened = self._opened(request)
        ask = _Ask(request, opened)
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
        return _json(found)

    def series(self, request: Request) -> Response:
        """Statistics of one site over time, each as minimum, mean and maximum a column."""
        opened = self._opened(request)
        ask = _Ask(request, opened)
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
        return _json({"first": first, "last": last, "series": series})

    def fan(self, request: Request) -> Response:
        """Quantiles of one site over time."""
        opened = self._opened(request)
        ask = _Ask(request, opened)
        site = ask.site()
        with opened.source.lock:
            steps = ask.steps()
            found = fan(opened.source, site, ask.phase, steps, ask.columns(400))
        return _json(
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
        latest = opened.findings.latest(version, rows)
        return _json(
            {
                "findings": latest.found,
                "complete": latest.complete,
                "fresh": latest.fresh,
                "note": latest.note,
            }
        )

    def metrics(self, request: Request) -> Response:
        """Loss and metrics over time, as Keras reported them."""
        opened = self._opened(request)
        with opened.source.lock:
            return _json({"series": opened.metrics.series(_Ask(request, opened).columns(2000))})

    def recorded(self, request: Request) -> Response:
        """The sites whose tensors were recorded, and when."""
        opened = self._opened(request)
        with opened.source.lock:
            return _json({"recorded": recorded(opened.source.run)})

    def value(self, request: Request) -> Response:
        """One recorded tensor."""
        opened = self._opened(request)
        ask = _Ask(request, opened)
        with opened.source.lock:
            name = request.query_params.get("site", "")
            header, array = value(opened.source.run, name, ask.step(), ask.phase)
        return _binary(header, array)

    def units(self, request: Request) -> Response:
        """Which units of a recorded layer are on in which step, and which are off since when."""
        opened = self._opened(request)
        ask = _Ask(request, opened)
        with opened.source.lock:
            run, name = opened.source.run, request.query_params.get("site", "")
            activation = run.sites[name].activation if name in run.sites.names else None
            pieces = run.values(name, phase=ask.phase) if name in run.recorded.names else []
            found = units(pieces, activation, partial(opened.source.of_piece, name))
        if found is None:
            return _binary({"recorded": 0, "steps": [], "since": []}, np.empty(0, np.float32))
        header = {
            "recorded": found.recorded,
            "steps": found.steps.tolist(),
            "since": found.since.tolist(),
            "rows": found.rows,
            "units": found.units,
        }
        return _binary(header, found.on)

    def _opened(self, request: Request) -> Opened:
        return self._runs.get(request.query_params.get("run", ""))


class _Ask:
    """The parameters of a question, checked."""

    def __init__(self, request: Request, opened: Opened) -> None:
        self._given = request.query_params
        self._opened = opened
        self.statistic = self._given.get("statistic", "rms")
        self.phase = self._given.get("phase", "train")
        if self.phase not in PHASES:
            raise RunError(f"phase={self.phase!r} is not one of {', '.join(PHASES)}.")

    def statistics(self) -> list[str]:
        return self.statistic.split(",")[:16]

    def site(self) -> int:
        return self._opened.source.run.sites.index_of(self._given.get("site", ""))

    def sites(self) -> NDArray[np.int64]:
        """The sites of the picture, in their order; all by default."""
        count = len(self._opened.source.run.sites)
        given = self._given.get("sites")
        if given is None:
            return np.arange(count)
        try:
            chosen = [_span(part) for part in given.split(",") if part]
            places = np.concatenate([np.empty(0, np.int64), *chosen])
        except ValueError:
            raise RunError(f"sites={given[:80]!r}: expected numbers such as 0-9,12.") from None
        return places[(places >= 0) & (places < count)]

    def steps(self) -> tuple[int, int]:
        first, last = self._number("first"), self._number("last")
        if first is None or last is None:
            held = extents(self._opened.source).get(self.phase, {"first": 0, "last": 0})
            first = held["first"] if first is None else first
            last = held["last"] if last is None else last
        return first, max(first, last)

    def step(self) -> int:
        return self._number("step") or 0

    def reach(self) -> int:
        """Steps around a picture in which a neighbouring observation is looked for."""
        phase = extents(self._opened.source).get(self.phase)
        if phase is None:
            return 0
        return 4 * ((phase["last"] - phase["first"]) // max(phase["observed"], 1) + 1)

    def columns(self, most: int) -> int:
        return max(1, min(self._number("columns") or 800, most, MOST_COLUMNS))

    def _number(self, name: str) -> int | None:
        text = self._given.get(name)
        if text is None:
            return None
        try:
            return min(max(int(text), 0), 2**53)
        except ValueError:
            raise RunError(f"{name}={text[:40]!r}: expected a whole number.") from None


def _span(text: str) -> NDArray[np.int64]:
    first, dash, last = text.partition("-")
    stop = int(last) if dash else int(first)
    if stop - int(first) > 1_000_000:
        raise ValueError(text)
    return np.arange(int(first), stop + 1)


def _middles(held: NDArray[np.int64], first: int, last: int, width: int) -> NDArray[np.float64]:
    return np.asarray(first + (held + 0.5) * ((last - first + 1) / width) - 0.5, np.float64)


def _json(value: Any) -> Response:
    return JSONResponse(plain(value))


def _binary(header: dict[str, Any], values: NDArray[np.float32]) -> Response:
    """The length of the header (uint32), the header as JSON, padded to 4 bytes, the values."""
    try:
        # Of a thousand sites much faster than `plain`.
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError):
        text = json.dumps(plain(header), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I", len(text)) + text + values.astype("<f4", copy=False).tobytes()
    return Response(body, media_type="application/octet-stream")


class Work:
    """Processor time that answering takes: the page may run beside the training it follows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count the work of one answer."""
        with self._lock:
            self._seconds += seconds

    def rest(self) -> float:
        """Seconds to pass before the next look, so that following takes `FOLLOWING_SHARE`."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds / (FOLLOWING_SHARE * (os.cpu_count() or 1))


def _guarded(answer: Callable[[Request], Response], work: Work) -> Callable[[Request], Response]:
    def guarded(request: Request) -> Response:
        began = time.thread_time()
        try:
            return answer(request)
        except (FitscopeError, OSError, ValueError, KeyError) as error:
            # A run that is half written, broken or gone: the page says so in words.
            message = str(error) or type(error).__name__
            return JSONResponse({"problem": message}, 404)
        finally:
            work.add(time.thread_time() - began)

    return guarded
