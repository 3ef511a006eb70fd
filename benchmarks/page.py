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
from typing import Any, NamedTuple

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


def memory(pid: int, which: str = "VmHWM:") -> float:
    """Resident memory of a process in MB, at its highest."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(which)[1].split()[0]) / 1024


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


ANSWERED = """async ([run, first, last]) => {
    const began = performance.now();
    const query = new URLSearchParams(
        { run, first, last, statistic: "rms", phase: "train", columns: 1150 });
    await (await fetch(`/api/strip?${query}`)).arrayBuffer();
    return performance.now() - began;
}"""
ZOOMED = """([run, first, last]) => new Promise((done) => {
    const began = performance.now();
    const canvas = document.querySelector(".strip canvas");
    const look = () => {
        if (canvas.dataset.drawn === `${first}-${last}`) done(performance.now() - began);
        else requestAnimationFrame(look);
    };
    location.hash = `#/strip?run=${run}&stat=rms&first=${first}&last=${last}`;
    look();
})"""


class Zooms(NamedTuple):
    """Milliseconds of each random zoom or pan, and what is held after all of them."""

    answered: list[float]
    drawn: list[float]
    server: tuple[float, float]
    """Resident MB of the server after a fifth of the zooms, and after all."""
    page: tuple[float, float]
    """MB of the page's heap, likewise."""


def zooming(playwright: Any, root: Path, chromium: str, steps: int, count: int) -> Zooms:
    """Zoom and pan at random: until the answer is there, and until the picture is drawn."""
    process, link = start(root)
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{link}#/strip?stat=rms")
    while not page.evaluate(DRAWN):
        time.sleep(0.05)
    time.sleep(2)
    rng = random.Random(0)
    answered: list[float] = []
    drawn: list[float] = []
    held: list[tuple[float, float]] = []
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for number in range(count):
        for script, took in ((ANSWERED, answered), (ZOOMED, drawn)):
            span = int(steps ** rng.uniform(0.5, 1.0))
            first = rng.randrange(max(1, steps - span))
            took.append(page.evaluate(script, [root.name, first, first + span]))
        if number in (count // 5, count - 1):
            session.send("HeapProfiler.collectGarbage")
            metrics = session.send("Performance.getMetrics")["metrics"]
            heap = next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize")
            held.append((memory(process.pid, "VmRSS:"), heap / 2**20))
    browser.close()
    stop(process)
    server, heap = zip(*held, strict=True)
    return Zooms(answered, drawn, server, heap)


def following(sites: int, chromium: str, playwright: Any, seconds: float = 20.0) -> float:
    """Processor time of the server while a page follows a run, as a share of one core.

    Unlike a ratio of times it says the same on a busy machine.
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
    parser.add_argument("--following", action="store_true", help="also measure following a run")
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
        zooms = zooming(playwright, given.run, given.chromium, given.steps, given.zooms)
        for name, took in (("answered", zooms.answered), ("drawn", zooms.drawn)):
            result[f"zoom until {name}, ms, median"] = statistics.median(took)
            result[f"zoom until {name}, ms, p95"] = sorted(took)[int(len(took) * 0.95) - 1]
        early, late = given.zooms * 2 // 5, given.zooms * 2
        for name, (before, after) in (("server", zooms.server), ("page's heap", zooms.page)):
            result[f"{name} after {early} zooms, MB"] = before
            result[f"{name} after {late} zooms, MB"] = after
        if given.following:
            result["server following 50 sites x 100 steps/s, % of a core"] = 100 * following(
                50, given.chromium, playwright
            )
    rows = [[name, f"{value:.3g}"] for name, value in result.items() if isinstance(value, float)]
    body = table(["", "measured"], rows)
    heading = f"The page: {given.sites:,} sites x {given.steps:,} steps, all observed"
    print(page_of_results(heading, "page", "jax", body))


if __name__ == "__main__":
    main()
