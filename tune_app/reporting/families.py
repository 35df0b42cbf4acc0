"""Families compared as distributions: how good a family's best trial is says little of how good it usually is."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from tune_app.reporting.findings import Findings, counted
from tune_app.reporting.page import Plot, Section, Table, short
from tune_app.reporting.plots import INK, OUTLINE, baseline_line, color, figure, symbol


def families(findings: Findings) -> Section:
    """All finished trials at their best epochs, and all trials after as many epochs as the shortest of them has."""
    title = "Families"
    if not findings.comparable:
        return Section(key="families", title=title, nothing="Nothing to compare: no trial has a score yet.")
    sweep = findings.sweep
    finished = {t.name: float(t.best[sweep.metric]) for t in findings.comparable if t.status == "finished"}
    parts: list[Plot | Table] = []
    if finished:
        what = "at the best epoch of the trials that ran to the end"
        parts.append(distribution(findings, finished, "families-finished", f"{findings.metric} {what}", what))
    common = findings.common_epoch
    early = {t.name: findings.score_within(t, common) for t in findings.comparable} if common else {}
    early = {name: value for name, value in early.items() if math.isfinite(value)}
    if len(early) > len(finished):
        what = f"of all trials within their first {counted(common, 'epoch')}, which all of them had"
        parts.append(distribution(findings, early, "families-common", f"{findings.metric} {what}", what))
    table = sweep.families()
    parts.append(Table(key="families-table", title="Families in figures", frame=table))
    said = ["Trials that were stopped early had a smaller budget: they are compared with others at equal epochs only."]
    return Section(key="families", title=title, text=said, parts=parts)


def distribution(findings: Findings, scores: dict[str, float], key: str, title: str, what: str) -> Plot:
    """A box per family with its trials as points beside it."""
    rows = [
        {"family": trial.family, "name": trial.name, "score": scores[trial.name], "status": trial.status}
        for trial in findings.sweep.trials
        if trial.name in scores
    ]
    data = pd.DataFrame(rows)
    traces = []
    for index, family in enumerate(findings.families):
        own = data[data["family"] == family]
        traces.append(
            go.Box(
                y=own["score"],
                x=own["family"],
                text=own["name"],
                name=family,
                boxpoints="all",
                jitter=0.6,
                pointpos=-1.7,
                line={"color": INK, "width": 1.4},
                fillcolor=color(index),
                opacity=0.85,
                width=0.34,
                marker={"color": color(index), "symbol": symbol(index), "size": 6, "line": OUTLINE},
                hovertemplate="%{text}<br>%{y:.4f}<extra></extra>",
                showlegend=False,
            )
        )
    drawn = figure(traces, height=430, y=findings.metric)
    base = findings.baseline
    if base is not None and base.name in scores:
        baseline_line(drawn, scores[base.name], "baseline")
    return Plot(key=key, title=title, alt=in_words(data, what), figure=drawn, data=data)


def in_words(data: pd.DataFrame, what: str) -> str:
    parts = []
    for family, own in data.groupby("family")["score"]:
        parts.append(
            f"{family}: {counted(len(own), 'trial')}, median {short(own.median(), 3)}, "
            f"from {short(own.min(), 3)} to {short(own.max(), 3)}"
        )
    return f"Scores {what}. {'; '.join(parts)}."
