"""`kill -9` at random instants, with a reader beside: the run opens and lacks at most one flush."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from fitscope.run import Run, open_run, recover

WRITER = Path(__file__).with_name("kill_writer.py")
ROUNDS = 8


def series(run: Run, site: int) -> np.ndarray:
    table = run.stats(f"layer_{site}", "mean").to_arrow()
    steps = table.column("step").to_numpy()
    np.testing.assert_array_equal(steps, np.arange(len(steps)))
    np.testing.assert_array_equal(table.column("value").to_numpy(), site * 1e6 + steps)
    return steps


def collect(lines: Iterable[bytes], steps: list[int]) -> None:
    steps.extend(int(line) for line in lines)


@pytest.mark.timeout(120)
def test_killed_at_random_instants(tmp_path: Path) -> None:
    path = tmp_path / "run"
    instants = random.Random(time.time_ns())
    for turn in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, str(WRITER), str(path), "reopen" if turn else "new"],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        first = process.stdout.readline()  # it runs
        assert first, "the writer failed to start"
        acknowledged = [int(first)]
        drain = threading.Thread(target=collect, args=(process.stdout, acknowledged))
        drain.start()
        until = time.monotonic() + instants.uniform(0.0, 0.6)
        run = open_run(path)
        seen = reads = 0
        while time.monotonic() < until:
            steps = series(run if reads % 3 else open_run(path), reads % 4)
            assert len(steps) >= seen
            seen, reads = len(steps), reads + 1
        assert run.status == "running"
        process.kill()
        process.wait(timeout=30)
        drain.join(timeout=30)
        process.stdout.close()
        run = open_run(path)
        assert run.status == "interrupted"
        counts = [len(series(run, site)) for site in range(4)]
        assert len(set(counts)) == 1
        assert counts[0] > acknowledged[-1]
        assert counts[0] >= seen
        # A kill between the streams of one flush leaves the histograms ahead, never behind.
        assert run.histogram("layer_2").total >= counts[0]
        assert set(run.stats("layer_0", "own")["step"].to_pylist()) >= set(range(counts[0]))
        assert sum(run.rollup("layer_1", "mean")["rows"].to_pylist()) == counts[0]
        if turn % 3 == 2:
            recover(path)
            assert not list(path.rglob("*.tmp"))
            assert not list(path.rglob("hot-*"))
            assert open_run(path).status == "interrupted"
            assert len(series(open_run(path), 3)) == counts[0]
