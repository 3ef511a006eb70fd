"""Values that a scope records into its run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fitscope.engine.layout import Kept, to_host
from fitscope.engine.leaves import leaves
from fitscope.engine.plan import EVERY_ROW, covering
from fitscope.engine.points import batch_point, part_of
from fitscope.errors import FitscopeError
from fitscope.run.array_file import is_storable
from fitscope.run.value_store import StepValues, Tensor
from fitscope.select.unseen import Unseen
from fitscope.values.batch import StepBatch, split
from fitscope.values.when import check_every, check_phases

if TYPE_CHECKING:
    from fitscope.select.selector import Selector
    from fitscope.select.site import Site

DTYPES = ("float16", "bfloat16", "float32", "float64")

_KNOWN = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """Tensors that are written into the run. Made by `record`."""

    selector: Selector | None
    """None where the batch alone is recorded."""
    ports: tuple[str, ...]
    rows: slice
    every: int
    dtype: str | None
    phases: tuple[str, ...]
    batch: bool
    sample_id: str | int | None

    statistics = ()
    measures = False

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {
            "kind": "record",
            "select": None if self.selector is None else repr(self.selector),
            "of": list(self.ports),
            "samples": [self.rows.start, self.rows.stop, self.rows.step],
            "every": self.every,
            "dtype": self.dtype,
            "phases": list(self.phases),
            "batch": self.batch,
            "sample_id": self.sample_id,
        }

    def is_due(self, phase: str, step: int, place: int, length: int | None) -> bool:
        """Whether the values of a step are wanted; see `Stream.is_due`."""
        del place, length
        return phase in self.phases and step % self.every == 0

    def wanted(self, kept: Kept, batch: StepBatch, known: Known) -> list[_Source]:
        """What is recorded of one step, all rows that are at hand."""
        found: list[_Source] = []
        if self.selector is not None:
            for site, tensor, rows, length in zip(
                kept.sites, kept.tensors, kept.rows, kept.lengths, strict=True
            ):
                if known.matches(self, site):
                    found.append(_Source(site, tensor, rows, length))
        if self.batch:
            for part, call, leaf, tensor in batch.parts():
                found.append(_part(part, call, leaf, tensor))
        if self.sample_id is not None:
            ids = _sample_ids(batch.x, self.sample_id)
            if ids is None:
                batch.unseen.append(_no_ids(self.sample_id, batch.x))
            else:
                found.append(_part("sample_id", None, (), ids))
        return found

    def matches(self, site: Site) -> bool:
        """Whether this tensor of the step itself, not of its batch, is recorded."""
        if self.selector is None or site.port not in self.ports or part_of(site) is not None:
            return False
        return self.selector.matches(site)

    def taken(self, source: _Source, known: Known) -> Tensor:
        """The rows that are recorded, on the host."""
        site, tensor, have, length = source
        if not len(tensor.shape):
            return self._tensor(known, site, tensor, 0, 1, None)
        first, stride = self.rows.start or 0, self.rows.step or 1
        if have != self.rows:
            ahead = have.start or 0
            stop = None if self.rows.stop is None else max(self.rows.stop - ahead, 0)
            tensor = tensor[first - ahead : stop : stride]
        return self._tensor(known, site, tensor, first, stride, length)

    def _tensor(
        self, known: Known, site: Site, tensor: Any, first: int, stride: int, length: int | None
    ) -> Tensor:
        array = self._cast(to_host(tensor))
        site = known.stored(site, array.dtype)
        return Tensor(site, array, first, stride, None if length is None else int(length))

    def _cast(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.dtype is None:
            return array
        floating = array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float8"))
        if not floating:
            return array
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            if self.dtype == "bfloat16":
                import ml_dtypes

                return array.astype(ml_dtypes.bfloat16)
            return array.astype(self.dtype)


class Known:
    """What is the same in each step, so that it is found out once.

    A site is known by its identity, and lives as long as it stands here.
    """

    def __init__(self) -> None:
        self._matches: dict[tuple[int, int], tuple[Record, Site, bool]] = {}
        self._stored: dict[tuple[int, Any], tuple[Site, Site]] = {}

    def matches(self, record: Record, site: Site) -> bool:
        """See `Record.matches`."""
        key = id(record), id(site)
        found = self._matches.get(key)
        if found is None:
            found = _kept(self._matches, key, (record, site, record.matches(site)))
        return found[2]

    def stored(self, site: Site, dtype: np.dtype[Any]) -> Site:
        """The site as it is recorded: without the layer, which would live as long as the run."""
        key = id(site), dtype
        found = self._stored.get(key)
        if found is None:
            bare = dataclasses.replace(site, layer=None, dtype=dtype.name)
            found = _kept(self._stored, key, (site, bare))
        return found[1]


def _kept(known: dict[Any, Any], key: Any, value: Any) -> Any:
    if len(known) >= _KNOWN:  # sites that are new in each step
        known.clear()
    known[key] = value
    return value


def step_values(
    records: Sequence[Record],
    kept: Kept,
    batch: StepBatch,
    known: Known,
    step: int,
    epoch: int,
    phase: str,
) -> StepValues:
    """What all instructions record of one step."""
    sources: dict[str, tuple[_Source, list[Record]]] = {}
    for record in records:
        for source in record.wanted(kept, batch, known):
            sources.setdefault(source.site.name, (source, []))[1].append(record)
    found: list[Tensor] = []
    for name, (source, takers) in sources.items():
        tensor = (takers[0] if len(takers) == 1 else _joint(takers, source)).taken(source, known)
        if is_storable(tensor.array.dtype):
            found.append(tensor)
        else:
            batch.unseen.append(_unstorable(name, tensor.array.dtype))
    return StepValues(step, epoch, phase, tuple(found))


class _Source(NamedTuple):
    """A tensor of a step, wherever it is."""

    site: Site
    tensor: Any
    rows: slice
    """Which of its rows are at hand."""
    length: int | None
    """How many rows it had."""


def _part(part: str, call: int | None, leaf: Any, tensor: Any) -> _Source:
    length = tensor.shape[0] if len(tensor.shape) else None
    return _Source(_part_site(part, call, leaf, tuple(tensor.shape)), tensor, EVERY_ROW, length)


@functools.lru_cache(1024)
def _part_site(part: str, call: int | None, leaf: Any, shape: tuple[int, ...]) -> Site:
    from fitscope.engine.entry import named

    return named(batch_point(part).site(call, "output", leaf, shape, ""), call)


def _joint(records: Sequence[Record], source: _Source) -> Record:
    """Records of one tensor as one: the rows of all, in a dtype that holds those of all."""
    dtype = records[0].dtype
    if any(record.dtype != dtype for record in records):
        own = str(source.tensor.dtype).rpartition(".")[2]  # torch says "torch.float32"
        asked = {record.dtype or own for record in records}
        halves = {"float16", "bfloat16"}
        if asked <= halves:
            dtype = "float32" if asked == halves else asked.pop()
        else:
            dtype = "float64" if "float64" in asked else "float32"
    return dataclasses.replace(records[0], rows=covering([r.rows for r in records]), dtype=dtype)


def record(
    select: Any,
    samples: int | slice | None = None,
    every: int = 1,
    dtype: str | None = None,
    *,
    of: str | Iterable[str] = "output",
    phases: str | Iterable[str] = "train",
    sample_id: str | int | None = None,
) -> Record:
    """Record the tensors themselves into the run, from the very steps of `fit`.

    The tensors leave the step as they are, in their own dtype, and are written by a thread of its
    own into `raw.zarr` in the run directory; `run.values(site)` reads them back. Steps whose values
    are wanted are observed whatever the scope's budget. If the disk is slower than the training,
    the training does not wait: once 256 MiB are waiting, the oldest steps are dropped, counted
    (`run.lost_values`) and told. A run in memory keeps the newest 256 MiB.

    Args:
        select: which sites, as in `fs.watch`; integer and boolean tensors are recorded, too.
            `fs.BATCH` (alone or in a list) is the batch of the step: x, y, sample_weight, the
            prediction that its loss was computed of, and the loss of each sample, under the names
            `"@batch/x"`, `"@batch/y"`, `"@batch/sample_weight"`, `"@batch/y_pred"`,
            `"@batch/loss"`.
        samples: the first k of each batch, or a slice of it with start, stop and step counted from
            its beginning; it is cut on the device. None for all.
        every: every n-th step of the phase, from the first.
        dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"` to write floating-point tensors
            in; None keeps each as it is.
        of: which tensor of a layer: `"output"`, `"input"`, `"preactivation"`, or several.
        phases: in which phases: `"train"`, `"validation"` (evaluation inside `fit`), `"test"`,
            `"predict"`, or several.
        sample_id: the key of a dict of inputs (or the place in a list) that identifies each sample;
            it is recorded beside the rest as `"@batch/sample_id"`.

    Returns:
        An instruction for `fs.Scope`.

    Raises:
        SelectionError: the selection, a port or a phase cannot be read.
        FitscopeError: another argument is not what is accepted.

    Example:
        ```python
        scope = fs.Scope(
            fs.record("head", samples=64, every=100),
            fs.record(fs.BATCH, every=100),
            run="runs/first",
        )
        model.fit(x, y, callbacks=[scope])
        scope.run.values("head").at(200).array
        scope.run.join(["head", "@batch/loss"])
        ```
    """
    from fitscope.scope.instructions import watch

    if dtype is not None and dtype not in DTYPES:
        raise FitscopeError(
            f"record(dtype={dtype!r}): expected {', '.join(map(repr, DTYPES))}, or None to keep "
            "each tensor's own."
        )
    if sample_id is not None and (
        isinstance(sample_id, bool) or not isinstance(sample_id, (str, int))
    ):
        raise FitscopeError(
            f"record(sample_id={sample_id!r}): expected the key of a dict of inputs, or the place "
            "in a list of them."
        )
    rest, batch = split(select)
    watched = None if rest is None else watch(rest, of)
    return Record(
        None if watched is None else watched.selector,
        () if watched is None else watched.ports,
        _rows(samples),
        check_every("record", every),
        dtype,
        check_phases("record", phases),
        batch,
        sample_id,
    )


def _rows(samples: Any) -> slice:
    if samples is None:
        return EVERY_ROW
    if isinstance(samples, int) and not isinstance(samples, bool) and samples > 0:
        return slice(None, samples)
    if isinstance(samples, slice):
        parts = samples.start, samples.stop, samples.step
        whole = all(p is None or (isinstance(p, int) and p >= 0) for p in parts)
        if whole and samples.step != 0:
            return slice(
                samples.start or None, samples.stop, None if samples.step == 1 else samples.step
            )
    raise FitscopeError(
        f"record(samples={samples!r}): expected a number of samples, 1 or more, or a slice whose "
        "start, stop and step are counted from the beginning of the batch, such as slice(8, 16)."
    )


def _sample_ids(x: Any, key: str | int) -> Any | None:
    if isinstance(key, int):
        found = x[key] if isinstance(x, (list, tuple)) and -len(x) <= key < len(x) else None
    else:
        found = x.get(key) if isinstance(x, dict) else None
    return found if hasattr(found, "shape") else None


def _no_ids(key: str | int, x: Any) -> Unseen:
    known = ", ".join(sorted(str(leaf[0]) for leaf, _ in leaves(x) if leaf)) or "a single tensor"
    return Unseen(
        "@batch/sample_id",
        f"the inputs have nothing at {key!r}; they are {known}",
        "let the data be a dict of inputs with the ids under that key; a model that does not use "
        "them passes them by",
    )


def _unstorable(name: str, dtype: Any) -> Unseen:
    return Unseen(
        name,
        f"holds {dtype}, which cannot be recorded",
        "record numbers: an index into a table of your own, for example",
    )
