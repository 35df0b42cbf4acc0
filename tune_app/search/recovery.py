"""Brings the study of a killed driver up to what its trials had already reported.

A row is logged in result.json after the scheduler has judged it, with `done` where it ended the trial; the study hears
of the end a moment later. A driver killed in that moment leaves a trial that has ended and does not know it.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from tune_app.search.searcher import NAN_EPOCH, end, report
from tune_app.search.study import curve


def reconcile(study: optuna.Study, folder: Path, metric: str, epochs: int) -> None:
    """Report to the study what only result.json knows; tell it of the trials that had ended."""
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state != TrialState.RUNNING or "name" not in frozen.user_attrs:
            continue
        rows = read_reported(folder / "trials" / frozen.user_attrs["name"] / "result.json")
        for row in rows:
            report(study, frozen.number, row, metric)
        if rows and (rows[-1].get("done") or rows[-1]["epoch"] >= epochs):
            end(study, frozen.number, rows[-1], False, metric, epochs)


def read_reported(path: Path) -> list[Mapping[str, Any]]:
    """The rows of a result.json; a last line cut short by a crash is left out."""
    rows: list[Mapping[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict) and "epoch" in row:
                    rows.append(row)
    return rows


def recorded_curves(study: optuna.Study) -> dict[str, list[tuple[int, float]]]:
    """{trial name: curve} of every trial in the study; the curve of a trial that became NaN ends with a NaN."""
    curves = {}
    for trial in study.get_trials(deepcopy=False):
        if "name" in trial.user_attrs:
            ending = [(trial.user_attrs[NAN_EPOCH], math.nan)] if NAN_EPOCH in trial.user_attrs else []
            curves[trial.user_attrs["name"]] = curve(trial) + ending
    return curves
