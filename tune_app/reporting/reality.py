"""The plan beside what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd

from tune_app.reporting.findings import Findings
from tune_app.reporting.ledger import SAVED, amount, cost_table, uses_gpu
from tune_app.reporting.page import Section, Table
from tune_app.results.trial import is_finite

PAUSE_S = 600.0
"""A longer time without any epoch is not counted as running: the sweep was interrupted."""


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
    return [
        ("trials", plan.get("trials"), len(trials)),
        ("epochs", plan.get("epochs"), sum(trial.epochs for trial in trials)),
        (f"{'GPU' if uses_gpu(findings) else 'CPU'}-hours", plan.get("device_hours"), spent),
        ("hours on the clock", plan.get("wall_hours"), wall_hours(findings)),
        ("gigabytes on disk", plan.get("disk_gb"), disk_gb(findings)),
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
    return running_seconds([*begun(findings, spans), *spans]) / 3600


def begun(findings: Findings, spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The time from the manifest to the first worker."""
    try:
        created = datetime.fromisoformat(str(findings.sweep.manifest.get("created"))).timestamp()
    except ValueError:
        return []
    first = min(start for start, _ in spans)
    return [(created, first)] if 0 <= first - created <= PAUSE_S else []


def running_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """Length of the union of time spans, gaps of at most PAUSE_S included."""
    total, until = 0.0, -math.inf
    for start, end in sorted(spans):
        if start - until > PAUSE_S:
            total += max(0.0, end - start)
        else:
            total += max(0.0, end - until)
        until = max(until, end)
    return total


def disk_gb(findings: Findings) -> float:
    """What the sweep folder takes."""
    return sum(path.stat().st_size for path in findings.sweep.folder.rglob("*") if path.is_file()) / 1e9
