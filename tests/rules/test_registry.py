"""All rules together, and what a finding is."""

import json

import numpy as np

from fitscope.rules.finding import Finding
from fitscope.rules.registry import RULES, findings
from fitscope.rules.series import lasting_tail, series_of


def test_every_rule_is_found_under_its_id_and_explains_rules_that_exist():
    for name, each in RULES.items():
        assert each.id == name
        assert set(each.explains) <= set(RULES), name
        assert name not in each.explains


def test_the_gravest_comes_first(make_run, make_site):
    run = make_run({make_site("a"): {"dead_units": 20}, make_site("d", None): {"nan": 1}})
    assert [f.rule for f in findings(run)] == ["non_finite", "dead_units"]


def test_what_another_finding_explains_is_told_with_it(make_run, make_site):
    off, constant = {"dead_units": 32}, {"std": 0.0, "mean": 0.2}
    (found,) = findings(make_run({make_site("a"): off, make_site("b", None): constant}))
    assert (found.rule, found.severity) == ("dead_units", "fault")
    assert [f.rule for f in found.consequences] == ["constant_output"]
    assert "constant_output at b" in str(found)


def test_findings_survive_json(make_run, make_site):
    for finding in findings(make_run({make_site("a"): {"dead_units": 20}})):
        again = Finding.from_json(json.loads(json.dumps(finding.to_json())))
        assert again == finding


def test_an_unknown_severity_of_a_later_version_is_read():
    assert Finding.from_json({"severity": "catastrophe", "site": "x"}).severity == "note"


def test_healthy_and_empty_runs_have_none(make_run, make_site):
    assert findings(make_run({make_site("a"): {}})) == []
    assert findings(make_run({})) == []
    assert findings(make_run({make_site("a"): {}}, steps=[])) == []


def test_series_line_up(make_run, make_site):
    ramp = np.arange(40.0)
    run = make_run({make_site("z"): {"mean": ramp}, make_site("a"): {"mean": -ramp}})
    found = series_of(run, ["rms", "mean"])
    assert list(found) == ["z", "a"]
    np.testing.assert_array_equal(found["a"]["mean"], -ramp)
    np.testing.assert_allclose(found["z"]["rms"], np.hypot(ramp, 0.5))
    np.testing.assert_array_equal(found["z"].steps, np.arange(0, 200, 5))


def test_lasting_tail():
    assert lasting_tail(np.array([], bool)) == 0
    assert lasting_tail(np.array([True, True])) == 2
    assert lasting_tail(np.array([True, False])) == 0
