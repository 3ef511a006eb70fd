"""Recorded tensors of a run: written beside its statistics, and read back.

    raw.zarr/
      zarr.json          how many steps count, as `attributes`; written last: no site is ahead
      <site>/            the site's name, with what a file name cannot hold as %2F and the like
        zarr.json        the site, as `attributes`
        values-<n>       the rows of all steps, one after the other; an array for each shape of row
        steps-<n>        one row for each step: the columns below

What is waiting for the disk, because it is small, or because the disk is full, is in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import struct
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fitscope.run.array_file import META_FILE, Form, GrowingArray
from fitscope.run.layout import read_json, replace_json, write_json
from fitscope.run.record import PHASES
from fitscope.run.recorded import Piece
from fitscope.run.sites import SiteTable
from fitscope.select.site import Site

RAW = "raw.zarr"
COLUMNS = (
    "step", "epoch", "phase", "first_row", "rows", "start", "stride", "length", "has_rows", "seq",
)  # fmt: skip
BUFFER_BYTES = 2**22
"""What may wait for the next flush; beyond it rows are written at once."""
MEMORY_BYTES = 2**28
RETRY_SECONDS = 30.0

_PHASE = {phase: number for number, phase in enumerate(PHASES)}
_STEPS = Form((len(COLUMNS),), "int64")
_pack = struct.Struct(f"{len(COLUMNS)}q").pack


@dataclasses.dataclass(slots=True, eq=False)  # not frozen: that makes them slow to construct
class Tensor:
    """One tensor to record, or some rows of it; nobody changes it.

    Attributes:
        site: whose it is.
        array: `[rows, ...]`, or a scalar without axes.
        start: place of the first row.
        stride: from one row to the next.
        length: rows of the whole tensor; None where that is not known.
    """

    site: Site
    array: np.ndarray[Any, Any]
    start: int = 0
    stride: int = 1
    length: int | None = None


class StepValues:
    """The tensors of one step; nobody changes it."""

    __slots__ = ("epoch", "nbytes", "phase", "step", "tensors")

    def __init__(self, step: int, epoch: int, phase: str, tensors: tuple[Tensor, ...]) -> None:
        self.step, self.epoch, self.phase, self.tensors = step, epoch, phase, tensors
        self.nbytes = 256 * len(tensors)
        for tensor in tensors:
            self.nbytes += tensor.array.nbytes


@dataclasses.dataclass(slots=True, eq=False)
class _Variant:
    """The rows of one shape of a site."""

    values: GrowingArray
    steps: GrowingArray
    arrays: list[np.ndarray[Any, Any]] = dataclasses.field(default_factory=list)
    """What is about to be written."""
    columns: list[bytes] = dataclasses.field(default_factory=list)
    """Of each of those, what `steps` is to say, packed: quicker by far than as integers."""
    next_row: int = 0

    def write(self) -> None:
        columns = np.frombuffer(b"".join(self.columns), np.int64).reshape(-1, len(COLUMNS))
        self.values.append(*self.arrays)
        self.steps.append(columns.astype("<i8", copy=False))


class ValueWriter:
    """Writes the recorded tensors of a run, or keeps them in memory. Not thread-safe by itself.

    A disk that fails never raises: what cannot be written stays in memory, up to `memory_bytes`.
    Beyond that, whole steps are lost, the newest where a disk fails and the oldest of a run that is
    in memory only, and counted.

    Args:
        folder: the rank's folder; None for memory only.
        problem: told of each failure of the disk, with what was being done.
        memory_bytes: what may be held.
    """

    def __init__(
        self,
        folder: Path | None,
        problem: Callable[[Exception, str], None],
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._folder = None if folder is None else folder / RAW
        self._problem = problem
        self._limit = memory_bytes
        self._waiting: deque[tuple[int, StepValues]] = deque()
        self._bytes = 0
        self._sites: dict[str, Site] = {}
        self._variants: dict[str, dict[tuple[Form, bool], _Variant]] = {}
        self._seen: dict[Any, _Variant] = {}
        """Those of tensors with rows, by what is quick to look up."""
        self._dirty = False
        self._failed_at: float | None = None
        self._seq = 0
        self._written = 0
        self._uncommitted = 0
        """Steps that are in the files, which do not say so yet."""
        self.lost = 0
        """Steps whose tensors neither the disk nor memory holds."""
        if self._folder is not None and self._folder.is_dir():
            self._take_up(self._folder)

    @property
    def steps(self) -> int:
        """Steps that were added, by earlier writers, too."""
        return self._seq

    @property
    def waiting(self) -> bool:
        """Whether a flush has something to do."""
        return self._folder is not None and (self._dirty or bool(self._waiting))

    def append(self, values: StepValues) -> None:
        """Add the tensors of a step, which nobody writes to afterwards."""
        for tensor in values.tensors:
            if tensor.site.name not in self._sites:
                self._sites[tensor.site.name] = tensor.site
        self._waiting.append((self._seq, values))
        self._bytes += values.nbytes
        self._seq += 1
        if self._folder is not None and self._bytes > BUFFER_BYTES:
            self._write()
        while self._bytes > self._limit and len(self._waiting) > 1:
            # A full disk has the first steps, so the gap is behind them; memory has the last ones.
            _, dropped = self._waiting.pop() if self._folder else self._waiting.popleft()
            self._bytes -= dropped.nbytes
            self.lost += 1

    def flush(self, *, last: bool = False) -> None:
        """Write what is waiting and make it count.

        Args:
            last: try the disk even if it has just failed.
        """
        if self._folder is None:
            return
        if last:
            self._failed_at = None
        if not self._resting():
            self._write()
            self._commit()

    def _commit(self) -> None:
        """Make what was written count."""
        if self._folder is None or not self._dirty:
            return
        try:
            for variants in self._variants.values():
                for variant in variants.values():
                    if variant.steps.is_committed and variant.values.is_committed:
                        continue  # where a disk is full, one that is empty may not even be there
                    variant.values.commit()  # before the steps: those tell which rows there are
                    variant.steps.commit()
            replace_json(self._folder / META_FILE, _group({"steps": self._written}))
            self._dirty, self._uncommitted = False, 0
        except OSError as error:
            self._fail(error)

    @property
    def sites(self) -> SiteTable:
        """The sites recorded so far."""
        return SiteTable(self._sites.values())

    def pieces(self, name: str) -> list[Piece]:
        """What was recorded of a site, in order."""
        self.flush()
        found: list[Piece] = []
        for (_, has_rows), variant in self._variants.get(name, {}).items():
            # Rows that the disk took count here even where it had no room to say so.
            with contextlib.suppress(FileNotFoundError):  # somebody deleted the directory
                found += _pieces_on_disk(variant, has_rows, self._seq)
        found.sort(key=lambda piece: piece.seq)
        for seq, values in self._waiting:
            for tensor in values.tensors:
                if tensor.site.name == name:
                    found.append(_piece_in_memory(seq, values, tensor))
        return found

    @property
    def unsaved(self) -> int:
        """Steps whose tensors the disk did not take and memory holds."""
        failed = self._folder is not None and self._failed_at
        return len(self._waiting) + self._uncommitted if failed else 0

    def _resting(self) -> bool:
        """Whether the disk has failed so recently that it is not tried again yet."""
        failed = self._failed_at
        return failed is not None and time.monotonic() - failed < RETRY_SECONDS

    def _fail(self, error: OSError) -> None:
        self._failed_at = time.monotonic()
        self._problem(error, "write recorded values")

    def _write(self) -> None:
        if self._resting():
            return
        try:
            while self._waiting:
                some = self._next_steps()
                self._write_steps(some)
                self._written = some[-1][0] + 1
                self._uncommitted += len(some)
                if len(some) == len(self._waiting):
                    self._waiting.clear()
                    self._bytes = 0
                else:
                    for _, values in some:
                        self._waiting.popleft()
                        self._bytes -= values.nbytes
        except OSError as error:
            self._fail(error)
            self._commit()  # what did find room
        else:
            self._failed_at = None

    def _next_steps(self) -> list[tuple[int, StepValues]]:
        """The steps to be written at once: many small ones, or one large one."""
        if self._bytes <= 2 * BUFFER_BYTES:
            return list(self._waiting)
        some: list[tuple[int, StepValues]] = []
        size = 0
        for seq, values in self._waiting:
            size += values.nbytes
            if some and size > BUFFER_BYTES:
                break
            some.append((seq, values))
        return some

    def _write_steps(self, some: list[tuple[int, StepValues]]) -> None:
        touched: list[_Variant] = []
        for seq, values in some:
            step, epoch, phase = values.step, values.epoch, _PHASE[values.phase]
            for tensor in values.tensors:
                array = tensor.array
                variant = self._seen.get((tensor.site.name, array.shape[1:], array.dtype))
                if variant is None or not array.ndim:
                    variant = self._variant(tensor)
                if not variant.arrays:
                    touched.append(variant)
                    variant.next_row = variant.values.rows
                has_rows, length = 1, tensor.length
                if not array.ndim:
                    has_rows, array = 0, array.reshape(1)
                rows = len(array)
                variant.arrays.append(array)
                variant.columns.append(_pack(
                    step, epoch, phase, variant.next_row, rows, tensor.start, tensor.stride,
                    -1 if length is None else length, has_rows, seq,
                ))  # fmt: skip
                variant.next_row += rows
        self._dirty = True
        before = [(v, v.values.rows, v.steps.rows) for v in touched]
        try:
            for variant in touched:
                variant.write()
        except OSError:
            for variant, values_rows, steps_rows in before:  # they are written again as a whole
                variant.values.rows, variant.steps.rows = values_rows, steps_rows
            raise
        finally:
            for variant in touched:
                variant.arrays, variant.columns = [], []

    def _variant(self, tensor: Tensor) -> _Variant:
        array, name = tensor.array, tensor.site.name
        key = Form(array.shape[1:], array.dtype.name), array.ndim > 0
        variants = self._variants.setdefault(name, {})
        if key not in variants:
            assert self._folder is not None  # noqa: S101 - nothing is written without one
            self._folder.mkdir(exist_ok=True)
            folder = self._folder / folder_name(name)
            folder.mkdir(exist_ok=True)
            if not (folder / META_FILE).exists():
                write_json(folder / META_FILE, _group({"site": tensor.site.to_json()}))
            number = max(_numbers(folder), default=-1) + 1
            steps = {"columns": list(COLUMNS), "phases": list(PHASES)}
            variants[key] = _Variant(
                GrowingArray(folder / f"values-{number}", key[0], {}),
                GrowingArray(folder / f"steps-{number}", _STEPS, steps),
            )
            # Files that are there can be written over, once a full disk takes no new ones.
            variants[key].values.commit()
            variants[key].steps.commit()
            if not (self._folder / META_FILE).exists():
                write_json(self._folder / META_FILE, _group({"steps": 0}))
        if array.ndim:
            self._seen[name, array.shape[1:], array.dtype] = variants[key]
        return variants[key]

    def _take_up(self, folder: Path) -> None:
        """Go on behind what an earlier writer committed, in step for all sites."""
        reader = ValueReader(folder.parent)
        self._sites = {site.name: site for site in reader.sites}
        self._variants = {name: reader.variants(name) for name in self._sites}
        self._seq = self._written = reader.steps
        for found in self._variants.values():
            for variant in found.values():
                steps = _steps(variant)
                keep = int((steps[:, -1] < self._seq).sum())
                if keep < len(steps):
                    variant.values.rows = int(steps[keep, 3])
                    variant.steps.rows = keep
                    self._dirty = True


class ValueReader:
    """Reads the recorded tensors of a run from disk, also while they are written.

    Args:
        folder: the rank's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / RAW

    @property
    def steps(self) -> int:
        """How many steps count: of a later one, not every site may be there."""
        try:
            return int(read_json(self._folder / META_FILE)["attributes"]["steps"])
        except FileNotFoundError:
            return 0

    @property
    def sites(self) -> SiteTable:
        """The sites of which anything was recorded."""
        try:
            names = sorted(os.listdir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return SiteTable()
        found = []
        for name in names:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                meta = read_json(self._folder / name / META_FILE)
                found.append(Site.from_json(meta["attributes"]["site"]))
        return SiteTable(found)

    def pieces(self, name: str) -> list[Piece]:
        """What was recorded of a site, in order."""
        found: list[Piece] = []
        count = self.steps  # before the arrays are looked at, which may grow meanwhile
        for (_, has_rows), variant in self.variants(name).items():
            found += _pieces_on_disk(variant, has_rows, count)
        return sorted(found, key=lambda piece: piece.seq)

    def variants(self, name: str) -> dict[tuple[Form, bool], _Variant]:
        """The arrays of a site."""
        folder = self._folder / folder_name(name)
        found: dict[tuple[Form, bool], _Variant] = {}
        for number in _numbers(folder):
            with contextlib.suppress(FileNotFoundError):  # killed before the first commit
                steps = GrowingArray.open(folder / f"steps-{number}")
                values = GrowingArray.open(folder / f"values-{number}")
                if steps.rows:
                    has_rows = bool(steps.read(0, 1)[0, COLUMNS.index("has_rows")])
                    found[values.form, has_rows] = _Variant(values, steps)
        return found


def folder_name(site: str) -> str:
    """The folder of a site's arrays: its name as far as any file system takes it."""
    quoted = urllib.parse.quote(site, safe="@ ").replace("..", "%2E%2E")
    if len(quoted) <= 180:
        return quoted
    return f"{quoted[:150]}~{hashlib.sha256(site.encode()).hexdigest()[:20]}"


def _numbers(folder: Path) -> Iterator[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    yield from sorted(int(m[1]) for n in names if (m := re.fullmatch(r"steps-(\d+)", n)))


def _steps(variant: _Variant) -> np.ndarray[Any, Any]:
    return variant.steps.read(0, variant.steps.rows)


def _pieces_on_disk(variant: _Variant, has_rows: bool, count: int) -> Iterator[Piece]:
    """What was recorded in one shape, of the first `count` steps."""
    for row in _steps(variant):
        at = dict(zip(COLUMNS, map(int, row), strict=True))
        if at["seq"] >= count:
            break
        yield Piece(
            step=at["step"],
            epoch=at["epoch"],
            phase=PHASES[at["phase"]],
            start=at["start"],
            stride=at["stride"],
            rows=at["rows"],
            length=None if at["length"] < 0 else at["length"],
            tail=variant.values.form.tail,
            seq=at["seq"],
            load=functools.partial(variant.values.read, at["first_row"], at["rows"]),
            has_rows=has_rows,
        )


def _piece_in_memory(seq: int, values: StepValues, tensor: Tensor) -> Piece:
    has_rows = tensor.array.ndim > 0
    array = tensor.array if has_rows else tensor.array.reshape(1)
    return Piece(
        values.step, values.epoch, values.phase, tensor.start, tensor.stride, len(array),
        tensor.length, array.shape[1:], seq, lambda: array, has_rows,
    )  # fmt: skip


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
