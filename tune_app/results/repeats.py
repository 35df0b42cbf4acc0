"""Arms: trials of one effective loss, and the noise that their repetition shows.

Different names can be one and the same configuration (uniform weights, and class-balanced weights that have saturated),
and one configuration can be run with several seeds. Both are runs of one arm. Two runs with one seed are not
independent, so they are averaged first: `runs` counts seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import stdev

import pandas as pd

from trainables.objective import Objective
from tune_app.evidence.critical import t_critical
from tune_app.results.trial import Trial


@dataclass(frozen=True)
class Noise:
    """Standard deviation between runs of one arm, pooled over the arms with at least two.

    sd: in units of the metric. dof: its degrees of freedom, Σ (runs − 1). difference: by how much two single runs must
    differ to be believed at 95 %, t(0.975, dof) · √2 · sd. A comparison chosen because it is the largest needs more.
    """

    sd: float
    dof: int
    arms: int

    @property
    def difference(self) -> float:
        return float(t_critical(self.dof, 0.05)) * math.sqrt(2) * self.sd


def arm_labels(trials: Sequence[Trial]) -> dict[str, str]:
    """Signature → the label of the arm: that of its first trial, its whole name where two arms would share it."""
    first: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        first.setdefault(trial.signature, trial)
    shared = Counter(trial.label for trial in first.values())
    return {s: trial.label if shared[trial.label] == 1 else trial.name for s, trial in first.items()}


def arms_frame(trials: Sequence[Trial], classes: Sequence[str], objective: Objective) -> pd.DataFrame:
    """One row per arm: arm, names, trials, runs (seeds among the finished trials), mean, sd, min, max, dice/<class>,
    and where there are bounds violation, by the means of their figures.

    Only finished trials count in the figures: a trial that was stopped early had a smaller budget. Best arm first.
    """
    labels = arm_labels(trials)
    members: dict[str, list[Trial]] = {signature: [] for signature in labels}
    for trial in trials:
        members[trial.signature].append(trial)
    rows = [_arm_row(labels[s], own, classes, objective) for s, own in members.items()]
    columns = [
        "arm",
        "names",
        "trials",
        "runs",
        "mean",
        "sd",
        "min",
        "max",
        *(f"dice/{c}" for c in classes),
        "violation",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    order = [True, objective.mode == "min"]
    frame = frame.sort_values(["violation", "mean"], ascending=order, na_position="last", kind="stable")
    return frame.drop(columns=[] if objective.bounds else "violation").reset_index(drop=True)


def _arm_row(arm: str, members: Sequence[Trial], classes: Sequence[str], objective: Objective) -> dict[str, object]:
    runs = _by_seed(members)
    scores = _scores(runs, objective.metric)
    means = {name: _mean(_scores(runs, name)) for name in objective.figures}
    finite = [score for score in scores if math.isfinite(score)]
    row: dict[str, object] = {
        "arm": arm,
        "names": sorted({trial.label for trial in members}),
        "trials": len(members),
        "runs": len(scores),
        "mean": _mean(scores),
        "sd": stdev(finite) if len(finite) > 1 else math.nan,
        "min": min(finite, default=math.nan),
        "max": max(finite, default=math.nan),
    }
    row |= {f"dice/{c}": _mean(_scores(runs, f"dice/{c}")) for c in classes}
    return row | {"violation": objective.violation(means) if runs else math.nan}


def _by_seed(members: Sequence[Trial]) -> list[list[Trial]]:
    """The finished trials, those of one seed together."""
    runs: dict[object, list[Trial]] = {}
    for trial in members:
        if trial.status == "finished" and trial.best:
            runs.setdefault(trial.number if trial.seed is None else ("seed", trial.seed), []).append(trial)
    return list(runs.values())


def _scores(runs: Sequence[Sequence[Trial]], key: str) -> list[float]:
    """The score at the best epoch, one per seed."""
    return [_mean([trial.score(key) for trial in run]) for run in runs]


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def pooled_noise(arms: pd.DataFrame) -> Noise | None:
    """The noise of a frame of arms, √(Σ (runs − 1) sd² / Σ (runs − 1)); None where no arm was run twice."""
    repeated = arms[arms["runs"] > 1]
    dof = int((repeated["runs"] - 1).sum())
    if dof == 0:
        return None
    variance = float(((repeated["runs"] - 1) * repeated["sd"] ** 2).sum()) / dof
    return Noise(sd=math.sqrt(variance), dof=dof, arms=len(repeated))
