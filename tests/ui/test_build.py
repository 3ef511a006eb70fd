"""Building the page: only where it has changed, and without Node with a sentence."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_fresh_until_the_source_changes(hook, tmp_path):
    source, built = tmp_path / "page", tmp_path / "static"
    (source / "node_modules").mkdir(parents=True)
    (source / "main.ts").write_text("")
    assert not hook.is_fresh(source, built)
    built.mkdir()
    (built / "index.html").write_text("")
    os.utime(source / "main.ts", (100, 100))
    os.utime(built / "index.html", (100, 100))
    assert hook.is_fresh(source, built)  # as unpacked from an sdist
    (source / "node_modules" / "x.js").write_text("")
    assert hook.is_fresh(source, built)
    os.utime(source / "main.ts", (101, 101))
    assert not hook.is_fresh(source, built)


def test_without_node_it_says_what_to_do(hook, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Install Node 18 or newer and run `make page`" in hook.build(ROOT / "page")


def test_npm_is_asked_for_locked_versions_from_no_named_registry():
    text = (ROOT / "page" / "package-lock.json").read_text()
    assert "resolved" not in text
    assert '"integrity": "sha512-' in text
