"""`Replace(running_mean=...)`: what is carried from step to step, against NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from zoo import BACKEND, BATCH, BY_NAME

import fitscope as fs

JIT = BACKEND == "jax"
N = 3 * BATCH
DECAY = 0.7


def fitted(*instructions, epochs=2, every=1, validate=False, case="sequential", **compiled):
    scope = fs.Scope(
        *instructions,
        fs.record("first" if case == "sequential" else "conv", of=["output", "before_edit"]),
        every=every,
    )
    model = BY_NAME[case].make(**{"jit_compile": JIT, **compiled})
    x, y = BY_NAME[case].data(N)
    options = {"validation_data": (x, y)} if validate else {}
    model.fit(
        x, y, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[scope],
        **options,
    )  # fmt: skip
    return scope.run


def values(run, site, phase="train"):
    return {
        value.step: np.asarray(value.array, "float64") for value in run.values(site, phase=phase)
    }


def averages(means):
    """Of each step in turn, weighted as the optimizer Adam weighs."""
    held, weight, found = 0.0, 0.0, []
    for mean in means:
        held, weight = DECAY * held + (1 - DECAY) * mean, DECAY * weight + (1 - DECAY)
        found.append(held / weight)
    return found


def units(array):
    return array.reshape(-1, array.shape[-1]).mean(0)


@pytest.mark.parametrize("case", ["sequential", "convolutions"])
def test_the_mean_of_the_steps_so_far_stands_in_the_place(case):
    site = "first" if case == "sequential" else "conv"
    edit = fs.edit(site, fs.Replace(running_mean=DECAY))
    run = fitted(edit, case=case, validate=True)
    before, after = values(run, f"{site}:before_edit"), values(run, site)
    want = averages([units(before[step]) for step in sorted(before)])
    assert len(want) == 6
    for step, mean in enumerate(want):
        assert np.ptp(after[step], axis=tuple(range(after[step].ndim - 1))).max() == 0
        np.testing.assert_allclose(
            after[step][(0,) * (after[step].ndim - 1)], mean, rtol=1e-5, atol=1e-7
        )


def test_it_learns_in_the_steps_in_which_it_acts():
    scheduled = fs.edit("first", fs.Replace(running_mean=DECAY), when=fs.steps(2, 5))
    run = fitted(scheduled, fs.edit("second", fs.Scale(0.9)), every=2)
    before, after = values(run, "first:before_edit"), values(run, "first")
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[5], after[5])
    for step, mean in zip((2, 3, 4), averages([units(before[i]) for i in (2, 3, 4)]), strict=True):
        np.testing.assert_allclose(after[step][0], mean, rtol=1e-5)


def test_validation_takes_the_mean_of_the_training():
    scope = fs.Scope(
        fs.edit("first", fs.Replace(running_mean=DECAY), phases=("train", "validation")),
        fs.record("first", of=["output", "before_edit"], phases=("train", "validation")),
        every=1,
    )
    model = BY_NAME["sequential"].make(jit_compile=JIT)
    x, y = BY_NAME["sequential"].data(N)
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[scope], validation_data=(x, y))
    learned = averages([units(a) for a in values(scope.run, "first:before_edit").values()])[-1]
    for array in values(scope.run, "first", "validation").values():
        np.testing.assert_allclose(array[0], learned, rtol=1e-5)


def test_without_watching_it_does_the_same_and_is_traced_once():
    traces = []

    class Counted(fs.Replace):
        def apply(self, x, at):
            traces.append(1)
            return super().apply(x, at)

    def weights(*instructions):
        keras.utils.set_random_seed(3)
        model = BY_NAME["sequential"].make(jit_compile=JIT)
        x, y = BY_NAME["sequential"].data(N)
        scope = fs.Scope(fs.edit("first", Counted(running_mean=DECAY)), *instructions, every=1)
        counts = []
        count = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: counts.append(len(traces))
        )
        model.fit(x, y, batch_size=BATCH, verbose=0, epochs=2, callbacks=[scope, count])
        assert BACKEND == "torch" or counts[0] == counts[-1]
        return model.get_weights()

    for a, b in zip(weights(), weights(fs.watch("**")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_batch_that_is_not_finite_is_left_out():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Identity(name="first"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=JIT)
    x = np.arange(18, dtype="float32").reshape(6, 3)
    x[3, 1] = np.nan
    scope = fs.Scope(fs.edit("first", fs.Replace(running_mean=0.5)), fs.record("first"), every=1)
    model.fit(x, x[:, :1], batch_size=2, shuffle=False, verbose=0, callbacks=[scope])
    found = values(scope.run, "first")
    means = [x[i : i + 2].mean(0) for i in (0, 2, 4)]
    np.testing.assert_allclose(
        found[1][0, [0, 2]], ((0.25 * means[0] + 0.5 * means[1]) / 0.75)[[0, 2]], rtol=1e-6
    )
    np.testing.assert_allclose(found[1][0, 1], means[0][1], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (fs.Replace, "give one of them"),
        (lambda: fs.Replace(1.0, running_mean=0.9), "give one of them"),
        (lambda: fs.Replace(running_mean=1.0), "less than 1"),
        (lambda: fs.Replace(running_mean=-0.1), "0 or more"),
        (lambda: fs.edit("a", fs.Replace(running_mean=0.9), port="gradient"), "outputs alone"),
    ],
)
def test_what_it_does_not_accept(make, says):
    with pytest.raises(fs.EditError, match=says):
        make()


def test_it_can_be_made_again_from_its_settings():
    edit = fs.Replace(running_mean=0.9)
    assert fs.Replace.from_config(edit.get_config()).running_mean == 0.9
    assert repr(edit) == "Replace(value=None, running_mean=0.9)"
