"""The rule for units that stay off."""

import math

import numpy as np
import pytest

from fitscope.rules.dead_units import dead_units
from fitscope.rules.series import MIN_STEPS

STEPS = 40


def test_finds_a_layer_that_lost_most_units(make_run, make_site):
    share = np.full(STEPS, 20.0)
    share[:10] = 2.0
    run = make_run({make_site("conv_1"): {}, make_site("conv_2"): {"dead_units": share}})

    (found,) = dead_units(run)

    assert (found.rule, found.severity, found.site) == ("dead_units", "warning", "conv_2")
    assert (found.first_step, found.last_step) == (50, 195)
    assert found.evidence["lowest_share"] == 20 / 32
    assert found.evidence["observed_steps"] == 30
    assert "at least 62% of the 32 units" in found.message
    assert found.remedy


def test_a_layer_that_is_all_off_is_an_error(make_run, make_site):
    (found,) = dead_units(make_run({make_site("conv"): {"dead_units": 32}}))
    assert found.severity == "fault"
    assert "all 32 units" in found.message


def test_the_claim_is_the_lowest_share(make_run, make_site):
    share = np.tile([20.0, 31.0], STEPS // 2)
    (found,) = dead_units(make_run({make_site("conv"): {"dead_units": share}}))
    assert found.evidence["lowest_share"] == 20 / 32
    assert "62%" in found.message
    assert "97%" not in found.message


def test_a_single_recovery_ends_the_stretch(make_run, make_site):
    share = np.full(STEPS, 30.0)
    share[-2] = 0.0
    assert dead_units(make_run({make_site("conv"): {"dead_units": share}})) == []


def test_a_short_run_is_not_enough(make_run, make_site):
    run = make_run({make_site("conv"): {"dead_units": 30}}, steps=range(MIN_STEPS - 1))
    assert dead_units(run) == []


def test_a_short_stretch_of_a_long_run_is_not_enough(make_run, make_site):
    share = np.zeros(200)
    share[-MIN_STEPS:] = 30.0
    assert dead_units(make_run({make_site("c"): {"dead_units": share}}, steps=range(200))) == []


def test_small_batches_say_nothing(make_run, make_site):
    run = make_run({make_site("dense"): {"dead_units": 30, "count": 32 * 4}})
    assert dead_units(run) == []


def test_a_small_last_batch_is_skipped_not_trusted(make_run, make_site):
    share, size = np.full(STEPS, 4.0), np.full(STEPS, 4096.0)
    share[::5], size[::5] = 31.0, 32.0
    assert dead_units(make_run({make_site("c"): {"dead_units": share, "count": size}})) == []


@pytest.mark.parametrize("activation", [None, "linear", "tanh", "softmax", "leaky_relu"])
def test_only_activations_with_an_off_side(make_run, make_site, activation):
    run = make_run({make_site("x", activation): {"dead_units": 32}})
    assert dead_units(run) == []


def test_a_gradient_of_zeros_is_not_dead_units(make_run, make_site):
    assert dead_units(make_run({make_site("conv:gradient"): {"dead_units": 32}})) == []


def test_an_activation_layer_counts(make_run, make_site):
    run = make_run({make_site("act", None, layer_class="ReLU"): {"dead_units": 25}})
    assert [found.site for found in dead_units(run)] == ["act"]


def test_validation_alone_is_not_read(make_run, make_site):
    assert dead_units(make_run({make_site("c"): {"dead_units": 32}}, phase="validation")) == []


def test_an_empty_run(make_run):
    assert dead_units(make_run({})) == []


@pytest.mark.parametrize(
    ("dead", "units", "severity"),
    [(2, 4, "note"), (4, 8, "note"), (25, 50, "note"), (20, 30, "warning"), (7, 8, "warning")],
)
def test_what_a_coin_for_each_unit_would_give_is_a_note(make_run, make_site, dead, units, severity):
    # Of inputs that lie on one side, a random direction is off for all or for none.
    chance = sum(math.comb(units, k) for k in range(dead, units + 1)) / 2**units
    assert (chance > 0.2) == (severity == "note")
    values = {"dead_units": dead, "units": units, "count": 64.0 * units}
    (found,) = dead_units(make_run({make_site("code", shape=(64, units)): values}))
    assert found.severity == severity


def test_a_weight_of_zeros_is_no_dead_unit(make_run, make_site):
    bias = make_site("dense:weight[bias]", shape=(32,))
    assert dead_units(make_run({make_site("dense"): {}, bias: {"dead_units": 32}})) == []
