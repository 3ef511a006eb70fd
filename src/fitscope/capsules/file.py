"""A capsule on disk: JSON, and arrays without pickle.

capsule.json    the step, why it was kept, the variables in their order, the batches' structure
model.json      the model and how it was compiled, as Keras serializes them; null where it cannot
state.npz       one array for each variable, before the first of the steps
batches.npz     one array for each tensor of the batches
adapted.npz     what layers learned by `adapt`
random.npz      the states of the backend's own random generators
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
_SETTINGS, _MODEL = "capsule.json", "model.json"
_STATE, _BATCHES, _ADAPTED, _RANDOM = "state.npz", "batches.npz", "adapted.npz", "random.npz"
_PARTIAL = ".tmp"

Array = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """What a capsule holds.

    Attributes:
        settings: the content of `capsule.json`.
        model: as `keras.saving.serialize_keras_object` gives it; None where Keras cannot.
        state: the values of the variables, in the order of `settings["variables"]`.
        batches: what each step was given, from the one that `state` belongs to.
        adapted: what layers learned by `adapt`, see `capsules.adapted`.
        random: the backend's own random generators, see `engine.state`.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, Any] | None
    state: Sequence[Array]
    batches: Sequence[Any]
    adapted: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    random: Mapping[str, Array] = dataclasses.field(default_factory=dict)


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
    files = {
        _STATE: state, _BATCHES: arrays, _ADAPTED: contents.adapted, _RANDOM: contents.random
    }  # fmt: skip
    dtypes = {n: a.dtype.name for named in files.values() for n, a in named.items() if _foreign(a)}
    settings = {"version": VERSION, **contents.settings, "batches": trees, "dtypes": dtypes}
    natives = {name: _natives(named) for name, named in files.items()}
    folder = run / FOLDER / f"step-{contents.settings['step']:06}"
    partial = folder.with_name(folder.name + _PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, native in natives.items():
            with (partial / name).open("wb") as file:
                np.savez(file, **native)
        (partial / _MODEL).write_text(json.dumps(contents.model), encoding="utf-8")
        (partial / _SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        partial.rename(folder)
    except OSError:
        # A full disk needs the place.
        shutil.rmtree(partial, ignore_errors=True)
        raise
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
    folders = sorted((path / FOLDER).glob("step-*"))
    found = [p for p in folders if p.suffix != _PARTIAL and (p / _SETTINGS).is_file()]
    if not found and folders:
        raise FitscopeError(
            f"{folders[0]} was not written to its end: the training is writing it, or ended before "
            "it was done. It cannot be replayed."
        )
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
    names = (_STATE, _BATCHES, _ADAPTED, _RANDOM)
    state, arrays, adapted, random = (_read_arrays(folder / name, dtypes) for name in names)
    return Contents(
        settings,
        json.loads((folder / _MODEL).read_text(encoding="utf-8")),
        [state[name] for name in sorted(state)],
        [_nest(tree, arrays) for tree in settings["batches"]],
        adapted,
        random,
    )


def _read_arrays(path: Path, dtypes: Mapping[str, str]) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    for name in set(dtypes) & set(found):
        import ml_dtypes

        found[name] = found[name].view(getattr(ml_dtypes, dtypes[name]))
    return found


def _foreign(array: Array) -> bool:
    """Whether NumPy's own files do not know the dtype: bfloat16 and its kin."""
    return array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8"))


def _natives(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: _native(array) for name, array in arrays.items()}


def _native(array: Array) -> Array:
    if array.dtype.kind == "O":
        if not all(isinstance(x, (bytes, str)) for x in array.reshape(-1)):
            raise FitscopeError(
                "the batch holds Python objects, and a capsule keeps numbers and strings. Turn "
                "them into numbers before the model: in the data set, for example."
            )
        texts = [x.encode() if isinstance(x, str) else x for x in array.reshape(-1)]
        return np.array(texts, "S").reshape(array.shape)
    return array.view(f"u{array.dtype.itemsize}") if _foreign(array) else array


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
