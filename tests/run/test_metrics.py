"""Loss and metrics in the run: in memory, on disk, after a kill."""

from __future__ import annotations

import math

from fitscope.run import RunWriter, open_run
from fitscope.ui.metrics import Metrics


def test_what_was_added_is_read_back(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    writer.add_metrics(3, 0, "train", {"loss": 0.5})
    writer.add_metrics(9, 0, "epoch", {"loss": 0.25, "val_loss": 0.75})
    expected = [
        {"step": 3, "epoch": 0, "phase": "train", "values": {"loss": 0.5}},
        {"step": 9, "epoch": 0, "phase": "epoch", "values": {"loss": 0.25, "val_loss": 0.75}},
    ]
    assert writer.run.metrics == expected
    assert open_run(tmp_path / "run").metrics == []  # not flushed
    writer.close()
    assert open_run(tmp_path / "run").metrics == expected


def test_a_run_in_memory_keeps_them():
    writer = RunWriter(None, config={})
    writer.add_metrics(0, 0, "train", {"loss": 1.0})
    assert writer.run.metrics[0]["values"] == {"loss": 1.0}


def test_a_loss_that_is_not_a_number_is_read_as_one(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    for loss in (math.nan, math.inf):
        writer.add_metrics(0, 0, "train", {"loss": loss})
    writer.close()
    first, second = (m["values"]["loss"] for m in open_run(tmp_path / "run").metrics)
    assert math.isnan(first)
    assert second == math.inf


def test_a_torn_line_is_left_out_and_cut_when_the_run_is_taken_up_again(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    writer.add_metrics(0, 0, "train", {"loss": 1.0})
    writer.close()
    path = tmp_path / "run" / "rank=00000" / "metrics.jsonl"
    with open(path, "ab") as file:
        file.write(b'{"step": 1, "epo')
    assert len(open_run(tmp_path / "run").metrics) == 1
    again = RunWriter.reopen(tmp_path / "run")
    again.add_metrics(2, 0, "train", {"loss": 0.5})
    again.close()
    assert [line["step"] for line in open_run(tmp_path / "run").metrics] == [0, 2]


def test_the_page_reads_them_as_they_grow_and_keeps_the_extremes(tmp_path):
    writer = RunWriter(tmp_path / "run", config={})
    metrics = Metrics(tmp_path / "run" / "rank=00000" / "metrics.jsonl")
    assert metrics.series() == {}
    for step in range(1000):
        loss = 7.0 if step == 567 else math.nan if step == 800 else 1.0
        writer.add_metrics(step, 0, "train", {"loss": loss})
        if step == 100:
            writer.flush()
            assert len(metrics.series()["loss"]["step"]) == 101
    writer.close()
    found = metrics.series(columns=10)["loss"]
    assert len(found["step"]) <= 21
    assert found["value"][found["step"].index(567)] == 7.0
    assert math.isnan(found["value"][found["step"].index(800)])
