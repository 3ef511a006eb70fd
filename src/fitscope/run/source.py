"""The version of the code that a run was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

_SECONDS = 2.0


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that is checked out around a folder, and whether tracked files differ from it.

    Args:
        folder: Where the training was started.

    Returns:
        `{"commit": ..., "changed": ...}`, where `changed` is None when git took too long to say;
        None outside a repository, or without git.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    # No optional locks: a `git commit` of the user's must not fail because we looked.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - fixed words, and a path that is no option
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
