"""The table of sites, at every width."""

import itertools
import math

import numpy as np
import pytest
from rich.cells import cell_len

from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.terminal.columns import COLUMNS, shorten
from fitscope.terminal.glyphs import ASCII
from fitscope.terminal.notable import most_notable
from fitscope.terminal.rows import SiteRow, site_rows
from fitscope.terminal.table import site_table

HISTOGRAM = np.bincount(np.arange(400, 520), minlength=2048)
ROWS = [
    SiteRow("conv_1", "Conv2D", (32, 8, 8, 16), 0.123, 0.456, 0.42, 0.0, None, 0.0, HISTOGRAM),
    SiteRow("conv_2", "Conv2D", (32, 8, 8, 32), 0.01, 0.02, 0.9, 0.66, None, 0.0, HISTOGRAM),
    SiteRow("encoder/block_11/attention", "MHA", (32, 64), -1.5, 2.0, 0.0, None, 0.2, 0.0),
]


def lines(rows=ROWS, **options):
    return site_table(rows, **options).plain.split("\n")


def test_every_column_and_row_at_full_width():
    text = lines(width=200)
    assert len(text) == 4
    for column in COLUMNS:
        assert column.title in text[0]
    assert "32x8x8x16" in text[1]
    assert "66%" in text[2]


@pytest.mark.parametrize("width", range(8, 160))
def test_no_line_is_wider_than_the_terminal(width):
    assert max(map(cell_len, lines(width=width))) <= max(width, 8)


def test_columns_go_by_importance():
    shown = [[c.title for c in COLUMNS if c.title in lines(width=w)[0]] for w in range(120, 20, -1)]
    for wider, narrower in itertools.pairwise(shown):
        assert set(narrower) <= set(wider)
    assert "class" not in lines(width=100)[0]
    assert "rms" in lines(width=40)[0]


def test_a_narrow_terminal_does_not_hide_a_nan():
    row = SiteRow("conv", "Conv2D", (1,), math.nan, math.nan, 0, 0, None, 0.001, None)
    assert "non-finite" in lines([row], width=24)[0]


def test_columns_line_up():
    header, *rest = lines(width=200)
    end = header.index("rms") + len("rms")
    for line in rest:
        assert line[end - 1] != " "
        assert line[end] == " "


def test_wide_characters_line_up():
    rows = [SiteRow("層_1", rms=1.0), SiteRow("layer", rms=1.0)]
    text = lines(rows, width=60)
    assert len({cell_len(line) for line in text[1:]}) == 1


def test_markup_in_a_name_is_text():
    assert "[bold]x[0]" in lines([SiteRow("[bold]x[0]")], width=60)[1]


def test_ascii_output():
    assert site_table(ROWS, width=200, hidden=3, glyphs=ASCII).plain.isascii()


def test_an_alarming_cell_is_marked():
    text = site_table(ROWS, width=200)
    marked = {
        text.plain[span.start : span.end].strip() for span in text.spans if "red" in span.style
    }
    assert marked == {"66%"}


def test_no_rows():
    assert lines([], width=80)[0].startswith("site")


def test_hundreds_of_layers_show_the_notable_ones_in_order():
    rows = [SiteRow(f"layer_{i}", rms=1.0, nonfinite=0.0) for i in range(500)]
    rows[300] = SiteRow("nan_here", rms=1.0, nonfinite=0.5)
    rows[20] = SiteRow("dead_here", rms=1.0, dead=0.9, nonfinite=0.0)
    kept, hidden = most_notable(rows, 10)
    names = [row.site for row in kept]
    assert hidden == 490
    assert names.index("dead_here") < names.index("nan_here")
    assert names[0] == "layer_0"
    assert "490 more sites; the 10 most notable" in lines(kept, hidden=hidden, width=80)[-1]


def test_without_a_limit_all_are_kept():
    assert most_notable(ROWS, None) == (ROWS, 0)
    assert most_notable(ROWS, 3) == (ROWS, 0)


@pytest.mark.parametrize("width", range(1, 30))
def test_shorten(width):
    short = shorten("encoder/ブロック/attention", width, "…")
    assert cell_len(short) <= width
    if width > 6:
        assert short.endswith("n")


def test_rows_from_statistics():
    values = {"mean": 0.5, "rms": 1, "zero_fraction": 0.1, "dead_fraction": 0.2}
    sites = [
        Site.of(SiteName("relu"), activation="relu", shape=(4, 2)),
        Site.of(SiteName("pool"), layer_class="MaxPooling2D"),
        Site.of(SiteName("tanh"), activation="tanh"),
        Site.of(SiteName("later"), activation="relu"),
    ]
    seen = {site.name: {**values, "saturated_fraction": 0.3} for site in sites[:3]}
    relu, pool, tanh = site_rows(sites, seen)
    assert (relu.dead, relu.saturated, relu.shape) == (0.2, None, (4, 2))
    assert (pool.dead, pool.saturated) == (None, None)
    assert (tanh.dead, tanh.saturated) == (None, 0.3)
    assert math.isnan(relu.nonfinite)
