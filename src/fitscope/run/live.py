"""The run of a writer in this process: the same files, and what is still in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitscope.run.layout import STREAMS, rank_name
from fitscope.run.parts import Part, StreamReader
from fitscope.run.sites import SiteTable
from fitscope.select.unseen import Unseen

if TYPE_CHECKING:
    from fitscope.run.writer import RunWriter


class LiveStore:
    """A `Store` over a writer.

    Args:
        writer: The writer.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self.path: Path | None = writer.path
        self._streams: dict[str, StreamReader] = {}
        if writer.path is not None:
            folder = writer.path / rank_name(writer.rank)
            self._streams = {kind: StreamReader(folder / kind, kind) for kind in STREAMS}

    @property
    def config(self) -> Mapping[str, Any]:
        """See `Store`."""
        return self._writer.manifest["config"]

    @property
    def status(self) -> str:
        """See `Store`."""
        return self._writer.status

    @property
    def lost_steps(self) -> int:
        """See `Store`."""
        return self._writer.lost_steps

    @property
    def sites(self) -> SiteTable:
        """See `Store`."""
        return self._writer.sites

    @property
    def graph(self) -> Mapping[str, Any]:
        """See `Store`."""
        return self._writer.graph

    @property
    def unseen(self) -> list[Unseen]:
        """See `Store`."""
        return self._writer.unseen

    @property
    def findings(self) -> list[dict[str, Any]]:
        """See `Store`."""
        return self._writer.findings

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """See `Store`."""
        return self._writer.metrics

    def parts(self, kind: str) -> list[Part]:
        """See `Store`."""
        # Under the writer's lock no flush can move rows from memory to disk in between.
        with self._writer.lock:
            on_disk = self._streams[kind].parts() if self._streams else []
            return [*on_disk, *self._writer.parts(kind)]
