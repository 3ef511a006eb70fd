"""Places in a step that are no layers: tensors named by `fs.tap`, and the parts of the batch."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

from fitscope.engine.entry import Entry
from fitscope.select.site import Site

BATCH_PATH = "@batch"
"""What the paths of the parts of a batch begin with; Keras' own layers are never called so."""


OBJECTIVE_PATH = "@objective"
"""What the paths of the values of objectives begin with."""


class TapPoint:
    """A tensor that `fs.tap` named."""

    def __init__(self, name: str) -> None:
        self.name = name


class BatchPart:
    """A part of what a step was given or came to: x, y, sample_weight, y_pred, mask, loss."""

    def __init__(self, name: str) -> None:
        self.name = name


class ObjectiveValue:
    """The value of an objective, before its weight and strength."""


@dataclasses.dataclass(frozen=True, eq=False)
class Point(Entry):
    """A tensor that is named, and is no layer's."""

    @property
    def is_elementwise(self) -> bool:
        return True  # it may come out of anything


def batch_point(name: str) -> Point:
    """The place of a part of the batch."""
    return Point(BatchPart(name), f"{BATCH_PATH}/{name}", None)


def batch_site(name: str, leaf: tuple[str | int, ...] = (), dtype: str = "") -> Site:
    """The site of a part of the batch that did not come out of the step itself."""
    from fitscope.engine.entry import named

    return named(batch_point(name).site(None, "output", leaf, (), dtype), None)


def objective_point(name: str) -> Point:
    """The place of the value of an objective."""
    return Point(ObjectiveValue(), f"{OBJECTIVE_PATH}/{name}", None)


def is_objective(site: Site) -> bool:
    """Whether a site is the value of an objective."""
    return isinstance(site.layer, ObjectiveValue)


def part_of(site: Site) -> str | None:
    """Which part of the batch a site is; None for a layer's."""
    head, _, name = site.path.partition("/")
    return name if head == BATCH_PATH else None


_running: dict[int, list[Any]] = {}
"""By thread, the traces that run; a `capture` inside an observed step is one more."""

compiled: list[Any] = []
"""What is told of tensors instead, while a step runs that `torch.compile` compiles."""


def tap(x: Any, name: str) -> Any:
    """Name a tensor inside a layer's `call`, so that it can be selected like a layer's output.

    For what no layer returns: attention scores, gates, a sum before its square root. The site is
    called after the layer whose `call` this stands in: `"encoder/attn/scores"`. It can be watched,
    recorded, streamed and captured; without a scope nothing happens, and never is anything
    computed differently.

    Args:
        x: a tensor, or a tuple, list or dict of them.
        name: the last part of the site's path; may not be empty.

    Returns:
        `x` itself.

    Raises:
        SelectionError: the name is none.

    Example:
        ```python
        class Attention(keras.layers.Layer):
            def call(self, q, k, v):
                scores = fs.tap(keras.ops.softmax(q @ k.mT), "scores")
                return scores @ v

        scope = fs.Scope(fs.record("**/scores", every=100))
        ```
    """
    if not isinstance(name, str) or not name or "" in name.split("/"):
        from fitscope.errors import SelectionError

        raise SelectionError(
            f"tap(..., {name!r}): expected a name for the tensor, such as 'scores'."
        )
    for taps in compiled:
        taps.meet(x, name)
    if not _running:
        return x
    for trace in _running.get(threading.get_ident(), ()):
        trace.meet(x, name)
    return x


def begin(trace: Any) -> None:
    """A trace begins in this thread."""
    _running.setdefault(threading.get_ident(), []).append(trace)


def end(trace: Any) -> None:
    """A trace ends in this thread."""
    traces = _running.get(threading.get_ident(), [])
    traces.remove(trace)
    if not traces:
        _running.pop(threading.get_ident(), None)
