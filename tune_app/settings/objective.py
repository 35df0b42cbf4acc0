"""What is best: `objective.…` on the command line. `trainables.objective` is the order; see docs/objective.md."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trainables.objective import Objective, setting
from trainables.settings import require
from trainables.tasks import Task


@dataclass(kw_only=True)
class ObjectiveSettings:
    """What is best. Figures are named as in history.jsonl; the class follows after a dot (precision.nuc)."""

    metric: str = ""
    """The figure that ranks; empty: the task's. Of one class: objective.metric=dice/nuc."""
    mode: str = ""
    """max or min; empty: as the task does it, min for a loss, else max."""
    at_least: Any = field(default_factory=dict)
    """Bounds that come before the score: objective.at_least.precision.nuc=0.65. See docs/objective.md."""
    at_most: Any = field(default_factory=dict)
    """Likewise: objective.at_most.fg_pred.nuc=0.2."""

    def __post_init__(self) -> None:
        for side in ("at_least", "at_most"):
            given = getattr(self, side)
            fix = f"Write objective.{side}.FIGURE=0.65, such as objective.{side}.recall.nuc=0.65"
            require(isinstance(given, Mapping), f"objective.{side}", given, "a bound needs the name of a figure", fix)
        Objective(metric=self.metric or "the task's", mode=self.mode or "max", **self._bounds())

    def of(self, task: Task) -> Objective:
        """The total order that these settings and the task make."""
        return Objective.from_config({"metric": self.metric, "mode": self.mode, **self._bounds()}, task)

    def _bounds(self) -> dict[str, dict[str, Any]]:
        return {"at_least": dict(_flat(self.at_least)), "at_most": dict(_flat(self.at_most))}


def figures(task: Task, classes: Sequence[str]) -> list[str]:
    """What an objective may name: the figures of a row, and those at searched thresholds."""
    outputs = task.outputs(classes)
    nothing = task.result(task.zeros(1, len(outputs), torch.device("cpu")))
    rows = ["loss", *task.scores({**nothing, "val_loss": math.nan}, outputs)]
    return [*rows, *task.searched(outputs)]


def require_known(objective: Objective, task: Task, classes: Sequence[str]) -> None:
    """Raise SettingsError for a metric or a bound whose figure no row has."""
    known, outputs = figures(task, classes), task.outputs(classes)
    _require_known("objective.metric", objective.metric, objective.metric, known, outputs)
    for side in ("at_least", "at_most"):
        for name, bound in getattr(objective, side).items():
            dotted = [figure.replace("/", ".") for figure in known]
            _require_known(setting(side, name), bound, name.replace("/", "."), dotted, outputs)


def _require_known(key: str, value: object, name: str, known: Sequence[str], outputs: Sequence[str]) -> None:
    """known: the figures as this setting spells them."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    kinds = dict.fromkeys(
        re.sub(rf"(?<=[/.])({'|'.join(map(re.escape, outputs))})(?![^/.])", "CLASS", f) for f in known
    )
    fix = f"{hint}Choices: {', '.join(kinds)}; CLASS is one of {', '.join(outputs)}"
    require(name in known, key, value, "no row of this task and these classes has such a figure", fix)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """precision.nuc on the command line is precision/nuc in a row."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
