"""The leaderboard, with intervals where there are any, and the Dice of each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from trainables.calibration import CALIBRATED
from tune_app.evidence.critical import t_critical
from tune_app.reporting.cost import fronts
from tune_app.reporting.findings import Findings, counted
from tune_app.reporting.page import Plot as Picture
from tune_app.reporting.page import Section, Table, short
from tune_app.reporting.plots import BEST, OUTLINE, figure, hatching, listed_upwards, with_intervals
from tune_app.results.baseline import verdicts
from tune_app.results.cost import COSTS, about_fronts, for_the_eye
from tune_app.results.folders import spoken
from tune_app.results.summary import cautions
from tune_app.results.trial import Trial

SHOWN = 20
"""Rows of the leaderboard that are not folded away, and configurations in its picture."""
BARS = 6
"""Configurations in the bars per class, the baseline besides."""
DROPPABLE = ("minutes", "best_epoch", "family")
COLUMNS = (
    "rank",
    "name",
    "family",
    "{metric}",
    CALIBRATED,
    "{classes}",
    "best_epoch",
    "epochs",
    "minutes",
    *COSTS,
    "origin",
    "status",
)


def leaderboard(findings: Findings) -> Section:
    """Who leads, by how much, and how far that is to be believed."""
    title = "Leaderboard"
    if not findings.ranked:
        why = "no trial has a score yet" if findings.sweep.trials else "no trial has begun"
        return Section(key="leaderboard", title=title, nothing=f"Nothing to rank: {why}.")
    frame = shown(findings)
    parts: list[Picture | Table] = [
        intervals(findings),
        Table(
            key="leaderboard-table",
            title=f"The first {SHOWN}" if len(frame) > SHOWN else "All trials",
            droppable=DROPPABLE,
            frame=frame.head(SHOWN),
            data=findings.board,
        ),
    ]
    if len(frame) > SHOWN:
        rest = frame.iloc[SHOWN:]
        parts.append(
            Table(
                key="leaderboard-rest",
                title=f"The other {len(rest)} trials",
                frame=rest,
                folded=True,
                droppable=DROPPABLE,
            )
        )
    parts += fronts(findings)
    elsewhere = verdicts(findings.sweep)  # said where the thresholds are shown
    said = [
        verdict(findings),
        *about_fronts(findings.sweep.trials, findings.sweep.device),
        *(c for c in cautions(findings.sweep, findings.board) if c not in elsewhere),
    ]
    return Section(key="leaderboard", title=title, text=said, parts=parts)


def shown(findings: Findings) -> pd.DataFrame:
    """The columns of the leaderboard that are for the eye."""
    board, sweep = findings.board, findings.sweep
    wanted: list[str] = []
    for name in COLUMNS:
        filled = [f"dice/{c}" for c in sweep.classes] if name == "{classes}" else [name.format(metric=sweep.metric)]
        filled += [*sweep.objective.figures[1:], "violation"] if name == "{metric}" and sweep.objective.bounds else []
        wanted += [column for column in filled if column in board and column not in wanted]
    frame = board[wanted]
    constant = [c for c in ("family", CALIBRATED, "origin") if c in frame and frame[c].nunique(dropna=False) == 1]
    return for_the_eye(frame.drop(columns=constant), sweep.trials, sweep.device)


def verdict(findings: Findings) -> str:
    """What the first place is worth, in one sentence."""
    sweep, best = findings.sweep, findings.best
    assert best is not None
    lead = f"{best.name} leads with {findings.metric} {short(best.best[sweep.metric])} at epoch {best.best['epoch']}."
    if sweep.nearest:
        lead = f"{best.name} is the nearest to the bounds."
    noise = sweep.noise()
    if noise is None:
        return f"{lead} Nothing here says how much a second run would differ."
    second = next((t for t in findings.ranked if t.signature != best.signature), None)
    if second is None:
        return lead
    gap = abs(best.best[sweep.metric] - second.best[sweep.metric])
    told = "can" if gap >= noise.difference else "cannot"
    return (
        f"{lead} The next configuration is {short(gap)} behind; two single runs must differ by "
        f"{short(noise.difference)} to be believed at 95 %, so the two {told} be told apart by them."
    )


def intervals(findings: Findings) -> Picture:
    """The first configurations as points; with an interval those that were run with several seeds."""
    arms = arm_intervals(findings).head(SHOWN).iloc[::-1]
    repeated = arms["runs"] > 1
    marker = {
        "size": 10,
        "color": [marker_color(findings, name) for name in arms["arm"]],
        "symbol": ["diamond" if many else "circle-open" for many in repeated],
        "line_width": 2,
    }
    trace = with_intervals(arms, arms["arm"], "mean", "low", "high", marker=marker, name="mean over seeds")
    drawn = listed_upwards([trace], height=90 + 26 * len(arms), x=findings.metric)
    first = arms.iloc[-1]
    how = (
        f"Bars are 95 % intervals of the mean over seeds ({int(repeated.sum())} of {len(arms)} configurations were run "
        "more than once; their noise is pooled)."
        if repeated.any()
        else f"There are no intervals: no configuration has two finished runs. To get them: "
        f"python -m tune_app.confirm sweep={spoken(findings.sweep.folder)}, or seeds=3 with preset= or family=compare."
    )
    alt = (
        f"{counted(len(arms), 'configuration')}, best first, from {short(first['mean'])} ({first['arm']}) down to "
        f"{short(arms['mean'].min())}. {how} Hollow circles are single runs. The baseline is purple, the best black, "
        "the others have the colour of their family."
    )
    return Picture(
        key="leaderboard-intervals",
        title=f"{findings.metric} by configuration",
        alt=alt,
        figure=drawn,
        data=arms.iloc[::-1],
    )


def arm_intervals(findings: Findings) -> pd.DataFrame:
    """arm, mean, low, high, runs, best first; the interval of a single run is empty (NaN).

    An arm that never finished a run has the score of its best-ranked trial, with runs 0: that of fewer epochs.
    """
    noise = findings.sweep.noise()
    finished = findings.sweep.arms().set_index("arm")
    rows = []
    for arm in dict.fromkeys(findings.board.loc[findings.board["rank"].notna(), "arm"]):
        runs, mean = int(finished.loc[arm, "runs"]), float(finished.loc[arm, "mean"])
        if not runs:
            trials = findings.board[(findings.board["arm"] == arm) & findings.board["rank"].notna()]
            mean = float(trials[findings.sweep.metric].iloc[0])
        half = float(t_critical(noise.dof, 0.05)) * noise.sd / math.sqrt(runs) if noise and runs > 1 else math.nan
        rows.append({"arm": arm, "mean": mean, "low": mean - half, "high": mean + half, "runs": runs})
    frame = pd.DataFrame(rows, columns=["arm", "mean", "low", "high", "runs"])
    if findings.sweep.objective.bounds:
        return frame  # in the order of the leaderboard
    return frame.sort_values("mean", ascending=findings.sweep.mode == "min", kind="stable", ignore_index=True)


def marker_color(findings: Findings, arm: str) -> str:
    """Purple for the baseline, black for the best, else the colour of the family."""
    names = findings.board.loc[findings.board["arm"] == arm, "name"].tolist()
    if findings.best is not None and findings.best.name in names and findings.best is not findings.baseline:
        return BEST
    base = findings.baseline.name if findings.baseline is not None else ""
    return findings.color_of(findings.sweep.trial(base if base in names else names[0]))


def classes(findings: Findings) -> Section:
    """Grouped bars: a group per class, a bar per configuration."""
    title = "Dice of each class"
    names = list(findings.sweep.classes)
    trials = compared(findings)
    if not trials or not names:
        return Section(key="classes", title=title, nothing="Nothing to compare: no trial has a score yet.")
    rows = [{"name": t.name, "class": c, "dice": t.best.get(f"dice/{c}", math.nan)} for t in trials for c in names]
    data = pd.DataFrame(rows)
    traces = []
    for index, trial in enumerate(trials):
        own = data[data["name"] == trial.name]
        is_base = findings.baseline is not None and trial.name == findings.baseline.name
        traces.append(
            go.Bar(
                x=own["class"],
                y=own["dice"],
                name=f"{trial.name}{' (baseline)' if is_base else ''}",
                marker={"color": findings.color_of(trial), "line": OUTLINE, "pattern": hatching(index)},
                hovertemplate="%{fullData.name}<br>%{x}: %{y:.4f}<extra></extra>",
            )
        )
    drawn = figure(traces, height=460, y="Dice at the best epoch", barmode="group", bargap=0.25)
    drawn.update_yaxes(rangemode="tozero")
    per_class = findings.sweep.best_per_class()
    table = Table(
        key="classes-best",
        title="Best configuration per class",
        frame=per_class.drop(columns=["arm"], errors="ignore"),
        data=per_class,
    )
    picture = Picture(
        key="classes-bars",
        title="The best configurations, class by class",
        alt=in_words(trials, names),
        figure=drawn,
        data=data,
    )
    return Section(key="classes", title=title, parts=[picture, table])


def compared(findings: Findings) -> list[Trial]:
    """One trial of each of the first configurations, and the baseline."""
    first = {trial.signature: trial for trial in reversed(findings.ranked)}
    chosen = sorted(first.values(), key=findings.ranked.index)[:BARS]
    base = findings.baseline
    return chosen if base is None or base.signature in {t.signature for t in chosen} else [*chosen, base]


def in_words(trials: Sequence[Trial], names: Sequence[str]) -> str:
    parts = []
    for name in names:
        scores = {trial.name: trial.best.get(f"dice/{name}", math.nan) for trial in trials}
        finite = {key: value for key, value in scores.items() if math.isfinite(value)}
        if finite:
            leader = max(finite, key=lambda key: finite[key])
            parts.append(f"{name} {short(min(finite.values()), 3)} to {short(finite[leader], 3)} (best: {leader})")
    return f"Dice of {counted(len(trials), 'configuration')} at their best epochs, by class: {'; '.join(parts)}."
