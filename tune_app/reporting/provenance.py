"""What went wrong, and where the results came from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from tune_app.reporting.findings import Findings, counted
from tune_app.reporting.page import Section, Table


def diagnoses(findings: Findings) -> Section:
    """Every trial that went wrong, with its code, since when, and why."""
    title = "Diagnoses"
    frame = findings.sweep.diagnoses()
    if frame.empty:
        why = "no trial has begun" if not findings.sweep.trials else "no trial failed or was given a diagnosis"
        return Section(key="diagnoses", title=title, nothing=f"Nothing to show: {why}.")
    counts = ", ".join(f"{code} ({number})" for code, number in frame["code"].value_counts().items())
    affected = frame["name"].nunique()
    text = f"{counted(affected, 'trial')} of {len(findings.sweep.trials)}: {counts}."
    return Section(
        key="diagnoses",
        title=title,
        text=[text],
        parts=[Table(key="diagnoses-table", title="Trials with a diagnosis", frame=frame)],
    )


def manifest(findings: Findings) -> Section:
    """manifest.json and the settings, every key on a line of its own."""
    title = "Manifest"
    recorded, settings = findings.sweep.manifest, findings.sweep.settings
    if not recorded and not settings:
        return Section(
            key="manifest", title=title, nothing="Nothing to show: manifest.json and sweep.yaml are missing or damaged."
        )
    parts = [
        Table(key=key, title=name, frame=flat(values), folded=folded)
        for key, name, values, folded in (
            ("manifest-table", "Where the results come from", recorded, False),
            ("manifest-settings", "All settings", settings, True),
        )
        if values
    ]
    return Section(key="manifest", title=title, parts=parts)


def flat(values: Mapping[str, Any], prefix: str = "") -> pd.DataFrame:
    """key and value of a nested mapping."""
    return pd.DataFrame(list(leaves(values, prefix)), columns=["key", "value"])


def leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
