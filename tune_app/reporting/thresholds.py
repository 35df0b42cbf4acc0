"""Is it the loss or only the threshold: Dice against the threshold, and what thresholds of their own would bring."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from trainables.calibration import ARRAYS, AT_HALF, CALIBRATED, GAP, dice_at_thresholds, sigmoid
from tune_app.reporting.findings import Findings, counted
from tune_app.reporting.page import Plot, Section, Table, short
from tune_app.reporting.plots import BASELINE, BEST, OUTLINE, QUIET, baseline_line, color, figure, styled, symbol
from tune_app.results.baseline import verdicts
from tune_app.results.tables import header
from tune_app.results.trial import Trial

FEW, MANY, ROW_HEIGHT = 3, 4, 220
"""Panels in a row up to six classes, above that, and the pixels of a row: fourteen classes fit on one sheet."""
TICKS = (0.01, 0.1, 0.5, 0.9, 0.99)
LOGIT_RANGE = 7.0
"""Thresholds from 0.001 to 0.999 are drawn."""
TABLE_ROWS, NAMED = 20, 5
"""Rows of the table, and classes named in the text: those that gain most."""


def thresholds(findings: Findings) -> Section:
    """Curves of the best trial and of the baseline, and every trial at 0.5 and at thresholds of its own."""
    title = "Dice against the threshold"
    calibrated = [t for t in findings.ranked if math.isfinite(t.score(CALIBRATED))]
    curves = {t.name: curve for t in drawn_trials(findings) if len(curve := class_curves(t))}
    if not curves and not calibrated:
        return Section(key="thresholds", title=title, nothing=f"Nothing to show: {why_nothing(findings)}.")
    parts: list[Plot | Table] = [threshold_curves(findings, curves)] if curves else []
    if calibrated:
        parts += [at_both(findings, calibrated), table(findings)]
    text = [
        "A loss that only shifts the logits shifts the threshold. So every configuration is also scored at the best "
        "threshold of each class, chosen on one half of the validation crops and measured on the other (cross-fitted).",
        *verdicts(findings.sweep),
    ]
    return Section(key="thresholds", title=title, text=text, parts=parts)


def why_nothing(findings: Findings) -> str:
    if not findings.ranked:
        return "no trial has a score yet"
    problems = {trial.calibration.problem for trial in findings.ranked} - {""}
    return next(iter(sorted(problems)), "no class could be calibrated")


def drawn_trials(findings: Findings) -> list[Trial]:
    """The best trial and the baseline, once where they are the same."""
    both = [trial for trial in (findings.best, findings.baseline) if trial is not None]
    return both[:1] if len({trial.name for trial in both}) == 1 else both


def class_curves(trial: Trial) -> pd.DataFrame:
    """class, threshold (probability), logit and dice of a trial's best epoch; empty where histograms are missing."""
    if trial.calibration.problem:
        return pd.DataFrame()
    arrays = trial.validation(ARRAYS)
    positive, negative = (arrays[name].sum(axis=0) for name in ("hist_positive", "hist_negative"))
    dice, edges = dice_at_thresholds(positive, negative), arrays["edges"][1:-1]
    shown = np.abs(edges) <= LOGIT_RANGE
    rows = [
        {"name": trial.name, "class": str(name), "logit": z, "threshold": sigmoid(z), "dice": d}
        for name, curve in zip(arrays["classes"], dice)
        for z, d in zip(edges[shown], curve[shown])
    ]
    return pd.DataFrame(rows).dropna(subset=["dice"])


def threshold_curves(findings: Findings, curves: dict[str, pd.DataFrame]) -> Plot:
    """A panel per class: Dice at every threshold, the chosen one marked, 0.5 dotted."""
    data = pd.concat(curves.values(), ignore_index=True)
    names = [c for c in findings.sweep.classes if c in set(data["class"])] or sorted(set(data["class"]))
    columns = FEW if len(names) <= 2 * FEW else MANY
    rows = math.ceil(len(names) / columns)
    drawn = make_subplots(rows=rows, cols=columns, subplot_titles=names, shared_yaxes=True, vertical_spacing=0.3 / rows)
    for trial in drawn_trials(findings):
        if trial.name in curves:
            add_curves(drawn, trial, curves[trial.name], names, columns, findings)
    drawn = styled(drawn)
    ticks = [math.log(p / (1 - p)) for p in TICKS]
    drawn.update_xaxes(tickvals=ticks, ticktext=[f"{p:g}" for p in TICKS], range=[-LOGIT_RANGE, LOGIT_RANGE])
    drawn.update_yaxes(rangemode="tozero")
    drawn.update_layout(height=110 + ROW_HEIGHT * rows, legend={"y": -0.1 / rows, "yanchor": "top"})
    drawn.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"})
    return Plot(
        key="thresholds-curves",
        title="Dice at every threshold, class by class",
        alt=in_words(findings, curves),
        figure=drawn,
        data=data,
    )


def add_curves(
    drawn: go.Figure, trial: Trial, curve: pd.DataFrame, names: list[str], columns: int, findings: Findings
) -> None:
    is_best = findings.best is not None and trial.name == findings.best.name
    shade, dash, mark = (BEST, "solid", "circle") if is_best else (BASELINE, "dash", "diamond")
    chosen = dict(zip(trial.calibration.classes, trial.calibration.logits))
    for place, name in enumerate(names):
        own = curve[curve["class"] == name]
        where = {"row": place // columns + 1, "col": place % columns + 1}
        label = f"{'best' if is_best else 'baseline'}: {trial.name}"
        drawn.add_trace(
            go.Scatter(
                x=own["logit"],
                y=own["dice"],
                text=own["threshold"],
                mode="lines",
                name=label,
                legendgroup=trial.name,
                showlegend=place == 0,
                line={"color": shade, "dash": dash, "width": 2},
                hovertemplate="threshold %{text:.3f}: Dice %{y:.4f}<extra>" + name + "</extra>",
            ),
            **where,
        )
        at = own[np.isclose(own["logit"], chosen.get(name, math.nan))]
        drawn.add_trace(
            go.Scatter(
                x=at["logit"],
                y=at["dice"],
                mode="markers",
                showlegend=False,
                legendgroup=trial.name,
                marker={"symbol": mark, "size": 10, "color": "white", "line": {"color": shade, "width": 2}},
                hoverinfo="skip",
            ),
            **where,
        )


def in_words(findings: Findings, curves: dict[str, pd.DataFrame]) -> str:
    parts = []
    for trial in drawn_trials(findings):
        found = trial.calibration
        if trial.name in curves:
            every = zip(found.classes, found.probabilities, found.calibrated, found.dice)
            known = sorted((one for one in every if math.isfinite(one[1])), key=lambda one: one[3] - one[2])
            best = [
                f"{c} {short(p, 2)} (Dice {short(own, 3)} instead of {short(half, 3)})" for c, p, own, half in known
            ]
            more = f" and {len(best) - NAMED} more" if len(best) > NAMED else ""
            listed = f"{', '.join(best[:NAMED])}{more}" if best else "unknown: too few validation crops"
            parts.append(f"{trial.name}: best thresholds {listed}")
    return (
        f"Dice of each class against the probability at which a voxel counts as predicted. {'. '.join(parts)}. Marks "
        "are thresholds chosen on all crops; the Dice in brackets is cross-fitted. The dotted line is 0.5."
    )


def at_both(findings: Findings, calibrated: list[Trial]) -> Plot:
    """Every trial: at 0.5 across, at thresholds of its own upwards."""
    rows = [
        {
            "name": t.name,
            "family": t.family,
            "status": t.status,
            "at_half": t.calibration.mean,
            "calibrated": t.score(CALIBRATED),
            "gap": t.score(GAP),
        }
        for t in calibrated
    ]
    data = pd.DataFrame(rows)
    traces = [
        go.Scatter(
            x=own["at_half"],
            y=own["calibrated"],
            text=own["name"],
            mode="markers",
            name=str(family),
            marker={"color": color(index), "symbol": symbol(index), "size": 9, "line": OUTLINE},
            hovertemplate="%{text}<br>at 0.5: %{x:.4f}<br>calibrated: %{y:.4f}<extra></extra>",
        )
        for index, family in enumerate(findings.families)
        for own in [data[data["family"] == family]]
    ]
    low, high = data[["at_half", "calibrated"]].min().min(), data[["at_half", "calibrated"]].max().max()
    traces.append(
        go.Scatter(
            x=[low, high],
            y=[low, high],
            mode="lines",
            name="no gain",
            hoverinfo="skip",
            line={"color": QUIET, "dash": "dot", "width": 1},
        )
    )
    base = findings.baseline
    drawn = figure(traces, height=460, x=f"{header(AT_HALF)} at 0.5", y="at thresholds of its own")
    if base is not None and base.name in set(data["name"]):
        baseline_line(drawn, base.score(CALIBRATED), "calibrated baseline")
    above = data[data["gap"] > 0]
    alt = (
        f"{counted(len(data), 'trial')}: {len(above)} gain by thresholds of their own, at most "
        f"{short(data['gap'].max(), 3)}, {short(data['gap'].median(), 3)} in the median. A trial below the dashed line "
        "does not beat the baseline once both may choose their thresholds."
    )
    return Plot(key="thresholds-gain", title="At 0.5 and at thresholds of their own", alt=alt, figure=drawn, data=data)


def table(findings: Findings) -> Table:
    """The first trials and the baseline with both scores and their thresholds."""
    names = [f"threshold/{c}" for c in findings.sweep.classes]
    columns = [c for c in ("rank", "name", findings.sweep.metric, CALIBRATED, GAP, *names) if c in findings.board]
    board = findings.board[findings.board["rank"].notna()]
    first = board.head(TABLE_ROWS)
    if "baseline" in board:
        first = pd.concat([first, board[board["baseline"].astype(bool) & ~board.index.isin(first.index)].head(1)])
    title = "Scores at 0.5 and calibrated, and the threshold of each class"
    frame = first[columns].rename(columns=lambda name: name.removeprefix("threshold/"))
    headers = {name: name for name in findings.sweep.classes}
    return Table(key="thresholds-table", title=title, frame=frame, data=board[columns], headers=headers)
