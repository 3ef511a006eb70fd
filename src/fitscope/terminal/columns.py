"""The columns of the site table, and which of them fit a width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from fitscope.terminal.glyphs import Glyphs
from fitscope.terminal.numbers import compact, percent, shape
from fitscope.terminal.rows import SiteRow
from fitscope.terminal.sparkline import sparkline

HISTOGRAM_WIDTH = 12
GAP = 2
# Below this a site's name says too little; columns go before the name shrinks further.
NARROWEST_SITE = 18


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        title: Its heading.
        cell: The text of a row.
        keep: Higher stays longer when the terminal is narrow.
        right: Whether it is aligned to the right.
        alarming: Whether a row's value deserves attention.
    """

    title: str
    cell: Callable[[SiteRow, Glyphs], str]
    keep: int
    right: bool = True
    alarming: Callable[[SiteRow], bool] = lambda _row: False


def _histogram(row: SiteRow, glyphs: Glyphs) -> str:
    return sparkline(row.histogram, HISTOGRAM_WIDTH, glyphs)


def _at_least(share: float | None, threshold: float) -> bool:
    return share is not None and share >= threshold


COLUMNS: tuple[Column, ...] = (
    Column("site", lambda row, _: row.site, 100, right=False),
    Column("class", lambda row, _: row.layer_class, 10, right=False),
    Column("shape", lambda row, _: shape(row.shape), 20, right=False),
    Column("mean", lambda row, _: compact(row.mean), 60),
    Column("rms", lambda row, _: compact(row.rms), 90, alarming=lambda row: row.rms == 0),
    Column("zeros", lambda row, _: percent(row.zeros), 70),
    Column("dead", lambda row, _: percent(row.dead), 80, alarming=lambda r: _at_least(r.dead, 0.5)),
    Column(
        "saturated",
        lambda row, _: percent(row.saturated),
        40,
        alarming=lambda row: _at_least(row.saturated, 0.5),
    ),
    Column(
        "non-finite",
        lambda row, _: percent(row.nonfinite),
        50,
        alarming=lambda row: row.nonfinite > 0,
    ),
    Column("histogram", _histogram, 30, right=False),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns that fit, with their widths and cells."""

    columns: list[Column]
    widths: list[int]
    cells: list[list[str]]


def lay_out(rows: Sequence[SiteRow], width: int, glyphs: Glyphs) -> Layout:
    """Choose the columns that fit a width, and shorten names that do not.

    A column with an alarming value is dropped last: a narrow terminal must not hide a NaN.

    Args:
        rows: The rows to show.
        width: The characters of a line.
        glyphs: The characters to draw with.
    """
    cells = [[column.cell(row, glyphs) for row in rows] for column in COLUMNS]
    widths = [
        max([cell_len(column.title), *map(cell_len, texts)])
        for column, texts in zip(COLUMNS, cells, strict=True)
    ]
    site = 0
    kept = list(range(len(COLUMNS)))
    smallest_site = min(widths[site], NARROWEST_SITE)

    def needed() -> int:
        others = sum(widths[place] + GAP for place in kept if place != site)
        return others + smallest_site

    def priority(place: int) -> int:
        column = COLUMNS[place]
        return column.keep + (100 if any(map(column.alarming, rows)) else 0)

    for place in sorted(range(1, len(COLUMNS)), key=priority):
        if needed() <= width:
            break
        kept.remove(place)
    spare = width - needed() + smallest_site
    widths[site] = max(1, min(widths[site], spare))
    cells[site] = [shorten(text, widths[site], glyphs.ellipsis) for text in cells[site]]
    return Layout(
        [COLUMNS[place] for place in kept],
        [widths[place] for place in kept],
        [[cells[place][line] for place in kept] for line in range(len(rows))],
    )


def shorten(text: str, width: int, ellipsis: str) -> str:
    """Shorten a name from the middle: its end tells layers of the same block apart.

    Args:
        text: The name.
        width: The characters there are.
        ellipsis: One character for what is left out.

    Example:
        >>> shorten("encoder/block_11/attention", 16, "~")
        'encod~/attention'
    """
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return ellipsis[:width]
    head = (width - 1) // 3
    tail = width - 1 - head
    # Wide characters take two cells, so cut by characters until it fits.
    start, end = text[:head], text[-tail:]
    while cell_len(start) + 1 + cell_len(end) > width:
        if cell_len(end) > tail:
            end = end[1:]
        else:
            start = start[:-1]
    return start + ellipsis + end
