"""Each rule of the contract on a training that has the fault, and on its healthy neighbour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from trainings import array, dense, fit_of

from fitscope.rules.causes import told_once
from fitscope.rules.finding import Finding
from fitscope.rules.fit import LayerFact, LossFact, OptimizerFact, OutputFact, constant_answer
from fitscope.rules.registry import RULES, contract

RANDOM = np.random.default_rng(1)
ONE_HOT = np.eye(3)[np.arange(120) % 3]
BINARY = np.arange(120) % 2
QUANTITY = RANDOM.normal(size=120)


def layers(*given):
    """Layers in a row."""
    found = [given[0]]
    for layer in given[1:]:
        found.append(replace(layer, sources=(found[-1].path,)))
    return tuple(found)


def other(kind, path="other", **fields):
    return LayerFact(path, kind, **fields)


def with_rate(name, rate, **options):
    return fit_of(optimizer=OptimizerFact(name, rate, options))


SORTED = np.sort(np.arange(120) % 3)
IMAGES = RANDOM.integers(0, 256, (120, 16))
LEAKING = np.column_stack([RANDOM.normal(size=(120, 3)), BINARY])
WORDS = RANDOM.integers(0, 10, (120, 6))
HELD = (
    (array("validation x", RANDOM.normal(size=(30, 8))),),
    (array("validation y", [0] * 30),),
)
SEEN = RANDOM.normal(size=(120, 8))
PLUS_MINUS = np.array([[0.5, -0.5, 0.5, 0.5], [0.5, 0.5, -0.5, 0.4]])
NORM = other("BatchNormalization", "norm", output_shape=(None, 8), sources=("hidden",))

TWINS = np.repeat(RANDOM.normal(size=(100, 4)), 2, axis=0)[:120]
KINDS = RANDOM.integers(0, 2, (120, 3)).astype(float)
HALF = replace(dense("hidden", (4, 8), "relu"), dtype="float16")
SCALING = OptimizerFact("adam", 1e-3, scales_loss=True)


def weights(values):
    return (array("sample_weight", values),)


FAULTY = {
    "data_values": [
        fit_of(x=np.where(RANDOM.random((120, 4)) < 0.01, np.nan, 1.0)),
        fit_of(x=np.zeros((120, 4))),
        fit_of(y=np.ones(120, int)),
        fit_of(y=np.tile([0, 1, 0], (120, 1)), loss="categorical_crossentropy"),
    ],
    "input_kind": [
        fit_of(x=RANDOM.random((120, 6)), layers=(other("Embedding", options={"input_dim": 10}),)),
        fit_of(x=WORDS, layers=(other("Embedding", options={"input_dim": 5}),)),
        fit_of(x=np.zeros((10, 3, 32, 32)) + RANDOM.random((10, 1, 1, 1)),
               layers=(other("Conv2D", options={"data_format": "channels_last"}),)),
    ],
    "one_unit_softmax": [fit_of(units=1, y=BINARY, loss="binary_crossentropy")],
    "from_logits": [
        fit_of(from_logits=True),
        fit_of("linear"),
        fit_of("relu"),
        fit_of("tanh", 1, "binary_crossentropy", y=BINARY),
        fit_of("relu", from_logits=True),
    ],
    "double_activation": [
        fit_of(outputs=(OutputFact("out", "softmax", (None, 3), None, ("softmax", "softmax")),)),
        fit_of(outputs=(OutputFact("drop", "softmax", (None, 3), None, ("softmax",), "Dropout"),)),
    ],
    "labels_in_range": [fit_of(units=2), fit_of(y=np.arange(120) % 3 + 1), fit_of(y=QUANTITY)],
    "targets_in_range": [
        fit_of("sigmoid", 1, "binary_crossentropy"),
        fit_of("sigmoid", 1, "mean_squared_error", y=QUANTITY),
        fit_of("relu", 1, "mean_squared_error", y=QUANTITY),
        fit_of("tanh", 1, "mean_absolute_error", y=10 * QUANTITY),
        fit_of("linear", 1, "poisson", y=QUANTITY),
    ],
    "sample_weights": [
        fit_of(sample_weights=weights(np.zeros(120))),
        fit_of(sample_weights=weights(np.where(np.arange(120) < 5, -1.0, 1.0))),
        fit_of(sample_weights=weights(np.where(np.arange(120) < 5, np.nan, 1.0))),
        fit_of(sample_weights=weights(np.where(np.arange(120) < 2, 1.0, 0.0))),
    ],
    "contradicting_labels": [fit_of(x=TWINS), fit_of(x=KINDS)],
    "gradient_clipping": [
        with_rate("sgd", 0.01, clipnorm=1e-7),
        with_rate("sgd", 0.01, momentum=0.9, clipvalue=1e-8),
        with_rate("adam", 1e-3, global_clipnorm=1e-9),
        with_rate("sgd", 0.01, clipnorm=0.0),
    ],
    "half_precision": [
        fit_of(layers=layers(HALF, dense("out", (8, 3), "softmax"))),
        fit_of(layers=layers(replace(HALF, variable_dtype="float16"), dense("out", (8, 3))),
               optimizer=SCALING),
    ],
    "loss_unit_mismatch": [
        fit_of("linear", 3, "mean_squared_error", y=QUANTITY[:, None]),
        fit_of("linear", 1, "mean_squared_error", y=QUANTITY[:, None], output_shape=(None, 5, 1)),
        fit_of("linear", 1, "mean_squared_error", y=ONE_HOT),
    ],
    "loss_activation": [
        fit_of("softmax", 3, "binary_crossentropy", y=ONE_HOT),
        fit_of("sigmoid", 3, "categorical_crossentropy", y=ONE_HOT),
        fit_of("softmax", 3, "mean_squared_error", y=ONE_HOT),
        fit_of("sigmoid", 3, "mean_squared_error", y=ONE_HOT),
        fit_of("sigmoid", 1, "categorical_crossentropy", y=BINARY[:, None]),
        fit_of("sigmoid", 1, "mean_absolute_error", y=BINARY),
        fit_of("softmax", 3, "mean_squared_error", y=RANDOM.integers(0, 2, (120, 3))),
        fit_of("softmax", 3, "categorical_crossentropy", y=RANDOM.integers(0, 2, (120, 3))),
        fit_of("linear", 3, "categorical_crossentropy", y=RANDOM.integers(0, 2, (120, 3)),
               from_logits=True),
    ],
    "loss_task": [
        fit_of("linear", 1, "mean_squared_error"),
        fit_of("linear", 1, "mean_squared_error", y=BINARY),
    ],
    "metric_task": [fit_of("linear", 1, "mean_squared_error", y=QUANTITY)],
    "frozen_layers": [
        fit_of(layers=layers(dense("a", (4, 8), trainable=False))),
        fit_of(layers=layers(dense("a", (4, 8)), dense("out", (8, 3), trainable=False))),
    ],
    "initial_weights": [
        fit_of(layers=layers(dense("a", (4, 8), "relu", values=0.1), dense("out", (8, 3)))),
        fit_of(layers=layers(dense("a", (4, 8), "relu", values=0.0), dense("out", (8, 3)))),
        fit_of(layers=layers(*(
            dense(f"a{i}", (64, 64), values=RANDOM.normal(size=(64, 64))) for i in range(3)))),
        fit_of(layers=layers(*(
            dense(f"a{i}", (64, 64), values=RANDOM.normal(size=(64, 64)) * 1e-3)
            for i in range(3)))),
    ],
    "single_class_batches": [
        fit_of(y=SORTED, shuffle=False),
        fit_of(y=np.arange(120) % 2 + 1, validation=HELD),
        fit_of(y=np.minimum(np.arange(120) % 12, 1), validation=HELD),
    ],
    "batch_size_one": [fit_of(layers=(dense("hidden", (4, 8)), NORM), batch_size=1),
                       fit_of(layers=(dense("hidden", (4, 8)), NORM), batch_size=17)],
    "learning_rate": [
        with_rate("adam", 1.0),
        with_rate("adam", 1e-7),
        with_rate("sgd", 20.0),
        with_rate("sgd", 0.2, momentum=0.95),
        with_rate("sgd", 1e-7),
        with_rate("rmsprop", 0.0),
        with_rate("adadelta", 0.001),
    ],
    "inputs_scaled": [
        fit_of(x=IMAGES),
        fit_of(x=RANDOM.normal(size=(120, 4)) * 1e-5),
        fit_of(x=RANDOM.normal(size=(120, 2)) * [0.01, 9]),
    ],
    "targets_scaled": [fit_of("linear", 1, "mean_squared_error", y=QUANTITY * 1e4, metrics=())],
    "hidden_activation": [
        fit_of(layers=layers(dense("a", (4, 8)), dense("out", (8, 3), "softmax"))),
        fit_of(layers=layers(dense("a", (4, 8)), other("Dropout"), dense("out", (8, 3)))),
        fit_of(layers=layers(dense("a", (4, 8), "softmax"), dense("out", (8, 3), "softmax"))),
    ],
    "dropout_rate": [fit_of(layers=(other("Dropout", options={"rate": 0.95}),))],
    "regularization": [fit_of(layers=(dense("a", (4, 8), regularization=40.0),))],
    "class_balance": [fit_of("sigmoid", 1, "binary_crossentropy", y=np.arange(120) < 3)],
    "target_leak": [
        fit_of("sigmoid", 1, "binary_crossentropy", x=LEAKING, y=BINARY),
        fit_of(x=SEEN, validation=((array("validation x", SEEN[::3]),), ())),
    ],
    "few_steps": [
        fit_of(steps=1, epochs=5),
        # 40 steps of 0.001 move no weight of 0.5 by a tenth; two inputs do not add up to much.
        fit_of(steps=8, epochs=5, layers=layers(dense("a", (2, 4), "relu", values=PLUS_MINUS),
                                                dense("out", (2, 4), values=PLUS_MINUS))),
    ],
}  # fmt: skip
CASES = [(name, i) for name, fits in FAULTY.items() for i in range(len(fits))]

HEALTHY = {
    "classifier": fit_of(),
    "logits": fit_of("linear", from_logits=True),
    "rows with a weight": fit_of("softmax", 3, "categorical_crossentropy",
                                 y=ONE_HOT * RANDOM.choice([0.5, 0.9], (120, 1))),
    "several, shared": fit_of("softmax", 3, "categorical_crossentropy",
                              y=RANDOM.dirichlet([2, 2, 2], 120)),
    "shares": fit_of("softmax", 3, "mean_squared_error", y=RANDOM.dirichlet([2, 2, 2], 120)),
    "small weights behind large inputs": fit_of(
        x=RANDOM.normal(size=(120, 4)) * 8, layers=layers(*(
            dense(f"a{i}", (64, 64), "relu", values=RANDOM.normal(size=(64, 64)) * 0.02)
            for i in range(3)))),
    "a share": fit_of("sigmoid", 1, "mean_absolute_error", y=RANDOM.random(120), metrics=()),
    "short, wide": fit_of(steps=8, epochs=5, layers=(dense("a", (900, 3), "softmax"),)),
    "not built, a sequence": fit_of("linear", 1, "mean_squared_error", metrics=(),
        y=RANDOM.normal(size=(120, 20, 1)), outputs=(OutputFact(
            "out", "linear", (None, 1), LossFact("mean_squared_error"), rank_known=False),)),
    "adadelta": with_rate("adadelta", 1.0),
    "one hot": fit_of("softmax", 3, "categorical_crossentropy", y=ONE_HOT),
    "binary": fit_of("sigmoid", 1, "binary_crossentropy", y=BINARY),
    "binary column": fit_of("sigmoid", 1, "binary_crossentropy", y=BINARY[:, None]),
    "soft labels": fit_of("sigmoid", 1, "binary_crossentropy", y=RANDOM.random(120)),
    "several labels": fit_of("sigmoid", 3, "binary_crossentropy",
                             y=RANDOM.integers(0, 2, (120, 3))),
    "xor with squared error": fit_of("sigmoid", 1, "mean_squared_error", y=BINARY),
    "regression": fit_of("linear", 1, "mean_squared_error", y=QUANTITY, metrics=("mae",)),
    "counts": fit_of("exponential", 1, "poisson", y=np.arange(120) % 50, metrics=()),
    "autoencoder": fit_of("linear", 4, "mean_squared_error", y=RANDOM.normal(size=(120, 4)),
                          metrics=()),
    "sorted, shuffled by keras": fit_of(y=SORTED),
    "a linear bottleneck": fit_of(layers=layers(
        dense("a", (4, 8), "tanh"), dense("code", (8, 2)), dense("b", (2, 8), "tanh"),
        dense("out", (8, 3), "softmax"))),
    "rows of little weight": fit_of(sample_weights=weights(RANDOM.random(120)), weighted=True),
    "padding of no weight": fit_of(sample_weights=weights(np.arange(120) % 2), weighted=True),
    "twins that agree": fit_of(x=np.tile(RANDOM.normal(size=(60, 4)), (2, 1))),
    "twins of quantities": fit_of("linear", 1, "mean_squared_error", x=TWINS, y=QUANTITY,
                                  metrics=()),
    "twins of counts": fit_of("linear", 1, "poisson", x=TWINS, y=np.arange(120) % 5, metrics=()),
    "mixed precision": fit_of(layers=layers(HALF, dense("out", (8, 3), "softmax")),
                              optimizer=SCALING),
    "bfloat16": fit_of(layers=layers(replace(HALF, dtype="bfloat16"), dense("out", (8, 3)))),
    "small learning rate": with_rate("adam", 1e-4),
    "sgd with momentum": with_rate("sgd", 0.01, momentum=0.9),
    "a large rate on small weights": with_rate("adam", 0.05),
    "clipped as usual": with_rate("sgd", 0.01, momentum=0.9, clipnorm=1.0),
    "clipped by value": with_rate("sgd", 0.01, clipvalue=0.01),
    "clipping that adam undoes": with_rate("adam", 1e-3, clipnorm=1e-4),
    "a schedule that warms up": with_rate("adam", 0.0, scheduled=True),
    "pixels behind a rescaling": fit_of(
        x=IMAGES, layers=layers(other("Rescaling", "scale"), dense("out", (16, 3), "softmax"))),
    "zeros before an addition": fit_of(layers=(
        dense("skip", (4, 4), "relu"), dense("a", (4, 4), values=0.0, sources=("skip",)),
        other("Add", "sum", sources=("a", "skip")), dense("out", (4, 3), sources=("sum",)))),
    "a head of zeros": fit_of(
        layers=layers(dense("a", (4, 8), "relu"), dense("out", (8, 3), values=0.0))),
    "activation of its own": fit_of(layers=layers(
        dense("a", (4, 8)), other("BatchNormalization", "n"), other("ReLU", "r", activation="relu"),
        dense("out", (8, 3), "softmax"))),
    "heavy dropout": fit_of(layers=(other("Dropout", options={"rate": 0.6}),)),
    "tokens": fit_of(x=WORDS, layers=(other("Embedding", options={"input_dim": 10}),)),
    "a step of its own": fit_of("linear", custom_step=True),
    "frozen base": fit_of(layers=layers(dense("base", (4, 8), "relu", trainable=False),
                                        dense("out", (8, 3), "softmax"))),
    "layer of sequences": fit_of("linear", 1, "mean_squared_error",
                                 y=RANDOM.normal(size=(120, 5, 1)), output_shape=(None, 5, 1),
                                 metrics=()),
}  # fmt: skip


@pytest.mark.parametrize(("name", "place"), CASES)
def test_fires_on_the_fault(name, place):
    found = RULES[name](FAULTY[name][place])
    assert [f.rule for f in found] == [name]
    assert found[0].stage == "contract"
    assert found[0].remedy
    assert found[0].why


@pytest.mark.parametrize("name", HEALTHY)
def test_says_nothing_of_a_healthy_training(name):
    assert contract(HEALTHY[name]) == []


def test_every_rule_of_the_contract_has_a_case():
    assert set(FAULTY) == {rule.id for rule in RULES.values() if rule.stage == "contract"}


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_finding_is_three_lines_that_a_person_reads_at_once(name, place):
    for finding in RULES[name](FAULTY[name][place]):
        assert len(finding.lines) == 3
        assert max(map(len, finding.lines)) <= 160, finding.lines
        assert finding.message.endswith(".")


def test_an_empty_training_is_silent():
    assert contract(replace(fit_of(), layers=(), outputs=(), inputs=(), targets=())) == []


def test_sorted_by_a_sample_of_many_rows():
    y = np.sort(np.arange(4000) % 4)
    few = replace(array("y", y[::10]), rows=4000)
    fit = fit_of(units=4, shuffle=False, batch_size=64)
    (found,) = RULES["single_class_batches"](replace(fit, targets=(few,)))
    assert found.evidence["share_of_batches"] > 0.9
    mixed = replace(array("y", np.tile(y[::10], 4)[::4]), rows=4000)
    assert RULES["single_class_batches"](replace(fit, targets=(mixed,))) != [found]


@pytest.mark.parametrize(
    ("loss", "y", "expected"),
    [
        ("mean_squared_error", QUANTITY, QUANTITY.var()),
        ("mean_absolute_error", QUANTITY, np.abs(QUANTITY - np.median(QUANTITY)).mean()),
        ("binary_crossentropy", BINARY, np.log(2)),
        ("categorical_crossentropy", ONE_HOT, np.log(3)),
        ("sparse_categorical_crossentropy", np.arange(120) % 3, np.log(3)),
        ("hinge", BINARY, None),
    ],
)
def test_the_loss_of_the_best_constant_answer(loss, y, expected):
    assert constant_answer(loss, array("y", y)) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_the_absolute_error_of_labels_has_its_least_at_a_label(share):
    y = (np.arange(1000) < 1000 * share).astype(float)
    answers = np.linspace(0, 1, 101)
    absolute = [np.abs(y - p).mean() for p in answers]
    squared = [((y - p) ** 2).mean() for p in answers]
    assert answers[np.argmin(absolute)] == round(share)
    assert answers[np.argmin(squared)] == pytest.approx(share)


@pytest.mark.parametrize(
    ("optimizer", "epochs", "severity"),
    [("adam", 100, "note"), ("adam", 3, "warning"), ("sgd", 100, "warning")],
)
def test_small_weights_are_outgrown_where_steps_are_as_long_as_the_rate(
    optimizer, epochs, severity
):
    # Weights of 0.001 are 0.125 for 64 inputs after 124 steps of 0.001, if all go one way.
    chain = [dense(f"a{i}", (64, 64), "tanh", values=RANDOM.normal(size=(64, 64)) * 1e-3)
             for i in range(3)]  # fmt: skip
    (found,) = RULES["initial_weights"](
        fit_of(layers=layers(*chain), optimizer=OptimizerFact(optimizer, 1e-3), epochs=epochs)
    )
    assert found.severity == severity


def test_small_weights_are_outgrown_where_gradient_descent_has_the_time():
    # As Saxe et al. have it, the product u of three layers' gains grows by du/dt = 3 s u^(4/3).
    # Stepped in time here, from below 1/37 (told) to 1, for a correlation s of 0.25.
    rate, gain = 0.05, 0.2
    chain = [dense(f"a{i}", (64, 64), "tanh", values=RANDOM.normal(size=(64, 64)) * gain / 8)
             for i in range(3)]  # fmt: skip
    u, needed = np.prod([layer.weights[0].rms * 8 for layer in chain]), 0
    while u < 1:
        u, needed = u + rate * 3 * 0.25 * u ** (4 / 3), needed + 1
    told = {}
    for steps in (needed, 4 * needed):
        (found,) = RULES["initial_weights"](
            fit_of(layers=layers(*chain), optimizer=OptimizerFact("sgd", rate), epochs=1,
                   steps=steps)
        )  # fmt: skip
        told[steps] = found.severity
    assert told == {needed: "warning", 4 * needed: "note"}


@pytest.mark.parametrize(("factor", "explained"), [(1e-3, False), (1.0, True)])
def test_small_weights_do_not_explain_saturation(factor, explained):
    chain = [dense(f"a{i}", (64, 64), "tanh", values=RANDOM.normal(size=(64, 64)) * factor)
             for i in range(3)]  # fmt: skip
    (weights,) = RULES["initial_weights"](fit_of(layers=layers(*chain)))
    saturated = Finding("saturation", "warning", "a1", 3, 40, "flat.")
    told = told_once([weights, saturated], RULES)
    assert [f.rule for f in told[0].consequences] == (["saturation"] if explained else [])
    assert Finding.from_json(weights.to_json()) == weights


def test_what_explains_most_is_told_first():
    asked = Finding("metric_task", "warning", "out", 0, 0, "accuracy.", stage="contract")
    thrown = Finding("weights_moved_far", "warning", "out", 0, 90, "far.")
    off = Finding("dead_units", "warning", "hidden", 5, 90, "off.")
    useless = Finding("no_better_than_constant", "warning", "fit", 5, 90, "no better.")
    told = told_once([asked, thrown, off, useless], RULES)
    assert [f.rule for f in told] == ["weights_moved_far", "metric_task"]
    assert len(told[0].consequences) == 2


def test_one_wrong_activation_is_told_once_with_the_remedy_for_its_targets():
    classes = contract(fit_of(units=1, y=BINARY, loss="binary_crossentropy"))
    quantities = contract(fit_of(units=1, y=QUANTITY, loss="mean_squared_error", metrics=()))
    assert [f.rule for f in quantities.faults] == ["one_unit_softmax"]
    outside = contract(fit_of(units=1, y=2 * BINARY - 1, loss="binary_crossentropy"))
    assert {f.rule for f in outside.faults} == {"one_unit_softmax", "targets_in_range"}
    assert "linear" in quantities[0].remedy
    assert "sigmoid" in classes[0].remedy


@pytest.mark.parametrize(
    ("optimizer", "rate", "explained"),
    [("adam", 0.0, False), ("adam", 1e-9, False), ("sgd", 1e-9, False), ("adam", 5.0, True)],
)
def test_a_rate_of_nothing_does_not_explain_what_is_not_finite(optimizer, rate, explained):
    (told,) = RULES["learning_rate"](with_rate(optimizer, rate))
    broken = Finding("non_finite", "fault", "hidden", 3, 40, "NaN.")
    causes = [f for f in told_once([told, broken], RULES) if f.rule == "learning_rate"]
    names = {part.rule for f in causes for part in f.consequences}
    assert names == ({"non_finite"} if explained else set())


def test_twins_of_which_one_must_be_wrong():
    (found,) = RULES["contradicting_labels"](fit_of(x=TWINS))
    # Rows 2k and 2k + 1 are equal and of classes that follow each other: each pair has one wrong.
    assert found.evidence["least_error"] == pytest.approx(0.5)
    assert found.evidence["contradicted_rows"] == 120
    assert found.severity == "warning"
    (few,) = RULES["contradicting_labels"](fit_of(x=KINDS))
    assert few.severity == "note"


def test_how_far_clipped_steps_can_go():
    fit = with_rate("sgd", 0.01, momentum=0.9, clipnorm=1e-6)
    (found,) = RULES["gradient_clipping"](fit)
    norms = [np.sqrt(np.prod(la.kernel.shape)) * la.kernel.rms for la in fit.layers]
    expected = 0.01 / (1 - 0.9) * 1e-6 * fit.total_steps / min(norms)
    assert found.evidence["relative_change"] == pytest.approx(expected)


def test_of_several_causes_the_likelier_one_is_told():
    small = Finding("initial_weights", "note", "a", 0, 0, "small.", stage="contract")
    large = Finding("inputs_scaled", "warning", "x", 0, 0, "large.", stage="contract")
    useless = Finding("no_better_than_constant", "fault", "fit", 5, 90, "no better.")
    told = told_once([small, large, useless], RULES)
    assert [(f.rule, f.severity) for f in told] == [
        ("inputs_scaled", "fault"), ("initial_weights", "note"),
    ]  # fmt: skip


def test_several_dropouts_are_told_as_one():
    drops = [other("Dropout", f"drop{i}", options={"rate": 0.85 + i / 100}) for i in range(3)]
    (found,) = RULES["dropout_rate"](fit_of(layers=tuple(drops)))
    assert found.site == "drop2"
    assert "2 more" in found.message
