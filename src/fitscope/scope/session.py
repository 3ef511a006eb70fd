"""One scope at work on one model: its engine, its run, and the steps it has counted."""

from __future__ import annotations

import itertools
import math
import os
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fitscope.capsules.keeper import Keeper
from fitscope.edits.when import Moment
from fitscope.engine import keras_internals
from fitscope.engine.build import Engine, build, caution, shares_the_step
from fitscope.engine.entry import named
from fitscope.engine.layout import Row
from fitscope.engine.plan import Plan, Want
from fitscope.errors import (
    EditError,
    FitscopeError,
    SelectionError,
    StatisticError,
    UnsupportedError,
)
from fitscope.run.writer import RunWriter
from fitscope.scope.capsule import Capsule
from fitscope.scope.drain import Drain, Logs, Pending
from fitscope.scope.editor import Editor
from fitscope.scope.graph import describe_model
from fitscope.scope.instructions import Instruction
from fitscope.scope.schedule import Schedule
from fitscope.scope.stopping import StopOn
from fitscope.scope.taps import tapped_sites, taps_in_steps
from fitscope.scope.tell import tell
from fitscope.select.nearest import no_match
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen
from fitscope.values.record import Record
from fitscope.values.stream import Stream

ATTRIBUTES = {
    "train": "train_function",
    "validation": "test_function",
    "test": "test_function",
    "predict": "predict_function",
}
_STEPS = {"train": "train", "validation": "test", "test": "test", "predict": "predict"}


class Session:
    """Puts the observed function in the model's place for single executions.

    Args:
        model: a compiled Keras model.
        instructions: what to do.
        writer: the run.
        schedule: makes the schedule of one phase.
        editor: changes what the steps compute; None where nothing is changed.
        fallback: what to do instead where the steps cannot be observed so; empty for nothing.
    """

    def __init__(
        self,
        model: Any,
        instructions: Sequence[Instruction],
        writer: RunWriter,
        schedule: Callable[[], Schedule],
        editor: Editor | None = None,
        fallback: Sequence[Instruction] = (),
    ) -> None:
        self.model = model
        self.editor = editor
        self.writer = writer
        capsules = [i for i in instructions if isinstance(i, Capsule)]
        self.keeper = Keeper(capsules[0], writer.path) if capsules and writer.path else None
        """What keeps a step for a capsule; None where none is asked for."""
        self.drain = Drain(writer, self._stop_training, weakref.ref(model), self.keeper)
        self.broken: str | None = None
        self.given_up: str | None = None
        """Why the fallback is in use; None where it is not."""
        self._fallback = tuple(fallback)
        self.steps = dict.fromkeys(ATTRIBUTES, 0)
        self.observed_steps = dict.fromkeys(ATTRIBUTES, 0)
        self.seconds = dict.fromkeys(ATTRIBUTES, 0.0)
        """Of all executions but the first plain and the first observed one, which compile."""
        self.compile_seconds = 0.0
        self.around_seconds = 0.0
        """What watching took before and after trainings."""
        self._unpaid = 0.0
        """Of that, what no schedule was told yet."""
        self._observed: Counter[tuple[str, bool]] = Counter()
        """Observed executions among those of `seconds`, by phase and whether they were edited."""
        self.epoch = 0
        self._instructions = tuple(instructions)
        self._takers = [i for i in self._instructions if isinstance(i, (Record, StopOn, Stream))]
        self._watching = len(self._takers) < len(self._instructions)
        self.pass_steps: dict[str, int | None] = dict.fromkeys(ATTRIBUTES)
        """How many steps an epoch or evaluation has, where it is known beforehand."""
        self._make_schedule = schedule
        self._schedules: dict[tuple[str, bool], Schedule] = {}
        self._plan: Plan | None = None
        self._engine: Engine | None = None
        self._edited_engine: Engine | None = None
        self._functions: dict[tuple[str, bool], tuple[Any, Callable[..., Any]]] = {}
        self._base = dict.fromkeys(ATTRIBUTES, 0)
        self._armed: tuple[str, Any, Callable[..., Any]] | None = None
        self._timer: tuple[float, bool] | None = None
        self._first, self._phase, self._emitted = 0, "", False
        self._decided = 0
        """The first step of the execution that was decided on last."""
        self._observing = False
        self._editing = False
        """Whether anything is edited in the execution that was decided on last."""
        self._alone = False
        """Whether that execution is one call of a loop that is not Keras' own."""
        self._reached: int | None = None
        """Where the execution before the last one ended, if its rows told."""
        self._trained = False
        """Whether an execution was begun, observed or not."""
        self._cautioned = False
        self.pid = os.getpid()
        self.on_batch: Callable[[Any], None] | None = None
        """Called once with the batch of the next observed training step, where it is in reach."""
        self._first_batch: Any = None

    def schedule(self, phase: str) -> Schedule:
        """The schedule of a phase: edited executions and others are functions of their own."""
        key = phase, self._editing
        if key not in self._schedules:
            self._schedules[key] = self._make_schedule()
        return self._schedules[key]

    def spent(self, seconds: float) -> None:
        """Note what watching took before or after a training."""
        self.around_seconds += seconds
        self._unpaid += seconds

    def plan(self) -> Plan | None:
        """The plan, once the model is built; raises for a selection that matches nothing.

        A model that still says it is not built when it has trained never will, for its own `call`
        is not used. Its layers are.
        """
        if self._plan is None and (self.model.built or self._trained):
            self._plan = make_plan(self.model, self._instructions)
            self.writer.set_graph(describe_model(self.model, self._plan))
            self.writer.add_unseen(self._plan.static_unseen)
        return self._plan

    def before(self, phase: str, batch: int) -> None:
        """Called before an execution: puts the observed function in place when it is due."""
        if self._decide(phase, batch) or self._editing or self._passes():
            self._arm(phase)

    def dispatcher(self, phase: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """A function that stands in for `plain` and observes the calls that are due."""
        batch = itertools.count(step=int(self.model.steps_per_execution))

        def dispatch(*args: Any) -> Any:
            self._decide(phase, next(batch))
            self._alone = True  # Keras begins its averages anew in each of these calls
            outputs = self._run(phase, plain, args)
            if self.schedule(phase).calibrates():
                self._wait(outputs)
            # What the caller does between two calls is not the time of a step.
            self._close_timer(phase, time.perf_counter())
            return outputs

        return dispatch

    def _decide(self, phase: str, batch: int) -> bool:
        """Whether the execution that starts at this batch is observed."""
        schedule = self.schedule(phase)
        if self._timer is not None and schedule.calibrates():
            self._wait()
        now = time.perf_counter()
        self._close_timer(phase, now)
        length = int(self.model.steps_per_execution)
        first = self._base[phase] + batch
        self.steps[phase] = first + length
        self._reached = self._first if self._emitted and self._phase == phase else None
        self._first = self._decided = first
        self._phase = phase
        self._emitted = self._observing = self._editing = self._alone = False
        if self.editor is not None:
            self._editing = self.editor.decide(self._moments(phase, first, length))
            schedule = self.schedule(phase)
            self.plan()
        if self._unpaid and phase == "train":
            schedule.spent(self._unpaid)
            self._unpaid = 0.0
        self.drain.beat()
        if self.broken is not None or os.getpid() != self.pid:
            return False
        values = self._editing and self.editor is not None and self.editor.has_objectives
        due = ((self._watching or values) and schedule.due(first, length)) or any(
            self._due(phase, step) for step in range(first, first + length)
        )
        observing = self._observing = due and self.plan() is not None
        self._trained = True
        self._timer = (now, observing)
        return observing

    def _moments(self, phase: str, first: int, length: int) -> list[Moment]:
        """The steps of an execution, as the schedules of edits see them."""
        trained = self.steps["train"]
        return [
            Moment(step, self.epoch, phase, step if phase == "train" else trained)
            for step in range(first, first + length)
        ]

    def _due(self, phase: str, step: int) -> list[Record | StopOn | Stream]:
        """The instructions that want the values of a step."""
        place, length = step - self._base[phase], self.pass_steps[phase]
        done = self.keeper is None or self.keeper.is_done
        takers = [t for t in self._takers if not (done and isinstance(t, Capsule))]
        return [t for t in takers if t.is_due(phase, step, place, length)]

    def end_of_pass(self, phase: str, known_steps: int | None, *, ran_out: bool = False) -> None:
        """An epoch or evaluation is over.

        Args:
            phase: the phase.
            known_steps: its length, where Keras knows it.
            ran_out: whether its data came to an end that Keras did not know beforehand. On JAX and
                TensorFlow Keras then began one more execution, and found nothing for it.
        """
        self._close_timer(phase, time.perf_counter())
        if self._phase == phase:
            # With steps_per_execution the last execution may have been a shorter one: Keras may
            # know the number of steps, and the rows of an observed execution tell it.
            if self._emitted:
                self.steps[phase] = self._first
            elif (ran_out or self._observing) and self.broken is None:
                self.steps[phase] = self._first if self._reached is None else self._reached
            self._phase, self._emitted = "", False
        count = self.steps[phase] - self._base[phase]
        if known_steps is not None:
            count = min(count, known_steps)
        self._base[phase] += count
        self.steps[phase] = self._base[phase]
        if self.editor is not None:
            self.editor.end_of_pass(phase, self.steps[phase])
        if count and self._takers:
            self.drain.end_of_pass(phase)

    def restart_pass(self, phase: str) -> None:
        """A pass begins anew after one that may have been interrupted."""
        self._disarm()
        self._timer = None
        self._base[phase] = self.steps[phase]

    def _run(self, phase: str, plain: Callable[..., Any], args: Any) -> Any:
        """Run the execution that was decided on, edited or not, observed or not."""
        if self._editing and self.editor is not None:
            plain = self.editor.function(phase, _STEPS[phase], plain)
        if self._observing:
            return self._observe(phase, plain, args)
        return self._pass(phase, plain)(*args) if self._passes() else plain(*args)

    def _passes(self) -> bool:
        """Whether an execution that is neither observed nor edited has wrappers in it, too."""
        usable = self.broken is None and os.getpid() == self.pid
        return usable and not self._editing and shares_the_step(self.model)

    def _pass(self, phase: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """What is run in place of `plain` in an execution that is not observed."""
        try:
            if self.plan() is None:
                return plain
            self._function(phase, plain)
            engine = self._engine
            passing = None if engine is None else engine.passing(_STEPS[phase], plain)
        except (EditError, SelectionError, StatisticError):
            raise
        except Exception as error:
            self._break(error)
            return plain
        return plain if passing is None else passing

    def _observe(self, phase: str, plain: Callable[..., Any], args: Any) -> Any:
        """Run one execution through the observed function in place of `plain`."""
        try:
            function = self._function(phase, plain)
        except (EditError, SelectionError, StatisticError):
            raise
        except Exception as error:
            self._break(error)
            return plain(*args)
        if phase == "train" and self.on_batch is not None and not _leaves_the_step():
            args, on_batch, self.on_batch = self._with_first_batch(args), self.on_batch, None
            if self._first_batch is not None:
                on_batch(self._first_batch)
                self._first_batch = None
        if phase == "train":
            self._keep_state(args)
        outputs = function(*args)
        if phase == "train":
            self._keep_logs(outputs)
        return outputs

    def prepare(self) -> None:
        """Called before a training, while the variables hold their values."""
        if self.keeper is not None and os.getpid() == self.pid:
            self._guard_keeper(self.keeper.prepare, self.model)

    def _keep_state(self, args: Any) -> None:
        if self.keeper is not None:
            self._guard_keeper(self.keeper.before, self.model, self._first, self.epoch, args)

    def _guard_keeper(self, function: Callable[..., Any], *args: Any) -> None:
        """What a capsule cannot keep is told once, and the training goes on."""
        if self.keeper is None:
            return
        if self.keeper.is_done:
            self.keeper.newest = None
            return
        try:
            function(*args)
        except Exception as error:
            self.keeper.is_done, self.keeper.newest = True, None
            known = isinstance(error, FitscopeError)
            told = str(error) if known else traceback.format_exc(limit=-6)
            tell(f"fitscope keeps no capsule; training goes on. {told}")

    def _with_first_batch(self, args: Any) -> Any:
        """Take the batch of this step out of the arguments, and give arguments that still hold it.

        TensorFlow takes its batches inside the compiled function; see `_emit`.
        """
        backend = keras_internals.backend_name()
        if backend == "torch" and args and isinstance(args[0], (list, tuple)):
            self._first_batch = args[0][0] if len(args[0]) == 1 else args[0]
        elif backend == "jax" and len(args) == 2 and hasattr(args[1], "__next__"):
            state, iterator = args
            for batch in iterator:
                self._first_batch = batch
                return state, itertools.chain([batch], iterator)
        return args

    def _keep_logs(self, outputs: Any) -> None:
        """The loss and metrics of the step just observed; read on the drain thread."""
        logs = outputs[0] if isinstance(outputs, tuple) else outputs  # on JAX the state follows
        last = self._first - 1
        if self._emitted and isinstance(logs, dict):
            place = 1 if self._alone else last - self._base["train"] + 1
            self.drain.put_logs(Logs(last, self.epoch, place, dict(logs)))

    def finish(self) -> None:
        """Write what is waiting; nothing is left on the model and no thread is left running."""
        self._disarm()
        self._timer = None
        if self._trained and self._plan is None and self.broken is None:
            self.writer.add_unseen([_not_built(self.model.name)])
        if self.editor is not None:  # a pass that was broken off had no end
            for phase, steps in self.steps.items():
                self.editor.end_of_pass(phase, steps)
        self.drain.stop()
        if self.keeper is not None:
            self.keeper.newest = None

    def cost(self) -> dict[str, float]:
        """How much was observed and what it cost; see `Scope.cost`."""
        steps, observed = sum(self.steps.values()), sum(self.observed_steps.values())
        costs = {key: schedule.cost() for key, schedule in self._schedules.items()}
        known = [self._observed[k] * cost for k, cost in costs.items() if cost is not None]
        # Where every step is observed there is nothing to compare with.
        extra = sum(known) if known or not observed else math.nan
        total = sum(self.seconds.values())
        return {
            "steps": steps,
            "observed_steps": observed,
            "seconds": extra,
            "share_of_time": extra / (total - extra) if total else extra,
            "compile_seconds": self.compile_seconds,
            "around_seconds": self.around_seconds,
        }

    def _arm(self, phase: str) -> None:
        attribute = ATTRIBUTES[phase]
        plain = getattr(self.model, attribute)
        if getattr(plain, "fitscope_once", False):
            error = UnsupportedError(
                "another Scope observes the same fit. Give all instructions to one Scope."
            )
            if self._editing:
                raise error
            self._break(error)
            return
        history = getattr(self.model, "history", None)

        def once(*args: Any) -> Any:
            # Back in place before anything runs, so that not even an error leaves a trace.
            armed = self._armed is not None and self._armed[2] is once
            setattr(self.model, attribute, plain)
            self._armed = None
            # A fit that was interrupted before this step may have left this function behind; the
            # next fit is not to be observed, and has a history of its own.
            if not armed or getattr(self.model, "history", None) is not history:
                return plain(*args)
            return self._run(phase, plain, args)

        once.fitscope_once = True  # type: ignore[attr-defined]
        self._armed = (attribute, plain, once)
        setattr(self.model, attribute, once)

    def _disarm(self) -> None:
        if self._armed is None:
            return
        attribute, plain, once = self._armed
        self._armed = None
        if getattr(self.model, attribute) is once:
            setattr(self.model, attribute, plain)

    def _function(self, phase: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        key = phase, self._editing
        known = self._functions.get(key)
        # Compiling the model anew, or unfreezing layers, gives it another function.
        if known is not None and known[0] is plain:
            return known[1]
        if self._editing and self.editor is not None:
            plan = make_plan(self.model, self._instructions, self.editor.wants(phase))
            engine = self._edited_engine = build(self.model, plan, self.editor.edits(phase))
        else:
            if self._engine is None or known is not None:
                wanted = self.on_batch is not None and _leaves_the_step()
                self._plan = make_plan(self.model, self._instructions, first_data=wanted)
                self._engine = build(self.model, self._plan)
                self._functions.clear()
            engine = self._engine
        if not self._cautioned:
            self._cautioned = True
            if (words := caution(self.model, edits=self.editor is not None)) is not None:
                tell(words)
        function = engine.observed(_STEPS[phase], plain, self._emit, self._break)
        self._functions[key] = (plain, function)
        return function

    def _emit(self, row: Row) -> None:
        for array in row.arrays():
            start = getattr(array, "copy_to_host_async", None)
            if start is not None:
                start()
        phase, step = self._phase, self._first
        if phase == "train" and self.on_batch is not None and row.kept is not None:
            on_batch, self.on_batch = self.on_batch, None
            on_batch(row.kept.data)
        takers = self._due(phase, step)
        self._first += 1
        self._emitted = True
        if self._wants(step) or takers:
            self.observed_steps[phase] += 1
            streams = [t for t in takers if isinstance(t, Stream)]
            records = [t for t in takers if isinstance(t, Record)]
            stops = [t for t in takers if isinstance(t, StopOn)]
            absent: frozenset[str] = frozenset()
            if self._editing and self.editor is not None:
                absent = self.editor.absent(step - self._decided)
            snapshot = None
            if self.keeper is not None and phase == "train" and not self.keeper.is_done:
                snapshot = self.keeper.newest
            looks = any(stop.data for stop in stops)
            if row.kept is not None and snapshot is None and not (streams or records or looks):
                row = row.without_kept()  # it need not wait, and hold its memory
            self.drain.put(
                Pending(
                    row, step, self.epoch, phase, streams, records, stops,
                    absent=absent, snapshot=snapshot,
                )
            )  # fmt: skip

    def _stop_training(self) -> None:
        self.model.stop_training = True

    def _wants(self, step: int) -> bool:
        """With several steps in one execution, only those of `every` are kept."""
        every = getattr(self.schedule(self._phase), "n", 1)
        return step % every == 0

    def _break(self, error: BaseException) -> None:
        """Observing failed: say so once and leave the training alone from here on."""
        if self.broken is not None:
            return
        text = "".join(traceback.format_exception(error, limit=-6))
        told = str(error) if isinstance(error, FitscopeError) else text
        if self._fallback:
            self.given_up = f"{type(error).__name__}: {error}"
            self._instructions, self._fallback = self._fallback, ()
            self._plan = self._engine = None
            self._functions.clear()
            kept = ", ".join(repr(each.describe()["of"]) for each in self._instructions)
            tell(
                "fitscope could not observe all of this model's steps; from here on it watches "
                f"{kept} alone. The cause was:\n{told}"
            )
            return
        self.broken = f"{type(error).__name__}: {error}"
        tell(
            "fitscope could not observe this model; training goes on without it. What was "
            f"recorded so far is kept. The cause was:\n{told}"
        )

    def _close_timer(self, phase: str, now: float) -> None:
        if self._timer is not None:
            began, observed = self._timer
            if self.schedule(phase).took(now - began, observed=observed):
                self.seconds[phase] += now - began
                self._observed[phase, self._editing] += observed
            elif observed:
                self.compile_seconds += now - began
        self._timer = None

    def _wait(self, outputs: Any = None) -> None:
        """Let the device finish, so that the time of a step is that step's own."""
        engine = self._engine or self._edited_engine
        if engine is not None:
            engine.wait(outputs)


def _leaves_the_step() -> bool:
    """Whether a batch is known only inside the compiled function, and has to be handed out."""
    return keras_internals.backend_name() == "tensorflow"


def make_plan(
    model: Any,
    instructions: Sequence[Instruction],
    edits: Sequence[Want] = (),
    *,
    first_data: bool = False,
) -> Plan:
    """The plan of the instructions; an instruction that can match nothing is an error.

    Args:
        model: a built model.
        instructions: what is observed.
        edits: by which the layers are wrapped that are edited.
        first_data: whether what the first step is given is wanted, whatever the instructions say.
    """
    wants = [
        Want(
            i.selector.matches, i.selector.may_match, frozenset(i.ports),
            i.statistics, i.rows, i.measures,
        )
        for i in instructions
        if i.selector is not None
    ]  # fmt: skip
    plan = Plan(
        model,
        [*wants, *edits],
        batch=any(i.batch for i in instructions),
        data=any(isinstance(i, StopOn) and i.data for i in instructions),
        first_data=first_data,
    )
    taps: list[Site] | None = None
    for each in instructions:
        if each.selector is None:
            continue
        sites = [named(e.site(None, p, (), (), ""), None) for e in plan.entries for p in each.ports]
        if any(each.selector.may_match(site) for site in sites):
            continue
        if taps is None:
            taps = tapped_sites(model)
        if taps is None or taps_in_steps(model):
            plan.deferred.append(each.selector)  # the report of the first step tells
        elif not any(map(each.selector.may_match, taps)):
            raise no_match(each.selector, [*sites, *taps])
    return plan


def _not_built(name: str) -> Unseen:
    return Unseen(
        name,
        "was not built before the first step, and there was no second one",
        "build the model, or call it on one batch, before fit",
    )
