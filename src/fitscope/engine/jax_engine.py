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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.core import get_opaque_trace_state

from fitscope.engine import jax_kernel, keras_internals
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Layout, Rows
from fitscope.engine.plan import Plan
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.engine.vector import BINS, LENGTH
from fitscope.errors import StatisticError
from fitscope.select.unseen import Unseen

Emit = Callable[[Rows], None]
Failed = Callable[[BaseException], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    reduced: jax_kernel.Reduced
    extra: tuple[Any, ...]


class JaxDevice:
    """Measures tensors in a trace and puts the results into carriers."""

    def __init__(self, carriers: dict[int, Carrier]) -> None:
        self.carriers = carriers
        self.lost: list[Unseen] = []
        self.needs: dict[int, tuple[Any, int, int]] = {}
        """Per starting layer: the layer, slots and length of extra states of the whole step."""

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, jax.Array) and hasattr(value, "ndim")

    def dtype(self, tensor: Any) -> str:
        return str(tensor.dtype)

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    def level(self) -> object:
        return get_opaque_trace_state(convention="fitscope")

    def measure(self, tensor: Any, entry: Entry, statistics: tuple[Any, ...]) -> Measured:
        reduced = jax_kernel.reduce(tensor, entry.zones(), entry.unit_axis(tensor.ndim))
        x = jax.lax.stop_gradient(tensor).astype(jnp.float32) if statistics else None
        return Measured(reduced, tuple(user_state(s, x) for s in statistics))

    def finish(self, root: Root) -> None:
        if not root.slots:
            return
        scope = keras_internals.current_stateless_scope()
        layer = root.entry.target
        _, slots, extras = self.needs.get(id(layer), (layer, 0, 0))
        end = slots + len(root.slots)
        lengths = [int(e.shape[0]) for s in root.slots for e in s.measured.extra]
        self.needs[id(layer)] = (layer, end, extras + sum(lengths))
        carrier = self.carriers.get(id(layer))
        if carrier is None or not carrier.fits(end, extras + sum(lengths)):
            return  # traced again with room for everything
        if scope is None or any(id(v) not in scope.state_mapping for v in carrier.variables):
            self.lost += [
                Unseen(
                    slot.site.path,
                    "was called outside stateless_call, from where JAX lets no value out",
                    "call the model through stateless_call in train_step, as Keras' JAX guide does",
                )
                for slot in root.slots
            ]
            return
        found = [s.measured.reduced for s in root.slots]
        carrier.write(
            scope,
            slots,
            jax_kernel.moments(found),
            jax_kernel.histograms(found),
            extras,
            [e for s in root.slots for e in s.measured.extra],
        )


class Carrier:
    """Variables that bring the results of one starting layer's passes out of the trace."""

    def __init__(self, layer: Any, slots: int, extras: int) -> None:
        self.layer = layer
        self.slots, self.extras = slots, extras
        shapes = {"moments": (slots, LENGTH), "histograms": (slots, BINS), "extra": (extras,)}
        with jax.ensure_compile_time_eval():
            self.variables = [
                keras.Variable(
                    np.zeros(shape, _DTYPES[name]),
                    trainable=False,
                    autocast=False,
                    dtype=_DTYPES[name],
                    name=f"fitscope_{name}",
                )
                for name, shape in shapes.items()
            ]

    def fits(self, slots: int, extras: int) -> bool:
        return slots <= self.slots and extras <= self.extras

    def initial(self) -> list[Any]:
        return [jnp.zeros(v.shape, v.dtype) for v in self.variables]

    def write(self, scope: Any, slot: int, moments: Any, hist: Any, at: int, extra: list[Any]) -> None:
        now = [scope.get_current_value(v) for v in self.variables]
        end = slot + moments.shape[0]
        self.variables[0].assign(now[0].at[slot:end].set(moments))
        self.variables[1].assign(now[1].at[slot:end].set(hist))
        if extra:
            flat = jnp.concatenate(extra)
            self.variables[2].assign(now[2].at[at : at + flat.shape[0]].set(flat))


_DTYPES = {"moments": "float32", "histograms": "uint16", "extra": "float32"}


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
        values: dict[int, list[Any]] = {id(c.layer): [None] * 3 for c in self._carriers}
        own: list[Any] = []
        for place, value in zip(self._order, state[1], strict=True):
            if place is None:
                own.append(value)
            else:
                values[id(place[0].layer)][place[1]] = value
        return (state[0], own, *state[2:]), values


@contextlib.contextmanager
def _attached(model: Any, carriers: Sequence[Carrier]) -> Iterator[_Carried]:
    added: list[tuple[list[Any], _Holder]] = []
    try:
        for carrier in carriers:
            holders = keras_internals.state_holders(carrier.layer)
            for variable in carrier.variables:
                holder = _Holder(variable)
                holders.append(holder)
                added.append((holders, holder))
        yield _Carried(model, carriers)
    finally:
        for holders, holder in reversed(added):
            holders.remove(holder)


class JaxEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._model = weakref.ref(model)
        self.plan = plan
        self._needs: dict[int, tuple[Any, int, int]] = {
            id(model): (model, 2 * len(plan.candidates) + 4, 0)
        }
        self._layouts: list[Layout] = []

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        model = self._model()
        step = functools.partial(self._traced, phase)
        compiled = not model.run_eagerly and model.jit_compile
        if compiled:
            step = jax.jit(step, donate_argnums=0, **self._shardings(phase))

        def one_step(state: Any, data: Any) -> Any:
            traced = len(self._layouts)
            try:
                outputs, state, (key, moments, histograms, extra) = step(state, data)
            except StatisticError:
                raise
            except Exception as error:
                if not compiled or len(self._layouts) > traced:
                    raise  # not while tracing: the step itself failed
                result = plain(state, iter([data]))
                failed(error)
                return result
            emit(Rows(self._layouts, key, moments, histograms, extra))
            return outputs, state

        return keras_internals.make_function(model, one_step, concatenate=phase == "predict")

    def wait(self) -> None:
        """Let the device finish what it was given."""
        state = vars(self._model()).get("_jax_state") or {}
        jax.block_until_ready((state.get("metrics_variables"), state.get("trainable_variables")))

    def _shardings(self, phase: str) -> dict[str, Any]:
        if keras.distribution.distribution() is None:
            return {}
        train, fixed, optimizer, metrics = self._model()._get_state_sharding_spec()
        states = {
            "train": (train, fixed, optimizer, metrics),
            "test": (train, fixed, metrics),
            "predict": (train, fixed),
        }
        return {"out_shardings": (None, states[phase], None)}

    def _traced(self, phase: str, state: Sequence[Any], data: Any) -> Any:
        model = self._model()
        run = {"train": model.train_step, "test": model.test_step, "predict": _predict(model)}[phase]
        for _ in range(_TRIES):
            carriers = [Carrier(*need) for need in self._needs.values()]
            device = JaxDevice({id(c.layer): c for c in carriers})
            trace = Trace(self.plan, device)
            with _attached(model, carriers) as carried, trace.installed():
                outputs, new = run(carried.join(state), data)
            new, values = carried.part(new)
            if self._had_room(device):
                return outputs, new, self._rows(trace, device, values)
        raise RuntimeError("fitscope: the sites of a step kept changing while it was traced")

    def _had_room(self, device: JaxDevice) -> bool:
        """Whether every carrier was large enough; if not, the next try gets what was needed."""
        enough = True
        for key, (layer, slots, extras) in device.needs.items():
            carrier = device.carriers.get(key)
            if carrier is None or not carrier.fits(slots, extras):
                _, s, e = self._needs.get(key, (layer, 0, 0))
                self._needs[key] = (layer, max(slots, s), max(extras, e))
                enough = False
        return enough

    def _rows(self, trace: Trace, device: JaxDevice, values: dict[int, list[Any]]) -> Any:
        moments: list[Any] = [jnp.zeros((0, LENGTH), jnp.float32)]
        histograms: list[Any] = [jnp.zeros((0, BINS), jnp.uint16)]
        extra: list[Any] = [jnp.zeros((0,), jnp.float32)]
        slots: list[Slot] = []
        for key, (_, n, m) in device.needs.items():
            passes = [found for root, found in trace.passes() if id(root.entry.target) == key]
            slots += [slot for found in passes for slot in found]
            moments.append(values[key][0][:n])
            histograms.append(values[key][1][:n])
            extra.append(values[key][2][:m])
        lengths = [[int(e.shape[0]) for e in slot.measured.extra] for slot in slots]
        self._layouts.append(Layout.of(slots, lengths, [*trace.not_fired(), *device.lost]))
        return (
            jnp.int32(len(self._layouts) - 1),
            jnp.concatenate(moments),
            jnp.concatenate(histograms),
            jnp.concatenate(extra),
        )


_TRIES = 4
"""Traces until the carriers fit: one finds what is needed, one more if that changed the calls."""


def _predict(model: Any) -> Callable[..., Any]:
    def predict_step(state: Any, data: Any) -> Any:
        outputs, fixed = model.predict_step(state, data)
        return outputs, (state[0], fixed)

    return predict_step
