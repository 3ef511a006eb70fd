"""What a run says of the code it was made with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fitscope.run import RunWriter, source


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)\n")
    for command in (
        ["init", "--quiet"],
        ["add", "train.py"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "first"],
    ):
        subprocess.run(["git", "-C", folder, *command], check=True)
    return folder


def head(folder: Path) -> str:
    found = subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def test_the_commit_and_whether_files_changed(repository: Path) -> None:
    assert source.git_state(repository) == {"commit": head(repository), "changed": False}
    (repository / "notes.txt").write_text("not tracked")
    assert source.git_state(repository) == {"commit": head(repository), "changed": False}
    (repository / "train.py").write_text("print(2)\n")
    assert source.git_state(repository) == {"commit": head(repository), "changed": True}


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert source.git_state(tmp_path) is None


def test_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert source.git_state(repository) is None


def test_git_that_hangs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("git", 2.0)

    monkeypatch.setattr(subprocess, "run", hang)
    assert source.git_state(repository) is None


def test_it_stands_in_the_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    RunWriter(tmp_path / "run", config={}).close()
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["git"] == {"commit": head(repository), "changed": False}
