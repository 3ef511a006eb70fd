"""All rules, and what they find."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from fitscope.rules.causes import told_once
from fitscope.rules.finding import Finding, Findings
from fitscope.rules.rule import Rule

if TYPE_CHECKING:
    from fitscope.rules.fit import Fit
    from fitscope.run.reader import Run

# Before the first step, in the order in which a reader would check them.
_CONTRACT = (
    "data_values", "input_kind", "one_unit_softmax", "from_logits", "double_activation",
    "labels_in_range", "targets_in_range", "sample_weights", "loss_unit_mismatch",
    "loss_activation", "loss_task", "metric_task", "frozen_layers", "initial_weights",
    "single_class_batches", "batch_size_one", "learning_rate", "gradient_clipping",
    "inputs_scaled", "targets_scaled", "hidden_activation", "dropout_rate",
    "regularization", "class_balance", "contradicting_labels", "target_leak", "half_precision",
    "few_steps",
)  # fmt: skip
# Of these, what holds of an evaluation as well.
_EVALUATION = frozenset(
    {"data_values", "input_kind", "one_unit_softmax", "from_logits", "double_activation",
     "labels_in_range", "targets_in_range", "sample_weights", "loss_unit_mismatch",
     "loss_activation", "metric_task"}
)  # fmt: skip
_TRAINING = (
    "non_finite", "loss_non_finite", "loss_zero", "loss_scale", "gradient_underflow",
    "dead_units", "saturation", "constant_output", "unchanged_weights", "not_called",
    "signal_scale", "vanishing_gradients",
    "exploding_gradients", "update_ratio", "loss_diverges", "loss_negative", "loss_oscillates",
    "weights_moved_far", "weights_barely_moved", "layer_left_behind", "batch_norm_disagrees",
    "effective_rank", "attention", "loss_flat",
    "no_better_than_constant", "metric_flat", "overfitting", "stopped_early",
)  # fmt: skip


@cache
def _all() -> Mapping[str, Rule]:
    found = {}
    for names, package in ((_CONTRACT, "fitscope.rules.contract"), (_TRAINING, "fitscope.rules")):
        for name in names:
            found[name] = getattr(importlib.import_module(f"{package}.{name}"), name)
    return found


RULES: Mapping[str, Rule] = _all()
"""Every rule that comes with fitscope, by id."""


def findings(run: Run, rules: Mapping[str, Rule] | None = None) -> Findings:
    """What the rules find in a run, contract included, the most severe first.

    Findings that another one explains are told with it. A rule that fails becomes a note.

    Args:
        run: The run to read; it may still be being written.
        rules: The rules, as `choose` gives them; those of `fitscope.toml` by default.

    Example:
        ```python
        print(findings(fs.open_run("runs/first")))
        ```
    """
    chosen = _chosen(rules)
    kept = [Finding.from_json(value) for value in run.findings]
    contract = [f for f in kept if f.stage == "contract" and f.rule in chosen]
    # Where a run was told of causes before, its consequences are computed anew.
    flat = [part for f in contract for part in (f, *f.consequences) if part.stage == "contract"]
    own: dict[tuple[str, str], Finding] = {}
    for finding in flat:
        own.setdefault((finding.rule, finding.site), replace(finding, consequences=()))
    training = _found(run, {i: r for i, r in chosen.items() if r.stage == "training"})
    return told_once([*own.values(), *training], chosen)


def contract(fit: Fit, rules: Mapping[str, Rule] | None = None) -> Findings:
    """What the rules of the contract find before the first step.

    Args:
        fit: The facts of the training.
        rules: As in `findings`.
    """
    chosen = _chosen(rules)
    asked = {i: r for i, r in chosen.items() if r.stage == "contract"}
    if not fit.trains:
        asked = {i: r for i, r in asked.items() if i in _EVALUATION}
    return told_once(_found(fit, asked), chosen)


def _chosen(rules: Mapping[str, Rule] | None) -> Mapping[str, Rule]:
    if rules is not None:
        return rules
    from fitscope.rules.settings import choose

    return choose(RULES)


def _found(subject: Run | Fit, rules: Mapping[str, Rule]) -> list[Finding]:
    found: list[Finding] = []
    for each in rules.values():
        try:
            found.extend(each(subject))
        except Exception as error:  # noqa: BLE001 - one broken rule must not silence the others
            found.append(_failed(each, error))
    return found


def _failed(broken: Rule, error: Exception) -> Finding:
    return Finding(
        rule=broken.id,
        severity="note",
        site="rule",
        first_step=0,
        last_step=0,
        message=f"the rule itself failed with {type(error).__name__}: {error}",
        evidence={"traceback": traceback.format_exc(limit=-4)},
        remedy=f"rules={{{broken.id!r}: False}} silences it; please report it.",
        stage=broken.stage,
        confidence=0.0,
    )
