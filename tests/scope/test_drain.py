"""The thread that writes: it never makes training wait, and says what it could not do."""

from __future__ import annotations

import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest

from fitscope.engine.layout import Layout, Reading
from fitscope.engine.vector import BASE, BINS, COUNTS, LENGTH, decode
from fitscope.run.writer import RunWriter
from fitscope.scope import drain as module
from fitscope.scope.drain import Drain, Pending
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.statistics.moments import COLUMNS


def layout() -> Layout:
    return Layout((Site.of(SiteName("a")), Site.of(SiteName("b"))), (), ())


class Given:
    """A row that is on the host already."""

    def __init__(self, lay: Layout, step: int) -> None:
        moments = np.zeros((2, len(COLUMNS)))
        moments[:, COLUMNS.index("count")] = 10, 20
        moments[:, COLUMNS.index("mean")] = step, 0.5
        self._reading = Reading(
            lay,
            moments,
            np.zeros((2, BINS), np.uint32),
            np.zeros(0),
            np.full(2, -1),
        )

    @property
    def layout(self) -> Layout:
        return self._reading.layout

    def arrays(self) -> list[Any]:
        return []

    def read(self) -> Reading:
        return self._reading


def pending(step: int, lay: Layout) -> Pending:
    return Pending(Given(lay, step), step, 0, "train")


def steps(writer: RunWriter) -> list[int]:
    return sorted({row["step"] for row in writer.run.stats("a", "mean")})


def test_what_is_put_is_written_in_order() -> None:
    writer, lay = RunWriter(None, config={}), layout()
    drain = Drain(writer)
    drain.start()
    for step in range(5):
        drain.put(pending(step, lay))
    drain.stop()
    values = [(row["step"], row["value"]) for row in writer.run.stats("a", "mean")]
    assert values == [(step, float(step)) for step in range(5)]
    assert drain.dropped == 0
    assert drain.latest_values("train")["a"]["mean"] == 4.0


def test_counts_survive_beyond_what_a_float32_counts() -> None:
    count = 2**24 * 3 + 1
    vector = np.zeros(LENGTH, np.float32)
    first = 2 * COUNTS.index("count")
    vector[first : first + 2] = divmod(count, BASE)
    moments = decode(vector)
    assert moments[COLUMNS.index("count")] == count


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Holds every writer back until it is set."""
    opened = threading.Event()
    append = RunWriter.append

    def held(self: RunWriter, record: Any) -> None:
        opened.wait(20)
        append(self, record)

    monkeypatch.setattr(RunWriter, "append", held)
    return opened


def put_behind(drain: Drain, lay: Layout, count: int) -> None:
    """The first step is in the writer's hands, the others wait."""
    drain.start()
    drain.put(pending(0, lay))
    ends = time.monotonic() + 10
    while not drain._queue.empty() and time.monotonic() < ends:
        time.sleep(0.01)
    for step in range(1, count):
        drain.put(pending(step, lay))


def test_when_behind_the_oldest_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(module, "LIMIT", 4)
    writer = RunWriter(None, config={})
    drain = Drain(writer)
    put_behind(drain, layout(), 10)
    gate.set()
    with pytest.warns(RuntimeWarning, match="dropped 5 observed steps"):
        drain.stop()
    assert drain.dropped == 5
    assert steps(writer) == [0, 6, 7, 8, 9]


def test_what_was_dropped_is_said_once(
    monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    monkeypatch.setattr(module, "LIMIT", 2)
    drain = Drain(RunWriter(None, config={}))
    put_behind(drain, layout(), 9)
    gate.set()
    with pytest.warns(RuntimeWarning, match="dropped") as caught:  # noqa: PT031
        drain.stop()
        drain.start()
        drain.stop()
    assert len([w for w in caught if "dropped" in str(w.message)]) == 1


def test_put_does_not_wait_for_a_writer_that_hangs(gate: threading.Event) -> None:
    writer = RunWriter(None, config={})
    drain = Drain(writer)
    began = time.monotonic()
    put_behind(drain, layout(), module.LIMIT + 50)
    assert time.monotonic() - began < 10
    assert drain.dropped > 0
    gate.set()
    with pytest.warns(RuntimeWarning, match="dropped"):
        drain.stop()
    assert steps(writer)[-1] == module.LIMIT + 49


def test_errors_of_the_writer_are_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, lay = RunWriter(None, config={}), layout()

    def broken(record: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(writer, "append", broken)
    drain = Drain(writer)
    with pytest.warns(RuntimeWarning, match="disk on fire") as caught:  # noqa: PT031
        drain.start()
        for step in range(5):
            drain.put(pending(step, lay))
        drain.stop()
    assert len(caught) == 1
    assert "training goes on" in str(caught[0].message)


def test_an_error_at_the_end_does_not_leave_the_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` runs in `on_train_end`: what it raises would end the user's script."""
    writer, lay = RunWriter(None, config={}), layout()
    drain = Drain(writer)
    drain.start()
    drain.put(pending(0, lay))

    def broken() -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(writer, "flush", broken)
    monkeypatch.setattr(writer, "rest", broken, raising=False)
    with pytest.warns(RuntimeWarning, match="disk on fire"):
        drain.stop()


def test_warnings_as_errors_do_not_kill_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `python -W error` the warning itself raises, inside the thread."""
    writer, lay = RunWriter(None, config={}), layout()
    append, failures = writer.append, [True, False, False]

    def once(record: Any) -> None:
        if failures.pop(0):
            raise OSError("disk on fire")
        append(record)

    monkeypatch.setattr(writer, "append", once)
    drain = Drain(writer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drain.start()
        for step in range(3):
            drain.put(pending(step, lay))
        drain.stop()
    assert steps(writer) == [1, 2]


def test_stop_without_start_and_twice() -> None:
    drain = Drain(RunWriter(None, config={}))
    drain.stop()
    drain.start()
    drain.stop()
    drain.stop()
    assert not [t for t in threading.enumerate() if t.name.startswith("fitscope")]


def test_starts_again_after_a_stop() -> None:
    writer, lay = RunWriter(None, config={}), layout()
    drain = Drain(writer)
    for step in range(2):
        drain.start()
        drain.put(pending(step, lay))
        drain.stop()
    assert steps(writer) == [0, 1]
