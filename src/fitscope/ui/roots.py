"""Which runs a page may open: those found below the folders it was started with."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fitscope.errors import RunError
from fitscope.run.layout import RUN_FILE

DEPTH = 3
"""Folders below a root that are looked into."""

_MOST = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """A run directory below a root.

    Args:
        name: What the page calls it; unique, and no path to be opened.
        path: The directory.
    """

    name: str
    path: Path


class Roots:
    """The folders a page was started with.

    A request names a run by a name that was found here; it is compared, never joined to a path, so
    nothing outside the roots can be named. Links that lead out of a root are left aside.

    Args:
        paths: Folders with runs, or run directories themselves.
        beside: Whether runs that a scope puts beside a path, `first-2` beside `first`, belong to
            it.

    Raises:
        RunError: One is a file, or is not there.
    """

    def __init__(self, paths: Sequence[Path], *, beside: bool = False) -> None:
        for path in paths:
            if not path.exists():
                raise RunError(
                    f"there is no folder {path}. Give a run directory, or a folder that holds run "
                    "directories; `fitscope demo` makes one in runs/."
                )
            if not path.is_dir():
                raise RunError(f"{path} is a file; a run, or a folder of runs, is a directory.")
        self.paths = [path.resolve() for path in paths]
        self._beside = beside

    def runs(self) -> list[Found]:
        """The runs there now, by name."""
        found: dict[str, Found] = {}
        for number, root in enumerate(self._all()):
            for path in _below(root):
                inside = path.relative_to(root).as_posix()
                name = root.name if inside == "." else inside
                if name in found and found[name].path != path:
                    name = f"{root.name}/{name}" if inside != "." else f"{name} ({number + 1})"
                found.setdefault(name, Found(name, path))
        return sorted(found.values(), key=lambda run: run.name)

    def _all(self) -> list[Path]:
        if not self._beside:
            return self.paths
        found: list[Path] = []
        for path in self.paths:
            more = re.compile(re.escape(path.name) + r"-\d+")
            with contextlib.suppress(OSError):
                entries = [e for e in os.scandir(path.parent) if e.is_dir(follow_symlinks=False)]
                found += sorted(path.parent / e.name for e in entries if more.fullmatch(e.name))
        return [*self.paths, *found]

    def find(self, name: str) -> Found:
        """The run of that name.

        Raises:
            RunError: There is none.
        """
        for run in self.runs():
            if run.name == name:
                return run
        raise RunError(f"no run is named {name!r} below the folders this page was started with.")


def _below(root: Path) -> list[Path]:
    if (root / RUN_FILE).is_file():
        return [root]
    found: list[Path] = []
    level = [root]
    for _ in range(DEPTH):
        next_level: list[Path] = []
        for folder in level:
            try:
                # Without following links: a link may lead anywhere.
                entries = [e.name for e in os.scandir(folder) if e.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            for entry in sorted(entries):
                path = folder / entry
                if (path / RUN_FILE).is_file() or _half_made(path):
                    found.append(path)
                elif not entry.startswith("."):
                    next_level.append(path)
        level = next_level
        if len(found) >= _MOST:
            break
    return found[:_MOST]


def _half_made(path: Path) -> bool:
    """A run whose first file was never written, or was lost: it is shown as broken."""
    try:
        return any(entry.startswith("rank=") for entry in os.listdir(path))
    except OSError:
        return False
