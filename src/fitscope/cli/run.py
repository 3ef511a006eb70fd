"""`fitscope run train.py ARGS`: an unmodified script, every training in it observed."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitscope.cli.arguments import add_command, positive_int
from fitscope.cli.exit_codes import OK, PROBLEM, USAGE

if TYPE_CHECKING:
    from fitscope.cli.arguments import Commands
    from fitscope.launch.observe import Observer
    from fitscope.launch.script import Script

_EXAMPLE = """\
  fitscope run train.py --lr 0.1              what stands behind the script is the script's
  fitscope run --every 10 --ui train.py       observe every 10th step, and show the page
  fitscope run --select 'conv*' -m package.train
  python -m fitscope run train.py             where `fitscope` is not on the path

Every `fit`, `evaluate` and `train_on_batch` of a Keras model is observed, custom train steps, too.
Each model has a run of its own in the folder of the session. The script sees the same argv,
__main__, signals and standard output as with plain Python, and its exit code is handed on.

The same options can stand in fitscope.toml, in the working directory:
  [run]
  select = ["conv*", "dense*"]
  every = 10"""

_WITH_VALUE = ("--select", "--of", "--budget", "--every", "--run", "--config")


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "run",
        run,
        summary="Run a Python script as it is, with every training in it observed.",
        example=_EXAMPLE,
    )
    parser.usage = "fitscope run [options] (SCRIPT.py | -m MODULE) [ARGS ...]"
    parser.add_argument(
        "--select",
        action="append",
        metavar="GLOB",
        help="the layers to watch; may be repeated (default: all)",
    )
    parser.add_argument(
        "--of",
        action="append",
        metavar="TENSOR",
        help="which tensor of a layer: output, input, preactivation, ...; may be repeated "
        "(default: output)",
    )
    parser.add_argument(
        "--budget", type=float, metavar="SHARE", help="share of the training time (default: 0.02)"
    )
    parser.add_argument(
        "--every", type=positive_int, metavar="N", help="observe every N-th step instead"
    )
    parser.add_argument(
        "--run",
        metavar="DIR",
        help="the folder of the session (default: runs/<script>-<date-time>)",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="read options from here, not fitscope.toml"
    )
    parser.add_argument("--ui", action="store_true", default=None, help="show the page meanwhile")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the options of `fitscope run` from the script and all that follows it.

    Example:
        >>> split(["run", "--every", "5", "train.py", "--every", "1"])
        (['run', '--every', '5'], ['train.py', '--every', '1'])
    """
    place = 1
    while place < len(arguments):
        word = arguments[place]
        if word == "-m" or not word.startswith("-") or word == "-":
            break
        if word == "--":
            return list(arguments[:place]), list(arguments[place + 1 :])
        place += 2 if word in _WITH_VALUE else 1
    return list(arguments[:place]), list(arguments[place:])


def run(arguments: argparse.Namespace) -> int | Callable[[], int]:
    """Prepare everything; what is returned runs the script."""
    rest: list[str] = arguments.rest
    is_module = rest[:1] == ["-m"]
    if len(rest) < 1 + is_module:
        print("fitscope run: give a script, or -m and a module.", file=sys.stderr)
        return USAGE

    from fitscope.launch.observe import Observer
    from fitscope.launch.options import FILE, Options, read_file
    from fitscope.launch.run_folder import RunFolder
    from fitscope.launch.script import Script

    config: Path | None = arguments.config or (Path(FILE) if Path(FILE).is_file() else None)
    options = Options() if config is None else read_file(config)
    given = {name: getattr(arguments, name) for name in ("budget", "every", "run", "ui")}
    words = {name: getattr(arguments, name) for name in ("select", "of")}
    given |= {name: None if each is None else tuple(each) for name, each in words.items()}
    options = options.with_given(given)
    script = Script(rest[is_module], rest[1 + is_module :], is_module=is_module)
    folder = Path(options.run).resolve() if options.run else _folder(script.name)
    observer = Observer(RunFolder(options, folder).make_scope)
    page = _show(folder) if options.ui else None
    return partial(_run, script, observer, folder, page)


def _run(script: Script, observer: Observer, folder: Path, page: Any) -> int:
    """Run the script; what it raises, `SystemExit` included, comes out."""
    from fitscope.launch.script import ScriptError
    from fitscope.launch.when_imported import when_imported

    when_imported("keras", observer.install)
    try:
        script.load()
    except ScriptError as error:
        print(f"fitscope: {error}", file=sys.stderr)
        return PROBLEM
    pid, status = os.getpid(), "failed"
    try:
        script.run()
        status = "finished"
    except SystemExit as leaving:
        status = "finished" if leaving.code in (None, 0) else "failed"
        raise
    finally:
        if os.getpid() == pid:
            observer.close(status)
            _tell(observer, folder)
            del page  # it was shown for as long as the script ran
    return OK


def _show(folder: Path) -> Any:
    from fitscope.ui.show import show

    folder.mkdir(parents=True, exist_ok=True)
    page = show([folder])
    print(f"fitscope page: {page.url}", file=sys.stderr, flush=True)
    return page


def _folder(name: str) -> Path:
    # Absolute: the script may change its working directory.
    moment = datetime.datetime.now().astimezone()
    path = Path.cwd() / "runs" / f"{name}-{moment:%Y-%m-%d-%H%M%S}"
    return path if not path.exists() else path.with_name(f"{path.name}-{os.getpid()}")


def _tell(observer: Observer, folder: Path) -> None:
    """Where the runs are and what was found, on the error stream: the other is the script's."""
    from fitscope.terminal.command import command

    runs: list[Any] = [run for scope in observer.scopes for run in scope.runs]
    if not runs:
        print(
            "fitscope run: no Keras model was trained or evaluated, so there is no run.",
            file=sys.stderr,
        )
        return
    lines = [f"fitscope run: {len(runs)} {'run' if len(runs) == 1 else 'runs'}"]
    for each in runs:
        lines.append(f"  {_short(each.path)}")
        lines += [f"    {f['severity']}: {f['message']}" for f in each.findings]
    lines.append(f"Look: {command()} ui {_short(folder)}")
    print("\n".join(lines), file=sys.stderr)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
