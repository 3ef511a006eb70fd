"""`fitscope show`."""

import json

import pytest

from fitscope.cli.main import main


@pytest.fixture
def show(capsys, monkeypatch):
    monkeypatch.delenv("FITSCOPE_DEBUG", raising=False)

    def call(*arguments):
        status = main(["show", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def line_of(text, start):
    return next(line for line in text.split("\n") if line.startswith(start)).split()


def test_prints_header_table_gaps_findings_and_the_next_command(write_run, show):
    path = write_run()
    status, out, err = show(path)
    assert (status, err) == (0, "")
    assert out.startswith(f"{path}  finished\nmodel tiny  backend jax  3 sites\n")
    assert "train: observed 20 steps in 2 epochs, 26% of the steps up to step 76\n" in out
    assert "validation: observed 2 steps in 1 epoch\n" in out
    assert "step 76, train" in out
    assert line_of(out, "layer_0")[1:7] == ["Dense", "128x32", "1.26", "1.36", "25%", "0%"]
    assert "75%" in line_of(out, "layer_1")
    assert "Not seen: 1\n  rnn/cell_0\n    It runs in a loop." in out
    assert "Findings: 1" in out
    assert "at least 75% of the 32 units were off" in " ".join(out.split())
    assert out.endswith(f"Next:\n  fitscope show {path} --select layer_1 --steps 0:\n")


def test_no_colours_and_one_width_when_piped(write_run, show):
    path = write_run()
    _, out, _ = show(path)
    assert "\x1b" not in out
    assert max(len(line) for line in out.split("\n") if str(path) not in line) <= 120
    _, narrow, _ = show(write_run(name="other"), "--width", 60)
    table = narrow[narrow.index("\nsite") : narrow.index("\nNot seen")]
    assert max(map(len, table.split("\n"))) <= 60


def test_a_range_of_steps_is_merged(write_run, show):
    path = write_run()
    _, out, _ = show(path, "--steps", "0:8", "--json")
    summary = json.loads(out)
    assert summary["steps"] == {"from": 0, "to": 8}
    assert summary["sites"][0]["mean"] == pytest.approx(0.52)
    _, out, _ = show(path, "--steps", "8:")
    assert "steps 8 to 76 merged, train" in out


def test_a_phase(write_run, show):
    status, out, _ = show(write_run(), "--phase", "validation")
    assert status == 0
    assert "step 4, validation" in out


def test_a_selection(write_run, show):
    _, out, _ = show(write_run(), "--select", "layer_2", "--json")
    assert [site["site"] for site in json.loads(out)["sites"]] == ["layer_2"]


def test_json_is_complete_and_strict(write_run, show):
    status, out, _ = show(write_run(), "--json")
    summary = json.loads(out, parse_constant=pytest.fail)
    assert status == 0
    assert summary["status"] == "finished"
    assert summary["observed"]["train"]["observed"] == 20
    assert summary["findings"][0]["site"] == "layer_1"
    assert summary["unseen"][0]["site"] == "rnn/cell_0"
    assert summary["sites"][1]["dead"] == 0.75
    assert summary["sites"][1]["saturated"] is None


def test_hundreds_of_sites_are_not_a_wall(write_run, show):
    path = write_run(layers=300, steps=12, unseen=50)
    _, out, _ = show(path)
    assert len(out.split("\n")) < 70
    assert "260 more sites; the 40 most notable are shown; --all shows all" in out
    assert "layer_1 " in out
    assert "and 46 more" in out
    _, out, _ = show(path, "--all")
    assert "layer_299" in out


def test_a_run_without_steps(write_run, show):
    status, out, _ = show(write_run(steps=0, validation=0, unseen=0))
    assert status == 0
    assert "No step was observed before the run was finished" in out


def test_a_run_without_sites(write_run, show):
    status, out, _ = show(write_run(layers=0, steps=0, validation=0, unseen=0))
    assert status == 0
    assert "0 sites" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--phase", "test"], "no observed test step; it holds: train, validation"),
        (["--steps", "500:600"], "no observed train step from 500 to 599; observed are 20"),
        (["--select", "layr_1"], "layer_1"),
    ],
)
def test_nothing_to_show_is_one_sentence(write_run, show, arguments, says):
    status, out, err = show(write_run(), *arguments)
    assert (status, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_what_is_no_run(tmp_path, show):
    (tmp_path / "file").write_text("text")
    for name in ("nothing", "file", "."):
        status, out, err = show(tmp_path / name)
        assert (status, out) == (1, "")
        assert err.startswith("fitscope: ")
        assert err.count("\n") == 1


def test_debug_adds_the_traceback(tmp_path, show, monkeypatch):
    monkeypatch.setenv("FITSCOPE_DEBUG", "1")
    assert "Traceback" in show(tmp_path / "nothing")[2]


@pytest.mark.parametrize("steps", ["5:2", "a:b", "", "1:2:3", "3:3"])
def test_a_wrong_range_is_wrong_usage(write_run, show, steps):
    status, _, err = show(write_run(), "--steps", steps)
    assert status == 2
    assert "write A:B" in err
