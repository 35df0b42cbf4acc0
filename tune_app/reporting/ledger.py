"""What the sweep has cost: hours per family and rung, what early stopping saved and failures lost; and the plan.

Hours are those of epochs (training and validation) times the GPUs, or without one the CPUs, of a trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from trainables.trial_folder import BEFORE_RESTART
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
PAUSE_S = 600.0
"""A longer time without any epoch is not counted as running: the sweep was interrupted."""
ABOUT = "Hours of training and validation, times the devices of a trial; starts and waiting are not in them."


def ledger(findings: Findings) -> Section:
    """Hours per family and rung, spent, lost and saved."""
    title = "Ledger"
    costs = cost_table(findings)
    if costs.empty:
        return Section(key="ledger", title=title, nothing="Nothing to count: no epoch says how long it took.")
    unit, per_hour = ("hours", 1) if costs["hours"].sum() >= 2 else ("minutes", 60)
    unit = f"{findings.sweep.device}-{unit}"
    costs = costs.assign(amount=costs["hours"] * per_hour)
    pivot = costs.pivot_table(index=["kind", "segment"], columns="family", values="amount", aggfunc="sum", sort=False)
    table = pivot.assign(all=pivot.sum(axis=1)).map(amount).reset_index().rename(columns={"segment": "epochs"})
    parts: list[Plot | Table] = [
        picture(costs, unit),
        Table(
            key="ledger-table",
            title=f"{unit} by family and rung",
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
    if trial.status in ("stopped early", "paused") and seconds:
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
    bounds = [*findings.marked_rungs, max(findings.epochs, *(t.epochs for t in findings.sweep.trials), 1)]

    def name(epoch: int) -> str:
        last = next((bound for bound in bounds if epoch <= bound), bounds[-1])
        first = max((bound for bound in bounds if bound < last), default=0) + 1
        return f"{first}–{last}" if first < last else str(last)

    return name


def picture(costs: pd.DataFrame, unit: str) -> Plot:
    """A bar per family, its pieces the stretches between rungs; losses and savings beside what was trained.

    unit: GPU- or CPU-hours, or minutes where an hour is too much.
    """
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
        traces, height=190 + 46 * data["family"].nunique(), x=unit, barmode="stack", legend_traceorder="normal"
    )
    drawn.update_yaxes(type="category", autorange="reversed")
    saved = " Striped pieces were never trained: that is what stopping early saved."
    alt = in_words(costs, unit) + (saved if (data["kind"] == SAVED).any() else "")
    data = data.rename(columns={"amount": unit})
    return Plot(key="ledger-bars", title=f"{unit} by family", alt=alt, figure=drawn, data=data)


def in_words(costs: pd.DataFrame, unit: str) -> str:
    sums = costs.groupby("kind")["amount"].sum()
    spent = sum(sums.get(kind, 0.0) for kind in (TRAINED, FAILED, REPEATED))
    parts = [f"{amount(spent)} {unit} spent in epochs"]
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


def plan_and_reality(findings: Findings) -> Section:
    """What was planned before the first trial, and what came of it."""
    title = "Plan and reality"
    plan = findings.plan
    if not plan:
        return Section(key="plan", title=title, nothing="Nothing to compare: the sweep folder holds no plan.json.")
    rows = [compared(*row) for row in figures(findings, plan)]
    frame = pd.DataFrame([row for row in rows if row])
    text = []
    if findings.sweep.status != "finished":
        text.append(f"The sweep is {findings.sweep.status}: what has come of it so far is less than the whole.")
    if plan.get("basis"):
        text.append(f"Times were planned from: {plan['basis']}.")
    return Section(
        key="plan", title=title, text=text, parts=[Table(key="plan-table", title="Planned and found", frame=frame)]
    )


def figures(findings: Findings, plan: Mapping[str, Any]) -> list[tuple[str, Any, float]]:
    """(what, planned, found)."""
    trials = findings.sweep.trials
    costs = cost_table(findings)
    spent = float(costs.loc[costs["kind"] != SAVED, "hours"].sum())
    on_disk = sum(path.stat().st_size for path in findings.sweep.folder.rglob("*") if path.is_file())
    return [
        ("trials", plan.get("trials"), len(trials)),
        ("epochs", plan.get("epochs"), sum(trial.epochs for trial in trials)),
        (f"{findings.sweep.device}-hours", plan.get("device_hours"), spent),
        ("hours on the clock", plan.get("wall_hours"), wall_hours(findings)),
        ("gigabytes on disk", plan.get("disk_gb"), on_disk / 1e9),
    ]


def compared(what: str, planned: Any, found: float) -> dict[str, Any] | None:
    """One row; None where nothing was planned."""
    values = planned if isinstance(planned, Mapping) else {"expected": planned}
    expected, low, high = (
        float(values[key]) if is_finite(values.get(key)) else math.nan for key in ("expected", "low", "high")
    )
    if math.isnan(expected):
        return None
    ranged = not (math.isnan(low) or math.isnan(high))
    within = ("yes" if low <= found <= high else "no") if ranged and not math.isnan(found) else ""
    return {
        "": what,
        "planned": amount(expected),
        "range": f"{amount(low)} to {amount(high)}" if ranged else "",
        "found": amount(found),
        "found / planned": f"{found / expected:.2f}" if expected and not math.isnan(found) else "",
        "in range": within,
    }


def wall_hours(findings: Findings) -> float:
    """Hours from the sweep's beginning to its last epoch, without pauses; NaN where the rows hold no times."""
    spans = [
        (float(row.get("time_setup") or row["time_started"]), float(row["time_ended"]))
        for trial in findings.sweep.trials
        for row in trial.history
        if is_finite(row.get("time_started")) and is_finite(row.get("time_ended"))
    ]
    if not spans:
        return math.nan
    with suppress(ValueError):
        created = datetime.fromisoformat(str(findings.sweep.manifest.get("created"))).timestamp()
        first = min(start for start, _ in spans)
        if 0 <= first - created <= PAUSE_S:
            spans.append((created, first))
    return running_seconds(spans) / 3600


def running_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of time spans, gaps of at most PAUSE_S included."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        total += max(0.0, end - (start if start - until > PAUSE_S else until))
        until = max(until, end)
    return total
