"""A failing disk never reaches training: memory takes over, one warning says so."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fitscope.run import RunWriter, StepRecord, hot, open_run, seal, stream

SILENT = 1e9


def record(step: int) -> StepRecord:
    moments = np.full((3, 15), float(step))
    pair = (np.array([500], np.uint16), np.array([step + 1], np.uint32))
    return StepRecord(step, 0, "train", np.arange(3), moments, [pair] * 3, [(0, "own", 1.0)])


@pytest.fixture
def writer(tmp_path: Path, tools: Any) -> RunWriter:
    writer = RunWriter(tmp_path / "run", config={}, flush_steps=10, flush_seconds=SILENT)
    writer.add_sites(tools.make_sites(["a", "b", "c"]))
    return writer


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Set `disk["error"]` to make writes fail, after `disk["room"]` more bytes."""
    state: dict[str, Any] = {"error": None, "room": 0}
    real_write, real_open = os.write, os.open

    def write(fd: int, data: Any) -> int:
        if state["error"] is None:
            return real_write(fd, data)
        if state["room"]:
            taken = real_write(fd, bytes(data)[: state["room"]])
            state["room"] -= taken
            return taken
        raise OSError(state["error"], os.strerror(state["error"]))

    def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if state["error"] == errno.EACCES and flags & os.O_WRONLY:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, flags, *rest, **more)

    monkeypatch.setattr(hot.os, "write", write)
    monkeypatch.setattr(hot.os, "open", opened)
    return state


def run_steps(writer: RunWriter, first: int, stop: int) -> None:
    for step in range(first, stop):
        writer.append(record(step))


def steps(run: Any, statistic: str = "mean") -> list[int]:
    return run.stats("a", statistic)["step"].to_pylist()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("room", [0, 1, 700])
def test_memory_takes_over_and_one_warning_says_so(
    writer: RunWriter, disk: dict[str, Any], code: int, room: int
) -> None:
    run_steps(writer, 0, 20)
    disk.update(error=code, room=room)
    if code == errno.EACCES:
        writer._streams["stats"].seal()  # the next batch needs a new file
        writer._streams["hist"].seal()
        writer._streams["extra"].seal()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_steps(writer, 20, 100)
        writer.flush()
        writer.close()
    assert len(caught) == 1
    text = str(caught[0].message)
    assert os.strerror(code) in text
    assert "stays in memory" in text
    assert "tried again" in text
    # In this process nothing is missing; on disk what was written before.
    assert steps(writer.run) == list(range(100))
    assert steps(writer.run, "own") == list(range(100))
    assert writer.run.histogram("b").total == 5050
    other = open_run(writer.path or "")
    assert steps(other) == list(range(20))
    assert other.lost_steps == 80
    beat = json.loads(((writer.path or Path()) / "rank=00000" / "heartbeat.json").read_text())
    assert beat["unsaved_steps"] == 80
    assert os.strerror(code) in beat["problem"]


def test_a_disk_that_recovers_gets_everything(
    writer: RunWriter, disk: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk["error"] = errno.ENOSPC
    with pytest.warns(RuntimeWarning):
        run_steps(writer, 0, 30)
    disk["error"] = None
    run_steps(writer, 30, 50)
    assert steps(open_run(writer.path or "")) == []  # not tried again yet
    later = time.monotonic() + stream.RETRY_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    run_steps(writer, 50, 60)
    for run in (open_run(writer.path or ""), writer.run):
        assert steps(run) == list(range(60))
        assert run.histogram("c").total == 1830
    writer.close()
    run = open_run(writer.path or "")
    assert steps(run) == list(range(60))
    assert run.lost_steps == 0


def test_close_tries_once_more(writer: RunWriter, disk: dict[str, Any]) -> None:
    disk["error"] = errno.ENOSPC
    with pytest.warns(RuntimeWarning):
        run_steps(writer, 0, 30)
    disk["error"] = None
    writer.close()
    assert steps(open_run(writer.path or "")) == list(range(30))


def test_a_deleted_directory(writer: RunWriter) -> None:
    run_steps(writer, 0, 10)
    shutil.rmtree(writer.path or "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_steps(writer, 10, 40)
        writer.add_finding({"rule": "x"})
        writer.set_graph({})
        writer.close()
    assert len(caught) == 1
    assert "deleted" in str(caught[0].message)
    assert steps(writer.run) == list(range(10, 40))
    assert writer.run.findings == [{"rule": "x"}]
    assert not (writer.path or Path()).exists()


def test_sealing_fails_and_nothing_is_lost(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run_steps(writer, 0, 20)
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.warns(RuntimeWarning, match="seal"):
            writer._streams["stats"].seal()
        writer._streams["hist"].seal()
        run_steps(writer, 20, 40)
        assert steps(open_run(writer.path or "")) == list(range(40))
    writer.close()
    stats = (writer.path or Path()) / "rank=00000" / "stats"
    assert [p.suffix for p in stats.iterdir()] == [".parquet"]
    assert steps(open_run(writer.path or "")) == list(range(40))


def test_warnings_as_errors_do_not_end_training(
    writer: RunWriter, disk: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    disk["error"] = errno.ENOSPC
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_steps(writer, 0, 30)
    assert "No space left" in capsys.readouterr().err
    assert steps(writer.run) == list(range(30))


def _json_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_text", full)


@pytest.mark.parametrize(
    "act",
    [
        lambda w, tools: w.add_sites(tools.make_sites(["d"])),
        lambda w, tools: w.set_graph({"a": 1}),
        lambda w, tools: w.flush(),
    ],
)
def test_small_files_that_cannot_be_written(
    writer: RunWriter, tools: Any, monkeypatch: pytest.MonkeyPatch, act: Callable[..., object]
) -> None:
    _json_fails(monkeypatch)
    with pytest.warns(RuntimeWarning, match="Read-only"):
        act(writer, tools)


def test_a_full_disk_still_says_what_it_lacks(
    writer: RunWriter, disk: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is there can be written over, when no new one can be made."""

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run_steps(writer, 0, 20)
    disk["error"] = errno.ENOSPC
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.warns(RuntimeWarning):
        run_steps(writer, 20, 50)
    writer.close()
    run = open_run(writer.path or "")
    assert run.status == "finished"
    assert steps(run) == list(range(20))
    assert run.lost_steps == 30


def test_memory_that_overflows_counts_what_is_lost(
    tmp_path: Path, tools: Any, disk: dict[str, Any]
) -> None:
    writer = RunWriter(
        tmp_path / "run", config={}, flush_steps=10, flush_seconds=SILENT, memory_bytes=200_000
    )
    writer.add_sites(tools.make_sites(["a", "b", "c"]))
    disk["error"] = errno.ENOSPC
    with pytest.warns(RuntimeWarning):
        run_steps(writer, 0, 3000)
    held = steps(writer.run)
    assert 0 < len(held) < 1000
    assert writer.lost_steps == 3000 - len(held)
    disk["error"] = None
    writer.close()
    run = open_run(tmp_path / "run")
    assert steps(run) == held
    assert run.lost_steps == 3000 - len(held)


def test_seal_constants_are_what_the_readme_says() -> None:
    assert (stream.HOT_BYTES, seal.SEGMENT_ROWS) == (32 * 2**20, 262_144)
