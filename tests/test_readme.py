"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(example, str(README), "exec"), names)

    table = names["run"].stats("hidden", ["rms", "dead_fraction", "q99"]).to_pandas()  # type: ignore[attr-defined]
    assert set(table["site"]) == {"hidden"}
    assert set(table["statistic"]) == {"rms", "dead_fraction", "q99"}
    assert np.isfinite(table["value"]).all()
    assert "hidden  Dense  (32, 64)" in capsys.readouterr().out
