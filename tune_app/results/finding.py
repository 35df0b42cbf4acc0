"""What `confirm` found, read back from a sweep's confirmation.json: for summary, export and report.

The file is as `tune_app.evidence.result` describes it. A field that is missing or of another kind (in a file of
another version) is left out, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tune_app.results.folders import is_confirmation, spoken
from tune_app.results.sweep import Sweep
from tune_app.results.trial import Trial, is_finite, read_json

CONFIRMATION = "confirmation.json"
NUMBERS = (
    "replicates",
    "mean",
    "low",
    "high",
    "p_best",
    "difference_to_best",
    "difference_to_best_low",
    "difference_to_best_high",
    "difference_to_baseline",
    "difference_to_baseline_low",
    "difference_to_baseline_high",
    "baseline_p_holm",
    "search_score",
    "winners_curse",
    "mean_best",
    "mean_last3",
)
SHOWN = {
    "name": "arm",
    "replicates": "replicates",
    "mean": "mean",
    "low": "low",
    "high": "high",
    "p_best": "P(best)",
    "in_set": "ties with the best",
    "search_score": "search score",
    "winners_curse": "winner's curse",
    "difference_to_baseline": "to baseline",
    "baseline_p_holm": "p (Holm)",
    "mean_best": "best epoch",
    "mean_last3": "last 3 epochs",
    "violation": "violation",
}
"""Columns of `arms_of` for the eye, and their headings."""
DROPPABLE = ("best epoch", "last 3 epochs", "winner's curse", "search score", "replicates")
"""Headings that go, in this order, where a table is too wide."""


def read_confirmation(folder: Path) -> dict[str, Any]:
    """The finding in a sweep's folder; {} where there is none."""
    return read_json(folder / CONFIRMATION)


def arms_of(found: Mapping[str, Any]) -> pd.DataFrame:
    """The arms with a name and a mean, best first; numbers that are missing are NaN."""
    arms = [arm for arm in entries(found, "arms") if arm.get("name") and is_finite(arm.get("mean"))]
    rows = [
        {"name": str(arm["name"]), "in_set": bool(arm.get("in_set"))}
        | {name: float(arm[name]) if is_finite(arm.get(name)) else math.nan for name in NUMBERS}
        | {"violation": float(arm["violation"]) if is_finite(arm.get("violation")) else 0.0}
        for arm in arms
    ]
    frame = pd.DataFrame(rows, columns=["name", *NUMBERS[:5], "in_set", *NUMBERS[5:], "violation"])
    lower = (found.get("source") or {}).get("mode") == "min"
    whole = {"replicates": "Int64"} if (frame["replicates"].dropna() % 1 == 0).all() else {}
    return frame.astype(whole).sort_values(
        ["violation", "mean"], ascending=[True, lower], kind="stable", ignore_index=True
    )


def entries(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    values = found.get(name)
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []


def texts(found: Mapping[str, Any], name: str) -> list[str]:
    values = found.get(name)
    return [str(one) for one in values if one] if isinstance(values, list) else []


def said(found: Mapping[str, Any]) -> list[str]:
    """The statement, why, what to take, and what limits it."""
    statement = [str(found["statement"])] if found.get("statement") else []
    if (found.get("source") or {}).get("score") == "last3":
        statement.append("A run is scored by the mean of its last three epochs.")
    return [*statement, *texts(found, "reasons"), *default_choice(found), *texts(found, "cautions")]


def default_choice(found: Mapping[str, Any]) -> list[str]:
    """What to take, and why, in a sentence."""
    choice, reason = found.get("default_choice"), found.get("default_reason")
    return [f"Default choice: {choice}, {reason}."] if choice and reason else []


def for_the_eye(arms: pd.DataFrame) -> pd.DataFrame:
    """The columns of `arms_of` for the eye: violation where there is one, nothing of the best where all have it, the
    mean by the other score where it is known."""
    unsaid = ["violation"] if not arms["violation"].any() else ["p_best", "in_set"] if arms["violation"].all() else []
    unsaid += [name for name in ("mean_best", "mean_last3") if arms[name].isna().all()]
    return arms[[name for name in SHOWN if name not in unsaid]]


def confirmed_table(found: Mapping[str, Any]) -> pd.DataFrame:
    """The arms for the eye, best first; empty without a finding."""
    return for_the_eye(arms_of(found)).rename(columns=SHOWN)


def confirmed_order(found: Mapping[str, Any]) -> list[str]:
    """Arms in the order of trust: the winner or the default choice, the rest of its equivalence set, the others."""
    names = arms_of(found)["name"].tolist()
    first = [str(found.get("default_choice") or ""), *texts(found, "equivalence_set")]
    return list(dict.fromkeys(name for name in [*first, *names] if name in names))


def in_confirmed_order(sweep: Sweep, ranked: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of the leaderboard, those of confirmed arms first, and what to say of that; unchanged where none are."""
    notices, found = damage(sweep.folder), read_confirmation(sweep.folder)
    if not found:
        return ranked, notices
    told = [*texts(found, "reasons"), *default_choice(found)] if not found.get("winner") else []
    notices.append(" ".join([f"confirmed: {found.get('statement')}", *told]))
    arms = {name: arm_of_trial(found, sweep.trial(name)).get("name") for name in ranked["name"]}
    first = [next((n for n in ranked["name"] if arms[n] == arm), "") for arm in confirmed_order(found)]
    missing = [arm for arm, name in zip(confirmed_order(found), first) if not name]
    if missing:
        notices.append(f"{', '.join(missing)}: confirmed, but not in the search itself, so not exported from it")
    first = [name for name in first if name]
    rows = pd.concat([ranked.set_index("name").loc[first].reset_index(), ranked[~ranked["name"].isin(first)]])
    return rows, notices


def confirmation_of(sweep: Sweep, trial: Trial) -> dict[str, Any] | None:
    """What replicates say of a trial's configuration, for its export; None where it was not confirmed."""
    found = read_confirmation(sweep.folder)
    arm = arm_of_trial(found, trial)
    if not arm:
        return None
    shown = ("name", "replicates", "mean", "low", "high", "in_set", "winners_curse")
    whole = ("statement", "winner", "equivalence_set", "default_choice", "default_reason")
    return {key: arm.get(key) for key in shown} | {key: found.get(key) for key in whole}


def arm_of_trial(found: Mapping[str, Any], trial: Trial) -> Mapping[str, Any]:
    """The confirmed arm that a trial is a run of, by its effective loss; {} for none."""
    arms = [arm for arm in entries(found, "arms") if arm.get("name")]
    return next((arm for arm in arms if arm.get("signature") == trial.signature), {})


def damage(folder: Path) -> list[str]:
    """A sentence where a sweep's finding is there and cannot be read; [] where it can, or there is none."""
    if not (folder / CONFIRMATION).is_file() or read_confirmation(folder):
        return []
    again = folder.parent if is_confirmation(folder) else folder
    return [
        f"{folder / CONFIRMATION} is damaged: what was confirmed is not known. Write it again: python -m "
        f"tune_app.confirm resume={spoken(again)}"
    ]


def what_is_confirmed(sweep: Sweep, found: Mapping[str, Any], leader: Trial | None) -> list[str]:
    """What the finding says, in sentences; leader: the first of the leaderboard."""
    if not found:
        return damage(sweep.folder)
    told = said(found)
    if leader is not None and not arm_of_trial(found, leader) and not is_confirmation(sweep.folder):
        told.append(
            f"The first of the leaderboard, {leader.name}, was not among the confirmed arms. Confirm again: python -m "
            f"tune_app.confirm sweep={spoken(sweep.folder)}"
        )
    return told
