"""Gradients, weights and updates of a step by autodiff itself: the other path to the truth."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from reference import expected
from replay import Snapshots, Twin, concrete, flatten, resolve, runs_in_a_loop
from zoo import BACKEND, BATCH, Case, rows

import fitscope as fs

PORTS = ["gradient", "weight", "weight_gradient", "update"]
STATISTICS = ["mean", "std", "rms", "min", "max", "absmax", "l1", "l2", "zeros", "count"]

Place = tuple[int, int, tuple[str, ...]]
"""Which layer, which of its calls, which of its outputs."""


class Passing:
    """Lets something be done with every output of every layer, past fitscope."""

    def __init__(self, look: Any, model: Any) -> None:
        self.look = look
        self.calls: dict[int, int] = {}
        self.inside = runs_in_a_loop(model)
        self.known: dict[int, tuple[Any, Place]] = {}
        self.held: list[Any] = []
        self.again: dict[Place, Place] = {}
        """Later places of tensors, and their first."""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        layer_call, operation_call = keras.layers.Layer.__call__, keras.Operation.__call__

        def of_layer(target: Any, *args: Any, **kwargs: Any) -> Any:
            return self._pass(target, layer_call(target, *args, **kwargs))

        def of_operation(target: Any, *args: Any, **kwargs: Any) -> Any:
            found = operation_call(target, *args, **kwargs)
            return found if isinstance(target, keras.layers.Layer) else self._pass(target, found)

        keras.layers.Layer.__call__, keras.Operation.__call__ = of_layer, of_operation
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = layer_call
            keras.Operation.__call__ = operation_call

    def _pass(self, target: Any, outputs: Any) -> Any:
        if id(target) in self.inside:
            return outputs
        call = self.calls.get(id(target), 0)
        self.calls[id(target)] = call + 1
        flat = dict(flatten(outputs))
        changed: dict[Any, Any] = {}
        for leaf, value in flat.items():
            place = id(target), call, tuple(map(str, leaf))
            # A tensor that is handed on, or given out twice, has one gradient.
            if id(value) in self.known:
                changed[leaf], self.again[place] = self.known[id(value)]
                continue
            changed[leaf] = self.look(place, value)
            for each in (value, changed[leaf]):
                self.held.append(each)
                self.known[id(each)] = (changed[leaf], place)
        if all(changed[leaf] is value for leaf, value in flat.items()):
            return outputs
        return rebuilt(outputs, changed)


def rebuilt(tree: Any, leaves: dict[Any, Any], place: tuple[Any, ...] = ()) -> Any:
    """The same tree with other leaves."""
    if isinstance(tree, dict):
        return {key: rebuilt(value, leaves, (*place, key)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(rebuilt(value, leaves, (*place, i)) for i, value in enumerate(tree))
    return None if tree is None else leaves[place]


def is_float(tensor: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def in_training(model: Any) -> dict[str, bool]:
    accepts = "training" in inspect.signature(type(model).call).parameters
    return {"training": True} if accepts else {}


def loss_of(model: Any, x: Any, y: Any, y_pred: Any) -> Any:
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=None, training=True)


def by_torch(
    model: Any, x: Any, y: Any, *, jit: bool
) -> tuple[dict[Place, np.ndarray], list[np.ndarray]]:
    del jit
    met: dict[Place, Any] = {}

    def keep(place: Place, tensor: Any) -> Any:
        if tensor.requires_grad:
            tensor.retain_grad()
            met[place] = tensor
        return tensor

    model.zero_grad()
    passing = Passing(keep, model)
    with passing.installed():
        y_pred = model(x, **in_training(model))
    loss_of(model, x, y, y_pred).backward()
    met.update({place: met[other] for place, other in passing.again.items() if other in met})
    found = {p: array(t.grad) for p, t in met.items() if t.grad is not None}
    return found, [array(v.value.grad) for v in model.trainable_variables]


def by_tensorflow(
    model: Any, x: Any, y: Any, *, jit: bool
) -> tuple[dict[Place, np.ndarray], list[np.ndarray]]:
    """With XLA where the step has it: it draws other random numbers from the same seed."""
    import tensorflow as tf

    places: list[Place] = []
    again: dict[Place, Place] = {}

    def run(x: Any, y: Any) -> tuple[list[Any], list[Any]]:
        met: dict[Place, Any] = {}

        def keep(place: Place, tensor: Any) -> Any:
            if is_float(tensor):
                met[place] = tensor
            return tensor

        passing = Passing(keep, model)
        with tf.GradientTape() as tape:
            with passing.installed():
                y_pred = model(x, **in_training(model))
            loss = loss_of(model, x, y, y_pred)
        variables = model.trainable_variables
        found = tape.gradient(loss, [*variables, *met.values()])
        of_outputs = dict(zip(met, found[len(variables) :], strict=True))
        places[:] = [place for place, gradient in of_outputs.items() if gradient is not None]
        again.update(passing.again)
        of_weights = [tf.convert_to_tensor(g) for g in found[: len(variables)]]
        return [of_outputs[place] for place in places], of_weights

    if jit:
        run = tf.function(run, jit_compile=True, autograph=False)
    of_outputs, of_weights = run(x, y)
    found = {place: array(g) for place, g in zip(places, of_outputs, strict=True)}
    found.update({place: found[other] for place, other in again.items() if other in found})
    return found, [array(g) for g in of_weights]


def by_jax(
    model: Any, x: Any, y: Any, *, jit: bool
) -> tuple[dict[Place, np.ndarray], list[np.ndarray]]:
    """Zeros are added to every output, and the loss is differentiated by them."""
    import jax

    del jit

    trainable = [v.value for v in model.trainable_variables]
    fixed = [v.value for v in model.non_trainable_variables]

    def loss(trainable: Any, zeros: Any, look: Any) -> Any:
        passing = Passing(look, model)
        with passing.installed():
            y_pred, new, losses = model.stateless_call(
                trainable, fixed, x, return_losses=True, **in_training(model)
            )
        again.update(passing.again)
        mapping = list(zip(model.trainable_variables, trainable, strict=True))
        mapping += list(zip(model.non_trainable_variables, new, strict=True))
        mapping += [(v, v.value) for v in model.metrics_variables]
        with keras.StatelessScope(mapping):
            total = model.compute_loss(x, y, y_pred, None, training=True)
        return total if not losses else total + sum(losses)

    shapes: dict[Place, Any] = {}
    again: dict[Place, Place] = {}

    def measure(place: Place, tensor: Any) -> Any:
        if is_float(tensor):
            shapes[place] = np.zeros(tensor.shape, tensor.dtype)
        return tensor

    jax.eval_shape(lambda tv: loss(tv, {}, measure), trainable)

    def differentiated(trainable: Any, zeros: Any) -> Any:
        return loss(trainable, zeros, lambda p, t: t + zeros[p] if p in zeros else t)

    names = {str(place): place for place in shapes}
    by_name = {name: shapes[place] for name, place in names.items()}
    of_weights, of_outputs = jax.jit(
        jax.grad(
            lambda tv, zeros: differentiated(tv, {names[n]: z for n, z in zeros.items()}), (0, 1)
        )
    )(trainable, by_name)
    found = {names[n]: array(g) for n, g in of_outputs.items()}
    found.update({place: found[other] for place, other in again.items() if other in found})
    return found, [array(g) for g in of_weights]


def array(tensor: Any) -> np.ndarray:
    found = concrete(ops.convert_to_tensor(tensor))
    assert found is not None
    return found[0]


AUTODIFF = {"jax": by_jax, "tensorflow": by_tensorflow, "torch": by_torch}[BACKEND]


def values_of(run: Any, steps: int) -> list[dict[str, dict[str, float]]]:
    table: list[dict[str, dict[str, float]]] = [{} for _ in range(steps)]
    for row in run.stats("**", [*STATISTICS, *run.user_statistics]):
        table[row["step"]].setdefault(row["site"], {})[row["statistic"]] = row["value"]
    return table


def compare(got: dict[str, float], tensor: np.ndarray, *, half: bool, slack: float = 0.0) -> str:
    """What is wrong with the statistics of a tensor, to 1e-4 of its rms (or its extreme)."""
    want = expected(tensor, None)
    tolerance = 3e-2 if half else 1e-4
    wrong: list[str] = []
    for name in STATISTICS:
        scale = want["absmax"] if name in ("min", "max", "absmax") else want["rms"]
        if name in ("l1", "l2"):
            scale = abs(want[name])
        allowed = tolerance * scale + slack
        if name == "zeros":
            # An element that is nothing but rounding may be zero on one path alone.
            allowed = max(1.0, 0.05 * want["count"]) if half else 0.01 * want["count"]
        if name == "l1":
            allowed += slack * want["count"]
        if name == "l2":
            allowed += slack * want["count"] ** 0.5
        if name == "count":
            allowed = 0
        if abs(got[name] - want[name]) > allowed:
            wrong.append(f"{name}: reported {got[name]!r}, autodiff says {want[name]!r}")
    return "; ".join(wrong)


class Replayed:
    """One step once more, on a twin of the model in the state that the step began from."""

    def __init__(
        self, twin: Twin, state: list[Any], later: list[Any], batch: Any, *, jit: bool
    ) -> None:
        twin.load(state)
        self.model = twin.model
        outputs, by_weight = AUTODIFF(twin.model, *tensors(*batch), jit=jit)
        self._outputs = outputs
        variables = twin.model.trainable_variables
        self._gradients = {id(v): g for v, g in zip(variables, by_weight, strict=True)}
        self._before = {id(v): a for v, a in zip(twin.model.variables, state, strict=False)}
        self._after = {id(v): a for v, a in zip(twin.model.variables, later, strict=False)}

    def variable(self, site: Any) -> Any:
        target = resolve(self.model, site.path)
        return next(v for v in target.weights if v.name == site.leaf[0])

    def tensor(self, site: Any) -> np.ndarray:
        if site.port == "gradient":
            target = resolve(self.model, site.path)
            return self._outputs[id(target), site.call or 0, tuple(map(str, site.leaf))]
        key = id(self.variable(site))
        if site.port == "weight":
            return self._before[key]
        if site.port == "weight_gradient":
            return self._gradients[key]
        return self._after[key].astype(np.float64) - self._before[key]

    def problem(self, site: Any, got: dict[str, float], *, half: bool) -> str:
        tensor = self.tensor(site)
        if site.port == "weight_gradient" and half:
            # A sum of many numbers of three digits that cancel: right as far as the others are.
            largest = max(float(np.abs(g).max()) for g in self._gradients.values())
            return compare(got, tensor, half=half, slack=0.02 * largest)
        if site.port != "update":
            return compare(got, tensor, half=half)
        before = self._before[id(self.variable(site))].astype(np.float64)
        found = compare(got, tensor, half=False, slack=1e-7 * float(np.abs(before).max()))
        norm = np.linalg.norm(before.ravel())
        ratio = np.linalg.norm(tensor.ravel()) / norm if norm else np.nan
        if norm and not np.isclose(got["update_ratio"], ratio, rtol=1e-3):
            found += f"; update_ratio {got['update_ratio']}, not {ratio}"
        return found


def tensors(*trees: Any) -> list[Any]:
    return [keras.tree.map_structure(ops.convert_to_tensor, tree) for tree in trees]


def check(case: Case, jit: bool, n: int = 2 * BATCH) -> None:
    """Train with a scope, and compare what it saw with autodiff."""
    steps = -(-n // BATCH)
    model = case.make(jit_compile=jit)
    model.optimizer.build(model.trainable_variables)
    x, y = case.data(n)
    scope, snapshots = fs.Scope(fs.watch("**", of=PORTS), every=1), Snapshots(train=steps)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose="0", callbacks=[snapshots, scope])
    assert scope._session is not None
    assert scope._session.broken is None, scope._session.broken
    compare_steps(case, model, scope, snapshots, x, y, jit=jit)


def compare_steps(
    case: Case, model: Any, scope: Any, snapshots: Snapshots, x: Any, y: Any, *, jit: bool
) -> None:
    """Compare what a scope saw in the one epoch of a training with autodiff, step by step.

    Args:
        case: the model's.
        model: the one that was trained.
        scope: it watched all of it, every step.
        snapshots: they were taken in the same training.
        x: what it was trained on, in this order.
        y: the targets.
        jit: whether it was compiled with XLA.
    """
    steps = sum(phase == "train" for phase, _ in snapshots.states)
    states = [snapshots.states["train", step] for step in range(steps)]
    states.append([np.array(ops.convert_to_numpy(v)) for v in model.variables])
    twin = Twin(case, x, y)
    sites = {site.name: site for site in scope.run.sites if site.port in PORTS}
    wrong: list[str] = []
    for step, values in enumerate(values_of(scope.run, steps)):
        part = slice(step * BATCH, (step + 1) * BATCH)
        batch = [rows(d, part.start, part.stop) for d in (x, y)]
        replayed = Replayed(twin, states[step], states[step + 1], batch, jit=jit)
        for name, got in values.items():
            site = sites.get(name)
            if site is None or (site.port == "gradient" and site.path == twin.model.name):
                continue
            problem = replayed.problem(site, got, half=site.dtype != "float32" or case.half)
            if problem:
                wrong.append(f"step {step}, {name}: {problem}")
    assert not wrong, "\n".join(wrong[:20])
    trained = {v.path for v in model.trainable_variables}
    for port in ("weight_gradient", "update"):
        of_port = [s for s in sites.values() if s.port == port]
        reported = [resolve(model, s.path).weights for s in of_port]
        named = zip(of_port, reported, strict=True)
        seen = {next(v.path for v in ws if v.name == s.leaf[0]) for s, ws in named}
        # Where reading a tensor would cost TensorFlow's own fusion, it is reported as not seen.
        fused = [u.site for u in scope.unseen if f":{port}[" in u.site and "fuses it" in u.reason]
        assert not fused or (BACKEND == "tensorflow" and not jit)
        assert seen <= trained
        assert len(seen) + len(fused) == len(trained), (seen, fused)
