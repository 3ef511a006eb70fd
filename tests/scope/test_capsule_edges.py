"""Capsules where something else goes wrong, too: disks, processes, settings, several failures."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from planted import BATCH, N, compiled, data, model_of, out, same

import fitscope as fs
from fitscope.capsules import adapted, file
from fitscope.capsules.replay import made_again, rebuild, replay
from fitscope.engine.state import State


def marked(*steps: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = data()
    for step in steps:
        x[step * BATCH + 2, 1] = np.nan
    return x, y


def fit(model: Any, *callbacks: Any, x: Any, y: Any, **given: Any) -> Any:
    return model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=list(callbacks), **given
    )


def make(**settings: Any) -> Any:
    return model_of(same(), layers.Dropout(0.5, seed=3), out(), **settings)


def values(model: Any) -> list[Any]:
    return [np.array(keras.ops.convert_to_numpy(v)) for v in State(model).variables]


def test_a_full_disk_leaves_the_training_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(target: Any, **arrays: Any) -> None:
        del arrays
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    x, y = marked(2)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        history = fit(make(), fs.Scope(fs.capsule(), run=tmp_path / "run"), x=x, y=y)
    assert len(history.history["loss"]) == 1
    told = capsys.readouterr().err
    assert "could not keep train step 2 in a capsule" in told
    assert "No space left" in told
    assert not list((tmp_path / "run" / file.FOLDER).iterdir())
    recorded = {row["step"] for row in fs.open_run(tmp_path / "run").stats("out", "rms")}
    assert recorded >= {0, 1, 2}


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from fitscope.capsules import file

def killed(target, **arrays):
    target.write(b"half")
    target.flush()
    os.kill(os.getpid(), signal.SIGKILL)

np.savez = killed
file.write(Path(sys.argv[1]), file.Contents({"step": 7}, {}, [np.zeros(3)], [(np.zeros(2),)]))
"""


def test_a_process_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -9
    assert [p.name for p in (tmp_path / file.FOLDER).iterdir()] == ["step-000007.tmp"]
    # Even where the last file was begun.
    (tmp_path / file.FOLDER / "step-000007.tmp" / "capsule.json").write_text("{", encoding="utf-8")
    with pytest.raises(fs.FitscopeError, match="not written to its end"):
        file.find(tmp_path)
    # What was left behind is in nobody's way.
    contents = file.Contents({"step": 7}, {}, [np.zeros(3)], [(np.zeros(2),)])
    assert file.write(tmp_path, contents) == file.find(tmp_path)


def test_the_first_of_two_failures_is_kept(tmp_path: Path) -> None:
    x, y = marked(1, 3)
    fit(make(), fs.Scope(fs.capsule(), run=tmp_path / "run"), x=x, y=y)
    assert [p.name for p in (tmp_path / "run" / file.FOLDER).iterdir()] == ["step-000001"]


def test_a_second_fit(tmp_path: Path) -> None:
    """Its capsule has what the first fit left; plain trainings tell what that is."""
    first, (x, y) = marked(), marked(1)
    model, plain = make(), make()
    scope = fs.Scope(fs.capsule(), run=tmp_path / "run")
    fit(model, scope, x=first[0], y=first[1])
    fit(model, scope, x=x, y=y)
    fit(plain, x=first[0], y=first[1])
    fit(plain, x=x[:BATCH], y=y[:BATCH])
    contents = file.read(file.find(tmp_path / "run"))
    assert contents.settings["step"] == N // BATCH + 1
    for kept, variable in zip(contents.state, values(plain), strict=True):
        np.testing.assert_array_equal(kept, variable)
    assert [o.reproduced for o in replay(file.find(tmp_path / "run"))] == [True, True]


def test_numbers_are_those_of_the_training(tmp_path: Path) -> None:
    """What overflows with the epsilon of the training does not with that of another process."""
    epsilon = keras.config.epsilon()
    keras.config.set_epsilon(1e-3)
    try:
        x, y = marked(2)
        fit(make(), fs.Scope(fs.capsule(), run=tmp_path / "run"), x=x, y=y)
    finally:
        keras.config.set_epsilon(epsilon)
    folder = file.find(tmp_path / "run")
    seen: list[float] = []

    def looked_at() -> Any:
        seen.append(keras.config.epsilon())
        return made_again(file.read(folder))

    replay(folder, make=looked_at)
    assert set(seen) == {1e-3}
    assert keras.config.epsilon() == epsilon


def test_another_model_is_refused(tmp_path: Path) -> None:
    x, y = marked(2)
    fit(make(), fs.Scope(fs.capsule(), run=tmp_path / "run"), x=x, y=y)
    contents = file.read(file.find(tmp_path / "run"))
    with pytest.raises(fs.FitscopeError, match="other variables than the one that was trained"):
        rebuild(contents, lambda: model_of(same(), out()))
    with pytest.raises(fs.FitscopeError, match="not built and compiled"):
        rebuild(contents, lambda: keras.Sequential([layers.Dense(2)]))


def test_what_was_adapted_comes_back() -> None:
    keras.utils.clear_session(free_memory=False)
    x, _ = data()

    def model() -> Any:
        inputs = keras.Input((4,))
        return compiled(keras.Model(inputs, out()(layers.Normalization(name="norm")(inputs))))

    one, two = model(), model()
    one.get_layer("norm").adapt(7 * x - 3)
    adapted.adapt_again(two, adapted.adapted(one))
    np.testing.assert_array_equal(one.predict(x, verbose=0), two.predict(x, verbose=0))
    expected = (7 * x - 3 - (7 * x - 3).mean(0)) / (7 * x - 3).std(0)
    found = keras.ops.convert_to_numpy(two.get_layer("norm")(7 * x - 3))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_capsule_writes_no_file_outside_its_folder() -> None:
    class Learner(layers.Layer):
        def finalize_state(self) -> None: ...

        def load_assets(self, folder: str) -> None:
            raise AssertionError("nothing may be loaded")

    model = keras.Sequential([keras.Input((4,)), Learner(name="learner")])
    evil = {"1/asset/../../../evil.txt": np.frombuffer(b"evil", np.uint8)}
    with pytest.raises(fs.FitscopeError, match="is no name of a vocabulary"):
        adapted.adapt_again(model, evil)
