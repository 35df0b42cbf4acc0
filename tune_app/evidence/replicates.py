"""What a confirmation is computed from: the scores of the arms' replicates, and what is known of the arms.

Shapes: A arms, S seeds (columns), K validation crops, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tune_app.errors import InputError
from tune_app.evidence.layout import nan_mean
from tune_app.evidence.noise import EarlierNoise

Numbers = Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """Scores of A arms on S seeds. Higher is better. Raises InputError where shapes or names do not fit together."""

    arms: Sequence[str]
    """A names, each once."""
    scores: np.ndarray
    """(A, S), NaN where a run is missing or failed. A column is one seed; in an unpaired table it means nothing."""
    attempted: np.ndarray | None = None
    """(A, S) bool, runs that have ended, well or not. None: those with a score."""
    paired: bool = True
    """Whether a column is one seed for all arms. False for tables whose seeds are unknown or differ."""
    baseline: str | None = None
    """The untuned arm that others are compared with; it is the default choice where it is not told from the best."""
    signatures: Sequence[str] | None = None
    """A texts; arms with equal ones are one configuration and are merged. None: all differ."""
    classes: Sequence[str] = ()
    """C names."""
    class_scores: np.ndarray | None = None
    """(A, S, C), NaN where unknown."""
    counts: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """TP, FP, FN of every run, (A, S, K, C) each, voxels, NaN where the run is missing."""
    search_scores: Numbers | None = None
    """The score that made the search choose the arm; None for arms that were not searched."""
    costs: Numbers | None = None
    """GPU-hours of one run."""
    simplicity: Numbers | None = None
    """Lower is simpler (number of tuned parameters, say): decides among arms that cannot be told apart."""
    earlier: EarlierNoise | None = None
    """Of earlier runs, to be pooled with that of these where an F-test does not object; not with a design."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", np.array(self.scores, float))
        if self.scores.ndim != 2 or self.scores.shape[1] == 0 or not len(self.scores) == len(self.arms) > 0:
            raise InputError(
                f"scores={self.scores.shape}: a row for each of {len(self.arms)} arms and a column per seed"
            )
        if len(set(self.arms)) < len(self.arms):
            raise InputError(f"arms={list(self.arms)}: names must differ. Rename one")
        if self.baseline not in (None, *self.arms):
            raise InputError(f"baseline={self.baseline}: choose one of {', '.join(self.arms)}, or leave it out")
        done = np.isfinite(self.scores)
        attempted = done if self.attempted is None else np.asarray(self.attempted, bool) | done
        object.__setattr__(self, "attempted", attempted)
        object.__setattr__(self, "scores", np.where(done, self.scores, np.nan))
        self._check_shapes()

    def _check_shapes(self) -> None:
        shape, classes = self.scores.shape, len(self.classes)
        crops = np.shape(self.counts[0])[2:3] if self.counts else ()
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "attempted": (self.attempted, shape),
            "class_scores": (self.class_scores, (*shape, classes)),
            "signatures": (self.signatures, shape[:1]),
            "search_scores": (self.search_scores, shape[:1]),
            "costs": (self.costs, shape[:1]),
            "simplicity": (self.simplicity, shape[:1]),
            **{f"counts[{i}]": (x, (*shape, *crops, classes)) for i, x in enumerate(self.counts or ())},
        }
        for name, (value, wanted) in expected.items():
            if value is not None and np.shape(value) != wanted:
                raise InputError(f"{name}={np.shape(value)}: the shape must be {wanted}. See Replicates")

    def merged(self) -> tuple[Replicates, list[list[str]]]:
        """The same with arms of equal signature made one, and the names that each arm then stands for.

        Such an arm bears the baseline's name where that is among them, else the first. Paired: its score with a seed is
        the mean of its members' (they are one training, or differ by rounding), never two replicates. Unpaired: every
        run is a replicate, so there are more columns. Its search score is its highest, its cost the mean.
        """
        members = equal_arms(self.signatures or list(self.arms))
        names = [[self.arms[i] for i in group] for group in members]
        labels = [self.baseline if self.baseline in group else group[0] for group in names]
        if len(members) == len(self.arms):
            return self, names
        merged = replace(
            self,
            arms=[str(label) for label in labels],
            signatures=None,
            scores=self._stack(self.scores, members),
            attempted=self._stack(np.asarray(self.attempted, float), members) > 0,
            class_scores=None if self.class_scores is None else self._stack(self.class_scores, members),
            counts=self._stack_counts(members),
            search_scores=_per_arm(self.search_scores, members, largest=True),
            costs=_per_arm(self.costs, members),
            simplicity=_per_arm(self.simplicity, members),
        )
        return merged, names

    def _stack(self, values: np.ndarray, members: Sequence[Sequence[int]]) -> np.ndarray:
        """(A, S, …) of the merged arms."""
        values = np.asarray(values, float)
        if self.paired:
            return np.stack([nan_mean(values[list(group)], axis=0) for group in members])
        width = max(map(len, members)) * values.shape[1]
        stacked = np.full((len(members), width, *values.shape[2:]), np.nan)
        for row, group in zip(stacked, members):
            runs = values[list(group)].reshape(-1, *values.shape[2:])
            row[: len(runs)] = runs
        return stacked

    def _stack_counts(self, members: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        if self.counts is None:
            return None
        tp, fp, fn = (self._stack(x, members) for x in self.counts)
        return tp, fp, fn

    def number(self, name: str, arm: int) -> float:
        """One of costs, search_scores, simplicity of an arm; NaN where unknown."""
        values = getattr(self, name)
        return float("nan") if values is None or values[arm] is None else float(values[arm])


def equal_arms(signatures: Sequence[str]) -> list[list[int]]:
    """Positions of equal signatures, in order of first appearance: each group is one arm and need be trained once."""
    found: dict[str, list[int]] = {}
    for position, signature in enumerate(signatures):
        found.setdefault(signature, []).append(position)
    return list(found.values())


def _per_arm(values: Numbers | None, members: Sequence[Sequence[int]], *, largest: bool = False) -> list[float] | None:
    if values is None:
        return None
    known = np.array([np.nan if v is None else v for v in values], float)
    groups = [known[list(group)] for group in members]
    if largest:
        return [
            float(group[np.isfinite(group)].max()) if np.isfinite(group).any() else float("nan") for group in groups
        ]
    return [float(nan_mean(group, axis=0)) for group in groups]
