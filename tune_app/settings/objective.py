"""What is best: `objective.…` on the command line. `trainables.objective` is the order; see docs/objective.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trainables.calibration import score_keys
from trainables.objective import MODES, Objective
from trainables.settings import require, require_choice
from trainables.tasks import Task

LOWER_IS_BETTER = ("loss", "val_loss")
"""Figures that are minimised unless `objective.mode` says otherwise."""


@dataclass(kw_only=True)
class ObjectiveSettings:
    """What is best. Figures are named as in history.jsonl; the class follows after a dot (precision.nuc)."""

    metric: str = ""
    """The figure that ranks; empty: the task's. Of one class: objective.metric=dice/nuc."""
    mode: str = ""
    """max or min; empty: as the task does it, min for a loss, else max."""
    at_least: dict[str, Any] = field(default_factory=dict)
    """Bounds that come before the score: objective.at_least.precision.nuc=0.65. See docs/objective.md."""
    at_most: dict[str, Any] = field(default_factory=dict)
    """Likewise: objective.at_most.fg_pred.nuc=0.2."""

    def __post_init__(self) -> None:
        if self.mode:
            require_choice("objective.mode", self.mode, MODES)
        for side in ("at_least", "at_most"):
            for name, bound in _flat(getattr(self, side)):
                key = f"objective.{side}.{name.replace('/', '.')}"
                number = isinstance(bound, int | float) and not isinstance(bound, bool) and math.isfinite(bound)
                require(number, key, bound, "a bound is a finite number", f"Write for example {key}=0.65")

    def of(self, task: Task) -> Objective:
        """The total order that these settings and the task make."""
        bounds = {side: dict(_flat(getattr(self, side))) for side in ("at_least", "at_most")}
        mode = self.mode or ("min" if self.metric in LOWER_IS_BETTER else "")
        return Objective.from_config({"metric": self.metric, "mode": mode, **bounds}, task)


def figures(task: Task, classes: Sequence[str]) -> list[str]:
    """What an objective may name: the figures of a row, and those at searched thresholds where there are histograms."""
    outputs = task.outputs(classes)
    nothing = task.result(task.zeros(1, len(outputs), torch.device("cpu")))
    rows = ["loss", *task.scores({**nothing, "val_loss": math.nan}, outputs)]
    return [*rows, *score_keys(outputs)] if "hist_positive" in nothing else rows


def require_known(objective: Objective, task: Task, classes: Sequence[str]) -> None:
    """Raise SettingsError for a metric or a bound that is none of the figures of a row."""
    known = figures(task, classes)
    named = {"objective.metric": objective.metric}
    named |= {f"objective.at_least.{name.replace('/', '.')}": name for name in objective.at_least}
    named |= {f"objective.at_most.{name.replace('/', '.')}": name for name in objective.at_most}
    for key, name in named.items():
        fix = f"Choices: {', '.join(known)}"
        require(name in known, key, name, "no row of this task and these classes has such a figure", fix)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """precision.nuc on the command line is precision/nuc in a row."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
