"""A Zarr v3 array that grows along its first axis, appended to in place.

    <folder>/
      zarr.json        shape = the rows that are committed
      c/<n>/0/...      shards: an index of fixed size, and behind it the rows, one after the other

A shard's index stands at its start and has no checksum, so a shard can grow: first the rows, then
their index entries, then the number of rows in `zarr.json`. A kill in between leaves rows that no
shape counts. zarr-python, tensorstore and xarray read the result. Nothing is compressed and nothing
is fsynced.

The number of rows stands at a fixed place of `zarr.json`, in a width of its own, and is written
over: a file that is replaced by rename, some file systems (ext4) send to the disk at once, which is
a hundred times the work. It is 16 bytes at a multiple of 16; a kill cannot cut those, and the
digits that change are in the last 8, which processors copy whole.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fitscope.errors import RunFormatError
from fitscope.run.layout import json_text, replace_text

META_FILE = "zarr.json"

_CHUNK_BYTES = 32 * 2**10
"""An inner chunk, what others read at once, holds one row, or more when rows are small."""
_SHARD_BYTES = 2**29
_CHUNKS = 1024
_VECTORS = 512
"""Buffers that are written at once; systems take 1024 or more."""

_COUNT_AT = 16
_META_START = '{"shape": ['.ljust(_COUNT_AT)
"""What `zarr.json` begins with where the number of rows can be written over."""

_NATIVE = frozenset(
    (
        *("bool", "float16", "float32", "float64", "complex64", "complex128"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)


@functools.cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Its name, which NumPy makes anew each time it is asked."""
    return dtype.name


def is_storable(dtype: Any) -> bool:
    """Whether arrays of this dtype can be written."""
    name = dtype_name(np.dtype(dtype))
    return name in _NATIVE or name.startswith(("bfloat16", "float8"))


def _stored_as(name: str) -> str:
    """The Zarr type of a dtype; what Zarr has no name for goes in as bare bits."""
    if name in _NATIVE:
        return name
    return "uint16" if name == "bfloat16" else "uint8"


@dataclasses.dataclass(frozen=True)
class Form:
    """What all rows of an array have in common.

    Attributes:
        tail: shape of one row.
        dtype: name of the dtype, `"bfloat16"` included.
    """

    tail: tuple[int, ...]
    dtype: str

    @functools.cached_property
    def stored(self) -> np.dtype[Any]:
        return np.dtype(_stored_as(self.dtype)).newbyteorder("<")

    @functools.cached_property
    def row_bytes(self) -> int:
        return self.stored.itemsize * math.prod(self.tail)

    def decoded(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Stored rows in their own dtype."""
        if self.dtype in _NATIVE:
            return array
        try:
            import ml_dtypes
        except ImportError:  # a reader without Keras: the same numbers, wider
            if self.dtype != "bfloat16":
                return array
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array.view(getattr(ml_dtypes, self.dtype))


class GrowingArray:
    """One array on disk. Not thread-safe by itself.

    Args:
        folder: where it lies; made at the first write.
        form: shape and dtype of the rows.
        attributes: kept in `zarr.json`, anything JSON can say.

    Raises:
        OSError: from `append`, `commit` and `read`, when the disk fails. What was committed stays.
    """

    def __init__(self, folder: Path, form: Form, attributes: Mapping[str, Any]) -> None:
        self.folder = folder
        self.form = form
        # Native dtypes are one object each: `is` is what tells them apart quickly.
        self._stored = form.stored if sys.byteorder == "big" else np.dtype(form.stored.name)
        self.attributes = dict(attributes)
        self.rows = 0
        self.committed = 0
        size = max(form.row_bytes, 1)
        self._chunk_rows = 1 << max(0, (_CHUNK_BYTES // size).bit_length() - 1)
        chunk = self._chunk_rows * size
        self._chunks = max(1, min(_CHUNKS, _SHARD_BYTES // chunk))
        self._newest: tuple[int, Path] | None = None
        self._fixed_count = False
        """Whether the number of rows stands at its fixed place in `zarr.json`."""

    @classmethod
    def open(cls, folder: Path) -> GrowingArray:
        """An array that was committed before.

        Raises:
            FileNotFoundError: nothing was committed there.
            RunFormatError: it is none of ours.
        """
        text = (folder / META_FILE).read_text(encoding="utf-8")
        try:
            meta = json.loads(text)
            attributes = meta["attributes"]
            form = Form(tuple(meta["shape"][1:]), str(attributes["dtype"]))
            array = cls(folder, form, attributes)
            array._chunk_rows = int(meta["codecs"][0]["configuration"]["chunk_shape"][0])
            shard_rows = int(meta["chunk_grid"]["configuration"]["chunk_shape"][0])
            array._chunks = shard_rows // array._chunk_rows
            array.rows = array.committed = int(meta["shape"][0])
            array._fixed_count = text.startswith(_META_START)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise RunFormatError(f"{folder} is no array that fitscope wrote ({error}).") from error
        return array

    @property
    def is_committed(self) -> bool:
        """Whether all that was appended counts."""
        return self.rows == self.committed

    def append(self, *parts: np.ndarray[Any, Any]) -> None:
        """Write rows behind the others; they count from the next `commit` on.

        Args:
            *parts: `[n, *tail]` each, of the array's dtype.
        """
        self._write([self._plain(rows) for rows in parts])
        self.rows += sum(map(len, parts))

    def commit(self) -> None:
        """Make what was appended count."""
        if self.is_committed and (self.folder / META_FILE).exists():
            return
        if self.form.row_bytes:
            self._write_index()
        if self._fixed_count:
            file = os.open(self.folder / META_FILE, os.O_WRONLY | getattr(os, "O_BINARY", 0))
            try:
                _write_at(file, [np.frombuffer(self._count().encode(), np.uint8)], _COUNT_AT)
            finally:
                os.close(file)
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._fixed_count = replace_text(self.folder / META_FILE, self._meta_text())
        self.committed = self.rows

    def read(self, first: int, count: int) -> np.ndarray[Any, Any]:
        """Rows from the disk, `[count, *tail]`."""
        size, stored = self.form.row_bytes, self.form.stored
        found = np.zeros((count, *self.form.tail), stored)
        if not found.nbytes:
            return self.form.decoded(found)
        view, row = found.reshape(-1).view(np.uint8).data, first
        while row < first + count:
            shard, place, n = self._place(row, first + count - row)
            with open(self._shard(shard), "rb", buffering=0) as file:
                file.seek(self._header + place * size)
                part = view[(row - first) * size :][: n * size]
                while part:
                    got = file.readinto(part)
                    if not got:
                        raise RunFormatError(
                            f"{self._shard(shard)} is shorter than its zarr.json says. The run was "
                            "cut, by a copy that was not finished for example."
                        )
                    part = part[got:]
            row += n
        return self.form.decoded(found)

    @property
    def _header(self) -> int:
        return 16 * self._chunks

    def _place(self, row: int, count: int) -> tuple[int, int, int]:
        """Shard of a row, the row's place in it, and how many of `count` rows it takes."""
        shard, place = divmod(row, self._chunks * self._chunk_rows)
        return shard, place, min(count, self._chunks * self._chunk_rows - place)

    def _shard(self, number: int) -> Path:
        newest = self._newest  # one look: another thread may read what this one writes
        if newest is None or newest[0] != number:
            path = self.folder.joinpath("c", str(number), *("0" for _ in self.form.tail))
            newest = self._newest = number, path
        return newest[1]

    def _plain(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The rows as they stand in the file."""
        if rows.dtype is not self._stored:
            if rows.dtype.byteorder == ">":
                rows = rows.astype(rows.dtype.newbyteorder("<"))
            rows = np.ascontiguousarray(rows).view(self._stored)
        return rows if rows.flags.c_contiguous else np.ascontiguousarray(rows)

    def _write(self, parts: list[np.ndarray[Any, Any]]) -> None:
        size, row = self.form.row_bytes, self.rows
        left = sum(map(len, parts)) if size else 0
        while left:
            shard, place, n = self._place(row, left)
            some, parts = (parts, []) if n == left else _cut(parts, n)
            path = self._shard(shard)
            if not place:
                path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0)
            file = os.open(path, flags if not place else flags & ~os.O_CREAT, 0o666)
            try:
                if not place:
                    _write_at(file, [np.full(self._header, 0xFF, np.uint8)], 0)
                _write_at(file, some, self._header + place * size)
            finally:
                os.close(file)
            row += n
            left -= n

    def _write_index(self) -> None:
        """Write the entries of the chunks that hold something new, and fill the last one up."""
        chunk_bytes = self._chunk_rows * self.form.row_bytes
        row = self.committed // self._chunk_rows * self._chunk_rows
        while row < self.rows:
            shard, place, n = self._place(row, self.rows - row)
            first, last = place // self._chunk_rows, (place + n - 1) // self._chunk_rows
            entries = np.empty((last + 1 - first, 2), "<u8")
            entries[:, 0] = self._header + np.arange(first, last + 1) * chunk_bytes
            entries[:, 1] = chunk_bytes
            file = os.open(self._shard(shard), os.O_RDWR | getattr(os, "O_BINARY", 0))
            try:
                end = self._header + (last + 1) * chunk_bytes
                if os.fstat(file).st_size < end:
                    os.ftruncate(file, end)
                _write_at(file, [entries], 16 * first)
            finally:
                os.close(file)
            row += n

    def _count(self) -> str:
        return f"{self.rows:16}"

    def _meta_text(self) -> str:
        tail = "".join(f", {n}" for n in self.form.tail)
        return f"{_META_START}{self._count()}{tail}], {json_text(self._meta())[1:]}\n"

    def _meta(self) -> dict[str, Any]:
        """What stands in `zarr.json` behind the shape."""
        tail = list(self.form.tail)
        dtype = _stored_as(self.form.dtype)
        endian = {"name": "bytes", "configuration": {"endian": "little"}}
        inner = endian if self.form.stored.itemsize > 1 else {"name": "bytes"}
        sharding = {
            "chunk_shape": [self._chunk_rows, *(max(n, 1) for n in tail)],
            "codecs": [inner],
            "index_codecs": [endian],
            "index_location": "start",
        }
        shard = [self._chunks * self._chunk_rows, *(max(n, 1) for n in tail)]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": _fill_value(dtype),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {**self.attributes, "dtype": self.form.dtype},
        }


def _fill_value(dtype: str) -> Any:
    if dtype == "bool":
        return False
    return [0.0, 0.0] if dtype.startswith("complex") else 0.0 if dtype.startswith("float") else 0


def _cut(
    parts: list[np.ndarray[Any, Any]], rows: int
) -> tuple[list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """The first rows of some arrays, and the rest."""
    first: list[np.ndarray[Any, Any]] = []
    for place, part in enumerate(parts):
        if len(part) > rows:
            return [*first, part[:rows]], [part[rows:], *parts[place + 1 :]]
        first.append(part)
        rows -= len(part)
    return first, []


def _write_at(file: int, buffers: Sequence[np.ndarray[Any, Any]], offset: int) -> None:
    # Neither os.pwritev nor os.writev is everywhere, and all may take less than they are given.
    os.lseek(file, offset, os.SEEK_SET)
    vectors = _VECTORS if hasattr(os, "writev") else 1
    for first in range(0, len(buffers), vectors):
        some = buffers[first : first + vectors]
        given: Any = some  # arrays are buffers, of every dtype, which NumPy's types do not say
        taken = os.writev(file, given) if vectors > 1 else os.write(file, given[0])
        for buffer in some:
            if taken < buffer.nbytes:
                octets = buffer.reshape(-1).view(np.uint8).data[taken:]
                while octets:
                    octets = octets[os.write(file, octets) :]
            taken = max(taken - buffer.nbytes, 0)
