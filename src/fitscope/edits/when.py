"""When an edit or an objective acts, and how strongly: decided on the host, before each step."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fitscope.errors import EditError


@dataclasses.dataclass(frozen=True)
class Moment:
    """A step that is about to run.

    Attributes:
        step: its number in its phase, from 0, over all `fit`s of the scope.
        epoch: the epoch, from 0, over all `fit`s of the scope; that of the training around it for
            validation, and of the last training for evaluation and prediction.
        phase: `"train"`, `"validation"`, `"test"` or `"predict"`.
        train_step: training steps before it; in training, `step` itself.
    """

    step: int
    epoch: int
    phase: str
    train_step: int


class When:
    """A schedule. `a & b` acts where both do, with the product of their strengths."""

    def strength(self, moment: Moment) -> float | None:
        """How strongly to act in a step; None for not at all."""
        raise NotImplementedError

    def __and__(self, other: When) -> When:
        if not isinstance(other, When):
            return NotImplemented
        return Both(self, other)

    def describe(self) -> dict[str, Any]:
        """For the run: the kind of schedule and its settings."""
        fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        return {"kind": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields}}


@dataclasses.dataclass(frozen=True)
class Always(When):
    """In every step."""

    def strength(self, moment: Moment) -> float | None:
        del moment
        return 1.0

    def __repr__(self) -> str:
        return "always"


@dataclasses.dataclass(frozen=True)
class Epochs(When):
    """Made by `epochs`."""

    start: int
    stop: int | None

    def strength(self, moment: Moment) -> float | None:
        inside = moment.epoch >= self.start and (self.stop is None or moment.epoch < self.stop)
        return 1.0 if inside else None

    def __repr__(self) -> str:
        return f"epochs({self.start}, {self.stop})"


@dataclasses.dataclass(frozen=True)
class Steps(When):
    """Made by `steps`."""

    start: int
    stop: int | None
    every: int

    def strength(self, moment: Moment) -> float | None:
        step = moment.train_step
        inside = step >= self.start and (self.stop is None or step < self.stop)
        return 1.0 if inside and (step - self.start) % self.every == 0 else None

    def __repr__(self) -> str:
        return f"steps({self.start}, {self.stop}, {self.every})"


@dataclasses.dataclass(frozen=True)
class Ramp(When):
    """Made by `ramp`."""

    first: float
    last: float
    start: int
    stop: int
    unit: str

    def strength(self, moment: Moment) -> float | None:
        now = moment.epoch if self.unit == "epochs" else moment.train_step
        part = (now - self.start) / (self.stop - self.start)
        return self.first + (self.last - self.first) * min(max(part, 0.0), 1.0)

    def __repr__(self) -> str:
        return f"ramp({self.first:g}, {self.last:g}, {self.unit}=({self.start}, {self.stop}))"


@dataclasses.dataclass(frozen=True)
class Probability(When):
    """Made by `probability`."""

    p: float
    seed: int

    def strength(self, moment: Moment) -> float | None:
        return 1.0 if _uniform(self.seed, moment.phase, moment.step) < self.p else None

    def __repr__(self) -> str:
        return f"probability({self.p:g}, seed={self.seed})"


@dataclasses.dataclass(frozen=True)
class Both(When):
    """Two schedules at once."""

    one: When
    other: When

    def strength(self, moment: Moment) -> float | None:
        found = [each.strength(moment) for each in (self.one, self.other)]
        return None if found[0] is None or found[1] is None else found[0] * found[1]

    def describe(self) -> dict[str, Any]:
        return {"kind": "Both", "of": [self.one.describe(), self.other.describe()]}

    def __repr__(self) -> str:
        return f"{self.one!r} & {self.other!r}"


@dataclasses.dataclass(frozen=True)
class Own(When):
    """A function of the user's: `(step, epoch)` to a strength, True, or None or False for off."""

    function: Callable[[int, int], float | bool | None]

    def strength(self, moment: Moment) -> float | None:
        found = self.function(moment.train_step, moment.epoch)
        if found is None or found is False:
            return None
        is_number = isinstance(found, (bool, int, float, np.number, np.bool_))
        strength = float(found) if is_number else math.nan
        if not math.isfinite(strength):
            raise EditError(
                f"The schedule {self!r} gave {found!r} for step {moment.train_step}: expected a "
                "finite strength, or None where nothing is to be edited."
            )
        return strength

    def __repr__(self) -> str:
        return getattr(self.function, "__qualname__", None) or repr(self.function)

    def describe(self) -> dict[str, Any]:
        return {"kind": "function", "name": repr(self)}


def epochs(start: int, stop: int | None = None) -> When:
    """From one epoch up to another, which is not in it any more: `epochs(2, 4)` is 2 and 3.

    Epochs are counted from 0, as Keras' callbacks do (its progress bar counts from 1), and go on
    counting in a second `fit` of the same scope.

    Args:
        start: the first epoch.
        stop: the first epoch after it; None for the rest of the training.

    Raises:
        EditError: these are no epochs.
    """
    return Epochs(*_range("epochs", start, stop))


def steps(start: int, stop: int | None = None, every: int = 1) -> When:
    """From one training step up to another, which is not in it any more.

    Steps are counted from 0, over epochs and over several `fit`s of the same scope. In validation
    and prediction it is the number of training steps before them.

    Args:
        start: the first step.
        stop: the first step after it; None for the rest of the training.
        every: every n-th step of these.

    Raises:
        EditError: these are no steps.
    """
    first, last = _range("steps", start, stop)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise EditError(f"steps(every={every!r}): expected a whole number of steps, 1 or more.")
    return Steps(first, last, every)


def ramp(
    first: float,
    last: float,
    *,
    steps: tuple[int, int] | None = None,
    epochs: tuple[int, int] | None = None,
) -> When:
    """A strength that goes evenly from one value to another; before and after, it stays there.

    Args:
        first: the strength up to the first step or epoch.
        last: the strength from the last one on.
        steps: the training steps between which it changes, in every step.
        epochs: the epochs between which it changes, from epoch to epoch.

    Raises:
        EditError: these are no strengths, steps or epochs.

    Example:
        `fs.edit("features", fs.ReverseGradient(), when=fs.ramp(0, 1, epochs=(0, 10)))`
    """
    if (steps is None) == (epochs is None):
        raise EditError("ramp(...): give steps=(a, b) or epochs=(a, b), one of them.")
    unit, ends = ("steps", steps) if steps is not None else ("epochs", epochs)
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise EditError(f"ramp({unit}={ends!r}): expected two whole numbers, such as (0, 10).")
    start, stop = _range(f"ramp: {unit}", *ends)
    if stop is None:
        raise EditError(f"ramp({unit}={ends!r}): expected two whole numbers, such as (0, 10).")
    for value in (first, last):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise EditError(f"ramp({first!r}, {last!r}): expected two numbers.")
    return Ramp(float(first), float(last), start, stop, unit)


def probability(p: float, seed: int = 0) -> When:
    """In each step with some probability, the same steps for the same seed.

    Args:
        p: between 0 and 1.
        seed: a whole number; two edits with one seed act in the same steps.

    Raises:
        EditError: this is no probability.
    """
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise EditError(f"probability({p!r}): expected a number between 0 and 1.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise EditError(f"probability(seed={seed!r}): expected a whole number.")
    return Probability(float(p), seed)


def as_when(when: Any) -> When:
    """A schedule of what the user gave.

    Raises:
        EditError: it is none.
    """
    if when is None:
        return Always()
    if isinstance(when, When):
        return when
    if callable(when) and when not in (epochs, steps, ramp, probability):
        function: Callable[[int, int], Any] = when
        return Own(function)
    raise EditError(
        f"when={when!r}: expected fs.epochs(2, 4), fs.steps(100, 200), fs.ramp(0, 1, "
        "epochs=(0, 10)), fs.probability(0.5), several of them joined by &, or a function of step "
        "and epoch that gives a strength or None."
    )


def words(moment: Moment) -> tuple[int, int]:
    """Two numbers below 2**30 that belong to a step."""
    mixed = _mix((zlib.crc32(moment.phase.encode()) << 40) ^ moment.step)
    return mixed & 0x3FFFFFFF, (mixed >> 32) & 0x3FFFFFFF


def _uniform(seed: int, phase: str, step: int) -> float:
    """A number in [0, 1) that belongs to a seed, a phase and a step."""
    mixed = _mix(_mix(seed & _64) ^ (zlib.crc32(phase.encode()) << 40) ^ step)
    return (mixed >> 11) / (1 << 53)


_64 = (1 << 64) - 1


def _mix(state: int) -> int:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): neighbours come out far apart."""
    state = (state + 0x9E3779B97F4A7C15) & _64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _64
    return state ^ (state >> 31)


def _range(what: str, start: Any, stop: Any) -> tuple[int, int | None]:
    for value in (start, stop):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not whole and not (value is None and value is stop and start is not None):
            raise EditError(
                f"{what}({start!r}, {stop!r}): expected whole numbers, 0 or more, the first one "
                "before the second."
            )
    if stop is not None and stop <= start:
        raise EditError(
            f"{what}({start!r}, {stop!r}) is empty: the second number is the first that is not in "
            f"it any more. Give ({start}, {start + 1}) for {start} alone."
        )
    return start, stop
