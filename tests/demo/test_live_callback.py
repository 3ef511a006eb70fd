"""The callback that feeds the live table, on a scope made up by the test."""

import io
import warnings

import numpy as np
import pytest
from rich.console import Console

from fitscope.demo.live_callback import LiveCallback
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.terminal.live import LiveTable
from fitscope.terminal.progress import Progress, cost_text


class FakeRun:
    sites = (
        Site.of(SiteName("conv"), layer_class="Conv2D", shape=(32, 8, 8, 4), activation="relu"),
        Site.of(SiteName("head"), layer_class="Dense", shape=(32, 10)),
    )


class FakeScope:
    def __init__(self):
        self.run = FakeRun()
        self.cost = {"steps": 45, "observed_steps": 9, "seconds": 0.2, "share_of_time": 0.014}
        self.read = 0
        self.failure = None

    def latest(self):
        self.read += 1
        if self.failure:
            raise self.failure
        values = {"mean": 0.5, "rms": 1.0, "zero_fraction": 0.2, "dead_fraction": 0.75}
        histogram = np.bincount(np.arange(400, 500), minlength=2048)
        return {site.name: {**values, "histogram": histogram} for site in self.run.sites}


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def scope():
    return FakeScope()


@pytest.fixture
def clock():
    return Clock()


def make(scope, clock, *, terminal, height=24):
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=100,
        height=height,
        color_system=None,
        legacy_windows=False,
    )
    table = LiveCallback(scope, LiveTable(console, clock))
    table.set_params({"epochs": 2, "steps": 45})
    return table, console.file


def train(table, clock, epochs=2, steps=45, seconds=0.01):
    table.on_train_begin()
    for epoch in range(epochs):
        table.on_epoch_begin(epoch)
        for step in range(steps):
            table.on_train_batch_begin(step)
            clock.now += seconds
            table.on_train_batch_end(step, {"loss": 0.5, "accuracy": 0.25})
        table.on_epoch_end(epoch, {"loss": 0.25, "val_loss": 0.5})
    table.on_train_end()


def test_a_pipe_gets_a_line_per_epoch_and_one_table(scope, clock):
    table, out = make(scope, clock, terminal=False)
    train(table, clock)
    text = out.getvalue()
    assert "\x1b" not in text
    lines = text.rstrip("\n").split("\n")
    assert lines[0] == (
        "epoch 1/2  step 45/45  loss 0.25  val_loss 0.5  "
        "watching 9 of 45 steps, 1.4% of the time (200 ms)"
    )
    assert lines[1].startswith("epoch 2/2  step 45/45")
    assert lines[2].startswith("site")
    assert [line.split()[0] for line in lines[3:]] == ["conv", "head"]


def test_a_terminal_is_redrawn_at_most_four_times_a_second(scope, clock):
    table, out = make(scope, clock, terminal=True)
    train(table, clock, epochs=1, steps=200)
    # 2 seconds make 8 drawings, plus one at the end of the epoch and one at the end.
    assert 8 <= scope.read <= 10
    text = out.getvalue()
    assert "epoch 1/2" in text
    assert "accuracy 0.25" in text
    assert "75%" in text
    assert text.count("\x1b[?25l") == 1
    assert text.count("\x1b[?25h") == 1


def test_no_thread_is_started(scope, clock):
    import threading

    before = set(threading.enumerate())
    table, _ = make(scope, clock, terminal=True)
    table.on_train_begin()
    table.on_train_batch_begin(0)
    assert set(threading.enumerate()) == before
    table.stop()


def test_a_failure_is_one_warning_and_training_goes_on(scope, clock):
    scope.failure = RuntimeError("broken statistics")
    table, out = make(scope, clock, terminal=True)
    with pytest.warns(RuntimeWarning, match="goes on") as caught:
        train(table, clock)
    assert len(caught) == 1
    assert "broken statistics" in str(caught[0].message)
    assert out.getvalue().count("\x1b[?25h") == 1


def test_stop_gives_the_terminal_back_after_an_exception(scope, clock):
    table, out = make(scope, clock, terminal=True)
    table.on_train_begin()
    table.on_train_batch_begin(0)
    table.stop()
    table.stop()
    assert out.getvalue().count("\x1b[?25h") == 1


def test_before_the_first_observed_step(scope, clock):
    scope.latest = dict
    table, out = make(scope, clock, terminal=False)
    table.on_train_begin()
    table.on_train_end()
    assert "waiting for the first observed step" in out.getvalue()


def test_the_table_fits_the_screen(scope, clock):
    scope.run.sites = tuple(Site.of(SiteName(f"layer_{i}")) for i in range(100))
    table, out = make(scope, clock, terminal=True, height=12)
    table.on_train_begin()
    table.on_train_batch_begin(0)
    assert "93 more sites" in out.getvalue()
    table.stop()


def test_the_same_table_serves_a_second_fit(scope, clock):
    table, out = make(scope, clock, terminal=False)
    train(table, clock, epochs=1)
    train(table, clock, epochs=1)
    assert out.getvalue().count("epoch 1/2  step 45/45") == 2


def test_steps_of_a_stream_are_counted(scope, clock):
    table, out = make(scope, clock, terminal=False)
    table.set_params({"epochs": 1, "steps": None})
    train(table, clock, epochs=1, steps=7)
    assert "step 7/7" in out.getvalue()


def test_progress_without_a_length():
    assert Progress(step=7).position() == "epoch 1  step 7"


def test_a_cost_that_is_not_known_yet():
    cost = {"steps": 3, "observed_steps": 1, "seconds": None, "share_of_time": None}
    assert cost_text(cost) == "watching 1 of 3 steps"


@pytest.mark.backends("jax", "tensorflow", "torch")
def test_in_a_real_fit(scope):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    out = io.StringIO()
    table = LiveCallback(scope, LiveTable(Console(file=out, width=100)))
    x = np.zeros((40, 4), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        model.fit(x, x[:, :2], batch_size=8, epochs=2, verbose=0, callbacks=[table])
    assert "epoch 2/2  step 5/5  loss 0" in out.getvalue()
