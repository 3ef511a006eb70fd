"""Recorded values in a run: in memory, on disk, and after `kill -9`."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitscope.run import Run, RunWriter, open_run, value_store
from fitscope.run.value_store import StepValues, Tensor, folder_name
from fitscope.select import Site, SiteName

RECORDER = Path(__file__).with_name("kill_recorder.py")
FULL_DISK = Path(__file__).with_name("full_disk.py")


def step_values(step: int, rows: int = 4, **sites: int) -> StepValues:
    """Values that say which step they are of."""
    tensors = [
        Tensor(Site.of(SiteName(name)), np.full((rows, width), step, "float32"), length=rows)
        for name, width in (sites or {"a": 3}).items()
    ]
    return StepValues(step, step // 10, "train", tuple(tensors))


def check(run: Run, name: str) -> list[int]:
    found = run.values(name)
    for piece in found:
        assert piece.rows == 3 + piece.step % 4
        assert (piece.array == piece.step).all()
        assert piece.array.shape[0] == piece.rows
    steps = found.steps.tolist()
    assert steps == list(range(len(steps)))
    return steps


@pytest.mark.timeout(120)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    """What was flushed is there, in order and whole, and a later writer goes on behind it."""
    path = tmp_path / "run"
    instants = random.Random(time.time_ns())
    for turn in range(5):
        process = subprocess.Popen(
            [sys.executable, str(RECORDER), str(path), "reopen" if turn else "new"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline())]
        drain = threading.Thread(
            target=lambda out=process.stdout, seen=acknowledged: seen.extend(map(int, out))
        )
        drain.start()
        until = time.monotonic() + instants.uniform(0.0, 0.4)
        while time.monotonic() < until:  # readers beside the writer
            check(open_run(path), "large")
        process.kill()
        process.wait(timeout=30)
        drain.join(timeout=30)
        process.stdout.close()
        run = open_run(path)
        for name in ("large", "block/small"):
            assert len(check(run, name)) > acknowledged[-1]


def test_what_a_kill_left_half_committed_is_written_over(tmp_path: Path) -> None:
    """The count of steps is written last; arrays may be ahead of it."""
    writer = RunWriter(tmp_path / "run", config={})
    for step in range(5):
        writer.append_values(step_values(step, a=3, b=2))
    writer.close("interrupted")
    meta = tmp_path / "run" / "rank=00000" / "raw.zarr" / "zarr.json"
    meta.write_text(meta.read_text().replace('"steps": 5', '"steps": 3'))
    assert open_run(tmp_path / "run").values("a").steps.tolist() == [0, 1, 2]
    again = RunWriter.reopen(tmp_path / "run")
    assert again.values.steps == 3
    again.append_values(step_values(7, a=3, b=2))
    again.close()
    run = open_run(tmp_path / "run")
    assert run.values("a").steps.tolist() == run.values("b").steps.tolist() == [0, 1, 2, 7]
    assert (run.values("a")[3].array == 7).all()


def test_memory_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RunWriter(None, config={}, memory_bytes=5 * (4 * 3 * 4 + 256))
    for step in range(20):
        writer.append_values(step_values(step))
    assert writer.run.values("a").steps.tolist() == [15, 16, 17, 18, 19]
    assert writer.run.lost_values == 15


def test_steps_phases_and_selections(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    for step in range(30):
        writer.append_values(step_values(step, a=3, **{"enc/b": 2}))
    for run in (writer.run, open_run(tmp_path / "run")):  # what waits is flushed when asked for
        assert run.values("a", steps=range(2, 5)).steps.tolist() == [2, 3, 4]
        assert run.values("enc/*", steps=slice(-2, None)).steps.tolist() == [28, 29]
        assert run.values("a", steps=7).epochs.tolist() == [0]
        assert run.values("a", phase="test").steps.tolist() == []
        assert run.recorded.names == ["a", "enc/b"]
        assert [p.step for p in run.values("a")[-2:]] == [28, 29]
        joined = run.join(["a", "enc/b"], steps=[3, 5])
        assert joined["step"].tolist() == [3] * 4 + [5] * 4
        assert joined["position"].tolist() == [0, 1, 2, 3] * 2
        assert joined["enc/b"].shape == (8, 2)
    writer.close()


def test_a_disk_that_recovers_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    writer.append_values(step_values(0))
    writer.flush()
    with monkeypatch.context() as patch:

        def fails(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(value_store.GrowingArray, "append", fails)
        writer.append_values(step_values(1))
        with pytest.warns(RuntimeWarning, match="write recorded values"):
            writer.flush()
        for step in range(2, 5):
            writer.append_values(step_values(step))
            writer.flush()
        assert writer.run.values("a").steps.tolist() == [0, 1, 2, 3, 4]
        assert open_run(tmp_path / "run").values("a").steps.tolist() == [0]
    writer.close()
    assert open_run(tmp_path / "run").values("a").steps.tolist() == [0, 1, 2, 3, 4]
    assert open_run(tmp_path / "run").lost_values == 0


def test_a_flush_that_is_slow_is_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes take a tenth of the time at most, whatever one of them takes."""
    writer = RunWriter(tmp_path / "run", config={})
    now, spent = [time.monotonic()], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flush = value_store.ValueWriter.flush

    def slow(self: Any, **how: Any) -> None:
        flush(self, **how)
        now[0] += 3.0
        spent[0] += 3.0

    monkeypatch.setattr(value_store.ValueWriter, "flush", slow)
    began = now[0]
    for step in range(3000):
        writer.append_values(step_values(step))
        now[0] += 0.1
    assert 0.05 < spent[0] / (now[0] - began) < 0.11
    writer.close()
    assert open_run(tmp_path / "run").values("a").steps.tolist() == list(range(3000))


@pytest.mark.parametrize(
    ("size", "flush_every", "takes"),
    [
        ("1m", 100, 0),  # the first writing has no room
        ("2m", 7, 40),
        ("3m", 1, 70),
        ("4200k", 13, 110),  # it takes the rows, and has no room for the file that counts them
        ("6m", 1000, 110),  # nothing but what does not fit into memory is written before the end
    ],
)
def test_a_disk_that_is_full(size: str, flush_every: int, takes: int, tmp_path: Path) -> None:
    """A real one: what it took is there, the rest is in memory, and nothing is unaccounted for."""
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*namespace, "true"], check=False).returncode
    ):
        pytest.skip("this system lets nobody mount a disk to fill")
    steps = 400
    done = subprocess.run(
        [*namespace, sys.executable, str(FULL_DISK), tmp_path, size, str(flush_every), str(steps)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert not done.returncode, done.stderr
    told = json.loads(done.stdout)
    every = list(range(steps))
    assert told["live"] == [every, every]
    kept = len(told["on_disk"][0])
    assert takes <= kept < steps
    assert told["on_disk"] == [every[:kept]] * 2
    assert told["lost"] == steps - kept
    assert len(told["told"]) == 1
    assert "No space left" in told["told"][0]
    assert "stays in memory" in told["told"][0]
    assert told["recovered"] == [every, every]
    assert told["lost_later"] == 0


def test_names_that_no_file_system_takes(tmp_path: Path) -> None:
    names = ["a/b:gradient[0]", "Größe", "x" * 300, "x" * 299 + "y", "..", "CON*?"]
    assert len({folder_name(n) for n in names}) == len(names)
    writer = RunWriter(tmp_path / "run", config={})
    for step, name in enumerate(names):
        site = Site("", name, None, "output", (), "Layer", ("Layer",), (), "float32")
        site = Site(name, *[getattr(site, f) for f in site.__slots__[1:]])
        writer.append_values(
            StepValues(step, 0, "train", (Tensor(site, np.ones((2, 1), "float32")),))
        )
    writer.close()
    assert sorted(open_run(tmp_path / "run").recorded.names) == sorted(names)
    for step, name in enumerate(names):
        assert open_run(tmp_path / "run").values(name).steps.tolist() == [step]


def test_a_run_from_before_counts_were_written_over(tmp_path: Path) -> None:
    """It is read, and a later writer goes on in it."""
    writer = RunWriter(tmp_path / "run", config={})
    for step in range(5):
        writer.append_values(step_values(step, a=3, b=2))
    writer.close("interrupted")
    metas = list((tmp_path / "run").rglob("*-0/zarr.json"))
    assert len(metas) == 4
    for meta in metas:
        found = json.loads(meta.read_text())
        meta.write_text(json.dumps({"zarr_format": found.pop("zarr_format"), **found}) + "\n")
    assert open_run(tmp_path / "run").values("a").steps.tolist() == list(range(5))
    again = RunWriter.reopen(tmp_path / "run")
    for step in range(5, 9):
        again.append_values(step_values(step, a=3, b=2))
        again.flush()
    again.close()
    for name in "ab":
        found = open_run(tmp_path / "run").values(name)
        assert found.steps.tolist() == list(range(9))
        assert all((piece.array == piece.step).all() for piece in found)
