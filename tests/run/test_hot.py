"""The hot stream: whole messages only, wherever a kill has cut it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitscope.errors import RunFormatError
from fitscope.run.buffer import StatsBuffer
from fitscope.run.hot import HotFile, Tail, whole_size
from fitscope.run.record import StepRecord
from fitscope.run.schema import SCHEMAS


def batch(first: int, steps: int) -> pa.RecordBatch:
    buffer = StatsBuffer()
    for step in range(first, first + steps):
        moments = np.full((3, 15), float(step))
        buffer.push(step, StepRecord(step, 0, "test", np.arange(3), moments))
    return buffer.batch()


def steps_of(batches: list[pa.RecordBatch]) -> list[int]:
    return sorted({step for b in batches for step in b.column("step").to_pylist()})


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """A stream of five batches of two steps, and the size after each."""
    path = tmp_path_factory.mktemp("hot") / "hot.arrows"
    file = HotFile(path, SCHEMAS["stats"])
    sizes = [file.size]
    for first in range(0, 10, 2):
        file.append(batch(first, 2))
        sizes.append(file.size)
    file.close()
    return path.read_bytes(), sizes


def test_reads_as_a_plain_arrow_stream(stream: tuple[bytes, list[int]]) -> None:
    table = pa.ipc.open_stream(stream[0]).read_all()
    assert table.column("step").to_pylist() == [s for s in range(10) for _ in range(3)]
    assert set(table.column("phase").to_pylist()) == {"test"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), noise=st.binary(max_size=40))
def test_a_cut_stream_gives_its_whole_batches(
    stream: tuple[bytes, list[int]], tmp_path: Path, share: float, noise: bytes
) -> None:
    data, sizes = stream
    cut = int(share * len(data))
    path = tmp_path / "hot.arrows"
    path.write_bytes(data[:cut])
    whole = sum(size <= cut for size in sizes) - 1
    tail = Tail(path)
    assert steps_of(tail.refresh()) == list(range(2 * max(whole, 0)))
    if whole > 0:
        assert whole_size(path) == sizes[whole]
    # The rest arrives; the reader goes on from where it was.
    path.write_bytes(data)
    assert steps_of(tail.refresh()) == list(range(10))
    assert tail.end == len(data)


def test_a_tail_reads_on(tmp_path: Path) -> None:
    file = HotFile(tmp_path / "hot.arrows", SCHEMAS["stats"])
    tail = Tail(file.path)
    assert tail.refresh() == []
    for first in range(6):
        file.append(batch(first, 1))
        assert steps_of(tail.refresh()) == list(range(first + 1))
        assert len(tail.batches) == first + 1
    file.close()


def test_damage_in_the_middle_is_an_error(stream: tuple[bytes, list[int]], tmp_path: Path) -> None:
    data, sizes = stream
    damaged = bytearray(data)
    damaged[sizes[1] + 8 : sizes[1] + 24] = os.urandom(16)
    path = tmp_path / "hot.arrows"
    path.write_bytes(damaged)
    try:
        found = steps_of(Tail(path).refresh())
    except RunFormatError as error:
        assert "damaged" in str(error)
    else:
        assert found == list(range(len(found)))
