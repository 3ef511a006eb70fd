"""What `fitscope run` is told: on the command line, or in `fitscope.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fitscope.errors import FitscopeError

FILE = "fitscope.toml"


class OptionsError(FitscopeError, ValueError):
    """An option is unknown, or is not what is accepted."""


@dataclass(frozen=True)
class Options:
    """How a script is observed.

    Args:
        select: Globs over layer paths.
        of: Tensors of a layer, as `fs.watch` takes them.
        budget: As `fs.Scope` takes it.
        every: The same.
        run: The folder of the session; each model has a run in it.
        ui: Whether to show the page.
    """

    select: tuple[str, ...] = ("**",)
    of: tuple[str, ...] = ("output",)
    budget: float | None = None
    every: int | None = None
    run: str | None = None
    ui: bool = False

    def with_given(self, given: Mapping[str, Any]) -> Options:
        """These options with those that were given in their place."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})


def read_file(path: Path) -> Options:
    """The options of the table `[run]` of a file.

    Args:
        path: A TOML file.

    Raises:
        OptionsError: It cannot be read, or an option is unknown or of another type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table: Any = tomllib.loads(text).get("run", {})
    except (OSError, ValueError) as error:
        raise OptionsError(f"{path} cannot be read: {error}.") from error
    if not isinstance(table, dict):
        raise OptionsError(f"{path}: `run` is {table!r}; expected a table [run].")
    known = {field.name for field in fields(Options)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise OptionsError(
                f"{path}: [run] has no option {name!r}.{hint} It accepts "
                f"{', '.join(sorted(known))}."
            )
        values[name] = _checked(path, name, value)
    return Options(**values)


def _checked(path: Path, name: str, value: Any) -> Any:
    if name in ("select", "of"):
        words = [value] if isinstance(value, str) else value
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            return tuple(words)
        raise _wrong(path, name, value, "a word or a list of words")
    if name == "ui":
        if isinstance(value, bool):
            return value
        raise _wrong(path, name, value, "true or false")
    if name == "run":
        if isinstance(value, str) and value:
            return value
        raise _wrong(path, name, value, "a path")
    kinds = (int,) if name == "every" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _wrong(path, name, value, "a whole number" if name == "every" else "a number")
    return value


def _wrong(path: Path, name: str, value: Any, accepted: str) -> OptionsError:
    return OptionsError(f"{path}: [run] {name} = {value!r}; expected {accepted}.")
