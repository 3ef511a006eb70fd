"""What a picture shows, against NumPy on every single observation."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from page_runs import LAYERS, SPIKE, STEPS, write

from fitscope.run import open_run
from fitscope.ui.blocks import Blocks
from fitscope.ui.cache import ByteCache
from fitscope.ui.columns import STANDS_OUT, held, outside, shown, to_columns
from fitscope.ui.source import Source


def binary(body):
    """A header and its float32 numbers, as the page reads them."""
    (length,) = struct.unpack("<I", body[:4])
    return json.loads(body[4 : 4 + length]), np.frombuffer(body[4 + length :], "<f4")


def picture(server, query):
    header, cells = binary(server.get(f"/api/strip?{query}").body)
    return header, cells.reshape(header["rows"], -1)


def series(run, statistic):
    table = run.stats("**", statistic, phase="train").to_pandas()
    return {site: rows.set_index("step")["value"] for site, rows in table.groupby("site")}


@pytest.mark.parametrize("mode", ["min", "max", "mean"])
def test_a_column_is_the_minimum_mean_or_maximum_of_its_steps(server, roots, mode):
    header, cells = picture(server, f"run=sick&statistic=std&mode={mode}&columns=7")
    truth = series(open_run(roots / "sick"), "std")
    assert header["exact"]
    for place, name in enumerate(LAYERS):
        steps, values = truth[name].index.to_numpy(), truth[name].to_numpy()
        column = steps * 7 // STEPS
        expected = [getattr(values[column == c], mode)() for c in range(7)]
        np.testing.assert_allclose(cells[place], expected, rtol=1e-6)


@pytest.mark.parametrize("columns", [1, 3, 10, 50, 240])
def test_a_spike_of_one_step_is_seen_at_any_zoom(server, columns):
    header, cells = picture(server, f"run=sick&statistic=std&columns={columns}")
    assert cells[SPIKE[0]].max() == 50
    place = SPIKE[1] * header["columns"] // STEPS
    assert cells[SPIKE[0], place] == 50


def test_a_window_shows_its_own_steps(server, roots):
    _, cells = picture(server, "run=sick&statistic=mean&first=100&last=119&columns=20")
    truth = series(open_run(roots / "sick"), "mean")
    for place, name in enumerate(LAYERS):
        np.testing.assert_allclose(cells[place], truth[name][100:120], rtol=1e-6)


def test_an_observation_is_held_until_the_next(server, roots):
    _, cells = picture(server, "run=well&statistic=mean&mode=mean&first=7&last=21&columns=15")
    truth = series(open_run(roots / "well"), "mean")["conv_1"]
    expected = [truth[step - step % 5] for step in range(7, 22)]
    np.testing.assert_allclose(cells[0], expected, rtol=1e-6)


def test_what_has_no_finite_element_is_told_from_what_was_not_observed(server):
    _, cells = picture(server, "run=nan&statistic=rms&columns=240")
    assert np.isfinite(cells[-1, :150]).all()
    assert np.isposinf(cells[-1, 150:]).all()
    assert np.isfinite(cells[0]).all()


def test_a_cell_tells_exactly(server, roots):
    truth = series(open_run(roots / "sick"), "std")["conv_2"][100:131]
    cell = server.json("/api/cell?run=sick&site=conv_2&statistic=std&first=100&last=130")
    assert cell["observed"] == 31
    np.testing.assert_allclose(
        [cell["low"], cell["mean"], cell["high"]], [truth.min(), truth.mean(), truth.max()]
    )


def test_a_cell_between_observations_tells_the_last_one(server, roots):
    truth = series(open_run(roots / "well"), "mean")["dense"]
    cell = server.json("/api/cell?run=well&site=dense&statistic=mean&first=13&last=13")
    assert (cell["first"], cell["last"]) == (10, 10)
    np.testing.assert_allclose(cell["mean"], truth[10])


def test_a_series_of_few_observations_is_told_as_it_is(server, roots):
    found = server.json("/api/series?run=well&site=dense&statistic=mean,rms&columns=600")
    truth = series(open_run(roots / "well"), "mean")["dense"]
    assert found["series"]["mean"]["step"] == truth.index.tolist()
    np.testing.assert_allclose(found["series"]["mean"]["mean"], truth.to_numpy())


def test_a_rolled_picture_has_the_extremes_of_every_observation(tmp_path, monkeypatch):
    # Two segments, and a hot end: the picture is made of rollups and of single observations.
    writer = write(tmp_path / "run", steps=400, close=False)
    writer.close()
    again = type(writer).reopen(tmp_path / "run")
    table = open_run(tmp_path / "run").stats("**", "std").to_pandas()
    monkeypatch.setattr("fitscope.ui.source.EXACT_ROWS", 0)
    blocks = Source(tmp_path / "run", ByteCache()).blocks("std", "train", (0, 399))
    assert blocks.rows.max() == 64
    columns = to_columns(blocks, np.arange(4), 0, 399, 5)
    again.close()
    for place, name in enumerate(LAYERS):
        values = table[table["site"] == name]["value"]
        np.testing.assert_allclose(np.nanmax(columns.high[place]), values.max())
        np.testing.assert_allclose(np.nanmin(columns.low[place]), values.min())


def blocks_of(site, first, values, last=None):
    first = np.asarray(first)
    values = np.asarray(values, float)
    return Blocks(
        np.asarray(site, np.int32),
        first,
        first if last is None else np.asarray(last),
        np.ones(len(values), np.int64),
        values,
        values,
        values,
    )


def test_a_wide_block_is_in_each_of_its_columns():
    blocks = blocks_of([0], [10], [3.0], last=[29])
    columns = to_columns(blocks, np.array([0]), 0, 39, 4)
    np.testing.assert_array_equal(columns.mean, [[np.nan, 3, 3, np.nan]])


def test_steps_that_begin_anew_are_put_in_order():
    blocks = blocks_of([0, 0, 0, 0], [0, 1, 0, 1], [1.0, 2.0, 5.0, 7.0])
    columns = to_columns(blocks, np.array([0]), 0, 1, 2)
    np.testing.assert_array_equal(columns.low, [[1, 2]])
    np.testing.assert_array_equal(columns.high, [[5, 7]])


def test_rows_come_in_the_order_asked_for():
    blocks = blocks_of([0, 1, 2], [0, 0, 0], [1.0, 2.0, 3.0])
    columns = to_columns(blocks, np.array([2, 0]), 0, 0, 1)
    np.testing.assert_array_equal(columns.mean, [[3], [1]])


def test_nothing_is_held_beyond_the_last_observation():
    blocks = blocks_of([0, 0], [0, 2], [1.0, 2.0])
    columns = to_columns(blocks, np.array([0]), 0, 5, 6)
    filled = held(columns, outside(blocks, np.array([0]), 0, 5))
    np.testing.assert_array_equal(filled.mean, [[1, 1, 2, np.nan, np.nan, np.nan]])


def test_a_cell_shows_the_mean_unless_something_stands_out():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (1, 100, 10))
    columns = to_columns(
        blocks_of(np.zeros(1000), np.arange(1000), values.ravel()), np.array([0]), 0, 999, 100
    )
    np.testing.assert_array_equal(shown(columns, "notable", by_ratio=False), columns.mean)
    values[0, 40, 3] = -3 * STANDS_OUT * 4
    columns = to_columns(
        blocks_of(np.zeros(1000), np.arange(1000), values.ravel()), np.array([0]), 0, 999, 100
    )
    cells = shown(columns, "notable", by_ratio=False)
    assert cells[0, 40] == values[0, 40, 3]
    assert (np.delete(cells, 40) == np.delete(columns.mean, 40)).all()


def test_a_cache_holds_no_more_than_its_bytes():
    cache = ByteCache(10_000)
    for number in range(50):
        cache.put(number, np.zeros(125))
    assert cache.held <= 10_000
    assert cache.peek(49) is not None
    assert cache.peek(0) is None


def test_the_findings_say_whether_they_are_fresh(server):
    # Otherwise the page asks for them again and again.
    assert server.json("/api/findings?run=sick")["fresh"] is True
