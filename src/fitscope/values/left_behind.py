"""An extraction that Ctrl-C ended before it could say so, in a process that goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fitscope.run.layout import HEARTBEAT_FILE, rank_name, replace_json
from fitscope.run.liveness import beat, machine
from fitscope.run.store import DiskStore


def mark_left_behind(path: Path, code: CodeType) -> bool:
    """Mark a run as interrupted, if this process is said to write it and none of its calls does.

    Nothing can hold Ctrl-C back in the last instructions before a writer is closed, and a notebook
    keeps that writer in its last traceback. Whether a call goes on is seen on the stacks.

    Args:
        path: the run's directory.
        code: of the function that writes such runs, whose local `path` says which.

    Returns:
        Whether it was marked; a later writer may take it up then.
    """
    found: dict[str, Any] = DiskStore(path).heartbeat or {}
    if found.get("pid") != os.getpid() or found.get("machine") != machine():
        return False
    # The first frame with this path is the call that asks.
    if sum(_is_of(frame, path, code) for frame in _frames()) > 1:
        return False
    replace_json(path / rank_name(0) / HEARTBEAT_FILE, {**found, **beat("interrupted", {})})
    return True


def _frames() -> Iterator[FrameType]:
    """What every thread of this process is in."""
    for top in sys._current_frames().values():  # noqa: SLF001 - no public way
        frame: FrameType | None = top
        while frame is not None:
            yield frame
            frame = frame.f_back


def _is_of(frame: FrameType, path: Path, code: CodeType) -> bool:
    if frame.f_code is not code:
        return False
    written = frame.f_locals.get("path")
    return written is not None and Path(written).resolve() == path.resolve()
