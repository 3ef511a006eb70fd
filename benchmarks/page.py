"""The page on a large run: how soon the first picture stands, how fast a zoom is answered.

    python -m benchmarks.page --sites 1000 --steps 100000

Makes the run (once, in the folder given by --run), starts `fitscope ui` on it and opens the page in
headless Chromium. Every opening is of a new server and a new browser: nothing is cached but the
operating system's files.
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

from benchmarks.page_run import make
from benchmarks.report import page as page_of_results
from benchmarks.report import table

TOKEN = "benchmark-token-0123456789"
DRAWN = """() => {
    const canvas = document.querySelector(".strip canvas");
    if (!canvas || !canvas.width) return false;
    const pen = canvas.getContext("2d");
    const data = pen.getImageData(canvas.width / 2, 0, 200, canvas.height).data;
    const colours = new Set();
    for (let i = 0; i < data.length; i += 4) {
        colours.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
    }
    return colours.size > 40;
}"""


def start(root: Path) -> tuple[subprocess.Popen[str], str]:
    """The server, in a process of its own, and its link."""
    command = [sys.executable, "-m", "fitscope", "ui", "--port", "0", "--no-browser", str(root)]
    environment = {**os.environ, "FITSCOPE_TOKEN": TOKEN}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, process.stdout.readline().split("page: ")[1].strip()


def stop(process: subprocess.Popen[str]) -> None:
    """End the server."""
    process.terminate()
    process.wait()


def memory(pid: int) -> float:
    """Resident memory of a process in MB, at its highest."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def opening(playwright: Any, root: Path, chromium: str) -> tuple[float, float]:
    """Seconds from asking for the page to a drawn strip chart, and the server's memory."""
    process, link = start(root)
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    began = time.perf_counter()
    page.goto(f"{link}#/strip?stat=rms")
    while not page.evaluate(DRAWN):
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    held = memory(process.pid)
    browser.close()
    stop(process)
    return seconds, held


def zooming(playwright: Any, root: Path, chromium: str, steps: int, count: int) -> list[float]:
    """Milliseconds until each of many random zooms and pans is answered, in the browser."""
    process, link = start(root)
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{link}#/strip?stat=rms")
    while not page.evaluate(DRAWN):
        time.sleep(0.05)
    time.sleep(1)
    rng = random.Random(0)
    took: list[float] = []
    for _ in range(count):
        span = int(steps ** rng.uniform(0.5, 1.0))
        first = rng.randrange(max(1, steps - span))
        took.append(
            page.evaluate(
                """async ([run, first, last]) => {
                    const began = performance.now();
                    const query = new URLSearchParams(
                        { run, first, last, statistic: "rms", phase: "train", columns: 1150 });
                    await (await fetch(`/api/strip?${query}`)).arrayBuffer();
                    return performance.now() - began;
                }""",
                [root.name, first, first + span],
            )
        )
    browser.close()
    stop(process)
    return took


def live(sites: int, steps: int, chromium: str, playwright: Any, *, watched: bool) -> float:
    """Seconds that a loop of fixed work takes while a run is written, with or without a page."""
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "live"
        code = (
            "from pathlib import Path; from benchmarks.page_run import make\n"
            f"make(Path({str(root)!r}), {sites}, {steps}, pause=0.01)"
        )
        writer = subprocess.Popen([sys.executable, "-c", code])
        while not (root / "run.json").exists():
            time.sleep(0.05)
        process = browser = None
        if watched:
            process, link = start(Path(folder))
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(link)
        time.sleep(4)
        data = np.random.default_rng(0).normal(size=(512, 512))
        began = time.perf_counter()
        for _ in range(2500):
            data = np.tanh(data @ data / 512)
        seconds = time.perf_counter() - began
        if browser is not None and process is not None:
            browser.close()
            stop(process)
        writer.kill()
        writer.wait()
        return seconds


def following(sites: int, chromium: str, playwright: Any, seconds: float = 20.0) -> float:
    """Processor time of the server while a page follows a run, as a share of one core.

    Unlike the times of `live` it says the same on a busy machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "from pathlib import Path; from benchmarks.page_run import make\n"
            f"make(Path({folder!r}) / 'live', {sites}, 100_000, pause=0.01)"
        )
        writer = subprocess.Popen([sys.executable, "-c", code])
        while not (Path(folder) / "live" / "run.json").exists():
            time.sleep(0.05)
        process, link = start(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        browser.new_page(viewport={"width": 1440, "height": 900}).goto(link)
        time.sleep(25)  # past the first, eager looks
        before, began = processor_seconds(process.pid), time.perf_counter()
        time.sleep(seconds)
        share = (processor_seconds(process.pid) - before) / (time.perf_counter() - began)
        browser.close()
        stop(process)
        writer.kill()
        writer.wait()
        return share


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--run", type=Path, default=Path("build/page-benchmark/large"))
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--zooms", type=int, default=100)
    parser.add_argument("--live-pairs", type=int, default=3)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    if not (given.run / "run.json").exists():
        print(f"writing the run took {make(given.run, given.sites, given.steps):.0f} s")
    result: dict[str, Any] = {}
    with sync_playwright() as playwright:
        found = [opening(playwright, given.run, given.chromium) for _ in range(given.openings)]
        result["first picture, s, median"] = statistics.median(s for s, _ in found)
        result["first picture, s, slowest"] = max(s for s, _ in found)
        result["server memory, MB, most"] = max(m for _, m in found)
        zooms = sorted(zooming(playwright, given.run, given.chromium, given.steps, given.zooms))
        result["zoom, ms, median"] = statistics.median(zooms)
        result["zoom, ms, p95"] = zooms[int(len(zooms) * 0.95) - 1]
        result["server following 50 sites x 100 steps/s, % of a core"] = 100 * following(
            50, given.chromium, playwright
        )
        pairs = []
        for _ in range(given.live_pairs):
            alone = live(50, 100_000, given.chromium, playwright, watched=False)
            beside = live(50, 100_000, given.chromium, playwright, watched=True)
            pairs.append(beside / alone)
        if pairs:
            result["live page, ratio of times"] = statistics.median(pairs)
    rows = [[name, f"{value:.3g}"] for name, value in result.items() if isinstance(value, float)]
    body = table(["", "measured"], rows)
    if pairs:
        body += "\n\nLive page, all ratios: " + ", ".join(f"{ratio:.3f}" for ratio in pairs)
    heading = f"The page: {given.sites:,} sites x {given.steps:,} steps, all observed"
    print(page_of_results(heading, "page", "jax", body))


if __name__ == "__main__":
    main()
