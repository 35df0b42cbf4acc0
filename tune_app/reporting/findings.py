"""What the sections of a report share: the sweep, its rungs, its best trial, its baseline, and fair scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from trainables.objective import number
from tune_app.planning.epochs import rung_epochs
from tune_app.reporting.page import Section, Table
from tune_app.reporting.plots import BASELINE, color
from tune_app.results.baseline import baseline_trials
from tune_app.results.finding import read_confirmation
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted as counted
from tune_app.results.tables import in_words
from tune_app.results.trial import Trial, read_json
from tune_app.settings.schema import early_rung, grace_period

PLAN = "plan.json"


@dataclass(frozen=True)
class Findings:
    """A sweep as the sections see it."""

    sweep: Sweep
    board: pd.DataFrame
    """The leaderboard, best first."""
    plan: Mapping[str, Any]
    confirmation: Mapping[str, Any]

    @property
    def metric(self) -> str:
        """The sweep's metric in words."""
        return in_words(self.sweep.metric)

    @cached_property
    def ranked(self) -> list[Trial]:
        """The trials that have a rank, best first."""
        by_name = {trial.name: trial for trial in self.sweep.trials}
        return [by_name[name] for name in self.board.loc[self.board["rank"].notna(), "name"]]

    @property
    def best(self) -> Trial | None:
        return self.ranked[0] if self.ranked else None

    @cached_property
    def baseline(self) -> Trial | None:
        """The best-ranked run with uniform weights, those at full budget first; None where none has a score."""
        names = {trial.name for trial in baseline_trials(self.sweep)}
        runs = [trial for trial in self.ranked if trial.name in names]
        return next((run for run in runs if run.status == "finished"), runs[0] if runs else None)

    @cached_property
    def epochs(self) -> int:
        """Epochs of a trial at full budget; 0 where nothing says."""
        given = [trial.config.get("trainer", {}).get("epochs", 0) for trial in self.sweep.trials]
        return max([self.sweep.settings.get("trainer", {}).get("epochs", 0), *given])

    @cached_property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which trials could be stopped early or paused, ascending.

        From the settings; where they say nothing of a scheduler, the epochs at which trials were stopped.
        """
        scheduler = self.sweep.settings.get("scheduler")
        stopped = {trial.epochs for trial in self.sweep.trials if trial.status in ("stopped early", "paused")}
        if not isinstance(scheduler, Mapping) or not self.epochs:
            return tuple(sorted(stopped))
        settings, name = self.sweep.settings, scheduler.get("name")
        listed = settings.get("family") == "compare" or settings.get("preset") or settings.get("trial")
        if not stopped and name not in ("asha", "promote") and (name != "auto" or listed):
            return ()
        rise = float(settings.get("trainer", {}).get("pct_start", 0.05))
        grace = grace_period(int(scheduler.get("grace_period") or 0), self.epochs, rise)
        return rung_epochs(self.epochs, grace, float(scheduler.get("reduction_factor", 4)))

    @cached_property
    def early_rung(self) -> int:
        """The epoch of the rung before the first that counted only once it foretold; 0 where there was none."""
        scheduler = self.sweep.settings.get("scheduler")
        if not self.rungs or not isinstance(scheduler, Mapping) or not scheduler.get("early"):
            return 0
        if scheduler.get("name") == "promote":
            return 0
        return early_rung(self.epochs, self.rungs[0], float(scheduler.get("reduction_factor", 4)))

    @cached_property
    def stopped_before_first_rung(self) -> int:
        """Trials that the early rung has stopped."""
        span = range(self.early_rung, self.rungs[0]) if self.early_rung else range(0)
        return sum(trial.status == "stopped early" and trial.epochs in span for trial in self.sweep.trials)

    @property
    def marked_rungs(self) -> tuple[int, ...]:
        """The rungs, with the early one where it has stopped a trial."""
        return (self.early_rung, *self.rungs) if self.stopped_before_first_rung else self.rungs

    @cached_property
    def comparable(self) -> list[Trial]:
        """Trials that have been trained and did not fail."""
        return [trial for trial in self.sweep.trials if not trial.failed and trial.best]

    @cached_property
    def common_epoch(self) -> int:
        """The last epoch that all trials which ended without failing have reached; 0 before the first has."""
        ended = [trial.epochs for trial in self.comparable if trial.status in ("finished", "stopped early", "paused")]
        return min(ended, default=0)

    def score_within(self, trial: Trial, epoch: int) -> float:
        """The best score of a trial's first `epoch` epochs; NaN where it has trained fewer or has none."""
        if trial.epochs < epoch:
            return math.nan
        objective = self.sweep.objective
        best: Mapping[str, Any] | None = None
        for row in trial.history[:epoch]:
            best = row if objective.better(row, best) else best
        return number(best or {}, objective.metric)

    @property
    def families(self) -> list[str]:
        """The families tried, by name: the order in which they take colours."""
        return sorted({trial.family for trial in self.sweep.trials})

    def color_of(self, trial: Trial) -> str:
        """Purple for the baseline, else that of the trial's family."""
        if self.baseline is not None and trial.name == self.baseline.name:
            return BASELINE
        return color(self.families.index(trial.family))


def gather(sweep: Sweep) -> Findings:
    """Read what the sections share."""
    return Findings(
        sweep=sweep,
        board=sweep.leaderboard(),
        plan=read_json(sweep.folder / PLAN),
        confirmation=read_confirmation(sweep.folder),
    )


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def diagnoses(findings: Findings) -> Section:
    """Every trial that went wrong, with its code, since when, and why."""
    title = "Diagnoses"
    frame = findings.sweep.diagnoses()
    if frame.empty:
        why = "no trial has begun" if not findings.sweep.trials else "no trial failed or was given a diagnosis"
        return Section(key="diagnoses", title=title, nothing=f"Nothing to show: {why}.")
    counts = ", ".join(f"{code} ({number})" for code, number in frame["code"].value_counts().items())
    text = f"{counted(frame['name'].nunique(), 'trial')} of {len(findings.sweep.trials)}: {counts}."
    table = Table(key="diagnoses-table", title="Trials with a diagnosis", frame=frame)
    return Section(key="diagnoses", title=title, text=[text], parts=[table])


def manifest(findings: Findings) -> Section:
    """manifest.json and the settings, every key on a line of its own."""
    title = "Manifest"
    recorded, settings = findings.sweep.manifest, findings.sweep.settings
    if not recorded and not settings:
        return Section(
            key="manifest", title=title, nothing="Nothing to show: manifest.json and sweep.yaml are missing or damaged."
        )
    parts = [
        Table(key=key, title=name, frame=pd.DataFrame(list(leaves(values)), columns=["key", "value"]), folded=folded)
        for key, name, values, folded in (
            ("manifest-table", "Where the results come from", recorded, False),
            ("manifest-settings", "All settings", settings, True),
        )
        if values
    ]
    return Section(key="manifest", title=title, parts=parts)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and value of everything in a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
