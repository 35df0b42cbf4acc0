"""Training curves: every trial's score over its epochs, the rungs, and where trials were stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from tune_app.reporting.confusion import confusions
from tune_app.reporting.findings import Findings, counted, listed
from tune_app.reporting.page import Plot, Section, short
from tune_app.reporting.plots import BASELINE, BEST, INK, class_color, color, dash, figure, joined, symbol, upright_line
from tune_app.results.trial import Trial

CROWD = 40
"""Trials above which lines are drawn without a mark for every epoch."""
ENDS = {
    "stopped early": ("x-thin", "stopped early"),
    "paused": ("line-ew", "paused"),
    "failed": ("square-x-open", "failed"),
    "interrupted": ("line-ns", "interrupted"),
}
"""What marks the last epoch of a trial that did not run to the end: symbol and name."""


def curves(findings: Findings) -> Section:
    """The scores of all trials over the epochs, and the classes of the best one."""
    title = "Training curves"
    trained = [trial for trial in findings.sweep.trials if trial.best]
    if not trained:
        return Section(key="curves", title=title, nothing="Nothing to draw: no trial has finished an epoch.")
    parts = [all_curves(findings, trained)]
    if findings.best is not None and any(f"dice/{c}" in findings.best.best for c in findings.sweep.classes):
        parts.append(class_curves(findings, findings.best))
    if findings.best is not None:
        parts += confusions(findings.best, findings.baseline)
    epochs = listed([str(rung) for rung in findings.marked_rungs])
    told = f"Dotted lines are the rungs, at epoch {epochs}: there a trial goes on only if it is among the best so far."
    text = [told if findings.rungs else "No trial could be stopped early."]
    if findings.early_rung:
        early, first = findings.early_rung, findings.rungs[0]
        stopped = counted(findings.stopped_before_first_rung, "trial")
        text.append(
            f"The early rung at epoch {early} counts once ranks there have been shown to foretell those at epoch "
            f"{first}: {stopped} stopped by it."
        )
    return Section(key="curves", title=title, text=text, parts=parts)


def points(findings: Findings, trial: Trial) -> tuple[list[int], list[float]]:
    """Epochs and scores of a trial, those that are numbers."""
    rows = [(row["epoch"], row.get(findings.sweep.metric, math.nan)) for row in trial.history]
    finite = [(epoch, value) for epoch, value in rows if isinstance(value, int | float) and math.isfinite(value)]
    return [epoch for epoch, _ in finite], [float(value) for _, value in finite]


def all_curves(findings: Findings, trained: Sequence[Trial]) -> Plot:
    """One line per trial in the colour and dash of its family; the best and the baseline stand out."""
    traces = [family_curves(findings, trained, index, name) for index, name in enumerate(findings.families)]
    marked = [(findings.baseline, BASELINE, "baseline"), (findings.best, BEST, "best")]
    for trial, shade, role in marked:
        if trial is not None:
            x, y = points(findings, trial)
            traces.append(
                go.Scatter(
                    x=x,
                    y=y,
                    mode="lines+markers",
                    name=f"{role}: {trial.name}",
                    line={"color": shade, "width": 3},
                    marker_size=5,
                )
            )
    drawn = figure([*traces, *ends(findings, trained)], height=520, x="epoch", y=findings.metric)
    drawn.update_xaxes(range=[0.5, max(findings.epochs, *(trial.epochs for trial in trained)) + 0.5])
    for rung in findings.marked_rungs:
        upright_line(drawn, rung, f"rung {rung}")
    return Plot(
        key="curves-all",
        title=f"{findings.metric} over the epochs",
        alt=in_words(findings, trained),
        figure=drawn,
        data=curve_data(findings, trained),
    )


def family_curves(findings: Findings, trained: Sequence[Trial], index: int, family: str) -> go.Scatter:
    members = [trial for trial in trained if trial.family == family]
    lines = joined((*points(findings, trial), trial.name) for trial in members)
    mode = "lines+markers" if len(trained) <= CROWD else "lines"
    return go.Scatter(
        **lines,
        mode=mode,
        name=family or "unknown family",
        opacity=0.65 if len(trained) > 12 else 0.9,
        line={"color": color(index), "dash": dash(index), "width": 1.4},
        marker={"symbol": symbol(index), "size": 4},
        hovertemplate="%{text}<br>epoch %{x}: %{y:.4f}<extra></extra>",
    )


def ends(findings: Findings, trained: Sequence[Trial]) -> list[go.Scatter]:
    """Marks at the last epochs of trials that did not run to the end."""
    traces = []
    for status, (mark, name) in ENDS.items():
        last = [
            (x[-1], y[-1], t.name)
            for t in trained
            if t.status.startswith(status)
            for x, y in [points(findings, t)]
            if x
        ]
        if last:
            x, y, names = zip(*last)
            traces.append(
                go.Scatter(
                    x=x,
                    y=y,
                    text=names,
                    mode="markers",
                    name=name,
                    marker={"symbol": mark, "size": 9, "color": INK, "line": {"width": 1.8, "color": INK}},
                    hovertemplate="%{text}<br>" + name + " at epoch %{x}: %{y:.4f}<extra></extra>",
                )
            )
    return traces


def in_words(findings: Findings, trained: Sequence[Trial]) -> str:
    finished = sum(trial.status == "finished" for trial in trained)
    parts = [f"{counted(len(trained), 'trial')} over up to {findings.epochs} epochs, {finished} of them to the end."]
    for rung in findings.marked_rungs:
        number = sum(trial.status == "stopped early" and trial.epochs == rung for trial in trained)
        parts += [f"{number} stopped at epoch {rung}."] * (number > 0)
        number = sum(trial.status == "paused" and trial.epochs == rung for trial in trained)
        parts += [f"{number} paused at epoch {rung}."] * (number > 0)
    failed = sum(trial.failed for trial in trained)
    if failed:
        parts.append(f"{failed} failed.")
    best = findings.best
    if best is not None:
        scores = points(findings, best)[1]
        first, last, at_best = short(scores[0], 3), short(scores[-1], 3), short(best.best[findings.sweep.metric], 3)
        between = "" if at_best == last else f" over {at_best}, at epoch {best.best['epoch']},"
        parts.append(f"The best, {best.name}, goes from {first}{between} to {last}.")
    return " ".join(parts)


def curve_data(findings: Findings, trained: Sequence[Trial]) -> pd.DataFrame:
    """One row per trial and epoch: the scores, to four digits."""
    kept = [findings.sweep.metric, *(f"dice/{c}" for c in findings.sweep.classes), "loss", "val_loss", "seconds_epoch"]
    rows = []
    for trial in trained:
        own = {"name": trial.name, "family": trial.family, "status": trial.status, "seed": trial.seed}
        rows += [own | {"epoch": r["epoch"]} | {k: round(r[k], 4) for k in kept if k in r} for r in trial.history]
    return pd.DataFrame(rows)


def class_curves(findings: Findings, best: Trial) -> Plot:
    """The Dice of each class over the epochs of the best trial."""
    traces, rows = [], []
    for index, name in enumerate(findings.sweep.classes):
        values = [row.get(f"dice/{name}", math.nan) for row in best.history]
        epochs = [row["epoch"] for row in best.history]
        rows += [{"epoch": e, "class": name, "dice": v} for e, v in zip(epochs, values)]
        traces.append(
            go.Scatter(
                x=epochs,
                y=values,
                name=name,
                mode="lines+markers",
                marker={"symbol": symbol(index), "size": 6},
                line={"color": class_color(index), "dash": dash(index), "width": 2},
                hovertemplate=f"{name}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            )
        )
    drawn = figure(traces, height=400, x="epoch", y="Dice")
    upright_line(drawn, best.best["epoch"], f"best epoch {best.best['epoch']}")
    data = pd.DataFrame(rows)
    last = {c: best.best.get(f"dice/{c}", math.nan) for c in findings.sweep.classes}
    alt = (
        f"Dice of each class over the {best.epochs} epochs of {best.name}; at its best epoch {best.best['epoch']}: "
        + (", ".join(f"{name} {short(value, 3)}" for name, value in last.items()))
    )
    return Plot(key="curves-classes", title="The classes of the best trial", alt=f"{alt}.", figure=drawn, data=data)
