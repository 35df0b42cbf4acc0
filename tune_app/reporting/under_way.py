"""What a running sweep is at: its open trials, what it has cost and will cost, and what it tries next."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from tune_app.reporting.findings import Findings, counted, listed
from tune_app.reporting.ledger import SAVED, amount, cost_table, wall_hours
from tune_app.reporting.page import Section, Table
from tune_app.results.sweep import read_study
from tune_app.results.trial import Trial, devices_of, is_finite

OPEN = ("running", "paused", "waiting")
MOST_NAMED = 6
"""Planned configurations that are named; of the others their number is told."""


def under_way(findings: Findings) -> Section:
    """The first section of a sweep that runs."""
    begun = [trial for trial in findings.sweep.trials if trial.status in OPEN]
    parts = []
    if begun:
        frame = pd.DataFrame([open_trial(findings, trial) for trial in sorted(begun, key=_order)])
        parts.append(Table(key="under-way-trials", title="Trials that have not ended", frame=frame))
    text = [state(findings), *cost(findings), *next_arms(findings)]
    return Section(key="under-way", title="Under way", text=text, parts=parts)


def _order(trial: Trial) -> tuple[int, int]:
    return OPEN.index(trial.status), trial.number


def open_trial(findings: Findings, trial: Trial) -> dict[str, Any]:
    """A row of the table. since: minutes from the end of its last epoch, by this machine's clock."""
    last, metric = trial.history[-1] if trial.history else {}, findings.sweep.metric
    ended = last.get("time_ended", math.nan)
    since = max(0.0, time.time() - float(ended)) / 60 if is_finite(ended) else math.nan
    return {
        "name": trial.name,
        "status": trial.status,
        "epoch": f"{trial.epochs} of {findings.epochs}",
        f"last {metric}": last.get(metric, math.nan),
        f"best {metric}": trial.score(metric),
        "minutes since an epoch ended": amount(since) if since >= 1 or math.isnan(since) else "less than one",
    }


def state(findings: Findings) -> str:
    """How many trials have ended, run, pause, wait, and are still to begin."""
    trials = findings.sweep.trials
    by_status = Counter(trial.status if trial.status in OPEN else "ended" for trial in trials)
    told = [f"{by_status['ended']} ended"] + [f"{by_status[one]} {one}" for one in OPEN if by_status[one]]
    planned = findings.plan.get("trials")
    left = f", {planned - len(trials)} still to begin" if isinstance(planned, int) and planned > len(trials) else ""
    of = f" of {planned}" if isinstance(planned, int) else ""
    return f"{counted(len(trials), 'trial')}{of} begun: {', '.join(told)}{left}."


def cost(findings: Findings) -> list[str]:
    """What was spent, and what is to come where the plan says how far trials go; [] before the first epoch."""
    costs = cost_table(findings)
    seconds = [
        row["seconds_epoch"]
        for trial in findings.sweep.trials
        for row in trial.history
        if is_finite(row.get("seconds_epoch"))
    ]
    if costs.empty or not seconds:
        return []
    device = findings.sweep.device
    spent = float(costs.loc[costs["kind"] != SAVED, "hours"].sum())
    told = f"So far {in_hours(spent, f'{device}-')} in epochs"
    told += f", {in_hours(clock)} on the clock." if is_finite(clock := wall_hours(findings)) else "."
    epochs, slots = epochs_to_come(findings), findings.plan.get("slots")
    if math.isnan(epochs):
        return [f"{told} What is to come is unknown: the sweep's folder holds no plan."]
    hours = epochs * statistics.fmean(seconds) / 3600
    devices = statistics.fmean(devices_of(trial) for trial in findings.sweep.trials if trial.history)
    left = f"about {counted(round(epochs), 'epoch')}, {in_hours(hours * devices, f'{device}-')}"
    if isinstance(slots, int) and slots > 0:
        left += f", {in_hours(hours / slots)} on the clock at {slots} trials at once"
    return [f"{told} To come, if trials go as far as was planned and an epoch takes as long as so far: {left}."]


def epochs_to_come(findings: Findings) -> float:
    """Epochs that the plan leaves for trials that run, wait or have not begun; NaN without a plan.

    A trial that has outlived what is expected is taken to run to its last epoch, one that is paused to stay there.
    """
    expected, trials = findings.plan.get("epochs"), findings.plan.get("trials")
    if not isinstance(expected, Mapping) or not is_finite(expected.get("expected")) or not isinstance(trials, int):
        return math.nan
    each = float(expected["expected"]) / max(1, trials)
    begun = [trial.epochs for trial in findings.sweep.trials if trial.status in ("running", "waiting")]
    open_ones = sum(each - done if done < each else max(0, findings.epochs - done) for done in begun)
    return max(0, trials - len(findings.sweep.trials)) * each + open_ones


def in_hours(hours: float, device: str = "") -> str:
    """Minutes below two hours, and nothing more exact than a minute."""
    if hours < 1 / 60:
        return f"less than a {device}minute"
    return f"{amount(hours)} {device}hours" if hours >= 2 else f"{amount(60 * hours)} {device}minutes"


def next_arms(findings: Findings) -> list[str]:
    """The planned configurations that have not begun, in order; [] where none is left or nothing says which."""
    planned = findings.plan.get("arms")
    if not isinstance(planned, list):
        return []
    attributes = [trial.user_attrs for trial in read_study(findings.sweep.folder)[0]]
    begun = ((told.get("label"), told.get("seed")) for told in attributes if told.get("planned"))
    left = list(without(((one[0], one[1]) for one in planned if isinstance(one, list) and len(one) == 2), begun))
    if not left:
        return []
    seeds = {seed for _, seed in left}
    names = [f"{label} (seed {seed})" if len(seeds) > 1 else label for label, seed in left]
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return [f"Next, as planned: {listed(names[:MOST_NAMED] + more)}."]


def without(arms: Iterable[tuple[Any, ...]], begun: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """The arms, each as often as it has not begun."""
    taken = Counter(begun)
    for arm in arms:
        if taken[arm]:
            taken[arm] -= 1
        else:
            yield arm
