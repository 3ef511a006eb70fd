"""The hot end of a stream: an Arrow IPC stream that grows by one whole message a flush.

A killed writer leaves at most one torn message at the end. `Tail` walks the length prefixes of
the messages and never looks past the last whole one, so it works while the file is written and
after a kill, and it only reads what is new.

The file is read with plain reads, not mapped: a mapped page of a failing disk or of a file cut on
a network file system ends the process with SIGBUS, and the reader may be the training process.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pyarrow as pa

from fitscope.errors import RunFormatError
from fitscope.run.schema import empty_batch

_CONTINUATION = 0xFFFFFFFF


def stream_header(schema: pa.Schema) -> bytes:
    """The schema message and the dictionaries, which every hot file starts with.

    An empty batch makes Arrow write the (constant) dictionaries, so that every later message is
    one self-contained record batch.
    """
    sink = pa.BufferOutputStream()
    writer = pa.ipc.new_stream(sink, schema)
    writer.write_batch(empty_batch(schema))
    return sink.getvalue().to_pybytes()


class HotFile:
    """The writing end of one hot file.

    Args:
        path: The file to create; what an earlier failure left there is overwritten.
        schema: Schema of every batch.

    Raises:
        OSError: The file cannot be created.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.size = 0
        self.messages = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        try:
            self._write(stream_header(schema))
        except OSError:
            self.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def append(self, batch: pa.RecordBatch) -> None:
        """Write one batch as one message.

        Raises:
            OSError: The message was not written as a whole; the file is cut back to the last
                whole message where the disk still allows that.
        """
        # Writing to a deleted file succeeds and keeps nothing.
        if os.fstat(self._fd).st_nlink == 0:
            raise FileNotFoundError(2, "the file was deleted while it was written", str(self.path))
        self._write(batch.serialize())
        self.messages += 1

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _write(self, data: pa.Buffer | bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(memoryview(data))


class Tail:
    """The reading end of one hot file, which may be growing.

    Args:
        path: The hot file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0  # of the last whole message
        self.batches: list[pa.RecordBatch] = []
        self._header: bytes | None = None

    def refresh(self) -> list[pa.RecordBatch]:
        """Read the whole messages written since the last call.

        Returns:
            All batches of the file so far, in order.

        Raises:
            FileNotFoundError: The file is gone (sealed, by its writer).
            RunFormatError: A whole message cannot be read.
        """
        with open(self.path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            ends = _message_ends(file.fileno(), self.end, size)
            if not ends:
                return self.batches
            file.seek(self.end)
            data = _read_exactly(file.fileno(), ends[-1] - self.end)
        if self._header is None:
            header_end = _header_end(data)
            if header_end is None:
                return self.batches
            self._header = data[:header_end]
            data = data[header_end:]
            if not data:
                self.end = ends[-1]
                return self.batches
        try:
            # The header goes in front again: the dictionaries are in it.
            new = pa.ipc.open_stream(pa.BufferReader(self._header + data))
            fresh = [batch for batch in new if batch.num_rows]
        except (pa.ArrowException, OSError) as error:
            raise RunFormatError(
                f"{self.path} has a damaged message after byte {self.end} ({error}). Move the "
                "file away to read the rest of the run."
            ) from error
        self.batches.extend(fresh)
        self.end = ends[-1]
        return self.batches


def whole_size(path: Path) -> int:
    """The bytes up to the end of the last whole message."""
    with open(path, "rb", buffering=0) as file:
        ends = _message_ends(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return ends[-1] if ends else 0


def _message_ends(fd: int, start: int, size: int) -> list[int]:
    """The ends of the whole messages from `start` on."""
    ends: list[int] = []
    while start + 8 <= size:
        marker, length = struct.unpack("<II", os.pread(fd, 8, start))
        if marker != _CONTINUATION or length == 0 or start + 8 + length > size:
            break
        body = _body_length(os.pread(fd, length, start + 8))
        end = start + 8 + length + body
        if body < 0 or end > size:
            break
        ends.append(end)
        start = end
    return ends


def _body_length(metadata: bytes) -> int:
    """`Message.bodyLength` of the flatbuffer in front of a body.

    pyarrow reads a message only together with its body; this looks before the body is there.
    Format: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format,
    field 3 of the root table `Message`. -1 for what is no message, such as the zeros that a power
    cut leaves.
    """
    try:
        (root,) = struct.unpack_from("<I", metadata, 0)
        (back,) = struct.unpack_from("<i", metadata, root)
        vtable = root - back
        (vtable_size,) = struct.unpack_from("<H", metadata, vtable)
        if vtable_size < 12:
            return 0
        (offset,) = struct.unpack_from("<H", metadata, vtable + 10)
        return int(struct.unpack_from("<q", metadata, root + offset)[0]) if offset else 0
    except struct.error:
        return -1


def _header_end(data: bytes) -> int | None:
    """Where the schema, the dictionary and the empty batch end; None when cut before that."""
    end = 0
    for _ in range(3):
        if end + 8 > len(data):
            return None
        (length,) = struct.unpack_from("<I", data, end + 4)
        end += 8 + length + _body_length(data[end + 8 : end + 8 + length])
    return end


def _read_exactly(fd: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(fd, size)
        if not part:
            break  # cut by a recovery meanwhile; what is missing was no whole message
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
