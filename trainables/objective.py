"""What is best: a total order over the rows of trials. Rows that keep every bound come first, then the score decides.

    objective = Objective.from_config({"metric": "f1", "at_least": {"precision": 0.65}}, task)
    best = max(rows, key=objective.key)

A figure is a name as in the rows, such as `val_loss` or `precision/nuc`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainables.settings import require, require_choice

Row = Mapping[str, Any]
Key = tuple[bool, float, float]
MODES = ("max", "min")


class Default(Protocol):
    """What is best where nobody says otherwise: a task has both."""

    @property
    def metric(self) -> str: ...

    @property
    def mode(self) -> str: ...


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
                fix = f"Write for example objective.{side}.{name}=0.65"
                require(is_number, f"objective.{side}.{name}", bound, "a bound is a finite number", fix)

    @classmethod
    def from_config(cls, section: Mapping[str, Any] | None, task: Default) -> Objective:
        """The objective of a config's section: metric, mode, at_least, at_most, each of which may be absent.

        Without a metric it is the task's, in the task's direction; a metric of one's own is maximised unless `mode`
        says min. Raises SettingsError for a key that is none of these.
        """
        section = section or {}
        for key in section:
            require_choice("objective", key, ("metric", "mode", "at_least", "at_most"))
        metric = section.get("metric") or task.metric
        default = task.mode if metric == task.metric else "max"
        bounds = {side: dict(section.get(side) or {}) for side in ("at_least", "at_most")}
        return cls(metric=metric, mode=section.get("mode") or default, **bounds)

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


def number(row: Row, name: str) -> float:
    """A figure of a row; NaN where it is absent, null or not a number."""
    value = row.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
