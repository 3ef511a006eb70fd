"""Runs in memory stay within their bound, and cover the whole run evenly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitscope.run import RunWriter, StepRecord
from fitscope.run.buffer import StatsBuffer
from fitscope.run.memory import MemoryStream
from fitscope.run.schema import SCHEMAS


def fill(limit: int, steps: int, per_flush: int, validation: int) -> MemoryStream:
    stream = MemoryStream(SCHEMAS["stats"], limit)
    buffer = StatsBuffer()
    for step in range(steps):
        phase = "validation" if validation and step % validation == 0 else "train"
        moments = np.full((2, 15), float(step))
        buffer.push(step, StepRecord(step, 0, phase, np.arange(2), moments))
        if step % per_flush == per_flush - 1 or step == steps - 1:
            stream.append(buffer.batch(copy=True))
            buffer.clear()
    return stream


def held(stream: MemoryStream) -> np.ndarray:
    return np.concatenate([b.column("seq").to_numpy() for b in stream.batches()])


@settings(max_examples=25)
@given(
    limit=st.integers(100_000, 400_000),
    steps=st.integers(1, 6000),
    per_flush=st.integers(1, 60),
    validation=st.sampled_from([0, 2, 10, 64]),
)
def test_bounded_even_and_recent(limit: int, steps: int, per_flush: int, validation: int) -> None:
    stream = fill(limit, steps, per_flush, validation)
    seq = held(stream)
    steps_held = seq[::2]
    np.testing.assert_array_equal(seq[1::2], steps_held)  # whole records
    assert (np.diff(steps_held) > 0).all()
    assert sum(b.nbytes for b in stream.batches()) <= 1.3 * limit
    assert stream.dropped == steps - len(steps_held)
    assert len(stream) == len(steps_held)
    # The newest stretch is complete, the rest falls on multiples of the stride per phase.
    assert steps_held[-1] == steps - 1
    history = (
        np.concatenate([b.column("seq").to_numpy() for b in stream._history])[::2]
        if stream._history
        else np.empty(0, int)
    )
    recent = steps_held[len(history) :]
    np.testing.assert_array_equal(recent, np.arange(steps - len(recent), steps))
    if len(history):
        is_validation = (
            (np.arange(steps) % validation == 0) if validation else np.zeros(steps, bool)
        )
        for wanted in (True, False):
            all_of_phase = np.flatnonzero(is_validation == wanted)
            mine = history[is_validation[history] == wanted]
            places = np.searchsorted(all_of_phase, mine)
            np.testing.assert_array_equal(places, np.arange(len(places)) * stream.stride)


def test_a_long_run_in_memory_does_not_grow(tools: Any) -> None:
    writer = RunWriter(None, config={}, memory_bytes=2_000_000)
    writer.add_sites(tools.make_sites(["a", "b"]))
    sites, moments = np.arange(2), np.zeros((2, 15))
    pair = (np.array([500], np.uint16), np.array([1], np.uint32))
    sizes = []
    for step in range(40_000):
        writer.append(StepRecord(step, 0, "train", sites, moments, [pair, pair]))
        if step % 10_000 == 9_999:
            sizes.append(
                sum(b.nbytes for s in writer._streams.values() for b in s.memory.batches())
            )
    assert max(sizes) < 2_500_000
    steps = writer.run.stats("a", "mean")["step"].to_numpy()
    assert steps[0] == 0
    assert steps[-1] == 39_999
    assert writer.run.lost_steps == 40_000 - len(steps)
    gaps = np.diff(steps)
    assert gaps.max() <= 2 * gaps[0]
    assert len(writer.run.last()) == 2


@pytest.mark.parametrize("steps", [1, 49, 50, 51, 3300])
def test_nothing_is_dropped_within_the_bound(steps: int) -> None:
    stream = fill(10_000_000, steps, 50, 0)
    assert stream.stride == 1
    assert held(stream)[::2].tolist() == list(range(steps))
