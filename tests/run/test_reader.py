"""Queries against NumPy on the tensors themselves, in every state a run can be read in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitscope.errors import RunError, RunFormatError, SelectionError, StatisticError
from fitscope.run import Run, RunWriter, open_run
from fitscope.select import Site, of_class, select


def derived(x: np.ndarray) -> dict[str, float]:
    """Derived statistics straight from the tensor."""
    finite = x[np.isfinite(x)].astype(np.float64)
    some = finite.size > 0
    return {
        "finite": finite.size,
        "rms": np.sqrt((finite**2).mean()) if some else np.nan,
        "absmax": np.abs(finite).max() if some else np.nan,
        "l1": np.abs(finite).sum() if some else np.nan,
        "l2": np.linalg.norm(finite) if some else np.nan,
        "zero_fraction": (x == 0).mean(),
        "nonfinite": (~np.isfinite(x)).sum(),
        "nonfinite_fraction": (~np.isfinite(x)).mean(),
        "dead_fraction": (x <= 0).all(axis=0).mean(),
        "saturated_fraction": (x > 1).mean(),
        "saturated_unit_fraction": (x > 1).all(axis=0).mean(),
        "sampled_fraction": 1.0,
    }


def test_stored_statistics_of_everything(run: Run, made: Any, tools: Any) -> None:
    table = run.stats(statistic=tools.stored).to_arrow()
    expected = [
        (r.step, r.epoch, r.phase, site.name, name, tools.moments(t[site.name])[name])
        for site in made.sites
        for name in tools.stored
        for r, t in made.where()
    ]
    columns = list(zip(*expected, strict=True))
    assert table.column_names == ["step", "epoch", "phase", "site", "statistic", "value"]
    for name, column in zip(table.column_names[:-1], columns, strict=False):
        assert table.column(name).to_pylist() == list(column)
    np.testing.assert_array_equal(table.column("value").to_numpy(), columns[-1])


@pytest.mark.parametrize("phase", ["train", "validation", None])
def test_derived_statistics_of_one_site(run: Run, made: Any, phase: str | None) -> None:
    name = "block/conv_2:gradient"
    for statistic in derived(np.ones((2, 2))):
        values = run.stats(name, statistic, phase=phase)["value"].to_numpy()
        expected = [derived(t[name])[statistic] for _, t in made.where(phase)]
        np.testing.assert_allclose(values, expected, rtol=1e-6, err_msg=statistic)


@pytest.mark.parametrize(
    ("statistic", "q"), [("q01", 0.01), ("q25", 0.25), ("q50", 0.5), ("q95", 0.95), ("q99", 0.99)]
)
def test_quantiles_are_right_to_the_bin(run: Run, made: Any, statistic: str, q: float) -> None:
    values = run.stats("dense", statistic, phase="train")["value"].to_numpy()
    exact = []
    for _, tensors in made.where("train"):
        finite = tensors["dense"][np.isfinite(tensors["dense"])]
        exact.append(np.quantile(finite, q, method="inverted_cdf") if finite.size else np.nan)
    bins = [(np.asarray(v, np.float32).view(np.uint32) >> 21) & 0x7FF for v in (values, exact)]
    known = ~np.isnan(exact)
    assert known.sum() > 50
    # Both zeros, +0 and -0, are one value.
    np.testing.assert_array_equal(bins[0][known] % 1024 == 0, bins[1][known] % 1024 == 0)
    nonzero = known & (np.asarray(exact) != 0)
    np.testing.assert_array_equal(bins[0][nonzero], bins[1][nonzero])
    assert np.isnan(values[~known]).all()


def test_underflow_share(run: Run, made: Any) -> None:
    values = run.stats("conv_1", "float16_underflow", phase="train")["value"].to_numpy()
    expected = []
    for _, tensors in made.where("train"):
        x = tensors["conv_1"]
        x = x[np.isfinite(x) & (x != 0)]
        finite = np.isfinite(tensors["conv_1"]).any()
        expected.append((np.abs(x) < 2.0**-25).mean() if x.size else (0.0 if finite else np.nan))
    np.testing.assert_allclose(values, expected)


def test_several_kinds_at_once_come_in_the_order_asked_for(run: Run) -> None:
    table = run.stats("conv_1", ["range", "q50", "rms"], phase="train")
    seen = list(dict.fromkeys(table["statistic"].to_pylist()))
    assert seen == ["range", "q50", "rms"]
    assert len(table) == 3 * 106


def test_user_statistics(run: Run, made: Any) -> None:
    assert run.user_statistics == ["range"]
    table = run.stats("dense", "range")
    assert len(table) == 0
    table = run.stats("block/conv_2:output", "range", phase="train")
    assert table["value"].to_pylist() == [-float(r.step) for r, _ in made.where("train")]


def test_default_statistics_are_the_stored_and_the_users(run: Run, tools: Any) -> None:
    found = set(run.stats("conv_1")["statistic"].to_pylist())
    assert found == {*tools.stored, "range"}


@pytest.mark.parametrize(
    "chosen",
    [
        "*conv*",
        ["conv_1", "block/conv_2"],
        of_class("Conv2D"),
        lambda site: site.layer_class == "Conv2D",
        select("conv*"),
        ~select("dense") & ~select("head"),
    ],
)
def test_selections(run: Run, chosen: Any) -> None:
    sites = set(run.stats(chosen, "mean")["site"].to_pylist())
    assert sites == {"conv_1", "block/conv_2", "block/conv_2:gradient"}


def test_a_site_selects_itself(run: Run) -> None:
    site = run.sites["block/conv_2"]
    assert isinstance(site, Site)
    assert set(run.stats(site, "mean")["site"].to_pylist()) == {"block/conv_2"}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (None, range(123)),
        (5, [5]),
        (np.int64(5), [5]),
        (range(3, 60, 4), range(3, 60, 4)),
        (range(60, 3, -4), range(4, 61, 4)),
        (slice(100, None), range(100, 123)),
        (slice(-3, None), range(120, 123)),
        (slice(None, -120), range(3)),
        ([1, 99, 4000], [1, 99]),
        (np.array([7, 8]), [7, 8]),
        ([], []),
    ],
)
def test_steps(run: Run, steps: Any, expected: Any) -> None:
    assert run.stats("dense", "mean", steps=steps)["step"].to_pylist() == list(expected)


@pytest.mark.parametrize("steps", ["last", 1.5, ["a"]])
def test_steps_that_make_no_sense(run: Run, steps: Any) -> None:
    with pytest.raises(RunError, match=r"range\(first, stop\)"):
        run.stats("dense", "mean", steps=steps)


def test_an_unknown_statistic_names_near_misses(run: Run) -> None:
    with pytest.raises(StatisticError, match=r"unknown statistic 'rsm'.*'rms'"):
        run.stats("dense", "rsm")
    with pytest.raises(StatisticError, match="'range'"):
        run.stats("dense", ["mean", "rang"])


def test_an_unknown_site_names_near_misses(run: Run) -> None:
    with pytest.raises(SelectionError, match="dense"):
        run.stats("densse", "mean")
    with pytest.raises(SelectionError, match="dense"):
        _ = run.sites["densse"]


def test_an_unknown_phase_names_the_phases(run: Run) -> None:
    with pytest.raises(RunError, match="validation"):
        run.stats("dense", "mean", phase="valid")


def test_histogram_merges_over_steps(run: Run, made: Any) -> None:
    merged = run.histogram("dense", steps=range(10, 50))
    expected = np.zeros(2048, np.int64)
    for record, tensors in made.where("train"):
        if 10 <= record.step < 50:
            bits = tensors["dense"].view(np.uint32) >> 21
            expected += np.bincount(bits.ravel(), minlength=2048)
    np.testing.assert_array_equal(merged.counts, expected)
    assert len(merged.edges) == 2041
    with pytest.raises(RunError, match="a histogram is of one"):
        run.histogram("*conv*")


def test_last_is_the_latest_step_of_the_phase(run: Run, made: Any, tools: Any) -> None:
    for phase in ("train", "validation"):
        record, tensors = made.where(phase)[-1]
        last = run.last(phase)
        assert list(last) == tools.names
        for name, values in last.items():
            for statistic, value in {
                **tools.moments(tensors[name]),
                **derived(tensors[name]),
            }.items():
                np.testing.assert_allclose(values[statistic], value, rtol=1e-6)
        assert last["conv_1"]["range"] == record.step / 2
    assert run.last("test") == {}


@pytest.mark.parametrize("level", [64, 4096])
def test_rollup(run: Run, made: Any, level: int) -> None:
    table = run.rollup("dense", ["mean", "zero_fraction"], phase="train", level=level).to_arrow()
    rows = table.to_pylist()
    assert sum(r["rows"] for r in rows if r["statistic"] == "mean") == 106
    pairs = made.where("train")
    for statistic, read in (
        (
            "mean",
            lambda x: x[np.isfinite(x)].mean(dtype=np.float64) if np.isfinite(x).any() else np.nan,
        ),
        ("zero_fraction", lambda x: (x == 0).mean()),
    ):
        at = 0
        for row in (r for r in rows if r["statistic"] == statistic):
            block = pairs[at : at + row["rows"]]
            values = np.array([read(t["dense"]) for _, t in block])
            assert (row["step"], row["last_step"]) == (block[0][0].step, block[-1][0].step)
            np.testing.assert_allclose(row["min"], np.nanmin(values), rtol=1e-12)
            np.testing.assert_allclose(row["mean"], np.nanmean(values), rtol=1e-12)
            np.testing.assert_allclose(row["max"], np.nanmax(values), rtol=1e-12)
            at += row["rows"]
        assert at == len(pairs)


def test_sites_and_config(run: Run, made: Any) -> None:
    assert list(run.sites) == made.sites
    assert run.config["lr"] == 0.1
    assert "conv_1" in repr(run.sites)
    assert "[5 sites]" in repr(run.sites)
    assert run.sites[1:3].names == ["block/conv_2", "block/conv_2:gradient"]


def test_an_empty_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", config={})
    run = open_run(tmp_path / "run")
    assert run.last() == {}
    assert run.user_statistics == []
    with pytest.raises(SelectionError, match="no sites"):
        run.stats()
    writer.close()
    assert open_run(tmp_path / "run").status == "finished"


def test_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        open_run(tmp_path / "nothing")
    with pytest.raises(RunFormatError, match=r"holds no run\.json"):
        open_run(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RunFormatError, match="is a file"):
        open_run(file)
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(RunFormatError, match="pip install -U fitscope"):
        open_run(tmp_path)


def test_reading_changes_nothing(run: Run) -> None:
    if run.path is None or run.status != "finished":
        pytest.skip("only for a directory at rest")

    def snapshot() -> dict[Path, tuple[int, int, int]]:
        stats = {path: path.stat() for path in Path(run.path or "").rglob("*")}
        return {path: (s.st_mtime_ns, s.st_size, s.st_ino) for path, s in stats.items()}

    before = snapshot()
    fresh = open_run(run.path)
    fresh.stats()
    fresh.rollup("**", "rms", level=4096)
    fresh.last()
    assert snapshot() == before
