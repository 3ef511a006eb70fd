"""Observed steps on TensorFlow: the rows of a step go into variables the function captures."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from fitscope.engine import keras_internals, tensorflow_kernel
from fitscope.engine import tensorflow_fusion as fusion
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Layout, Row
from fitscope.engine.plan import Plan
from fitscope.engine.tensorflow_rows import Kind, SumsRow
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.errors import StatisticError, UnsupportedError
from fitscope.select.unseen import Unseen

Emit = Callable[[Row], None]
Failed = Callable[[BaseException], None]


@dataclasses.dataclass(frozen=True)
class Met:
    """A tensor of the step, to be measured when the whole step is traced."""

    tensor: Any
    entry: Entry
    port: str
    statistics: tuple[Any, ...]


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

    def measure(self, tensor: Any, entry: Entry, port: str, statistics: tuple[Any, ...]) -> Met:
        return Met(tensor, entry, port, statistics)

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
        self._reference = weakref.ref(model)
        self.plan = plan
        self._one = tf.Variable(tf.ones(()), trainable=False)
        replicas = model.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise UnsupportedError(
                f"fitscope cannot observe a TensorFlow model on {replicas} replicas "
                f"({type(model.distribute_strategy).__name__}) yet. Train on one device to observe."
            )

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model
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
            try:
                self._write(ring, trace, device)
            except StatisticError:
                raise
            except Exception as error:
                # The user's step is traced, and is whole without what we add to it.
                failed(error)
            return outputs

        function = self._function(phase, observed_step)

        def observed_function(iterator: Any) -> Any:
            ring.rewind()
            traced = len(ring.traced)
            try:
                outputs = function(iterator)
            except StatisticError:
                raise
            except Exception as error:
                if model.run_eagerly or len(ring.traced) > traced or ring.ran():
                    raise  # not while tracing: the step itself failed
                outputs = plain(iterator)
                failed(error)
                return outputs
            for rows in ring.read():
                emit(rows)
            return outputs

        return observed_function

    def _write(self, ring: _Ring, trace: Trace, device: TensorFlowDevice) -> None:
        """Add to a traced step what brings its tensors' statistics out."""
        slots = [slot for _, found in trace.passes() for slot in found]
        slots, hidden = self._measurable(slots)
        compiled = bool(self._model.jit_compile)
        ring.write(slots, [*trace.not_fired(), *device.lost, *hidden], compiled=compiled)

    def _measurable(self, slots: list[Slot]) -> tuple[list[Slot], list[Unseen]]:
        """Leave out what cannot be looked at without changing a bit of the training."""
        if tf.executing_eagerly():
            return slots, []
        if self._model.jit_compile:
            return [self._copied(slot) for slot in slots], []
        readers: dict[Any, int] = {}
        kept, hidden = [], []
        for slot in slots:
            met: Met = slot.measured
            tensor = fusion.aside(met.tensor, readers)
            if tensor is None:
                hidden.append(fusion.unseen(slot.site.name))
            else:
                kept.append(
                    dataclasses.replace(slot, measured=dataclasses.replace(met, tensor=tensor))
                )
        return kept, hidden

    def _copied(self, slot: Slot) -> Slot:
        """Read an elementwise output through one more loop; see `JaxDevice.measure`."""
        met: Met = slot.measured
        if not met.entry.is_elementwise:
            return slot
        x = tf.stop_gradient(met.tensor)
        copy = x * tf.cast(self._one, x.dtype)
        return dataclasses.replace(slot, measured=dataclasses.replace(met, tensor=copy))

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if tf.config.list_physical_devices("GPU"):
            tf.test.experimental.sync_devices()

    def _function(self, phase: str, step: Callable[..., Any]) -> Callable[..., Any]:
        model = self._model
        if phase != "predict":
            return keras_internals.make_function(model, step)
        return keras_internals.make_predict_function(model, step)


class _Ring:
    """Variables that hold the rows of the inner steps of one execution.

    They are made while the step is traced, when the number of sites is known.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.traced: list[_Traced] = []
        self.cursor = _variable((), tf.int64)
        self.keys = _variable((depth,), tf.int32)

    def rewind(self) -> None:
        self.cursor.assign(0)

    def write(self, slots: list[Slot], unseen: list[Unseen], *, compiled: bool) -> None:
        found, kinds, states = [], [], []
        for slot in slots:
            met: Met = slot.measured
            zones = met.entry.zones(met.port)
            rank = met.tensor.shape.rank or 1
            reduced = tensorflow_kernel.Reduced(
                met.tensor,
                zones,
                met.entry.unit_axis(rank),
                _hints(met),
                compiled=compiled,
            )
            x = tf.cast(tf.stop_gradient(met.tensor), tf.float32) if met.statistics else None
            found.append(reduced)
            kinds.append(Kind(reduced.units_known, zones))
            states.append([user_state(s, x) for s in met.statistics])
        layout = Layout.of(slots, [[int(s.shape[0]) for s in own] for own in states], unseen)
        flat = [state for own in states for state in own]
        row: dict[str, Any] = {"extra": tf.concat(flat, 0) if flat else tf.zeros([0])}
        if found:
            row |= tensorflow_kernel.row(found)
        key = self._place(layout, kinds, row)
        at = (self.cursor % self.depth)[None]
        self.keys.scatter_update(tf.IndexedSlices(tf.constant([key]), at))
        for name, value in row.items():
            variable = self.traced[key].variables[name]
            if self.depth == 1:
                variable.assign(value[None])
            else:
                variable.scatter_update(tf.IndexedSlices(value[None], at))
        self.cursor.assign_add(1)

    def _place(self, layout: Layout, kinds: list[Kind], row: dict[str, Any]) -> int:
        """The number of the traced step these rows belong to; makes its variables."""
        shapes = {n: tuple(v.shape) for n, v in row.items()}
        if tf.executing_eagerly() and self.traced and self.traced[-1].shapes == shapes:
            # Not compiled: this runs at every step, mostly for the same sites.
            self.traced[-1] = dataclasses.replace(self.traced[-1], layout=layout, kinds=kinds)
            return len(self.traced) - 1
        # While a tf.function is traced, its thread may not make variables; another thread may.
        with ThreadPoolExecutor(1) as thread:
            variables = {
                n: thread.submit(_variable, (self.depth, *shapes[n]), v.dtype).result()
                for n, v in row.items()
            }
        self.traced.append(_Traced(layout, kinds, shapes, variables))
        return len(self.traced) - 1

    def ran(self) -> bool:
        return int(self.cursor) > 0

    def read(self) -> list[SumsRow]:
        rows: list[SumsRow] = []
        keys = self.keys.numpy()
        for i in range(int(self.cursor)):
            step = self.traced[keys[i]]
            # `v[i]` copies on the device; the variable is free for the next step.
            arrays = {name: v[i] for name, v in step.variables.items()}
            if step.kinds:
                rows.append(SumsRow(step.layout, step.kinds, **arrays))
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
    """One traced signature of an observed step."""

    layout: Layout
    kinds: list[Kind]
    shapes: dict[str, Any]
    variables: dict[str, Any]


def _hints(met: Met) -> tensorflow_kernel.Hints:
    if met.port != "output":
        return tensorflow_kernel.Hints()
    return tensorflow_kernel.Hints(met.entry.is_nonnegative, met.entry.is_seldom_zero)


def _variable(shape: tuple[int, ...], dtype: Any) -> Any:
    return tf.Variable(tf.zeros(shape, dtype), trainable=False)
