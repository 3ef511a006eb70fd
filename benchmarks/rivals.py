"""What people do today to see inside `fit`, beside fitscope, on the same work.

python -m benchmarks.rivals --backend jax
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.cost import BACKENDS, JIT

Way = Callable[[], Sequence[float]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--jit", choices=JIT, default="auto", help="jit_compile where it applies")
    parser.add_argument("--model", default="mlp", help="mlp: its layers form a chain")
    parser.add_argument("--steps", type=int, default=50, help="of each epoch")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each way")
    return parser.parse_args()


class Rivals:
    """The ways, each with a model of its own, and how many tensors each of them saw."""

    def __init__(self, options: argparse.Namespace, logs: str) -> None:
        self.ways: dict[str, Way] = {}
        self.seen: dict[str, Callable[[], float]] = {}
        self.absent: dict[str, str] = {}
        self.scopes: list[Any] = []
        self._options = options
        self._logs = logs

    def collect(self) -> None:
        """Set up every way that there is on this backend."""
        backend = self._options.backend
        self._plain()
        self._scope("fs.Scope()")
        self._scope("fs.Scope(every=1)", every=1)
        self._sub_model()
        self._hooked("run_eagerly=True and Python hooks", eager=True)
        if backend == "jax":
            self._hooked("jax.debug.callback in the compiled step", eager=False)
        if backend == "torch":
            self._torch_hooks()
        self._tensorboard()

    def _work(self, *, eager: bool = False) -> Any:
        from benchmarks.models import work

        jit = False if eager else JIT[self._options.jit]
        return work(self._options.model, jit=jit, run_eagerly=eager)

    def _fitting(self, made: Any, *callbacks: Any) -> Way:
        from benchmarks.whole_fit import fitting

        return fitting(made, self._options.steps, *callbacks)

    def _plain(self) -> None:
        self.ways["plain"] = self._fitting(self._work())

    def _scope(self, name: str, **settings: Any) -> None:
        import fitscope as fs

        scope, made = fs.Scope(**settings), self._work()
        self.scopes.append(scope)
        self.ways[name] = self._fitting(made, scope)
        self.seen[name] = lambda: scope.cost["observed_steps"] * len(scope.latest())

    def _sub_model(self) -> None:
        from benchmarks.hooks import Reductions
        from benchmarks.submodel import SubModel

        name, made, reductions = "sub-model and predict", self._work(), Reductions()
        self.ways[name] = self._fitting(made, SubModel(made.model, made.x, reductions))
        self.seen[name] = lambda: reductions.count

    def _hooked(self, name: str, *, eager: bool) -> None:
        from benchmarks.hooks import Reductions, to_numpy, wrapped

        made, reductions = self._work(eager=eager), Reductions()
        fit, see = self._fitting(made), to_numpy(reductions)

        def turn() -> Sequence[float]:
            with wrapped(made.model, see):
                return fit()

        self.ways[name] = turn
        self.seen[name] = lambda: reductions.count

    def _torch_hooks(self) -> None:
        from benchmarks.hooks import Reductions, torch_hooked

        name, made, reductions = "forward hooks and .item()", self._work(), Reductions()
        fit = self._fitting(made)

        def turn() -> Sequence[float]:
            with torch_hooked(made.model, reductions):
                return fit()

        self.ways[name] = turn
        self.seen[name] = lambda: reductions.count

    def _tensorboard(self) -> None:
        import keras

        name, made = "TensorBoard(histogram_freq=1)", self._work()
        try:
            importlib.import_module("tensorflow.summary")
            importlib.import_module("tensorboard")
        except ImportError as error:
            self.absent[name] = str(error)
            return
        board = keras.callbacks.TensorBoard(self._logs, histogram_freq=1, write_graph=False)
        self.ways[name] = self._fitting(made, board)


def tell(rivals: Rivals, rounds: int, steps: int) -> str:
    """The table."""
    from benchmarks import report
    from benchmarks.interleave import interleave
    from benchmarks.step import check

    for turn in rivals.ways.values():
        turn()
    before = {name: seen() for name, seen in rivals.seen.items()}
    timings = interleave(rivals.ways, rounds)
    for scope in rivals.scopes:
        check(scope)
    rows: list[list[str]] = []
    for name in rivals.ways:
        seen = "none"
        if name in before:
            seen = f"{(rivals.seen[name]() - before[name]) / (rounds * steps):.1f}"
        per_step = report.milliseconds(timings.seconds(name) / steps)
        rows.append([name, per_step, report.ratio(timings, name), seen])
    rows += [[name, "-", why, "-"] for name, why in rivals.absent.items()]
    return report.table(("way", "epoch per step", "ratio to plain", "tensors seen per step"), rows)


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend

    from benchmarks import report

    with contextlib.ExitStack() as stack:
        rivals = Rivals(options, stack.enter_context(tempfile.TemporaryDirectory()))
        rivals.collect()
        body = tell(rivals, options.rounds, options.steps)
    title = f"Other ways, {options.backend}, {options.model}, epochs of {options.steps} steps"
    print(report.page(title, "rivals", options.backend, body))


if __name__ == "__main__":
    main()
