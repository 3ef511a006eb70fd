"""Which layers give the model's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fitscope.run.reader import Run


def output_paths(run: Run) -> frozenset[str]:
    """The paths of the layers whose output is the model's.

    The model's description lists them when it is a functional model. The last site is added:
    sites come in the order in which they ran.

    Args:
        run: The run to read.
    """
    paths = {str(name) for name in run.graph.get("outputs", ())}
    last = [site.path for site in run.sites if site.port == "output"][-1:]
    return frozenset(paths.union(last))
