"""Which rules run, and with which thresholds: `Scope(rules=...)` and `fitscope.toml`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fitscope.errors import FitscopeError
from fitscope.rules.rule import Rule

FILE = "fitscope.toml"


def choose(known: Mapping[str, Rule], asked: Any = None, *, file: Path | None = None) -> Rules:
    """The rules as a file and the caller want them; the caller has the last word.

    Args:
        known: The rules that come with fitscope.
        asked: `None`; a mapping from id to `False` (silence), `True`, thresholds, or a `Rule`; a
            `Rule`; or a list of rules and mappings.
        file: A `fitscope.toml`; by default the one in this directory or the nearest above it.

    Raises:
        FitscopeError: A rule or a threshold is not known, or the file cannot be read.
    """
    rules = dict(known)
    asked_parts = _parts(asked)
    # Rules of the user's first, so that a file can tune them.
    for part in asked_parts:
        if isinstance(part, Rule):
            rules[part.id] = part
    path = file if file is not None else find_file()
    if path is not None:
        _change(rules, _read(path), str(path), of_file=True)
    for part in asked_parts:
        if not isinstance(part, Rule):
            _change(rules, part, "Scope(rules=...)")
    return rules


Rules = dict[str, Rule]


def find_file(start: Path | None = None) -> Path | None:
    """The nearest `fitscope.toml`, here or in a directory above; `None` where there is none."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        path = folder / FILE
        if path.is_file():
            return path
    return None


def _parts(asked: Any) -> list[Any]:
    if asked is None:
        return []
    parts = [asked] if isinstance(asked, (Rule, Mapping)) else asked
    if not isinstance(parts, Iterable) or isinstance(parts, str):
        raise _not_rules(asked)
    parts = list(parts)
    for part in parts:
        if not isinstance(part, (Rule, Mapping)):
            raise _not_rules(part)
    return parts


def _change(rules: Rules, changes: Mapping[str, Any], where: str, *, of_file: bool = False) -> None:
    for name, wanted in changes.items():
        if isinstance(wanted, Rule):
            rules[name] = wanted
            continue
        if name not in rules:
            close = difflib.get_close_matches(name, rules, n=2)
            if of_file and not close:
                continue  # of a rule that another script brings
            near = " or ".join(map(repr, close))
            hint = f" Did you mean {near}?" if near else " `fitscope doctor --rules` lists them."
            raise FitscopeError(f"{where}: there is no rule {name!r}.{hint}")
        if wanted is False:
            del rules[name]
        elif isinstance(wanted, Mapping):
            rules[name] = rules[name].tuned(wanted)
        elif wanted is not True:
            raise FitscopeError(
                f"{where}: rule {name!r} was given {wanted!r}. Give False to silence it, or its "
                "thresholds by name."
            )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FitscopeError(f"{path} cannot be read as TOML: {error}.") from error
    wanted = content.get("rules", {})
    if not isinstance(wanted, Mapping):
        raise FitscopeError(f"{path}: [rules] must be a table of rule ids.")
    return wanted


def _not_rules(value: Any) -> FitscopeError:
    return FitscopeError(
        f"Scope(rules={value!r}): expected rules made by fs.rule, or a dict from a rule's id to "
        "False (silence it) or to its thresholds, or a list of these."
    )
