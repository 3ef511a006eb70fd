"""Schedules decide on the host when an edit acts, and how strongly."""

from __future__ import annotations

import pytest

import fitscope as fs
from fitscope.edits.when import Moment, as_when, words


def strengths(when, steps, *, epoch_of=lambda step: 0, phase="train"):
    when = as_when(when)
    return [when.strength(Moment(s, epoch_of(s), phase, s)) for s in steps]


def test_epochs_are_a_range_without_its_end():
    by_epoch = strengths(fs.epochs(2, 4), range(6), epoch_of=lambda step: step)
    assert by_epoch == [None, None, 1.0, 1.0, None, None]
    assert strengths(fs.epochs(1), range(3), epoch_of=lambda step: step) == [None, 1.0, 1.0]


def test_steps_are_a_range_with_a_stride():
    assert strengths(fs.steps(1, 6, every=2), range(8)) == [
        None, 1.0, None, 1.0, None, 1.0, None, None,
    ]  # fmt: skip


def test_validation_goes_by_the_training_steps_before_it():
    when = as_when(fs.steps(100))
    assert when.strength(Moment(3, 0, "validation", 99)) is None
    assert when.strength(Moment(3, 1, "validation", 100)) == 1.0


def test_a_ramp_is_even_and_stays_at_its_ends():
    assert strengths(fs.ramp(0, 1, steps=(2, 6)), range(8)) == [
        0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0,
    ]  # fmt: skip
    down = strengths(fs.ramp(1, 0.5, epochs=(0, 2)), range(4), epoch_of=lambda step: step)
    assert down == [1.0, 0.75, 0.5, 0.5]


def test_a_probability_is_kept_and_can_be_told_again():
    found = strengths(fs.probability(0.3, seed=4), range(4000))
    assert found == strengths(fs.probability(0.3, seed=4), range(4000))
    assert found != strengths(fs.probability(0.3, seed=5), range(4000))
    share = sum(s is not None for s in found) / 4000
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5  # four standard errors
    assert set(strengths(fs.probability(1), range(50))) == {1.0}
    assert set(strengths(fs.probability(0), range(50))) == {None}


def test_schedules_join():
    when = fs.steps(2, 4) & fs.ramp(0, 1, steps=(0, 4))
    assert strengths(when, range(5)) == [None, None, 0.5, 0.75, None]
    assert when.describe()["of"][0] == {"kind": "Steps", "start": 2, "stop": 4, "every": 1}


def test_a_function_of_step_and_epoch_is_a_schedule():
    def own(step, epoch):
        return None if step < 2 else step / 10

    assert strengths(own, range(4)) == [None, None, 0.2, 0.3]
    assert strengths(lambda step, epoch: step == 1, range(3)) == [None, 1.0, None]


def test_no_two_steps_have_the_same_words():
    phases = ("train", "validation")
    found = {words(Moment(s, 0, p, s)) for p in phases for s in range(20000)}
    assert len(found) == 40000
    assert all(0 <= word < 2**30 for pair in found for word in pair)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fs.epochs(3, 3), r"empty.*Give \(3, 4\)"),
        (lambda: fs.epochs(-1), "0 or more"),
        (lambda: fs.epochs(0.5), "whole numbers"),
        (lambda: fs.steps(0, 5, every=0), "1 or more"),
        (lambda: fs.ramp(0, 1), "one of them"),
        (lambda: fs.ramp(0, 1, steps=(0, 1), epochs=(0, 1)), "one of them"),
        (lambda: fs.ramp(0, float("nan"), steps=(0, 1)), "two numbers"),
        (lambda: fs.ramp(0, 1, steps=5), "two whole numbers"),
        (lambda: fs.ramp(0, 1, steps=(5, None)), "two whole numbers"),
        (lambda: fs.probability(1.5), "between 0 and 1"),
        (lambda: fs.probability(0.5, seed="a"), "whole number"),
        (lambda: as_when(3), "fs.epochs"),
        (
            lambda: as_when(lambda step, epoch: float("inf")).strength(Moment(0, 0, "train", 0)),
            "finite",
        ),
    ],
)
def test_what_is_no_schedule_is_refused(make, says):
    with pytest.raises(fs.EditError, match=says):
        make()
