"""What must be said beside a leaderboard: what it is of, how the sweep stands, and how far its ranks can be trusted."""

from __future__ import annotations

import math

import pandas as pd

from tune_app.results.baseline import baseline_trials, verdicts
from tune_app.results.folders import is_confirmation, resume_command, spoken
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted

PHANTOM = "PHANTOM DATA: generated volumes. These scores say nothing about real electron microscopy."


NOT_VALIDATED = (
    "NOT VALIDATED: the validation crops were trained on, too (final=), so scores on them say nothing of other data."
)


def notices(sweep: Sweep) -> list[str]:
    how = f"resume with: {resume_command(sweep.folder)}"
    state = {
        "running": ["the sweep is still running: the ranks are not final"],
        "crashed": [f"the driver ended without finishing the sweep; {how}"],
        "interrupted": [f"the sweep was interrupted; {how}"],
    }.get(sweep.status, [])
    unseen = [] if sweep.validated else [NOT_VALIDATED]
    return [*([PHANTOM] if sweep.phantom else []), *unseen, *state, *sweep.notices]


def cautions(sweep: Sweep, board: pd.DataFrame, *, confirmed: bool = False) -> list[str]:
    """How far a leaderboard can be trusted. confirmed: replicates have already said what can be told apart."""
    ranked = board[board["rank"].notna()]
    if ranked.empty:
        return ["No trial has a score yet.", *([] if baseline_trials(sweep) else verdicts(sweep))]
    found = ["A row of the leaderboard is one run: a screening score, not a result."]
    if sweep.nearest:
        found.insert(0, sweep.nearest)
    elif sweep.objective.bounds:
        found.insert(0, f"First come the trials that keep the bounds: {sweep.objective.bounds}.")
    if not confirmed and not is_confirmation(sweep.folder):
        found[-1] += f" Before choosing: python -m tune_app.confirm sweep={spoken(sweep.folder)}"
    noise = sweep.noise()
    if noise is not None:
        found.append(
            f"Noise between runs of one configuration: sd {noise.sd:.4f} ({noise.arms} repeated, {noise.dof} degrees "
            f"of freedom). Two single runs must differ by {noise.difference:.4f} to be believed at 95 %."
        )
    stopped = int((ranked["status"] == "stopped early").sum())
    if stopped:
        were = "was stopped early: its score is" if stopped == 1 else "were stopped early: theirs are scores"
        found.append(f"{counted(stopped, 'trial')} {were} of fewer epochs.")
    return found + ([] if confirmed else verdicts(sweep)) + about_calibration(sweep)


def about_calibration(sweep: Sweep) -> list[str]:
    """What `calibrated` means, and where it is missing."""
    found = [trial.calibration for trial in sweep.trials if trial.best]
    lost = [c for c in found if not math.isfinite(c.calibrated_mean)]
    if lost and len(lost) == len(found):
        return [f"No calibrated Dice: {lost[0].notes}."]
    told = [
        "Calibrated: at a threshold per class, chosen on one half of the validation crops and scored on the other; the "
        "leaderboard shows the best epoch, which was chosen at 0.5."
    ]
    told += (
        [f"{counted(len(lost), 'trial')} without calibrated Dice, the first because {lost[0].notes}."] if lost else []
    )
    partly = next((c.notes for c in found if c not in lost and c.notes), "")
    return told + ([f"Not calibrated, counted at 0.5: {partly}."] if partly else [])
