"""A capsule on disk: JSON, and arrays without pickle.

capsule.json    the step, why it was kept, the variables in their order, the batches' structure
model.json      the model and how it was compiled, as Keras serializes them
state.npz       one array for each variable, before the first of the steps
batches.npz     one array for each tensor of the batches
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fitscope.errors import FitscopeError, RunFormatError

FOLDER = "capsule"
VERSION = 1
_SETTINGS, _MODEL, _STATE, _BATCHES = "capsule.json", "model.json", "state.npz", "batches.npz"

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """What a capsule holds.

    Attributes:
        settings: the content of `capsule.json`.
        model: as `keras.saving.serialize_keras_object` gives it.
        state: the values of the variables, in the order of `settings["variables"]`.
        batches: what each step was given, from the one that `state` belongs to.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    state: Sequence[Array]
    batches: Sequence[Any]


def write(run: Path, contents: Contents) -> Path:
    """Write a capsule into a run directory, under a temporary name first.

    Returns:
        Its folder.

    Raises:
        FitscopeError: the batch holds what is no array of numbers.
        OSError: the disk refuses.
    """
    arrays: dict[str, Array] = {}
    trees = [_flatten(batch, arrays) for batch in contents.batches]
    state = {f"v{i:05}": array for i, array in enumerate(contents.state)}
    dtypes = {name: a.dtype.name for name, a in {**arrays, **state}.items() if _is_foreign(a)}
    settings = {"version": VERSION, **contents.settings, "batches": trees, "dtypes": dtypes}
    folder = run / FOLDER / f"step-{contents.settings['step']:06}"
    partial = folder.with_name(f"{folder.name}.tmp")
    natives = [(_STATE, _natives(state)), (_BATCHES, _natives(arrays))]
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, native in natives:
        with (partial / name).open("wb") as file:
            np.savez(file, **native)
    (partial / _MODEL).write_text(json.dumps(contents.model), encoding="utf-8")
    (partial / _SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
    partial.rename(folder)
    return folder


def find(path: Path) -> Path:
    """The folder of a run's capsule.

    Args:
        path: a run, or the folder itself.

    Raises:
        FitscopeError: there is none.
    """
    if (path / _SETTINGS).is_file():
        return path
    found = sorted(p for p in (path / FOLDER).glob("step-*") if (p / _SETTINGS).is_file())
    if not found:
        raise FitscopeError(
            f"{path} holds no capsule. One is written when the condition of fs.capsule(...) holds "
            "in a training whose scope has it: fs.Scope(fs.capsule(), run=...)."
        )
    return found[0]


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of `capsule.json`, which needs no Keras.

    Raises:
        RunFormatError: a newer fitscope wrote it.
    """
    settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    if settings["version"] > VERSION:
        raise RunFormatError(
            f"{folder} was written by a newer fitscope (format {settings['version']}; this one "
            f"reads up to {VERSION}). Install that one to replay it."
        )
    return settings


def read(folder: Path) -> Contents:
    """Read a capsule; nothing in it is code."""
    settings = read_settings(folder)
    dtypes = settings["dtypes"]
    state, arrays = (_read_arrays(folder / name, dtypes) for name in (_STATE, _BATCHES))
    return Contents(
        settings,
        json.loads((folder / _MODEL).read_text(encoding="utf-8")),
        [state[name] for name in sorted(state)],
        [_nest(tree, arrays) for tree in settings["batches"]],
    )


def _read_arrays(path: Path, dtypes: Mapping[str, str]) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    for name in set(dtypes) & set(found):
        import ml_dtypes

        found[name] = found[name].view(getattr(ml_dtypes, dtypes[name]))
    return found


def _is_foreign(array: Array) -> bool:
    """Whether NumPy's own files do not know the dtype: bfloat16 and its kin."""
    return array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8"))


def _natives(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: _native(array) for name, array in arrays.items()}


def _native(array: Array) -> Array:
    if array.dtype.kind == "O":
        raise FitscopeError(
            "the batch holds strings or Python objects, and a capsule keeps numbers. Turn them "
            "into numbers before the model: in the data set, for example."
        )
    return array.view(f"u{array.dtype.itemsize}") if _is_foreign(array) else array


def _flatten(tree: Any, arrays: dict[str, Array]) -> Any:
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {"dict": [[key, _flatten(x, arrays)] for key, x in tree.items()]}
    if isinstance(tree, (tuple, list)):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [_flatten(x, arrays) for x in tree]}
    name = f"b{len(arrays):05}"
    arrays[name] = np.asarray(tree)
    return {"array": name}


def _nest(tree: Any, arrays: Mapping[str, Array]) -> Any:
    if tree is None:
        return None
    [(kind, held)] = tree.items()
    if kind == "array":
        return arrays[held]
    if kind == "dict":
        return {key: _nest(x, arrays) for key, x in held}
    parts = [_nest(x, arrays) for x in held]
    return parts if kind == "list" else tuple(parts)
