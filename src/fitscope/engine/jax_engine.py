"""Observed steps on JAX.

A tensor met inside `value_and_grad` may leave it only through what the function returns, and in
stock and custom train steps alike that is the updated non-trainable variables. So while a step is
*traced*, each layer that a forward pass starts from gets carrier variables (see
`keras_internals.state_holders`); the compiled function takes and returns exactly the state Keras
knows, and the carriers' values beside it. Outside the trace the model has never heard of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import keras
import numpy as np

from fitscope.engine import jax_kernel, keras_internals
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Layout, Reading, Row
from fitscope.engine.plan import Plan
from fitscope.engine.raw_rows import Pass, segments
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.engine.vector import BINS
from fitscope.errors import StatisticError
from fitscope.select.unseen import Unseen
from fitscope.statistics.moments import empty

if hasattr(jax.extend.core, "get_opaque_trace_state"):
    get_opaque_trace_state: Any = jax.extend.core.get_opaque_trace_state
else:  # before JAX 0.7
    get_opaque_trace_state = vars(jax)["core"].get_opaque_trace_state

Emit = Callable[[Row], None]
Failed = Callable[[BaseException], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One tensor's reductions and the states of user statistics."""

    reduced: jax_kernel.Reduced
    extra: tuple[Any, ...]


class JaxDevice:
    """Measures tensors in a trace and puts the results into carriers."""

    def __init__(self, carriers: Mapping[int, Carrier], one: Any) -> None:
        self.carriers = carriers
        self.one = one
        self.missing: list[Any] = []
        """Layers that a forward pass started from without a carrier."""
        self.passes: list[Pass] = []
        self.slots: list[list[Slot]] = []
        """Of each pass, before the sites have their final names."""
        self.lost: list[Unseen] = []

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, jax.Array) and hasattr(value, "ndim")

    def dtype(self, tensor: Any) -> str:
        return str(tensor.dtype)

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    def level(self) -> object:
        return get_opaque_trace_state(convention="fitscope")

    def measure(
        self, tensor: Any, entry: Entry, port: str, statistics: tuple[Any, ...]
    ) -> Measured:
        # XLA computes an elementwise result anew inside each loop that uses it, as long as every
        # user is such a loop; the library calls our reductions become are not. They would make it
        # store the result, and loops that read it round differently. So they get a copy that is
        # one more loop: times a one that XLA does not know to be one.
        x = jax.lax.stop_gradient(tensor)
        if entry.is_elementwise:
            x = x * self.one.astype(x.dtype)
        reduced = jax_kernel.reduce(x, entry.zones(port), entry.unit_axis(x.ndim))
        x = x.astype(jnp.float32) if statistics else None
        return Measured(reduced, tuple(user_state(s, x) for s in statistics))

    def finish(self, root: Root) -> None:
        if not root.slots:
            return
        layer = root.entry.target
        carrier = self.carriers.get(id(layer))
        if carrier is None:
            self.missing.append(layer)
            return
        scope = keras_internals.current_stateless_scope()
        if scope is None or any(id(v) not in scope.state_mapping for v in carrier.variables):
            self.lost += [
                Unseen(
                    slot.site.path,
                    "was called outside stateless_call, from where JAX lets no value out",
                    "call the model through stateless_call in train_step, as Keras' JAX guide does",
                )
                for slot in root.slots
            ]
            root.slots.clear()
            return
        found = [s.measured.reduced for s in root.slots]
        extra = [state for s in root.slots for state in s.measured.extra]
        row = jax_kernel.segment(len(self.passes), found, extra)
        carrier.extend(scope, row, jax_kernel.histograms(found))
        lengths = sum(int(state.shape[0]) for state in extra)
        self.passes.append(Pass(tuple(r.shape for r in found), lengths))
        self.slots.append(root.slots)


class _AnyShape:
    """Equal to every shape: what a carrier holds grows with each pass of a step."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class _Growing(keras.Variable):
    @property
    def shape(self) -> Any:
        return _AnyShape()


class Carrier:
    """Variables that bring the results of one starting layer's passes out of the trace."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        with jax.ensure_compile_time_eval():
            self.variables = [
                _Growing(
                    np.zeros((0,), dtype),
                    trainable=False,
                    autocast=False,
                    dtype=dtype,
                    name=f"fitscope_{name}",
                )
                for name, dtype in (("row", "float32"), ("histograms", "uint16"))
            ]

    @property
    def sharding(self) -> Any:
        return self.variables[0].value.sharding

    def initial(self) -> list[Any]:
        return [jnp.zeros((0,), v.dtype) for v in self.variables]

    def extend(self, scope: Any, *parts: Any) -> None:
        for variable, part in zip(self.variables, parts, strict=True):
            held = scope.get_current_value(variable)
            scope.add_update((variable, jnp.concatenate([held, part])))


def user_state(statistic: Any, x: Any) -> Any:
    """Run a user statistic's `update`, and hold it to its contract."""
    state = jnp.asarray(statistic.update(x))
    if state.ndim != 1 or state.dtype != jnp.float32:
        raise StatisticError(
            f"Statistic {statistic.name!r}: update returned a tensor of shape {state.shape} and "
            f"dtype {state.dtype}; it must return a 1-D float32 tensor of fixed length. "
            "Use keras.ops.stack or reshape, and cast to float32."
        )
    return state


class _Holder:
    """What Keras expects in a layer's list of seed generators: something with a `.state`."""

    def __init__(self, state: keras.Variable) -> None:
        self.state = state


class _Carried:
    """The model's state with the carriers' values among its non-trainable variables."""

    def __init__(self, model: Any, carriers: Sequence[Carrier]) -> None:
        self._carriers = carriers
        place = {id(v): (c, i) for c in carriers for i, v in enumerate(c.variables)}
        self._order = [place.get(id(v)) for v in model.non_trainable_variables]

    def join(self, state: Sequence[Any]) -> tuple[Any, ...]:
        """Keras' state tuple with fresh carrier values added."""
        own = iter(state[1])
        fresh = {id(c): c.initial() for c in self._carriers}
        fixed = [next(own) if p is None else fresh[id(p[0])][p[1]] for p in self._order]
        return (state[0], fixed, *state[2:])

    def part(self, state: Sequence[Any]) -> tuple[tuple[Any, ...], dict[int, list[Any]]]:
        """Keras' state tuple again, and the carriers' values by starting layer."""
        values: dict[int, list[Any]] = {id(c.layer): [None] * 2 for c in self._carriers}
        own: list[Any] = []
        for place, value in zip(self._order, state[1], strict=True):
            if place is None:
                own.append(value)
            else:
                values[id(place[0].layer)][place[1]] = value
        return (state[0], own, *state[2:]), values


@contextlib.contextmanager
def _attached(model: Any, carriers: Sequence[Carrier]) -> Generator[_Carried]:
    added: list[tuple[list[Any], _Holder]] = []
    try:
        for carrier in carriers:
            holders = keras_internals.state_holders(carrier.layer)
            for variable in carrier.variables:
                holder = _Holder(variable)
                holders.append(holder)
                added.append((holders, holder))
        shardings = {id(v): c.sharding for c in carriers for v in c.variables}
        with keras_internals.longer_state(model, shardings):
            yield _Carried(model, carriers)
    finally:
        for holders, holder in reversed(added):
            holders.remove(holder)


class JaxEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._reference = weakref.ref(model)
        self.plan = plan
        # Keras' own steps start at the model. A custom step may call parts of it alone, and may
        # count on the number of their variables: only the layers it starts from get carriers.
        self._starts = {
            phase: [model] if keras_internals.has_stock_step(model, phase) else []
            for phase in ("train", "test", "predict")
        }
        self._traced_steps: list[_TracedStep] = []

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model
        step = functools.partial(self._traced, phase)
        compiled = not model.run_eagerly and model.jit_compile
        if compiled:
            step = jax.jit(step, donate_argnums=0, **self._shardings(phase))

        one = jnp.float32(1)

        def one_step(state: Any, data: Any) -> Any:
            traced = len(self._traced_steps)
            try:
                outputs, state, (key, row, histograms) = step(state, data, one)
            except StatisticError:
                raise
            except Exception as error:
                if compiled and len(self._traced_steps) > traced:
                    raise  # not while tracing: the step itself failed, and its state is gone
                result = plain(state, iter([data]))
                failed(error)
                return result
            emit(SegmentRow(self._traced_steps, key, row, histograms))
            return outputs, state

        return keras_internals.make_function(model, one_step, concatenate=phase == "predict")

    def wait(self) -> None:
        """Let the device finish what it was given."""
        state = vars(self._model).get("_jax_state") or {}
        jax.block_until_ready((state.get("metrics_variables"), state.get("trainable_variables")))

    def _shardings(self, phase: str) -> dict[str, Any]:
        if keras.distribution.distribution() is None:
            return {}
        train, fixed, optimizer, metrics = keras_internals.state_shardings(self._model)
        states = {
            "train": (train, fixed, optimizer, metrics),
            "test": (train, fixed, metrics),
            "predict": (train, fixed),
        }
        return {"out_shardings": (None, states[phase], None)}

    def _traced(self, phase: str, state: Sequence[Any], data: Any, one: Any) -> Any:
        model = self._model
        run = {"train": model.train_step, "test": model.test_step, "predict": _predict(model)}[
            phase
        ]
        for _ in range(_TRIES):
            carriers = {id(layer): Carrier(layer) for layer in self._starts[phase]}
            device = JaxDevice(carriers, one)
            trace = Trace(self.plan, device)
            with _attached(model, list(carriers.values())) as carried, trace.installed():
                outputs, new = run(carried.join(state), data)
            new, values = carried.part(new)
            if not device.missing:
                return outputs, new, self._row(trace, device, values)
            known = {id(layer) for layer in self._starts[phase]}
            found = {id(x): x for x in device.missing if id(x) not in known}
            self._starts[phase].extend(found.values())
        raise RuntimeError("fitscope: the layers a step starts from kept changing while traced")

    def _row(self, trace: Trace, device: JaxDevice, values: dict[int, list[Any]]) -> Any:
        named = {id(root.slots): found for root, found in trace.passes()}
        per_pass = [named[id(slots)] for slots in device.slots]
        slots = [slot for found in per_pass for slot in found]
        lengths = [[int(e.shape[0]) for e in slot.measured.extra] for slot in slots]
        layout = Layout.of(slots, lengths, [*trace.not_fired(), *device.lost])
        self._traced_steps.append(_TracedStep(layout, tuple(device.passes)))
        rows = [row for row, _ in values.values()] or [jnp.zeros((0,), jnp.float32)]
        histograms = [counts for _, counts in values.values()] or [jnp.zeros((0,), jnp.uint16)]
        key = jnp.int32(len(self._traced_steps) - 1)
        return key, jnp.concatenate(rows), jnp.concatenate(histograms)


_TRIES = 4
"""Traces until every starting layer has a carrier: nested ones may come to light one by one."""


@dataclasses.dataclass(frozen=True, eq=False)
class _TracedStep:
    """What the rows of one compiled signature hold."""

    layout: Layout
    passes: tuple[Pass, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentRow:
    """A row of `raw_rows` and the histograms beside it, still on the device."""

    steps: Sequence[_TracedStep]
    key: Any
    row: Any
    histograms: Any

    def arrays(self) -> Sequence[Any]:
        return self.key, self.row, self.histograms

    def read(self) -> Reading:
        step = self.steps[int(self.key)]
        layout, passes = step.layout, step.passes
        firsts = np.cumsum([0, *(len(p.shapes) for p in passes)])
        states = np.cumsum([0, *(p.extra for p in passes)])
        sites = len(layout.sites)
        fired = np.zeros(sites, bool)
        moments = empty(sites)
        counts = np.zeros((sites, BINS), np.uint16)
        extra = np.zeros(states[-1], np.float32)
        histograms = np.asarray(self.histograms).reshape(-1, BINS)
        at = 0
        for number, found, state in segments(np.asarray(self.row), passes):
            place = slice(firsts[number], firsts[number + 1])
            fired[place] = True
            moments[place] = found
            counts[place] = histograms[at : at + len(found)]
            extra[states[number] : states[number + 1]] = state
            at += len(found)
        return Reading(layout, fired, moments, counts, extra)


def _predict(model: Any) -> Callable[..., Any]:
    def predict_step(state: Any, data: Any) -> Any:
        outputs, fixed = model.predict_step(state, data)
        return outputs, (state[0], fixed)

    return predict_step
