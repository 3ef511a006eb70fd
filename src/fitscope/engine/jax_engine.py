"""Observed steps on JAX.

A compiled step is traced once with its layers wrapped, and its values are read in the traced
program (see `jax_program`); a step that runs eagerly is read where it runs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core
import jax.numpy as jnp
import keras
import numpy as np
from jax.core import Tracer

from fitscope.engine import jax_kernel, jax_program, keras_internals, raw_rows
from fitscope.engine.entry import Entry, without_gradient
from fitscope.engine.failures import SEVERAL_SCALES, Failure, failure
from fitscope.engine.jax_rows import Kind, Measured, TracedStep
from fitscope.engine.layout import Layout, Row
from fitscope.engine.leaves import map_leaves
from fitscope.engine.optimizers import Optimizers, with_scale
from fitscope.engine.plan import EVERY_ROW, Plan, Wanted
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.engine.user_statistics import user_state
from fitscope.engine.weights import Weight, weights
from fitscope.errors import StatisticError
from fitscope.select.unseen import Unseen

if TYPE_CHECKING:
    from fitscope.engine.jax_edits import JaxEdits

if hasattr(jax.extend.core, "get_opaque_trace_state"):
    get_opaque_trace_state: Any = jax.extend.core.get_opaque_trace_state
else:  # before JAX 0.7
    get_opaque_trace_state = vars(jax)["core"].get_opaque_trace_state

Emit = Callable[[Row], None]
Failed = Callable[[BaseException], None]


@dataclasses.dataclass(eq=False)
class Tap:
    """A tensor that was met, and what is to be computed of it.

    Attributes:
        number: its name in the traced program.
        entry: whose it is.
        port: at which port.
        wanted: what is to be taken of it.
        marked: the tapped tensor, as the trace knows it.
        later: whether the value leaves the step, and is reduced behind it.
        shape: of the value, once it was read and measured.
        tensor: the value, if it is reduced later.
        parts: the reductions, if it is not.
        extra: the states of the user statistics.
        value: the tensor itself, if it is wanted and was read.
        failure: why the value could not be reduced.
    """

    number: int
    entry: Entry
    port: str
    wanted: Wanted
    marked: Any
    later: bool = False
    shape: raw_rows.Shape | None = None
    tensor: Any = None
    parts: jax_kernel.Parts | None = None
    extra: tuple[Any, ...] = ()
    value: Any = None
    failure: Failure | None = None
    scales: Sequence[Held] = ()
    """By what a gradient is too large."""
    before: Held | None = None
    """The value that this one is the successor of: the tap is of the difference."""

    def read(self, x: Any) -> None:
        """Take the tensor's value, and reduce it unless that is done later."""
        try:
            beside = None
            if len(self.scales) > 1:
                self.failure = SEVERAL_SCALES
                return
            for scale in self.scales:
                beside = scale.value.astype(jnp.float32)
                x = x.astype(jnp.float32) / beside
                self.wanted = with_scale(self.wanted)
            if self.before is not None:
                beside = self.before.value.astype(jnp.float32)
                x = x.astype(jnp.float32) - beside
            if self.wanted.keeps:
                self.value = self.wanted.taken(x)
            if not self.wanted.measures:
                return
            kind = self.entry.zones(self.port), self.unit_axis(x)
            if not self.later:
                self.parts = jax_kernel.measured(x, *kind, with_blocks=True)
            if self.wanted.statistics:
                exact = x.astype(jnp.float32)
                self.extra = tuple(
                    user_state(s, exact, beside, jnp.asarray, jnp.float32)
                    for s in self.wanted.statistics
                )
            self.tensor = x if self.later else None
            self.shape = jax_kernel.shape_of(x, *kind)
        except StatisticError:
            raise
        except Exception as error:  # whatever goes wrong here, the training step is not to
            self.failure = failure(error)

    def unit_axis(self, x: Any) -> int:
        """Along which axis of the value its units lie."""
        return self.entry.unit_axis(x.ndim)

    def unseen(self, slot: Slot) -> Unseen:
        """The report of a tensor whose value was not read."""
        if self.failure is not None:
            own = self.port in ("gradient", "weight", "weight_gradient", "update")
            name = slot.site.name if own else slot.site.path
            return self.failure.at(name)
        if self.port in ("gradient", "weight_gradient"):
            return without_gradient(slot.site.name)
        return Unseen(
            slot.site.path,
            "runs inside a function of its own in train_step (jit, vmap, scan, while or cond), "
            "whose tensors do not leave it",
            "call the model from train_step itself, not from a function that it compiles or maps",
        )


@dataclasses.dataclass(eq=False)
class Held:
    """A value that a tap needs beside its own."""

    number: int
    marked: Any
    value: Any = None

    def read(self, x: Any) -> None:
        """Keep the value."""
        self.value = x


class JaxDevice:
    """Puts taps where tensors are met."""

    def __init__(self, *, traced: bool) -> None:
        self.traced = traced
        """Whether the step is traced as a whole, and its values are read afterwards."""
        self.later = traced and not is_distributed()
        """Whether outputs and gradients are reduced behind the step. Over several devices each
        reduction would be a program that its devices must meet in, and when several such programs
        run at once on a CPU's threads, they wait for one another and XLA ends the process."""
        self.weights_later = self.later and jax_kernel.host_looks()
        """Whether weights are reduced behind the step. The memory of a weight is that of its
        successor, so one that leaves the step is copied. On a CPU a copy and a sweep over it take
        less than reductions in the step, and need no compilation of their own."""
        self.taps: dict[int, Tap | Held] = {}
        self.given: dict[int, Tap] = {}
        """By variable, the gradients that optimizers were given."""
        self.scales: list[Held] = []
        """Of the losses of this step."""

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, jax.Array) and hasattr(value, "ndim")

    def dtype(self, tensor: Any) -> str:
        return str(tensor.dtype)

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    def level(self) -> object:
        return get_opaque_trace_state(convention="fitscope")

    def measure(self, tensor: Any, entry: Entry, port: str, wanted: Wanted) -> Tap:
        made = Tap(next(_NUMBERS), entry, port, wanted, tensor, later=self.later)
        return self._tap(tensor, made)

    def hold(self, value: Any) -> Held:
        """Have a value at hand when a tap is read that comes later."""
        return self._tap(value, Held(next(_NUMBERS), value))

    def hold_scale(self, value: Any) -> Held:
        """Have the scale of a loss at hand for its gradients."""
        self.scales.append(self.hold(value))
        return self.scales[-1]

    def watch_gradient(self, tensor: Any, entry: Entry, wanted: Wanted) -> tuple[Any, Tap]:
        made = Tap(
            next(_NUMBERS), entry, "gradient", wanted, tensor,
            scales=self.scales, later=self.later,
        )  # fmt: skip
        if self.traced and has_model_parallel():
            # Read, a gradient that meets a split weight makes XLA round the step differently.
            made.failure = Failure(
                "not measured under ModelParallel, where reading the gradient of an output would "
                "change the last digits of the training",
                "watch weight_gradient, or train under DataParallel",
            )
            return tensor, made
        self.taps[made.number] = made
        if self.traced:
            return jax_program.gradient_tap(tensor, made.number), made
        return _eager_gradient_tap(tensor, made), made

    def measure_weight(
        self, value: Any, weight: Weight, port: str, before: Held | None = None
    ) -> Tap:
        """Measure a weight, or with `before` what became of it."""
        _, wanted = weight.ports[port]
        made = Tap(
            next(_NUMBERS), weight.entry, port, wanted, value,
            before=before, later=self.weights_later,
        )  # fmt: skip
        return self._tap(value, made)

    def measure_given(self, gradient: Any, weight: Weight, scale: Held | None) -> None:
        """Measure a gradient that an optimizer was given."""
        _, wanted = weight.ports["weight_gradient"]
        scales = () if scale is None else (scale,)
        made = Tap(
            next(_NUMBERS), weight.entry, "weight_gradient", wanted, gradient,
            scales=scales, later=self.weights_later,
        )  # fmt: skip
        self.given[id(weight.variable)] = self._tap(gradient, made)

    def missing(self, weight: Weight) -> Tap:
        """What stands for a gradient that no optimizer was given."""
        _, wanted = weight.ports["weight_gradient"]
        return Tap(next(_NUMBERS), weight.entry, "weight_gradient", wanted, None)

    def _tap(self, tensor: Any, made: Any) -> Any:
        self.taps[made.number] = made
        if self.traced:
            jax_program.tap(tensor, made.number)
        else:
            value = jax.lax.stop_gradient(tensor)
            if not isinstance(value, Tracer):
                made.read(value)
        return made

    def finish(self, root: Root) -> None:
        pass


def _eager_gradient_tap(tensor: Any, made: Tap) -> Any:
    """An identity that reads the gradient as it passes by; nothing is traced as a whole."""

    @jax.custom_vjp
    def identity(x: Any) -> Any:
        return x

    def forward(x: Any) -> tuple[Any, None]:
        return x, None

    def backward(_: None, gradient: Any) -> tuple[Any]:
        if not isinstance(gradient, Tracer):
            made.read(gradient)
        return (gradient,)

    identity.defvjp(forward, backward)
    return identity(tensor)


_NUMBERS = itertools.count()
"""Of taps, no two alike: a function that JAX traced earlier may still hold the taps of then."""


class JaxEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan, edits: Any = None) -> None:
        self._reference = weakref.ref(model)
        self.plan = plan
        self.edits: JaxEdits | None = edits
        self._traces = 0

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model
        compiled = bool(not model.run_eagerly and model.jit_compile)
        step = functools.partial(self._step, phase, compiled)
        if compiled:
            step = compile_step(step)

        one = jnp.float32(1)

        def one_step(state: Any, data: Any) -> Any:
            traces = self._traces
            if self.plan.keeps:
                data = _own(data)
            told = () if self.edits is None else self.edits.arguments(state, data)
            try:
                outputs, state, measured = step(state, data, one, told)
            except StatisticError:
                raise
            except Exception as error:
                if compiled and self._traces > traces:
                    raise  # not while tracing: the step itself failed, and its state is gone
                if self.edits is not None:
                    self.edits.step_back()
                result = plain(state, iter([data]))
                failed(error)
                return result
            self._remember(measured)
            try:
                row = measured.row(data if self.plan.keeps else None)
            except Exception as error:  # the step itself is done
                failed(error)
            else:
                emit(row)
            return outputs, state

        return keras_internals.make_function(model, one_step, concatenate=phase == "predict")

    def _remember(self, measured: Measured) -> None:
        if self.edits is not None:
            self.edits.remember(measured.memory)

    def passing(self, phase: str, plain: Callable[..., Any]) -> None:
        """See `build.Engine.passing`: the plain function is another one, and is left alone."""
        del phase, plain

    def wait(self, outputs: Any = None) -> None:
        """See `build.Engine.wait`."""
        if outputs is not None:
            jax.block_until_ready(outputs)
            return
        # Keras keeps the state in lists of its own kind, in which JAX does not look for arrays.
        state = vars(self._model).get("_jax_state") or {}
        arrays = [array for group in state.values() for array in group]
        # Between steps a part of it may have been given to a step already.
        jax.block_until_ready([array for array in arrays if not array.is_deleted()])

    def _step(self, phase: str, traced: bool, state: Any, data: Any, one: Any, told: Any) -> Any:
        model = self._model
        run = {"train": model.train_step, "test": model.test_step, "predict": predict_step(model)}[
            phase
        ]
        device = JaxDevice(traced=traced)
        trains = phase == "train"
        trace = Trace(self.plan, device, trains=trains)
        watched = {id(w.variable): w for w in weights(self.plan)} if trains else {}

        def given(variable: Any, gradient: Any, scale: Any) -> None:
            weight = watched.get(id(variable))
            if weight is not None and "weight_gradient" in weight.ports:
                device.measure_given(gradient, weight, scale)

        def step(state: Any, data: Any, told: Any) -> Any:
            trace.edits = None if self.edits is None else self.edits.begin(told, state, device)
            optimizers = Optimizers(model, given, device.hold_scale)
            with trace.installed(), optimizers.installed() if trains else nullcontext():
                outputs, new = run(state, data)
            before, after = _values(model, state), _values(model, new)
            slots = [
                Slot(site, _weight_tap(device, weight, port, before, after), wanted)
                for weight in watched.values()
                for port, (site, wanted) in weight.ports.items()
            ]
            trace.add_weights(slots)
            return outputs, new

        if traced:
            outputs, new = read_in_program(step, (state, data, told), one, device.taps)
        else:
            outputs, new = step(state, data, told)
        return outputs, new, self._measured(trace)

    def _measured(self, trace: Trace) -> Measured:
        met = [slot for _, found in trace.passes() for slot in found]
        slots = [slot for slot in met if slot.measured.shape is not None]
        keep = [slot for slot in met if slot.measured.value is not None]
        read = [*slots, *keep]
        lost = [s.measured.unseen(s) for s in met if not any(s is other for other in read)]
        slots = [dataclasses.replace(s, wanted=s.measured.wanted) for s in slots]
        taps = [slot.measured for slot in slots]
        lengths = [[int(e.shape[0]) for e in tap.extra] for tap in taps]
        later = [(t.tensor, t.shape.zones, t.unit_axis(t.tensor)) for t in taps if t.later]
        self._traces += 1
        step = TracedStep(
            Layout.of(slots, lengths, [*trace.not_fired(), *lost]),
            tuple(Kind(tap.shape, tap.unit_axis(tap.marked), tap.later) for tap in taps),
            sum(map(sum, lengths)),
            tuple((slot.site, slot.wanted.rows or EVERY_ROW) for slot in keep),
            jax_kernel.Reducers(later) if later else None,
        )
        return Measured(
            step,
            tensors=[tap.tensor for tap in taps if tap.later],
            parts=[tap.parts for tap in taps if not tap.later],
            states=[state for tap in taps for state in tap.extra],
            values=[slot.measured.value for slot in keep],
            memory={} if self.edits is None else self.edits.memory,
        )


def _values(model: Any, state: Any) -> dict[int, Any]:
    """The values of a model's variables in a state, by variable."""
    groups = (model.trainable_variables, model.non_trainable_variables)
    return {
        id(variable): value
        for variables, values in zip(groups, state, strict=False)
        for variable, value in zip(variables, values, strict=False)
    }


def _weight_tap(
    device: JaxDevice,
    weight: Weight,
    port: str,
    before: Mapping[int, Any],
    after: Mapping[int, Any],
) -> Tap:
    key = id(weight.variable)
    if port == "weight_gradient":
        return device.given.get(key) or device.missing(weight)
    if port == "weight":
        return device.measure_weight(before[key], weight, port)
    return device.measure_weight(after[key], weight, port, device.hold(before[key]))


def read_in_program(
    step: Callable[..., Any], args: tuple[Any, ...], one: Any, taps: Mapping[int, Tap | Held]
) -> Any:
    """Trace a step, and run it with its taps read."""
    program = jax_program.Program(step, *args)

    def read(number: int, value: Any) -> None:
        tap = taps.get(number)
        if tap is not None and program.shape(number) == tuple(tap.marked.shape):
            tap.read(value)

    return program.run(args, one, read)


def _own(data: Any) -> Any:
    """The data of a step, copied where they are an array of the user's, who may write to it.

    On a CPU JAX does not copy it either, and a layer may hand it on as it is.
    """
    return map_leaves(lambda _, x: x.copy() if isinstance(x, np.ndarray) else x, data)


def predict_step(model: Any) -> Callable[..., Any]:
    """A prediction that gives the state back as the other steps do."""

    def step(state: Any, data: Any) -> Any:
        outputs, fixed = model.predict_step(state, data)
        return outputs, (state[0], fixed)

    return step


def is_distributed() -> bool:
    """Whether Keras spreads the model or its batches over several devices."""
    distribution = keras.distribution.distribution()
    return distribution is not None and distribution.device_mesh.devices.size > 1


def has_model_parallel() -> bool:
    """Whether weights are split over several devices."""
    kind = keras.distribution.ModelParallel
    return is_distributed() and isinstance(keras.distribution.distribution(), kind)


def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a step that takes the state first and gives it back second, where it found it.

    The places are those of the first state it is given: by then Keras has taken the state out of
    the model, which could have told them before.
    """
    compiled: Callable[..., Any] | None = None

    def run(state: Any, *rest: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            out: dict[str, Any] = {}
            if keras.distribution.distribution() is not None:
                out = {"out_shardings": (None, jax.tree.map(lambda x: x.sharding, state), None)}
            compiled = jax.jit(step, donate_argnums=0, **out)
        return compiled(state, *rest)

    return run
