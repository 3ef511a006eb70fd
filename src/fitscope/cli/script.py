"""Running somebody's script with a scope on every model it trains or evaluates."""

from __future__ import annotations

import contextlib
import math
import runpy
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fitscope.errors import FitscopeError
from fitscope.launch.observe import Observer
from fitscope.launch.when_imported import when_imported


class Enough(BaseException):
    """The time is up: ends the script from inside a step, past its `except Exception`."""


@dataclass
class ScriptRun:
    """What became of a script.

    Attributes:
        scopes: The scope of each model, in order, and those that the script has itself.
        calls: How often it called `fit`, `evaluate` and `train_on_batch`.
        error: The traceback of what ended it; None when it came to its end, or the time was up.
        out_of_time: Whether the time was up.
        seconds: How long it ran.
    """

    scopes: list[Any] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    out_of_time: bool = False
    seconds: float = 0.0


def run_script(
    path: Path, arguments: Sequence[str], make_scope: Callable[[Any], Any], seconds: float
) -> ScriptRun:
    """Run a script as `python path arguments` would, with a scope on every model.

    Keras is not imported before the script does, so that it may choose the backend.

    Args:
        path: The script.
        arguments: Its arguments.
        make_scope: Makes the scope of a model.
        seconds: The time for training, from the second step on; the first compiles.

    Raises:
        FitscopeError: There is no such script.
    """
    if not path.is_file():
        raise FitscopeError(f"there is no script at {path}.")
    found = ScriptRun()
    undo = contextlib.ExitStack()
    observer = Observer(make_scope, _TimeLimit(seconds).check, "fitscope doctor")
    undo.callback(observer.uninstall)
    argv, search = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    undo.callback(when_imported("keras", observer.install))
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
    observer.end()
    found.scopes = [*observer.scopes, *observer.theirs]
    found.calls = dict(observer.calls)
    return found


class _TimeLimit:
    """Ends the script after so many seconds of training."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._batches = 0
        self._deadline = math.inf

    def check(self) -> None:
        self._batches += 1
        # The first step compiles.
        if self._batches == 2:
            self._deadline = time.monotonic() + self._seconds
        if time.monotonic() > self._deadline:
            raise Enough
