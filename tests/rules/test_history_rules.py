"""Rules that read losses, metrics and weights: on faulty curves and on their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from fitscope.rules.history import batches, epochs
from fitscope.rules.registry import RULES, findings

RANDOM = np.random.default_rng(0)
STEPS = 8  # of an epoch
FIT = {
    "event": "fit", "epochs": 12, "optimizer": "adam", "losses": ["binary_crossentropy"],
    "constant_answer_loss": 0.69, "majority": 0.5, "regularization": 0.0,
    "trainable": ["hidden", "out"],
}  # fmt: skip
FALLING = 0.7 * 0.9 ** np.arange(12)


def history(loss, fit=None, weights=None, noise=0.02, **logs):
    """A training of 12 epochs with the loss `loss`, and the noise of batches on its steps."""
    records = [{**FIT, **(fit or {})}]
    for epoch, value in enumerate(loss):
        steps = value * (1 + noise * RANDOM.normal(size=STEPS))
        for place in range(1, STEPS + 1):
            mean = float(steps[:place].mean())
            records.append(
                {"event": "step", "step": epoch * STEPS + place - 1, "epoch": epoch,
                 "place": place, "logs": {"loss": mean}}
            )  # fmt: skip
        at_end = {name: float(values[epoch]) for name, values in logs.items()}
        records.append(
            {"event": "epoch", "epoch": epoch, "step": (epoch + 1) * STEPS,
             "logs": {"loss": float(value), **at_end}}
        )  # fmt: skip
    if weights is not None:
        records.append({"event": "end", "step": len(loss) * STEPS, "weights": weights})
    return records


def weight(layer, change=0.1, **fields):
    return {"layer": layer, "name": "kernel", "rank": 2, "rms": 0.2, "change": change,
            "equal": change == 0, "finite": True, **fields}  # fmt: skip


FLAT = np.full(12, 0.69)
HELD_OUT = np.r_[0.6, 0.5, 0.4, np.linspace(0.42, 0.9, 9)]
JUMPING = np.tile([0.5, 1.2], 6)

FAULTY = {
    "loss_non_finite": [history(np.r_[FALLING[:6], [np.nan] * 6])],
    "loss_diverges": [history(np.r_[FALLING[:6], 2.0 ** np.arange(6)])],
    "loss_negative": [history(np.linspace(0.5, -3, 12))],
    "loss_oscillates": [history(JUMPING)],
    "loss_flat": [history(FLAT), history(FLAT, noise=0.0)],
    "no_better_than_constant": [history(FLAT + 0.01 * RANDOM.random(12))],
    "metric_flat": [
        history(FALLING, accuracy=np.full(12, 0.4)),
        history(FALLING, accuracy=0.5 + 0.01 * RANDOM.random(12)),
    ],
    "overfitting": [history(FALLING, val_loss=HELD_OUT)],
    "stopped_early": [history(0.7 * 0.9 ** np.arange(12))],
    "unchanged_weights": [
        history(FALLING, weights=[weight("hidden", 0.0), weight("out")]),
        history(FALLING, weights=[weight("hidden", 0.0), weight("out", 0.0)]),
    ],
    "weights_barely_moved": [history(FALLING, weights=[weight("hidden", 1e-6)])],
    "layer_left_behind": [
        history(FALLING, weights=[weight("a", 1e-6), weight("b"), weight("c"), weight("out", 0.02)])
    ],
    "weights_moved_far": [history(FALLING, weights=[weight("hidden", 90.0)])],
}
HEALTHY = {
    "falling": history(np.r_[FALLING[:8], np.linspace(0.29, 0.28, 4)]),
    "learned at once": history(np.full(12, 0.02), accuracy=np.ones(12)),
    "noisy batches": history(np.linspace(0.65, 0.4, 12), noise=0.3),
    "a plateau that ends": history(np.r_[np.full(8, 0.69), 0.5, 0.3, 0.2, 0.195]),
    "small changes near zero": history(1e-4 * (1 + 0.5 * RANDOM.random(12))),
    "validation above training": history(np.r_[FALLING[:8], [0.29] * 4],
                                         val_loss=np.full(12, 0.5)),
    "weights that moved": history(np.r_[FALLING[:8], [0.29] * 4],
                                  weights=[weight("hidden"), weight("out", 0.5)]),
    "a layer that moved less": history(
        np.r_[FALLING[:8], [0.29] * 4],
        weights=[weight("a", 2e-3), weight("b"), weight("c", 0.3), weight("out", 0.02)]),
    "a head that began at zero": history(np.r_[FALLING[:8], [0.29] * 4],
                                         weights=[weight("out", 0.3, rms=0.0)]),
    # Five inputs: weights of 0.45 are usual, and these happened to begin at 0.1.
    "a few weights that began small": history(
        np.r_[FALLING[:8], [0.29] * 4],
        weights=[weight("hidden"), weight("out", 4.0, rms=0.1, fan_in=5)]),
    "sequences of one step": history(
        np.r_[FALLING[:8], [0.29] * 4],
        weights=[weight("lstm/cell"), weight("lstm/cell", 0.0, name="recurrent_kernel")],
    ),
    "a loss of one's own": history(np.linspace(0, -3, 12),
                                   fit={"losses": [], "constant_answer_loss": None}),
    "regularized": history(FLAT + 0.3 - 0.02 * np.arange(12), fit={"regularization": 0.5}),
}  # fmt: skip
CASES = [(name, i) for name, runs in FAULTY.items() for i in range(len(runs))]


@pytest.mark.parametrize(("name", "place"), CASES)
def test_fires_on_the_fault(make_run, name, place):
    run = make_run({}, history=FAULTY[name][place])
    found = RULES[name](run)
    assert [f.rule for f in found] == [name]
    assert len(found[0].lines) == 3
    assert max(map(len, found[0].lines)) <= 160


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_has_no_fault_and_no_warning(make_run, name):
    found = findings(make_run({}, history=HEALTHY[name]))
    assert [f for f in found if f.severity != "note"] == []


def test_a_loss_that_stands_to_the_last_bit_is_a_fault(make_run):
    noisy, still = (RULES["loss_flat"](make_run({}, history=h))[0] for h in FAULTY["loss_flat"])
    assert (noisy.severity, still.severity) == ("fault", "fault")
    moving = FLAT + 0.001 * RANDOM.normal(size=12)
    (found,) = RULES["loss_flat"](make_run({}, history=history(moving)))
    assert found.severity == "warning"


@pytest.mark.parametrize(("planned", "severity"), [(12, "warning"), (50, "note")])
def test_a_training_that_ended_untrained_is_told_of_though_it_still_fell(
    make_run, planned, severity
):
    slow = history(np.linspace(0.76, 0.70, 12), fit={"epochs": planned})
    (found,) = RULES["no_better_than_constant"](make_run({}, history=slow))
    assert found.severity == severity
    assert "still falling" in found.why


@pytest.mark.parametrize(("planned", "severity"), [(14, "fault"), (100, "warning")])
def test_a_plateau_is_no_fault_while_epochs_are_left(make_run, planned, severity):
    flat = history(np.full(14, 0.694), fit={"epochs": planned})
    (found,) = RULES["no_better_than_constant"](make_run({}, history=flat))
    assert found.severity == severity


def test_where_all_weights_stand_the_cause_is_at_the_loss(make_run):
    one, both = (RULES["unchanged_weights"](make_run({}, history=h))[0]
                 for h in FAULTY["unchanged_weights"])  # fmt: skip
    assert (one.site, both.site) == ("hidden", "fit")


def test_losses_of_stretches_come_out_of_keras_averages(make_run):
    losses = RANDOM.random(STEPS)
    records = [
        {"event": "step", "step": n - 1, "epoch": 0, "place": n,
         "logs": {"loss": float(losses[:n].mean())}}
        for n in (1, 2, 3, 5, 8)
    ]  # fmt: skip
    curve = batches(make_run({}, history=records))
    expected = [losses[0], losses[1], losses[2], losses[3:5].mean(), losses[5:8].mean()]
    np.testing.assert_allclose(curve.values, expected)
    assert curve.steps.tolist() == [0, 1, 2, 4, 7]


def test_a_loss_that_json_holds_as_a_string_is_read(make_run, tmp_path):
    import fitscope as fs
    from fitscope.run.writer import RunWriter

    writer = RunWriter(tmp_path / "run", config={})
    writer.add_history({"event": "epoch", "epoch": 0, "step": 5, "logs": {"loss": float("nan")}})
    writer.close()
    curve = epochs(fs.open_run(tmp_path / "run"))
    assert np.isnan(curve.values).all()
    assert [f.rule for f in findings(fs.open_run(tmp_path / "run"))] == ["loss_non_finite"]


# Rules over the statistics of sites


def test_signals_that_explode_along_depth(make_run, make_site):
    sizes = 10.0 ** np.arange(5)
    run = make_run({make_site(f"d{i}"): {"mean": 0, "std": s} for i, s in enumerate(sizes)})
    (found,) = RULES["signal_scale"](run)
    assert found.site == "d4"
    assert "at d4" in found.message
    large = [1e8, 1e8, 1e7]
    (found,) = RULES["signal_scale"](
        make_run({make_site(f"d{i}"): {"mean": 0, "std": s} for i, s in enumerate(large)})
    )
    assert found.message == "outputs have rms 1e8 from the first layer on."
    even = make_run({make_site(f"d{i}"): {"mean": 0, "std": 1 + i} for i in range(5)})
    assert RULES["signal_scale"](even) == []


def test_gradients_that_vanish_along_depth(make_run, make_site):
    def run(decade, optimizer="sgd"):
        weights = {
            make_site(f"d{i}:weight_gradient", None): {"mean": 0, "std": 10.0 ** (decade * i)}
            for i in range(6)
        }
        return make_run(weights, history=[{**FIT, "optimizer": optimizer}])

    (found,) = RULES["vanishing_gradients"](run(0.8))
    assert found.site == "d0:weight_gradient"
    assert found.evidence["decades"] == pytest.approx(4.0)
    assert RULES["vanishing_gradients"](run(0.8, "adam")) == []
    assert RULES["vanishing_gradients"](run(0.2)) == []
    assert RULES["vanishing_gradients"](run(-0.8)) == []


def test_one_odd_layer_is_no_profile(make_run, make_site):
    sizes = [1.0, 1e-6, 1.0, 1.0, 1.0, 1.0]
    weights = {
        make_site(f"d{i}:weight_gradient", None): {"mean": 0, "std": size}
        for i, size in enumerate(sizes)
    }
    run = make_run(weights, history=[{**FIT, "optimizer": "sgd"}])
    assert RULES["vanishing_gradients"](run) == []


def test_gradients_that_grow(make_run, make_site):
    growing, steady = np.geomspace(0.1, 1e4, 40), np.geomspace(0.1, 1.0, 40)
    name = make_site("d:weight_gradient", None)
    (found,) = RULES["exploding_gradients"](make_run({name: {"mean": 0, "std": growing}}))
    assert found.site == "d:weight_gradient"
    assert RULES["exploding_gradients"](make_run({name: {"mean": 0, "std": steady}})) == []


def test_batch_normalization_that_disagrees(make_run, make_site):
    from fitscope.run.record import StepRecord
    from fitscope.run.writer import RunWriter
    from fitscope.statistics.moments import COLUMNS

    def run(mean, losses):
        writer = RunWriter(None, config={})
        site = make_site("norm", None, layer_class="BatchNormalization")
        indices = np.asarray(writer.add_sites([site]))
        for step, (phase, value) in enumerate([("train", 0.0), ("validation", mean)] * 5):
            row = np.zeros((1, len(COLUMNS)))
            for column, number in (("count", 64.0), ("mean", value), ("std", 1.0)):
                row[0, COLUMNS.index(column)] = number
            writer.append(StepRecord(step, 0, phase, indices, row))
        logs = dict(zip(("loss", "val_loss"), losses, strict=True))
        writer.add_history({"event": "epoch", "epoch": 0, "step": 10, "logs": logs})
        return writer.run

    (found,) = RULES["batch_norm_disagrees"](run(7.0, (0.1, 2.0)))
    assert found.site == "norm"
    assert RULES["batch_norm_disagrees"](run(0.2, (0.1, 2.0))) == []
    assert RULES["batch_norm_disagrees"](run(7.0, (0.1, 0.1))) == []


def test_a_layer_that_is_never_called(make_run):
    from fitscope.run.writer import RunWriter
    from fitscope.select.unseen import Unseen

    writer = RunWriter(None, config={})
    writer.add_history(FIT)
    writer.add_unseen([Unseen("hidden", "was not called in the observed step", "")])
    writer.add_unseen([Unseen("other", "was not called in the observed step", "")])
    (found,) = RULES["not_called"](writer.run)
    assert found.site == "hidden"
    assert RULES["not_called"](make_run({}, history=[FIT])) == []


@pytest.mark.parametrize("name", ["loss_flat", "no_better_than_constant", "metric_flat"])
@pytest.mark.parametrize(("planned", "severity"), [(100, "warning"), (200, "note")])
def test_a_plateau_in_the_first_tenth_is_a_note(make_run, name, planned, severity):
    loss = 0.69 + 0.003 * (-1.0) ** np.arange(12)
    run = make_run({}, history=history(loss, {"epochs": planned}, accuracy=np.full(12, 0.5)))
    (found,) = RULES[name](run)
    assert found.severity == severity
