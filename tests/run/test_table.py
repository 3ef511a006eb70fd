"""Tables convert, print and iterate."""

from __future__ import annotations

import builtins
import math
from typing import Any

import pyarrow as pa
import pytest

from fitscope.run import Table


@pytest.fixture
def table() -> Table:
    site = pa.array(["a", "b"] * 10).dictionary_encode()
    return Table(pa.table({"step": range(20), "site": site, "value": [0.5, math.nan] * 10}))


def test_rows(table: Table) -> None:
    assert len(table) == 20
    assert table.columns == ["step", "site", "value"]
    rows = list(table)
    assert rows[2] == {"step": 2, "site": "a", "value": 0.5}
    assert table["site"].to_pylist() == ["a", "b"] * 10
    with pytest.raises(KeyError, match="step, site, value"):
        table["values"]


def test_frames(table: Table) -> None:
    pandas = table.to_pandas()
    assert pandas.loc[pandas["site"] == "b", "step"].tolist() == list(range(1, 20, 2))
    polars = table.to_polars()
    assert polars.filter(polars["site"] == "b")["step"].to_list() == list(range(1, 20, 2))
    assert table.to_arrow().num_rows == 20


def test_the_arrow_stream_interface(table: Table) -> None:
    import polars

    assert polars.DataFrame(table).shape == (20, 3)
    assert pa.table(table).column("site").to_pylist() == ["a", "b"] * 10


def test_prints_head_and_tail(table: Table) -> None:
    lines = repr(table).splitlines()
    assert lines[0].split() == ["step", "site", "value"]
    assert lines[2].split() == ["0", "a", "0.5"]
    assert lines[7] == "..."
    assert lines[-2].split() == ["19", "b", "nan"]
    assert lines[-1] == "[20 rows]"
    assert repr(Table(table.to_arrow().slice(0, 1))).endswith("[1 row]")
    assert repr(Table(table.to_arrow().slice(0, 0))).endswith("[0 rows]")


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_is_named(
    table: Table, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        getattr(table, f"to_{package}")()
