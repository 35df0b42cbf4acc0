"""The untuned baseline of a sweep, for losses uniform weights, and what each family has gained over it.

A family may lead at a threshold of 0.5 only because its loss moves the operating point. So it is compared twice: at
0.5, and with a threshold of its own for every class and run (`trainables.calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from trainables.calibration import CALIBRATED
from trainables.objective import Objective
from tune_app.results.folders import spoken
from tune_app.results.repeats import Noise, arms_frame, pooled_noise
from tune_app.results.sweep import Sweep
from tune_app.results.tables import in_words
from tune_app.results.trial import Trial

NOT_RUN = "not run"


@dataclass(frozen=True)
class Gain:
    """By how much the best configuration of a family leads the baseline: at 0.5, and at thresholds of their own.

    Both are means over finished runs. best, base: the calibrated Dice of the two, over runs and base_runs seeds.
    arms: finished configurations of the family. misses, base_misses: whether the two miss a bound. metric: what
    at_half is in where it is not the mean Dice.
    """

    family: str
    arms: int
    at_half: float
    calibrated: float
    best: float
    base: float
    runs: int = 1
    base_runs: int = 1
    misses: bool = False
    base_misses: bool = False
    metric: str = ""

    def margin(self, noise: Noise) -> float:
        """By how much two such means must differ to be believed at 95 %, t(0.975, dof) · sd · √(1/n + 1/m)."""
        return noise.difference * math.sqrt((1 / self.runs + 1 / self.base_runs) / 2)


def baseline_trials(sweep: Sweep) -> list[Trial]:
    """The trials that are the untuned baseline, whatever their names."""
    return [trial for trial in sweep.trials if trial.baseline]


def add_command(sweep: Sweep) -> str:
    """What to type to add the baseline to a sweep that has none."""
    return f"python -m tune_app.run extend={spoken(sweep.folder)} search.baseline=true"


def with_baseline_row(board: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    """The leaderboard; where the sweep has no baseline, with a last row that says so and how to run it."""
    if baseline_trials(sweep):
        return board
    preset = sweep.untuned
    row: Mapping[str, Any] = {
        "name": preset.name,
        "family": preset.family,
        "preset": preset.name,
        "status": NOT_RUN,
        "reason": add_command(sweep),
        "epochs": 0,
        "arm": preset.name,
        "arm_trials": 0,
        "baseline": True,
        "calibration": NOT_RUN,
    }
    last = len(board)
    frame = board.astype({"baseline": object}).reindex(range(last + 1))
    for column, value in row.items():
        frame.loc[last, column] = value
    return frame.astype({"baseline": bool})


def calibrated_noise(sweep: Sweep) -> Noise | None:
    """The noise of the calibrated mean Dice between runs of one configuration; None where none was repeated."""
    return pooled_noise(arms_frame(sweep.trials, sweep.classes, _calibrated(sweep)))


def gains(sweep: Sweep) -> list[Gain]:
    """One per family with a finished run besides the baseline; [] where no run of the baseline was finished."""
    base = _finished(baseline_trials(sweep))
    if not base:
        return []
    base_half, base_own = _best_arm(sweep, base, sweep.objective), _best_arm(sweep, base, _calibrated(sweep))
    found, sign = [], -1 if sweep.mode == "min" else 1
    metric = "" if f"calibrated_{sweep.metric}" == CALIBRATED else sweep.metric
    for family in dict.fromkeys(trial.family for trial in sweep.trials):
        members = _finished(t for t in sweep.trials if t.family == family and not t.baseline)
        if members:
            half, own = _best_arm(sweep, members, sweep.objective), _best_arm(sweep, members, _calibrated(sweep))
            found.append(
                Gain(
                    family=family,
                    arms=own.arms,
                    at_half=sign * (half.mean - base_half.mean),
                    calibrated=own.mean - base_own.mean,
                    best=own.mean,
                    base=base_own.mean,
                    runs=own.runs,
                    base_runs=base_own.runs,
                    misses=half.misses,
                    base_misses=base_half.misses,
                    metric=metric,
                )
            )
    return found


def _calibrated(sweep: Sweep) -> Objective:
    """The same bounds, but thresholds of their own decide."""
    return replace(sweep.objective, metric=CALIBRATED, mode="max")


class _BestArm(NamedTuple):
    """mean: over its seeds. runs: their number. arms: how many there are. misses: whether it misses a bound."""

    mean: float
    runs: int
    arms: int
    misses: bool


def _best_arm(sweep: Sweep, finished: list[Trial], objective: Objective) -> _BestArm:
    """The first of the configurations of these trials, by their means over seeds."""
    arms = arms_frame(finished, sweep.classes, objective)
    first = arms.iloc[0]
    return _BestArm(float(first["mean"]), int(first["runs"]), len(arms), first.get("violation", 0.0) > 0)


def verdicts(sweep: Sweep) -> list[str]:
    """What the baseline says of each family, in one sentence or two; or why it says nothing."""
    runs = baseline_trials(sweep)
    if not runs:
        when = "" if sweep.status == "finished" else "once the sweep is finished, "
        return [f"The untuned baseline ({sweep.untuned.name}) was not run; {when}add it: {add_command(sweep)}"]
    if not _finished(runs):
        return [_unfinished(runs[0])]
    noise = calibrated_noise(sweep)
    return [sentence(gain, noise) for gain in gains(sweep)]


def sentence(gain: Gain, noise: Noise | None) -> str:
    """Whether a family leads the calibrated baseline, and whether so few runs can tell."""
    decided = noise is not None and abs(gain.calibrated) >= gain.margin(noise)
    best = f"the best of its {gain.arms} finished configurations" if gain.arms > 1 else "its one finished configuration"
    own = f"at thresholds of their own it {_by(gain.calibrated)} ({gain.best:.4f} and {gain.base:.4f})"
    figures = f"at 0.5 {best} {_by(gain.at_half)}, {own}"
    if gain.metric:
        figures = f"in {in_words(gain.metric)} {best} {_by(gain.at_half)}; in mean Dice {own}"
    if gain.misses != gain.base_misses:
        verdict = "has not beaten the untuned baseline, which alone keeps the bounds"
        verdict = "leads the untuned baseline, which misses the bounds" if gain.base_misses else verdict
    elif (gain.at_half if gain.metric else gain.calibrated) > 0:
        verdict = "leads the untuned baseline"
        verdict += " at thresholds of their own only" if gain.at_half < 0 and not gain.metric else ""
    elif gain.at_half > 0:
        verdict = f"{'has' if decided else 'may have'} only moved the operating point of the untuned baseline"
    else:
        verdict = "has not beaten the untuned baseline"
    figures += "; both miss the bounds" if gain.misses and gain.base_misses else ""
    return f"{gain.family} {verdict}: {figures}. {_weight(gain, noise)}"


def _weight(gain: Gain, noise: Noise | None) -> str:
    """How much the calibrated difference says."""
    if noise is None:
        return "Single runs cannot decide this."
    margin = gain.margin(noise)
    if abs(gain.calibrated) < margin:
        return f"A difference below {margin:.4f} may be noise: undecided."
    most = "; for the best of several it explains more" if gain.arms > 1 else ""
    return f"Noise explains differences up to {margin:.4f}{most}."


def _by(difference: float) -> str:
    if difference == 0:
        return "is level with it"
    return f"{'leads' if difference > 0 else 'trails'} by {abs(difference):.4f}"


def _unfinished(trial: Trial) -> str:
    """Why there is nothing to compare with."""
    if trial.status == "stopped early":
        epochs = trial.config.get("trainer", {}).get("epochs", "all")
        why = f"was stopped at epoch {trial.epochs} of {epochs}: its row is not a fair one"
    elif trial.failed:
        why = f"failed ({trial.reason})"
    elif trial.status == "finished":
        why = f"has no calibrated Dice ({trial.calibration.notes})"
    else:
        why = "has not finished"
    return f"The untuned baseline, {trial.name}, {why}; no family is compared with it."


def _finished(trials: Iterable[Trial]) -> list[Trial]:
    """Those at full budget whose calibrated Dice is known."""
    return [t for t in trials if t.status == "finished" and math.isfinite(t.score(CALIBRATED))]
