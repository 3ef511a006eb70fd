"""An extraction that is interrupted at any instant goes on: no row twice, none missing."""

from __future__ import annotations

import builtins
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction import BATCHES, SITES, batches, extractor

import fitscope as fs
from fitscope.run import value_store
from fitscope.run.writer import RunWriter

PROGRAM = Path(__file__).with_name("extraction.py")


def content(run: Any) -> dict[str, list[tuple[int, Any, bytes]]]:
    return {n: [(p.step, p.array.shape, p.array.tobytes()) for p in run.values(n)] for n in SITES}


@pytest.fixture(scope="module")
def made() -> Any:
    return extractor()


@pytest.fixture(scope="module")
def whole(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one without an interruption gives, checked against the weights."""
    run = made.to_run(tmp_path_factory.mktemp("whole") / "run", batches(), verbose=0)
    kernel, bias = (np.asarray(w, "float64") for w in made.model.get_layer("a").get_weights())
    for piece, x in zip(run.values("a"), batches(), strict=True):
        np.testing.assert_allclose(piece.array, x @ kernel + bias, rtol=1e-5, atol=1e-6)
    return content(run)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes rows before a flush asks for it, and flushes every second batch."""

    def append(self: Any, values: Any) -> None:
        appended(self, values)
        if values.step % 2:
            self.flush()

    appended = RunWriter.append_values
    monkeypatch.setattr(value_store, "BUFFER_BYTES", 200)
    monkeypatch.setattr(RunWriter, "append_values", append)


def test_what_a_kill_leaves_at_any_instant(
    made: Any, whole: Any, hasty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory as it stands before each call that changes something in it."""
    live = tmp_path / "live"
    copies: list[Path] = []
    last: dict[Path, Any] = {}

    def copied_before(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **how: Any) -> Any:
            nonlocal copying, last
            if not copying:
                copying = True
                files = {p: p.is_file() and p.read_bytes() for p in live.rglob("*")}
                if files and files != last:
                    copies.append(tmp_path / f"copy-{len(copies)}")
                    shutil.copytree(live, copies[-1])
                    last = files
                copying = False
            return function(*args, **how)

        return call

    copying = False
    with monkeypatch.context() as patch:
        for name in ("mkdir", "replace", "unlink", "open", "write", "close"):
            patch.setattr(os, name, copied_before(getattr(os, name)))
        if hasattr(os, "writev"):
            patch.setattr(os, "writev", copied_before(os.writev))
        patch.setattr(builtins, "open", copied_before(open))
        made.to_run(live, batches(), verbose=0)
    assert len(copies) > 50
    for copy in copies:
        for path in copy.rglob("heartbeat.json"):
            beat = json.loads(path.read_text())
            path.write_text(json.dumps({**beat, "started": "0"}))  # of a process that is gone
        run = made.to_run(copy, batches(), verbose=0)
        assert run.status == "finished", copy
        assert content(run) == whole, copy


def test_ctrl_c_between_any_two_lines(made: Any, whole: Any, hasty: None, tmp_path: Path) -> None:
    lines, stop = 0, -1

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal lines
        if "fitscope" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        if lines == stop:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return trace

    def extract(path: Path) -> Any:
        nonlocal lines
        lines, before = 0, sys.gettrace()
        sys.settrace(trace)
        try:
            return made.to_run(path, batches(), verbose=0)
        finally:
            sys.settrace(before)

    extract(tmp_path / "count")
    interrupted, started = 0, lines
    for number in range(60):
        stop = 1 + number * started // 60
        path = tmp_path / str(number)
        try:
            extract(path)
        except KeyboardInterrupt:
            interrupted += 1
        run = made.to_run(path, batches(), verbose=0)
        assert run.status == "finished", stop
        assert content(run) == whole, stop
    assert interrupted > 50


def test_another_process_has_a_moment_to_begin(made: Any, tmp_path: Path) -> None:
    """What a kill leaves and what another process is making at this instant look the same."""
    folder = tmp_path / "run" / "rank=00000"
    folder.mkdir(parents=True)
    began = time.monotonic()
    assert made.to_run(tmp_path / "run", batches(), verbose=0).status == "finished"
    assert time.monotonic() - began > 0.5
    (tmp_path / "ahead" / "rank=00000").mkdir(parents=True)
    os.utime(tmp_path / "ahead", (time.time() + 3600,) * 2)  # the clock of a file server
    began = time.monotonic()
    assert made.to_run(tmp_path / "ahead", batches(), verbose=0).status == "finished"
    assert time.monotonic() - began < 30
    (tmp_path / "other" / "rank=00000" / "stats").mkdir(parents=True)
    (tmp_path / "other" / "rank=00000" / "stats" / "notes").touch()
    with pytest.raises(fs.RunExistsError):
        made.to_run(tmp_path / "other", batches(), verbose=0)


@pytest.mark.timeout(200)
def test_kill(made: Any, tmp_path: Path) -> None:
    path, moments, asked = tmp_path / "run", random.Random(time.time_ns()), 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        while not (path / "run.json").exists() or not fs.open_run(path).recorded.names:
            assert process.poll() is None
            time.sleep(0.05)  # a flush comes about once a second, later on a busy machine
        time.sleep(moments.uniform(0, 2))
        process.kill()
        asked = max(asked, *(int(line) for line in process.communicate()[0].split()))
    run = fs.open_run(path)
    assert run.status == "interrupted"
    steps = run.values("b").steps.tolist()
    assert steps == list(range(len(steps)))
    assert 0 < len(steps) <= asked + 1
    count = asked + 5
    assert count > BATCHES
    run = made.to_run(path, batches(count), verbose=0)
    expected = made.to_run(tmp_path / "whole", batches(count), verbose=0)
    for name in SITES:
        found, right = run.values(name), expected.values(name)
        assert found.steps.tolist() == right.steps.tolist() == list(range(count))
        for piece, same in zip(found, right, strict=True):  # compiled in two processes
            np.testing.assert_allclose(piece.array, same.array, rtol=1e-4, atol=1e-4)


def test_ctrl_c_before_the_writer_is_closed(
    made: Any, whole: Any, hasty: None, tmp_path: Path
) -> None:
    """Between any two instructions of the last lines, where nothing holds it back."""
    count, stop = 0, -1

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code is not fs.Extractor.to_run.__code__:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode" and frame.f_locals.get("status") == "finished"
        if count == stop:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return trace

    def extract(path: Path) -> Any:
        nonlocal count
        count, before = 0, sys.gettrace()
        sys.settrace(trace)
        try:
            return made.to_run(path, batches(), verbose=0)
        finally:
            sys.settrace(before)

    extract(tmp_path / "count")
    last, interrupted = count, 0
    for stop in range(1, last + 1):
        path = tmp_path / str(stop)
        try:
            extract(path)
        except KeyboardInterrupt as error:
            left, interrupted = error, interrupted + 1  # noqa: F841 - as a notebook keeps it
        run = made.to_run(path, batches(), verbose=0)
        assert run.status == "finished", stop
        assert content(run) == whole, stop
    assert interrupted == last > 5


def test_another_thread_extracts_still(made: Any, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> Any:
        for number, x in enumerate(batches()):
            if number == 2:
                begun.set()
                assert go_on.wait(60)
            yield x

    path = tmp_path / "run"
    thread = threading.Thread(target=made.to_run, args=(path, slow()), kwargs={"verbose": 0})
    thread.start()
    try:
        assert begun.wait(60)
        with pytest.raises(fs.RunExistsError, match="is being written by process"):
            made.to_run(str(path), batches(), verbose=0)
    finally:
        go_on.set()
        thread.join()
    assert fs.open_run(path).status == "finished"
