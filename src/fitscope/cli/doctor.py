"""`fitscope doctor RUN` and `fitscope doctor train.py`: what is wrong with a training."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitscope.cli.arguments import add_command, add_json, positive_int
from fitscope.cli.exit_codes import FOUND, OK, PROBLEM, USAGE

if TYPE_CHECKING:
    from fitscope.cli.arguments import Commands
    from fitscope.cli.script import ScriptRun
    from fitscope.rules.finding import Findings

_EXAMPLE = """\
  fitscope doctor runs/first
  fitscope doctor train.py --epochs 3      run it for a minute at most, then say what is wrong
  fitscope doctor --json runs/first | jq '.findings[].rule'
  fitscope doctor --rules                  every rule, with what it looks for

exit status: 0 nothing as grave as --fail-on, 1 a problem, 2 wrong usage, 3 a finding that grave."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "doctor",
        run,
        summary="Say what is wrong with a training: of a run, or of a script that is run for it.",
        example=_EXAMPLE,
    )
    parser.add_argument(
        "target", metavar="RUN|SCRIPT", nargs="?", help="a run directory, or a script that trains"
    )
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the script"
    )
    parser.add_argument(
        "--seconds",
        type=positive_int,
        default=60,
        metavar="N",
        help="end the script after N seconds of training (default: 60)",
    )
    parser.add_argument(
        "--every",
        type=positive_int,
        default=1,
        metavar="N",
        help="observe every N-th step of the script (default: 1)",
    )
    parser.add_argument(
        "--fail-on",
        choices=("fault", "warning", "never"),
        default="fault",
        help="what makes the exit status 3 (default: fault)",
    )
    parser.add_argument("--rules", action="store_true", help="list the rules and leave")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Diagnose, and print it."""
    if arguments.rules:
        return _list_rules(json_wanted=arguments.json)
    if arguments.target is None:
        print("fitscope: give a run directory or a script; --rules lists the rules.",
              file=sys.stderr)  # fmt: skip
        return USAGE
    target = Path(arguments.target)
    if target.suffix == ".py":
        return _of_script(target, arguments)
    from fitscope.cli.run_summary import all_findings
    from fitscope.run.reader import open_run

    run = open_run(target)
    steps = sum(record.get("event") == "step" for record in run.history)
    return _tell([all_findings(run)], {"run": str(target), "observed_steps": steps}, arguments)


def _of_script(path: Path, arguments: argparse.Namespace) -> int:
    from fitscope.cli.script import run_script

    def make_scope(_: Any) -> Any:
        from fitscope.launch.doctor_scope import DoctorScope

        # What is found is told once, when all is known.
        return DoctorScope(every=arguments.every)

    # What the script prints must not stand between the braces of the JSON.
    aside = contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext()
    with aside:
        done = run_script(path, arguments.arguments, make_scope, arguments.seconds)
    found = [scope.findings for scope in done.scopes]
    status = _tell(found, {"script": str(path), **_facts(done)}, arguments)
    if done.error is not None:
        print(f"fitscope: {path} failed:\n{done.error}", file=sys.stderr)
        return PROBLEM if status == OK else status
    if not done.scopes:
        print(
            f"fitscope: {path} called no fit, evaluate or train_on_batch, so there is nothing to "
            "judge.",
            file=sys.stderr,
        )
        return PROBLEM
    return status


def _facts(done: ScriptRun) -> dict[str, Any]:
    reasons = [getattr(scope, "without_gradients", None) for scope in done.scopes]
    return {
        "models": len(done.scopes),
        "fits": done.calls.get("fit", 0),
        "evaluations": done.calls.get("evaluate", 0),
        "train_on_batch": done.calls.get("train_on_batch", 0),
        "observed_steps": int(sum(scope.cost["observed_steps"] for scope in done.scopes)),
        "without_gradients": next((reason for reason in reasons if reason), None),
        "seconds": round(done.seconds, 3),
        "out_of_time": done.out_of_time,
        "error": done.error,
    }


def _tell(found: Sequence[Findings], facts: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Print the findings of one training or several, and give the exit status."""
    from fitscope.cli.run_summary import plain
    from fitscope.rules.finding import SEVERITIES, Findings, by_severity

    once: dict[tuple[str, str, str], Any] = {}
    for findings in found:
        for finding in findings:
            once.setdefault((finding.rule, finding.site, finding.severity), finding)
    together = Findings(by_severity(once.values()))
    counts = {severity: sum(f.severity == severity for f in together) for severity in SEVERITIES}
    if arguments.json:
        value = {**facts, "counts": counts, "findings": together.to_json()}
        print(json.dumps(plain(value), indent=2, allow_nan=False))
    else:
        from fitscope.terminal.console import make_console
        from fitscope.terminal.report import findings_text

        console = make_console()
        observed = facts.get("observed_steps")
        console.print(findings_text(together, console.width, observed=observed), soft_wrap=True)
    graver = {"fault": ("fault",), "warning": ("fault", "warning"), "never": ()}
    grave = any(counts[severity] for severity in graver[arguments.fail_on])
    return FOUND if grave else OK


def _list_rules(*, json_wanted: bool) -> int:
    from fitscope.rules.registry import RULES
    from fitscope.rules.settings import choose

    rules = choose(RULES)
    if json_wanted:
        listed = [
            {"id": r.id, "stage": r.stage, "severity": r.fixed_severity or r.severity,
             "sentence": r.sentence, "thresholds": r.thresholds}
            for r in rules.values()
        ]  # fmt: skip
        print(json.dumps(listed, indent=2))
        return OK
    width = max(map(len, rules), default=0)
    for stage, heading in (("contract", "Before the first step"), ("training", "While training")):
        print(heading)
        for each in rules.values():
            if each.stage == stage:
                severity = each.fixed_severity or each.severity
                print(f"  {each.id:{width}}  {severity:7}  {each.sentence}")
    return OK
