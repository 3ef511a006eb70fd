"""The writer: when it writes, what it refuses, what it says of itself."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitscope.errors import RunError, RunExistsError
from fitscope.run import RunWriter, StepRecord, liveness, open_run, recover
from fitscope.select import Unseen

POLARS = pytest.importorskip("polars")


def observed(path: Path) -> int:
    """Steps that another reader sees."""
    return len(open_run(path).stats("dense", "mean"))


def test_flushes_every_fifty_steps(tmp_path: Path, made: Any) -> None:
    writer = RunWriter(tmp_path / "run", config={}, flush_seconds=1e9)
    writer.add_sites(made.sites)
    seen = []
    for record in made.records[:110]:
        writer.append(record)
        seen.append(observed(tmp_path / "run"))
    assert seen == [0] * 49 + [50] * 50 + [100] * 11
    writer.flush()
    assert observed(tmp_path / "run") == 110


@pytest.mark.parametrize("by", ["append", "heartbeat"])
def test_flushes_every_second(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    writer.add_sites(made.sites)
    writer.append(made.records[0])
    assert observed(tmp_path / "run") == 0
    later = time.monotonic() + 1.01
    monkeypatch.setattr(time, "monotonic", lambda: later)
    if by == "append":
        writer.append(made.records[1])
        assert observed(tmp_path / "run") == 2
    else:
        writer.heartbeat()
        assert observed(tmp_path / "run") == 1


def test_records_are_copied(tmp_path: Path, made: Any) -> None:
    writer = RunWriter(None, config={})
    writer.add_sites(made.sites)
    record = made.records[0]
    moments = record.moments.copy()
    writer.append(StepRecord(0, 0, "train", record.sites, moments))
    before = writer.run.stats("dense", "count")["value"].to_pylist()
    moments[:] = -1
    writer.append(StepRecord(1, 0, "train", record.sites, moments))
    assert writer.run.stats("dense", "count")["value"].to_pylist() == [*before, -1.0]


def test_other_tools_read_the_files(tmp_path: Path, made: Any, tools: Any) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    tools.write(writer, made)
    writer.flush()
    stats = tmp_path / "run" / "rank=00000" / "stats"
    (hot,) = stats.glob("hot-*.arrows")
    expected = np.stack([r.moments for r in made.records])
    # A stream that is still being written has no end marker; polars reads it all the same.
    frame = POLARS.read_ipc_stream(hot)
    assert frame.select(tools.stored).to_numpy().reshape(expected.shape) == pytest.approx(
        expected, nan_ok=True, abs=0
    )
    writer.close()
    (sealed,) = stats.glob("seg-*.parquet")
    assert not list(stats.glob("hot-*"))
    frame = POLARS.read_parquet(sealed)
    assert frame["site"].is_sorted()
    dense = frame.filter(POLARS.col("name") == "dense").sort("seq")
    np.testing.assert_array_equal(dense.select(tools.stored).to_numpy(), expected[:, 3])
    assert dense["phase"].cast(POLARS.String).to_list() == [r.phase for r in made.records]
    column = pq.ParquetFile(sealed).metadata.row_group(0).column(6)
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings
    (rolled,) = (tmp_path / "run" / "rank=00000" / "rollup").glob("x64-*.parquet")
    frame = POLARS.read_parquet(rolled).filter(POLARS.col("name") == "dense")
    assert frame["rows"].sum() == 123
    (hist,) = (tmp_path / "run" / "rank=00000" / "hist").glob("seg-*.parquet")
    total = POLARS.read_parquet(hist).filter(POLARS.col("name") == "dense")["counts"].explode()
    assert total.sum() == 123 * 32


def test_adding_a_site_again_keeps_its_index(tmp_path: Path, tools: Any) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    assert writer.add_sites(tools.make_sites(["a", "b"])) == [0, 1]
    assert writer.add_sites(tools.make_sites(["c", "a"])) == [2, 0]
    assert open_run(tmp_path / "run").sites.names == ["a", "b", "c"]


def test_graph_unseen_findings_and_odd_configs(tmp_path: Path) -> None:
    config = {
        "lr": np.float32(0.5),
        "nan": float("nan"),
        "shape": (1, 2),
        "path": Path("x"),
        1: {2},
    }
    writer = RunWriter(tmp_path / "run", config=config)
    gap = Unseen("rnn/cell", "it runs inside a scan.", "Watch the output.")
    writer.add_unseen([gap])
    writer.add_unseen([gap])
    writer.set_graph({"edges": [["a", "b"]]})
    writer.add_finding({"rule": "nan", "value": float("inf")})
    writer.add_finding({"rule": "größe"})
    plain = {"lr": 0.5, "nan": "nan", "shape": [1, 2], "path": "x", "1": [2]}
    for run in (writer.run, open_run(tmp_path / "run")):
        assert run.config == plain
        assert run.unseen == [gap]
        assert run.graph == {"edges": [["a", "b"]]}
        assert [finding["rule"] for finding in run.findings] == ["nan", "größe"]
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert manifest["format"] == 1
    assert manifest["versions"]["pyarrow"] == pa.__version__


def test_refuses_a_directory_that_holds_something(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    RunWriter(path, config={}).close()
    with pytest.raises(RunExistsError, match="already holds a run"):
        RunWriter(path, config={})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(RunExistsError, match=r"thesis\.tex"):
        RunWriter(other, config={})
    assert os.listdir(other) == ["thesis.tex"]
    with pytest.raises(RunExistsError, match="is no directory"):
        RunWriter(other / "thesis.tex", config={})
    with pytest.raises(RunError, match="cannot be made"):
        RunWriter(other / "thesis.tex" / "run", config={})


def test_refuses_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"cannot be written to.*No space"):
        RunWriter(tmp_path / "run", config={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moments": np.zeros((5, 3))}, "expected \\(5, 15\\)"),
        ({"hist": []}, "0 histograms for 5 sites"),
        ({"phase": "valid"}, "unknown phase 'valid'"),
    ],
)
def test_refuses_a_record_that_does_not_fit(made: Any, change: Any, message: str) -> None:
    record = made.records[0]
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    with pytest.raises(RunError, match=message):
        RunWriter(None, config={}).append(StepRecord(**{**values, **change}))


def test_a_closed_run_takes_no_more(made: Any, tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    writer.close("failed")
    writer.close()
    writer.flush()
    writer.heartbeat()
    assert writer.run.status == open_run(tmp_path / "run").status == "failed"
    with pytest.raises(RunError, match="reopen"):
        writer.append(made.records[0])


def test_ranks_share_no_file(tmp_path: Path, tools: Any) -> None:
    path = tmp_path / "run"
    writers = [RunWriter(path, config={"rank": rank}, rank=rank) for rank in (1, 0)]
    for rank, writer in zip((1, 0), writers, strict=True):
        tools.write(writer, tools.make(3 + rank, tools.names, seed=rank))
        writer.close()
    with pytest.raises(RunExistsError):
        RunWriter(path, config={}, rank=1)
    assert [len(open_run(path, rank=r).stats("dense", "mean")) for r in (0, 1)] == [3, 4]
    assert open_run(path, rank=1).sites.names == tools.names
    with pytest.raises(RunError, match="rank=00000, rank=00001"):
        open_run(path, rank=2)


def test_a_forked_child_writes_nothing(tmp_path: Path, made: Any, tools: Any) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    tools.write(writer, made)
    before = sum(p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.is_file())
    pid = os.getpid()
    # What a fork would see, without forking a process that has threads.
    os_getpid = os.getpid
    try:
        os.getpid = lambda: pid + 1
        writer.append(made.records[0])
        writer.flush()
        writer.add_finding({"rule": "x"})
        writer.heartbeat()
        writer.close()
    finally:
        os.getpid = os_getpid
    after = sum(p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert before == after
    writer.close()
    assert observed(tmp_path / "run") == 123
    assert multiprocessing.active_children() == []


def test_status_follows_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    script = f"from fitscope.run import RunWriter; RunWriter({str(path)!r}, config={{}})"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert open_run(path).status == "interrupted"
    beat_file = path / "rank=00000" / "heartbeat.json"
    beat = json.loads(beat_file.read_text())

    def status(**changes: object) -> str:
        beat_file.write_text(json.dumps({**beat, **changes}))
        return open_run(path).status

    mine = {"pid": os.getpid(), "started": liveness.started(os.getpid())}
    assert status(**mine) == "running"
    # The number was given to another process meanwhile.
    assert status(pid=os.getpid(), started="1") == "interrupted"
    # Alive, and compiling for an hour.
    assert status(**mine, time=0.0) == "running"
    # On another machine only the age tells.
    assert status(machine="elsewhere") == "running"
    assert status(machine="elsewhere", time=time.time() - 1000) == "interrupted"
    beat_file.unlink()
    assert open_run(path).status == "interrupted"


def test_one_process_writes_a_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    with pytest.raises(RunError, match=f"written by process {os.getpid()}"):
        RunWriter.reopen(tmp_path / "run")
    with pytest.raises(RunError, match="written by process"):
        recover(tmp_path / "run")
    writer.close()
    RunWriter.reopen(tmp_path / "run").close()


def test_threads(tmp_path: Path, made: Any) -> None:
    """One thread appends, another one reads: each read is a prefix without gaps."""
    import threading

    writer = RunWriter(tmp_path / "run", config={}, flush_steps=3)
    writer.add_sites(made.sites)
    record = made.records[0]
    failures: list[Exception] = []

    def drain() -> None:
        try:
            for step in range(1500):
                writer.append(StepRecord(step, 0, "train", record.sites, record.moments))
                if step % 100 == 50:
                    with writer.lock:
                        writer._streams["stats"].flush()
                        writer._streams["stats"].seal()
        except Exception as error:  # noqa: BLE001  # reported by the main thread
            failures.append(error)

    thread = threading.Thread(target=drain)
    thread.start()
    seen = 0
    while thread.is_alive():
        steps = writer.run.stats("dense", "mean")["step"].to_numpy()
        np.testing.assert_array_equal(steps, np.arange(len(steps)))
        assert len(steps) >= seen
        seen = len(steps)
    thread.join()
    assert not failures
    assert len(writer.run.stats("dense", "mean")) == 1500
    writer.close()
