"""Running somebody's script with a scope in every `fit` it calls."""

from __future__ import annotations

import contextlib
import runpy
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from fitscope.errors import FitscopeError
from fitscope.launch.when_imported import when_imported


class Enough(BaseException):
    """The time is up: ends the script from inside a step, past its `except Exception`."""


@dataclass
class ScriptRun:
    """What became of a script.

    Attributes:
        scopes: The scope of each `fit`, in order; those of the script where it has its own.
        error: The traceback of what ended it; None when it came to its end, or the time was up.
        out_of_time: Whether the time was up.
        seconds: How long it ran.
    """

    scopes: list[Any] = field(default_factory=list)
    error: str | None = None
    out_of_time: bool = False
    seconds: float = 0.0


def run_script(
    path: Path, arguments: Sequence[str], make_scope: Callable[[], Any], seconds: float
) -> ScriptRun:
    """Run a script as `python path arguments` would, with a scope in every `fit`.

    Keras is not imported before the script does, so that it may choose the backend.

    Args:
        path: The script.
        arguments: Its arguments.
        make_scope: Makes the scope of one `fit`.
        seconds: The time for training, from the second step of the first `fit`; the first compiles.

    Raises:
        FitscopeError: There is no such script.
    """
    if not path.is_file():
        raise FitscopeError(f"there is no script at {path}.")
    found = ScriptRun()
    undo = contextlib.ExitStack()

    def observe() -> None:
        undo.callback(_observe(sys.modules["keras"], found, make_scope, seconds))

    argv, search = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    undo.callback(when_imported("keras", observe))
    began = time.monotonic()
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Enough:
        found.out_of_time = True
    except SystemExit as leaving:
        if leaving.code not in (None, 0):
            found.error = f"the script left with exit status {leaving.code}"
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - whatever the script raises is a finding of its own
        found.error = traceback.format_exc(limit=-4)
    finally:
        found.seconds = time.monotonic() - began
        undo.close()
        sys.argv, sys.path[:] = argv, search
    for scope in found.scopes:
        # A fit that was interrupted has told nobody.
        if scope.runs and scope.is_fitting:
            scope.on_train_end()
    return found


def _observe(
    keras: ModuleType, found: ScriptRun, make_scope: Callable[[], Any], seconds: float
) -> Callable[[], None]:
    """Let every `fit` have a scope; gives what undoes it."""
    from fitscope.scope.scope import Scope

    model: Any = keras.Model
    plain = model.fit
    deadline: list[float] = []

    class Clock(keras.callbacks.Callback):
        begun = 0

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.begun += 1
            # The first step compiles.
            if self.begun == 2:
                deadline.append(time.monotonic() + seconds)
            if deadline and time.monotonic() > deadline[0]:
                raise Enough

    def fit(self: Any, *args: Any, **given: Any) -> Any:
        # `callbacks` is the sixth argument of `fit`.
        places: list[Any] = list(args)
        callbacks = given.pop("callbacks", None)
        if len(places) > _CALLBACKS:
            callbacks = places[_CALLBACKS]
        listed = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
        listed = [each for each in listed if each is not None]
        own = [each for each in listed if isinstance(each, Scope)]
        scope = own[0] if own else make_scope()
        if scope not in found.scopes:
            found.scopes.append(scope)
        listed = [*listed, *([] if own else [scope]), Clock()]
        if len(places) > _CALLBACKS:
            places[_CALLBACKS] = listed
            return plain(self, *places, **given)
        return plain(self, *places, callbacks=listed, **given)

    model.fit = fit

    def undo() -> None:
        if "fit" in vars(model) and model.fit is fit:
            del model.fit

    return undo


_CALLBACKS = 5
