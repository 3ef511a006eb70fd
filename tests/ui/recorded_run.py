"""A run with every port of a layer and with recorded tensors of known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from page_runs import row

from fitscope.run.record import StepRecord
from fitscope.run.value_store import StepValues, Tensor
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site

PORTS = (
    ("output", ()),
    ("gradient", ()),
    ("weight", ("kernel",)),
    ("update", ("kernel",)),
)
EVERY, STEPS, ROWS = 10, 60, 6
OFF = {3: 0, 5: 30}
"""Units of `dense` that are off, and since which step."""
LOSSES = np.array([0.1, 2.5, 0.3, 0.2, 1.5, 0.4], np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
PREDICTED = np.array(
    [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8],
     [0.7, 0.2, 0.1], [0.5, 0.2, 0.3], [0, 0, 1]],
    np.float32,
)  # fmt: skip
"""Samples 1 and 4 are predicted wrongly."""


def _site(path: str, port: str = "output", leaf: tuple = (), kind: str = "Dense") -> Site:
    return Site.of(
        SiteName(path, None, port, leaf), layer_class=kind, shape=(ROWS, 8), activation="relu"
    )


def tensors(step: int) -> dict[str, tuple[Site, np.ndarray]]:
    """What is recorded of a step."""
    rng = np.random.default_rng(step)
    dense = np.abs(rng.normal(size=(ROWS, 8))).astype(np.float32) + 0.1
    for unit, since in OFF.items():
        if step >= since:
            dense[:, unit] = 0
    scores = rng.random((ROWS, 2, 5, 5)).astype(np.float32)
    parts = {
        "conv": (_site("conv", kind="Conv2D"), rng.normal(size=(ROWS, 8, 8, 4))),
        "mha[1]": (_site("mha", leaf=(1,), kind="MultiHeadAttention"), scores),
        "dense": (_site("dense"), dense),
        "lstm": (_site("lstm", kind="LSTM"), rng.normal(size=(ROWS, 12, 3))),
        "x": (_site("@batch/x", kind=""), rng.random((ROWS, 8, 8, 1))),
        "y": (_site("@batch/y", kind=""), LABELS),
        "y_pred": (_site("@batch/y_pred", kind=""), PREDICTED),
        "loss": (_site("@batch/loss", kind=""), LOSSES),
    }
    return {
        name: (site, array.astype(np.float32) if array.dtype == np.float64 else array)
        for name, (site, array) in parts.items()
    }


def write_recorded(path: Path) -> None:
    """Write the run."""
    rng = np.random.default_rng(0)
    writer = RunWriter(path, config={"model": "net", "backend": "jax"})
    writer.set_graph(
        {"name": "net", "class": "Sequential", "parameters": 40, "edges": []}
        | {"layers": [
            {"path": "dense", "class": "Dense", "parent": None, "parameters": 40, "trainable": True}
        ]}
    )  # fmt: skip
    sites = [_site("dense", port, leaf) for port, leaf in PORTS]
    indices = np.array(writer.add_sites(sites))
    for step in range(STEPS):
        moments = np.stack([row(rng, dead=0.25 if step >= 30 else 0.125) for _ in sites])
        extra = [(int(indices[-1]), "update_ratio", 0.001 + step * 1e-5)]
        writer.append(StepRecord(step, 0, "train", indices, moments, None, extra))
        if step % EVERY == 0:
            kept = tuple(
                Tensor(site, array, length=len(array)) for site, array in tensors(step).values()
            )
            writer.append_values(StepValues(step, 0, "train", kept))
    writer.close()
