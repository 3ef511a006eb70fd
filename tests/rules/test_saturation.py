"""The rule for saturated activations."""

import numpy as np
import pytest

from fitscope.rules.saturation import saturation


@pytest.fixture
def saturated_run(make_run, make_site):
    def make(activation="tanh", share=0.75, **fields):
        return make_run(
            {
                make_site("hidden", activation, **fields): {"saturated": 4096 * np.asarray(share)},
                make_site("head", "sigmoid"): {"saturated": 4096},
            }
        )

    return make


def test_finds_a_saturated_hidden_layer(saturated_run):
    (found,) = saturation(saturated_run())
    assert (found.site, found.severity) == ("hidden", "warning")
    assert "75%" in found.message
    assert "tanh" in found.message


def test_the_model_output_may_saturate(saturated_run):
    assert "head" not in [found.site for found in saturation(saturated_run())]


def test_an_attention_softmax_may_be_sure(saturated_run):
    assert saturation(saturated_run("softmax")) == []


def test_half_of_the_time_is_not_always(saturated_run):
    assert saturation(saturated_run(share=np.tile([0.75, 0.25], 20))) == []


def test_a_relu_cannot_saturate(saturated_run):
    assert saturation(saturated_run("relu")) == []
