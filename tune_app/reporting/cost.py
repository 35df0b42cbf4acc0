"""Scores against what they cost, and the front that no trial betters; drawn where trials differ in their cost."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_app.reporting.findings import Findings, counted
from tune_app.reporting.page import Plot, short
from tune_app.reporting.plots import BASELINE, BEST, INK, OUTLINE, color, figure, symbol
from tune_app.results.cost import HOURS, MEMORY, costs, front, models_differ

LABELLED = 8
"""Trials of a front up to which each bears its name."""


def fronts(findings: Findings) -> list[Plot]:
    """The score against device-hours and against GPU memory; [] where all trials cost alike."""
    if not models_differ(findings.sweep.trials):
        return []
    pictures = (picture(findings, HOURS, f"{findings.sweep.device}-hours"), picture(findings, MEMORY, "GPU memory, GB"))
    return [one for one in pictures if one is not None]


def picture(findings: Findings, cost: str, unit: str) -> Plot | None:
    """A point per ranked trial and the front as a staircase; None where no trial says what it cost."""
    on_front = [trial.name for trial in front(findings.sweep.trials, cost)]
    metric = findings.sweep.metric
    rows: list[dict[str, Any]] = [
        {
            "name": trial.name,
            "family": trial.family,
            "status": trial.status,
            cost: costs(trial)[cost],
            metric: trial.score(metric),
            "on_front": trial.name in on_front,
        }
        for trial in findings.ranked
    ]
    data = pd.DataFrame([row for row in rows if math.isfinite(row[cost])])
    if data.empty:
        return None
    data = data.sort_values([cost, metric], kind="stable", ignore_index=True)
    best = data[data["on_front"]]
    traces: list[go.Scatter] = [
        go.Scatter(
            x=best[cost],
            y=best[metric],
            mode="lines",
            line={"color": INK, "width": 1.4, "shape": "hv", "dash": "dot"},
            name="front",
            hoverinfo="skip",
        )
    ]
    roles = {findings.best.name: (BEST, "best")} if findings.best is not None else {}
    if findings.baseline is not None and findings.baseline.name not in roles:
        roles[findings.baseline.name] = (BASELINE, "baseline")
    groups = [(color(i), symbol(i), family or "unknown family") for i, family in enumerate(findings.families)]
    members = [data[(data["family"] == f) & ~data["name"].isin(roles)] for f in findings.families]
    groups += [(shade, "diamond", f"{role}: {name}") for name, (shade, role) in roles.items()]
    members += [data[data["name"] == name] for name in roles]
    labelled = len(best) <= LABELLED
    for (shade, mark, name), own in zip(groups, members):
        if len(own):
            traces.append(
                go.Scatter(
                    x=own[cost],
                    y=own[metric],
                    text=own["name"],
                    mode="markers",
                    name=name,
                    marker={"color": shade, "symbol": mark, "size": 10, "line": OUTLINE},
                    hovertemplate=f"%{{text}}<br>%{{x:.3g}} {unit}: %{{y:.4f}}<extra></extra>",
                )
            )
    drawn = figure(traces, height=440, x=unit, y=findings.metric)
    if data[cost].max() > 3 * data[cost].min() > 0:
        drawn.update_xaxes(type="log", dtick="D2")
    for row in best.itertuples(index=False) if labelled else ():
        x = getattr(row, cost)
        drawn.add_annotation(
            x=math.log10(x) if drawn.layout.xaxis.type == "log" else x,
            y=best.loc[best["name"] == row.name, metric].iloc[0],
            text=row.name,
            showarrow=False,
            yshift=14,
            font={"size": 11, "color": INK},
        )
    return Plot(
        key=f"leaderboard-{cost.replace('_', '-')}",
        title=f"{findings.metric} against {unit}",
        alt=in_words(findings, data, cost, unit),
        figure=drawn,
        data=data,
    )


def in_words(findings: Findings, data: pd.DataFrame, cost: str, unit: str) -> str:
    best = data[data["on_front"]]
    spread = f"{counted(len(data), 'trial')}, from {data[cost].min():.3g} to {data[cost].max():.3g} {unit}."
    if best.empty:
        return f"{spread} No trial keeps the bounds, so there is no front."
    ends = [best.iloc[0], best.iloc[-1]]
    told = [f"{short(one[findings.sweep.metric])} at {one[cost]:.3g} ({one['name']})" for one in ends[: len(best)]]
    return (
        f"{spread} The dotted staircase joins the {counted(len(best), 'trial')} than which none is better for less: "
        f"{findings.metric} {' up to '.join(told) if findings.sweep.mode == 'max' else ' down to '.join(told)}."
    )
