"""Runs of every kind, a server over them, and a real browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_runs import CAUSED, EVIL, write
from page_server import Server, chromium, start, stop
from recorded_run import write_recorded


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "sick")
    write(folder / "well", sick=None, every=5)
    write(folder / "nan", sick=None, nan_from=150)
    write(folder / "evil", names=("a", EVIL), sick=EVIL, steps=60)
    write(
        folder / "big",
        names=tuple(f"b{i // 10}/layer_{i}" for i in range(500)),
        sick=None,
        steps=40,
    )
    write(folder / "gan", sick=None, losses=("d_loss", "g_loss", "accuracy"))
    caused = write(folder / "caused", sick=None, steps=60, nan_from=12, close=False)
    caused.add_finding(CAUSED)
    caused.close()
    write_recorded(folder / "recorded")
    write(folder / "empty", steps=0)
    write(folder / "killed", steps=60, close=False)
    beat = folder / "killed" / "rank=00000" / "heartbeat.json"
    value = json.loads(beat.read_text())
    beat.write_text(json.dumps({**value, "pid": 2**22 + 1, "started": "1"}))
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    shutil.copytree(folder / "sick", folder / "half")
    (folder / "half" / "graph.json").unlink()
    secret = folder.parent / "outside"
    write(secret, steps=20)
    (folder / "link").symlink_to(secret)
    return folder


@pytest.fixture(scope="session")
def server(roots: Path) -> Iterator[Server]:
    started = start(roots)
    yield started
    stop(started)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()
