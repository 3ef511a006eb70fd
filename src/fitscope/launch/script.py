"""Running a script, or a module, as Python itself would: the same `__main__`, `argv`, end."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

from fitscope.errors import FitscopeError

_PACKAGE = str(Path(__file__).resolve().parent.parent)


class ScriptError(FitscopeError):
    """There is no such script or module."""


class Script:
    """What `python train.py ARGS` or `python -m package ARGS` would run.

    Args:
        target: Path of a script, or the name of a module.
        arguments: What follows it.
        is_module: Whether `target` names a module.

    Raises:
        ScriptError: It cannot be found or read.
    """

    def __init__(self, target: str, arguments: Sequence[str], *, is_module: bool = False) -> None:
        self.target = target
        self._arguments = list(arguments)
        self._is_module = is_module
        self._loaded: tuple[CodeType, importlib.machinery.ModuleSpec | None, str] | None = None
        if not is_module and not Path(target).exists():
            raise ScriptError(f"there is no script {target}; give the path of a Python file.")
        if not is_module and Path(target).is_dir() and not (Path(target) / "__main__.py").exists():
            raise ScriptError(f"{target} is a folder without a __main__.py; give a Python file.")

    @property
    def name(self) -> str:
        """A short name, for a folder."""
        if self._is_module:
            return self.target.rpartition(".")[2]
        path = Path(self.target).resolve()
        return path.name if path.is_dir() else path.stem

    def load(self) -> None:
        """Read and compile it; the packages that a module lies in are imported.

        Raises:
            ScriptError: It cannot be found or read.
        """
        self._place_path()
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            trace = without_launcher(trace)
            before(kind, error.with_traceback(trace), trace)

        sys.excepthook = hook
        self._loaded = self._load()

    def run(self) -> None:
        """Run it in this process, as `__main__`; what it raises comes out.

        Raises:
            ScriptError: It cannot be found or read.
        """
        if self._loaded is None:
            self.load()
        code, spec, file = self._loaded or self._load()
        module = types.ModuleType("__main__")
        loader = spec.loader if spec is not None else None
        module.__dict__.update(
            __file__=file,
            __cached__=None,
            __loader__=loader or importlib.machinery.SourceFileLoader("__main__", file),
            __spec__=spec,
            __package__=spec.parent if spec is not None else None,
            __builtins__=sys.modules["builtins"],
        )
        sys.argv[:] = [file if self._is_module else self.target, *self._arguments]
        # For good, as in Python itself: threads and exit handlers of the script look at it, too.
        sys.modules["__main__"] = module
        exec(code, module.__dict__)  # noqa: S102 - running the user's script is what was asked for

    def _place_path(self) -> None:
        if sys.flags.safe_path:
            return
        target = Path(self.target).resolve()
        first = Path.cwd() if self._is_module else target if target.is_dir() else target.parent
        # In the place of this program's own folder.
        sys.path[:1] = [str(first)]

    def _load(self) -> tuple[CodeType, importlib.machinery.ModuleSpec | None, str]:
        if self._is_module:
            return self._load_module()
        path = Path(self.target)
        spec = None
        if path.is_dir():
            spec = importlib.machinery.PathFinder.find_spec("__main__", [str(path.resolve())])
        file = os.path.abspath(path / "__main__.py" if spec else path)  # noqa: PTH100 - keeps links
        try:
            with io.open_code(file) as source:
                text = source.read()
        except OSError as error:
            raise ScriptError(f"{self.target} cannot be read: {error}.") from error
        return compile(text, file, "exec", dont_inherit=True), spec, file

    def _load_module(self) -> tuple[CodeType, importlib.machinery.ModuleSpec, str]:
        name = self.target
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.submodule_search_locations is not None:
                name = f"{name}.__main__"
                spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError) as error:
            raise ScriptError(f"the module {self.target} cannot be found: {error}.") from error
        loader: Any = spec.loader if spec is not None else None
        code = loader.get_code(name) if hasattr(loader, "get_code") else None
        if spec is None or code is None:
            raise ScriptError(
                f"there is no module {name} with Python code on the path. Give a module as "
                "`python -m` takes it, or the path of a script."
            )
        return code, spec, str(spec.origin)


def without_launcher(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the script's own first line on; None when it lies in none of its lines."""
    at, found = trace, trace
    started = False
    while at is not None:
        if at.tb_frame.f_code is Script.run.__code__:
            started, found = True, at.tb_next
        elif at.tb_frame.f_code is Script.load.__code__:
            # A script that cannot be compiled has no line that ran; a package that is imported
            # on the way to a module has.
            started, found = True, _outside(at.tb_next)
        at = at.tb_next
    return found if started else trace


def _outside(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        trace = trace.tb_next
    return trace
