"""What a `fit` that records leaves when it is killed, or when its disk becomes read-only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitscope as fs

RECORDER = Path(__file__).with_name("fit_recorder.py")
STEPS, BATCH = 30, 8


def check(run: Any) -> list[int]:
    """The recorded steps; each with the rows that it was given, and joined with the batch."""
    steps = run.values("same").steps.tolist()
    assert steps == list(range(len(steps)))
    for piece in run.values("same"):
        first = piece.step % STEPS * BATCH
        np.testing.assert_array_equal(piece.array[:, 0], np.arange(first, first + BATCH))
    rows = run.join(["same", "@batch/x"])
    assert len(rows["step"]) == BATCH * len(steps)
    np.testing.assert_array_equal(rows["same"], rows["@batch/x"])
    return steps


@pytest.mark.timeout(180)
def test_killed_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(RECORDER), "kill", str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()  # it trains
        run, until = fs.open_run(path), time.monotonic() + 60
        while not run.recorded.names or len(run.values("same")) < 5:
            assert time.monotonic() < until
            time.sleep(0.05)
        seen = len(check(fs.open_run(path)))  # a reader beside the writer
        with pytest.raises(fs.RunExistsError, match=f"is being written by process {process.pid}"):
            fs.Scope(fs.record("same"), run=path)
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()
    run = fs.open_run(path)
    assert run.status == "interrupted"
    assert len(check(run)) >= seen
    with pytest.raises(fs.RunExistsError, match=r"already holds a run.*new or empty"):
        fs.Scope(fs.record("same"), run=path)
    assert len(check(fs.open_run(path))) >= seen


@pytest.mark.timeout(180)
def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    tried = subprocess.run([*namespace, "true"], check=False) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip("this system lets nobody mount a disk of their own")
    done = subprocess.run(
        [*namespace, sys.executable, str(RECORDER), "read-only", str(tmp_path)],
        capture_output=True,
        check=False,
        text=True,
        timeout=150,
    )
    assert not done.returncode, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["epochs"] == 1
    assert told["live"] == list(range(STEPS))  # memory has what the disk did not take
    assert 0 < told["before"] <= len(told["on_disk"]) < STEPS
    assert told["on_disk"] == list(range(len(told["on_disk"])))
    assert len(told["told"]) == 1
    assert "Read-only file system" in told["told"][0]
    assert "Training goes on" in told["told"][0]
    assert told["after"] == list(range(2 * STEPS))  # written once the disk takes it again
    assert told["lost"] == 0
