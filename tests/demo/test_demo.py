"""The demo as a whole, and that what it shows is true."""

import datetime
import os
import subprocess
import sys

import numpy as np
import pytest

from fitscope.demo.digits import load
from fitscope.rules.registry import findings
from fitscope.run.reader import open_run

BLOCK = "import sys; sys.modules[{name!r}] = None; from fitscope.cli.main import main; "


def run_demo(*arguments, block=None, **environment):
    start = BLOCK.format(name=block) if block else "from fitscope.cli.main import main; "
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", start + f"raise SystemExit(main({arguments!r}))"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


def test_the_digits_are_split_without_overlap():
    digits = load()
    assert digits.x.shape == (1437, 8, 8, 1)
    assert digits.x_check.shape == (360, 8, 8, 1)
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert set(digits.y_check.tolist()) == set(range(10))
    np.testing.assert_array_equal(load().x, digits.x)


def test_without_scikit_learn():
    done = run_demo("demo", block="sklearn.datasets")
    assert done.returncode == 1
    assert "pip install 'fitscope[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_default_path_is_new(tmp_path, monkeypatch):
    from fitscope.demo.train import default_path

    monkeypatch.chdir(tmp_path)
    now = datetime.datetime(2026, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)
    first = default_path(now)
    assert first.as_posix() == "runs/demo-2026-03-04-050607"
    first.mkdir(parents=True)
    assert default_path(now).as_posix() == "runs/demo-2026-03-04-050607-2"


def test_the_flaw_is_there_and_stays():
    """Read off the weights and an eager forward pass, without fitscope."""
    import keras

    from fitscope.demo.network import FLAWED_LAYER, build

    digits = load()
    model = build()
    model.fit(digits.x, digits.y, batch_size=32, epochs=3, verbose=0)
    inner = keras.Model(model.inputs, model.get_layer(FLAWED_LAYER).output)
    out = np.asarray(inner.predict(digits.x, verbose=0))
    off = (out.reshape(-1, out.shape[-1]) <= 0).all(axis=0)
    assert 0.5 < off.mean() < 1
    assert (np.asarray(keras.ops.convert_to_numpy(model.layers[1].bias))[off] < 0).all()


@pytest.mark.slow
def test_the_whole_demo(tmp_path, backend):
    path = tmp_path / "run"
    done = run_demo("demo", "--backend", backend, "--epochs", "6", "--run", str(path))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.split("\n")
    assert sum(line.startswith("epoch ") for line in lines) == 6
    assert sum(line.startswith("site ") for line in lines) == 1
    assert "This flaw was planted" in done.stdout
    assert f"  fitscope show {path}\n" in done.stdout

    run = open_run(path)
    assert [found.site for found in findings(run)] == ["conv_2"]
    assert len(run.sites) == 7
    assert {"conv_2", "@batch/y_pred", "@batch/loss"} <= set(run.recorded.names)

    again = run_demo("demo", "--backend", backend, "--epochs", "1", "--run", str(path))
    assert again.returncode == 1
    assert "Traceback" not in again.stderr
    assert str(path) in again.stderr
