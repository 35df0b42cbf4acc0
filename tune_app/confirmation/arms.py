"""The arms of a confirmation, chosen from a sweep and written down before the first run.

arms.json in the confirmation's folder: the sweep, the first seed, how many rounds (or the design of replicates=auto or
until_decided), and for every arm its loss, the trials it was chosen for, their score, what a run costs, and how simple
it is. What goes on after a crash goes on from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search_spaces import ClassCounts, Sections, families, space_of, trial_of, trial_signature
from trainables.files import write_text
from trainables.settings import require
from tune_app.errors import InputError
from tune_app.evidence import Design, EarlierNoise, Rounds, plan_stages
from tune_app.results.folders import ARMS, CONFIRMATIONS, is_confirmation, spoken
from tune_app.results.repeats import arm_labels
from tune_app.results.sweep import Sweep
from tune_app.results.tables import counted
from tune_app.results.trial import Trial, device_hours, read_json
from tune_app.search.arms import Arm
from tune_app.settings.document import to_plain

SCORES = ("best", "last3")
"""What a run is worth: the score of its best epoch, or the mean of its last `LAST` epochs."""
LAST = 3
MOST_ROUNDS = 500
"""Of a confirmation: with more, the difference that could still be told is far below any that matters."""


@dataclass(frozen=True, kw_only=True)
class ChosenArm:
    """One configuration to be trained again."""

    name: str
    trials: tuple[str, ...]
    """Trials of the sweep that are this configuration; none for a baseline that was not in the sweep."""
    signature: str
    """Equal for all trials of this effective loss, later ones included."""
    family: str
    preset: str
    loss: Mapping[str, Any]
    sections: Mapping[str, Any]
    """What its point gave besides the loss."""
    search_score: float
    """What the first of those trials was worth; NaN without one."""
    cost: float
    """Device-hours of one run at full budget."""
    simplicity: float
    """Tuned numbers: 0 for the baseline, less for a published setting than for a searched one."""

    def arm(self, seed: int) -> Arm:
        return Arm(family=self.family, point={}, seed=seed, preset=self.preset, trained=self.trial, name=self.name)

    @property
    def trial(self) -> Sections:
        return {"loss": dict(self.loss), **self.sections}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a confirmation trains."""

    sweep: str
    arms: tuple[ChosenArm, ...]
    baseline: str
    first_seed: int
    """Of column 0; round n has seed first_seed + n, the same for all arms."""
    rounds: int
    """Runs of every arm; 0 where `design` says."""
    device: str
    """GPU or CPU: what hours are counted of."""
    design: Design | Rounds | None = None
    score: str = SCORES[0]
    earlier: EarlierNoise | None = None

    def named(self, name: str) -> ChosenArm:
        return next(arm for arm in self.arms if arm.name == name)

    def first_runs(self) -> list[Arm]:
        """Those of a fixed number of rounds, whole rounds one after the other."""
        return [arm.arm(self.first_seed + column) for column in range(self.rounds) for arm in self.arms]

    def write(self, folder: Path) -> None:
        write_text(folder / ARMS, json.dumps(to_plain(asdict(self)), indent=1, allow_nan=False) + "\n")


def read_plan(folder: Path) -> Plan:
    """arms.json of a confirmation. Raises InputError where it is missing or damaged."""
    found = read_json(folder / ARMS)
    try:
        design, earlier = found["design"], found.get("earlier")
        return Plan(
            sweep=str(found["sweep"]),
            baseline=str(found["baseline"]),
            first_seed=int(found["first_seed"]),
            rounds=int(found["rounds"]),
            device=str(found["device"]),
            arms=tuple(map(_arm_read, found["arms"])),
            design=design and _design_read(design),
            score=str(found.get("score", SCORES[0])),
            earlier=earlier and EarlierNoise(**{**earlier, "where": tuple(earlier["where"])}),
        )
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{folder / ARMS} is missing or damaged, and a confirmation cannot go on without it. Remove {folder}, and "
            f"begin again: python -m tune_app.confirm sweep={spoken(folder.parent)}"
        ) from None


def _design_read(design: Mapping[str, Any]) -> Design | Rounds:
    costs = tuple(math.nan if cost is None else float(cost) for cost in design["costs"])
    return (Rounds if "most" in design else Design)(**{**design, "costs": costs})


def _arm_read(arm: Mapping[str, Any]) -> ChosenArm:
    numbers = {name: math.nan if arm[name] is None else float(arm[name]) for name in ("search_score", "cost")}
    return ChosenArm(**{"sections": {}, **arm, **numbers, "trials": tuple(arm["trials"])})


def worth(trial: Trial, key: str, score: str) -> float:
    """A figure of a trial, by one of `SCORES`; NaN where there is none."""
    return trial.score(key) if score == SCORES[0] else trial.last(key, LAST)


def choose_arms(
    sweep: Sweep, counts: ClassCounts, window_voxels: float, top: int, score: str = SCORES[0]
) -> tuple[ChosenArm, ...]:
    """The first `top` configurations of the leaderboard and the untuned baseline, which comes last.

    Runs of one configuration, whatever their names, are one arm. Raises InputError where nothing has a score.
    """
    board = sweep.leaderboard()
    ranked = [sweep.trial(name) for name in board.loc[board["rank"].notna(), "name"]]
    if not ranked:
        raise InputError(
            f"sweep={sweep.name}: no trial has a score, there is nothing to confirm. See python -m tune_app.summary "
            f"sweep={spoken(sweep.folder)}"
        )
    by_signature: dict[str, list[Trial]] = {}
    for trial in ranked:
        by_signature.setdefault(trial.signature, []).append(trial)
    labels = arm_labels(sweep.trials)
    searched = [s for s, members in by_signature.items() if not members[0].baseline]
    untuned = [s for s, members in by_signature.items() if members[0].baseline][:1]
    chosen = [
        _chosen(labels[s], by_signature[s], run_hours(sweep, ranked, by_signature[s][0]), score)
        for s in [*searched[:top], *untuned]
    ]
    if untuned:
        return tuple(chosen)
    preset = sweep.untuned
    unsearched = trial_of(preset.family, preset.point, counts)
    added = ChosenArm(
        name=preset.name,
        trials=(),
        signature=json.dumps(trial_signature(unsearched, counts, window_voxels=window_voxels)),
        family=preset.family,
        preset=preset.name,
        loss=unsearched.pop("loss"),
        sections=unsearched,
        search_score=math.nan,
        cost=run_hours(sweep, ranked),
        simplicity=0.0,
    )
    return (*chosen, added)


def _chosen(name: str, members: Sequence[Trial], hours: float, score: str = SCORES[0]) -> ChosenArm:
    first = members[0]
    return ChosenArm(
        name=name,
        trials=tuple(trial.name for trial in members),
        signature=first.signature,
        family=first.family,
        preset=first.preset,
        loss=dict(first.loss),
        sections=dict(first.sections),
        search_score=worth(first, first.metric, score),
        cost=hours,
        simplicity=simplicity(first),
    )


def simplicity(trial: Trial) -> float:
    """Numbers of the loss that were chosen: none for uniform weights, and half a number more where a search chose."""
    if trial.baseline:
        return 0.0
    known = trial.family in families()
    numbers = len(space_of(trial.family)) if known else len(trial.loss.get("params", {}))
    return numbers + (0.0 if trial.preset else 0.5)


def run_hours(sweep: Sweep, trials: Iterable[Trial], like: Trial | None = None) -> float:
    """Device-hours of one run at full budget: the mean epoch of the trials that do the same work as `like`, or of all.

    All losses train the same graph, so what a loss costs is best told from all trials.
    """
    alike = [trial for trial in trials if like is None or _work(trial) == _work(like)]
    hours = sum(device_hours(trial) for trial in alike)
    epochs = sum(trial.epochs for trial in alike)
    budget = int(sweep.settings.get("trainer", {}).get("epochs") or 0)
    return hours / epochs * budget if epochs and hours > 0 and budget else math.nan


def _work(trial: Trial) -> tuple[object, ...]:
    """What decides how long an epoch takes."""
    trainer = trial.config.get("trainer", {})
    sizes = (trainer.get(name) for name in ("batch_size", "iterations_per_epoch", "validation_batches"))
    return (trial.config.get("model"), trial.config.get("resources"), *sizes)


def fresh_seed(sweep: Sweep) -> int:
    """The first seed that neither the sweep nor an earlier confirmation of it has used."""
    used = [int(sweep.settings.get("seed") or 0) + int(sweep.settings.get("seeds") or 1) - 1]
    used += [trial.seed for trial in sweep.trials if trial.seed is not None]
    for folder in confirmations(sweep.folder):
        used += [trial.seed for trial in Sweep(folder).trials if trial.seed is not None]
        with suppress(InputError):
            plan = read_plan(folder)
            rounds = plan.design.most_rounds() if plan.design else plan.rounds
            used.append(plan.first_seed + rounds - 1)
    return max(used) + 1


def confirmations(sweep: Path) -> list[Path]:
    """The confirmations of a sweep, oldest first."""
    found = [folder for folder in sweep.glob(f"{CONFIRMATIONS}*") if folder.is_dir() and is_confirmation(folder)]
    return sorted(found, key=lambda folder: (len(folder.name), folder.name))


def new_folder(sweep: Path) -> Path:
    """Where the next confirmation goes; not made yet."""
    number = 1
    while (folder := sweep / (f"{CONFIRMATIONS}_{number}" if number > 1 else CONFIRMATIONS)).exists():
        number += 1
    return folder


def make_plan(
    sweep: Sweep,
    counts: ClassCounts,
    window_voxels: float,
    *,
    top: int,
    rounds: int,
    budget: float,
    device: str,
    score: str = SCORES[0],
    most: int = 0,
) -> Plan:
    """What `confirm` is going to train; rounds = 0 is replicates=auto with a budget in device-hours, or until_decided
    with `most` rounds."""
    epochs = int(sweep.settings.get("trainer", {}).get("epochs") or LAST)
    require(
        score == SCORES[0] or epochs >= LAST,
        "score",
        score,
        f"the runs of {sweep.name} have {counted(epochs, 'epoch')}, and the mean is of {LAST}",
        "Use score=best",
    )
    arms = _apart(choose_arms(sweep, counts, window_voxels, top, score), counts, window_voxels)
    design: Design | Rounds | None = None
    if not rounds and sweep.objective.bounds:
        raise InputError(
            f"replicates={'until_decided' if most else 'auto'}: stages spend runs by score alone; {sweep.name} has "
            f"bounds, {sweep.objective.bounds}. Give a number: replicates=5"
        )
    if most:
        design = Rounds(costs=tuple(arm.cost for arm in arms), most=most)
    elif not rounds:
        costs = [arm.cost for arm in arms]
        if not all(math.isfinite(cost) for cost in costs):
            raise InputError(
                f"replicates=auto: no epoch of {sweep.name} says how long it took, so a budget cannot be divided. Give "
                "a number: replicates=5"
            )
        design = plan_stages(costs, budget, device=device)
        require(
            design.most_rounds() <= MOST_ROUNDS,
            "budget_gpu_hours",
            budget,
            f"it buys {design.most_rounds()} rounds, and at most {MOST_ROUNDS} make sense",
            f"Give less, {budget * MOST_ROUNDS / design.most_rounds():.2g}, or a number: replicates=20",
        )
    return Plan(
        sweep=sweep.name,
        arms=arms,
        baseline=arms[-1].name,
        first_seed=fresh_seed(sweep),
        rounds=rounds,
        device=device,
        design=design,
        score=score,
    )


def _apart(arms: Sequence[ChosenArm], counts: ClassCounts, window_voxels: float) -> tuple[ChosenArm, ...]:
    """The arms, without any that comes out as the baseline on these data although its trial did not say so."""
    signatures = [trial_signature(arm.trial, counts, window_voxels=window_voxels) for arm in arms]
    kept = [arm for arm, signature in zip(arms[:-1], signatures) if signature != signatures[-1]]
    if not kept:
        raise InputError(
            f"All configurations with a score are the untuned baseline, {arms[-1].name}: there is nothing to compare "
            "it with. Search a family first: python -m tune_app.run family=seesaw"
        )
    return (*kept, arms[-1])
