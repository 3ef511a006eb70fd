"""The command line as a process: help, exit codes, imports, pipes."""

import os
import subprocess
import sys

import pytest

from fitscope.cli import show
from fitscope.cli.main import main

HEAVY = ("keras", "tensorflow", "jax", "torch")


def fitscope(*arguments, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("FITSCOPE_DEBUG", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fitscope", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env={**clean, "PYTHONIOENCODING": "utf-8", **environment},
    )


def loaded_after(*arguments):
    script = (
        "import sys\nfrom fitscope.cli.main import main\n"
        f"status = main({[str(a) for a in arguments]!r})\n"
        f"print(sorted(set(sys.modules) & {set(HEAVY) | {'pyarrow', 'rich'}!r}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stderr.strip().split("\n")[-1]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["demo", "-h"], ["sites", "-h"], ["ui", "-h"], ["run", "-h"]],
)
def test_help_imports_nothing_heavy(arguments):
    assert loaded_after(*arguments) == "[]"


def test_show_imports_neither_keras_nor_a_backend(write_run):
    loaded = loaded_after("show", write_run())
    assert "pyarrow" in loaded
    assert not any(name in loaded for name in HEAVY)


@pytest.mark.parametrize("command", ["demo", "run", "show", "sites", "ui"])
def test_every_command_explains_itself_with_an_example(command):
    done = fitscope(command, "--help")
    assert done.returncode == 0
    assert f"example:\n  fitscope {command}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [[], ["dance"], ["show"], ["show", "x", "--wrong"], ["demo", "--backend", "theano"],
     ["demo", "--epochs", "0"]],
)  # fmt: skip
def test_wrong_usage_is_2(arguments):
    done = fitscope(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: fitscope" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_problem_is_1_and_one_sentence():
    done = fitscope("show", "no/such/run")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("fitscope: ")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(write_run):
    path = write_run(layers=300)
    writer = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "fitscope", "show", str(path), "--all"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.read(10)
    writer.stdout.close()
    complaint = writer.stderr.read()
    writer.stderr.close()
    assert (writer.wait(timeout=60), complaint) == (0, b"")


def test_an_output_that_knows_ascii_only(write_run):
    done = fitscope("show", write_run(), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "layer_1" in done.stdout


def test_a_pipe_gets_the_same_text_in_any_terminal(write_run):
    path = write_run()
    assert (
        fitscope("show", path, COLUMNS="40", TERM="xterm").stdout == fitscope("show", path).stdout
    )


def test_a_fault_of_our_own_is_1_and_a_short_sentence(monkeypatch, capsys):
    def fail(_arguments):
        raise ValueError("first line\n" + "a compiler's page " * 200 + "\nlast line")

    monkeypatch.delenv("FITSCOPE_DEBUG", raising=False)
    monkeypatch.setattr(show, "run", fail)
    assert main(["show", "anything"]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("fitscope: unexpected ValueError: first line a compiler's page")
    assert error.endswith("last line (set FITSCOPE_DEBUG=1 for the traceback)\n")
    assert len(error) < 600


def test_the_traceback_is_there_on_request(monkeypatch, capsys):
    def fail(_arguments):
        raise ValueError("broken")

    monkeypatch.setenv("FITSCOPE_DEBUG", "1")
    monkeypatch.setattr(show, "run", fail)
    assert main(["show", "anything"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err
