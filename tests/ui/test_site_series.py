"""Statistics of one site over several segments, against the run's own table."""

from __future__ import annotations

import numpy as np
import pytest
from page_runs import LAYERS, row, site

from fitscope.run import open_run, seal
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.ui import source as module
from fitscope.ui.cache import ByteCache
from fitscope.ui.source import Source

STATISTICS = ("rms", "std", "dead_fraction", "min")


def segments(path, monkeypatch, *, first=0, count=3, steps=100):
    """A run of several segments, in two phases; the last steps of it are hot."""
    monkeypatch.setattr(seal, "SEGMENT_ROWS", 1)
    rng = np.random.default_rng(first)
    for number in range(count):
        if first or number:
            writer = RunWriter.reopen(path)
            indices = np.arange(len(LAYERS))
        else:
            writer = RunWriter(path, config={"model": "net", "backend": "jax"})
            indices = np.array(writer.add_sites([site(name) for name in LAYERS]))
        for step in range(first + number * steps, first + (number + 1) * steps):
            moments = np.stack([row(rng, dead=0.5, scale=1 + rng.random()) for _ in LAYERS])
            writer.append(StepRecord(step, 0, "train", indices, moments))
            if step % 10 == 0:
                writer.append(StepRecord(step, 0, "validation", indices, moments + 1))
        writer.close()


def truth(path, statistic, phase):
    table = open_run(path).stats("dense", statistic, phase=phase).to_pandas()
    return table.set_index("step")["value"]


@pytest.mark.parametrize("phase", ["train", "validation"])
def test_single_observations_are_as_they_are(tmp_path, monkeypatch, phase):
    segments(tmp_path / "run", monkeypatch)
    found = Source(tmp_path / "run", ByteCache()).of_site(2, STATISTICS, phase, (0, 299))
    for statistic in STATISTICS:
        expected = truth(tmp_path / "run", statistic, phase)
        np.testing.assert_array_equal(found[statistic].first, expected.index)
        np.testing.assert_allclose(found[statistic].mean, expected, rtol=1e-12)


def test_a_window_reads_no_other_segment(tmp_path, monkeypatch):
    segments(tmp_path / "run", monkeypatch)
    found = Source(tmp_path / "run", ByteCache()).of_site(2, ("rms",), "train", (120, 130))["rms"]
    assert (found.first.min(), found.first.max()) == (100, 199)


def test_rollups_have_the_extremes_and_the_mean(tmp_path, monkeypatch):
    segments(tmp_path / "run", monkeypatch)
    monkeypatch.setattr(module, "EXACT_ROWS", 0)
    found = Source(tmp_path / "run", ByteCache()).of_site(2, STATISTICS, "train", (0, 299))
    for statistic in STATISTICS:
        blocks, values = found[statistic], truth(tmp_path / "run", statistic, "train")
        assert blocks.rows.sum() == 300
        assert len(blocks) == 6  # two of each segment: 64 observations, and the other 36
        for first, last, low, mean, high in zip(
            blocks.first, blocks.last, blocks.low, blocks.mean, blocks.high, strict=True
        ):
            inside = values.loc[first:last]
            expected = inside.min(), inside.mean(), inside.max()
            np.testing.assert_allclose((low, mean, high), expected)


def test_it_grows_with_the_run(tmp_path, monkeypatch):
    segments(tmp_path / "run", monkeypatch)
    source = Source(tmp_path / "run", ByteCache())
    assert len(source.of_site(0, ("rms",), "train", (0, 10**6))["rms"]) == 300
    segments(tmp_path / "run", monkeypatch, first=300, count=1)
    found = source.of_site(0, ("rms",), "train", (0, 10**6))["rms"]
    np.testing.assert_array_equal(found.first, np.arange(400))
