"""The page from a training process, and the command that serves it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from page_runs import write
from page_server import until

from fitscope.errors import FitscopeError
from fitscope.ui.roots import Roots
from fitscope.ui.show import show


def fitscope_ui(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fitscope", "ui", "--no-browser", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_show_serves_until_it_is_closed(tmp_path):
    write(tmp_path / "first", steps=20)
    page = show([tmp_path / "first"], open_browser=False)
    try:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"<title>fitscope</title>" in opener.open(page.url, timeout=20).read()
        assert page.is_open
    finally:
        page.close()
    assert not page.is_open


def test_the_page_of_a_killed_process_ends(tmp_path):
    write(tmp_path / "first", steps=5)
    code = (
        "import sys, time; from pathlib import Path; from fitscope.ui.show import show\n"
        f"page = show([Path({str(tmp_path)!r})], open_browser=False)\n"
        "print(page._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def gone():
        try:
            stat = Path(f"/proc/{child}/stat").read_text()
        except FileNotFoundError:
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"

    until(gone)


def test_a_scope_shows_its_run_and_those_beside_it(tmp_path):
    from fitscope.scope.scope import Scope

    scope = Scope(run=tmp_path / "first")
    page = scope.show(open_browser=False)
    assert scope.show(open_browser=False) is page
    scope.close()
    assert not page.is_open
    write(tmp_path / "first", steps=5)
    write(tmp_path / "first-2", steps=5)
    write(tmp_path / "first-other", steps=5)
    names = [run.name for run in Roots([tmp_path / "first"], beside=True).runs()]
    assert names == ["first", "first-2"]


def test_a_scope_in_memory_says_what_it_needs():
    from fitscope.scope.scope import Scope

    with pytest.raises(FitscopeError, match=r'run="runs/first"'):
        Scope().show()
    with pytest.raises(FitscopeError, match=r'run="runs/first"'):
        Scope(ui=True)
    with pytest.raises(FitscopeError, match="True or False"):
        Scope(ui="yes", run="x")


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["nowhere"], {}, "no folder nowhere"),
        (["--host", "0.0.0.0"], {}, "FITSCOPE_TOKEN"),
        (["--host", "::"], {}, "FITSCOPE_TOKEN"),
        (["--host", "0.0.0.0"], {"FITSCOPE_TOKEN": "short"}, "at least 16"),
        (["--host", "192.0.2.1", "."], {"FITSCOPE_TOKEN": "x" * 20}, "cannot listen"),
    ],
)
def test_it_refuses_with_a_sentence(arguments, environment, words):
    done = fitscope_ui(*arguments, **environment)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_is_no_folder_of_runs(tmp_path):
    (tmp_path / "x").write_text("")
    assert "is a file" in fitscope_ui(str(tmp_path / "x")).stderr


def test_help_says_how_it_is_kept_safe():
    done = fitscope_ui("--help")
    assert done.returncode == 0
    for word in ("127.0.0.1 only", "random token", "FITSCOPE_TOKEN", "Only runs below"):
        assert word in done.stdout


def test_an_installation_without_the_page_says_what_to_do(tmp_path):
    code = (
        "import fitscope.ui.app as app; from pathlib import Path; app.STATIC = Path('/nowhere')\n"
        f"from fitscope.cli.main import main; raise SystemExit(main(['ui', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Install Node" in done.stderr
    assert "make page" in done.stderr


def test_showing_loads_no_web_server_into_the_training():
    code = (
        "import sys, fitscope.ui.show, fitscope.scope.scope\n"
        "print(sorted({'starlette', 'uvicorn', 'anyio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
