"""Observed steps on torch: the wrapped layers measure as they run."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import torch

from fitscope.engine import torch_kernel
from fitscope.engine.entry import Entry
from fitscope.engine.layout import Kept, Layout, Row, VectorRow
from fitscope.engine.plan import EVERY_ROW, Plan, Wanted
from fitscope.engine.trace import Root, Trace
from fitscope.engine.vector import BINS, LENGTH
from fitscope.errors import StatisticError
from fitscope.select.site import Site

Emit = Callable[[Row], None]
Failed = Callable[[BaseException], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """One tensor's moments, histogram sample and the states of user statistics."""

    moments: Any
    sample: Any
    extra: tuple[Any, ...]
    value: Any
    """A copy of the tensor itself, if it is wanted: a later layer may work in place."""


class TorchDevice:
    """Measures tensors as they come."""

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def dtype(self, tensor: Any) -> str:
        return str(tensor.dtype).removeprefix("torch.")

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    def level(self) -> object:
        # Inside vmap and the other function transforms a tensor stands for many.
        return _current_level() if _current_level is not None else None

    def measure(self, tensor: Any, entry: Entry, port: str, wanted: Wanted) -> Measured:
        with torch.no_grad():
            value = wanted.taken(tensor).detach().clone() if wanted.keeps else None
            if not wanted.measures:
                return Measured(None, None, (), value)
            taken, count = torch_kernel.sample(tensor)
            vector = torch_kernel.moments(
                tensor, entry.zones(port), entry.unit_axis(tensor.ndim), count
            )
            x = tensor.detach().float() if wanted.statistics else None
            states = tuple(user_state(s, x) for s in wanted.statistics)
            return Measured(vector, taken, states, value)

    def finish(self, root: Root) -> None:
        del root


_current_level: Any = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", None)


def user_state(statistic: Any, x: Any) -> Any:
    """Run a user statistic's `update`, and hold it to its contract."""
    state = torch.as_tensor(statistic.update(x))
    if state.ndim != 1 or state.dtype != torch.float32:
        raise StatisticError(
            f"Statistic {statistic.name!r}: update returned a tensor of shape "
            f"{tuple(state.shape)} and dtype {state.dtype}; it must return a 1-D float32 tensor of "
            "fixed length. Use keras.ops.stack or reshape, and cast to float32."
        )
    return state


class TorchEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan) -> None:
        self._reference = weakref.ref(model)
        self.plan = plan
        self._layouts: dict[tuple[int, ...], tuple[Layout, list[int], tuple[Site, ...]]] = {}

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        del plain  # nothing is traced: what fails within the step is the user's own
        model = self._model
        name = f"{phase}_step"

        def one_step(data: Any) -> Any:
            return getattr(model, name)(data[0])

        def one_step_without_gradients(data: Any) -> Any:
            with torch.no_grad():
                return one_step(data)

        run = one_step if phase == "train" else one_step_without_gradients
        if model.jit_compile:
            run = torch.compile(run)

        def observed_step(data: Any) -> Any:
            trace = Trace(self.plan, TorchDevice())
            with trace.installed():
                outputs = run(data)
            try:
                emit(self._rows(trace, data[0]))
            except StatisticError:
                raise
            except Exception as error:
                failed(error)  # the step itself is done, and is not to be run again
            return outputs

        return observed_step

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _rows(self, trace: Trace, data: Any) -> VectorRow:
        met = [slot for root in trace.roots for slot in root.slots]
        slots = [slot for slot in met if slot.measured.moments is not None]
        with torch.no_grad():
            moments = (
                torch.stack([s.measured.moments for s in slots])
                if slots
                else torch.zeros(0, LENGTH)
            )
            histograms = (
                torch_kernel.histograms([s.measured.sample for s in slots])
                if slots
                else torch.zeros(0, BINS, dtype=torch.int64)
            )
            states = [state for s in slots for state in s.measured.extra]
            extra = torch.cat(states) if states else torch.zeros(0)
        key = tuple(id(s.site) for s in met)
        lengths = [int(state.shape[0]) for state in states]
        if key not in self._layouts:
            named = [slot for _, found in trace.passes() for slot in found]
            keep = tuple(slot.site for slot in named if slot.measured.value is not None)
            named = [slot for slot in named if slot.measured.moments is not None]
            per_slot = [[e.shape[0] for e in s.measured.extra] for s in named]
            layout = Layout.of(named, per_slot, trace.not_fired())
            self._layouts[key] = (layout, lengths, keep)
        layout, known, sites = self._layouts[key]
        if lengths != known:
            raise StatisticError(
                f"The states of user statistics had the lengths {known} in an earlier step, and "
                f"have {lengths} now; update must return a 1-D float32 tensor of fixed length."
            )
        kept = [slot for slot in met if slot.measured.value is not None]
        rows = [slot.wanted.rows or EVERY_ROW for slot in kept]
        lengths = [slot.site.shape[0] if slot.site.shape else None for slot in kept]
        tensors = [slot.measured.value for slot in kept]
        values = Kept(sites, tensors, data, rows, lengths) if self.plan.keeps else None
        return VectorRow([layout], 0, moments, histograms, extra, values)
