"""The examples run as they stand, on every backend, and show what they promise."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import keras
import pytest

BACKEND = keras.backend.backend()
FOLDER = Path(__file__).parents[2] / "examples"
SHOWS = {
    "custom_loop": ["step  0  (128, 64)  active", "step 24  (128, 64)  active"],
    **{
        f"custom_loop_{backend}": ["step  0  loss 2.", "step 13  loss", "(128, 64)  mean"]
        for backend in ("jax", "tensorflow", "torch")
    },
    "callback": ["epoch 0  step   0  right", "epoch 3  step 220  right"],
    "predictions": ["step   0  mean loss 2.", "step 220  mean loss"],
    "feature_maps": ["steps [0, 15, 30, 45], maps of (1, 8, 8, 8): feature_maps.png"],
    "ablation": ["epoch 3  loss", "edited by ablation in steps [[171, 227]]"],
    "distillation": ["step   0  features apart by", "step 150  features apart by 0."],
    "distiller": ["teacher    ", "objective  ", "Distiller  "],
    "gradient_reversal": ["without: domains told at", "with reversal: domains told at"],
    "clone": ["['hidden', 'hidden_tap', 'digit']", "step  90  (32, 64)  mean"],
}


OTHERS = {f"custom_loop_{name}" for name in ("jax", "tensorflow", "torch") if name != BACKEND}


@pytest.mark.parametrize("name", sorted(SHOWS.keys() - OTHERS))
def test_an_example_shows_what_it_promises(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in SHOWS[name]:
        assert line in done.stdout, done.stdout
    assert "fitscope could not" not in done.stderr
    if name == "distillation":
        apart = [float(line.split()[-1]) for line in done.stdout.splitlines()]
        assert apart[-1] < apart[0] / 2
    if name == "gradient_reversal":
        without, reversed_ = (float(line.split()[-1]) for line in done.stdout.splitlines())
        assert reversed_ > 2 * without
    if name == "feature_maps":
        picture = keras.utils.img_to_array(keras.utils.load_img(tmp_path / "feature_maps.png"))
        assert picture.shape == (4 * 9 * 8, 8 * 9 * 8, 3)
        rows = picture[::8, ::8, 0].reshape(4, 9, 8, 9)[:, :8, :, :8]  # step, y, channel, x
        assert (rows.std((0, 1, 3)) > 0).any()  # something is in it,
        assert (rows[0] != rows[-1]).any()  # and training changes it


@pytest.mark.parametrize("name", sorted(SHOWS))
def test_an_example_is_short(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text()
    body = source.split('"""', 2)[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 25
    assert ast.get_docstring(ast.parse(source))


def test_every_example_is_tested() -> None:
    assert sorted(SHOWS) == sorted(path.stem for path in FOLDER.glob("*.py"))
