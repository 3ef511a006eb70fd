"""Taking a directory for a run, so that no two runs share one."""

from __future__ import annotations

from pathlib import Path

from fitscope.errors import RunError, RunExistsError
from fitscope.run.layout import ROLLUP, RUN_FILE, STREAMS, rank_name


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
        return RunExistsError(f"{path} is a file; a run is a directory. Give another path.")
    what = "a run" if RUN_FILE in held else ", ".join(held[:3])
    return RunExistsError(
        f"{path} already holds {what}. Give a directory that is new or empty; "
        "fitscope.open_run(path) reads a run, RunWriter.reopen(path) appends to one."
    )
