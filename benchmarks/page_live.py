"""What a live page takes from the training beside it.

    KERAS_BACKEND=torch python -m benchmarks.page_live --seconds 120

One training, one server and one browser, all the time. The page is frozen and thawed again (as a
browser does with a tab in the background) in blocks in the order ABBA, so that a drift of the
machine falls on both sides. Told are the ratio of the times of a step, and what processor time
server and browser took, which says the same on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.page import processor_seconds, start, stop
from benchmarks.report import page as page_of_results
from benchmarks.report import table

EAGER = 35.0
"""Seconds after opening in which the page looks often, on purpose."""

TRAINING = """
import sys, time
import keras
import numpy as np
import fitscope as fs

class Clock(keras.callbacks.Callback):
    def __init__(self, path):
        self.file = open(path, "ab", buffering=0)
    def on_train_batch_end(self, batch, logs=None):
        self.file.write(np.float64(time.monotonic()).tobytes())

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(8192, 128)).astype("float32")
y = x[:, :10].argmax(1)
layers = [keras.layers.Dense(256, activation="relu", name=f"dense_{i}") for i in range(6)]
model = keras.Sequential([keras.Input((128,)), *layers, keras.layers.Dense(10, name="out")])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, epochs=10**6, batch_size=64, verbose=0,
          callbacks=[fs.Scope(run=sys.argv[1] + "/live"), Clock(sys.argv[1] + "/clock")])
"""


def browser_pids(before: set[int]) -> list[int]:
    """The processes of the browser that was started since."""
    names = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()} - before
    mine = []
    for pid in names:
        try:
            if "chrom" in Path(f"/proc/{pid}/comm").read_text():
                mine.append(pid)
        except OSError:
            continue
    return mine


def spent(pids: list[int]) -> float:
    """Processor seconds of some processes so far."""
    total = 0.0
    for pid in pids:
        try:
            total += processor_seconds(pid)
        except OSError:
            continue
    return total


def steps_in(clock: list[float], began: float, ended: float) -> int:
    """Steps that ended within a stretch of time."""
    return sum(began <= moment < ended for moment in clock)


def measure(playwright: Any, seconds: float, block: float, chromium: str) -> dict[str, Any]:
    """Train, freeze and thaw, and compare."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        training = subprocess.Popen([sys.executable, "-c", TRAINING, folder])
        while not (Path(folder) / "live" / "graph.json").exists():
            time.sleep(0.1)
        server, link = start(Path(folder))
        before = {int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()}
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(link)
        session = page.context.new_cdp_session(page)
        time.sleep(EAGER)
        pids = browser_pids(before)
        blocks: list[tuple[bool, float, float, float, float]] = []
        for number in range(int(seconds / block)):
            live = number % 4 in (1, 2)
            session.send("Page.setWebLifecycleState", {"state": "active" if live else "frozen"})
            began, work, pages = time.monotonic(), processor_seconds(server.pid), spent(pids)
            time.sleep(block)
            work, pages = processor_seconds(server.pid) - work, spent(pids) - pages
            blocks.append((live, began, time.monotonic(), work, pages))
        browser.close()
        stop(server)
        training.terminate()
        training.wait()
        clock = np.fromfile(Path(folder) / "clock", np.float64).tolist()
    rate = {
        live: [steps_in(clock, b, e) / (e - b) for on, b, e, _, _ in blocks if on is live]
        for live in (False, True)
    }
    time_live = sum(e - b for on, b, e, _, _ in blocks if on)
    ratios = [
        statistics.mean(random.Random(i).choices(rate[False], k=len(rate[False])))
        / statistics.mean(random.Random(-i).choices(rate[True], k=len(rate[True])))
        for i in range(1, 2001)
    ]
    ratios.sort()
    return {
        "steps a second, page frozen, median of blocks": statistics.median(rate[False]),
        "steps a second, page live, median of blocks": statistics.median(rate[True]),
        "time of a step with a live page, ratio of medians": statistics.median(rate[False])
        / statistics.median(rate[True]),
        "the same, ratio of means": statistics.mean(rate[False]) / statistics.mean(rate[True]),
        "its 95% interval (bootstrap over blocks), from": ratios[50],
        "to": ratios[1949],
        "server, % of a core": 100 * sum(w for on, _, _, w, _ in blocks if on) / time_live,
        "browser, % of a core": 100 * sum(p for on, _, _, _, p in blocks if on) / time_live,
        "blocks": float(len(blocks)),
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--block", type=float, default=6)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        result = measure(playwright, given.seconds, given.block, given.chromium)
    rows = [[name, f"{value:.4g}"] for name, value in result.items()]
    body = table(["", "measured"], rows)
    backend = os.environ.get("KERAS_BACKEND", "jax")
    heading = "A live page beside a training: seven dense layers, batches of 64, budget 2%"
    print(page_of_results(heading, "page_live", backend, body))


if __name__ == "__main__":
    main()
