"""What the demo says at the end, on runs made up by the test."""

from pathlib import Path

import numpy as np
import pytest

from fitscope.demo.ending import ending_text, opening_text
from fitscope.run.record import StepRecord
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.statistics.moments import COLUMNS

COST = {"steps": 100, "observed_steps": 20, "seconds": 0.1, "share_of_time": 0.05}


@pytest.fixture
def run_with():
    def make(dead):
        writer = RunWriter(None, config={})
        site = Site.of(SiteName("conv_2"), activation="relu", shape=(32, 8, 8, 32))
        index = np.asarray(writer.add_sites([site]))
        row = dict.fromkeys(COLUMNS, 0.5) | {"count": 65536, "units": 32, "dead_units": dead}
        row |= {"nan": 0, "posinf": 0, "neginf": 0, "saturated": 0, "saturated_units": 0}
        moments = np.array([[float(row[name]) for name in COLUMNS]])
        for step in range(20):
            writer.append(StepRecord(step, 0, "train", index, moments))
        return writer.run

    return make


def say(run, accuracy=0.97, path="runs/x", **options):
    return ending_text(run, Path(path), accuracy, COST, 80, **options).plain


def test_tells_what_was_found_and_that_it_was_planted(run_with):
    text = say(run_with(24))
    assert "Accuracy on unseen images: 97%. From the accuracy alone" in text
    assert "at least 75% of the 32 units were off" in " ".join(text.split())
    assert "This flaw was planted" in text
    assert "20 of 100 steps, 5% of the time" in text
    assert "  fitscope show runs/x\n" in text


def test_does_not_claim_what_was_not_seen(run_with):
    text = say(run_with(0))
    assert "nothing looks wrong" not in text
    assert "too few steps" in text
    assert "This flaw was planted" not in text


def test_a_poor_accuracy_is_not_praised(run_with):
    assert "nothing looks wrong" not in say(run_with(24), accuracy=0.4)


def test_the_fixed_network_has_no_flaw_to_explain(run_with):
    text = say(run_with(0), flawed=False)
    assert "planted" not in text
    assert "--fixed" not in text
    assert "without its flaw" in opening_text("jax", 1, 1437, flawed=False).plain


def test_a_path_with_a_space_can_be_copied(run_with):
    assert "fitscope show 'runs/a b'\n" in say(run_with(0), path="runs/a b")


def test_lines_fit(run_with):
    assert max(map(len, say(run_with(24)).split("\n"))) <= 80
