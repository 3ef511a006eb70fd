"""The rule for NaN and infinities."""

import numpy as np

from fitscope.rules.non_finite import non_finite

STEPS = 40


def from_step(place, amount=7.0):
    values = np.zeros(STEPS)
    values[place:] = amount
    return values


def test_names_the_first_site_of_the_first_step(make_run, make_site):
    run = make_run(
        {
            make_site("conv_1"): {"nan": from_step(21)},
            make_site("conv_2"): {"posinf": from_step(20)},
            make_site("dense"): {"nan": from_step(20)},
        }
    )
    (found,) = non_finite(run)
    assert (found.site, found.severity, found.first_step) == ("conv_2", "fault", 100)
    assert found.message == (
        "held 7 +infinity (0.2%) in the forward pass, none in step 95; conv_1 before it: 0 to 3; "
        "absmax before: 3, 3, 3, 3, 3."
    )
    assert found.evidence["other_sites"] == ["conv_1", "dense"]
    assert found.evidence["previous_observed_step"] == 95


def test_a_passing_nan_is_a_warning(make_run, make_site):
    once = np.zeros(STEPS)
    once[3] = 1
    (found,) = non_finite(make_run({make_site("a"): {"nan": once}}))
    assert (found.severity, found.first_step, found.last_step) == ("warning", 15, 15)


def test_from_the_first_step_on_nothing_came_before(make_run, make_site):
    (found,) = non_finite(make_run({make_site("a"): {"nan": 1}}))
    assert found.evidence["previous_observed_step"] is None
    assert "none in" not in found.message


def test_a_mask_of_minus_infinity_is_meant(make_run, make_site):
    assert non_finite(make_run({make_site("scores", None): {"neginf": 100}})) == []


def test_minus_infinity_that_appears_is_not_a_mask(make_run, make_site):
    (found,) = non_finite(make_run({make_site("log", None): {"neginf": from_step(5)}}))
    assert "-infinity" in found.message


def test_loss_scaling_may_overflow_now_and_then(make_run, make_site):
    once = np.zeros(STEPS)
    once[3] = 1
    half = make_site("a:gradient", dtype="float16")
    assert non_finite(make_run({half: {"posinf": once}})) == []
    assert len(non_finite(make_run({make_site("a:gradient"): {"posinf": once}}))) == 1
    assert len(non_finite(make_run({half: {"posinf": from_step(30)}}))) == 1


def test_a_healthy_run_has_none(make_run, make_site):
    assert non_finite(make_run({make_site("a"): {}})) == []
