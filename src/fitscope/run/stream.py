"""The writing end of a stream: pending rows, hot file, sealing, and memory when a disk fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fitscope.run.buffer import BUFFERS
from fitscope.run.hot import HotFile, Tail
from fitscope.run.layout import ROLLUP, Span, hot_name
from fitscope.run.memory import MemoryStream
from fitscope.run.parts import BatchesPart, Part
from fitscope.run.record import StepRecord
from fitscope.run.schema import SCHEMAS
from fitscope.run.seal import seal

HOT_BYTES = 32 * 2**20
HOT_MESSAGES = 4096
RETRY_SECONDS = 30.0

DISK_ERRORS = (OSError, pa.ArrowException)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a stream needs of its writer.

    Args:
        rank: The folder of the writer; None keeps everything in memory.
        names: Gives the site names, by index.
        problem: Told of each failure of the disk, with what was being done.
    """

    rank: Path | None
    names: Callable[[], Sequence[str]]
    problem: Callable[[Exception, str], None]


class StreamWriter:
    """Appends records to one stream; not thread-safe by itself.

    Args:
        kind: `"stats"`, `"hist"` or `"extra"`.
        around: What it needs of its writer.
        memory_bytes: Bytes held at most where there is no disk, or while it fails.
        next_seq: Number of the first record.
    """

    def __init__(
        self, kind: str, around: Surroundings, memory_bytes: int, next_seq: int = 0
    ) -> None:
        self.kind = kind
        self.memory = MemoryStream(SCHEMAS[kind], memory_bytes)
        self._around = around
        self._folder = None if around.rank is None else around.rank / kind
        self._buffer = BUFFERS[kind]()
        self._seq = next_seq
        self._hot: HotFile | None = None
        self._unsealed: list[Path] = []  # hot files closed by a failure
        self._failed_at: float | None = None

    @property
    def pending(self) -> int:
        """Records that are not flushed yet."""
        return self._buffer.keys.records

    @property
    def unsaved(self) -> int:
        """Records that the disk did not take and memory holds."""
        return 0 if self._folder is None else len(self.memory)

    def push(self, record: StepRecord) -> None:
        """Add a record to the pending ones, copying it."""
        if self._buffer.push(self._seq, record):
            self._seq += 1

    def flush(self) -> None:
        """Write the pending records as one message; never raises for a disk."""
        if self._buffer.keys.rows:
            if self._folder is None or self._failed_at is not None:
                self.memory.append(self._buffer.batch(copy=True))
            else:
                batch = self._buffer.batch()
                try:
                    self._write(batch)
                except DISK_ERRORS as error:
                    self.memory.append(self._buffer.batch(copy=True))
                    self._fail(error)
            self._buffer.clear()
        if self._failed_at is not None and time.monotonic() - self._failed_at > RETRY_SECONDS:
            self._retry()
        if self._hot and (self._hot.size >= HOT_BYTES or self._hot.messages >= HOT_MESSAGES):
            self.seal()

    def seal(self) -> None:
        """Turn the hot files into segments; what cannot be sealed stays hot."""
        if self._folder is None:
            return
        if self._hot is not None:
            self._unsealed.append(self._hot.path)
            self._close_hot()
        while self._unsealed:
            try:
                seal_hot(self.kind, self._unsealed[0], self._around.names())
            except DISK_ERRORS as error:
                self._around.problem(error, "seal a segment")
                return
            del self._unsealed[0]

    def close(self) -> None:
        """Flush, try a failed disk once more, and seal."""
        self.flush()
        if self._failed_at is not None:
            self._retry()
        self.seal()

    def parts(self) -> list[Part]:
        """What is not on disk, as copies or memory that no longer changes."""
        batches = self.memory.batches()
        if self._buffer.keys.rows:
            batches.append(self._buffer.batch(copy=True))
        return [BatchesPart(self.kind, batches)]

    def _write(self, batch: pa.RecordBatch) -> None:
        if self._folder is None:
            return
        if self._hot is None:
            first = batch.column("seq")[0].as_py()
            self._hot = HotFile(self._folder / hot_name(first), SCHEMAS[self.kind])
        self._hot.append(batch)

    def _fail(self, error: Exception) -> None:
        self._failed_at = time.monotonic()
        if self._hot is not None:
            if self._hot.messages:
                self._unsealed.append(self._hot.path)
            self._close_hot()
        self._around.problem(error, "write statistics")

    def _retry(self) -> None:
        """Write what memory holds, now that the disk may have room again."""
        try:
            for batch in self.memory.batches():
                self._write(batch)
                self.memory.pop()
        except DISK_ERRORS as error:
            self._fail(error)
            return
        self._failed_at = None

    def _close_hot(self) -> None:
        if self._hot is not None:
            # A network file system reports a failed write here; what is readable is found by
            # reading it back.
            with contextlib.suppress(OSError):
                self._hot.close()
            self._hot = None


def seal_hot(kind: str, path: Path, names: Sequence[str]) -> Span | None:
    """Seal one hot file and delete it; None when it holds no whole message.

    Raises:
        OSError: The disk refused; the hot file is still there.
    """
    try:
        batches = Tail(path).refresh()
    except FileNotFoundError:
        return None  # deleted by someone else, and nothing can be done about it
    span = None
    if batches:
        span = seal(kind, batches, path.parent, path.parent.parent / ROLLUP, names)
    path.unlink(missing_ok=True)
    return span
