"""Ready edits, each against NumPy, and what they accept."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import ops

import fitscope as fs
from fitscope.edits.edit import At, as_edit
from fitscope.edits.when import Moment, words
from fitscope.select.site import Site

X = np.linspace(-2, 2, 24, dtype="float32").reshape(2, 3, 4)


def at(strength=1.0, *, step=0, axis=-1, path="dense"):
    site = Site(path, path, None, "output", (), "Dense", ("Dense",), X.shape, "float32", None, None)
    seeds = np.array(words(Moment(step, 0, "train", step)), "int32")
    return At(
        site, axis, ops.convert_to_tensor(strength, "float32"), ops.convert_to_tensor(seeds),
        "output", lambda x, function: x,
    )  # fmt: skip


def applied(edit, strength=1.0, x=X, **where):
    return keras.ops.convert_to_numpy(edit.apply(ops.convert_to_tensor(x), at(strength, **where)))


def test_scale():
    np.testing.assert_array_equal(applied(fs.Scale(0.1)), X * np.float32(0.1))
    np.testing.assert_array_equal(applied(fs.Scale(0.1), 0.0), X)
    np.testing.assert_allclose(applied(fs.Scale(3.0), 0.25), X * 1.5, rtol=1e-6)


def test_clip():
    np.testing.assert_array_equal(applied(fs.Clip(-0.5, 1)), np.clip(X, -0.5, 1))
    np.testing.assert_array_equal(applied(fs.Clip(maximum=0.3)), np.minimum(X, np.float32(0.3)))
    half = (X + np.clip(X, -0.5, 1)) / 2
    np.testing.assert_allclose(applied(fs.Clip(-0.5, 1), 0.5), half, atol=1e-6)


def test_zero_of_everything_of_units_and_of_a_mask():
    np.testing.assert_array_equal(applied(fs.Zero()), np.zeros_like(X))
    units = X.copy()
    units[..., [0, 3]] = 0
    np.testing.assert_array_equal(applied(fs.Zero(units=[0, -1])), units)
    first = X.copy()
    first[:, 1] = 0
    np.testing.assert_array_equal(applied(fs.Zero(units=1), axis=1), first)
    mask = np.arange(12).reshape(3, 4) % 2 == 0
    np.testing.assert_array_equal(applied(fs.Zero(mask=mask)), np.where(mask, 0, X))
    np.testing.assert_allclose(applied(fs.Zero(mask=mask), 0.25), np.where(mask, X * 0.75, X))


def test_zero_is_zero_over_what_is_not_finite():
    broken = X.copy()
    broken[0, 0, 0], broken[1, 2, 1] = np.nan, np.inf
    assert not applied(fs.Zero(), x=broken).any()


def test_noise_is_gaussian_and_belongs_to_seed_site_and_step():
    x = np.zeros((200, 100), "float32")
    drawn = applied(fs.Noise(0.5), x=x)
    assert abs(drawn.mean()) < 4 * 0.5 / 20000**0.5
    assert abs(drawn.std() - 0.5) < 4 * 0.5 / 40000**0.5
    np.testing.assert_array_equal(drawn, applied(fs.Noise(0.5), x=x))
    np.testing.assert_allclose(applied(fs.Noise(0.5), 0.5, x=x), drawn / 2, rtol=1e-6)
    others = [
        applied(fs.Noise(0.5), x=x, step=1),
        applied(fs.Noise(0.5, seed=1), x=x),
        applied(fs.Noise(0.5), x=x, path="other"),
    ]
    for other in others:
        assert abs(np.corrcoef(drawn.ravel(), other.ravel())[0, 1]) < 4 / 20000**0.5


def test_replace_and_steer():
    unit = np.array([1, 2, 3, 4], "float32")
    np.testing.assert_array_equal(applied(fs.Replace(unit)), np.broadcast_to(unit, X.shape))
    np.testing.assert_allclose(applied(fs.Replace(2), 0.5), X / 2 + 1, atol=1e-6)
    np.testing.assert_array_equal(applied(fs.Steer(unit)), X + unit)
    np.testing.assert_allclose(applied(fs.Steer(unit, scale=2), 0.25), X + unit / 2, atol=1e-6)


def test_patch_from_values_and_from_the_batch():
    values = np.arange(24, dtype="float32").reshape(X.shape)
    np.testing.assert_array_equal(applied(fs.Patch(values)), values)
    np.testing.assert_array_equal(applied(fs.Patch(rows=[1, 0])), X[::-1])
    np.testing.assert_array_equal(applied(fs.Patch(rows=1)), X[[1, 1]])
    some = X.copy()
    some[..., [0, 2]] = values[..., [0, 2]]
    np.testing.assert_array_equal(applied(fs.Patch(values, units=[0, 2])), some)


def test_quantize_rounds_to_what_a_dtype_holds():
    half = X.astype("float16").astype("float32")
    np.testing.assert_allclose(applied(fs.Quantize("float16")), half, atol=1e-7)
    found = applied(fs.Quantize("int8"))
    np.testing.assert_allclose(found, np.round(X / 2 * 127) / 127 * 2, atol=1e-6)
    coarse = applied(fs.Quantize("float8_e4m3fn"))
    assert 0 < abs(coarse - X).max() <= abs(X).max() / 16  # three bits behind the leading one


def test_a_function_is_blended():
    edit = as_edit(ops.square)
    np.testing.assert_array_equal(applied(edit), X**2)
    np.testing.assert_allclose(applied(edit, 0.5), (X + X**2) / 2, atol=1e-6)


MADE = [
    fs.Scale(0.5), fs.Clip(-1, 1), fs.Zero(), fs.Zero(units=[1, 2]), fs.Zero(mask=[[1, 0, 1, 0]]),
    fs.Replace([1.0, 2, 3, 4]), fs.Steer([1.0, 2, 3, 4], 0.5), fs.Patch(values=X.tolist()),
    fs.Patch(rows=[1, 0], units=[2]), fs.Quantize("bfloat16"),
    fs.Noise(0.1, seed=3), fs.StopGradient(), fs.ReverseGradient(0.3), fs.ClipGradient(0.01),
]  # fmt: skip


@pytest.mark.parametrize("edit", MADE, ids=repr)
def test_an_edit_comes_back_from_its_config(edit):
    config = json.loads(json.dumps(edit.get_config()))
    again = type(edit).from_config(config)
    assert again.get_config() == edit.get_config()
    np.testing.assert_array_equal(applied(again), applied(edit))
    through_keras = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(edit))
    assert type(through_keras) is type(edit)
    assert through_keras.get_config() == edit.get_config()
    json.dumps(edit.describe())


def test_a_large_array_is_described_by_its_shape():
    described = fs.Zero(mask=np.ones((40, 50))).describe()["config"]["mask"]
    assert described["shape"] == [40, 50]
    assert len(described["crc32"]) == 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fs.Scale("a"), "expected a number"),
        (lambda: fs.Scale(float("nan")), "finite"),
        (fs.Clip, "a minimum, a maximum"),
        (lambda: fs.Clip(2, 1), "above the maximum"),
        (lambda: fs.Zero(units=[]), "number of a unit"),
        (lambda: fs.Zero(units=[0.5]), "number of a unit"),
        (lambda: fs.Zero(units=1, mask=[1]), "one of them"),
        (lambda: fs.Zero(mask="abc"), "expected numbers"),
        (lambda: fs.Noise(-1), "0 or more"),
        (lambda: fs.Noise(1, seed=0.5), "whole number"),
        (lambda: fs.ClipGradient(-1), "0 or more"),
        (fs.Patch, "one of them"),
        (lambda: fs.Patch(rows=[-1]), "from 0"),
        (lambda: fs.Quantize("int4"), "float8_e4m3fn"),
        (lambda: applied(fs.Patch(np.ones((2, 3, 5)))), r"\(2, 3, 5\); expected \(2, 3, 4\)"),
        (lambda: applied(fs.Patch(rows=2)), "takes the rows 2; the batch has 2"),
        (lambda: applied(fs.Patch(rows=0, units=[7])), "unit 7; the tensor has 4 units"),
        (lambda: applied(fs.Steer(np.ones(3))), r"\(3,\); expected one"),
        (lambda: as_edit(3), "expected an edit"),
        (lambda: as_edit(fs.Scale), r"give an object, Scale\(...\)"),
        (lambda: as_edit(keras.layers.Dense(2)), "expected an edit"),
        (lambda: applied(fs.Zero(units=[4])), "dense names the unit 4; the tensor has 4 units"),
        (lambda: applied(fs.Zero(mask=np.ones((3, 5)))), r"\(3, 5\); expected one .*\(2, 3, 4\)"),
        (lambda: applied(as_edit(lambda x: x[:, :2])), r"\(2, 2, 4\); expected \(2, 3, 4\)"),
        (lambda: applied(as_edit(lambda x: ops.cast(x, "float16"))), "float16; expected float32"),
        (lambda: applied(as_edit(lambda x: None)), "gave a NoneType"),
    ],
)
def test_what_an_edit_cannot_do_is_said(make, says):
    with pytest.raises(fs.EditError, match=says):
        make()
