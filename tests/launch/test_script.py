"""`fitscope run` against plain Python: the same argv, `__main__`, output, errors and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fitscope.cli.run import split

SCRIPT = """
import atexit, json, os, sys, __main__

VALUE = 5
atexit.register(lambda: print("at exit", VALUE))

class Thing: ...

print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "name": __name__, "file": __file__,
    "main": __main__.VALUE, "spec": str(__spec__), "package": __package__,
    "thing": Thing.__module__, "modules": sys.modules["__main__"] is __main__,
}))
print("to stderr", file=sys.stderr)
if "raise" in sys.argv: raise ValueError("of the script")
if "exit" in sys.argv: sys.exit(7)
if "words" in sys.argv: sys.exit("leaving")
if "interrupt" in sys.argv: raise KeyboardInterrupt
if "fitscope" in sys.argv:
    from fitscope import FitscopeError
    raise FitscopeError("of the script, too")
"""


def python(*arguments, cwd, ours=False, **more):
    command = [sys.executable, *(["-m", "fitscope", "run"] if ours else []), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False, **more
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text("if :\n")
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(SCRIPT)
    (package / "part.py").write_text(SCRIPT)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py"],
        ["train.py", "--every", "3", "-m", "--", "--help"],
        ["train.py", "raise"],
        ["train.py", "exit"],
        ["train.py", "words"],
        ["train.py", "interrupt"],
        ["train.py", "fitscope"],
        ["-m", "package", "a"],
        ["-m", "package.part", "--x"],
        ["package", "b"],
        ["wrong.py"],
    ],
)
def test_it_ends_and_prints_as_plain_python_does(folder, arguments):
    plain = python(*arguments, cwd=folder)
    ours = python(*arguments, cwd=folder, ours=True)
    assert ours.returncode == plain.returncode
    same = [_without_address(done.stdout) for done in (plain, ours)]
    assert same[0] == same[1]
    told = "fitscope run: no Keras model was trained or evaluated, so there is no run.\n"
    assert ours.stderr.replace(told, "") == plain.stderr


def _without_address(text):
    head, _, rest = text.partition(" at 0x")
    return head + rest.partition(">")[2]


def test_a_signal_reaches_the_script_and_ends_it_as_ever(folder):
    (folder / "wait.py").write_text(
        textwrap.dedent("""
        import signal, sys, time
        signal.signal(signal.SIGUSR1, lambda *_: print("got it", flush=True))
        print("ready", flush=True)
        time.sleep(60)
        """)
    )
    command = [sys.executable, "-m", "fitscope", "run", "wait.py"]
    started = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    started.send_signal(signal.SIGUSR1)
    assert started.stdout.readline() == "got it\n"
    started.terminate()
    assert started.wait(timeout=20) == -signal.SIGTERM
    started.stdout.close()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "give a script"),
        (["-m"], 2, "give a script"),
        (["nothing.py"], 1, "no script nothing.py"),
        (["-m", "no_such_module"], 1, "no module no_such_module"),
        (["--every", "0", "train.py"], 2, "at least 1"),
        (["--config", "none.toml", "train.py"], 1, "none.toml cannot be read"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(folder, arguments, status, words):
    done = python(*arguments, cwd=folder, ours=True)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\nevry = 3\n", "Did you mean 'every'"),
        ("[run]\nevery = 'x'\n", "expected a whole number"),
        ("[run]\nselect = []\n", "a word or a list of words"),
        ("run = 3\n", "expected a table"),
        ("[run", "cannot be read"),
    ],
)
def test_a_wrong_fitscope_toml_is_told_before_the_script_runs(folder, text, words):
    (folder / "fitscope.toml").write_text(text)
    done = python("train.py", cwd=folder, ours=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert words in done.stderr


def test_what_stands_behind_the_script_is_the_scripts():
    assert split(["run", "--ui", "--of", "input", "t.py", "--ui"]) == (
        ["run", "--ui", "--of", "input"],
        ["t.py", "--ui"],
    )
    assert split(["run", "--", "-odd.py", "x"]) == (["run"], ["-odd.py", "x"])
    assert split(["run", "-m", "a.b", "--every", "2"]) == (["run"], ["-m", "a.b", "--every", "2"])


TRAINING = """
import os, sys
import numpy as np
import keras

x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
y = x.sum(1, keepdims=True)

def net(name, kind=keras.Model):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(inputs)
    model = kind(inputs, keras.layers.Dense(1, name="out")(hidden), name=name)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model

class Custom(keras.Model):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)

first = net("first")
print(first.fit(x, y, epochs=2, batch_size=16, verbose=0, validation_data=(x, y)).history)
print(first.fit(x, y, 16, 1, 0, [keras.callbacks.History()]).history)
second = net("second", Custom)
for _ in range(6):
    print(second.train_on_batch(x, y))
print(second.evaluate(x, y, verbose=0))
second.fit(x, y, epochs=1, verbose=0)
print([float(np.abs(w).sum()) for w in first.get_weights() + second.get_weights()])
sys.exit(3)
"""


def test_every_training_of_a_script_is_observed_and_unchanged(tmp_path):
    from fitscope import open_run

    (tmp_path / "train.py").write_text(TRAINING)
    (tmp_path / "fitscope.toml").write_text('[run]\nevery = 2\nselect = ["hidden"]\n')
    plain = python("train.py", cwd=tmp_path)
    ours = python("--run", "session", "--every", "1", "train.py", cwd=tmp_path, ours=True)
    assert plain.returncode == ours.returncode == 3
    assert ours.stdout == plain.stdout
    assert "Traceback" not in ours.stderr
    # What the doctor says of a run stands under its line.
    told = ours.stderr.splitlines()
    places = [told.index("fitscope run: 2 runs") if "fitscope run: 2 runs" in told else -1]
    places += [told.index("  session/first"), told.index("  session/second")]
    assert places == sorted(places)
    first, second = (open_run(tmp_path / "session" / name) for name in ("first", "second"))
    # Of fitscope.toml the layers, of the command line how often.
    assert first.sites.names == second.sites.names == ["hidden"]
    assert first.stats("hidden", "mean", "train")["step"].to_pylist() == list(range(12))
    assert len(first.stats("hidden", "mean", "validation")) == 8
    # Two of the standalone evaluation, and the batches of the loop and of the fit.
    assert len(second.stats("hidden", "mean", "test")) == 2
    assert second.stats("hidden", "mean", "train")["step"].to_pylist() == list(range(8))
    assert {first.status, second.status} == {"failed"}  # sys.exit(3)
    losses = [m for m in first.metrics if m["phase"] == "epoch"]
    history = eval(plain.stdout.splitlines()[0])
    assert [m["values"]["loss"] for m in losses[:2]] == pytest.approx(history["loss"])
    assert [m["values"]["val_loss"] for m in losses[:2]] == pytest.approx(history["val_loss"])


def test_a_script_with_a_scope_of_its_own_is_left_alone(tmp_path):
    (tmp_path / "own.py").write_text(
        TRAINING.split("first = net", maxsplit=1)[0]
        + "import fitscope as fs\nscope = fs.Scope(run='mine', every=1)\n"
        + "net('n').fit(x, y, verbose=0, callbacks=[scope])\nscope.close()\n"
    )
    done = python("own.py", cwd=tmp_path, ours=True)
    assert done.returncode == 0, done.stderr
    assert "there is no run" in done.stderr
    assert (tmp_path / "mine" / "run.json").exists()


def test_a_script_that_is_killed_leaves_a_readable_run(tmp_path):
    from fitscope import open_run

    (tmp_path / "long.py").write_text(
        TRAINING.split("first = net", maxsplit=1)[0]
        + "n = net('n')\nfor i in range(10**6):\n    n.train_on_batch(x, y)\n"
    )
    command = [sys.executable, "-m", "fitscope", "run", "--run", "s", "--every", "1", "long.py"]
    started = subprocess.Popen(command, cwd=tmp_path, env={**os.environ})
    path = Path(tmp_path) / "s" / "n"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if (path / "run.json").exists() and open_run(path).last():
            break
        time.sleep(0.2)
    started.send_signal(signal.SIGKILL)
    started.wait()
    run = open_run(path)
    assert run.status == "interrupted"
    assert len(run.stats("hidden", "mean"))
