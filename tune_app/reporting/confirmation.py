"""The confirmation of a sweep: who is best over fresh seeds, who cannot be told from the best, and by which margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tune_app.reporting.findings import Findings, counted, listed
from tune_app.reporting.page import Plot, Section, Table, short
from tune_app.reporting.plots import BASELINE, INK, NEUTRAL, differences, listed_upwards, with_intervals
from tune_app.results.finding import CONFIRMATION, SHOWN, arms_of, entries, for_the_eye, said
from tune_app.results.folders import spoken

TITLE = "Confirmation"
CLASS_SHOWN = {
    "arm": "arm",
    "class_name": "class",
    "difference": "difference",
    "low": "low",
    "high": "high",
    "p_holm": "p (Holm)",
    "distinct": "told apart",
}
MOST_CLASS_ROWS = 30


def confirmation(findings: Findings) -> Section:
    """What replicates say of the best configurations; or how to get it."""
    found = findings.confirmation
    arms = arms_of(found)
    if arms.empty:
        return Section(key="confirmation", title=TITLE, nothing=why_nothing(findings))
    parts: list[Plot | Table] = [means(found, arms)]
    known = arms.dropna(subset=["difference_to_baseline_low", "difference_to_baseline_high"])
    if len(known):
        parts.append(against_baseline(found, known))
    shown = for_the_eye(arms)
    parts.append(Table(key="confirmation-table", title="The confirmed arms", frame=shown, data=arms, headers=SHOWN))
    parts += class_table(found)
    return Section(key="confirmation", title=TITLE, text=said(found), parts=parts)


def why_nothing(findings: Findings) -> str:
    if (findings.sweep.folder / CONFIRMATION).is_file():
        return f"Nothing to show: {CONFIRMATION} is damaged, or of another version of this program."
    if not findings.ranked:
        return "Nothing to show: no trial has a score yet, so there is nothing to confirm."
    return (
        f"Nothing to show: the best configurations have not been trained again on fresh seeds. "
        f"python -m tune_app.confirm sweep={spoken(findings.sweep.folder)} does it."
    )


def means(found: Mapping[str, Any], arms: pd.DataFrame) -> Plot:
    """Each arm's mean over fresh seeds with its interval, and its score in the search."""
    upwards = arms.iloc[::-1]
    marker = {
        "size": 11,
        "color": [BASELINE if name == found.get("baseline") else NEUTRAL for name in upwards["name"]],
        "symbol": ["diamond" if tied else "diamond-open" for tied in upwards["in_set"]],
        "line_width": 2,
    }
    name = "mean of the replicates, 95 % interval"
    traces = [
        with_intervals(upwards, upwards["name"], "mean", "low", "high", marker=marker, name=name),
        go.Scatter(
            x=upwards["search_score"],
            y=upwards["name"],
            mode="markers",
            name="score in the search",
            marker={"symbol": "line-ns", "size": 13, "line": {"width": 2, "color": INK}},
            hovertemplate="%{y}, search: %{x:.4f}<extra></extra>",
        ),
    ]
    drawn = listed_upwards(traces, height=150 + 34 * len(arms), x="score")
    first = arms.iloc[0]
    tied = arms.loc[arms["in_set"], "name"].tolist()
    curse = arms["winners_curse"].mean()
    alt = (
        f"{counted(len(arms), 'arm')}, best first: {first['name']} has a mean of {short(first['mean'])} "
        f"({short(first['low'])} to {short(first['high'])}), {arms.iloc[-1]['name']} {short(arms.iloc[-1]['mean'])}. "
        f"Filled marks cannot be told from the best: {listed(tied)}. The baseline is purple. Upright strokes are the "
        f"scores of the search, on average {short(curse)} above the confirmed means."
    )
    return Plot(key="confirmation-means", title="Means over fresh seeds", alt=alt, figure=drawn, data=arms)


def against_baseline(found: Mapping[str, Any], arms: pd.DataFrame) -> Plot:
    """What each arm gains over the baseline, with the interval of that difference."""
    columns = [f"difference_to_baseline{end}" for end in ("", "_low", "_high")]
    drawn = differences(arms, arms["name"], columns, NEUTRAL, "gain over the untuned baseline")
    told = [
        f"{arm.name} {arm.difference_to_baseline:+.4f} ({arm.difference_to_baseline_low:+.4f} to "
        f"{arm.difference_to_baseline_high:+.4f})"
        for arm in arms.itertuples()
    ]
    alt = (
        f"Differences to {found.get('baseline') or 'the baseline'} over paired seeds: {'; '.join(told)}. An interval "
        "that holds 0 shows no difference."
    )
    return Plot(key="confirmation-baseline", title="Against the untuned baseline", alt=alt, figure=drawn, data=arms)


def class_table(found: Mapping[str, Any]) -> list[Table]:
    """Differences of the classes, those told apart first."""
    rows: Sequence[Mapping[str, Any]] = entries(found, "class_differences")
    if not rows:
        return []
    frame = pd.DataFrame([{name: row.get(name) for name in CLASS_SHOWN} for row in rows])
    frame["p_holm"] = pd.to_numeric(frame["p_holm"], errors="coerce")
    frame = frame.sort_values("p_holm", kind="stable", ignore_index=True)
    title = f"Classes against {found.get('class_reference') or 'the reference'} (Holm's correction over all of them)"
    return [
        Table(
            key="confirmation-classes", title=title, frame=frame.head(MOST_CLASS_ROWS), data=frame, headers=CLASS_SHOWN
        )
    ]
