"""Putting a scope into every `fit`, `evaluate` and `train_on_batch` of a process."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import sys
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fitscope.launch.options import Options


class Observer:
    """One session: the models a script trains, each with a scope and a run of its own.

    Args:
        options: How to observe.
        folder: Where the runs go.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.scopes: list[Any] = []
        self.page: Any = None
        self._watched: weakref.WeakKeyDictionary[Any, _Watched] = weakref.WeakKeyDictionary()
        self._failed = False
        self._pid = os.getpid()
        self._inside = 0

    def install(self) -> None:
        """Wrap the methods of `keras.Model`; Keras is imported by then."""
        import keras

        for name in ("fit", "evaluate"):
            setattr(keras.Model, name, self._with_callback(getattr(keras.Model, name)))
        keras.Model.train_on_batch = self._on_batch(keras.Model.train_on_batch)

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

    def _with_callback(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(plain)

        @functools.wraps(plain)
        def observed(model: Any, *args: Any, **kwargs: Any) -> Any:
            if self._inside or os.getpid() != self._pid:  # the evaluation within a fit
                return plain(model, *args, **kwargs)
            try:
                bound = signature.bind(model, *args, **kwargs)
            except TypeError:
                return plain(model, *args, **kwargs)  # Keras says what is wrong
            callbacks: Any = bound.arguments.get("callbacks")
            watched = self._watch(model, callbacks)
            if watched is None:
                return plain(model, *args, **kwargs)
            watched.detach()
            scope = watched.scope
            if hasattr(callbacks, "callbacks") and hasattr(callbacks, "append"):  # a CallbackList
                callbacks.append(scope)
                undo = functools.partial(_remove, callbacks.callbacks, scope)
            else:
                several = isinstance(callbacks, (list, tuple))
                given = list(callbacks) if several else [callbacks] if callbacks else []
                bound.arguments["callbacks"] = [*given, scope]
                undo = _nothing
            self._inside += 1
            try:
                return plain(*bound.args, **bound.kwargs)
            finally:
                self._inside -= 1
                undo()

        return observed

    def _on_batch(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def observed(model: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._inside and os.getpid() == self._pid:
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
        if any(isinstance(each, Scope) for each in given):
            return None
        watched = self._watched.get(model)
        if watched is None and not self._failed:
            self._guarded(lambda: self._begin(model))
            watched = self._watched.get(model)
        return watched

    def _begin(self, model: Any) -> None:
        from fitscope.launch.quiet_scope import QuietScope
        from fitscope.scope.instructions import watch

        options = self.options
        budget: dict[str, Any] = {} if options.budget is None else {"budget": options.budget}
        scope = QuietScope(
            watch(list(options.select), of=options.of),
            run=self._free_path(str(model.name)),
            every=options.every,
            **budget,
        )
        self._watched[model] = _Watched(model, scope)
        self.scopes.append(scope)

    def _free_path(self, name: str) -> Path:
        plain = re.sub(r"[^\w.-]+", "_", name).strip(".") or "model"
        path, number = self.folder / plain, 2
        taken = {scope.path for scope in self.scopes}
        while path.exists() or path in taken:
            path, number = self.folder / f"{plain}-{number}", number + 1
        return path

    def _guarded(self, action: Callable[[], object]) -> None:
        """The script goes on whatever happens here; the first failure is told."""
        try:
            action()
        except Exception:  # noqa: BLE001
            if not self._failed:
                self._failed = True
                sys.stderr.write(
                    "fitscope run: this script cannot be observed; it goes on without. The cause "
                    "was:\n" + traceback.format_exc(limit=-4)
                )


class _Watched:
    """A model and its scope."""

    def __init__(self, model: Any, scope: Any) -> None:
        self.scope = scope
        self._model = weakref.ref(model)
        self._attached: contextlib.ExitStack | None = None
        self._function: Any = None

    def attach(self) -> None:
        """Observe on-batch calls from now on; a model that is not built yet is left for later."""
        model = self._model()
        if model is None or not model.built or not getattr(model, "compiled", False):
            return
        # Compiling anew throws the observed function away.
        if self._attached is not None and model.train_function is self._function:
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


def _remove(callbacks: list[Any], scope: Any) -> None:
    if scope in callbacks:
        callbacks.remove(scope)


def _nothing() -> None:
    """There is nothing to undo."""
