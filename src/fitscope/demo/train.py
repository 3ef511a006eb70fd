"""Training the demo's network under a scope."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fitscope.demo.digits import load
from fitscope.demo.ending import ending_text, opening_text
from fitscope.demo.live_callback import LiveCallback
from fitscope.demo.network import build
from fitscope.scope.instructions import watch
from fitscope.scope.scope import Scope
from fitscope.terminal.console import make_console
from fitscope.terminal.live import LiveTable
from fitscope.values.batch import BATCH as WHOLE_BATCH
from fitscope.values.record import record

if TYPE_CHECKING:
    from rich.text import Text

BATCH = 32
# Not the default budget, which chooses steps by their measured time: the demo is to find the same
# at every run, and its table is to move.
EVERY = 5
# Feature maps and predictions to look at in the page, and which units are off: a few MB.
RECORD_EVERY, RECORDED_SAMPLES = 90, 16
RECORDED = ("conv_1", "conv_2", "dense", "digit")


def train(
    backend: str,
    epochs: int,
    path: Path | None = None,
    *,
    flawed: bool = True,
    ui: bool = False,
) -> Path:
    """Train, show the live table, write a run, and say what was found.

    Args:
        backend: What Keras runs on, for the text.
        epochs: Epochs to train.
        path: The run directory; `runs/demo-<date-time>` by default.
        flawed: Whether the network has its flaw.
        ui: Whether to show the page.

    Returns:
        The run directory.

    Raises:
        DemoError: scikit-learn is not installed.
        RunExistsError: The directory already holds a run.
    """
    digits = load()
    path = path or default_path()
    console = make_console()

    def put(text: Text | str = "") -> None:
        console.print(text, soft_wrap=True)

    put(opening_text(backend, epochs, len(digits.x), flawed=flawed))
    model = build(flawed=flawed)
    kept = record([*RECORDED, WHOLE_BATCH], samples=RECORDED_SAMPLES, every=RECORD_EVERY)
    scope = Scope(watch("**"), kept, run=path, every=EVERY, ui=ui)
    live = LiveCallback(scope, LiveTable(console))
    try:
        history = model.fit(
            digits.x,
            digits.y,
            batch_size=BATCH,
            epochs=epochs,
            validation_data=(digits.x_check, digits.y_check),
            verbose=0,  # pyright: ignore[reportArgumentType]  Keras takes 0, 1, 2 and "auto"
            callbacks=[scope, live],
        )
    finally:
        live.stop()
    put()
    accuracy = float(history.history["val_accuracy"][-1])
    put(ending_text(scope.run, path, accuracy, scope.cost, console.width, flawed=flawed))
    return path


def default_path(now: datetime.datetime | None = None) -> Path:
    """A run directory named after the time, which no run has yet.

    Args:
        now: The time; the local time by default.
    """
    moment = now or datetime.datetime.now().astimezone()
    name = f"demo-{moment:%Y-%m-%d-%H%M%S}"
    path, number = Path("runs") / name, 2
    while path.exists():
        path, number = Path("runs") / f"{name}-{number}", number + 1
    return path
