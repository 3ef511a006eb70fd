"""Putting a scope into every `fit`, `evaluate` and `train_on_batch` of a process."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any


class Observer:
    """One session: the models a script trains or evaluates, each with a scope.

    Args:
        make_scope: Makes the scope of a model that is met for the first time.
        before_batch: Called before each batch of a training or evaluation; what it raises ends the
            script.
        name: Of the command, for what is told.
    """

    def __init__(
        self,
        make_scope: Callable[[Any], Any],
        before_batch: Callable[[], None] | None = None,
        name: str = "fitscope run",
    ) -> None:
        self.scopes: list[Any] = []
        """Those that were made, in order."""
        self.theirs: list[Any] = []
        """Those that the script brought; it observes these trainings itself."""
        self.calls: Counter[str] = Counter()
        """How often each of the wrapped methods was called by the script."""
        self._make_scope = make_scope
        self._before_batch = before_batch
        self._name = name
        self._clock: list[Any] = []
        self._watched: weakref.WeakKeyDictionary[Any, _Watched] = weakref.WeakKeyDictionary()
        self._failed = False
        self._pid = os.getpid()
        self._inside = 0
        self._wrapped: list[tuple[Any, str, Any, Any]] = []

    def install(self) -> None:
        """Wrap the methods of `keras.Model`; Keras is imported by then."""
        import keras

        if self._before_batch is not None:
            from fitscope.launch.clock import Clock

            self._clock = [Clock(self._before_batch)]
        for name in ("fit", "evaluate"):
            self._wrap(keras.Model, name, self._with_callbacks)
        self._wrap(keras.Model, "train_on_batch", self._on_batch)

    def uninstall(self) -> None:
        """Give `keras.Model` its own methods back."""
        while self._wrapped:
            model, name, plain, wrapper = self._wrapped.pop()
            if vars(model).get(name) is wrapper:
                if plain is None:
                    delattr(model, name)
                else:
                    setattr(model, name, plain)

    def end(self) -> None:
        """The script has ended: a training that was broken off has told nobody."""
        if os.getpid() != self._pid:
            return
        for watched in list(self._watched.values()):
            self._guarded(watched.detach)
        for scope in (*self.scopes, *self.theirs):
            if scope.runs and scope.is_fitting:
                self._guarded(scope.on_train_end)

    def close(self, status: str) -> None:
        """The script has ended: write what is waiting.

        Args:
            status: What the runs say from now on.
        """
        if os.getpid() != self._pid:
            return
        for watched in list(self._watched.values()):
            self._guarded(watched.detach)
        for scope in self.scopes:
            self._guarded(functools.partial(scope.close, status))

    def _wrap(self, model: Any, name: str, around: Callable[..., Any]) -> None:
        wrapper = around(getattr(model, name))
        self._wrapped.append((model, name, vars(model).get(name), wrapper))
        setattr(model, name, wrapper)

    def _with_callbacks(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(plain)

        @functools.wraps(plain)
        def observed(model: Any, *args: Any, **kwargs: Any) -> Any:
            if self._inside or os.getpid() != self._pid:  # the evaluation within a fit
                return plain(model, *args, **kwargs)
            try:
                bound = signature.bind(model, *args, **kwargs)
            except TypeError:
                return plain(model, *args, **kwargs)  # Keras says what is wrong
            self.calls[plain.__name__] += 1
            callbacks: Any = bound.arguments.get("callbacks")
            added = [*self._scope_for(model, callbacks, plain.__name__), *self._clock]
            if not added:
                return plain(model, *args, **kwargs)
            if hasattr(callbacks, "callbacks") and hasattr(callbacks, "append"):  # a CallbackList
                for each in added:
                    callbacks.append(each)
                undo = functools.partial(_remove, callbacks.callbacks, added)
            else:
                several = isinstance(callbacks, (list, tuple))
                given = list(callbacks) if several else [callbacks] if callbacks else []
                bound.arguments["callbacks"] = [*given, *added]
                undo = _nothing
            self._inside += 1
            try:
                return plain(*bound.args, **bound.kwargs)
            finally:
                self._inside -= 1
                undo()

        return observed

    def _scope_for(self, model: Any, callbacks: Any, method: str) -> list[Any]:
        """The scope to add to the callbacks of a call, if any."""
        watched = self._watch(model, callbacks)
        if watched is None or (method == "evaluate" and watched.is_attached):
            return []
        watched.detach()
        return [watched.scope]

    def _on_batch(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def observed(model: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._inside and os.getpid() == self._pid:
                self.calls[plain.__name__] += 1
                if self._before_batch is not None:
                    self._before_batch()
                watched = self._watch(model, None)
                if watched is not None:
                    self._guarded(watched.attach)
            return plain(model, *args, **kwargs)

        return observed

    def _watch(self, model: Any, callbacks: Any) -> _Watched | None:
        """The model's scope; None when the script brings its own, or it cannot be made."""
        from fitscope.scope.scope import Scope

        held = getattr(callbacks, "callbacks", callbacks)
        given = held if isinstance(held, (list, tuple)) else [held]
        theirs = [each for each in given if isinstance(each, Scope)]
        if theirs:
            self.theirs += [each for each in theirs if each not in self.theirs]
            return None
        watched = self._watched.get(model)
        if watched is None and not self._failed:
            self._guarded(lambda: self._begin(model))
            watched = self._watched.get(model)
        return watched

    def _begin(self, model: Any) -> None:
        scope = self._make_scope(model)
        self._watched[model] = _Watched(model, scope)
        self.scopes.append(scope)

    def _guarded(self, action: Callable[[], object]) -> None:
        """The script goes on whatever happens here; the first failure is told."""
        try:
            action()
        except Exception:  # noqa: BLE001
            if not self._failed:
                self._failed = True
                sys.stderr.write(
                    f"{self._name}: this script cannot be observed; it goes on without. The cause "
                    "was:\n" + traceback.format_exc(limit=-4)
                )


class _Watched:
    """A model and its scope."""

    def __init__(self, model: Any, scope: Any) -> None:
        self.scope = scope
        self._model = weakref.ref(model)
        self._attached: contextlib.ExitStack | None = None
        self._function: Any = None

    @property
    def is_attached(self) -> bool:
        """Whether on-batch calls, and evaluations between them, are observed as it is."""
        model = self._model()
        # Compiling anew throws the observed function away.
        return (
            self._attached is not None
            and model is not None
            and model.train_function is self._function
        )

    def attach(self) -> None:
        """Observe on-batch calls from now on; a model that is not built yet is left for later."""
        model = self._model()
        if model is None or not model.built or not getattr(model, "compiled", False):
            return
        if self.is_attached:
            return
        self.detach()
        stack = contextlib.ExitStack()
        stack.enter_context(self.scope.attach(model))
        self._attached, self._function = stack, model.train_function

    def detach(self) -> None:
        """Stop observing on-batch calls."""
        stack, self._attached, self._function = self._attached, None, None
        if stack is not None:
            stack.close()


def _remove(callbacks: list[Any], added: list[Any]) -> None:
    for each in added:
        if each in callbacks:
            callbacks.remove(each)


def _nothing() -> None:
    """There is nothing to undo."""
