"""Names and paths of a run directory, and how its small files are replaced.

    run/
      run.json                  format version, versions, config
      graph.json                sites, model graph, what was not seen
      rank=00000/               one writer
        heartbeat.json          pid, host, last committed step, status
        stats/                  hot-<n>.arrows, seg-<first>-<last>.parquet
        hist/  extra/           the same scheme
        rollup/                 x64-<first>-<last>.parquet, x4096-<first>-<last>.parquet
        findings.jsonl
        history.jsonl           settings of each fit, losses by step and epoch

`<n>`, `<first>` and `<last>` count the records of a stream from 0, in the order they were
written. They are not step numbers: a second `fit` may start at step 0 again, and validation
shares its step numbers with training. The numbers of neighbouring files are contiguous, so a
reader can tell that a listing raced with a rename, and a file whose range lies within
another's is a duplicate left by a kill between a rename and a delete.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fitscope.errors import RunFormatError

FORMAT = 1
RUN_FILE = "run.json"
GRAPH_FILE = "graph.json"
HEARTBEAT_FILE = "heartbeat.json"
FINDINGS_FILE = "findings.jsonl"
HISTORY_FILE = "history.jsonl"
# In the order of flushing: a step that shows in `stats` has its histograms on disk too.
STREAMS: tuple[str, ...] = ("extra", "hist", "stats")
ROLLUP = "rollup"
TEMPORARY = ".tmp"

_HOT = re.compile(r"hot-(\d+)\.arrows")
_SEGMENT = re.compile(r"seg-(\d+)-(\d+)\.parquet")
_ROLLUP = re.compile(r"x(\d+)-(\d+)-(\d+)\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The records `first` to `last` of a stream, both included."""

    first: int
    last: int

    def covers(self, other: Span) -> bool:
        """Whether every record of `other` lies in this span."""
        return self.first <= other.first and other.last <= self.last


def rank_name(rank: int) -> str:
    """The folder of one writer."""
    return f"rank={rank:05d}"


def hot_name(first: int) -> str:
    """The file name of the hot stream whose first record is `first`."""
    return f"hot-{first:010d}.arrows"


def segment_name(span: Span) -> str:
    """The file name of a sealed segment."""
    return f"seg-{span.first:010d}-{span.last:010d}.parquet"


def rollup_name(level: int, span: Span) -> str:
    """The file name of a rollup of `level` observations a row."""
    return f"x{level}-{span.first:010d}-{span.last:010d}.parquet"


def list_stream(folder: Path) -> tuple[list[Span], list[int]]:
    """The segments and the hot files of a stream, without duplicates, in order.

    Args:
        folder: The folder of the stream; it may be missing.

    Returns:
        The spans of the segments and the first records of the hot files.
    """
    spans: list[Span] = []
    hots: list[int] = []
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return [], []
    for name in names:
        if match := _SEGMENT.fullmatch(name):
            spans.append(Span(int(match[1]), int(match[2])))
        elif match := _HOT.fullmatch(name):
            hots.append(int(match[1]))
    kept = without_covered(spans)
    hots = [n for n in sorted(hots) if not any(s.first <= n <= s.last for s in kept)]
    return kept, hots


def list_rollups(folder: Path, level: int) -> list[Span]:
    """The spans of the rollup files of one level, without duplicates, in order."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    matches = [m for m in map(_ROLLUP.fullmatch, names) if m is not None and int(m[1]) == level]
    return without_covered([Span(int(m[2]), int(m[3])) for m in matches])


def without_covered(spans: list[Span]) -> list[Span]:
    """The spans that lie in no other one, in order."""
    kept: list[Span] = []
    # A wider span of the same start sorts first, so one look back is enough.
    for span in sorted(spans, key=lambda s: (s.first, -s.last)):
        if not kept or not kept[-1].covers(span):
            kept.append(span)
    return kept


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step: a temporary name, then a rename.

    A reader sees the old file or the new one. Nothing is fsynced: this holds against a killed
    process, not against a power cut.

    Raises:
        OSError: The file cannot be written.
    """
    _write_text(path, json_text(value) + "\n")


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a small JSON file, over the old one where a full disk has no room for a new one.

    Raises:
        OSError: The file cannot be written.
    """
    replace_text(path, json_text(value) + "\n")


def replace_text(path: Path, text: str) -> bool:
    """Write a small file of JSON, as `replace_json` does.

    Returns:
        Whether the file is now just this text; False where blanks may stand before it.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        _write_text(path, text)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not path.exists():
            raise
        _overwrite(path, text)
        return False
    return True


def _overwrite(path: Path, text: str) -> None:
    # Never shorter than what was there: one write, and a reader finds whole JSON at any time.
    data = text.encode().rjust(path.stat().st_size)
    with path.open("r+b", buffering=0) as file:
        file.write(data)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        RunFormatError: The file is not a JSON object.
    """
    text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RunFormatError(
            f"{path} is not valid JSON ({error}). fitscope replaces this file in one step, so "
            "something else has changed it; restore it from a copy."
        ) from error
    if not isinstance(value, dict):
        raise RunFormatError(f"{path} holds a {type(value).__name__}; expected a JSON object.")
    return value


def json_text(value: object) -> str:
    """JSON that any parser reads: what JSON cannot say becomes a string."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain)
    except (ValueError, TypeError):
        return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)


def _plain(value: object) -> object:
    to_list = getattr(value, "tolist", None)  # NumPy scalars and arrays
    if callable(to_list):
        return to_list()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int)):
        return value
    return _finite(_plain(value))
