"""Builds the page into the package, where Node is there to do it.

The wheel and the sdist carry the built page, so installing them needs no Node. From a clone without
Node everything but the page works, and `fitscope ui` says what to do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by itself, by `make page`
    BuildHookInterface = object

BUILT = "src/fitscope/ui/static"


class PageHook(BuildHookInterface):
    """Runs the page's own build, when its source is there and newer than what was built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        source, built = root / "page", root / BUILT
        if not (source / "package.json").is_file() or is_fresh(source, built):
            return
        problem = build(source)
        if problem:
            self.app.display_warning(
                f"The page of `fitscope ui` is not built: {problem} Everything else works."
            )


def is_fresh(source: Path, built: Path) -> bool:
    """Whether the built page is newer than everything it is made of."""
    index = built / "index.html"
    if not index.is_file():
        return False
    made_of = [
        path for path in source.rglob("*") if path.is_file() and "node_modules" not in path.parts
    ]
    return index.stat().st_mtime >= max(path.stat().st_mtime for path in made_of)


def build(source: Path) -> str:
    """Build the page.

    Returns:
        What went wrong, as sentences; nothing when all went well.
    """
    npm = shutil.which("npm")
    if npm is None:
        return "Node is not installed. Install Node 18 or newer and run `make page`."
    for command in (["ci", "--ignore-scripts", "--no-audit", "--no-fund"], ["run", "build"]):
        done = subprocess.run(  # noqa: S603
            [npm, *command], cwd=source, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
            return f"`npm {command[0]}` in {source.name}/ failed:\n{last}\n"
    return ""


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    said = "" if is_fresh(here / "page", here / BUILT) else build(here / "page")
    sys.exit(said or 0)
