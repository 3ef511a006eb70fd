"""Which sites a selection picks, from the instruction to the records of the run."""

from __future__ import annotations

from typing import Any

import pytest
from keras import layers

import fitscope as fs

EVERYTHING = [
    "dense_1", "block_1/inner", "block_1", "block_2/inner", "block_2", "add", "dense_2",
]  # fmt: skip


def of(model: Any, *selections: Any) -> list[str]:
    preview = fs.preview(model, *(fs.watch(s) for s in selections))
    return [s.name for s in preview.sites]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("**", EVERYTHING),
        ("*", EVERYTHING),
        ("dense_*", ["dense_1", "dense_2"]),
        ("*/inner", ["block_1/inner", "block_2/inner"]),
        ("**/inner", ["block_1/inner", "block_2/inner"]),
        ("block_1/**", ["block_1/inner", "block_1"]),
        (layers.Dense, ["dense_1", "block_1/inner", "block_2/inner", "dense_2"]),
        (["dense_1", "block_2"], ["dense_1", "block_2"]),
        (lambda site: site.activation == "relu", ["block_1/inner", "block_2/inner"]),
        (lambda site: site.shape and site.shape[-1] == 3, ["dense_2"]),
        (fs.select(layers.Dense) & "dense_*", ["dense_1", "dense_2"]),
        (fs.select("**") & ~fs.select(layers.Dense), ["block_1", "block_2", "add"]),
        (fs.select("dense_1") | "add", ["dense_1", "add"]),
    ],
    ids=str,
)
def test_every_kind_of_selection(model: Any, selection: Any, names: list[str]) -> None:
    assert of(model, selection) == names


def test_a_layer_object(model: Any) -> None:
    assert of(model, model.get_layer("block_2").inner) == ["block_2/inner"]
    assert of(model, [model.get_layer("dense_1")]) == ["dense_1"]


def test_several_instructions_are_joined(model: Any) -> None:
    names = ["dense_1", "block_1/inner", "block_2/inner", "add"]
    assert of(model, "dense_1", "add", "*/inner") == names


def test_what_is_selected_is_what_is_recorded(model: Any, data: Any) -> None:
    scope = fs.Scope(
        fs.watch(fs.select(layers.Dense) & ~fs.select("dense_1"), of=["output", "input"]),
        fs.watch("add"),
        every=1,
    )
    model.fit(*data, batch_size=8, verbose=0, callbacks=[scope])
    names = {s.name for s in scope.run.sites}
    assert names == {
        "block_1/inner", "block_1/inner:input", "block_2/inner", "block_2/inner:input",
        "dense_2", "dense_2:input", "add",
    }  # fmt: skip
    assert {row["site"] for row in scope.run.stats("**", "rms")} == names


def test_one_call_of_a_reused_layer(data: Any) -> None:
    import keras

    x = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(x, layers.Dense(3, name="out")(shared(shared(x))))
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() != "torch")
    scope = fs.Scope(fs.watch("shared#1"), every=1)
    model.fit(*data, verbose=0, callbacks=[scope])
    assert [s.name for s in scope.run.sites] == ["shared#1"]


def test_a_selection_that_matches_nothing_stops_before_training(model: Any, data: Any) -> None:
    scope = fs.Scope(fs.watch("dense_3"), every=1)
    before = [w.tobytes() for w in model.get_weights()]
    with pytest.raises(fs.SelectionError, match="dense_"):
        model.fit(*data, verbose=0, callbacks=[scope])
    assert [w.tobytes() for w in model.get_weights()] == before
    model.fit(*data, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"of": "weights"}, fs.SelectionError, "'weights'"),
        ({"of": "gradients"}, fs.SelectionError, "Did you mean 'gradient'"),
        ({"of": []}, fs.SelectionError, "empty"),
        ({"of": ["output", "nothing"]}, fs.SelectionError, "'nothing'"),
        ({"select": 3}, fs.SelectionError, "3"),
        ({"select": []}, fs.SelectionError, None),
        ({"select": "a//b"}, fs.SelectionError, "a//b"),
        ({"select": None}, fs.SelectionError, "None"),
        ({"statistics": "rms"}, fs.StatisticError, "built-in"),
        ({"statistics": ["rms"]}, fs.StatisticError, "rms"),
        ({"statistics": 3}, fs.StatisticError, "3"),
    ],
    ids=str,
)
def test_instructions_that_cannot_be_read(
    arguments: dict[str, Any], error: type[Exception], says: str | None
) -> None:
    with pytest.raises(error, match=says):
        fs.watch(**arguments)
