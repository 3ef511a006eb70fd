"""`fitscope doctor`: of a run, and of a script that is run for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitscope.cli.main import main
from fitscope.rules.finding import Finding
from fitscope.run.writer import RunWriter

SCRIPT = """
    import sys
    import keras
    import numpy as np

    epochs, activation = int(sys.argv[1]), sys.argv[2]
    x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
    y = (x[:, 0] > 0).astype("float32")
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, "relu"),
         keras.layers.Dense(1, activation, name="out")]
    )
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    model.fit(x, y, epochs=epochs, verbose=0)
    print("trained")
"""


def of_run(path: Path, *findings: Finding) -> str:
    writer = RunWriter(path, config={})
    for finding in findings:
        writer.add_finding(finding.to_json())
    for epoch in range(3):
        writer.add_history({"event": "epoch", "epoch": epoch, "step": epoch, "logs": {"loss": 1.0}})
    writer.close()
    return str(path)


def contract(severity: Any) -> Finding:
    return Finding("inputs_scaled", severity, "x", 0, 0, "too large.", stage="contract")


@pytest.mark.parametrize(
    ("severity", "option", "status"),
    [
        ("fault", [], 3),
        ("warning", [], 0),
        ("warning", ["--fail-on", "warning"], 3),
        ("fault", ["--fail-on", "never"], 0),
        ("note", ["--fail-on", "warning"], 0),
    ],
)
def test_the_exit_status_tells_how_grave_it_is(
    tmp_path: Path, severity: Any, option: list[str], status: int
) -> None:
    assert main(["doctor", *option, of_run(tmp_path / "run", contract(severity))]) == status


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contract("warning")
    after = before.explaining([Finding("loss_flat", "fault", "loss", 3, 9, "flat.")])
    assert main(["doctor", "--json", of_run(tmp_path / "run", before, after)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["counts"] == {"fault": 0, "warning": 1, "note": 0}
    assert [f["rule"] for f in value["findings"]] == ["inputs_scaled"]
    # What followed from it is computed anew from the run, and this run no longer shows it.
    assert value["findings"][0]["consequences"] == []


def test_the_list_of_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--rules"]) == 0
    said = capsys.readouterr().out
    assert "one_unit_softmax" in said
    assert main(["doctor", "--rules", "--json"]) == 0
    rules = {rule["id"]: rule for rule in json.loads(capsys.readouterr().out)}
    assert rules["dead_units"]["thresholds"]["share"] == 0.5


def test_neither_run_nor_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 2
    assert main(["doctor", str(tmp_path / "none")]) == 1
    assert main(["doctor", str(tmp_path / "none.py")]) == 1
    assert "there is no script" in capsys.readouterr().err


def doctor(folder: Path, *arguments: str, script: str = SCRIPT) -> Any:
    (folder / "train.py").write_text(textwrap.dedent(script))
    return subprocess.run(
        [sys.executable, "-m", "fitscope", "doctor", *arguments],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_script_is_run_with_its_arguments_and_judged(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", "train.py", "3", "softmax")
    assert done.returncode == 3, done.stderr
    value = json.loads(done.stdout)
    assert (value["fits"], value["observed_steps"], value["error"]) == (1, 12, None)
    assert value["findings"][0]["rule"] == "one_unit_softmax"
    assert "trained" in done.stderr, "what the script prints stands beside the JSON"


def test_what_is_wrong_is_told_once_though_the_script_prints(tmp_path: Path) -> None:
    loud = SCRIPT.replace("verbose=0", "verbose=2")
    done = doctor(tmp_path, "train.py", "3", "softmax", script=loud)
    assert "Epoch 3/3" in done.stdout
    assert done.stdout.count("[one_unit_softmax]") == 1


def test_a_script_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--json", "--seconds", "1", "train.py", "1000000", "sigmoid")
    value = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert value["out_of_time"]
    assert value["observed_steps"] > 0
    assert "trained" not in done.stderr


def test_a_script_that_fails_is_told_with_what_was_found(tmp_path: Path) -> None:
    failing = SCRIPT + "    raise RuntimeError('later')\n"
    done = doctor(tmp_path, "--fail-on", "never", "train.py", "1", "sigmoid", script=failing)
    assert done.returncode == 1
    assert "RuntimeError: later" in done.stderr
    assert "Findings" in done.stdout
    nothing = doctor(tmp_path, "train.py", script="print('no fit')")
    assert nothing.returncode == 1
    assert "called no fit" in nothing.stderr


def test_the_script_trains_as_it_does_alone(tmp_path: Path) -> None:
    saving = SCRIPT.replace('print("trained")', 'np.save("w.npy", model.get_weights()[0])').replace(
        "import keras", "import keras; keras.utils.set_random_seed(1)"
    )
    doctor(tmp_path, "train.py", "2", "sigmoid", script=saving)
    observed = np.load(tmp_path / "w.npy")
    subprocess.run([sys.executable, "train.py", "2", "sigmoid"], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(observed, np.load(tmp_path / "w.npy"))


DEEP = """
    import keras
    import numpy as np

    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("float32")
    layers = [keras.layers.Dense(16, "sigmoid") for _ in range(10)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    model.fit(x, y, epochs=3, verbose=0)
"""


@pytest.fixture
def judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`judged(script, *options)`: what the doctor says of a script that runs in this process."""

    def run(script: str, *options: str) -> Any:
        (tmp_path / "train.py").write_text(textwrap.dedent(script))
        main(["doctor", "--json", *options, str(tmp_path / "train.py")])
        return json.loads(capsys.readouterr().out)

    return run


def test_gradients_and_updates_are_watched(judged: Callable[..., Any]) -> None:
    value = judged(DEEP)
    told = [part for f in value["findings"] for part in (f, *f["consequences"])]
    (vanishing,) = [f for f in told if f["rule"] == "vanishing_gradients"]
    # Each layer takes at least a factor of 4, the greatest slope of the sigmoid.
    assert vanishing["evidence"]["decades"] > 9 * np.log10(4)
    assert value["without_gradients"] is None


BY_HAND = """
    import keras
    import numpy as np

    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(128, 4)).astype("float32")
    y = 3 * (x[:, :1] > 0).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"),
                              keras.layers.Dense(1, "sigmoid", name="out")])
    model.compile(keras.optimizers.Adam(0.01), "mean_squared_error")
    for epoch in range({epochs}):
        for place in range(0, 128, 32):
            model.train_on_batch(x[place : place + 32], y[place : place + 32])
        print(model.evaluate(x, y, verbose=0))
    np.save("w.npy", model.get_weights()[0])
"""


def test_a_loop_by_hand_is_judged_and_trains_as_it_does_alone(tmp_path: Path) -> None:
    script = BY_HAND.format(epochs=3)
    done = doctor(tmp_path, "--json", "train.py", script=script)
    assert done.returncode == 3, done.stderr
    value = json.loads(done.stdout)
    counted = [value[name] for name in ("models", "fits", "evaluations", "train_on_batch")]
    assert counted == [1, 0, 3, 12]
    # Twelve batches, and four of each evaluation.
    assert value["observed_steps"] == 12 + 3 * 4
    assert value["findings"][0]["rule"] == "targets_in_range"
    observed = np.load(tmp_path / "w.npy")
    plain = [sys.executable, "train.py"]
    alone = subprocess.run(plain, cwd=tmp_path, check=True, capture_output=True, text=True)
    np.testing.assert_array_equal(observed, np.load(tmp_path / "w.npy"))
    assert [line for line in done.stderr.splitlines() if line in alone.stdout.splitlines()]


def test_a_loop_by_hand_is_ended_in_time(judged: Callable[..., Any]) -> None:
    value = judged(BY_HAND.format(epochs=10**6), "--seconds", "1")
    assert value["out_of_time"]
    assert value["findings"][0]["rule"] == "targets_in_range"
    assert not Path("w.npy").exists()


def test_an_evaluation_alone_is_judged(
    judged: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = judged(BY_HAND.format(epochs=0) + "    model.evaluate(x, y, verbose=0)\n")
    assert [value[name] for name in ("fits", "evaluations")] == [0, 1]
    assert [f["rule"] for f in value["findings"]] == ["targets_in_range"]


def test_what_is_printed_tells_that_gradients_could_not_be_watched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fitscope.scope import session

    real = session.build

    def refusing(model: Any, plan: Any, *edits: Any) -> Any:
        if "gradient" in plan.ports:
            raise RuntimeError("no gradients here")
        return real(model, plan, *edits)

    monkeypatch.setattr(session, "build", refusing)
    (tmp_path / "train.py").write_text(textwrap.dedent(DEEP))
    # What is told is a warning, and those are errors in tests: then it goes to stderr.
    main(["doctor", "--json", str(tmp_path / "train.py")])
    told = capsys.readouterr()
    value = json.loads(told.out)
    assert value["without_gradients"] == "RuntimeError: no gradients here"
    assert value["observed_steps"] == 24 - 1
    assert "watches ['output'] alone" in told.err
