"""The trials of a confirmation as the statistics want them, and the finding written where others look for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.calibration import AT_HALF
from trainables.files import write_text
from trainables.objective import Objective
from tune_app.confirmation.arms import LAST, SCORES, Plan, confirmations, worth
from tune_app.evidence import Replicates, confirm_statistics, next_replicates
from tune_app.results.diagnosis import hopeless
from tune_app.results.finding import CONFIRMATION, read_confirmation
from tune_app.results.folders import is_sweep
from tune_app.results.manifest import now
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted
from tune_app.results.trial import Trial
from tune_app.search.arms import Arm
from tune_app.settings.document import to_plain

COUNTS = ("epochs", "tp", "fp", "fn")
MOST_MISSED = 1e9
"""The violation of an arm without runs: JSON knows no ∞."""
DECIDED = (
    "statement",
    "winner",
    "leader",
    "equivalence_set",
    "default_choice",
    "default_reason",
    "reasons",
    "cautions",
    "duel",
)
"""What of a finding is of the arms that may win."""
NO_SCORE = "No winner: no run of the confirmation ended with a score."


def replicates_of(plan: Plan, sweep: Sweep | None) -> Replicates:
    """Scores, class scores and voxel counts of the runs that have ended; sweep: that of the confirmation, None before
    it has begun."""
    cells = cells_of(plan, sweep.trials if sweep else ())
    classes = sweep.classes if sweep else ()
    shape = (len(plan.arms), max([plan.rounds, 1, *(column + 1 for _, column in cells)]))
    scores, attempted = np.full(shape, np.nan), np.zeros(shape, bool)
    class_scores = np.full((*shape, len(classes)), np.nan)
    sign = -1 if sweep and sweep.objective.mode == "min" else 1  # the statistics take more as better
    usual = sweep is None or sweep.metric == AT_HALF  # what the counts of the crops give
    for cell, trial in cells.items():
        attempted[cell] = has_ended(trial)
        if is_sound(trial):
            scores[cell] = sign * worth(trial, trial.metric, plan.score)
            class_scores[cell] = [worth(trial, f"dice/{name}", plan.score) for name in classes]
    return Replicates(
        arms=[arm.name for arm in plan.arms],
        scores=scores,
        attempted=attempted,
        baseline=plan.baseline,
        classes=classes,
        class_scores=class_scores if classes else None,
        counts=crop_counts(cells, (*shape, len(classes)), plan.score) if usual else None,
        search_scores=[sign * arm.search_score for arm in plan.arms],
        costs=[arm.cost for arm in plan.arms],
        simplicity=[arm.simplicity for arm in plan.arms],
        earlier=plan.earlier,
    )


def has_ended(trial: Trial) -> bool:
    return trial.failed or trial.status in ("finished", "stopped early")


def is_sound(trial: Trial) -> bool:
    """Whether a run counts: trained to the end, and hopeless neither there nor at its best epoch, where it is scored.

    What it went through in between and recovered from does not matter.
    """
    to_best = [row for row in trial.history if row["epoch"] <= trial.best.get("epoch", 0)]
    ends = (to_best, trial.history)
    return trial.status == "finished" and not any(hopeless(rows, trial.judged_by) for rows in ends)


def cells_of(plan: Plan, trials: Iterable[Trial]) -> dict[tuple[int, int], Trial]:
    """(arm, column) → its trial."""
    rows = {arm.name: row for row, arm in enumerate(plan.arms)}
    return {
        (rows[trial.label], trial.seed - plan.first_seed): trial
        for trial in trials
        if trial.label in rows and trial.seed is not None and trial.seed >= plan.first_seed
    }


def crop_counts(
    cells: dict[tuple[int, int], Trial], shape: tuple[int, int, int], score: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """TP, FP, FN of every run at its best epoch or summed over its last, (arms, columns, crops, classes); None where no
    run has kept them."""
    found = {cell: scored_counts(trial, score) for cell, trial in cells.items() if is_sound(trial)}
    sizes = {counts[0].shape for counts in found.values() if counts is not None}
    if len(sizes) != 1 or (crops := next(iter(sizes)))[1] != shape[2]:
        return None
    arrays = tuple(np.full((*shape[:2], *crops), np.nan) for _ in range(3))
    for (row, column), counts in found.items():
        if counts is not None:
            for array, values in zip(arrays, counts):
                array[row, column] = values
    return arrays[0], arrays[1], arrays[2]


def scored_counts(trial: Trial, score: str = SCORES[0]) -> tuple[np.ndarray, ...] | None:
    """TP, FP, FN (crops, classes) of the epochs that are scored, summed."""
    kept, rows = trial.validation(COUNTS), [trial.best] if score == SCORES[0] else trial.history[-LAST:]
    epochs = [row.get("epoch", 0) for row in rows]
    if not kept or not set(epochs) <= set(kept["epochs"].tolist()):
        return None
    at = np.isin(kept["epochs"], epochs)
    return tuple(kept[name][at].sum(axis=0, dtype=float) for name in COUNTS[1:])


def runs_to_train(plan: Plan, sweep: Sweep | None) -> tuple[list[Arm], str]:
    """All runs that have been asked for so far, those that were begun first; [] where nothing is left to train. And how
    far the confirmation has come."""
    cells = cells_of(plan, sweep.trials if sweep else ())  # in the order of their numbers
    begun = [plan.arms[row].arm(plan.first_seed + column) for row, column in cells]
    if plan.design is None:
        wanted, why = plan.first_runs(), f"{counted(plan.rounds, 'round')} of {counted(len(plan.arms), 'arm')}"
        ended = sweep is not None and sum(map(has_ended, sweep.trials)) >= len(wanted)
        return ([] if ended else wanted), why
    proposal = next_replicates(replicates_of(plan, sweep), plan.design)
    further = [plan.named(name).arm(plan.first_seed + column) for name, column in proposal.runs]
    known = {(run.label, run.seed) for run in begun}
    return (begun + [run for run in further if (run.label, run.seed) not in known] if further else []), proposal.reason


def conclude(plan: Plan, folder: Path) -> dict[str, Any]:
    """The finding of a finished confirmation, returned and written into its folder; and into the sweep's, where no
    newer one has been begun."""
    found = read_confirmation(folder)
    if not found:
        sweep = Sweep(folder)
        runs = replicates_of(plan, sweep)
        scored = bool(np.isfinite(runs.scores).any())
        content: dict[str, Any] = {"statement": NO_SCORE, "arms": []}
        if scored:
            content = confirm_statistics(runs, plan.design).to_dict()
        if scored and sweep.objective.bounds:
            content |= decided_among_feasible(content, runs, figures_of(plan, sweep), sweep.objective)
        if sweep.objective.mode == "min":
            content["arms"] = [turned(arm) for arm in content["arms"]]
        found = as_file(content, plan, sweep)
        write_finding(folder, found)
    newest = is_sweep(folder.parent) and confirmations(folder.parent)[-1:] == [folder]
    if newest and read_confirmation(folder.parent) != found:
        write_finding(folder.parent, found)
    return found


def figures_of(plan: Plan, sweep: Sweep) -> dict[str, dict[str, float]]:
    """The mean, over its sound runs, of every figure that the objective reads, by arm; {} for an arm without any."""
    runs: dict[str, list[Trial]] = {arm.name: [] for arm in plan.arms}
    for (row, _), trial in cells_of(plan, sweep.trials).items():
        if is_sound(trial):
            runs[plan.arms[row].name].append(trial)
    return {
        name: {
            key: float(np.mean([worth(trial, key, plan.score) for trial in own]))
            for key in sweep.objective.figures
            if own
        }
        for name, own in runs.items()
    }


def decided_among_feasible(
    content: Mapping[str, Any], runs: Replicates, figures: Mapping[str, Mapping[str, float]], objective: Objective
) -> dict[str, Any]:
    """What changes in a finding where there are bounds: the winner is decided among the arms whose means keep them.

    Where none does there is no winner, and the nearest is the default choice.
    """
    missed = {name: objective.violation(own) for name, own in figures.items()}
    arms = [{**arm, "violation": min(missed[arm["name"]], MOST_MISSED)} for arm in content["arms"]]
    kept = [row for row, name in enumerate(runs.arms) if not missed[name]]
    if len(kept) == len(runs.arms):
        return {"arms": arms}
    if not kept:
        nearest = max(figures, key=lambda name: objective.key(figures[name]))
        told = f"No winner: no arm keeps the bounds {objective.bounds}; the nearest is {nearest}"
        told += f", with a mean {objective.missed(figures[nearest])}"
        decided: dict[str, Any] = {"statement": f"{told}.", "winner": None, "leader": nearest, "duel": None}
        decided |= {"default_choice": nearest, "default_reason": "the nearest to the bounds", "reasons": []}
    else:
        decided = confirm_statistics(some_of(runs, kept)).to_dict()
        decided["statement"] = f"Of the arms that keep the bounds {objective.bounds}: {decided['statement']}"
        if len(kept) == 1:
            only = runs.arms[kept[0]]
            decided["statement"] = f"{only} is the only arm that keeps the bounds {objective.bounds}."
            decided |= {"winner": only, "default_choice": only, "default_reason": "it alone keeps the bounds"}
            decided["reasons"] = []
    changed = {name: decided[name] for name in DECIDED if name in decided}
    mine = {arm["name"]: arm for arm in decided.get("arms", ())}
    none = {"in_set": False, "p_best": 0.0 if kept else None}  # where none keeps them there is no best
    for arm in arms:
        arm |= {key: mine.get(arm["name"], {}).get(key, unset) for key, unset in none.items()}
    return {**changed, "arms": arms}


def some_of(runs: Replicates, rows: Sequence[int]) -> Replicates:
    """The replicates of some arms."""
    chosen, names = list(rows), [runs.arms[row] for row in rows]
    listed: dict[str, Any] = {
        key: [runs.number(key, row) for row in chosen] for key in ("search_scores", "costs", "simplicity")
    }
    tp, fp, fn = runs.counts or (None, None, None)
    return replace(
        runs,
        arms=names,
        scores=runs.scores[chosen],
        attempted=np.asarray(runs.attempted)[chosen],
        baseline=runs.baseline if runs.baseline in names else None,
        class_scores=None if runs.class_scores is None else runs.class_scores[chosen],
        counts=None if tp is None or fp is None or fn is None else (tp[chosen], fp[chosen], fn[chosen]),
        **listed,
    )


def turned(arm: Mapping[str, Any]) -> dict[str, Any]:
    """An arm of a minimised metric with its figures as they are; differences stay leads, above 0 where it is better."""
    mirrored = {"mean": "mean", "low": "high", "high": "low", "search_score": "search_score"}
    return {**arm, **{key: None if arm[other] is None else -arm[other] for key, other in mirrored.items()}}


def write_finding(folder: Path, found: Mapping[str, Any]) -> None:
    write_text(folder / CONFIRMATION, json.dumps(found, indent=2, allow_nan=False) + "\n")


def as_file(content: dict[str, Any], plan: Plan, sweep: Sweep) -> dict[str, Any]:
    """The finding as confirmation.json holds it: with each arm's trials in the sweep, its mean by the other score (of
    its sound runs, as they are), and where its runs lie."""
    (other,) = set(SCORES) - {plan.score}
    runs = [trial for trial in sweep.trials if is_sound(trial)]
    for arm in content["arms"]:
        chosen = plan.named(arm["name"])
        beside = [worth(trial, trial.metric, other) for trial in runs if trial.label == arm["name"]]
        arm |= {
            f"mean_{other}": float(np.mean(beside)) if beside else None,
            "trials": list(chosen.trials),
            "signature": chosen.signature,
            "loss": chosen.loss,
            "sections": chosen.sections,
            "simplicity": chosen.simplicity,
        }
    source = {
        "sweep": plan.sweep,
        "runs": sweep.folder.name,
        **asdict(sweep.objective),
        "device": plan.device,
        "seeds": sorted({trial.seed for trial in sweep.trials if trial.seed is not None}),
        "concluded": now(),
        "design": plan.design and asdict(plan.design),
        "score": plan.score,
    }
    return dict(to_plain(content | {"source": source}))
