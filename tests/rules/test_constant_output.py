"""The rule for layers that say the same whatever comes in."""

import numpy as np

from fitscope.rules.constant_output import constant_output


def test_finds_the_first_and_counts_the_rest(make_run, make_site):
    constant = {"std": 0.0, "mean": 0.25}
    run = make_run(
        {
            make_site("conv"): {},
            make_site("gate", "sigmoid"): constant,
            make_site("pool", None): constant,
            make_site("head", "softmax"): constant,
        }
    )
    (found,) = constant_output(run)
    assert found.site == "gate"
    assert found.evidence["other_sites"] == ["pool", "head"]
    assert "was 0.25" in found.message
    assert "2 more layers are constant" in found.message


def test_a_dead_layer_is_left_to_the_other_rule(make_run, make_site):
    off = {"std": 0.0, "mean": 0.0, "dead_units": 32}
    assert constant_output(make_run({make_site("a"): off, make_site("b", None): off})) == []


def test_variation_that_returns_ends_it(make_run, make_site):
    std = np.zeros(40)
    std[-1] = 0.1
    assert constant_output(make_run({make_site("a", None): {"std": std}})) == []


def test_a_single_number_is_constant_by_nature(make_run, make_site):
    assert constant_output(make_run({make_site("a", None): {"std": 0, "count": 1}})) == []


def test_nothing_finite_is_not_constant(make_run, make_site):
    nothing = {"std": np.nan, "mean": np.nan, "nan": 4096}
    assert constant_output(make_run({make_site("a", None): nothing})) == []
