"""The table of sites: a line each, aligned, never a wall."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from fitscope.terminal.columns import GAP, lay_out
from fitscope.terminal.glyphs import UNICODE, Glyphs
from fitscope.terminal.numbers import count
from fitscope.terminal.rows import SiteRow


def site_table(
    rows: Sequence[SiteRow],
    *,
    width: int = 100,
    hidden: int = 0,
    glyphs: Glyphs = UNICODE,
    hint: str = "",
) -> Text:
    """Render the summary of a model's sites.

    Columns that do not fit are dropped, the least important first.

    Args:
        rows: The rows to show, in the order of the model; see `most_notable` for large models.
        width: The characters of a line.
        hidden: How many rows were left out; they get a line at the end.
        glyphs: The characters to draw with.
        hint: What to add to the line about the rows left out, such as how to see them.

    Returns:
        The lines, without a line break at the end. Colours are part of it; a console that is not
        a terminal leaves them out.

    Example:
        >>> print(site_table([SiteRow("conv_1", mean=0.25, rms=0.5, zeros=0.1)], width=40).plain)
        site    mean  rms  zeros  dead
        conv_1  0.25  0.5    10%     -
    """
    layout = lay_out(rows, width, glyphs)
    text = Text(no_wrap=True, overflow="crop")
    gap = " " * GAP

    titles = [
        _aligned(column.title, size, column.right)
        for column, size in zip(layout.columns, layout.widths, strict=True)
    ]
    text.append(gap.join(titles).rstrip(), style="bold")
    for row, cells in zip(rows, layout.cells, strict=True):
        text.append("\n")
        line = Text()
        for place, (column, cell) in enumerate(zip(layout.columns, cells, strict=True)):
            style = "bold red" if column.alarming(row) else ""
            line.append(gap if place else "")
            line.append(_aligned(cell, layout.widths[place], column.right), style=style)
        line.rstrip()
        text.append_text(line)
    if hidden:
        text.append(f"\n{glyphs.ellipsis} and {_others(hidden, len(rows))}{hint}", style="dim")
    return text


def _others(hidden: int, shown: int) -> str:
    noun = "site" if hidden == 1 else "sites"
    return f"{count(hidden)} more {noun}; the {count(shown)} most notable are shown"


def _aligned(text: str, width: int, right: bool) -> str:
    # str.ljust counts characters, and a wide character takes two cells.
    padding = " " * max(0, width - Text(text).cell_len)
    return padding + text if right else text + padding
