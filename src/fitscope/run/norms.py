"""Norms over all variables of a model, from the statistics of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fitscope.errors import RunError
from fitscope.run.table import Table

if TYPE_CHECKING:
    from fitscope.run.reader import Run

PORTS = ("weight_gradient", "weight", "update")
"""Ports at which every variable stands once, so that their norms add up to that of all."""


def global_norm(run: Run, port: str, phase: str, steps: Any) -> Table:
    """See `Run.global_norm`."""
    if port not in PORTS:
        raise RunError(
            f"global_norm({port!r}): expected one of {', '.join(map(repr, PORTS))}. The outputs of "
            "layers and their gradients stand for one another, and have no norm together."
        )
    select = f"**:{port}"
    table = run.stats(select, ["l2", "nonfinite"], phase=phase, steps=steps).to_arrow()
    step, epoch = (table.column(name).to_numpy() for name in ("step", "epoch"))
    value = table.column("value").to_numpy()
    is_norm = np.asarray(table.column("statistic").to_pylist()) == "l2"
    known, first, place = np.unique(step, return_index=True, return_inverse=True)
    # Of a tensor without a finite element there is no norm; it counts as bad below.
    squares = np.square(np.where(is_norm, np.nan_to_num(value), 0.0))
    total = np.sqrt(np.bincount(place, squares, minlength=len(known)))
    bad = np.bincount(place, np.where(is_norm, 0.0, value), minlength=len(known)) > 0
    columns = {
        "step": known,
        "epoch": epoch[first],
        "phase": [phase] * len(known),
        "site": [select] * len(known),
        "statistic": ["l2"] * len(known),
        "value": np.where(bad, np.nan, total),
    }
    arrays = [pa.array(columns[f.name]).cast(_plain(f.type)) for f in table.schema]
    return Table(pa.table(arrays, names=table.schema.names))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
