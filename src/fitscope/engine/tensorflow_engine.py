"""Observed steps on TensorFlow: the rows of a step go into variables the function captures."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from fitscope.engine import keras_internals, tensorflow_kernel
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Layout, Row, VectorRow
from fitscope.engine.plan import Plan
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.engine.vector import BINS, LENGTH
from fitscope.errors import StatisticError, UnsupportedError
from fitscope.select.unseen import Unseen
from fitscope.statistics.activation import Zones

Emit = Callable[[Row], None]
Failed = Callable[[BaseException], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    rows: Any
    zones: Zones
    bare: Any
    plain: Any
    sample: tuple[Any, Any, Any]
    extra: tuple[Any, ...]

    def masked(self) -> Any:
        slow = tensorflow_kernel.masked(self.rows, self.zones, self.sample[2])
        return tf.where(self.plain, self.bare, slow)


class TensorFlowDevice:
    """Measures tensors in the graph of a step."""

    def __init__(self) -> None:
        self.step_level = self.level()
        self.lost: list[Unseen] = []

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, tf.Tensor)

    def dtype(self, tensor: Any) -> str:
        return str(tensor.dtype.name)

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape) if tensor.shape.rank is not None else ()

    def level(self) -> object:
        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()

    def measure(self, tensor: Any, entry: Entry, statistics: tuple[Any, ...]) -> Measured:
        rows = tensorflow_kernel.as_rows(tensor, entry.unit_axis(tensor.shape.rank or 1))
        zones = entry.zones()
        sample = tensorflow_kernel.sample(tensor)
        bare, plain = tensorflow_kernel.bare(rows, zones, sample[2])
        x = tf.cast(tf.stop_gradient(tensor), tf.float32) if statistics else None
        extra = tuple(user_state(s, x) for s in statistics)
        return Measured(rows, zones, bare, plain, sample, extra)

    def finish(self, root: Root) -> None:
        if root.level is self.step_level:
            return
        self.lost += [
            Unseen(
                slot.site.path,
                "was called inside a tf.function of its own within the step",
                "remove @tf.function from what train_step calls; Keras compiles the whole step",
            )
            for slot in root.slots
        ]
        root.slots.clear()


def user_state(statistic: Any, x: Any) -> Any:
    """Run a user statistic's `update`, and hold it to its contract."""
    state = tf.convert_to_tensor(statistic.update(x))
    if state.shape.rank != 1 or state.shape[0] is None or state.dtype != tf.float32:
        raise StatisticError(
            f"Statistic {statistic.name!r}: update returned a tensor of shape {state.shape} and "
            f"dtype {state.dtype.name}; it must return a 1-D float32 tensor of fixed length. "
            "Use keras.ops.stack or reshape, and cast to float32."
        )
    return state


class TensorFlowEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = weakref.ref(model)
        self.plan = plan
        replicas = model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise UnsupportedError(
                f"fitscope cannot observe a TensorFlow model on {replicas} replicas "
                f"({type(model.distribute_strategy).__name__}) yet. Train on one device to observe."
            )

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model()
        ring = _Ring(int(model.steps_per_execution))
        run = getattr(model, f"{phase}_step")
        # A train_step that is itself a tf.function may hold a trace without our layers.
        run = getattr(run, "python_function", run)

        @tf.autograph.experimental.do_not_convert
        def observed_step(data: Any) -> Any:
            device = TensorFlowDevice()
            trace = Trace(self.plan, device)
            with trace.installed():
                outputs = run(data)
            slots = [slot for _, found in trace.passes() for slot in found]
            lengths = [[int(e.shape[0]) for e in s.measured.extra] for s in slots]
            layout = Layout.of(slots, lengths, [*trace.not_fired(), *device.lost])
            ring.write(layout, slots)
            return outputs

        function = self._function(phase, observed_step)

        def observed_function(iterator: Any) -> Any:
            ring.rewind()
            traced = len(ring.layouts)
            try:
                outputs = function(iterator)
            except StatisticError:
                raise
            except Exception as error:
                if model.run_eagerly or len(ring.layouts) > traced or ring.ran():
                    raise  # not while tracing: the step itself failed
                outputs = plain(iterator)
                failed(error)
                return outputs
            for rows in ring.read():
                emit(rows)
            return outputs

        return observed_function

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if tf.config.list_physical_devices("GPU"):
            tf.test.experimental.sync_devices()

    def _function(self, phase: str, step: Callable[..., Any]) -> Callable[..., Any]:
        model = self._model()
        if phase != "predict":
            return keras_internals.make_function(model, step)
        return keras_internals.make_predict_function(model, step)


class _Ring:
    """Variables that hold the rows of the inner steps of one execution.

    They are made while the step is traced, when the number of sites is known.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.layouts: list[Layout] = []
        self.cursor = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.keys: Any = None
        self._buffers: list[dict[str, Any]] = []

    def rewind(self) -> None:
        self.cursor.assign(0)

    def write(self, layout: Layout, slots: list[Slot]) -> None:
        if tf.executing_eagerly() and self.layouts:
            key = 0  # not compiled: the same sites are met again at every step
            self.layouts[0] = layout
            if len(layout.sites) != self._buffers[0]["moments"].shape[1]:
                self._buffers[0] = self._allocate(layout)
        else:
            key = len(self.layouts)
            self.layouts.append(layout)
            self._buffers.append(self._allocate(layout))
        buffer = self._buffers[key]
        at = self.cursor % self.depth
        buffer["key"].scatter_update(tf.IndexedSlices(tf.constant([key]), at[None]))
        if slots:
            measured = [s.measured for s in slots]
            states = [state for m in measured for state in m.extra]
            rows = {
                "moments": _moments(measured),
                "histograms": tensorflow_kernel.histograms([m.sample for m in measured]),
                "extra": tf.concat(states, 0) if states else tf.zeros([0]),
            }
            for name, row in rows.items():
                if self.depth == 1:
                    buffer[name].assign(row[None])
                else:
                    buffer[name].scatter_update(tf.IndexedSlices(row[None], at[None]))
        self.cursor.assign_add(1)

    def _allocate(self, layout: Layout) -> dict[str, Any]:
        sites = len(layout.sites)
        shapes = {
            "moments": (self.depth, sites, LENGTH),
            "histograms": (self.depth, sites, BINS),
            "extra": (self.depth, sum(e.length for e in layout.extras)),
        }
        # While a tf.function is traced, its thread may not make variables; another thread may.
        with ThreadPoolExecutor(1) as thread:
            if self.keys is None:
                self.keys = thread.submit(_variable, (self.depth,), tf.int32).result()
            made = {n: thread.submit(_variable, s).result() for n, s in shapes.items()}
        return {"key": self.keys, **made}

    def ran(self) -> bool:
        return int(self.cursor) > 0

    def read(self) -> list[VectorRow]:
        count = int(self.cursor)
        keys = self.keys.numpy() if self.keys is not None else []
        rows: list[VectorRow] = []
        for i in range(count):
            buffer = self._buffers[keys[i]]
            # `x[i]` copies on the device; the variable is free for the next step.
            moments, hists, extra = (buffer[n][i] for n in ("moments", "histograms", "extra"))
            rows.append(VectorRow(self.layouts, int(keys[i]), moments, hists, extra))
        return rows


def _variable(shape: tuple[int, ...], dtype: Any = tf.float32) -> Any:
    return tf.Variable(tf.zeros(shape, dtype), trainable=False)


def _moments(measured: list[Measured]) -> Any:
    bare = tf.stack([m.bare for m in measured])
    plain = tf.reduce_all(tf.stack([m.plain for m in measured]))
    return tf.cond(plain, lambda: bare, lambda: tf.stack([m.masked() for m in measured]))
