"""What is best: a total order over the rows of trials. Rows that keep every bound come first, then the score decides.

    objective = Objective.from_config({"metric": "f1", "at_least": {"precision": 0.65}}, task)
    best = max(rows, key=objective.key)

A figure is a name as in the rows, such as `val_loss` or `precision/nuc`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainables.settings import require, require_choice

Row = Mapping[str, Any]
Key = tuple[bool, float, float]
MODES = ("max", "min")
LOWER_IS_BETTER = ("loss", "val_loss")
"""Figures that are minimised unless `mode` says otherwise."""


class Default(Protocol):
    """What is best where nobody says otherwise: a task has both."""

    @property
    def metric(self) -> str: ...

    @property
    def mode(self) -> str: ...


OUT_OF_PATIENCE = "out of patience"
"""What the last row of a trial says under `stopped` where it ended by itself before its last epoch."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric, its direction, and bounds on other figures, checked when made. Raises SettingsError."""

    metric: str
    mode: str = "max"
    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name_it = "Write for example objective.metric=val_loss objective.mode=min"
        require(bool(self.metric), "objective.metric", self.metric, "a figure of the rows is needed", name_it)
        require_choice("objective.mode", self.mode, MODES)
        for side in ("at_least", "at_most"):
            for name, bound in getattr(self, side).items():
                is_number = isinstance(bound, int | float) and not isinstance(bound, bool) and math.isfinite(bound)
                key = setting(side, name)
                require(is_number, key, bound, "a bound is a finite number", f"Write for example {key}=0.65")
        for name in self.at_least.keys() & self.at_most.keys():
            low, high, key = self.at_least[name], self.at_most[name], setting("at_least", name)
            excluded = f"nothing is at least that and at most {high:g}, which {setting('at_most', name)} asks for"
            require(low <= high, key, low, excluded, f"Use {key}={high:g} or less, or leave one of the two out")

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None, task: Default) -> Objective:
        """The objective of a config's section: metric, mode, at_least, at_most, each of which may be absent.

        Without a metric it is the task's, in the task's direction; a metric of one's own is maximised unless it is a
        loss or `mode` says min. Raises SettingsError for any other key, and for a direction that is not the task's
        without a metric.
        """
        section = section or {}
        for key in section:
            require_choice("objective", key, ("metric", "mode", "at_least", "at_most"))
        metric, mode = section.get("metric") or task.metric, section.get("mode")
        turned = f"without objective.metric that of the task ranks, {task.metric}, and its direction is {task.mode}"
        fix = f"Name it, for example objective.metric={task.metric}, or leave objective.mode out"
        require(bool(section.get("metric")) or mode in (None, "", task.mode), "objective.mode", mode, turned, fix)
        default = task.mode if metric == task.metric else "min" if metric in LOWER_IS_BETTER else "max"
        bounds = {side: dict(section.get(side) or {}) for side in ("at_least", "at_most")}
        return cls(metric=metric, mode=mode or default, **bounds)

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures of a row that the order reads."""
        return tuple(dict.fromkeys((self.metric, *self.at_least, *self.at_most)))

    @property
    def bounds(self) -> str:
        """The bounds in words, "" where there are none: precision/nuc ≥ 0.65, fg_pred/nuc ≤ 0.2."""
        told = [f"{name} ≥ {bound:g}" for name, bound in self.at_least.items()]
        return ", ".join(told + [f"{name} ≤ {bound:g}" for name, bound in self.at_most.items()])

    def misses(self, row: Row) -> dict[str, float]:
        """By which share of itself (of 1 where it is 0) each bound is missed; ≤ 0 where it is kept.

        A figure that is absent or NaN misses its bound infinitely.
        """
        found = {f"{name} ≥ {bound:g}": (bound - number(row, name), bound) for name, bound in self.at_least.items()}
        found |= {f"{name} ≤ {bound:g}": (number(row, name) - bound, bound) for name, bound in self.at_most.items()}
        return {
            name: math.inf if math.isnan(miss) else miss / (abs(bound) or 1.0) for name, (miss, bound) in found.items()
        }

    def violation(self, row: Row) -> float:
        """The sum of what the missed bounds are missed by; 0 where all are kept."""
        return sum(max(0.0, miss) for miss in self.misses(row).values())

    def missed(self, row: Row) -> str:
        """The figures of a row that miss a bound, in words; "" where none does: precision/nuc 0.6000."""
        names = dict.fromkeys(bound.split(" ")[0] for bound, miss in self.misses(row).items() if miss > 0)
        return ", ".join(f"{name} {number(row, name):.4f}" for name in names)

    def best_of(self, row: Row) -> Row:
        """The figures of the best epoch so far, which a row has as best_<figure>."""
        return {name: number(row, f"best_{name}") for name in self.figures}

    def score(self, row: Row) -> float:
        """The metric of a row, negated where it is minimised: larger is better. NaN without it."""
        return number(row, self.metric) * (1 if self.mode == "max" else -1)

    def key(self, row: Row) -> Key:
        """What to compare rows by; larger is better. A row without the metric, or with NaN for it, comes last."""
        score = self.score(row)
        if math.isnan(score):
            return False, -math.inf, -math.inf
        return True, -self.violation(row), score

    def better(self, row: Row, best: Row | None) -> bool:
        """Whether `row` takes the place of `best`, the best one so far (None: there is none). NaN and ties do not."""
        key = self.key(row)
        return key[0] and (best is None or key > self.key(best))


def waited(rows: Iterable[Row], objective: Objective, min_delta: float) -> int:
    """Epochs since a row was last better than all before by more than min_delta, or kept the bounds better."""
    best: Row | None = None
    waiting = 0
    for row in rows:
        waiting += 1
        if best is None or objective.violation(row) < objective.violation(best):
            enough = objective.better(row, best)
        else:
            enough = objective.better(row, best) and objective.score(row) - objective.score(best) > min_delta
        if enough:
            best, waiting = row, 0
    return waiting


def setting(side: str, figure: str) -> str:
    """A bound as the command line has it: objective.at_least.precision.nuc."""
    return f"objective.{side}.{figure.replace('/', '.')}"


def number(row: Row, name: str) -> float:
    """A figure of a row; NaN where it is absent, null or not a number."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
