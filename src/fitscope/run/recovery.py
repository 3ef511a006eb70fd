"""After a kill: cut what is torn, seal what was hot, delete what was temporary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fitscope.errors import RunError
from fitscope.run.claim import create_streams
from fitscope.run.layout import (
    FINDINGS_FILE,
    HEARTBEAT_FILE,
    METRICS_FILE,
    ROLLUP,
    STREAMS,
    TEMPORARY,
    hot_name,
    list_rollups,
    list_stream,
    rollup_name,
    segment_name,
    write_json,
)
from fitscope.run.liveness import beat, is_alive
from fitscope.run.rollup import LEVELS
from fitscope.run.store import DiskStore
from fitscope.run.stream import DISK_ERRORS, seal_hot


def recover(path: str | os.PathLike[str], *, rank: int = 0) -> None:
    """Tidy the directory of a killed run and mark it as interrupted.

    Reading does not need this: `open_run` reads a killed run as it is.

    Args:
        path: The run directory.
        rank: Which process of a distributed run.

    Raises:
        RunError: The run is being written, or cannot be written to.
        RunFormatError: The directory holds no run.
    """
    store = DiskStore(Path(path), rank)
    status = store.status
    recover_for_writing(store)
    if status == "interrupted":
        details = store.heartbeat or {}
        kept = {
            name: details[name]
            for name in ("last_step", "lost_steps", "unsaved_steps", "problem")
            if name in details
        }
        write_json(store.folder / HEARTBEAT_FILE, beat(status, kept))


def recover_for_writing(store: DiskStore) -> dict[str, int]:
    """Recover a run, and give the number of the next record of each stream.

    Raises:
        RunError: The run is being written, or cannot be written to.
    """
    heartbeat = store.heartbeat
    if heartbeat and heartbeat.get("status") == "running" and is_alive(heartbeat):
        raise RunError(
            f"{store.path} is being written by process {heartbeat.get('pid')} on "
            f"{heartbeat.get('host')}. One process writes a run: close that writer first, or give "
            "another directory."
        )
    names = store.sites.names
    create_streams(store.folder)
    try:
        for temporary in _temporaries(store.folder):
            temporary.unlink(missing_ok=True)
        _cut_lines(store.folder / FINDINGS_FILE)
        _cut_lines(store.folder / METRICS_FILE)
        for kind in STREAMS:
            _recover_stream(kind, store.folder / kind, names)
        _delete_orphans(store.folder)
        return {kind: _next_seq(store.folder / kind) for kind in STREAMS}
    except DISK_ERRORS as error:
        raise RunError(
            f"{store.path} cannot be recovered: {error}. It still reads as it is, with "
            "fitscope.open_run; to append to it, make room or get permission to write."
        ) from error


def _recover_stream(kind: str, folder: Path, names: list[str]) -> None:
    kept, hots = list_stream(folder)
    live = {segment_name(span) for span in kept} | {hot_name(first) for first in hots}
    for path in folder.iterdir():
        # Replaced already; the kill came before they were deleted.
        if path.suffix in (".parquet", ".arrows") and path.name not in live:
            path.unlink(missing_ok=True)
    for first in hots:
        seal_hot(kind, folder / hot_name(first), names)


def _delete_orphans(folder: Path) -> None:
    spans = set(list_stream(folder / "stats")[0])
    for path in (folder / ROLLUP).glob(f"x{LEVELS[0]}-*.parquet"):
        if path.name not in {rollup_name(LEVELS[0], span) for span in spans}:
            path.unlink(missing_ok=True)
    kept = {rollup_name(LEVELS[1], s) for s in list_rollups(folder / ROLLUP, LEVELS[1])}
    for path in (folder / ROLLUP).glob(f"x{LEVELS[1]}-*.parquet"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _next_seq(folder: Path) -> int:
    spans, _ = list_stream(folder)
    return spans[-1].last + 1 if spans else 0


def _cut_lines(path: Path) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _temporaries(folder: Path) -> Iterator[Path]:
    yield from folder.glob(f"*{TEMPORARY}")
    for name in (*STREAMS, ROLLUP):
        yield from (folder / name).glob(f"*{TEMPORARY}")
