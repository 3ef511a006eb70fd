"""The Keras callback that holds the instructions."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import socket
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np

from fitscope._version import __version__
from fitscope.engine import keras_internals
from fitscope.errors import FitscopeError, UnsupportedError
from fitscope.rules.finding import Findings
from fitscope.rules.registry import RULES, findings
from fitscope.rules.settings import choose
from fitscope.run.claim import check_free
from fitscope.run.writer import RunWriter
from fitscope.scope.capsule import Capsule
from fitscope.scope.conclusion import Conclusion, say, warn_before
from fitscope.scope.drain import scalars
from fitscope.scope.editing import Change, EditInstruction, Objective, named
from fitscope.scope.editor import Editor, Handles
from fitscope.scope.facts import facts, with_batch
from fitscope.scope.graph import output_paths
from fitscope.scope.instructions import Instruction, Watch, watch
from fitscope.scope.preview import Preview
from fitscope.scope.preview import preview as make_preview
from fitscope.scope.scale_sample import ScaleSample
from fitscope.scope.schedule import Budget, Every, Schedule
from fitscope.scope.session import ATTRIBUTES, Session
from fitscope.scope.stopping import StopOn
from fitscope.scope.tell import tell
from fitscope.scope.weight_sample import WeightSample
from fitscope.select.unseen import Unseen
from fitscope.values.record import Record
from fitscope.values.stream import Stream

if TYPE_CHECKING:
    from fitscope.rules.fit import Fit
    from fitscope.run.reader import Run
    from fitscope.ui.show import Page


class Scope(keras.callbacks.Callback):
    """See what every layer of a model puts out, in the very steps that train it.

    Give it to `fit` (or `evaluate`, `predict`) as a callback. Some steps then run through a second
    compiled function that reduces the selected tensors to statistics on the device; all others run
    through Keras' own function, untouched. Training is bit-identical either way.

    Args:
        *instructions: what to do, made by `fs.watch`, `fs.record`, `fs.stream`, `fs.stop_on`,
            `fs.edit` and `fs.objective`; without any, every layer output is watched.
        run: a new directory to write the run to, or None to keep it in memory.
        budget: the share of training time that watching may take; it decides how many steps are
            observed.
        every: observe every n-th step instead, whatever it costs.
        rules: which rules look for faults: a dict from a rule's id to `False` (silence it) or its
            thresholds, rules of your own made by `fs.rule`, or a list of these. They come on top of
            the nearest `fitscope.toml`.
        ui: show the page (see `show`) as soon as the first `fit` begins; needs `run`.

    Raises:
        FitscopeError: an argument is not what is accepted.
        RunExistsError: the directory holds something, or a run is being written there.
        RunError: the directory cannot be looked into.
        UnsupportedError: this Keras, or its backend, cannot be observed.

    Example:
        ```python
        scope = fs.Scope(run="runs/first")
        model.fit(x, y, callbacks=[scope])
        scope.run.stats("conv*", "rms").to_pandas()
        ```
    """

    is_quiet = False
    """Whether findings are kept only, and printed by whoever made the scope."""

    # There is no hook at the end of batches: with one, Keras waits for every step's result.

    def __init__(
        self,
        *instructions: Instruction | Change,
        run: str | os.PathLike[str] | None = None,
        budget: float = 0.02,
        every: int | None = None,
        rules: Any = None,
        ui: bool = False,
    ) -> None:
        super().__init__()
        keras_internals.check()
        self._instructions, changes = _checked(instructions)
        self._changes = named(changes)
        self._handles = Handles(self._changes)
        self._schedule = _schedule(budget, every)
        self._config = {"budget": budget, "every": every}
        self._path = None if run is None else Path(run)
        _check_capsules(self._instructions, changes, self._path)
        if self._path is not None:
            check_free(self._path)
        self.runs: list[Run] = []
        """One run for each model this scope has watched, in order."""
        self._page: Page | None = None
        self._wants_page = _checked_ui(ui, self._path)
        self._session: Session | None = None
        self._fallback: tuple[Instruction, ...] = ()
        """What is done instead where the instructions cannot be carried out; nothing by default."""
        self._rules = choose(RULES, rules)
        self._conclusion = Conclusion(self._rules)
        self._weights: WeightSample | None = None
        self._scale: ScaleSample | None = None
        self._fitting = False
        self._looked = False
        """Whether model, settings and data of the model watched now were looked at."""
        self._last_epoch = -1
        self._epoch_shift = 0

    @property
    def run(self) -> Run:
        """The run of the model watched last.

        Raises:
            FitscopeError: nothing was watched yet.
        """
        if not self.runs:
            raise FitscopeError(
                "This scope has not seen a model yet, so it has no run. Give it to "
                "model.fit(..., callbacks=[scope]) first."
            )
        return self.runs[-1]

    @property
    def unseen(self) -> list[Unseen]:
        """What was selected but could not be seen, and why."""
        return self.run.unseen if self.runs else []

    @property
    def edits(self) -> Handles:
        """The edits and objectives by name; `scope.edits["noise"].strength = 0.3` sets one."""
        return self._handles

    @property
    def findings(self) -> Findings:
        """What is wrong with the training so far, the gravest first; printed, it is sentences."""
        return findings(self.run, self._rules) if self.runs else Findings()

    @property
    def cost(self) -> dict[str, float]:
        """What watching costs.

        Returns:
            `steps` so far, `observed_steps` among them, the `seconds` that watching added, and
            the `share_of_time` that this is of the plain training; both are measured, by
            comparing observed executions with plain ones beside them, and leave out the first of
            each kind, which compiles. They are NaN as long as there was nothing to compare: a
            short training, or one that is observed at every step.
            `compile_seconds` is what those first observed executions took, `around_seconds` what
            looking at model, data and record took before the first step of each training and after
            its last one.
        """
        if self._session is None:
            times = ("seconds", "share_of_time", "compile_seconds", "around_seconds")
            return {"steps": 0, "observed_steps": 0, **dict.fromkeys(times, 0.0)}
        return self._session.cost()

    @property
    def is_fitting(self) -> bool:
        """Whether a `fit` has begun and not told that it ended; an interrupted one never does."""
        return self._fitting

    @contextlib.contextmanager
    def attach(self, model: Any) -> Generator[Self]:
        """Observe `train_on_batch`, `test_on_batch` and `predict_on_batch` in a loop of your own.

        Args:
            model: a compiled and built model; inside the block its on-batch methods are observed
                as the scope's schedule says, and afterwards the model is as it was.

        Raises:
            UnsupportedError: the model is not built, or not compiled.

        Example:
            ```python
            with scope.attach(model):
                for x, y in batches:
                    model.train_on_batch(x, y)
            ```
        """
        if not model.built or not getattr(model, "compiled", False):
            what = "compiled" if model.built else "built"
            raise UnsupportedError(
                f"Scope.attach({model.name!r}): the model is not {what}. Call model.compile(...), "
                "and build it by calling it on a batch."
            )
        self.set_model(model)
        self.set_params({})  # those of an earlier fit, which may have printed
        with self._counted():
            session = self._begin("train")
            self._examine()
        placed: list[tuple[str, Any, Any]] = []
        try:
            for phase in ("train", "test", "predict"):
                session.restart_pass(phase)
                attribute = ATTRIBUTES[phase]
                before = getattr(model, attribute)
                getattr(model, f"make_{attribute}")()
                plain = getattr(model, attribute)
                dispatch = session.dispatcher(phase, plain)
                setattr(model, attribute, dispatch)
                placed.append((attribute, before or plain, dispatch))
            yield self
        finally:
            for attribute, plain, dispatch in placed:
                if getattr(model, attribute) is dispatch:
                    setattr(model, attribute, plain)
            for phase in ("train", "test", "predict"):
                session.end_of_pass(phase, None)
            with self._counted():
                self._end()
                self._conclude()

    def preview(self, model: Any, batch_size: int = 32) -> Preview:
        """List what this scope would see in `model`; nothing is run.

        Args:
            model: a built model.
            batch_size: the batch size that shapes and bytes are given for.

        Raises:
            SelectionError: an instruction matches nothing in this model.
            UnsupportedError: the model is not built.
        """
        return make_preview(
            model, *self._instructions, batch_size=batch_size, changes=self._changes
        )

    def latest(self, phase: str = "train") -> dict[str, dict[str, Any]]:
        """The statistics of the last recorded step of a phase.

        Returns:
            By site, every moment by name, and `"histogram"`: counts `[2048]` in the universal
            magnitude bins.
        """
        if self._session is None:
            return {}
        return self._session.drain.latest_values(phase)

    def close(self, status: str = "finished") -> None:
        """Write what is waiting and mark the end of the run; a later `fit` begins another one.

        Nobody has to call it: a run is at rest between two `fit`s, and readable at any time.

        Args:
            status: what `run.status` says from now on.
        """
        self._close(status)
        if self._page is not None:
            self._page.close()
            self._page = None

    def show(self, *, open_browser: bool = True) -> Page:
        """Show this scope's runs in the browser, live.

        The page is served by a process of its own, which ends with this one; afterwards
        `fitscope ui` shows the same runs.

        Args:
            open_browser: whether to open the link in a browser.

        Returns:
            The page: `url`, and `close()`.

        Raises:
            FitscopeError: the scope keeps its run in memory, or the page cannot be served.
        """
        from fitscope.ui.show import show

        if self._path is None:
            raise FitscopeError(
                "Scope.show(): this scope keeps its run in memory, and the page reads run "
                'directories. Give it one: fs.Scope(..., run="runs/first").'
            )
        if self._page is None or not self._page.is_open:
            self._path.mkdir(parents=True, exist_ok=True)
            self._page = show([self._path], beside=True, open_browser=open_browser)
        return self._page

    # What Keras calls.

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._fitting = True
        self._epoch_shift = -1  # decided by the first epoch's number
        with self._counted():
            self._begin("train")
            self._examine()
        self._show_when_wanted()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._epoch_shift < 0:
            # A second fit counts from 0 again, unless it is told where it continues.
            self._epoch_shift = 0 if epoch > self._last_epoch else self._last_epoch + 1
        self._last_epoch = epoch + self._epoch_shift
        if self._session is not None:
            self._session.epoch = self._last_epoch
            self._session.pass_steps["train"] = (self.params or {}).get("steps")

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._session is not None:
            self._session.before("train", batch)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        # Validation has run by now, and has ended the training pass.
        if self._session is not None:
            self._end_of_epoch(self._session)
            self._session.writer.add_history(
                {
                    "event": "epoch",
                    "epoch": self._last_epoch,
                    "step": self._session.steps["train"],
                    "logs": scalars(dict(logs or {})),
                }
            )

    def _end_of_epoch(self, session: Session) -> None:
        known = (self.params or {}).get("steps")
        # torch looks for the next batch before it begins a step; stop_training ends an epoch early.
        looks_ahead = keras_internals.backend_name() == "torch"
        stopped = bool(getattr(session.model, "stop_training", False))
        session.end_of_pass(
            "train", known, ran_out=known is None and not looks_ahead and not stopped
        )

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._fitting = False
        with self._counted():
            self._end()
            self._conclude()

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if self._fitting and self._session is not None:
            self._end_of_epoch(self._session)
        self._begin(self._test_phase)
        if not self._fitting and not self._looked:
            self._examine_for_evaluation()

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._session is not None:
            self._session.before(self._test_phase, batch)

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if self._session is not None:
            self._session.end_of_pass(self._test_phase, None)
        if not self._fitting:
            self._end()

    def on_predict_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._begin("predict")

    def on_predict_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._session is not None:
            self._session.before("predict", batch)

    def on_predict_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if self._session is not None:
            self._session.end_of_pass("predict", None)
        if not self._fitting:
            self._end()

    @property
    def _test_phase(self) -> str:
        return "validation" if self._fitting else "test"

    def _show_when_wanted(self) -> None:
        if not self._wants_page or self._page is not None:
            return
        self._wants_page = False
        try:
            sys.stderr.write(f"fitscope page: {self.show().url}\n")
        except Exception:
            tell(
                "The page could not be shown; training goes on, and `fitscope ui` shows the run. "
                "The cause was:\n" + traceback.format_exc(limit=-3)
            )

    @contextlib.contextmanager
    def _counted(self) -> Generator[None]:
        """Around work before or after a training: the budget pays for it, too."""
        began = time.perf_counter()
        yield
        if self._session is not None:
            self._session.spent(time.perf_counter() - began)

    def _begin(self, phase: str) -> Session:
        # `self.model` would bring all state back to the host on JAX; the attribute does not.
        model = self._model
        if self._session is None or self._session.model is not model:
            self._close()
            self._session = self._open(model)
        self._session.restart_pass(phase)
        if phase == "train":
            self._session.prepare()
        if self._session.editor is not None:
            self._session.editor.check()
        self._session.drain.start()
        return self._session

    def _open(self, model: Any) -> Session:
        writer = RunWriter(self._next_path(), config=self._describe(model))
        self.runs.append(writer.run)
        self._last_epoch = -1
        self._looked = False
        self._conclusion = Conclusion(self._rules)
        editor = None
        if self._changes:
            editor = Editor(model, self._changes, self._handles, writer.add_history)
        return Session(model, self._instructions, writer, self._schedule, editor, self._fallback)

    def _next_path(self) -> Path | None:
        if self._path is None or not self.runs:
            return self._path
        return self._path.with_name(f"{self._path.name}-{len(self.runs) + 1}")

    def _describe(self, model: Any) -> dict[str, Any]:
        return {
            **self._config,
            "instructions": [i.describe() for i in (*self._instructions, *self._changes)],
            "model": model.name,
            "model_class": type(model).__name__,
            "outputs": output_paths(
                model, {id(x): x.name for x in keras_internals.sublayers(model)}
            )
            if model.built
            else [],
            "backend": keras_internals.backend_name(),
            "keras": keras.__version__,
            "fitscope": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "platform": f"{platform.system()} {platform.machine()}",
            "host": socket.gethostname(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else [],
        }

    def _end(self) -> None:
        """A fit, evaluate or predict is over: nothing of it is left running or unwritten."""
        if self._session is not None:
            self._session.finish()

    def _examine(self) -> None:
        """Look at model, settings and data before the first step, and change nothing."""
        session = self._session
        if session is None or os.getpid() != session.pid:
            return
        self._looked = True
        self._guarded(self._look, session, None)
        self._weights = self._guarded(WeightSample, session.model)
        self._scale = self._guarded(ScaleSample, session.model, session.steps["train"])

    def _examine_for_evaluation(self) -> None:
        """An evaluation of a model that was not trained here: look whether all belongs together."""
        session = self._session
        if session is None or os.getpid() != session.pid:
            return
        self._looked = True

        def look() -> None:
            known = dataclasses.replace(facts(session.model), trains=False)
            self._conclusion.before_training(known, session.writer)

        self._guarded(look)

    def _look(self, session: Session, fit: Fit | None) -> None:
        """Let the contract's rules look: at data in batches, when the first passes by."""
        known = facts(session.model) if fit is None else fit
        if fit is None and not known.inputs:

            def look_again(batch: Any) -> None:
                self._guarded(self._look, session, with_batch(known, batch))

            session.on_batch = look_again
        session.writer.add_history({"event": "fit", **known.summary()})
        found = self._conclusion.before_training(known, session.writer)
        if (self.params or {}).get("verbose") and not self.is_quiet:
            warn_before(found)

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        """Nothing that goes wrong here may reach the training."""
        try:
            return function(*args)
        except Exception:
            tell(
                "fitscope could not look at the training before its first step; it goes on. The "
                "cause was:\n" + traceback.format_exc(limit=-6)
            )
            return None

    def _conclude(self) -> None:
        """Write what was found into the run, and print it where Keras prints, too."""
        session = self._session
        if session is None or os.getpid() != session.pid:
            return
        try:
            if self._weights is not None:
                steps = session.steps["train"]
                moved = self._weights.moved()
                scale = None if self._scale is None else self._scale.changed(steps)
                session.writer.add_history(
                    {"event": "end", "step": steps, "weights": moved, "loss_scale": scale}
                )
                self._weights = None
            found = self._conclusion.new_findings(session.writer)
            if (self.params or {}).get("verbose") and session.broken is None and not self.is_quiet:
                say(found, len(self.unseen), self.cost)
        except Exception:
            tell(
                "fitscope could not sum up what it recorded; the run is kept. The cause was:\n"
                + traceback.format_exc(limit=-6)
            )

    def _close(self, status: str = "finished") -> None:
        if self._session is not None:
            self._session.finish()
            self._session.writer.close(status)
            self._session = None


def _check_capsules(
    instructions: tuple[Instruction, ...], changes: list[Change], path: Path | None
) -> None:
    count = sum(isinstance(i, Capsule) for i in instructions)
    if count > 1:
        raise FitscopeError(
            f"Scope(...): {count} times fs.capsule, and a scope takes one. Give it a function that "
            "joins the conditions."
        )
    if count and path is None:
        raise FitscopeError(
            "Scope(fs.capsule(...)): a capsule is written into the run directory, and this scope "
            'keeps its run in memory. Give it one: fs.Scope(fs.capsule(), run="runs/first").'
        )
    if count and changes:
        raise FitscopeError(
            "Scope(fs.capsule(...), ...): steps that fs.edit or fs.objective change cannot be run "
            "again from a capsule. Leave one of them out."
        )


def _checked_ui(ui: Any, path: Path | None) -> bool:
    if not isinstance(ui, bool):
        raise FitscopeError(f"Scope(ui={ui!r}): expected True or False.")
    if ui and path is None:
        raise FitscopeError(
            "Scope(ui=True): the page reads run directories, and this scope keeps its run in "
            'memory. Give it one: fs.Scope(..., run="runs/first", ui=True).'
        )
    return ui


def _checked(instructions: tuple[Any, ...]) -> tuple[tuple[Instruction, ...], list[Change]]:
    """What is observed, and what is changed."""
    for instruction in instructions:
        if not isinstance(instruction, (EditInstruction, Objective, Record, StopOn, Stream, Watch)):
            raise FitscopeError(
                f"Scope({instruction!r}): expected instructions made by fs.watch(...), "
                "fs.record(...), fs.stream(...), fs.stop_on(...), fs.capsule(...), fs.edit(...) or "
                "fs.objective(...), for example "
                f"fs.Scope(fs.watch({instruction if isinstance(instruction, str) else '**'!r})). "
                "The run directory and the other settings are given by name."
            )
    changes = [i for i in instructions if isinstance(i, (EditInstruction, Objective))]
    observed = tuple(i for i in instructions if not isinstance(i, (EditInstruction, Objective)))
    return observed if instructions else (watch("**"),), changes


def _schedule(budget: Any, every: Any) -> Callable[[], Schedule]:
    if every is not None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise FitscopeError(
                f"Scope(every={every!r}): expected a whole number of steps, 1 or more."
            )
        return lambda: Every(every)
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise FitscopeError(
            f"Scope(budget={budget!r}): expected a share of training time above 0 and at most 1, "
            "for example 0.02 for 2%. Use every=1 to observe every step."
        )
    return lambda: Budget(float(budget))
