"""What scores cost: device-hours, memory, score per device-hour, and the trials that none betters at their cost.

Device-hours are GPU-hours, or CPU-hours where trials have no GPU: what was paid, compiling included.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from tune_app.results.tables import counted, in_words
from tune_app.results.trial import Trial, device_hours, devices_of, is_finite
from tune_app.settings.schema import model_of

HOURS, PER_HOUR, MEMORY = "device_hours", "score_per_hour", "gpu_memory_gb"
COSTS = (HOURS, PER_HOUR, MEMORY)
MOST_NAMED = 6
"""Trials of a front that are named in its line."""


def costs(trial: Trial) -> dict[str, float]:
    """device_hours of all its epochs; score_per_hour, the score of the best epoch over the device-hours up to it (NaN
    where the metric is minimised); gpu_memory_gb, the most that PyTorch had reserved in its process (NaN on the CPU,
    where rows do not tell it), an upper bound where the process had trained a larger network before."""
    hours = device_hours(trial) or math.nan  # 0 where no epoch said how long it took
    until = sum(
        row["seconds_epoch"]
        for row in trial.history
        if is_finite(row.get("seconds_epoch")) and row["epoch"] <= trial.best.get("epoch", 0)
    )
    rises = trial.objective.mode == "max" and until > 0
    memory = [row["gpu_memory_mb"] for row in trial.history if is_finite(row.get("gpu_memory_mb"))]
    return {
        HOURS: hours,
        PER_HOUR: trial.score(trial.metric) / (until / 3600 * devices_of(trial)) if rises else math.nan,
        MEMORY: max(memory) / 1024 if memory else math.nan,
    }


def models_differ(trials: Iterable[Trial]) -> bool:
    """Whether the trials differ in what an epoch costs: in model, patch, batch, or devices."""
    return len({(model_of(trial.config), devices_of(trial)) for trial in trials if trial.config}) > 1


def front(trials: Iterable[Trial], cost: str) -> list[Trial]:
    """The Pareto front: the trials than which none is better and at most as dear, or cheaper and at least as good.

    The cheapest first. Better is what the objective says; trials that are equal in both are all on it. Failed trials
    are not, nor those without a finite score or cost, nor those that miss a bound.
    """
    known = [
        (costs(trial)[cost], trial) for trial in trials if trial.best and not trial.failed and trial.violation == 0
    ]
    ordered = sorted(
        ((dear, trial) for dear, trial in known if math.isfinite(dear)),
        key=lambda pair: (pair[0], -pair[1].objective.score(pair[1].best), pair[1].number),
    )
    found: list[tuple[float, Trial]] = []
    for dear, trial in ordered:
        score = trial.objective.score(trial.best)
        last = found[-1] if found else None
        best = last[1].objective.score(last[1].best) if last else -math.inf
        if score > best or (last and score == best and dear == last[0]):
            found.append((dear, trial))
    return [trial for _, trial in found]


def for_the_eye(frame: pd.DataFrame, trials: Sequence[Trial], device: str) -> pd.DataFrame:
    """A leaderboard with the columns of costs under their names where the trials differ in them, else without.

    device: GPU or CPU.
    """
    if not models_differ(trials):
        return frame.drop(columns=[*COSTS], errors="ignore")
    unsaid = [name for name in COSTS if name in frame and frame[name].isna().all()]
    names = {HOURS: f"{device}-hours", PER_HOUR: f"score per {device}-hour", MEMORY: "memory GB"}
    return frame.drop(columns=[*unsaid, "minutes"], errors="ignore").rename(columns=names)


def about_fronts(trials: Sequence[Trial], device: str) -> list[str]:
    """Who is on the fronts, a line each; [] where the trials do not differ in what they cost."""
    if not models_differ(trials):
        return []
    lines, hours = [], f"{device}-hours"
    for cost, little, of, unit in ((HOURS, "fewer", hours, hours), (MEMORY, "less", "GPU memory", "GB")):
        found = front(trials, cost)
        lines.append(
            f"None is better for {little} {of}: {_named(found, cost, unit)}."
            if found
            else f"No front of {in_words(trials[0].metric)} against {of}: {_why(trials, cost)}."
        )
    return lines


def _named(found: Sequence[Trial], cost: str, unit: str) -> str:
    named = [f"{t.name} ({t.score(t.metric):.4f}, {costs(t)[cost]:.3g} {unit})" for t in found[-MOST_NAMED:]]
    left = len(found) - len(named)
    return ", ".join([*([f"{counted(left, 'cheaper one')}"] if left else []), *named])


def _why(trials: Iterable[Trial], cost: str) -> str:
    ranked = [trial for trial in trials if trial.best and not trial.failed]
    if not any(trial.violation == 0 for trial in ranked):
        return "no trial keeps the bounds" if ranked else "no trial has a score yet"
    return "rows tell it on CUDA only" if cost == MEMORY else "no epoch says how long it took"
