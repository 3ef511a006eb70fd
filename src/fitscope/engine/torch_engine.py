"""Observed steps on torch: the wrapped layers measure as they run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from fitscope.engine import torch_kernel, torch_sample
from fitscope.engine.entry import Entry, without_gradient
from fitscope.engine.failures import SEVERAL_SCALES, Failure, failure
from fitscope.engine.layout import Kept, Layout, Row, VectorRow
from fitscope.engine.optimizers import Optimizers, with_scale
from fitscope.engine.plan import EVERY_ROW, Plan, Wanted
from fitscope.engine.trace import Root, Slot, Trace
from fitscope.engine.user_statistics import user_state
from fitscope.engine.vector import BINS, LENGTH
from fitscope.engine.weights import Weight, weights
from fitscope.errors import StatisticError
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen

if TYPE_CHECKING:
    from fitscope.engine.torch_compiled import CompiledTaps
    from fitscope.engine.torch_edits import TorchEdits

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


@dataclasses.dataclass(eq=False)
class Coming:
    """A gradient that the backward pass will bring, or not; or a weight."""

    wanted: Wanted
    measured: Measured | None = None
    failure: Failure | None = None


@contextlib.contextmanager
def _kept_from_the_step(coming: Coming) -> Generator[None]:
    """Whatever goes wrong while something is measured, the step is not to."""
    try:
        yield
    except StatisticError:
        raise
    except Exception as error:
        coming.failure = failure(error)


class TorchDevice:
    """Measures tensors as they come."""

    def __init__(self) -> None:
        self.scales: list[Any] = []
        """Of the losses of this step."""

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor)

    def dtype(self, tensor: Any) -> str:
        return _dtype_name(tensor.dtype)

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    def level(self) -> object:
        # Inside vmap and the other function transforms a tensor stands for many.
        return _current_level() if _current_level is not None else None

    def hold_scale(self, scale: Any) -> Any:
        """Keep the scale of a loss for its gradients."""
        self.scales.append(scale)
        return scale

    def watch_gradient(self, tensor: Any, entry: Entry, wanted: Wanted) -> tuple[Any, Coming]:
        coming = self.await_gradient(wanted)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: self.came(coming, gradient, entry))
        return tensor, coming

    def await_gradient(self, wanted: Wanted) -> Coming:
        """What will hold the measurement of a gradient, which `came` is called with."""
        return Coming(wanted)

    def came(self, coming: Coming, gradient: Any, entry: Entry) -> None:
        """Measure a gradient that was awaited."""
        # Of a gradient of gradients there are several, and the last one is that of the loss.
        if len(self.scales) > 1:
            coming.failure = SEVERAL_SCALES
            return
        with _kept_from_the_step(coming):
            self.measure_gradient(coming, gradient, entry, "gradient", self.scales)

    def measure_gradient(
        self, coming: Coming, gradient: Any, entry: Entry, port: str, scales: Sequence[Any]
    ) -> None:
        """Measure a gradient without the scale of its loss."""
        beside = None
        with torch.no_grad():
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            for scale in scales:
                beside = torch.as_tensor(scale).float()
                gradient = gradient.float() / beside
                coming.wanted = with_scale(coming.wanted)
        coming.measured = self.measure(gradient, entry, port, coming.wanted, beside)

    def measure(
        self, tensor: Any, entry: Entry, port: str, wanted: Wanted, beside: Any = None
    ) -> Measured:
        with torch.no_grad():
            value = wanted.taken(tensor).detach().clone() if wanted.keeps else None
            if not wanted.measures:
                return Measured(None, None, (), value)
            vector, taken = torch_kernel.measured(
                tensor, entry.zones(port), entry.unit_axis(tensor.ndim)
            )
            x = tensor.detach().float() if wanted.statistics else None
            states = tuple(
                user_state(s, x, beside, torch.as_tensor, torch.float32) for s in wanted.statistics
            )
            return Measured(vector, taken, states, value)

    def finish(self, root: Root) -> None:
        del root


@functools.cache
def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


_current_level: Any = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", None)


class TorchEngine:
    """Builds observed train, test and predict functions for one model."""

    def __init__(self, model: Any, plan: Plan, edits: Any = None) -> None:
        self._reference = weakref.ref(model)
        self.plan = plan
        self.edits: TorchEdits | None = edits
        self._layouts: dict[tuple[Any, ...], tuple[Layout, list[int], tuple[Site, ...]]] = {}
        self._taps: dict[str, CompiledTaps] = {}

    @property
    def _model(self) -> Any:
        return self._reference()

    def observed(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """See `build.Engine.observed`."""
        # Nothing is traced for us: what fails within the step is the user's own.
        model = self._model
        if model.jit_compile and self.edits is None:
            return self._compiled(phase, plain, emit, failed)
        name = f"{phase}_step"

        def one_step(data: Any) -> Any:
            return getattr(model, name)(data[0])

        def one_step_without_gradients(data: Any) -> Any:
            with torch.no_grad():
                return one_step(data)

        trains = phase == "train"
        run = one_step if trains else one_step_without_gradients
        if model.jit_compile:
            run = torch.compile(run)

        def observed_step(data: Any) -> Any:
            device = TorchDevice()
            edits = None if self.edits is None else self.edits.begin()
            trace = Trace(self.plan, device, trains=trains, edits=edits)
            seen = _Weights(device, weights(self.plan) if trains else ())
            optimizers = Optimizers(model, seen.given, device.hold_scale)
            with trace.installed(), optimizers.installed():
                outputs = run(data)
            self._hand_on(trace, seen, data, emit, failed)
            return outputs

        return observed_step

    def passing(self, phase: str, plain: Callable[..., Any]) -> Callable[..., Any] | None:
        """See `build.Engine.passing`."""
        if not self._model.jit_compile or self.edits is not None:
            return None
        taps = self._compiled_taps(phase)

        def passed_step(data: Any) -> Any:
            with taps.installed():
                return plain(data)

        return passed_step

    def _compiled_taps(self, phase: str) -> CompiledTaps:
        from fitscope.engine.torch_compiled import CompiledTaps

        if phase not in self._taps:
            self._taps[phase] = CompiledTaps(self.plan, trains=phase == "train")
        return self._taps[phase]

    def _compiled(
        self, phase: str, plain: Callable[..., Any], emit: Emit, failed: Failed
    ) -> Callable[..., Any]:
        """As `observed`, where `torch.compile` compiles the step: through Keras' own function."""
        from fitscope.engine import torch_compiled, torch_taps

        taps = self._compiled_taps(phase)

        def observed_step(data: Any) -> Any:
            device = TorchDevice()
            seen = _Weights(device, weights(self.plan) if phase == "train" else ())
            told = torch_compiled.Told(self.plan, device, seen.given, taps.variables)
            with taps.installed(), torch_taps.told(told):
                outputs = plain(data)
            self._hand_on(told, seen, data, emit, failed)
            return outputs

        return observed_step

    def _hand_on(self, trace: Trace, seen: _Weights, data: Any, emit: Emit, failed: Failed) -> None:
        """Emit what was seen of a step that is done."""
        try:
            trace.add_weights(seen.slots())
            emit(self._rows(trace, data[0]))
        except StatisticError:
            raise
        except Exception as error:
            failed(error)  # the step is not to be run again

    def wait(self, outputs: Any = None) -> None:
        """See `build.Engine.wait`."""
        del outputs
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _rows(self, trace: Trace, data: Any) -> VectorRow:
        missing: list[Unseen] = []
        if any(_missing(slot) for root in trace.roots for slot in root.slots):
            # Names are made only where they are told: a name takes 10 us.
            for _, found in trace.passes():
                missing += [u for slot in found if (u := _missing(slot)) is not None]
        for root in trace.roots:
            root.slots = [_came(slot) for slot in root.slots if _missing(slot) is None]
        met = [slot for root in trace.roots for slot in root.slots]
        slots = [slot for slot in met if slot.measured.moments is not None]
        with torch.no_grad():
            moments = (
                torch.stack([s.measured.moments for s in slots])
                if slots
                else torch.zeros(0, LENGTH)
            )
            histograms = (
                torch_sample.histograms([s.measured.sample for s in slots])
                if slots
                else torch.zeros(0, BINS, dtype=torch.int64)
            )
            states = [state for s in slots for state in s.measured.extra]
            extra = torch.cat(states) if states else torch.zeros(0)
        key = (*(id(s.site) for s in met), *(u.site for u in missing))
        lengths = [int(state.shape[0]) for state in states]
        if key not in self._layouts:
            named = [slot for _, found in trace.passes() for slot in found]
            keep = tuple(slot.site for slot in named if slot.measured.value is not None)
            named = [slot for slot in named if slot.measured.moments is not None]
            per_slot = [[e.shape[0] for e in s.measured.extra] for s in named]
            layout = Layout.of(named, per_slot, [*trace.not_fired(), *missing])
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


class _Weights:
    """The weights of one step: before it, their gradients in it, and after it."""

    def __init__(self, device: TorchDevice, watched: Sequence[Weight]) -> None:
        self._device = device
        self._watched = {id(w.variable): w for w in watched}
        self._measured: dict[tuple[int, str], Any] = {}
        self._before: dict[int, Any] = {}
        for key, weight in self._watched.items():
            value = weight.variable.value.detach()
            if "weight" in weight.ports:
                self._measure(weight, "weight", value)
            if "update" in weight.ports:
                self._before[key] = value.clone()

    def _measure(self, weight: Weight, port: str, value: Any, beside: Any = None) -> None:
        coming = Coming(weight.ports[port][1])
        with _kept_from_the_step(coming):
            coming.measured = self._device.measure(value, weight.entry, port, coming.wanted, beside)
        self._measured[id(weight.variable), port] = coming

    def given(self, variable: Any, gradient: Any, scale: Any) -> None:
        """Measure a gradient that an optimizer is given."""
        weight = self._watched.get(id(variable))
        if weight is None or "weight_gradient" not in weight.ports:
            return
        coming = Coming(weight.ports["weight_gradient"][1])
        scales = () if scale is None else (scale,)
        with _kept_from_the_step(coming):
            self._device.measure_gradient(coming, gradient, weight.entry, "weight_gradient", scales)
        self._measured[id(variable), "weight_gradient"] = coming

    def slots(self) -> list[Slot]:
        """Everything measured, once the step is done."""
        found: list[Slot] = []
        for key, weight in self._watched.items():
            if key in self._before:
                before = self._before[key].float()
                change = weight.variable.value.detach().float() - before
                self._measure(weight, "update", change, before)
            for port, (site, wanted) in weight.ports.items():
                measured = self._measured.get((key, port)) or Coming(wanted)
                found.append(Slot(site, measured, wanted))
        return found


def _missing(slot: Slot) -> Unseen | None:
    """The report of a gradient that did not come."""
    if not isinstance(slot.measured, Coming) or slot.measured.measured is not None:
        return None
    if slot.measured.failure is not None:
        return slot.measured.failure.at(slot.site.name or slot.site.path)
    return without_gradient(slot.site.name)


def _came(slot: Slot) -> Slot:
    """A slot with what came, where it was waited for."""
    if not isinstance(slot.measured, Coming):
        return slot
    return Slot(slot.site, slot.measured.measured, slot.measured.wanted)
