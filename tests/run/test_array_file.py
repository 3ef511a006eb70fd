"""Growing Zarr arrays: written here, read back by other people's code."""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr

from fitscope.errors import RunFormatError
from fitscope.run import array_file
from fitscope.run.array_file import Form, GrowingArray

DTYPES = (
    "bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64",
    "bfloat16", "float8_e4m3fn",
)  # fmt: skip


def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    kind = getattr(ml_dtypes, dtype) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)
    return (10 * np.random.default_rng(len(shape)).standard_normal(shape)).astype(kind)


@pytest.fixture(params=["one shard", "several shards"])
def small(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "several shards":
        monkeypatch.setattr(array_file, "_CHUNKS", 3)
        monkeypatch.setattr(array_file, "_CHUNK_BYTES", 100)


def appended(folder: Path, parts: list[Any], dtype: str) -> GrowingArray:
    array = GrowingArray(folder, Form(parts[0].shape[1:], dtype), {"of": "a test"})
    for part in parts:
        array.append(part)
        array.commit()
    return array


@pytest.mark.parametrize("tail", [(), (3,), (2, 5), (0, 4)])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
@pytest.mark.usefixtures("small")
def test_what_was_appended_is_read(tail: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    parts = [numbers((n, *tail), dtype) for n in (5, 0, 1, 40, 7)]
    appended(tmp_path / "a", parts, dtype)
    array, whole = GrowingArray.open(tmp_path / "a"), np.concatenate(parts)
    assert (array.rows, array.form) == (53, Form(tail, dtype))
    np.testing.assert_array_equal(array.read(0, 53), whole)
    np.testing.assert_array_equal(array.read(4, 30), whole[4:34])
    array.append(parts[0])
    array.commit()
    np.testing.assert_array_equal(GrowingArray.open(tmp_path / "a").read(50, 8)[3:], parts[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("small")
def test_others_read_it(dtype: str, tmp_path: Path) -> None:
    """zarr-python and tensorstore give the same numbers, after each commit."""
    parts = [numbers((n, 6), dtype) for n in (5, 1, 40, 7)]
    array = GrowingArray(tmp_path / "a", Form((6,), dtype), {})
    for count, part in enumerate(parts, 1):
        array.append(part)
        array.commit()
        whole = np.concatenate(parts[:count])
        bits = whole.view(array.form.stored) if hasattr(ml_dtypes, dtype) else whole
        found = zarr.open_array(str(tmp_path / "a"), mode="r")
        np.testing.assert_array_equal(found[:], bits)
        np.testing.assert_array_equal(found[len(whole) - 1], bits[-1])
        kvstore = {"driver": "file", "path": str(tmp_path / "a")}
        other = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
        np.testing.assert_array_equal(other.read().result(), bits)
    np.testing.assert_array_equal(GrowingArray.open(tmp_path / "a").read(0, 53), whole)
    assert GrowingArray.open(tmp_path / "a").read(0, 1).dtype == parts[0].dtype


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("vectors", ["writev", "write"])
def test_writes_that_take_less_than_given(
    vectors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file system under pressure or an interrupted call does."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, memoryview(data).cast("B")[:7]))
    if vectors == "writev":
        writev, turns = os.writev, itertools.cycle((1, 2, 3))
        monkeypatch.setattr(os, "writev", lambda file, data: writev(file, data[: next(turns)]))
    else:
        monkeypatch.delattr(os, "writev")
    parts = [numbers((n, 3, 2), "float32") for n in (5, 1, 40, 7)]
    parts.append(parts[2][::2])
    array = GrowingArray(tmp_path / "a", Form((3, 2), "float32"), {})
    array.append(*parts)
    array.commit()
    whole = np.concatenate(parts)
    np.testing.assert_array_equal(GrowingArray.open(tmp_path / "a").read(0, len(whole)), whole)


def test_what_was_not_committed_does_not_count(tmp_path: Path) -> None:
    array = appended(tmp_path / "a", [numbers((5, 3), "float32")], "float32")
    array.append(numbers((7, 3), "float32"))
    again = GrowingArray.open(tmp_path / "a")
    assert again.rows == 5
    more = numbers((2, 3), "float32")
    again.append(more)
    again.commit()
    np.testing.assert_array_equal(GrowingArray.open(tmp_path / "a").read(5, 2), more)


def test_big_endian_arrays(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=">f4").reshape(3, 2)
    appended(tmp_path / "a", [rows], "float32")
    np.testing.assert_array_equal(GrowingArray.open(tmp_path / "a").read(0, 3), rows)


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    appended(tmp_path / "a", [numbers((500, 3), "float32")], "float32")
    shard = tmp_path / "a" / "c" / "0" / "0"
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    with pytest.raises(RunFormatError, match="shorter than its"):
        GrowingArray.open(tmp_path / "a").read(0, 500)
    (tmp_path / "a" / "zarr.json").write_text("{}")
    with pytest.raises(RunFormatError, match="no array that fitscope wrote"):
        GrowingArray.open(tmp_path / "a")


def as_before(meta: Path) -> None:
    """The file as it was when it was replaced at each commit: the same JSON, no fixed places."""
    found = json.loads(meta.read_text())
    order = ("zarr_format", "node_type", "shape")
    rest = {key: value for key, value in found.items() if key not in order}
    meta.write_text(json.dumps({**{key: found[key] for key in order}, **rest}) + "\n")


@pytest.mark.parametrize("tail", [(), (3,), (2, 5), (0, 4)])
def test_a_commit_writes_the_number_of_rows_over(tail: tuple[int, ...], tmp_path: Path) -> None:
    """No file is replaced, which would cost milliseconds; what others read stays whole JSON."""
    array = appended(tmp_path / "a", [numbers((5, *tail), "float32")], "float32")
    meta = tmp_path / "a" / "zarr.json"
    first, before = meta.stat().st_ino, meta.read_bytes()
    for _ in range(3):
        array.append(numbers((40, *tail), "float32"))
        array.commit()
    after = meta.read_bytes()
    assert meta.stat().st_ino == first
    assert (before[:16], before[32:]) == (after[:16], after[32:])
    assert (int(before[16:32]), int(after[16:32])) == (5, 125)
    assert json.loads(after)["shape"] == [125, *tail]
    assert json.loads(after)["zarr_format"] == 3


@pytest.mark.usefixtures("small")
def test_arrays_from_before_the_fixed_place(tmp_path: Path) -> None:
    parts = [numbers((n, 3), "float32") for n in (5, 40, 7, 9)]
    appended(tmp_path / "a", parts[:1], "float32")
    as_before(tmp_path / "a" / "zarr.json")
    for count in (2, 3):  # the first commit gives the number its place, the second writes it over
        array = GrowingArray.open(tmp_path / "a")
        array.append(parts[count - 1])
        array.commit()
        whole = np.concatenate(parts[:count])
        again = GrowingArray.open(tmp_path / "a")
        np.testing.assert_array_equal(again.read(0, again.rows), whole)
        np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "a"), mode="r")[:], whole)


def test_a_full_disk_with_an_array_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no room for a new file, so the old one is written over, and its places move."""
    parts = [numbers((n, 3), "float32") for n in (5, 40, 7, 9)]
    array = appended(tmp_path / "a", parts[:1], "float32")
    meta = tmp_path / "a" / "zarr.json"
    as_before(meta)
    meta.write_text(" " * 900 + meta.read_text())
    array = GrowingArray.open(tmp_path / "a")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        for count in (2, 3):
            array.append(parts[count - 1])
            array.commit()
            assert json.loads(meta.read_text())["shape"] == [sum(map(len, parts[:count])), 3]
    array.append(parts[3])
    array.commit()
    whole = np.concatenate(parts)
    np.testing.assert_array_equal(GrowingArray.open(tmp_path / "a").read(0, 61), whole)


def test_a_reader_beside_commits_sees_one_of_their_counts(tmp_path: Path) -> None:
    array = appended(tmp_path / "a", [np.zeros((995, 1), "uint8")], "uint8")
    committed, stop = [995], threading.Event()

    def write() -> None:
        while not stop.is_set():
            array.append(np.zeros((1 + len(committed) % 3, 1), "uint8"))
            committed.append(array.rows)
            array.commit()

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        seen.append(GrowingArray.open(tmp_path / "a").rows)
    stop.set()
    writer.join()
    assert seen == sorted(seen)
    assert set(seen) <= set(committed)
    assert len(set(seen)) > 20
