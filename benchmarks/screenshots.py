"""Screenshots of the page over real trainings, into docs/images.

    make screenshots

Trains the demo's network, once with its flaw and once without, and photographs the page.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.page import start, stop

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PICTURES = {
    "page-strip.png": ("#/strip?run=demo", 1280, 690, "light"),
    "page-strip-dark.png": ("#/strip?run=demo&stat=rms&scale=start", 1280, 690, "dark"),
    "page-layer.png": ("#/layer?run=demo&site=conv_2", 1280, 1480, "light"),
    "page-values.png": ("#/values?run=demo&tensor=conv_1&step=990&sample=3", 1280, 900, "light"),
    "page-compare.png": ("#/strip?run=demo&other=fixed", 1280, 690, "dark"),
}


def train(folder: Path) -> None:
    """The two runs."""
    for name, options in (("demo", []), ("fixed", ["--fixed"])):
        command = [sys.executable, "-m", "fitscope", "demo", "--run", str(folder / name), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Train, photograph, and say what was written."""
    from playwright.sync_api import sync_playwright

    found = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    chromium = os.environ.get("FITSCOPE_CHROMIUM") or next(filter(None, found))
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        given = sys.argv[1:]
        root = Path(given[0]) if given else Path(folder)
        if not given:
            train(root)
        process, link = start(root)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            for name, (address, width, height, scheme) in PICTURES.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                page.goto(f"{link}{address}")
                page.wait_for_selector("canvas")
                page.wait_for_timeout(1500)
                page.screenshot(path=IMAGES / name)
                context.close()
                print(f"docs/images/{name}: {(IMAGES / name).stat().st_size / 1024:.0f} KB")
        finally:
            browser.close()
            stop(process)


if __name__ == "__main__":
    main()
