"""The folder of a session: each model that a script trains has a run of its own in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fitscope.launch.options import Options


class RunFolder:
    """Makes the scopes of `fitscope run`.

    Args:
        options: How to observe.
        folder: Where the runs go.
    """

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self._taken: set[Path] = set()

    def make_scope(self, model: Any) -> Any:
        """A scope that writes a run called after the model.

        Args:
            model: The model.
        """
        from fitscope.launch.quiet_scope import QuietScope
        from fitscope.scope.instructions import watch

        options = self.options
        budget: dict[str, Any] = {} if options.budget is None else {"budget": options.budget}
        path = self._free_path(str(model.name))
        scope = QuietScope(
            watch(list(options.select), of=options.of), run=path, every=options.every, **budget
        )
        self._taken.add(path)
        return scope

    def _free_path(self, name: str) -> Path:
        plain = re.sub(r"[^\w.-]+", "_", name).strip(".") or "model"
        path, number = self.folder / plain, 2
        while path.exists() or path in self._taken:
            path, number = self.folder / f"{plain}-{number}", number + 1
        return path
