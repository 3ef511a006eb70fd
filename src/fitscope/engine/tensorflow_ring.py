"""Variables that an observed TensorFlow function captures, in which its rows leave it."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from fitscope.engine import tensorflow_kernel
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Kept, Layout
from fitscope.engine.optimizers import with_scale
from fitscope.engine.paired import Paired
from fitscope.engine.plan import EVERY_ROW, Wanted
from fitscope.engine.tensorflow_kernel import Kind, Reduced, is_large
from fitscope.engine.tensorflow_rows import SumsRow
from fitscope.engine.trace import Slot
from fitscope.errors import StatisticError
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen


@dataclasses.dataclass(eq=False)
class Met:
    """A tensor of the step, to be measured when the whole step is traced.

    Attributes:
        tensor: the tensor; None for a gradient that did not come.
        entry: whose it is.
        port: at which port.
        wanted: what is to be taken of it.
        scale: by what a gradient is too large.
        beside: a second tensor, for statistics of both.
        problem: why it cannot be measured.
    """

    tensor: Any
    entry: Entry
    port: str
    wanted: Wanted
    scale: Any = None
    beside: Any = None
    problem: str | None = None

    def without_scale(self) -> Met:
        """The same, with a gradient divided by the scale of its loss."""
        if self.scale is None:
            return self
        beside = tf.cast(self.scale, tf.float32)
        tensor = tf.cast(tf.stop_gradient(self.tensor), tf.float32) / beside
        wanted = with_scale(self.wanted)
        return dataclasses.replace(self, tensor=tensor, wanted=wanted, scale=None, beside=beside)


def user_state(statistic: Any, x: Any, beside: Any = None) -> Any:
    """Run a user statistic's `update`, and hold it to its contract."""
    paired = isinstance(statistic, Paired)
    state = tf.convert_to_tensor(statistic.update(x, beside) if paired else statistic.update(x))
    if state.shape.rank != 1 or state.shape[0] is None or state.dtype != tf.float32:
        raise StatisticError(
            f"Statistic {statistic.name!r}: update returned a tensor of shape {state.shape} and "
            f"dtype {state.dtype.name}; it must return a 1-D float32 tensor of fixed length. "
            "Use keras.ops.stack or reshape, and cast to float32."
        )
    return state


class Ring:
    """Variables that hold the rows of the inner steps of one execution.

    They are made while the step is traced, when the number of sites is known.

    Args:
        depth: of how many steps.
        keeps: whether tensors leave the steps, too, with what those were given.
    """

    def __init__(self, depth: int, *, keeps: bool = False) -> None:
        self.depth = depth
        self._keeps = keeps
        self.traced: list[_Traced] = []
        self.cursor = _variable((), tf.int64)
        """Steps that were written, ever."""
        self.taken = 0
        """Steps that were read, or given up."""
        self.unread = False
        """Whether an execution was begun whose rows were neither read nor given up."""
        self.keys = _variable((depth,), tf.int32)

    def write(self, slots: list[Slot], unseen: list[Unseen], data: Any) -> None:
        """In a step: put its rows where the host finds them.

        Args:
            slots: what was met, in order.
            unseen: what was not.
            data: what the step was given; it leaves the step together with kept tensors.
        """
        states, found, read, unseen = [], [], [], [*unseen]
        place = 0  # of the next tensor, among those that are not swept
        keep = [slot for slot in slots if slot.wanted.keeps]
        for slot in slots:
            if not slot.wanted.measures:
                continue
            met: Met = slot.measured
            try:
                states.append(_states(met))
            except StatisticError:
                raise
            except Exception as error:  # a statistic of the user's: the others are seen
                unseen.append(_failed(slot, error))
                continue
            read.append(slot)
            found.append(Reduced(met.tensor, _kind(met), place))
            place += found[-1].bins is not None
        layout = Layout.of(read, [[int(s.shape[0]) for s in own] for own in states], unseen)
        kinds = [reduced.kind for reduced in found]
        row = tensorflow_kernel.row(found, [state for own in states for state in own])
        key = self._place(layout, kinds, row, keep, data)
        kept = self.traced[key].kept
        if kept is not None:
            kept.write(keep, data)
        at = (self.cursor % self.depth)[None]
        self.keys.scatter_update(tf.IndexedSlices(tf.constant([key]), at))
        for name, value in row.items():
            variable = self.traced[key].variables[name]
            if self.depth == 1:
                variable.assign(value[None])
            else:
                variable.scatter_update(tf.IndexedSlices(value[None], at))
        self.cursor.assign_add(1)

    def _place(
        self, layout: Layout, kinds: list[Kind], row: dict[str, Any], keep: list[Slot], data: Any
    ) -> int:
        """The number of the traced step these rows belong to; makes its variables."""
        shapes = {n: tuple(v.shape) for n, v in row.items()}
        if tf.executing_eagerly():
            # Not compiled: this runs at every step, mostly for the same sites.
            for key, traced in enumerate(self.traced):
                kept = () if traced.kept is None else traced.kept.sites
                same = traced.layout.sites == layout.sites and kept == tuple(s.site for s in keep)
                if traced.shapes == shapes and same:
                    self.traced[key] = dataclasses.replace(traced, layout=layout, kinds=kinds)
                    return key
        # While a tf.function is traced, its thread may not make variables; another thread may.
        with ThreadPoolExecutor(1) as thread:
            variables = {
                n: thread.submit(_variable, (self.depth, *shapes[n]), v.dtype).result()
                for n, v in row.items()
            }
        kept = _Keeping.of(keep, data, self.depth) if self._keeps else None
        self.traced.append(_Traced(layout, kinds, shapes, variables, kept))
        return len(self.traced) - 1

    def begin(self) -> None:
        """Called before each execution; one that was interrupted may have left rows."""
        if self.unread:
            self.skip()
        self.unread = True

    def skip(self) -> bool:
        """Give up what was written since the last read; whether there was anything."""
        before, self.taken = self.taken, int(self.cursor)
        self.unread = False
        for traced in self.traced:
            if traced.kept is not None:
                traced.kept.clear()
        return self.taken > before

    def read(self) -> list[SumsRow]:
        """The rows of the steps since the last read, still on the device."""
        first, self.taken = self.taken, int(self.cursor)
        self.unread = False
        keys = self.keys.numpy()
        places = [i % self.depth for i in range(first, self.taken)]
        # A value that was read stays as it is: what is written later goes elsewhere.
        arrays = {
            key: {n: v.read_value() for n, v in self.traced[key].variables.items()}
            for key in {int(keys[i]) for i in places}
        }
        # A step in which nothing was seen has a row, too: it says what was not seen.
        return [self._row(self.traced[keys[i]], i, arrays[keys[i]]) for i in places]

    @staticmethod
    def _row(traced: _Traced, place: int, arrays: Any) -> SumsRow:
        kept = None if traced.kept is None else traced.kept.read()
        return SumsRow(traced.layout, traced.kinds, place, arrays, kept)


@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
    """One traced signature of an observed step."""

    layout: Layout
    kinds: list[Kind]
    shapes: dict[str, Any]
    variables: dict[str, Any]
    kept: _Keeping | None


@dataclasses.dataclass(frozen=True, eq=False)
class _Keeping:
    """A queue through which tensors leave the steps of one traced signature.

    Their sizes may differ from step to step, which those of a variable may not under XLA.
    """

    sites: tuple[Site, ...]
    rows: tuple[slice, ...]
    data: Any
    """What a step is given, with None where nothing leaves it."""
    queue: Any

    @classmethod
    def of(cls, slots: list[Slot], data: Any, depth: int) -> _Keeping:
        dtypes = [slot.measured.tensor.dtype for slot in slots]
        dtypes += [tf.int32]  # how many rows each had
        dtypes += [tensor.dtype for tensor in tf.nest.flatten(data) if _leaves(tensor)]
        with ThreadPoolExecutor(1) as thread:
            queue = thread.submit(tf.queue.FIFOQueue, depth, dtypes).result()
        structure = tf.nest.map_structure(lambda t: True if _leaves(t) else None, data)
        rows = tuple(slot.wanted.rows or EVERY_ROW for slot in slots)
        return cls(tuple(slot.site for slot in slots), rows, structure, queue)

    def write(self, slots: list[Slot], data: Any) -> None:
        """In a step: put its tensors into the queue."""
        whole = [slot.measured.tensor for slot in slots]
        tensors = [slot.wanted.taken(t) for slot, t in zip(slots, whole, strict=True)]
        lengths = [tf.concat([tf.shape(t), [-1]], 0)[0] for t in whole]
        lengths = tf.stack(lengths) if lengths else tf.zeros(0, tf.int32)
        self.queue.enqueue([*tensors, lengths, *filter(_leaves, tf.nest.flatten(data))])

    def read(self) -> Kept:
        """The tensors of the oldest step in the queue."""
        found = self.queue.dequeue()
        found = list(found) if isinstance(found, (list, tuple)) else [found]
        count = len(self.sites)
        lengths = [None if n < 0 else int(n) for n in found[count].numpy()]
        rest = iter(found[count + 1 :])
        flat = [None if held is None else next(rest) for held in tf.nest.flatten(self.data)]
        data = tf.nest.pack_sequence_as(self.data, flat)
        return Kept(self.sites, found[:count], data, self.rows, lengths)

    def clear(self) -> None:
        """Forget the tensors of steps that nobody reads."""
        for _ in range(int(self.queue.size())):
            self.queue.dequeue()


def _states(met: Met) -> list[Any]:
    """What the user's statistics make of a tensor."""
    if not (statistics := met.wanted.statistics):
        return []
    x = tf.cast(tf.stop_gradient(met.tensor), tf.float32)
    return [user_state(statistic, x, met.beside) for statistic in statistics]


def _failed(slot: Slot, error: Exception) -> Unseen:
    reason = f"could not be measured: {type(error).__name__}: {error}"
    return Unseen(slot.site.name, reason, "report this layer")


def _leaves(part: Any) -> bool:
    """Whether a part of a step's data is carried out; ragged and sparse tensors are not."""
    return isinstance(part, tf.Tensor)


def _kind(met: Met) -> Kind:
    rank = met.tensor.shape.rank
    axis = met.entry.unit_axis(rank or 1)
    shape = None if rank is None else tuple(met.tensor.shape)
    if shape and tf.executing_eagerly():
        # Run as it is, a step may meet another length each time; its functions fit them all.
        keep = axis % len(shape)
        shape = tuple(n if i == keep else None for i, n in enumerate(shape))
    large = shape is not None and is_large(shape)
    in_parts = large and not tf.config.list_logical_devices("GPU")
    return Kind(shape, met.tensor.dtype.name, met.entry.zones(met.port), axis, in_parts)


def _variable(shape: tuple[int, ...], dtype: Any) -> Any:
    return tf.Variable(tf.zeros(shape, dtype), trainable=False)
