"""What a running sweep is at: its open trials, what it has cost and will cost, and what it tries next."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial

from trainables.errors import TrainablesError
from tune_app.errors import InputError
from tune_app.planning.forecast import planned_epochs
from tune_app.reporting.findings import Findings, counted, listed
from tune_app.reporting.ledger import SAVED, amount, cost_table, wall_hours
from tune_app.reporting.page import Section, Table
from tune_app.reporting.parameters import quiet
from tune_app.results.sweep import read_study
from tune_app.results.trial import Trial, devices_of, is_finite
from tune_app.search.arms import all_arms, searched_space
from tune_app.search.guard import guard_of
from tune_app.settings.stored import stored_settings

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
        left += f", {in_hours(hours / slots)} on the clock at {counted(slots, 'trial')} at once"
    return [f"{told} To come, if trials go as far as was planned and an epoch takes as long as so far: {left}."]


def epochs_to_come(findings: Findings) -> float:
    """Epochs that the plan leaves for trials that run, wait or have not begun; NaN without a plan.

    A trial that has outlived what is expected is taken to run to its last epoch, one that is paused to stay there.
    """
    each, trials = planned_epochs(findings.sweep.folder), findings.plan.get("trials")
    if math.isnan(each) or not isinstance(trials, int):
        return math.nan
    begun = [trial.epochs for trial in findings.sweep.trials if trial.status in ("running", "waiting")]
    open_ones = sum(each - done if done < each else max(0, findings.epochs - done) for done in begun)
    return max(0, trials - len(findings.sweep.trials)) * each + open_ones


def in_hours(hours: float, device: str = "") -> str:
    """Whole minutes below two hours, and two digits of hours."""
    if hours < 1 / 60:
        return f"less than a {device}minute"
    return f"{hours:.2g} {device}hours" if hours >= 2 else counted(round(60 * hours), f"{device}minute")


def next_arms(findings: Findings) -> list[str]:
    """What is tried next: the planned configurations that have not begun, in order, or where there are none left what
    the sampler would propose now; [] where nothing says which, or all trials have begun."""
    planned = findings.plan.get("arms")
    if not isinstance(planned, list):
        return []
    trials = read_study(findings.sweep.folder)[0]
    begun = ((t.user_attrs.get("label"), t.user_attrs.get("seed")) for t in trials if t.user_attrs.get("planned"))
    known = (tuple(one) for one in planned if isinstance(one, list) and [type(value) for value in one] == [str, int])
    left = list((Counter(known) - Counter(begun)).elements())  # in the order of the plan
    if not left:
        return proposed(findings, trials)
    seeds = {seed for _, seed in left}
    names = [f"{label} (seed {seed})" if len(seeds) > 1 else label for label, seed in left]
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return [f"Next, as planned: {listed(names[:MOST_NAMED] + more)}."]


def proposed(findings: Findings, trials: Sequence[FrozenTrial]) -> list[str]:
    """What the driver would begin, had it a slot now; [] where it would begin nothing, and in a space of choices, where
    it may try the first configuration that was not tried instead."""
    budget, sweep = findings.plan.get("trials"), findings.sweep
    try:
        settings = stored_settings(sweep.folder)
        space = searched_space(settings)
    except (InputError, TrainablesError):
        return []
    if not isinstance(budget, int) or len(trials) >= budget or not space:
        return []
    if settings.search.name == "grid" or all_arms(settings.family, space, settings.seed) is not None:
        return []
    paused = {trial.name for trial in sweep.trials if trial.status == "paused"}
    with quiet():
        study = optuna.create_study(direction=f"{sweep.mode}imize")
        study.add_trials(trials)
        arm, _ = guard_of(settings, space).propose(
            study,
            family=settings.family,
            kind=settings.search.name,
            seed=settings.seed,
            number=len(trials),
            startup_trials=settings.search.startup_trials,
            is_paused=paused.__contains__,
        )
    instead = ", if no paused trial goes on instead" if settings.scheduler.name == "promote" else ""
    return [f"Next, had it a slot now, the search would begin {arm.label}{instead}. Every epoch may change that."]
