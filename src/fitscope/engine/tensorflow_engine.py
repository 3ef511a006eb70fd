"""Observed steps on TensorFlow: the rows of a step go into variables the function captures."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from fitscope.engine import keras_internals, tensorflow_early
from fitscope.engine import tensorflow_fusion as fusion
from fitscope.engine.entry import Entry, named, without_gradient
from fitscope.engine.failures import SEVERAL_SCALES
from fitscope.engine.layout import Row
from fitscope.engine.optimizers import Optimizers
from fitscope.engine.plan import Plan, Wanted
from fitscope.engine.tensorflow_backward import Backward
from fitscope.engine.tensorflow_ring import Met, Ring
from fitscope.engine.tensorflow_stored import Stored
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.engine.weights import Weight, weights
from fitscope.errors import StatisticError, UnsupportedError
from fitscope.select.unseen import Unseen

if TYPE_CHECKING:
    from fitscope.engine.editing import EditPass
    from fitscope.engine.tensorflow_edits import TensorFlowEdits

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
        self.backward = Backward()
        self.scales: list[Any] = []
        """Of the losses of this step."""
        self.given: dict[int, Met] = {}
        """By variable, the gradients that optimizers were given."""

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

    def hold_scale(self, scale: Any) -> Any:
        """Keep the scale of a loss for its gradients."""
        self.scales.append(scale)
        return scale

    def watch_gradient(self, tensor: Any, entry: Entry, wanted: Wanted) -> tuple[Any, Met]:
        met = Met(None, entry, "gradient", wanted)

        def came(gradient: Any) -> None:
            # Of a gradient of gradients there are several, and the last one is that of the loss.
            met.tensor = gradient
            met.scale = self.scales[0] if self.scales else None
            met.failure = SEVERAL_SCALES if len(self.scales) > 1 else None

        self.backward.watch(tensor, came)
        return tensor, met

    def watch_given(self, watched: Sequence[Weight]) -> Callable[[Any, Any, Any], None]:
        """What is called with the gradients that optimizers are given."""
        weights = {id(w.variable): w for w in watched if "weight_gradient" in w.ports}

        def given(variable: Any, gradient: Any, scale: Any) -> None:
            weight = weights.get(id(variable))
            if weight is not None:
                _, wanted = weight.ports["weight_gradient"]
                tensor = tf.convert_to_tensor(gradient)
                self.given[id(variable)] = Met(
                    tensor, weight.entry, "weight_gradient", wanted, scale
                )

        return given

    def slots_of_given(self, watched: Sequence[Weight]) -> list[Slot]:
        """The gradients that optimizers were given, and those that they were not."""
        return [
            Slot(site, self.given.get(id(w.variable)) or Met(None, w.entry, port, wanted), wanted)
            for w in watched
            for port, (site, wanted) in w.ports.items()
            if port == "weight_gradient"
        ]

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

    def __init__(self, model: Any, plan: Plan, edits: Any = None) -> None:
        check_strategy(model)
        self._reference = weakref.ref(model)
        self.plan = plan
        self.edits: TensorFlowEdits | None = edits
        self._one = tf.Variable(tf.ones(()), trainable=False)

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model
        ring = Ring(int(model.steps_per_execution), self.plan.keeps, self.plan.first_data)
        run = getattr(model, f"{phase}_step")
        # A train_step that is itself a tf.function may hold a trace without our layers.
        run = getattr(run, "python_function", run)

        jit = bool(model.jit_compile) and not model.run_eagerly
        make = self._beside_xla if jit else self._within
        watched = weights(self.plan) if phase == "train" else []
        step = make(
            _Pass(self.plan, model, run, watched, phase == "train", self.edits), ring, failed
        )
        function = self._function(phase, step, without_jit=jit)

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
            if len(ring.traced) > traced:
                tensorflow_early.wait()
            for rows in ring.read():
                emit(rows)
            return outputs

        return observed_function

    def _within(self, run: _Pass, ring: Ring, failed: Failed) -> Step:
        """A step that reduces its tensors where they are."""

        @tf.autograph.experimental.do_not_convert
        def observed_step(data: Any) -> Any:
            before = run.values()
            outputs, trace, device = run(data)
            with _not_the_users(failed):
                slots, unseen = self._measurable(trace, device, outputs)
                ring.write([*slots, *run.slots(before)], unseen, data)
            return outputs

        return observed_step

    def _beside_xla(self, run: _Pass, ring: Ring, failed: Failed) -> Step:
        """A step of which XLA compiles only `run`, which gives its tensors out.

        Reduced inside the program, a tensor would be computed anew for each reduction of it, on one
        core, and each would have to be compiled.
        """
        traced: list[tuple[list[Slot], list[tuple[int, int | None]], list[Unseen]]] = []
        """Of each trace what was met, where among what leaves the step it and what is beside it
        are, and what was not seen."""

        @tf.autograph.experimental.do_not_convert
        def tapped(data: Any) -> tuple[Any, dict[str, list[Any]]]:
            outputs, trace, device = run(data)
            slots: list[Slot] = []
            unseen: list[Unseen] = []
            with _not_the_users(failed):
                slots, unseen = self._measurable(trace, device, outputs)
            mets: list[Met] = [slot.measured for slot in slots]
            # One tensor may be the output of several layers; XLA would copy it for each.
            leaving = {
                t.ref(): t for met in mets for t in (met.tensor, met.beside) if t is not None
            }
            places = {ref: place for place, ref in enumerate(leaving)}
            at = [
                (places[m.tensor.ref()], None if m.beside is None else places[m.beside.ref()])
                for m in mets
            ]
            traced.append(([_of(slot, None) for slot in slots], at, unseen))
            # The key tells the caller of a function that was traced before which trace it was.
            return outputs, {str(len(traced) - 1): list(leaving.values())}

        compiled = tf.function(tapped, autograph=False, reduce_retracing=True, jit_compile=True)

        @tf.autograph.experimental.do_not_convert
        def observed_step(data: Any) -> Any:
            before = run.values()
            outputs, found = compiled(data)
            with _not_the_users(failed):
                ((key, left),) = found.items()
                slots, at, unseen = traced[int(key)]
                slots = [
                    _of(slot, left[place], None if beside is None else left[beside])
                    for slot, (place, beside) in zip(slots, at, strict=True)
                ]
                ring.write([*slots, *run.slots(before)], unseen, data)
            return outputs

        return observed_step

    def _measurable(
        self, trace: Trace, device: TensorFlowDevice, outputs: Any
    ) -> tuple[list[Slot], list[Unseen]]:
        """What can be looked at without changing a bit of the training, and what cannot."""
        every = [slot for _, found in trace.passes() for slot in found]
        slots = [slot for slot in every if _reason(slot) is None]
        missing = [reason for slot in every if (reason := _reason(slot)) is not None]
        unseen = [*trace.not_fired(), *device.lost, *missing]
        if tf.executing_eagerly():
            return [_without_scale(slot) for slot in slots], unseen
        if self._model.jit_compile:
            given = [t for t in tf.nest.flatten(outputs) if tf.is_symbolic_tensor(t)]
            stored = Stored(device.step_level, given)
            copies: dict[Any, Any] = {}
            return [_without_scale(self._copied(slot, stored, copies)) for slot in slots], unseen
        readers: dict[Any, int] = {}
        asides: dict[Any, Any] = {}
        kept = []
        for slot in slots:
            met: Met = slot.measured
            reference = met.tensor.ref()
            if reference not in asides:
                asides[reference] = fusion.aside(met.tensor, readers)
            tensor = asides[reference]
            if tensor is None:
                unseen.append(fusion.unseen(slot.site.name))
            else:
                again = tensor is not met.tensor
                kept.append(_without_scale(_of(slot, tensor, repeated=again)))
        return kept, unseen

    def _copied(self, slot: Slot, stored: Stored, copies: dict[Any, Any]) -> Slot:
        """Read an elementwise output through one more loop; see docs/design.md, 7."""
        met: Met = slot.measured
        loops = met.entry.is_elementwise or met.port == "gradient"
        if not loops or not met.tensor.dtype.is_floating or met.tensor in stored:
            return slot
        reference = met.tensor.ref()
        if reference not in copies:
            x = tf.stop_gradient(met.tensor)
            copies[reference] = x * tf.cast(self._one, x.dtype)
        return _of(slot, copies[reference])

    def passing(self, phase: str, plain: Callable[..., Any]) -> None:
        """See `build.Engine.passing`: the plain function is another one, and is left alone."""
        del phase, plain

    def wait(self, outputs: Any = None) -> None:
        """See `build.Engine.wait`."""
        del outputs
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


def check_strategy(model: Any) -> None:
    """Raise `UnsupportedError` for a model whose steps cannot be observed or edited."""
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


class _Pass:
    """A train, test or predict step with its layers, tapes and optimizers wrapped."""

    def __init__(
        self,
        plan: Plan,
        model: Any,
        run: Step,
        watched: Sequence[Weight],
        trains: bool,
        edits: TensorFlowEdits | None = None,
    ) -> None:
        self._plan = plan
        self._model = weakref.ref(model)
        self._run = run
        self._watched = watched
        self._trains = trains
        self._edits = edits

    def __call__(self, data: Any) -> tuple[Any, Trace, TensorFlowDevice]:
        with contextlib.nullcontext() if self._edits is None else self._edits.step() as edits:
            return self._traced(data, edits)

    def _traced(self, data: Any, edits: EditPass | None) -> tuple[Any, Trace, TensorFlowDevice]:
        device = TensorFlowDevice()
        trace = Trace(self._plan, device, trains=self._trains, edits=edits)
        if not self._trains:
            with trace.installed():
                return self._run(data), trace, device
        optimizers = Optimizers(self._model(), device.watch_given(self._watched), device.hold_scale)
        with trace.installed(), optimizers.installed(), device.backward.installed():
            outputs = self._run(data)
        trace.add_weights(device.slots_of_given(self._watched))
        return outputs, trace, device

    def values(self) -> dict[int, Any]:
        """The weights as the step finds them, where they are needed."""
        return {
            id(w.variable): tf.convert_to_tensor(w.variable.value)
            for w in self._watched
            if w.ports.keys() & {"weight", "update"}
        }

    def slots(self, before: Mapping[int, Any]) -> list[Slot]:
        """The weights before the step, and what it changed; called behind it."""
        found: list[Slot] = []
        for weight in self._watched:
            for port, (site, wanted) in weight.ports.items():
                name = named(site, None)
                if port == "weight":
                    met = Met(before[id(weight.variable)], weight.entry, port, wanted)
                    found.append(Slot(name, met, wanted))
                elif port == "update":
                    old = tf.cast(before[id(weight.variable)], tf.float32)
                    change = tf.cast(weight.variable.value, tf.float32) - old
                    met = Met(change, weight.entry, port, wanted, beside=old)
                    found.append(Slot(name, met, wanted))
        return found


def _reason(slot: Slot) -> Unseen | None:
    """The report of a gradient that did not come."""
    met: Met = slot.measured
    if met.failure is not None:
        return met.failure.at(slot.site.name)
    return without_gradient(slot.site.name) if met.tensor is None else None


def _without_scale(slot: Slot) -> Slot:
    met = slot.measured.without_scale()
    return dataclasses.replace(slot, measured=met, wanted=met.wanted)


def _of(slot: Slot, tensor: Any, beside: Any = None, *, repeated: bool = False) -> Slot:
    """The same slot, read from another tensor."""
    met = dataclasses.replace(slot.measured, tensor=tensor, beside=beside, repeated=repeated)
    return dataclasses.replace(slot, measured=met)


@contextlib.contextmanager
def _not_the_users(failed: Failed) -> Generator[None]:
    """Around what we add to a step that is traced, and that is whole without it."""
    try:
        yield
    except StatisticError:
        raise
    except Exception as error:
        failed(error)
