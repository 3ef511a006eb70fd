"""Recorded tensors as the page is given them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fitscope.errors import RunError
from fitscope.ui.values import MOST_ELEMENTS, MOST_ROWS, recorded, value


def run_of(array, *, has_rows=True, step=4):
    """A run that recorded one tensor, with what `Run.values` says of it."""
    piece = SimpleNamespace(
        array=array,
        step=step,
        epoch=0,
        phase="train",
        has_rows=has_rows,
        length=len(array) if has_rows else None,
        positions=np.arange(len(array) if has_rows else 1) * 2,
    )
    values = SimpleNamespace(steps=np.array([step]), phases=["train"], at=lambda step, phase: piece)
    site = SimpleNamespace(name="head", layer_class="Dense", dtype=str(array.dtype))
    return SimpleNamespace(recorded=[site], values=lambda name: values)


def test_a_run_that_records_nothing_has_none():
    assert recorded(SimpleNamespace()) == []
    with pytest.raises(RunError, match="no recorded values of 'head'"):
        value(SimpleNamespace(), "head", 0, "train")


def test_recorded_sites_are_listed_with_their_steps():
    (line,) = recorded(run_of(np.zeros((3, 2), np.int32)))
    assert line == {
        "name": "head",
        "class": "Dense",
        "dtype": "int32",
        "steps": [4],
        "phases": ["train"],
    }


def test_a_tensor_comes_as_float32_with_the_places_of_its_rows():
    array = np.arange(12).reshape(3, 4)
    header, found = value(run_of(array), "head", 4, "train")
    np.testing.assert_array_equal(found, array.astype(np.float32))
    assert found.dtype == np.float32
    assert header["shape"] == [3, 4]
    assert header["positions"] == [0, 2, 4]


def test_many_rows_are_cut_and_the_whole_shape_is_told():
    header, found = value(run_of(np.zeros((500, 2))), "head", 4, "train")
    assert found.shape == (MOST_ROWS, 2)
    assert header["whole"] == [500, 2]
    wide = np.zeros((4, MOST_ELEMENTS // 2), np.float16)
    assert value(run_of(wide), "head", 4, "train")[1].shape[0] == 2


def test_a_row_beyond_what_can_be_shown_is_a_sentence():
    with pytest.raises(RunError, match="gives it in Python"):
        value(run_of(np.zeros((1, MOST_ELEMENTS + 1), np.int8)), "head", 4, "train")


def test_a_number_without_rows():
    header, found = value(run_of(np.float32(3.5), has_rows=False), "head", 4, "train")
    assert found == 3.5
    assert header["shape"] == []
