"""Which units are off and since when, against the definition unit by unit."""

from __future__ import annotations

import dataclasses

import numpy as np

from fitscope.run.recorded import Piece
from fitscope.ui import units as module
from fitscope.ui.units import units


def piece(step, array, has_rows=True):
    array = np.asarray(array)
    tail = array.shape[1:] if has_rows else array.shape
    return Piece(
        step, 0, "train", 0, 1, len(array), len(array), tail, step, lambda: array, has_rows
    )


def test_a_unit_is_off_since_the_first_step_after_which_it_never_was_on():
    rng = np.random.default_rng(0)
    alive = np.array(  # [steps, units]
        [[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]], bool
    )
    steps = [0, 10, 20, 30, 40]
    found = units(
        [
            piece(step, np.abs(rng.normal(size=(6, 3, 3, 4))) * on)
            for step, on in zip(steps, alive, strict=True)
        ],
        "relu",
    )
    assert found is not None
    assert found.since.tolist() == [-1, 30, 0, 20]
    np.testing.assert_array_equal(found.on > 0, alive.T)
    assert (found.steps.tolist(), found.recorded, found.rows, found.units) == (steps, 5, 6, 4)


def test_the_share_is_of_elements_outside_the_dead_zone():
    array = np.array([[0.0, -5e-4, 1.0], [2.0, -0.2, np.nan], [0.0, 0.0, 0.0], [0.0, -1e-5, 3.0]])
    relu = units([piece(0, array)], "relu")
    gelu = units([piece(0, array)], "gelu")
    assert relu is not None
    assert gelu is not None
    np.testing.assert_allclose(relu.on[:, 0], [0.25, 0.75, 0.75])
    # Of a gelu, what lies in its tail is off, too.
    np.testing.assert_allclose(gelu.on[:, 0], [0.25, 0.25, 0.75])


def test_many_steps_are_an_even_choice_with_the_first_and_the_last(monkeypatch):
    monkeypatch.setattr(module, "MOST_STEPS", 5)
    pieces = [piece(step, np.ones((2, 3))) for step in range(0, 1000, 10)]
    found = units(pieces, None)
    assert found is not None
    assert found.steps[0] == 0
    assert found.steps[-1] == 990
    assert len(found.steps) == 5
    assert found.recorded == 100


def test_a_step_that_came_again_is_told_once_and_by_its_last_recording():
    found = units([piece(0, np.ones((2, 1))), piece(0, np.zeros((2, 1)))], "relu")
    assert found is not None
    assert found.since.tolist() == [0]


def test_what_has_no_units_has_no_answer():
    assert units([], "relu") is None
    assert units([piece(0, np.ones(4))], "relu") is None  # one number a sample
    assert units([piece(0, np.ones((4, 2)), has_rows=False)], "relu") is None
    assert units([dataclasses.replace(piece(0, np.ones((0, 3))), rows=0)], "relu") is None
