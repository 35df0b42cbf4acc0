"""The noise of earlier confirmations of the same data and budget, for `confirm noise=borrowed`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tune_app.confirmation.arms import Plan, confirmations, read_plan
from tune_app.confirmation.runs import replicates_of
from tune_app.confirmation.settings import DataPlace
from tune_app.errors import InputError
from tune_app.evidence.layout import fit_paired
from tune_app.evidence.noise import EarlierNoise
from tune_app.results.finding import read_confirmation
from tune_app.results.folders import results_folder, sweep_folders
from tune_app.results.sweep import Sweep

BUDGET = ("task", "model", "trainer")
"""Sections of the settings that must be equal, besides the data's."""


def with_earlier_noise(plan: Plan, sweep: Sweep, results_dir: str) -> Plan:
    """The plan with the noise of all earlier confirmations that are like it, on seeds that none of them has used.

    Residual squares and degrees of freedom are summed. A run that two of them share, the baseline's on the same seed
    for example, counts once. Raises InputError where there is none.
    """
    squares, dof, where, seeds = 0.0, 0.0, [], []
    counted: set[tuple[str, int]] = set()
    for folder in alike(sweep, results_dir):
        other, found = read_plan(folder), Sweep(folder)
        scores = replicates_of(replace(other, score=plan.score), found).scores
        names = {(a, s): (other.arms[a].signature, other.first_seed + s) for a, s in np.ndindex(*scores.shape)}
        scores = np.array(
            [[math.nan if names[a, s] in counted else x for s, x in enumerate(row)] for a, row in enumerate(scores)]
        )
        fit = fit_paired(scores)
        if not fit.measured:
            continue
        used = [names[a, s] for a, s in np.argwhere(np.isfinite(scores)).tolist()]
        counted |= set(used)
        seeds += [seed for _, seed in used]
        squares, dof = squares + float(fit.variance * fit.dof), dof + float(fit.dof)
        where.append(f"{folder.parent.name}/{folder.name}")
    if not where:
        raise InputError(
            f"noise=borrowed: {results_folder(results_dir)} holds no finished confirmation with a fixed number of "
            f"replicates and the data, task, model and trainer of {sweep.name}. Use noise=own"
        )
    earlier = EarlierNoise(sd=math.sqrt(squares / dof), dof=dof, where=tuple(where))
    return replace(plan, earlier=earlier, first_seed=max(plan.first_seed, max(seeds) + 1))


def alike(sweep: Sweep, results_dir: str) -> Iterator[Path]:
    """Finished confirmations of the same data and budget, newest sweep first, whose runs were not chosen by results."""
    for folder in dict.fromkeys([sweep.folder, *(one.resolve() for one in sweep_folders(results_folder(results_dir)))]):
        for confirmation in reversed(confirmations(folder)):
            source = read_confirmation(confirmation).get("source") or {}
            same = bool(source) and not source.get("design") and budget_of(Sweep(confirmation)) == budget_of(sweep)
            if same and (sweep.manifest.get("data") or {}).get("fingerprint"):
                yield confirmation


def budget_of(sweep: Sweep) -> Mapping[str, Any]:
    """What decides how noisy runs are, whatever their loss: data, network, training, and what is scored."""
    places = {one.name for one in fields(DataPlace)}
    data = {key: value for key, value in (sweep.settings.get("data") or {}).items() if key not in places}
    fingerprint = (sweep.manifest.get("data") or {}).get("fingerprint")
    return {name: sweep.settings.get(name) for name in BUDGET} | {
        "data": data,
        "fingerprint": fingerprint,
        "metric": (sweep.metric, sweep.mode),
    }
