"""Queues that an observed TensorFlow function captures, in which its rows leave it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from fitscope.engine import tensorflow_kernel
from fitscope.engine.entry import Entry
from fitscope.engine.failures import Failure, failure
from fitscope.engine.layout import Kept, Layout
from fitscope.engine.optimizers import with_scale
from fitscope.engine.plan import EVERY_ROW, Wanted
from fitscope.engine.tensorflow_kernel import Kind, is_large
from fitscope.engine.tensorflow_rows import Plans, SumsRow
from fitscope.engine.trace import Slot
from fitscope.engine.user_statistics import user_state
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
        failure: why it cannot be measured.
        repeated: whether `tensor` is computed for this alone, by elementwise operations.
    """

    tensor: Any
    entry: Entry
    port: str
    wanted: Wanted
    scale: Any = None
    beside: Any = None
    failure: Failure | None = None
    repeated: bool = False

    def without_scale(self) -> Met:
        """The same, with a gradient divided by the scale of its loss."""
        if self.scale is None:
            return self
        beside = tf.cast(self.scale, tf.float32)
        tensor = tf.cast(tf.stop_gradient(self.tensor), tf.float32) / beside
        wanted = with_scale(self.wanted)
        return dataclasses.replace(self, tensor=tensor, wanted=wanted, scale=None, beside=beside)


class Ring:
    """A queue in which the rows of the inner steps of one execution leave them.

    Args:
        depth: of how many steps.
        keeps: whether tensors leave the steps, too, with what those were given.
        first_data: whether what the first step was given leaves it, whatever `keeps` says.
    """

    def __init__(self, depth: int, keeps: bool = False, first_data: bool = False) -> None:
        self.depth = depth
        self._keeps = keeps or first_data
        self._only_first = first_data and not keeps
        self._wants = True
        """Whether what left the steps is wanted; where that ends with the first step."""
        self.traced: list[_Traced] = []
        self.queue = _queue(depth, [tf.int32, *tensorflow_kernel.ROW.values()])
        """Of each step its place in `traced`, and its row."""
        self.unread = False
        """Whether an execution was begun whose rows were neither read nor given up."""

    def write(self, slots: list[Slot], unseen: list[Unseen], data: Any) -> None:
        """In a step: put its rows where the host finds them.

        Args:
            slots: what was met, in order.
            unseen: what was not.
            data: what the step was given; it leaves the step together with kept tensors.
        """
        keep = [slot for slot in slots if slot.wanted.keeps]
        slots = [slot for slot in slots if slot.wanted.measures]
        made = _Made(slots)
        layout = Layout.of(made.slots, made.lengths, [*unseen, *made.unseen])
        key = self._place(layout, made.kinds, keep, data)
        kept = self.traced[key].kept
        if kept is not None:
            kept.write(keep, data)
        self.queue.enqueue([tf.constant(key), *(made.row[name] for name in tensorflow_kernel.ROW)])

    def _place(self, layout: Layout, kinds: list[Kind], keep: list[Slot], data: Any) -> int:
        """The number of the traced step these rows belong to."""
        if tf.executing_eagerly():
            # Not compiled: this runs at every step, mostly for the same sites.
            for key, traced in enumerate(self.traced):
                kept = () if traced.kept is None else traced.kept.sites
                same = traced.layout.sites == layout.sites and kept == tuple(s.site for s in keep)
                if same and traced.kinds == kinds:
                    self.traced[key] = dataclasses.replace(traced, layout=layout)
                    return key
        kept = _Keeping.of(keep, data, self.depth) if self._keeps else None
        self.traced.append(_Traced(layout, kinds, kept))
        return len(self.traced) - 1

    def begin(self) -> None:
        """Called before each execution; one that was interrupted may have left rows."""
        if self.unread:
            self.skip()
        self.unread = True

    def skip(self) -> bool:
        """Give up what was written since the last read; whether there was anything."""
        self.unread = False
        found = list(self._taken())
        for traced in self.traced:
            if traced.kept is not None:
                traced.kept.clear()
        return bool(found)

    def read(self) -> list[SumsRow]:
        """The rows of the steps since the last read, still on the device."""
        self.unread = False
        # A step in which nothing was seen has a row, too: it says what was not seen.
        return [self._row(int(key), *row) for key, *row in self._taken()]

    def _taken(self) -> Iterator[Any]:
        for _ in range(int(self.queue.size())):
            yield self.queue.dequeue()

    def _row(self, key: int, *row: Any) -> SumsRow:
        traced = self.traced[key]
        kept = self._kept(traced)
        found = dict(zip(tensorflow_kernel.ROW, row, strict=True))
        return SumsRow(traced.layout, traced.kinds, found, kept, traced.plans)

    def _kept(self, traced: _Traced) -> Kept | None:
        if traced.kept is None:
            return None
        if not self._wants:
            # A condition in the step would cost more than a batch that comes in vain.
            traced.kept.drop()
            return None
        self._wants = not self._only_first
        return traced.kept.read()


class _Made:
    """The row of a step, and what is known of it while it is traced."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        states = []
        self.slots: list[Slot] = []
        """Those that were measured."""
        self.unseen: list[Unseen] = []
        """Of the others."""
        for slot in slots:
            try:
                states.append(_states(slot.measured))
            except StatisticError:
                raise
            except Exception as error:  # a statistic of the user's: other tensors are seen
                self.unseen.append(failure(error).at(slot.site.name))
            else:
                self.slots.append(slot)
        mets: list[Met] = [slot.measured for slot in self.slots]
        found = tensorflow_kernel.reduced([(m.tensor, _kind(m), m.repeated) for m in mets])
        self.kinds = [reduced.kind for reduced in found]
        self.lengths = [[int(s.shape[0]) for s in own] for own in states]
        """Of the states of each tensor's statistics."""
        self.row = tensorflow_kernel.row(found, [state for own in states for state in own])


def _states(met: Met) -> list[Any]:
    """What the user's statistics make of a tensor."""
    if not met.wanted.statistics:
        return []
    x = tf.cast(tf.stop_gradient(met.tensor), tf.float32)
    return [
        user_state(statistic, x, met.beside, tf.convert_to_tensor, tf.float32)
        for statistic in met.wanted.statistics
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
    """One traced signature of an observed step."""

    layout: Layout
    kinds: list[Kind]
    kept: _Keeping | None
    plans: Plans = dataclasses.field(default_factory=Plans)


@dataclasses.dataclass(frozen=True, eq=False)
class _Keeping:
    """A queue through which tensors leave the steps of one traced signature."""

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
        structure = tf.nest.map_structure(lambda t: True if _leaves(t) else None, data)
        rows = tuple(slot.wanted.rows or EVERY_ROW for slot in slots)
        return cls(tuple(slot.site for slot in slots), rows, structure, _queue(depth, dtypes))

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

    def drop(self) -> None:
        """Forget the tensors of the oldest step in the queue."""
        self.queue.dequeue()

    def clear(self) -> None:
        """Forget the tensors of steps that nobody reads."""
        for _ in range(int(self.queue.size())):
            self.queue.dequeue()


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


def _queue(depth: int, dtypes: Sequence[Any]) -> Any:
    with tf.init_scope():  # not a part of a step that is traced
        return tf.queue.FIFOQueue(depth, dtypes)
