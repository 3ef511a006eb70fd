"""A query's result: an Arrow table that prints, iterates and converts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import pandas
    import polars

_SHOWN_ROWS = 10
_SHOWN_WIDTH = 40


class Table:
    """Rows in memory, over a `pyarrow.Table`.

    Anything that speaks the Arrow C stream interface (polars, DuckDB, pandas, Hugging Face
    datasets) takes a `Table` as it is.

    Args:
        data: The rows.

    Example:
        >>> table = Table(pa.table({"step": [0, 1], "value": [0.5, 0.25]}))
        >>> len(table), table.columns
        (2, ['step', 'value'])
        >>> [row["value"] for row in table]
        [0.5, 0.25]
    """

    __slots__ = ("_data",)

    def __init__(self, data: pa.Table) -> None:
        self._data = data

    @property
    def columns(self) -> list[str]:
        """Column names, in order."""
        return list(self._data.column_names)

    def to_arrow(self) -> pa.Table:
        """The rows as a `pyarrow.Table`, not copied."""
        return self._data

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a pandas frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise _missing("pandas", "to_pandas()") from error
        frame = self._data.to_pandas()
        return frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(frame)

    def to_polars(self) -> polars.DataFrame:
        """The rows as a polars frame.

        A process that forks after polars was used in it may hang in the child; in a training
        process prefer `to_pandas()` or `to_arrow()`.

        Raises:
            ImportError: polars is not installed.
        """
        try:
            import polars as pl
        except ImportError as error:
            raise _missing("polars", "to_polars()") from error
        frame = pl.from_arrow(self._data)
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._data.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self._data.num_rows

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        """One column, by name."""
        if column not in self._data.column_names:
            raise KeyError(f"no column {column!r}; the columns are {', '.join(self.columns)}")
        return self._data.column(column)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._data.to_batches(max_chunksize=4096):
            yield from batch.to_pylist()

    def __repr__(self) -> str:
        total = len(self)
        if total <= _SHOWN_ROWS:
            shown = self._data
        else:
            half = _SHOWN_ROWS // 2
            shown = pa.concat_tables([self._data.slice(0, half), self._data.slice(total - half)])
        cells = [[_cell(value) for value in row.values()] for row in shown.to_pylist()]
        names = self.columns
        widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(names)]
        right = [_is_number(field.type) for field in self._data.schema]
        lines = [_line(names, widths, right), _line(["-" * w for w in widths], widths, right)]
        lines += [_line(row, widths, right) for row in cells]
        if total > _SHOWN_ROWS:
            lines.insert(2 + _SHOWN_ROWS // 2, "...")
        lines.append(f"[{total:,} {'row' if total == 1 else 'rows'}]")
        return "\n".join(lines)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    text = str(value)
    return text if len(text) <= _SHOWN_WIDTH else text[: _SHOWN_WIDTH - 1] + "…"


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    padded = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _missing(package: str, method: str) -> ImportError:
    return ImportError(
        f"{method} needs {package}, which is not installed. Run `pip install {package}`, or use "
        "to_arrow(), which needs nothing more."
    )
