"""Segments: site-major, merged while small, whole at every instant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitscope.errors import RunError
from fitscope.run import RunWriter, StepRecord, open_run, recover, seal
from fitscope.run.layout import Span, without_covered
from fitscope.run.rollup import roll, roll_again
from fitscope.statistics import COLUMNS


def write_and_seal(writer: RunWriter, first: int, steps: int, sites: int = 3) -> None:
    for step in range(first, first + steps):
        moments = np.arange(sites)[:, None] * 1000.0 + step + np.zeros(len(COLUMNS))
        moments[:, 1:4] = 0  # all elements are finite
        writer.append(StepRecord(step, 0, "train", np.arange(sites), moments))
    for stream in writer._streams.values():
        stream.flush()
        stream.seal()


def names_in(path: Path, folder: str = "stats") -> list[str]:
    return sorted(p.name for p in (path / "rank=00000" / folder).iterdir())


def series(path: Path, site: str = "b") -> list[float]:
    return open_run(path).stats(site, "mean")["value"].to_pylist()


@pytest.fixture
def writer(tmp_path: Path, tools: Any) -> RunWriter:
    writer = RunWriter(tmp_path / "run", config={})
    writer.add_sites(tools.make_sites(["a", "b", "c"]))
    return writer


def test_small_segments_are_merged(writer: RunWriter, tmp_path: Path) -> None:
    for first in range(0, 60, 20):
        write_and_seal(writer, first, 20)
    assert names_in(tmp_path / "run") == ["seg-0000000000-0000000059.parquet"]
    assert names_in(tmp_path / "run", "rollup") == ["x64-0000000000-0000000059.parquet"]
    assert series(tmp_path / "run") == [1000.0 + step for step in range(60)]


def test_large_segments_are_left_alone(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "SEGMENT_ROWS", 100)
    for first in range(0, 60, 20):
        write_and_seal(writer, first, 20)
    assert len(names_in(tmp_path / "run")) == 3
    assert series(tmp_path / "run") == [1000.0 + step for step in range(60)]


def test_row_groups_hold_whole_sites(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "GROUP_ROWS", 50)
    write_and_seal(writer, 0, 40)
    (path,) = (tmp_path / "run" / "rank=00000" / "stats").glob("*.parquet")
    file = pq.ParquetFile(path)
    groups = [set(file.read_row_group(g)["name"].to_pylist()) for g in range(file.num_row_groups)]
    assert groups == [{"a"}, {"b"}, {"c"}]
    assert series(tmp_path / "run", "c") == [2000.0 + step for step in range(40)]


def test_one_series_reads_one_row_group_and_few_columns(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "GROUP_ROWS", 50)
    write_and_seal(writer, 0, 40)
    calls: list[tuple[list[int], list[str]]] = []
    real = pq.ParquetFile.read_row_groups

    def spy(self: Any, groups: Any, columns: Any, **rest: Any) -> pa.Table:
        calls.append((groups, columns))
        return real(self, groups, columns=columns, **rest)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy)
    open_run(tmp_path / "run").stats("b", "rms")
    assert calls == [([1], ["seq", "step", "epoch", "phase", "site", "mean", "std"])]


@pytest.mark.parametrize("left", ["hot", "segment", "rollup", "temporary"])
def test_a_kill_between_rename_and_delete(
    tmp_path: Path, tools: Any, left: str, writer: RunWriter
) -> None:
    """What was replaced lies there still; nothing is read twice, and recovery deletes it."""
    path = tmp_path / "run"
    write_and_seal(writer, 0, 20)
    kept = tmp_path / "kept"
    if left == "hot":
        for step in range(20, 40):
            moments = 1000.0 + step + np.zeros((3, len(COLUMNS)))
            writer.append(StepRecord(step, 0, "train", np.arange(3), moments))
        writer.flush()
    shutil.copytree(path / "rank=00000", kept)
    if left != "hot":
        write_and_seal(writer, 20, 20)
    writer.close()
    patterns = {"hot": "stats/hot-*", "segment": "stats/seg-*", "rollup": "rollup/x64-*"}
    if left == "temporary":
        (path / "rank=00000" / "stats" / "seg-1-2.parquet.tmp").write_bytes(b"torn")
    else:
        for file in kept.glob(patterns[left]):
            shutil.copy(file, path / "rank=00000" / file.parent.name / file.name)
    expected = [1000.0 + step for step in range(40)]
    assert series(path) == expected
    assert sum(open_run(path).rollup("b", "mean")["rows"].to_pylist()) == 40
    recover(path)
    assert names_in(path) == ["seg-0000000000-0000000039.parquet"]
    assert names_in(path, "rollup") == ["x64-0000000000-0000000039.parquet"]
    assert series(path) == expected
    assert open_run(path).status == "finished"


def test_a_missing_rollup_is_computed(writer: RunWriter, tmp_path: Path) -> None:
    write_and_seal(writer, 0, 130)
    before = open_run(tmp_path / "run").rollup("b", "mean").to_arrow()
    (path,) = (tmp_path / "run" / "rank=00000" / "rollup").iterdir()
    path.unlink()
    assert open_run(tmp_path / "run").rollup("b", "mean").to_arrow().equals(before)


def test_the_second_level(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "SEGMENT_ROWS", 100)
    monkeypatch.setattr(seal, "SECOND_LEVEL_RECORDS", 1000)
    for first in range(0, 2000, 200):
        write_and_seal(writer, first, 200)
    coarse = [n for n in names_in(tmp_path / "run", "rollup") if n.startswith("x4096")]
    assert coarse == ["x4096-0000000000-0000000999.parquet"]
    table = open_run(tmp_path / "run").rollup("c", "mean", level=4096).to_arrow()
    assert table.column("rows").to_pylist() == [1000, 1000]
    np.testing.assert_allclose(table.column("mean"), [2499.5, 3499.5])
    assert table.column("min").to_pylist() == [2000.0, 3000.0]
    assert table.column("max").to_pylist() == [2999.0, 3999.0]
    with pytest.raises(RunError, match="levels are 64 and 4096"):
        open_run(tmp_path / "run").rollup("c", "mean", level=8)


@given(
    data=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()), min_size=1, max_size=200
    ),
    level=st.integers(1, 9),
)
def test_rolling_up_against_numpy(data: list[tuple[int, int, bool]], level: int) -> None:
    rng = np.random.default_rng(len(data))
    site, phase, dead = (np.array(column) for column in zip(*data, strict=True))
    n = len(data)
    columns = [rng.integers(5, 9, n).astype(float) for _ in COLUMNS]
    for place in range(len(COLUMNS)):
        name = COLUMNS[place]
        if name in ("nan", "posinf", "neginf"):
            columns[place] = np.where(dead & (name == "nan"), columns[0], 0.0)
        if name in ("mean", "std", "mean_abs", "min", "max"):
            columns[place] = np.where(dead, np.nan, rng.standard_normal(n))
    keys = {
        "seq": np.arange(n),
        "step": np.arange(n) * 3,
        "epoch": np.zeros(n, int),
        "phase": phase,
        "site": site,
    }
    fine = roll(keys, columns, level)
    for rolled, size in ((fine, level), (roll_again(fine, 3), 3 * level)):
        at = 0
        for s in range(3):
            for p in range(2):
                rows = np.flatnonzero((site == s) & (phase == p))
                for start in range(0, len(rows), size):
                    block = rows[start : start + size]
                    assert rolled["rows"][at] == len(block)
                    assert rolled["finite_rows"][at] == (~dead[block]).sum()
                    assert rolled["step"][at] == block[0] * 3
                    assert rolled["last_step"][at] == block[-1] * 3
                    for place in (0, 9, 12):
                        values = columns[place][block]
                        values = values[~np.isnan(values)]
                        expected = (
                            (values.min(), values.mean(), values.max())
                            if len(values)
                            else (np.nan,) * 3
                        )
                        got = [rolled[f"{COLUMNS[place]}.{r}"][at] for r in ("min", "mean", "max")]
                        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
                    at += 1
        assert at == len(rolled["rows"])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12))
def test_covered_spans(pairs: list[tuple[int, int]]) -> None:
    spans = [Span(min(p), max(p)) for p in pairs]
    kept = without_covered(spans)
    assert all(any(k.covers(s) for k in kept) for s in spans)
    assert not any(a != b and a.covers(b) for a in kept for b in kept)
    assert kept == sorted(set(kept))
