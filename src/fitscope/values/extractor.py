"""Layer outputs of a whole data set, in memory or streamed into a run."""

from __future__ import annotations

import functools
import math
import os
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from fitscope.engine import keras_internals
from fitscope.engine.forward import forward
from fitscope.engine.layout import to_host
from fitscope.engine.leaves import leaves, map_leaves
from fitscope.errors import FitscopeError, RunError, RunExistsError, UnsupportedError
from fitscope.run.array_file import is_storable
from fitscope.run.claim import check_free, clear_abandoned
from fitscope.run.layout import RUN_FILE
from fitscope.run.reader import open_run
from fitscope.run.uninterrupted import UninterruptedLock
from fitscope.run.value_store import StepValues, Tensor
from fitscope.run.writer import RunWriter
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.values.capture import capture, stateless_capture
from fitscope.values.left_behind import mark_left_behind

if TYPE_CHECKING:
    from fitscope.run.reader import Run

Arrays = dict[str, np.ndarray[Any, Any]]


class Extractor:
    """Runs a model over data and gives the selected tensors. Made by `extractor`."""

    def __init__(self, model: Any, select: Any, of: Any) -> None:
        self.model = model
        self._select, self._of = select, of
        self._forward = forward(
            model,
            functools.partial(_capture, select=select, of=of),
            functools.partial(_stateless_capture, select=select, of=of),
        )

    def batches(self, data: Any, batch_size: int = 32) -> Iterator[Arrays]:
        """The tensors batch by batch; only one batch is in memory at a time.

        Args:
            data: arrays (or a dict, list or tuple of them, as the model takes), or something that
                gives batches: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch `DataLoader`,
                a generator. Of batches that are tuples the first part is taken, as `fit` does.
            batch_size: of arrays.

        Yields:
            Arrays by site, `[batch, ...]`.
        """
        for x in _batches(data, batch_size):
            yield {name: to_host(tensor) for name, tensor in self._forward(x).items()}

    def predict(self, x: Any, batch_size: int = 32) -> Arrays:
        """The tensors of all data, in memory.

        Args:
            x: see `batches`.
            batch_size: of arrays.

        Returns:
            By site, the batches one after the other, `[samples, ...]`.

        Raises:
            FitscopeError: there is no data, or a site's batches differ in the shape of their rows.
        """
        parts: dict[str, list[Any]] = {}
        for found in self.batches(x, batch_size):
            for name, array in found.items():
                parts.setdefault(name, []).append(array)
        if not parts:
            raise FitscopeError("Extractor.predict: the data gave no batch.")
        return {name: _joined(name, arrays) for name, arrays in parts.items()}

    def to_run(
        self,
        path: str | os.PathLike[str],
        data: Any,
        batch_size: int = 32,
        *,
        verbose: int = 1,
    ) -> Run:
        """Write the tensors of all data into a run, one batch in memory at a time.

        Called again with the same path, model and data after an interruption, it goes on where it
        stopped. The data must then give the same batches in the same order.

        Args:
            path: the run's directory: new, empty, or that of an extraction that was interrupted.
            data: see `batches`.
            batch_size: of arrays.
            verbose: 1 for a progress bar, 0 for none.

        Returns:
            The run: `run.values(site)` has the tensors, with the number of the batch as step, in
            the phase `"predict"`.

        Raises:
            RunExistsError: the directory holds something else, or another extraction.
            RunError: the disk fails; what was written stays, and a second call goes on from there.
        """
        config = {"extraction": self._describe(data, batch_size)}
        status, writer = "interrupted", None
        try:
            with UninterruptedLock():  # a writer that nobody closes would seem to go on writing
                writer = _opened(Path(path), config)
            if writer is None:
                return open_run(path)
            done = writer.values.steps
            bar = keras.utils.Progbar(_count(data, batch_size), verbose=1) if verbose else None
            batches = _batches(data, batch_size)
            for _ in range(done):
                next(batches, None)
            if bar is not None and done:
                bar.update(done)
            step = done - 1
            for step, x in enumerate(batches, done):
                writer.append_values(self._step(x, step))
                writer.heartbeat()
                if writer.problem is not None:
                    raise RunError(
                        f"{writer.problem}. What was written stays; make room and call to_run "
                        "again to go on from there."
                    )
                if bar is not None:
                    bar.update(step + 1)
            if bar is not None:
                bar.target = step + 1
                bar.update(step + 1, finalize=True)
            status = "finished"
        finally:
            if writer is not None:
                writer.close(status)
        return open_run(path)

    def _step(self, x: Any, step: int) -> StepValues:
        tensors = []
        for name, tensor in self._forward(x).items():
            array = to_host(tensor)
            if not is_storable(array.dtype):
                raise UnsupportedError(f"{name} holds {array.dtype}, which cannot be recorded.")
            site = Site.of(SiteName.parse(name), shape=array.shape, dtype=array.dtype.name)
            length = len(array) if array.ndim else None
            tensors.append(Tensor(site, array, length=length))
        return StepValues(step, 0, "predict", tuple(tensors))

    def _describe(self, data: Any, batch_size: int) -> dict[str, Any]:
        sum_of_weights = 0
        for variable in self.model.variables:
            values = np.asarray(keras.ops.convert_to_numpy(variable))
            sum_of_weights = zlib.crc32(values.tobytes(), sum_of_weights)
        return {
            "model": self.model.name,
            "select": repr(self._select) if isinstance(self._select, (str, list, tuple)) else "",
            "of": self._of if isinstance(self._of, str) else list(self._of),
            "batch_size": batch_size if _is_arrays(data) else None,
            "weights_crc32": sum_of_weights,
        }


def extractor(model: Any, select: Any = "**", *, of: Any = "output") -> Extractor:
    """Layer outputs of a data set, of a model of any kind, without training it.

    The model runs in inference, compiled as its backend does it (`jax.jit`, `tf.function`, torch as
    it is), and gives the selected tensors instead of its outputs. Nothing is left on the model.

    Args:
        model: a built Keras model; it need not be compiled.
        select: which sites, as in `fs.watch`; integer and boolean tensors are given, too.
        of: which tensor of a layer: `"output"`, `"input"`, `"preactivation"`, or several.

    Returns:
        An `Extractor`: `predict(x)` gives arrays, `batches(data)` goes over them, and
        `to_run(path, data)` streams them into a run.

    Raises:
        UnsupportedError: the model is not built, or Keras cannot be observed.

    Example:
        ```python
        features = fs.extractor(model, "pool*").predict(x)["pool"]
        run = fs.extractor(model, "block*/out").to_run("runs/features", dataset)
        run.values("block1/out")[0].array
        ```
    """
    keras_internals.check()
    if not getattr(model, "built", False):
        raise UnsupportedError(
            f"extractor({getattr(model, 'name', model)!r}): the model is not built, so its layers "
            "are not known yet. Call it once on a batch, or model.build(shape)."
        )
    return Extractor(model, select, of)


def _capture(model: Any, x: Any, select: Any, of: Any, **kwargs: Any) -> Any:
    return capture(model, x, select, of=of, **kwargs)


def _stateless_capture(
    model: Any, trainable: Any, fixed: Any, x: Any, select: Any, of: Any, **kwargs: Any
) -> Any:
    return stateless_capture(model, trainable, fixed, x, select, of=of, **kwargs)


def _opened(path: Path, config: dict[str, Any]) -> RunWriter | None:
    """A writer for a new run, or for one that was interrupted; None for one that is done."""
    if not (path / RUN_FILE).exists():
        clear_abandoned(path)
    if not (path / RUN_FILE).exists():
        return RunWriter(path, config=config)
    run = open_run(path)
    if run.status == "running":
        if "extraction" not in run.config or not mark_left_behind(path, Extractor.to_run.__code__):
            check_free(path)  # it is not, and says by whom it is written
        run = open_run(path)
    if run.config != config:
        other = "an extraction with other settings" if "extraction" in run.config else "another run"
        raise RunExistsError(
            f"to_run({str(path)!r}): the directory holds {other}: {dict(run.config)}, asked for is "
            f"{config}. Give a directory that is new or empty."
        )
    return None if run.status == "finished" else RunWriter.reopen(path)


def _is_arrays(data: Any) -> bool:
    found = [x for _, x in leaves(data)] if isinstance(data, (dict, list, tuple)) else [data]
    return bool(found) and all(hasattr(x, "shape") and hasattr(x, "__getitem__") for x in found)


def _batches(data: Any, batch_size: int) -> Generator[Any]:
    if _is_arrays(data):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise FitscopeError(
                f"batch_size={batch_size!r}: expected a number of samples, 1 or more."
            )
        count = min(len(x) for _, x in leaves(data))
        for start in range(0, count, batch_size):
            rows = slice(start, min(start + batch_size, count))
            yield map_leaves(lambda _, x, rows=rows: to_host(x[rows]), data)
        return
    given: Iterable[Any]
    if isinstance(data, keras.utils.PyDataset):
        given = (data[i] for i in range(int(data.num_batches or 0)))
    elif isinstance(data, Iterable):
        given = data
    else:
        raise FitscopeError(
            f"the data are {type(data).__name__}: expected arrays, or something that gives batches "
            "(a tf.data.Dataset, a keras.utils.PyDataset, a DataLoader, a generator)."
        )
    for batch in given:
        x = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
        yield map_leaves(lambda _, part: to_host(part), x)


def _count(data: Any, batch_size: int) -> int | None:
    if _is_arrays(data):
        return math.ceil(min(len(x) for _, x in leaves(data)) / batch_size)
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    try:
        return len(data)
    except TypeError:
        return None


def _joined(name: str, arrays: list[Any]) -> np.ndarray[Any, Any]:
    if len({array.shape[1:] for array in arrays}) > 1 or not arrays[0].ndim:
        shapes = sorted({array.shape for array in arrays})[:3]
        raise FitscopeError(
            f"Extractor.predict: the tensors of {name!r} have the shapes {shapes}, which do not go "
            "into one array. Go over .batches(x), or write them with .to_run(path, x)."
        )
    return np.concatenate(arrays)
