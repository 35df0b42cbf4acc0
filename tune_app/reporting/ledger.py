"""What the sweep has cost: hours per family and rung, what early stopping saved and failures lost.

Hours are those of epochs (training and validation) times the GPUs, or without one the CPUs, of a trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_app.reporting.findings import Findings
from tune_app.reporting.page import Plot, Section, Table
from tune_app.reporting.plots import INK, OUTLINE, figure, greys
from tune_app.results.tables import MISSING
from tune_app.results.trial import Trial, devices_of, is_finite, read_history

TRAINED, FAILED, REPEATED, SAVED = (
    "trained",
    "lost to failures",
    "trained again after a crash",
    "saved by stopping early",
)
HATCH = {TRAINED: "", FAILED: "x", REPEATED: "+", SAVED: "/"}
BEFORE_RESTART = "history-before-restart.jsonl"
"""The rows of a trial whose checkpoints were lost, as `trainables.trial_folder` keeps them."""
ABOUT = "Hours of training and validation, times the devices of a trial; starts and waiting are not in them."


@dataclass(frozen=True)
class Unit:
    """What is counted: GPU- or CPU-hours, or minutes where an hour is too much. per_hour: of it in a device-hour."""

    name: str
    per_hour: float


def ledger(findings: Findings) -> Section:
    """Hours per family and rung, spent, lost and saved."""
    title = "Ledger"
    costs = cost_table(findings)
    if costs.empty:
        return Section(key="ledger", title=title, nothing="Nothing to count: no epoch says how long it took.")
    unit = unit_of(findings, costs)
    costs = costs.assign(amount=costs["hours"] * unit.per_hour)
    pivot = costs.pivot_table(index=["kind", "segment"], columns="family", values="amount", aggfunc="sum", sort=False)
    table = pivot.assign(all=pivot.sum(axis=1)).map(amount).reset_index().rename(columns={"segment": "epochs"})
    parts: list[Plot | Table] = [
        picture(findings, costs, unit),
        Table(
            key="ledger-table",
            title=f"{unit.name} by family and rung",
            frame=table,
            headers={family: family for family in findings.families},
        ),
    ]
    return Section(key="ledger", title=title, text=[ABOUT], parts=parts)


def cost_table(findings: Findings) -> pd.DataFrame:
    """family, trial, kind, segment (epochs a–b), epochs, hours: one row per trial, kind and segment."""
    rows = [row for trial in findings.sweep.trials for row in trial_costs(findings, trial)]
    return pd.DataFrame(rows, columns=["family", "trial", "kind", "segment", "epochs", "hours"])


def trial_costs(findings: Findings, trial: Trial) -> list[dict[str, Any]]:
    """The rows of one trial, in device-hours."""
    devices = devices_of(trial)
    seconds = [(row["epoch"], row["seconds_epoch"]) for row in trial.history if is_finite(row.get("seconds_epoch"))]
    found: list[tuple[str, int, float]] = [(FAILED if trial.failed else TRAINED, epoch, s) for epoch, s in seconds]
    again = read_history(trial.folder / BEFORE_RESTART)
    found += [(REPEATED, row["epoch"], row["seconds_epoch"]) for row in again if is_finite(row.get("seconds_epoch"))]
    if trial.status == "stopped early" and seconds:
        mean = sum(s for _, s in seconds) / len(seconds)
        found += [(SAVED, epoch, mean) for epoch in range(trial.epochs + 1, findings.epochs + 1)]
    own = {"family": trial.family, "trial": trial.name}
    names = segments(findings)
    grouped: dict[tuple[str, str], list[float]] = {}
    for kind, epoch, s in found:
        grouped.setdefault((kind, names(epoch)), []).append(s)
    return [
        own | {"kind": kind, "segment": segment, "epochs": len(s), "hours": sum(s) * devices / 3600}
        for (kind, segment), s in grouped.items()
    ]


def segments(findings: Findings) -> Any:
    """A function from an epoch to the name of the stretch between two rungs that it lies in."""
    bounds = [*findings.rungs, max(findings.epochs, *(t.epochs for t in findings.sweep.trials), 1)]

    def name(epoch: int) -> str:
        last = next((bound for bound in bounds if epoch <= bound), bounds[-1])
        first = max((bound for bound in bounds if bound < last), default=0) + 1
        return f"{first}–{last}" if first < last else str(last)

    return name


def uses_gpu(findings: Findings) -> bool:
    return any(trial.config.get("resources", {}).get("gpus_per_trial") for trial in findings.sweep.trials)


def unit_of(findings: Findings, costs: pd.DataFrame) -> Unit:
    device = "GPU" if uses_gpu(findings) else "CPU"
    return Unit(f"{device}-hours", 1) if costs["hours"].sum() >= 2 else Unit(f"{device}-minutes", 60)


def picture(findings: Findings, costs: pd.DataFrame, unit: Unit) -> Plot:
    """A bar per family, its pieces the stretches between rungs; losses and savings beside what was trained."""
    data = costs.groupby(["family", "kind", "segment"], as_index=False, sort=False)[["amount", "epochs"]].sum()
    stretches = list(dict.fromkeys(sorted(data["segment"], key=lambda name: int(name.split("–")[0]))))
    traces, shades = [], greys(len(stretches))
    for kind in HATCH:
        for stretch in stretches:
            own = data[(data["kind"] == kind) & (data["segment"] == stretch)]
            if len(own):
                shade = shades[stretches.index(stretch)] if kind in (TRAINED, SAVED) else INK
                pattern = {"shape": HATCH[kind], "fillmode": "replace", "fgcolor": shade, "bgcolor": "white"}
                traces.append(
                    go.Bar(
                        x=own["amount"],
                        y=own["family"],
                        orientation="h",
                        name=f"{kind}, epochs {stretch}",
                        marker={"color": shade, "pattern": pattern if HATCH[kind] else None, "line": OUTLINE},
                        hovertemplate="%{y}: %{x:.3g}<extra>%{fullData.name}</extra>",
                    )
                )
    drawn = figure(
        traces, height=190 + 46 * data["family"].nunique(), x=unit.name, barmode="stack", legend_traceorder="normal"
    )
    drawn.update_yaxes(type="category", autorange="reversed")
    saved = " Striped pieces were never trained: that is what stopping early saved."
    alt = in_words(costs, unit) + (saved if (data["kind"] == SAVED).any() else "")
    data = data.rename(columns={"amount": unit.name})
    return Plot(key="ledger-bars", title=f"{unit.name} by family", alt=alt, figure=drawn, data=data)


def in_words(costs: pd.DataFrame, unit: Unit) -> str:
    sums = costs.groupby("kind")["amount"].sum()
    spent = sum(sums.get(kind, 0.0) for kind in (TRAINED, FAILED, REPEATED))
    parts = [f"{amount(spent)} {unit.name} spent in epochs"]
    saved = sums.get(SAVED, 0.0)
    if saved:
        parts.append(
            f"{amount(saved)} ({saved / (saved + spent):.0%} of what all trials at full budget would take) {SAVED}"
        )
    parts += [f"{amount(sums[kind])} {kind}" for kind in (FAILED, REPEATED) if sums.get(kind, 0.0)]
    by_family = costs[costs["kind"] != SAVED].groupby("family")["amount"].sum().sort_values(ascending=False)
    listed = ", ".join(f"{family or 'unknown'} {amount(value)}" for family, value in by_family.items())
    return f"{'; '.join(parts)}. By family: {listed}."


def amount(value: float) -> str:
    """Three digits; `-` where there is nothing."""
    if math.isnan(value):
        return MISSING
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
