"""Where a `Run` gets its data: a directory, or the writer in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fitscope.errors import RunError, RunFormatError
from fitscope.run.layout import (
    FINDINGS_FILE,
    FORMAT,
    GRAPH_FILE,
    HEARTBEAT_FILE,
    METRICS_FILE,
    RUN_FILE,
    STREAMS,
    rank_name,
    read_json,
)
from fitscope.run.liveness import status_of
from fitscope.run.parts import Part, StreamReader
from fitscope.run.sites import SiteTable
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen


class Store(Protocol):
    """The data of one run."""

    path: Path | None

    @property
    def config(self) -> Mapping[str, Any]:
        """What the run was started with."""
        ...

    @property
    def status(self) -> str:
        """`"running"`, `"interrupted"`, or what the writer said when it closed."""
        ...

    @property
    def lost_steps(self) -> int:
        """Steps that neither disk nor memory holds."""
        ...

    @property
    def sites(self) -> SiteTable:
        """The sites, in the order of their indices."""
        ...

    @property
    def graph(self) -> Mapping[str, Any]:
        """The model: layers, edges, whatever its writer knew."""
        ...

    @property
    def unseen(self) -> list[Unseen]:
        """Selected sites that were not seen."""
        ...

    @property
    def findings(self) -> list[dict[str, Any]]:
        """What rules found while the run was written."""
        ...

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Loss and metrics as Keras reported them."""
        ...

    def parts(self, kind: str) -> list[Part]:
        """The parts of a stream now, in the order of writing."""
        ...


class DiskStore:
    """A run directory, read without changing it.

    Args:
        path: The run directory.
        rank: Which writer's data to read.

    Raises:
        RunFormatError: The directory holds no run, or one of a later format.
        RunError: There is no such directory, or no such rank.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path: Path | None = path
        self.folder = path / rank_name(rank)
        self.manifest = read_manifest(path)
        if not self.folder.is_dir():
            present = sorted(p.name for p in path.glob("rank=*"))
            raise RunError(
                f"{path} has no {self.folder.name}; it has {', '.join(present) or 'no rank'}."
            )
        self._streams = {kind: StreamReader(self.folder / kind, kind) for kind in STREAMS}
        own = self.folder / GRAPH_FILE
        self._graph_path = own if own.exists() else path / GRAPH_FILE
        self._graph_stamp: tuple[int, int] | None = None
        self._graph: dict[str, Any] = {}
        self._sites = SiteTable()

    @property
    def config(self) -> Mapping[str, Any]:
        """See `Store`."""
        return self.manifest.get("config", {})

    @property
    def heartbeat(self) -> dict[str, Any] | None:
        """The writer's last heartbeat."""
        try:
            return read_json(self.folder / HEARTBEAT_FILE)
        except FileNotFoundError:
            return None

    @property
    def status(self) -> str:
        """See `Store`."""
        return status_of(self.heartbeat)

    @property
    def lost_steps(self) -> int:
        """See `Store`."""
        beat = self.heartbeat or {}
        lost = int(beat.get("lost_steps", 0))
        # What only the writer's memory held is lost once the writer is gone.
        return lost if status_of(beat or None) == "running" else lost + beat.get("unsaved_steps", 0)

    @property
    def sites(self) -> SiteTable:
        """See `Store`."""
        self._load_graph()
        return self._sites

    @property
    def graph(self) -> Mapping[str, Any]:
        """See `Store`."""
        self._load_graph()
        return self._graph.get("graph", {})

    @property
    def unseen(self) -> list[Unseen]:
        """See `Store`."""
        self._load_graph()
        return [Unseen.from_json(value) for value in self._graph.get("unseen", [])]

    @property
    def findings(self) -> list[dict[str, Any]]:
        """See `Store`."""
        return _lines(self.folder / FINDINGS_FILE)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """See `Store`."""
        return _lines(self.folder / METRICS_FILE)

    def parts(self, kind: str) -> list[Part]:
        """See `Store`."""
        return self._streams[kind].parts()

    def _load_graph(self) -> None:
        try:
            stat = self._graph_path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp == self._graph_stamp:
                return
            self._graph = read_json(self._graph_path)
        except FileNotFoundError:
            return  # killed before the first site was added
        self._graph_stamp = stamp
        self._sites = SiteTable(Site.from_json(value) for value in self._graph.get("sites", []))


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    # What follows the last line break is a line torn by a kill, or one being written.
    return [json.loads(line) for line in data.split(b"\n")[:-1] if line.strip()]


def read_manifest(path: Path) -> dict[str, Any]:
    """Read `run.json` and check the format.

    Raises:
        RunError: There is no such directory, or it cannot be read.
        RunFormatError: The directory holds no run, or one of a later format.
    """
    try:
        manifest = read_json(path / RUN_FILE)
    except FileNotFoundError as error:
        if not path.is_dir():
            raise RunError(
                f"there is no run at {path}. Give the directory that was passed as `run=`."
            ) from error
        raise RunFormatError(
            f"{path} holds no {RUN_FILE}, so it is not a run. Give the directory that was passed "
            "as `run=`."
        ) from error
    except NotADirectoryError as error:
        raise RunFormatError(f"{path} is a file; a run is a directory.") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}. Check its permissions.") from error
    found = manifest.get("format")
    if not isinstance(found, int) or found > FORMAT:
        raise RunFormatError(
            f"{path} has run format {found!r}; this fitscope reads up to {FORMAT}. Upgrade with "
            "`pip install -U fitscope`."
        )
    return manifest
