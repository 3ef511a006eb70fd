"""What is reported is the tensor of the very step that updated the weights."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.models.functional import Functional
from reference import NAMES, activation, bins_of, differences, expected, histogram_differences
from replay import Recorder, Snapshots, Twin, resolve, runs_in_a_loop, state_of
from zoo import ALL, BACKEND, BATCH, BY_NAME, SETTINGS, VALIDATED, Case, rows, setting_id

import fitscope as fs
from fitscope.select.naming import SiteName

# torch compiles nothing here: its steps are eager, and inductor needs a C++ compiler.
JITS = [True, False] if BACKEND != "torch" else [False]
PER_EXECUTION = [4] if BACKEND != "torch" else []  # Keras' torch trainer runs one step at a time


class Outliers(fs.Statistic):
    """A statistic of the user, with a state of several numbers and results by name."""

    name = "outliers"

    def update(self, x: Any) -> Any:
        far = ops.cast(ops.abs(x) > 0.5, "float32")
        return ops.stack([ops.sum(far), ops.sum(ops.ones_like(x)), ops.max(x)])

    def merge(self, a: Any, b: Any) -> Any:
        return np.array([a[0] + b[0], a[1] + b[1], max(a[2], b[2])])

    def result(self, state: Any) -> dict[str, float]:
        return {"share": state[0] / state[1], "largest": state[2]}


def reported(run: Any) -> dict[tuple[str, int], dict[str, dict[str, float]]]:
    """Every statistic of a run by (phase, step) and site."""
    users = run.user_statistics
    table: Any = defaultdict(lambda: defaultdict(dict))
    for row in run.stats("**", [*NAMES, *users]):
        table[row["phase"], row["step"]][row["site"]][row["statistic"]] = row["value"]
    return table


def check_step(
    scope: Any,
    values: dict[str, dict[str, float]],
    recorder: Recorder,
    twin: Twin,
    case: Case,
    key: tuple[str, int],
) -> int:
    """Compare one step with its replay; gives back the number of sites compared."""
    model = twin.model
    expected_sites = {
        (target, call, leaf)
        for target, calls in recorder.calls.items()
        for call, found in enumerate(calls)
        for leaf, (_, dtype) in found.items()
        if "float" in dtype
    }
    # The output of a functional model is, tensor for tensor, the output of a layer inside.
    if type(model).call in (Functional.call, keras.Sequential.call):
        expected_sites = {s for s in expected_sites if s[0] != id(model)}
    loops = runs_in_a_loop(model)
    expected_sites = {s for s in expected_sites if s[0] not in loops}
    # Where reading a tensor would cost TensorFlow's own fusion, it is reported as not seen.
    fused = {
        id(resolve(model, SiteName.parse(gap.site).path))
        for gap in scope.unseen
        if "fuses it with the operation that follows" in gap.reason
    }
    assert not fused or (BACKEND == "tensorflow" and not twin.compiled)
    seen = set()
    wrong: list[str] = []
    phase, step = key
    for site in scope.run.sites:
        if site.name not in values:
            continue
        target = resolve(model, site.path)
        calls = recorder.calls[id(target)]
        assert (site.call is None) == (len(calls) == 1), (site.name, len(calls))
        found = {tuple(map(str, leaf)): v for leaf, v in calls[site.call or 0].items()}
        array, dtype = found[tuple(map(str, site.leaf))]
        assert site.dtype == dtype, (site.name, site.dtype, dtype)
        seen.add((id(target), site.call or 0, tuple(map(str, site.leaf))))
        half = dtype != "float32" or case.half
        got = values[site.name]
        problems = differences(got, array, target, half=half)
        histogram = scope.run.histogram(site.name, steps=step, phase=phase).counts
        problems += [p for p in [histogram_differences(histogram, array, half=half)] if p]
        if "outliers.share" in got:
            share = (np.abs(array.astype(np.float64)) > 0.5).mean()
            if abs(got["outliers.share"] - share) > (0.01 + 1 / array.size if half else 1e-6):
                problems.append(f"outliers.share: {got['outliers.share']}, NumPy says {share}")
            largest = float(array.max())
            if (
                abs(got["outliers.largest"] - largest)
                > (1e-2 if half else 1e-5) * np.abs(array).max()
            ):
                problems.append(f"outliers.largest: {got['outliers.largest']} against {largest}")
        wrong += [f"{phase} step {step}, {site.name}: {p}" for p in problems]
    assert not wrong, "\n".join(wrong[:20])
    texts = {(t, c, tuple(map(str, leaf))) for t, c, leaf in expected_sites}
    missing = [
        (recorder.targets[t].name, c, leaf)
        for t, c, leaf in sorted(texts - seen, key=str)
        if t not in fused
    ]
    assert not missing, f"ran with a float output, but was not reported: {missing}"
    assert seen <= texts
    return len(seen)


@dataclasses.dataclass
class Observed:
    case: Case
    model: Any
    scope: Any
    snapshots: Snapshots
    x: Any
    y: Any


def observe(
    case: Case, n: int, *, scope: Any, validate: int = 0, epochs: int = 1, **compiled: Any
) -> Observed:
    model = case.make(**compiled)
    if not hasattr(model, "d_optimizer"):
        model.optimizer.build(model.trainable_variables)
    x, y = case.data(n)
    snapshots = Snapshots(train=-(-n // BATCH), validation=-(-validate // BATCH))
    validation = (rows(x, 0, validate), rows(y, 0, validate)) if validate else None
    model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0,
        validation_data=validation, validation_batch_size=BATCH, callbacks=[snapshots, scope],
    )  # fmt: skip
    assert scope._session.broken is None, scope._session.broken
    return Observed(case, model, scope, snapshots, x, y)


def batch(seen: Observed, step: int, n: int) -> tuple[Any, Any]:
    first = (step % -(-n // BATCH)) * BATCH
    stop = min(first + BATCH, n)
    return rows(seen.x, first, stop), None if seen.y is None else rows(seen.y, first, stop)


def check_all(seen: Observed, sizes: dict[str, int]) -> dict[str, list[int]]:
    """Replay every step that has a snapshot or follows one, and compare what was reported."""
    twin = Twin(seen.case, seen.x, seen.y, jit=seen.model.jit_compile)
    table = reported(seen.scope.run)
    steps = sorted(table)
    done: dict[str, list[int]] = defaultdict(list)
    for phase in sorted({phase for phase, _ in steps}):
        last = max(step for p, step in steps if p == phase)
        for step in range(last + 1):
            state = seen.snapshots.states.get((phase, step))
            if state is not None:
                twin.load(state)
            x, y = batch(seen, step, sizes[phase])
            if (
                state is None
                or (phase, step) in table
                or (phase, step + 1) not in seen.snapshots.states
            ):
                recorder = twin.step(phase, x, y)
                if (phase, step) in table:
                    values = table[phase, step]
                    check_step(seen.scope, values, recorder, twin, seen.case, (phase, step))
                    done[phase].append(step)
    return done


def everything() -> Any:
    return fs.Scope(fs.watch("**", statistics=Outliers()), every=1)


@pytest.mark.parametrize(("case", "jit"), SETTINGS, ids=setting_id)
def test_every_statistic_of_every_site_is_that_of_the_step(case: Case, jit: bool) -> None:
    validate = BATCH if case.name in VALIDATED else 0
    seen = observe(case, 2 * BATCH, scope=everything(), validate=validate, jit_compile=jit)
    done = check_all(seen, {"train": 2 * BATCH, "validation": BATCH})
    assert done["train"] == [0, 1]
    assert done["validation"] == ([0] if validate else [])
    problems = [u for u in seen.scope.unseen if "not measured" in u.reason]
    assert not problems


@pytest.mark.parametrize("name", ["subclassed", "siamese", "gan"])
def test_short_last_batch(name: str) -> None:
    case, n = BY_NAME[name], 2 * BATCH + 3
    validate = BATCH + 2 if case.evaluates else 0
    seen = observe(case, n, scope=everything(), validate=validate, epochs=2, jit_compile=JITS[0])
    done = check_all(seen, {"train": n, "validation": BATCH + 2})
    assert done["train"] == [0, 1, 2, 3, 4, 5]
    assert done["validation"] == ([0, 1, 2, 3] if validate else [])


@pytest.mark.parametrize("name", ["sequential", "custom_step"])
def test_every_third_step(name: str) -> None:
    case = BY_NAME[name]
    seen = observe(case, 5 * BATCH, scope=fs.Scope(every=3), epochs=2, jit_compile=JITS[0])
    done = check_all(seen, {"train": 5 * BATCH})
    assert done["train"] == [0, 3, 6, 9]


@pytest.mark.skipif(BACKEND == "torch", reason="Keras' torch trainer runs one step per execution")
@pytest.mark.parametrize(
    ("name", "every", "jit"),
    [("branches", 1, True), ("noisy", 3, True), ("noisy", 1, False)],
    ids=str,
)
def test_several_steps_per_execution(name: str, every: int, jit: bool) -> None:
    case = BY_NAME[name]
    n = 7 * BATCH  # the second execution is a shorter one
    scope = fs.Scope(every=every)
    seen = observe(
        case, n, scope=scope, validate=5 * BATCH, epochs=2, jit_compile=jit, steps_per_execution=4
    )
    done = check_all(seen, {"train": n, "validation": 5 * BATCH})
    assert done["train"] == list(range(0, 14, every))
    assert done["validation"] == list(range(0, 10, every))


@pytest.mark.skipif(BACKEND == "torch", reason="Keras' torch trainer runs one step per execution")
def test_several_steps_per_execution_with_a_short_last_batch() -> None:
    case = BY_NAME["siamese"]
    n = 5 * BATCH + 3
    seen = observe(case, n, scope=everything(), epochs=2, steps_per_execution=4)
    done = check_all(seen, {"train": n})
    assert done["train"] == list(range(12))


def test_evaluate_is_test_and_predict_is_predict() -> None:
    case = BY_NAME["convolutions"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(BATCH + 3)
    scope, snapshots = everything(), Snapshots()
    model.evaluate(x, y, batch_size=BATCH, verbose=0, callbacks=[snapshots, scope])
    model.predict(x, batch_size=BATCH, verbose=0, callbacks=[snapshots, scope])
    model.optimizer.build(model.trainable_variables)
    seen = Observed(case, model, scope, snapshots, x, y)
    # Taken before the optimizer had variables; neither phase looks at them.
    tail = state_of(model)[len(model.variables) :]
    snapshots.states = {
        key: [*state[: len(model.variables)], *tail] for key, state in snapshots.states.items()
    }
    done = check_all(seen, {"test": BATCH + 3, "predict": BATCH + 3})
    assert dict(done) == {"test": [0, 1], "predict": [0, 1]}


def test_second_fit_goes_on_counting() -> None:
    case = BY_NAME["subclassed"]
    n = 2 * BATCH
    seen = observe(case, n, scope=everything(), validate=BATCH, jit_compile=JITS[0])
    seen.model.fit(
        seen.x, seen.y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0,
        validation_data=(rows(seen.x, 0, BATCH), rows(seen.y, 0, BATCH)),
        callbacks=[seen.snapshots, seen.scope],
    )  # fmt: skip
    done = check_all(seen, {"train": n, "validation": BATCH})
    assert done["train"] == [0, 1, 2, 3, 4, 5]
    assert done["validation"] == [0, 1, 2]
    assert len(seen.scope.runs) == 1
    epochs = {
        row["step"]: row["epoch"] for row in seen.scope.run.stats("head", "rms", phase="train")
    }
    assert epochs == {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}


def test_second_fit_after_compiling_anew() -> None:
    case = BY_NAME["frozen"]
    n = BATCH
    seen = observe(case, n, scope=everything(), jit_compile=JITS[0])
    seen.model.get_layer("fixed").trainable = True
    seen.model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=JITS[0])
    seen.model.optimizer.build(seen.model.trainable_variables)
    taken = len(seen.snapshots.states)
    seen.model.fit(
        seen.x, seen.y, batch_size=BATCH, shuffle=False, verbose=0,
        callbacks=[seen.snapshots, seen.scope],
    )  # fmt: skip
    assert len(seen.snapshots.states) == taken + 1
    table = reported(seen.scope.run)
    assert sorted(table) == [("train", 0), ("train", 1)]
    twin = Twin(case, seen.x, seen.y)
    weights = len(twin.model.variables)
    for variable, value in zip(
        twin.model.variables, seen.snapshots.states["train", 1][:weights], strict=False
    ):
        variable.assign(value)
    recorder = Recorder()
    with recorder.installed():
        twin.model(seen.x, training=True)
    check_step(seen.scope, table["train", 1], recorder, twin, case, ("train", 1))


def test_another_model_is_another_run() -> None:
    first = observe(BY_NAME["sequential"], BATCH, scope=everything(), jit_compile=JITS[0])
    second = observe(BY_NAME["frozen"], BATCH, scope=first.scope, jit_compile=JITS[0])
    assert len(second.scope.runs) == 2
    assert check_all(second, {"train": BATCH})["train"] == [0]
    assert first.scope.runs[0].status == "finished"
    names = [site.name for site in first.scope.runs[0].sites]
    assert names == ["first", "second", "third", "fourth", "last"]


@pytest.mark.parametrize(("name", "jit"), [("noisy", JITS[0]), ("custom_step", False)], ids=str)
def test_train_on_batch(name: str, jit: bool) -> None:
    case = BY_NAME[name]
    model = case.make(jit_compile=jit)
    model.optimizer.build(model.trainable_variables)
    x, y = case.data(3 * BATCH)
    seen = Observed(case, model, everything(), Snapshots(), x, y)
    with seen.scope.attach(model):
        for step in range(3):
            seen.snapshots.states["train", step] = state_of(model)
            model.train_on_batch(*batch(seen, step, 3 * BATCH))
        seen.snapshots.states["test", 0] = state_of(model)
        model.test_on_batch(*batch(seen, 0, 3 * BATCH))
        seen.snapshots.states["predict", 0] = state_of(model)
        model.predict_on_batch(batch(seen, 0, 3 * BATCH)[0])
    model.train_on_batch(*batch(seen, 0, 3 * BATCH))
    done = check_all(seen, dict.fromkeys(("train", "test", "predict"), 3 * BATCH))
    assert dict(done) == {"predict": [0], "test": [0], "train": [0, 1, 2]}


def test_train_on_batch_every_second() -> None:
    case = BY_NAME["sequential"]
    model = case.make(jit_compile=JITS[0])
    x, y = case.data(BATCH)
    scope = fs.Scope(every=2)
    with scope.attach(model):
        for _ in range(5):
            model.train_on_batch(x, y)
    assert sorted({row["step"] for row in scope.run.stats("last", "rms")}) == [0, 2, 4]


# Inputs and preactivations.


def test_inputs_and_preactivations() -> None:
    case = BY_NAME["siamese"]
    scope = fs.Scope(fs.watch("**", of=["input", "preactivation", "output"]), every=1)
    seen = observe(case, BATCH, scope=scope, jit_compile=JITS[0])
    table = reported(scope.run)["train", 0]
    twin = Twin(case, seen.x, seen.y, jit=seen.model.jit_compile)
    twin.load(seen.snapshots.states["train", 0])
    recorder = twin.step("train", *batch(seen, 0, BATCH))
    twin.load(seen.snapshots.states["train", 0])
    tower = twin.model.get_layer("tower")
    in_tower, shared = tower.get_layer("in_tower"), twin.model.get_layer("shared")
    plain = layers.Identity()
    for call in range(2):
        x = recorder.inputs[id(in_tower)][call][0]
        assert any(np.array_equal(x, given[:BATCH]) for given in seen.x)
        kernel, bias = (np.asarray(ops.convert_to_numpy(w), np.float64) for w in in_tower.weights)
        before = (x.astype(np.float64) @ kernel + bias).astype(np.float32)
        assert not differences(table[f"tower/in_tower#{call}:input"], x, plain, half=False)
        assert not differences(
            table[f"tower/in_tower#{call}:preactivation"], before, plain, half=False
        )
        given = recorder.inputs[id(shared)][call][0]  # Keras may call it for the right side first
        kernel, bias = (np.asarray(ops.convert_to_numpy(w), np.float64) for w in shared.weights)
        before = (given.astype(np.float64) @ kernel + bias).astype(np.float32)
        assert not differences(table[f"shared#{call}:input"], given, plain, half=False)
        assert not differences(table[f"shared#{call}:preactivation"], before, plain, half=False)
        after = recorder.calls[id(shared)][call][()][0]
        sides = [table[f"difference:input[{i}]"] for i in range(2)]
        assert sum(not differences(side, after, plain, half=False) for side in sides) == 1
    assert "out:preactivation" not in table
    assert "tower/drop#0:preactivation" not in table


# Values at and beyond the edge of what a float holds.


class Poison(layers.Layer):
    """Turns chosen inputs into what is not finite."""

    def call(self, x: Any) -> Any:
        x = ops.where(x > 1.5, ops.full_like(x, float("nan")), x)
        x = ops.where(x < -1.5, ops.full_like(x, float("-inf")), x)
        return ops.where(ops.logical_and(x > 1.0, x <= 1.5), ops.full_like(x, float("inf")), x)


def poisoned(x: np.ndarray) -> np.ndarray:
    y = np.where(x > 1.5, np.nan, np.where(x < -1.5, -np.inf, x))
    return np.where((x > 1.0) & (x <= 1.5), np.inf, y).astype(np.float32)


def _one_step(model: Any, x: np.ndarray, jit: bool, *instructions: Any) -> Any:
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit)
    scope = fs.Scope(*instructions, every=1)
    y = np.zeros((len(x), 1), "float32")
    model.fit(x, y, batch_size=len(x), shuffle=False, verbose=0, callbacks=[scope])
    return scope


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_non_finite_values_are_counted_apart(jit: bool) -> None:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Identity(name="before"),
            Poison(name="poison"),
            layers.ReLU(name="relu"),
            layers.Activation("tanh", name="tanh"),
            layers.Dense(1, name="out"),
        ]
    )
    x = np.random.default_rng(1).standard_normal((12, 6)).astype("float32")
    x[:, 0] = 2.0  # a unit that holds nothing but NaN
    x[:, 1] = -3.0
    x[:, 2] = [0.5, -3.0] * 6
    scope = _one_step(model, x, jit)
    table = reported(scope.run)["train", 0]
    bad = poisoned(x)
    relu = np.where(np.isnan(bad), bad, np.maximum(bad, 0))
    tanh = np.tanh(relu.astype(np.float64)).astype(np.float32)
    expectations = {"before": x, "poison": bad, "relu": relu, "tanh": tanh}
    fused = {u.site for u in scope.unseen if "fuses it with" in u.reason}
    assert not fused or (BACKEND == "tensorflow" and not jit)
    wrong = {
        site: differences(table[site], array, model.get_layer(site), half=False)
        for site, array in expectations.items()
        if site not in fused
    }
    assert not any(wrong.values()), wrong
    if "out" not in fused:
        assert table["out"]["nan"] == 12
        assert table["out"]["finite"] == 0
        assert np.isnan(table["out"]["mean"])
        assert np.isnan(table["out"]["q50"])


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
@pytest.mark.parametrize("scale", [1e-33, 1e-30, 1e-20, 1e-12, 1e18, 1e30])
def test_values_far_from_one(scale: float, jit: bool) -> None:
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Rescaling(scale, name="scaled"),
            layers.ReLU(name="relu"),
            layers.Rescaling(1 / scale, name="back"),
            layers.Dense(1, name="out"),
        ]
    )
    x = np.random.default_rng(1).standard_normal((12, 6)).astype("float32")
    table = reported(_one_step(model, x, jit).run)["train", 0]
    scaled = x * np.float32(scale)
    for site, array in {"scaled": scaled, "relu": np.maximum(scaled, 0)}.items():
        assert not differences(table[site], array, model.get_layer(site), half=False), site


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_tiny_and_huge_values_in_one_tensor(jit: bool) -> None:
    model = keras.Sequential(
        [keras.Input((6,)), layers.Identity(name="same"), layers.Dense(1, name="out")]
    )
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 6)) * 10.0 ** rng.integers(-30, 31, (12, 6))
    x = x.astype("float32")
    x[0] = [0.0, -0.0, np.inf, np.nan, 3.4e38, -3.4e38]
    table = reported(_one_step(model, x, jit, fs.watch("same")).run)["train", 0]
    assert not differences(table["same"], x, model.get_layer("same"), half=False)


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_mean_far_from_the_spread(jit: bool) -> None:
    """The textbook cancellation: squares summed first would leave nothing of the spread."""
    model = keras.Sequential(
        [keras.Input((64,)), layers.Identity(name="same"), layers.Dense(1, name="out")]
    )
    x = (1000.0 + np.random.default_rng(1).standard_normal((64, 64))).astype("float32")
    table = reported(_one_step(model, x, jit, fs.watch("same")).run)["train", 0]["same"]
    want = expected(x, model.get_layer("same"))
    assert table["std"] == pytest.approx(want["std"], rel=1e-4)
    assert table["mean"] == pytest.approx(want["mean"], rel=1e-6)


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_large_tensors_are_sampled_for_the_histogram_only(jit: bool) -> None:
    model = keras.Sequential(
        [
            keras.Input((64, 64)),
            layers.ReLU(name="relu"),
            layers.GlobalAveragePooling1D(name="pool"),
            layers.Dense(1, name="out"),
        ]
    )
    x = np.random.default_rng(1).standard_normal((20, 64, 64)).astype("float32")
    scope = _one_step(model, x, jit, fs.watch("relu"))
    got = reported(scope.run)["train", 0]["relu"]
    relu = np.maximum(x, 0)
    quantiles = {"q01", "q05", "q25", "q50", "q75", "q95", "q99"}
    wrong = [
        text
        for text in differences(got, relu, model.get_layer("relu"), half=False)
        if text.partition(":")[0] not in quantiles
    ]
    assert not wrong
    sampled = got["hist_count"]
    assert 4096 < sampled <= 8192
    assert got["sampled_fraction"] == sampled / relu.size
    counts = scope.run.histogram("relu").counts
    assert counts.sum() == sampled
    # A sample of n elements: shares hold to a few times 1 / sqrt(n).
    zero_share = counts[[0, 1024]].sum() / sampled
    assert abs(zero_share - (relu == 0).mean()) < 4 * 0.5 / np.sqrt(sampled)
    full = np.bincount(bins_of(relu.ravel()), minlength=2048)
    gap = np.abs(np.cumsum(counts[:1024]) / sampled - np.cumsum(full[:1024]) / relu.size).max()
    assert gap < 4 * 0.5 / np.sqrt(sampled)


@pytest.mark.parametrize("jit", JITS, ids=lambda jit: "jit" if jit else "nojit")
def test_large_values_that_are_not_as_their_layer_lets_expect(jit: bool) -> None:
    """Zeros behind a convolution, and a mean far from the spread behind a ReLU."""
    x = keras.Input((40, 40, 1))
    conv = layers.Conv2D(1, 1, use_bias=False, name="conv")(x)
    far = layers.ReLU(name="far")(layers.Rescaling(1.0, 100.0, name="shifted")(x))
    # Several readers: without XLA, TensorFlow would fuse what has one.
    pooled = [layers.GlobalAveragePooling2D()(y) for y in (conv + far, conv * far, conv - far)]
    model = keras.Model(x, layers.Dense(1)(layers.Concatenate()(pooled)))
    data = np.random.default_rng(1).standard_normal((9, 40, 40, 1)).astype("float32")
    data[::2, :7] = 0.0
    kernel = np.asarray(ops.convert_to_numpy(model.get_layer("conv").kernel)).item()
    table = reported(_one_step(model, data, jit, fs.watch(["conv", "far"])).run)["train", 0]
    arrays = {"conv": data * np.float32(kernel), "far": data + np.float32(100)}
    for site, array in arrays.items():
        got, want = table[site], expected(array, model.get_layer(site))
        assert got["zeros"] == (array == 0).sum() > (0 if site == "conv" else -1)
        for name in ("mean", "std", "mean_abs", "rms", "min", "max"):
            assert got[name] == pytest.approx(want[name], rel=1e-5, abs=1e-6), (site, name)


def test_zones_cover_what_the_zoo_uses() -> None:
    names = {"relu", "relu6", "tanh", "sigmoid", "softmax", "gelu"}
    found = {activation(layer) for case in ALL for layer in case.build()._flatten_layers()}
    assert names <= found
