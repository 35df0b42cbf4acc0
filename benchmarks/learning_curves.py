"""Recorded learning curves that a search can be replayed on: TaskSet's tables, and the phantom's.

Legend: n configurations, R repeats (seeds), E epochs. A score is better when it is larger, and lies in (0, 1] where the
training survived; NaN is a training that did not.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces import Choice, Float, Parameter, space_of
from trainables.tasks.multilabel import TASK

Floats = npt.NDArray[np.float64]
Kind = tuple[tuple[str, Any], ...]

BETAS = ("beta1", "beta2")
"""Momentum terms of TaskSet's optimiser: it draws 1 − β in the logarithm, as everything else."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Configurations of one space with their curves."""

    name: str
    space: Mapping[str, Parameter]
    points: Sequence[Mapping[str, Any]]
    """One per configuration, in the coordinates of `space`; empty where it has none there."""
    scores: Floats
    """(n, R, E)."""
    validation: Floats
    """(n, E), what a user would look at, lower is better; empty (0, 0) where there is nothing but the score."""
    test: Floats
    """(n, E), of the same epochs."""
    names: Sequence[str] = ()

    @property
    def epochs(self) -> int:
        return self.scores.shape[2]

    @property
    def repeats(self) -> int:
        return self.scores.shape[1]

    def distances(self, point: Mapping[str, Any]) -> Floats:
        """(n,) Euclidean distance of every configuration from the point in the tuned scale; ∞ where a choice differs.

        Every number is normalised to [0, 1] over its range, in the logarithm where the axis is logarithmic.
        """
        found = np.full(len(self.points), np.inf)
        rows, places = self._alike.get(self._kind(point), ([], np.empty((0, 0))))
        if rows:
            found[rows] = np.linalg.norm(places - self._place(point), axis=1)
        return found

    @cached_property
    def _alike(self) -> dict[Kind, tuple[list[int], Floats]]:
        """Rows by kind, and where they lie, (rows, numbers)."""
        kinds: dict[Kind, list[int]] = {}
        for row, point in enumerate(self.points):
            if point:
                kinds.setdefault(self._kind(point), []).append(row)
        return {kind: (rows, np.array([self._place(self.points[row]) for row in rows])) for kind, rows in kinds.items()}

    def _kind(self, point: Mapping[str, Any]) -> Kind:
        """The choices of a point and the names of its numbers: what two points must share to be near each other."""
        choices = [(k, v) for k, v in point.items() if isinstance(self.space[k], Choice)]
        return tuple(sorted([*choices, *((k, None) for k in point if isinstance(self.space[k], Float))], key=str))

    def _place(self, point: Mapping[str, Any]) -> list[float]:
        return [unit(self.space[k], point[k]) for k in sorted(point) if isinstance(self.space[k], Float)]


def unit(axis: Parameter, value: float) -> float:
    """The value on its axis, in [0, 1]."""
    assert isinstance(axis, Float)
    if axis.fixed:
        return 0.0
    if axis.log:
        return math.log(value / axis.low) / math.log(axis.high / axis.low)
    return (value - axis.low) / (axis.high - axis.low)


@lru_cache(maxsize=16)
def taskset(path: Path) -> Table:
    """One table of TaskSet (Metz et al. 2020, arXiv:2002.11887) in the form published with DyHPO.

    The first value of a curve is that of the untrained network, so epoch 1 is the second. The score is
    exp(−validation loss): rank-based policies see the same order, and a loss that is NaN or infinite is NaN.
    """
    rows = json.loads(path.read_text())
    points = [tuned(row["hp"]) for row in rows]
    space = {k: Float(min(p[k] for p in points), max(p[k] for p in points), log=True) for k in points[0]}
    validation, test = (losses(rows, side) for side in ("valid", "test"))
    with np.errstate(over="ignore"):
        scores = np.exp(-validation)[:, None, :]
    return Table(name=path.stem, space=space, points=points, scores=scores, validation=validation, test=test)


def tuned(hp: Mapping[str, float]) -> dict[str, float]:
    """The settings as they were drawn, all of them in the logarithm."""
    return {f"one_minus_{k}" if k in BETAS else k: 1.0 - v if k in BETAS else v for k, v in hp.items()}


def losses(rows: Sequence[Mapping[str, Any]], side: str) -> Floats:
    """(n, E) losses after 1, 2, … epochs; NaN where a curve holds no finite number."""
    values = np.array([[math.nan if v is None else v for v in row[side]["loss"]] for row in rows], dtype=float)
    return np.where(np.isfinite(values), values, np.nan)[:, 1:]


@lru_cache(maxsize=4)
def phantom(path: Path) -> Table:
    """The table that `benchmarks.record_curves` writes: the joint space of all families, mean Dice, R seeds."""
    with gzip.open(path) as file:
        rows = json.load(file)["configurations"]
    none = np.empty((0, 0))
    return Table(
        name="phantom",
        space=space_of("all"),
        points=[row["searched"] for row in rows],
        scores=np.array([row[TASK.metric] for row in rows], dtype=float),
        validation=none,
        test=none,
        names=[row["preset"] or row["name"] for row in rows],
    )
