"""The rule for attention that is uniform, or has collapsed."""

from __future__ import annotations

import numpy as np
import pytest

from fitscope.rules.attention import attention

KEYS = 16
RANDOM = np.random.default_rng(0)
FIT = {"event": "fit", "constant_answer_loss": 0.69}


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def columns(probabilities):
    """What is recorded of probabilities `[batch, heads, queries, keys]`."""
    p = probabilities
    by_key = p.reshape(-1, p.shape[-1])
    return {
        "count": p.size, "zeros": (p == 0).sum(), "units": p.shape[-1], "mean": p.mean(),
        "std": p.std(), "mean_abs": p.mean(), "min": p.min(), "max": p.max(),
        "saturated": (p > 0.995).sum(), "saturated_units": (by_key > 0.995).all(0).sum(),
    }  # fmt: skip


def scores(scale, shape=(8, 2, KEYS, KEYS)):
    return scale * RANDOM.normal(size=shape)


def losses(value):
    return [FIT] + [
        {"event": "step", "step": i, "epoch": i, "place": 1, "logs": {"loss": value}}
        for i in range(40)
    ]


@pytest.fixture
def run_of(make_run, make_site):
    def make(probabilities, loss=0.68, name="attn/softmax", layer_class="Softmax"):
        site = make_site(name, None, layer_class=layer_class, shape=(8, 2, KEYS, KEYS))
        sites = {site: columns(probabilities), make_site("out"): {}}
        return make_run(sites, history=losses(loss))

    return make


ONE_PLACE = softmax(np.where(np.arange(KEYS) == 3, 20.0, 0.0) + scores(0.1))
SHARP = softmax(scores(500.0))
UNIFORM = softmax(scores(0.01))


@pytest.mark.parametrize(
    ("state", "probabilities"),
    [("one place", ONE_PLACE), ("sharp", SHARP), ("uniform", UNIFORM)],
)
def test_finds(run_of, state, probabilities):
    (found,) = attention(run_of(probabilities))
    assert (found.site, found.severity) == ("attn/softmax", "warning")
    assert found.evidence["state"] == state
    # The number of keys looked at, as the harmonic mean of 1 / sum(p^2) over queries.
    expected = 1 / np.square(probabilities).sum(-1).mean()
    assert found.evidence["keys_looked_at"] == pytest.approx(expected)
    assert found.evidence["keys"] == pytest.approx(KEYS)
    (learned,) = attention(run_of(probabilities, loss=0.1))
    assert learned.severity == "note"


def test_without_a_baseline_the_fall_of_the_loss_counts(make_run, make_site):
    site = make_site("attn/softmax", None, layer_class="Softmax", shape=(8, 2, KEYS, KEYS))
    sites = {site: columns(UNIFORM), make_site("out"): {}}
    steps = losses(0.68)[1:]
    (found,) = attention(make_run(sites, history=steps))
    assert found.severity == "warning"
    falling = [{**r, "logs": {"loss": 0.98 ** r["step"]}} for r in steps]
    (found,) = attention(make_run(sites, history=falling))
    assert found.severity == "note"


CAUSAL = softmax(np.where(np.tri(KEYS) > 0, scores(0.01), -1e9))


@pytest.mark.parametrize("probabilities", [softmax(scores(1.0)), softmax(scores(0.2)), CAUSAL])
def test_attention_that_attends(run_of, probabilities):
    assert attention(run_of(probabilities)) == []


def test_one_key_that_a_mask_leaves_is_no_choice(run_of):
    only = np.where(np.arange(KEYS) == 0, 0.0, -1e9) + np.zeros((8, 2, KEYS, KEYS))
    assert attention(run_of(softmax(only))) == []


def test_a_tap_is_looked_at_and_a_hidden_softmax_is_not(run_of):
    assert attention(run_of(UNIFORM, name="mine/attention", layer_class="TapPoint"))
    assert attention(run_of(UNIFORM, name="softmax")) == []
    assert attention(run_of(UNIFORM, name="mine/softmax", layer_class="Dense")) == []


def test_uniform_at_first_is_how_trainings_begin(make_run, make_site):
    site = make_site("attn/softmax", None, layer_class="Softmax", shape=(8, 2, KEYS, KEYS))
    first, later = columns(UNIFORM), columns(softmax(scores(1.0)))
    values = {k: np.where(np.arange(40) < 25, first[k], later[k]) for k in first}
    assert attention(make_run({site: values, make_site("out"): {}}, history=losses(0.68))) == []
