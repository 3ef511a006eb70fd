"""What layers learned by `adapt`: vocabularies and the like, which are no variables."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fitscope.engine.entry import entries
from fitscope.errors import FitscopeError

_OWN, _ASSET = "own", "asset"

Arrays = dict[str, np.ndarray[Any, Any]]


def adapted(model: Any) -> Arrays:
    """As arrays, under the number of the layer and a name in it.

    Args:
        model: while its variables hold their values.
    """
    found: Arrays = {}
    for number, layer in _learners(model):
        own: dict[str, Any] = {}
        layer.save_own_variables(own)
        for name, value in own.items():
            found[f"{number}/{_OWN}/{name}"] = np.array(value)
        if not hasattr(layer, "save_assets"):
            continue
        with tempfile.TemporaryDirectory(prefix="fitscope-") as folder:
            layer.save_assets(folder)
            for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                name = path.relative_to(folder).as_posix()
                found[f"{number}/{_ASSET}/{name}"] = np.frombuffer(path.read_bytes(), np.uint8)
    return found


def adapt_again(model: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give the layers of a rebuilt model what they had learned.

    Raises:
        FitscopeError: the name of a file leads out of its folder.
    """
    for number, layer in _learners(model):
        own = _under(arrays, f"{number}/{_OWN}/")
        if own:
            layer.load_own_variables(own)
        assets = _under(arrays, f"{number}/{_ASSET}/")
        if not assets:
            continue
        with tempfile.TemporaryDirectory(prefix="fitscope-") as folder:
            for name, data in assets.items():
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise FitscopeError(f"{name!r} in the capsule is no name of a vocabulary.")
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.tobytes())
            layer.load_assets(folder)


def _learners(model: Any) -> Iterator[tuple[int, Any]]:
    for number, entry in enumerate(entries(model)):
        if entry.is_layer and callable(getattr(entry.target, "finalize_state", None)):
            yield number, entry.target


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
