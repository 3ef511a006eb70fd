"""Watch every layer inside Keras ``fit()``, in the compiled step that updates the weights.

Example:
    ```python
    import fitscope as fs

    scope = fs.Scope(fs.watch("**"), run="runs/first")
    model.fit(x, y, callbacks=[scope])
    fs.open_run("runs/first").stats("conv*", "rms")
    ```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fitscope._version import __version__ as __version__
from fitscope.errors import EditError as EditError
from fitscope.errors import FitscopeError as FitscopeError
from fitscope.errors import RunError as RunError
from fitscope.errors import RunExistsError as RunExistsError
from fitscope.errors import RunFormatError as RunFormatError
from fitscope.errors import SelectionError as SelectionError
from fitscope.errors import StatisticError as StatisticError
from fitscope.errors import UnsupportedError as UnsupportedError

# At once, and not at first use as the others: importing the package of the same name later would
# put the package in the function's place. It needs the standard library alone.
from fitscope.select.selector import select as select

if TYPE_CHECKING:
    from fitscope import layers as layers
    from fitscope import statistics as statistics
    from fitscope.edits.edit import Edit as Edit
    from fitscope.edits.elementwise import Clip as Clip
    from fitscope.edits.elementwise import Scale as Scale
    from fitscope.edits.elementwise import Zero as Zero
    from fitscope.edits.gradients import ClipGradient as ClipGradient
    from fitscope.edits.gradients import ReverseGradient as ReverseGradient
    from fitscope.edits.gradients import StopGradient as StopGradient
    from fitscope.edits.noise import Noise as Noise
    from fitscope.edits.replacing import Patch as Patch
    from fitscope.edits.replacing import Quantize as Quantize
    from fitscope.edits.replacing import Replace as Replace
    from fitscope.edits.replacing import Steer as Steer
    from fitscope.edits.when import epochs as epochs
    from fitscope.edits.when import probability as probability
    from fitscope.edits.when import ramp as ramp
    from fitscope.edits.when import steps as steps
    from fitscope.engine.points import tap as tap
    from fitscope.rules.finding import Finding as Finding
    from fitscope.rules.rule import Sign as Sign
    from fitscope.rules.rule import rule as rule
    from fitscope.run.reader import Run as Run
    from fitscope.run.reader import open_run as open_run
    from fitscope.scope.capsule import Capsule as Capsule
    from fitscope.scope.capsule import capsule as capsule
    from fitscope.scope.editing import edit as edit
    from fitscope.scope.editing import objective as objective
    from fitscope.scope.instructions import Watch as Watch
    from fitscope.scope.instructions import watch as watch
    from fitscope.scope.preview import preview as preview
    from fitscope.scope.scope import Scope as Scope
    from fitscope.scope.stopping import StepStatistics as StepStatistics
    from fitscope.scope.stopping import StopOn as StopOn
    from fitscope.scope.stopping import above as above
    from fitscope.scope.stopping import below as below
    from fitscope.scope.stopping import non_finite as non_finite
    from fitscope.scope.stopping import stop_on as stop_on
    from fitscope.statistics.statistic import Statistic as Statistic
    from fitscope.values.batch import BATCH as BATCH
    from fitscope.values.batch import Batch as Batch
    from fitscope.values.capture import capture as capture
    from fitscope.values.capture import stateless_capture as stateless_capture
    from fitscope.values.clone import clone_with_taps as clone_with_taps
    from fitscope.values.extractor import Extractor as Extractor
    from fitscope.values.extractor import extractor as extractor
    from fitscope.values.record import Record as Record
    from fitscope.values.record import record as record
    from fitscope.values.stream import Event as Event
    from fitscope.values.stream import Stop as Stop
    from fitscope.values.stream import Stream as Stream
    from fitscope.values.stream import stream as stream

# Loaded at first use: reading a run must not import Keras, and `import fitscope` must not fix
# Keras' backend before the user's own code chose one.
_HOMES = {
    "Patch": "fitscope.edits.replacing",
    "Quantize": "fitscope.edits.replacing",
    "Replace": "fitscope.edits.replacing",
    "Steer": "fitscope.edits.replacing",
    "Clip": "fitscope.edits.elementwise",
    "ClipGradient": "fitscope.edits.gradients",
    "Edit": "fitscope.edits.edit",
    "Noise": "fitscope.edits.noise",
    "ReverseGradient": "fitscope.edits.gradients",
    "Scale": "fitscope.edits.elementwise",
    "StopGradient": "fitscope.edits.gradients",
    "Zero": "fitscope.edits.elementwise",
    "edit": "fitscope.scope.editing",
    "epochs": "fitscope.edits.when",
    "objective": "fitscope.scope.editing",
    "probability": "fitscope.edits.when",
    "ramp": "fitscope.edits.when",
    "steps": "fitscope.edits.when",
    "StepStatistics": "fitscope.scope.stopping",
    "StopOn": "fitscope.scope.stopping",
    "above": "fitscope.scope.stopping",
    "below": "fitscope.scope.stopping",
    "non_finite": "fitscope.scope.stopping",
    "stop_on": "fitscope.scope.stopping",
    "BATCH": "fitscope.values.batch",
    "Batch": "fitscope.values.batch",
    "rule": "fitscope.rules.rule",
    "Sign": "fitscope.rules.rule",
    "Finding": "fitscope.rules.finding",
    "Event": "fitscope.values.stream",
    "Capsule": "fitscope.scope.capsule",
    "Extractor": "fitscope.values.extractor",
    "Record": "fitscope.values.record",
    "Run": "fitscope.run.reader",
    "Scope": "fitscope.scope.scope",
    "Statistic": "fitscope.statistics.statistic",
    "Stop": "fitscope.values.stream",
    "Stream": "fitscope.values.stream",
    "Watch": "fitscope.scope.instructions",
    "capsule": "fitscope.scope.capsule",
    "capture": "fitscope.values.capture",
    "clone_with_taps": "fitscope.values.clone",
    "extractor": "fitscope.values.extractor",
    "open_run": "fitscope.run.reader",
    "preview": "fitscope.scope.preview",
    "record": "fitscope.values.record",
    "stateless_capture": "fitscope.values.capture",
    "stream": "fitscope.values.stream",
    "tap": "fitscope.engine.points",
    "watch": "fitscope.scope.instructions",
}


def __getattr__(name: str) -> Any:
    if name in ("layers", "statistics"):
        return importlib.import_module(f"fitscope.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fitscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


__all__ = [
    "BATCH",
    "Batch",
    "Capsule",
    "Clip",
    "ClipGradient",
    "Edit",
    "EditError",
    "Event",
    "Extractor",
    "Finding",
    "FitscopeError",
    "Noise",
    "Patch",
    "Quantize",
    "Record",
    "Replace",
    "ReverseGradient",
    "Run",
    "RunError",
    "RunExistsError",
    "RunFormatError",
    "Scale",
    "Scope",
    "SelectionError",
    "Sign",
    "Statistic",
    "StatisticError",
    "Steer",
    "StepStatistics",
    "Stop",
    "StopGradient",
    "StopOn",
    "Stream",
    "UnsupportedError",
    "Watch",
    "Zero",
    "__version__",
    "above",
    "below",
    "capsule",
    "capture",
    "clone_with_taps",
    "edit",
    "epochs",
    "extractor",
    "layers",
    "non_finite",
    "objective",
    "open_run",
    "preview",
    "probability",
    "ramp",
    "record",
    "rule",
    "select",
    "stateless_capture",
    "statistics",
    "steps",
    "stop_on",
    "stream",
    "tap",
    "watch",
]


def __dir__() -> list[str]:
    return sorted(__all__)
