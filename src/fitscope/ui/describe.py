"""What the page says of a run in words and lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fitscope.errors import FitscopeError
from fitscope.run.layout import HEARTBEAT_FILE, rank_name, read_json
from fitscope.run.liveness import status_of
from fitscope.run.store import read_manifest
from fitscope.statistics.descriptions import (
    COLUMN_DESCRIPTIONS,
    DERIVED_DESCRIPTIONS,
    HISTOGRAM_DESCRIPTIONS,
)
from fitscope.ui.dense import Dense
from fitscope.ui.roots import Found
from fitscope.ui.source import Source

# How a statistic is coloured: a share lies between 0 and 1, a magnitude is read by its order, a
# signed one has a middle that means something.
_SIGNED = {"mean", "min", "max", *(n for n in HISTOGRAM_DESCRIPTIONS if n.startswith("q"))}
_MAGNITUDES = {"std", "mean_abs", "rms", "absmax", "l1", "l2"}


def kind_of(statistic: str) -> str:
    """`"share"`, `"magnitude"`, `"signed"` or `"count"`; `"signed"` for what is not known."""
    if statistic.endswith(("_fraction", "_underflow", "_overflow")):
        return "share"
    if statistic in _MAGNITUDES:
        return "magnitude"
    if statistic in _SIGNED:
        return "signed"
    return "count" if statistic in COLUMN_DESCRIPTIONS | DERIVED_DESCRIPTIONS else "signed"


def statistics_of(source: Source) -> list[dict[str, str]]:
    """The statistics that can be shown, with a line on each."""
    known = {**DERIVED_DESCRIPTIONS, **COLUMN_DESCRIPTIONS, **HISTOGRAM_DESCRIPTIONS}
    own = dict.fromkeys(source.run.user_statistics, "a statistic of your own")
    return [
        {"name": name, "kind": kind_of(name), "about": about}
        for name, about in {**known, **own}.items()
    ]


def summary(run: Found) -> dict[str, Any]:
    """One line of the table of runs; a run that cannot be read says why."""
    line: dict[str, Any] = {"name": run.name}
    try:
        manifest = read_manifest(run.path)
    except (FitscopeError, OSError) as error:
        return {**line, "status": "broken", "problem": _inside(str(error), run)}
    config: Any = manifest.get("config")
    config = config if isinstance(config, dict) else {}
    beat: Mapping[str, Any] | None = None
    problem = None
    try:
        beat = read_json(run.path / rank_name(0) / HEARTBEAT_FILE)
        status = status_of(beat)
    except FileNotFoundError:
        status, problem = "interrupted", "It ended before its first step."
    except (FitscopeError, OSError, ValueError, TypeError) as error:
        status, problem = "broken", _inside(str(error), run)
    return {
        **line,
        "status": status,
        "problem": problem or (beat or {}).get("problem"),
        "created": manifest.get("created"),
        "host": manifest.get("host"),
        "model": config.get("model"),
        "backend": config.get("backend"),
        "command": config.get("command"),
        "last_step": (beat or {}).get("last_step"),
        "versions": manifest.get("versions"),
        "git": manifest.get("git"),
    }


def _inside(message: str, run: Found) -> str:
    """A message that names the run as the page does."""
    return message.replace(str(run.path), run.name)


def detail(source: Source, run: Found) -> dict[str, Any]:
    """Everything about a run but its numbers."""
    sites = source.run.sites
    return {
        **summary(run),
        "lost_steps": source.run.lost_steps,
        "config": dict(source.run.config),
        "sites": [
            {
                "name": site.name,
                "path": site.path,
                "port": site.port,
                "class": site.layer_class,
                "shape": list(site.shape),
                "dtype": site.dtype,
                "activation": site.activation,
            }
            for site in sites
        ],
        "graph": dict(source.run.graph),
        "unseen": [gap.to_json() for gap in source.run.unseen],
        "statistics": statistics_of(source),
        "phases": extents(source),
    }


def extents(source: Source) -> dict[str, dict[str, int]]:
    """First and last observed step of each phase, and observations of the site that has most."""
    found: dict[str, dict[str, int]] = {}
    for phase, blocks in source.phases("rms").items():
        total = int(blocks.rows.sum())
        if isinstance(blocks, Dense):
            observed, total = total, total * len(blocks.sites)
        else:
            observed = int(np.bincount(blocks.site, blocks.rows).max())
        first, last = int(blocks.first.min()), int(blocks.last.max())
        found[phase] = {"first": first, "last": last, "observed": observed, "rows": total}
    return found


def plain(value: Any) -> Any:
    """What JSON can say: NaN becomes null, infinities become words."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if value is None or isinstance(value, (str, int)):
        return value
    to_list = getattr(value, "tolist", None)
    return plain(to_list()) if callable(to_list) else str(value)
