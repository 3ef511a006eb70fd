"""Taking a directory for a run, so that no two runs share one."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from fitscope.errors import RunError, RunExistsError, RunFormatError
from fitscope.run.layout import (
    HEARTBEAT_FILE,
    ROLLUP,
    RUN_FILE,
    STREAMS,
    TEMPORARY,
    rank_name,
    read_json,
)
from fitscope.run.liveness import status_of

_BEGINNING_SECONDS = 1.0


def claim(path: Path, rank: int) -> None:
    """Make the run directory and the folder of this rank, which no one else may have.

    Raises:
        RunExistsError: The directory holds something already.
        RunError: The directory cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = sorted(entry.name for entry in path.iterdir())
        # The other processes of a distributed run may have been here first.
        others = [name for name in held if not name.startswith("rank=")]
        if rank == 0 and others:
            raise _exists(path, held)
        # Making the folder is what decides between two processes that come at once.
        (path / rank_name(rank)).mkdir()
    except FileExistsError as error:
        if isinstance(error, RunExistsError):
            raise
        raise _exists(path, [rank_name(rank)] if path.is_dir() else []) from error
    except OSError as error:
        raise _refused(path, error) from error


def check_free(path: Path) -> None:
    """Tell whether a run could be written to a directory, without touching it.

    Raises:
        RunExistsError: The directory holds something already, or is a file.
        RunError: It cannot be looked into.
    """
    try:
        held = sorted(entry.name for entry in path.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise _exists(path, []) from error
    except OSError as error:
        raise _refused(path, error) from error
    if held:
        raise _exists(path, held)


def clear_abandoned(path: Path) -> None:
    """Remove what a process left behind that was killed while it was beginning a run there.

    Beginning takes milliseconds; another process that is at it has until then a second to get done.
    A directory that holds anything else is left as it is.
    """
    sign, seen = _last_sign(path), None
    # A sign that stays the same for a second is an old one, whatever the clock of its disk says.
    while sign not in (None, seen) and time.time() - sign < _BEGINNING_SECONDS:
        time.sleep(_BEGINNING_SECONDS)
        sign, seen = _last_sign(path), sign
    if sign is None:
        return
    with contextlib.suppress(OSError):  # then it cannot be claimed either, which says why
        (path / (RUN_FILE + TEMPORARY)).unlink(missing_ok=True)
        folder = path / rank_name(0)
        for name in (*STREAMS, ROLLUP):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).rmdir()
        folder.rmdir()


def _last_sign(path: Path) -> float | None:
    """When a run that is not there was seen to begin, in seconds since 1970; None without one."""
    try:
        held = {entry.name for entry in path.iterdir()}
        folder = path / rank_name(0)
        if rank_name(0) not in held or not held <= {rank_name(0), RUN_FILE + TEMPORARY}:
            return None
        inside = list(folder.iterdir())
        empty = {*STREAMS, ROLLUP}
        if any(entry.name not in empty or any(entry.iterdir()) for entry in inside):
            return None
        return max(entry.stat().st_mtime for entry in (path, folder, *inside))
    except OSError:
        return None


def create_streams(folder: Path) -> None:
    """Make the folders of the streams.

    Raises:
        RunError: They cannot be made.
    """
    try:
        for name in (*STREAMS, ROLLUP):
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(path: Path, error: OSError) -> RunError:
    return RunError(
        f"the run directory {path} cannot be made: {error}. Give a directory that you may "
        "write to, or run=None to keep the run in memory."
    )


def _exists(path: Path, held: list[str]) -> RunExistsError:
    if not path.is_dir():
        return RunExistsError(f"{path} is no directory, and a run is one. Give another path.")
    writer = _writer_of(path, held)
    if writer:
        return RunExistsError(
            f"{path} is being written by {writer}. Two runs cannot share a directory: give one "
            "that is new or empty. That run goes on as it was; fitscope.open_run(path) reads it "
            "meanwhile."
        )
    what = "a run" if RUN_FILE in held else ", ".join(held[:3])
    return RunExistsError(
        f"{path} already holds {what}. Give a directory that is new or empty; "
        "fitscope.open_run(path) reads a run, RunWriter.reopen(path) appends to one."
    )


def _writer_of(path: Path, held: list[str]) -> str | None:
    """Who writes a run there at this moment."""
    for name in held:
        if name.startswith("rank="):
            with contextlib.suppress(OSError, RunFormatError):
                beat = read_json(path / name / HEARTBEAT_FILE)
                if status_of(beat) == "running":
                    return f"process {beat.get('pid')} on {beat.get('host')}"
    return None
