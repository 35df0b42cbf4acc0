"""The trials of a confirmation as the statistics want them, and the finding written where others look for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tune_app.confirmation import Confirmation, Replicates, confirm_statistics, next_replicates
from tune_app.confirmed import CONFIRMATION
from tune_app.confirming.arms import Plan
from tune_app.manifest import now, write_text
from tune_app.render import to_plain
from tune_app.results import Sweep
from tune_app.search.arms import Arm
from tune_app.trial import Trial

COUNTS = ("epochs", "tp", "fp", "fn")
ENDED = ("finished", "stopped early", "failed: nan", "failed: error")
"""A run is only stopped early where it was hopeless: it counts as failed."""


def replicates_of(plan: Plan, sweep: Sweep | None) -> Replicates:
    """Scores, class scores and voxel counts of the runs that have ended; sweep: that of the confirmation, None before
    it has begun."""
    cells = cells_of(plan, sweep.trials if sweep else ())
    classes = sweep.classes if sweep else ()
    shape = (len(plan.arms), max([plan.rounds, 1, *(column + 1 for _, column in cells)]))
    scores, attempted = np.full(shape, np.nan), np.zeros(shape, bool)
    class_scores = np.full((*shape, len(classes)), np.nan)
    for cell, trial in cells.items():
        attempted[cell] = trial.status in ENDED
        if trial.status == "finished":
            scores[cell] = trial.score(trial.metric)
            class_scores[cell] = [trial.score(f"dice/{name}") for name in classes]
    return Replicates(
        arms=[arm.name for arm in plan.arms],
        scores=scores,
        attempted=attempted,
        baseline=plan.baseline,
        classes=classes,
        class_scores=class_scores if classes else None,
        counts=crop_counts(cells, (*shape, len(classes))),
        search_scores=[arm.search_score for arm in plan.arms],
        costs=[arm.cost for arm in plan.arms],
        simplicity=[arm.simplicity for arm in plan.arms],
    )


def cells_of(plan: Plan, trials: Iterable[Trial]) -> dict[tuple[int, int], Trial]:
    """(arm, column) → its trial."""
    rows = {arm.name: row for row, arm in enumerate(plan.arms)}
    return {
        (rows[trial.label], trial.seed - plan.first_seed): trial
        for trial in trials
        if trial.label in rows and trial.seed is not None
    }


def crop_counts(
    cells: dict[tuple[int, int], Trial], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """TP, FP, FN of every run at its best epoch, (arms, columns, crops, classes); None where no run has kept them."""
    found = {cell: best_counts(trial) for cell, trial in cells.items() if trial.status == "finished"}
    sizes = {counts[0].shape for counts in found.values() if counts is not None}
    if len(sizes) != 1 or (crops := next(iter(sizes)))[1] != shape[2]:
        return None
    arrays = tuple(np.full((*shape[:2], *crops), np.nan) for _ in range(3))
    for (row, column), counts in found.items():
        if counts is not None:
            for array, values in zip(arrays, counts):
                array[row, column] = values
    return arrays[0], arrays[1], arrays[2]


def best_counts(trial: Trial) -> tuple[np.ndarray, ...] | None:
    """TP, FP, FN (crops, classes) of the best epoch."""
    kept = trial.validation(COUNTS)
    if not kept or trial.best.get("epoch") not in kept["epochs"]:
        return None
    at = int(np.flatnonzero(kept["epochs"] == trial.best["epoch"])[0])
    return tuple(kept[name][at].astype(float) for name in COUNTS[1:])


def runs_to_train(plan: Plan, sweep: Sweep | None) -> tuple[list[Arm], str]:
    """All runs that have been asked for so far, those that were begun first; [] where nothing is left to train. And how
    far the confirmation has come."""
    begun = begun_runs(plan, sweep.trials if sweep else ())
    if plan.design is None:
        wanted, why = plan.first_runs(), f"{plan.rounds} rounds of {len(plan.arms)} arms"
        ended = sweep is not None and sum(trial.status in ENDED for trial in sweep.trials) >= len(wanted)
        return ([] if ended else wanted), why
    proposal = next_replicates(replicates_of(plan, sweep), plan.design)
    further = [plan.named(name).arm(plan.first_seed + column) for name, column in proposal.runs]
    known = {(run.label, run.seed) for run in begun}
    return (begun + [run for run in further if (run.label, run.seed) not in known] if further else []), proposal.reason


def begun_runs(plan: Plan, trials: Iterable[Trial]) -> list[Arm]:
    """The runs that have a trial already, in the order of their numbers."""
    return [plan.arms[row].arm(plan.first_seed + column) for row, column in cells_of(plan, trials)]


def conclude(plan: Plan, folder: Path) -> dict[str, Any]:
    """The finding of a finished confirmation, written into its folder and into the sweep's, and returned.

    Raises InputError where no run has a score.
    """
    sweep = Sweep(folder)
    finding = confirm_statistics(replicates_of(plan, sweep), plan.design)
    content = as_file(finding, plan, sweep)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_text(folder / CONFIRMATION, text)
    write_text(folder.parent / CONFIRMATION, text)
    return content


def as_file(finding: Confirmation, plan: Plan, sweep: Sweep) -> dict[str, Any]:
    """The finding as confirmation.json holds it: with each arm's trials in the sweep, and where its runs lie."""
    content = finding.to_dict()
    for arm in content["arms"]:
        chosen = plan.named(arm["name"])
        arm |= {"trials": list(chosen.trials), "loss": chosen.loss, "simplicity": chosen.simplicity}
    source = {
        "sweep": plan.sweep, "runs": sweep.folder.name, "metric": sweep.metric, "device": plan.device,
        "seeds": seeds_of(sweep.trials), "concluded": now(),
        "design": plan.design and asdict(plan.design),
    }  # fmt: skip
    return dict(to_plain(content | {"source": source}))


def seeds_of(trials: Sequence[Trial]) -> list[int]:
    return sorted({trial.seed for trial in trials if trial.seed is not None})
