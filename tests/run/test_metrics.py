"""Loss and metrics in the run: in memory, on disk, after a kill."""

from __future__ import annotations

import math

from fitscope.run import RunWriter, open_run
from fitscope.ui.metrics import Metrics


def add(writer, step, epoch, phase, values):
    event = "step" if phase == "train" else "epoch"
    # The record of an epoch has the number of steps before the next one.
    count = step if phase == "train" else step + 1
    writer.add_history({"event": event, "step": count, "epoch": epoch, "logs": values})


def test_what_was_added_is_read_back(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    add(writer, 3, 0, "train", {"loss": 0.5})
    add(writer, 9, 0, "epoch", {"loss": 0.25, "val_loss": 0.75})
    expected = [
        {"step": 3, "epoch": 0, "phase": "train", "values": {"loss": 0.5}},
        {"step": 9, "epoch": 0, "phase": "epoch", "values": {"loss": 0.25, "val_loss": 0.75}},
    ]
    assert writer.run.metrics == expected
    writer.close()
    assert open_run(tmp_path / "run").metrics == expected


def test_a_run_in_memory_keeps_them():
    writer = RunWriter(None, config={})
    add(writer, 0, 0, "train", {"loss": 1.0})
    assert writer.run.metrics[0]["values"] == {"loss": 1.0}


def test_a_loss_that_is_not_a_number_is_read_as_one(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    for loss in (math.nan, math.inf):
        add(writer, 0, 0, "train", {"loss": loss})
    writer.close()
    first, second = (m["values"]["loss"] for m in open_run(tmp_path / "run").metrics)
    assert math.isnan(first)
    assert second == math.inf


def test_a_torn_line_is_left_out_and_cut_when_the_run_is_taken_up_again(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    add(writer, 0, 0, "train", {"loss": 1.0})
    writer.close()
    path = tmp_path / "run" / "rank=00000" / "history.jsonl"
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "epo')
    assert len(open_run(tmp_path / "run").metrics) == 1
    again = RunWriter.reopen(tmp_path / "run")
    add(again, 2, 0, "train", {"loss": 0.5})
    again.close()
    assert [line["step"] for line in open_run(tmp_path / "run").metrics] == [0, 2]


def test_the_page_reads_them_as_they_grow_and_keeps_the_extremes(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    metrics = Metrics(tmp_path / "run" / "rank=00000" / "history.jsonl")
    assert metrics.series() == {}
    for step in range(1000):
        loss = 7.0 if step == 567 else math.nan if step == 800 else 1.0
        add(writer, step, 0, "train", {"loss": loss})
        if step == 100:
            assert len(metrics.series()["loss"]["step"]) == 101
    writer.close()
    found = metrics.series(columns=10)["loss"]
    assert len(found["step"]) <= 21
    assert found["value"][found["step"].index(567)] == 7.0
    assert math.isnan(found["value"][found["step"].index(800)])
