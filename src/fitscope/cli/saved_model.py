"""Loading a `.keras` file, with an error that says what to do."""

from __future__ import annotations

import importlib
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fitscope.errors import FitscopeError

if TYPE_CHECKING:
    import keras

_SAVED_CONFIG = "config.json"
_MISSING = re.compile(r"Could not locate (class|function) '([^']+)'")


class SavedModelError(FitscopeError):
    """A saved model cannot be loaded."""


def check_file(name: str) -> None:
    """Check that a file is one that Keras 3 saved, before Keras is imported.

    Args:
        name: Path of the file.

    Raises:
        SavedModelError: There is no such file, or it is something else.
    """
    path = Path(name)
    if not path.exists():
        raise SavedModelError(f"There is no file {name}; give the path of a saved .keras model.")
    if path.is_dir():
        if (path / "run.json").exists():
            raise SavedModelError(f"{name} is a run and no model; use `fitscope show {name}`.")
        raise SavedModelError(
            f"{name} is a folder; expected a file saved by model.save('x.keras')."
        )
    if path.name.endswith(".weights.h5"):
        raise SavedModelError(
            f"{name} holds weights and no model; save the whole one by model.save('x.keras')."
        )
    if not os.access(path, os.R_OK):
        raise SavedModelError(f"{name} cannot be read; check its permissions.")
    if not _is_keras_archive(path):
        raise SavedModelError(
            f"{name} is not a .keras file, or was cut off; expected a file saved by Keras 3 "
            "with model.save('x.keras')."
        )


def load(name: str, modules: Sequence[str] = ()) -> keras.Model:
    """Load a model in Keras' safe mode: no code from the file runs.

    Args:
        name: Path of the file.
        modules: Modules to import first; they register custom classes.

    Returns:
        The model, not compiled.

    Raises:
        SavedModelError: A module or the model cannot be loaded.
    """
    import keras

    # The script's folder is on the path, not the folder the user stands in.
    sys.path.insert(0, str(Path.cwd()))
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise SavedModelError(f"The module {module} cannot be imported: {error}.") from error
    try:
        model = keras.saving.load_model(name, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises what the layer's own code raises
        raise SavedModelError(_reason(name, error)) from error
    if not isinstance(model, keras.Model):
        raise SavedModelError(f"{name} holds a {type(model).__name__}; expected a model.")
    return model


def _reason(name: str, error: Exception) -> str:
    text = str(error)
    if ("Lambda" in text and "safe_mode" in text) or "unsafe deserialization" in text:
        return (
            f"{name} holds a Lambda layer with Python code, which is not run from a file; load "
            "the model in a script that you trust and print fitscope.preview(model) there."
        )
    if "Could not locate" in text or "register_keras_serializable" in text:
        return (
            f"{name} uses {_missing_name(text)}, which is not registered; name the module that "
            "registers it: --import MODULE."
        )
    return f"Keras cannot load {name}: {type(error).__name__}: {_first_line(text)}"


def _missing_name(text: str) -> str:
    found = _MISSING.search(text)
    return f"the custom {found[1]} {found[2]}" if found else "a custom class or function"


def _first_line(text: str) -> str:
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= 240 else line[:239] + "…"


def _is_keras_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return _SAVED_CONFIG in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
