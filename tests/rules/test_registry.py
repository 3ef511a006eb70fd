"""All rules together, and what a finding is."""

import json

import numpy as np

from fitscope.rules.finding import Finding
from fitscope.rules.registry import RULES, findings
from fitscope.rules.series import lasting_tail, series_of


def test_every_rule_names_itself_as_it_is_registered(make_run, make_site):
    run = make_run(
        {
            make_site("a"): {"dead_units": 20},
            make_site("b", "tanh"): {"saturated": 4000},
            make_site("c", None): {"std": 0.0},
            make_site("d", None): {"nan": 1},
        }
    )
    found = findings(run)
    assert {finding.rule for finding in found} == set(RULES)
    assert found[0].severity == "error"


def test_findings_survive_json(make_run, make_site):
    for finding in findings(make_run({make_site("a"): {"dead_units": 20}})):
        again = Finding.from_json(json.loads(json.dumps(finding.to_json())))
        assert again == finding


def test_an_unknown_severity_of_a_later_version_is_read():
    assert Finding.from_json({"severity": "catastrophe", "site": "x"}).severity == "info"


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
