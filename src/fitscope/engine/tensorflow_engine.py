"""Observed steps on TensorFlow: the rows of a step go into variables the function captures."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Generator
from typing import Any

import tensorflow as tf

from fitscope.engine import keras_internals
from fitscope.engine import tensorflow_fusion as fusion
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Row
from fitscope.engine.plan import Plan, Wanted
from fitscope.engine.tensorflow_ring import Met, Ring
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.errors import StatisticError, UnsupportedError
from fitscope.select.unseen import Unseen

_SYNCHRONIZING = (
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
    tf.distribute.TPUStrategy,
    tf.distribute.ParameterServerStrategy,
)

Step = Callable[[Any], Any]
Emit = Callable[[Row], None]
Failed = Callable[[BaseException], None]


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

    def measure(self, tensor: Any, entry: Entry, port: str, wanted: Wanted) -> Met:
        return Met(tensor, entry, port, wanted)

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


class TensorFlowEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._reference = weakref.ref(model)
        self.plan = plan
        self._one = tf.Variable(tf.ones(()), trainable=False)
        replicas = model.distribute_strategy.num_replicas_in_sync
        strategy = type(model.distribute_strategy).__name__
        if replicas > 1:
            raise UnsupportedError(
                f"fitscope cannot observe a TensorFlow model on {replicas} replicas "
                f"({strategy}) yet. Train on one device to observe."
            )
        synchronizes = isinstance(model.distribute_strategy, _SYNCHRONIZING)
        if model.jit_compile and synchronizes:
            raise UnsupportedError(
                f"fitscope cannot observe a model compiled with XLA under {strategy}, which allows "
                "no function within its own. Compile with jit_compile=False, or train under "
                'OneDeviceStrategy("/gpu:0") or no strategy to observe.'
            )

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model
        ring = Ring(int(model.steps_per_execution), keeps=self.plan.keeps)
        run = getattr(model, f"{phase}_step")
        # A train_step that is itself a tf.function may hold a trace without our layers.
        run = getattr(run, "python_function", run)

        jit = bool(model.jit_compile)
        make = self._beside_xla if jit else self._within
        function = self._function(phase, make(run, ring, failed), without_jit=jit)

        def observed_function(iterator: Any) -> Any:
            ring.begin()
            traced = len(ring.traced)
            try:
                outputs = function(iterator)
            except StatisticError:
                raise
            except Exception as error:
                ran = ring.skip()
                if model.run_eagerly or len(ring.traced) > traced or ran:
                    raise  # not while tracing: the step itself failed
                outputs = plain(iterator)
                failed(error)
                return outputs
            for rows in ring.read():
                emit(rows)
            return outputs

        return observed_function

    def _within(self, run: Step, ring: Ring, failed: Failed) -> Step:
        """A step that reduces its tensors where they are."""

        @tf.autograph.experimental.do_not_convert
        def observed_step(data: Any) -> Any:
            device = TensorFlowDevice()
            trace = Trace(self.plan, device)
            with trace.installed():
                outputs = run(data)
            with _not_the_users(failed):
                slots, unseen = self._measurable(trace, device)
                ring.write(slots, unseen, data)
            return outputs

        return observed_step

    def _beside_xla(self, run: Step, ring: Ring, failed: Failed) -> Step:
        """A step of which XLA compiles only `run`, which gives its tensors out.

        Reduced inside the program, a tensor would be computed anew for each reduction of it, on one
        core, and each would have to be compiled.
        """
        traced: list[tuple[list[Slot], list[Unseen]]] = []

        @tf.autograph.experimental.do_not_convert
        def tapped(data: Any) -> tuple[Any, dict[str, list[Any]]]:
            device = TensorFlowDevice()
            trace = Trace(self.plan, device)
            with trace.installed():
                outputs = run(data)
            slots: list[Slot] = []
            unseen: list[Unseen] = []
            with _not_the_users(failed):
                slots, unseen = self._measurable(trace, device)
            traced.append(([_of(slot, None) for slot in slots], unseen))
            # The key tells the caller of a function that was traced before which trace it was.
            return outputs, {str(len(traced) - 1): [slot.measured.tensor for slot in slots]}

        compiled = tf.function(tapped, reduce_retracing=True, jit_compile=True)

        @tf.autograph.experimental.do_not_convert
        def observed_step(data: Any) -> Any:
            outputs, found = compiled(data)
            with _not_the_users(failed):
                ((key, tensors),) = found.items()
                slots, unseen = traced[int(key)]
                slots = [_of(s, t) for s, t in zip(slots, tensors, strict=True)]
                ring.write(slots, unseen, data)
            return outputs

        return observed_step

    def _measurable(
        self, trace: Trace, device: TensorFlowDevice
    ) -> tuple[list[Slot], list[Unseen]]:
        """What can be looked at without changing a bit of the training, and what cannot."""
        slots = [slot for _, found in trace.passes() for slot in found]
        unseen = [*trace.not_fired(), *device.lost]
        if tf.executing_eagerly():
            return slots, unseen
        if self._model.jit_compile:
            return [self._copied(slot) for slot in slots], unseen
        readers: dict[Any, int] = {}
        kept = []
        for slot in slots:
            tensor = fusion.aside(slot.measured.tensor, readers)
            if tensor is None:
                unseen.append(fusion.unseen(slot.site.name))
            else:
                kept.append(_of(slot, tensor))
        return kept, unseen

    def _copied(self, slot: Slot) -> Slot:
        """Read an elementwise output through one more loop; see docs/design.md, 7."""
        met: Met = slot.measured
        if not met.entry.is_elementwise or not met.tensor.dtype.is_floating:
            return slot
        x = tf.stop_gradient(met.tensor)
        return _of(slot, x * tf.cast(self._one, x.dtype))

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if tf.config.list_physical_devices("GPU"):
            tf.test.experimental.sync_devices()

    def _function(self, phase: str, step: Step, *, without_jit: bool) -> Callable[..., Any]:
        model = self._model
        make = (
            keras_internals.make_predict_function
            if phase == "predict"
            else keras_internals.make_function
        )
        with keras_internals.without_jit(model) if without_jit else contextlib.nullcontext():
            return make(model, step)


def _of(slot: Slot, tensor: Any) -> Slot:
    """The same slot, read from another tensor."""
    return dataclasses.replace(slot, measured=dataclasses.replace(slot.measured, tensor=tensor))


@contextlib.contextmanager
def _not_the_users(failed: Failed) -> Generator[None]:
    """Around what we add to a step that is traced, and that is whole without it."""
    try:
        yield
    except StatisticError:
        raise
    except Exception as error:
        failed(error)
