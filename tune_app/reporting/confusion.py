"""What a classifier takes for what: the confusion matrix of the best epoch, and what was predicted in each epoch.

For trials whose validation.npz holds confusion matrices, whatever their task is called.

Legend: E epochs, K validation crops, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tune_app.reporting.page import Plot, short
from tune_app.reporting.plots import class_color, dash, figure, symbol, upright_line
from tune_app.results.trial import Trial

ARRAYS = ("confusion", "epochs", "classes")


def confusions(best: Trial, baseline: Trial | None) -> list[Plot]:
    """Plots of the best trial, and the matrix of the baseline beside its own; [] where nothing was kept."""
    if not (arrays := best.validation(ARRAYS)):
        return []
    found = [matrix(best, arrays, "best")]
    if baseline is not None and baseline.name != best.name and (other := baseline.validation(ARRAYS)):
        found.append(matrix(baseline, other, "baseline"))
        found.append(predicted(baseline, other, "baseline"))
    return [*found, predicted(best, arrays, "best")]


def matrix(trial: Trial, arrays: dict[str, Any], role: str) -> Plot:
    """Samples by true and predicted class at the best epoch, summed over the validation crops."""
    names, epoch = [str(name) for name in arrays["classes"]], trial.best["epoch"]
    counts = arrays["confusion"][list(arrays["epochs"]).index(epoch)].sum(axis=0)  # (C, C)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    drawn = figure(
        [
            go.Heatmap(
                x=names,
                y=names,
                z=share,
                zmin=0,
                zmax=1,
                colorscale="Blues",
                text=counts,
                texttemplate="%{text}",
                hovertemplate="true %{y}, predicted %{x}: %{text} (%{z:.0%})<extra></extra>",
                colorbar={"title": "share of<br>the class"},
            )
        ],
        height=360,
        x="predicted",
        y="true",
    )
    drawn.update_yaxes(autorange="reversed")
    rows = [
        {"true": a, "predicted": b, "samples": int(counts[i, j])}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    recalls = ", ".join(f"{name} {int(counts[i, i])} of {int(counts[i].sum())}" for i, name in enumerate(names))
    alt = (
        f"Validation samples of the {role} trial, {trial.name}, at its best epoch {epoch}, each looked at once: "
        f"rows are true classes, columns predicted ones. Found: {recalls}."
    )
    return Plot(
        key=f"confusion-{role}",
        title=f"What is taken for what: the {role} trial",
        alt=alt,
        figure=drawn,
        data=pd.DataFrame(rows),
    )


def predicted(trial: Trial, arrays: dict[str, Any], role: str) -> Plot:
    """The histogram of the predictions of each epoch, and how far it is from one class alone."""
    names, epochs = [str(name) for name in arrays["classes"]], [int(epoch) for epoch in arrays["epochs"]]
    counts = arrays["confusion"].sum(axis=(1, 2))  # (E, C)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    lines: list[tuple[str, Sequence[float]]] = [(f"share of {name}", share[:, c]) for c, name in enumerate(names)]
    for key, name in (("entropy_of_predictions", "entropy of the predictions"), ("entropy", "mean entropy of p")):
        by_epoch = {row["epoch"]: row.get(key) for row in trial.history}
        lines.append((name, [by_epoch.get(epoch) for epoch in epochs]))  # type: ignore[misc]
    traces = [
        go.Scatter(
            x=epochs,
            y=list(values),
            name=name,
            mode="lines+markers",
            marker={"symbol": symbol(index), "size": 6},
            line={"color": class_color(index), "dash": dash(index), "width": 2},
        )
        for index, (name, values) in enumerate(lines)
    ]
    drawn = figure(traces, height=400, x="epoch", y="share, or entropy ÷ ln C")
    upright_line(drawn, trial.best["epoch"], f"best epoch {trial.best['epoch']}")
    last = ", ".join(f"{name} {short(float(values[-1]), 2)}" for name, values in lines[: len(names)])
    alt = (
        f"Share of the predictions of the {role} trial, {trial.name}, that each class has, over its {len(epochs)} "
        f"epochs; in the last one {last}. An entropy of 0 means that all predictions are one class, 1 that all classes "
        "are alike."
    )
    data = pd.DataFrame({"epoch": epochs, **{name: list(values) for name, values in lines}})
    return Plot(key=f"predicted-{role}", title=f"What is predicted: the {role} trial", alt=alt, figure=drawn, data=data)
