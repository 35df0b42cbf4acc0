"""export ensemble=per_class: for every class the network that is best at it, all of them in one export that predicts.

A class is given to the trial with the highest Dice at a threshold of its own, both chosen on all validation crops. What
that is worth is measured on crops that did not choose: as for thresholds, the crops are split into halves, 32 times;
network and threshold of each half are those of the highest Dice on the other one.

Legend: n trials, K validation crops, C classes, B logit bins, R splits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from trainables import metrics
from trainables.calibration import ARRAYS, SPLITS, chosen_counts, dice_at_thresholds, split_halves
from trainables.errors import TrainablesError
from trainables.settings import DataSettings, TaskSettings, TrialSettings, from_mapping, trial_settings
from trainables.tasks import get_task
from tune_app.errors import InputError
from tune_app.exporting.model_file import WEIGHTS, best_state, tensors_of, write_loaded
from tune_app.exporting.operating_point import APPLY, inference_shift, of_class
from tune_app.results.sweep import Sweep
from tune_app.results.trial import Trial
from tune_app.settings.document import to_plain

if TYPE_CHECKING:
    from trainables.inference import Inference

PER_CLASS = "per_class"
ENSEMBLE_MEAN = "measured_dice"
MEASURED = (
    f"network and threshold of each half of the validation crops chosen on the other half, {SPLITS} splits; epochs "
    "and the trials to choose from, on all crops"
)
ALIKE = ("patch", "intensity", "voxel_nm", "classes")
"""Of the data: what decides which images a network takes, and what it makes of them."""
README = """# The best network for each class

{count} networks of the sweep {sweep} in one program, one pass through each.

| class | network | Dice |
|---|---|---|
{rows}

Dice, mean {mean}: {measured}. The first of the leaderboard, {first}, has
{single} at thresholds of its own, measured likewise.
{notice}
{use}

`config.yaml` holds the configuration of each network under `members`, `manifest.json` says where they came from.
"""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The network of one class."""

    trial: str
    dice: float
    """On crops that did not choose it, nor its threshold; NaN where too few crops show the class."""
    probability: float
    """Where to cut."""
    why: str = ""
    """Why it is the first of the leaderboard's, at ½, where nothing could be chosen."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Networks that are ready to be written. members: each once; winners: by class."""

    sweep: Sweep
    first: Trial
    members: tuple[Trial, ...]
    winners: Mapping[str, Winner]
    networks: tuple[Inference, ...]
    settings: TrialSettings
    """Of the first member; data and task are those of all."""

    @property
    def mean(self) -> float:
        """Dice on crops that did not choose, the mean of the classes that have one."""
        known = [winner.dice for winner in self.winners.values() if math.isfinite(winner.dice)]
        return math.fsum(known) / len(known) if known else math.nan

    @property
    def single(self) -> float:
        """Dice of the first of the leaderboard at thresholds of its own, the mean of the same classes."""
        known = [name for name, winner in self.winners.items() if math.isfinite(winner.dice)]
        return sum(self.first.score(f"calibrated/{name}") for name in known) / len(known) if known else math.nan

    def about(self) -> dict[str, Any]:
        """Its part of the manifest."""
        return {
            "ensemble": PER_CLASS,
            "sweep": self.sweep.name,
            "members": [trial.name for trial in self.members],
            "epochs": {trial.name: trial.best["epoch"] for trial in self.members},
            "winners": {name: asdict(winner) for name, winner in self.winners.items()},
            ENSEMBLE_MEAN: self.mean,
            "measured": MEASURED,
            "first": {"trial": self.first.name, "measured_dice": self.single},
            "classes": self.sweep.classes,
            "metric": self.sweep.metric,
        }

    def write(self, folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
        """config.yaml, model.safetensors, model.pt2 and model.json; configs: of every member."""
        from safetensors.torch import save

        from trainables.inference import PerClass

        names = [trial.name for trial in self.members]
        source = [names.index(winner.trial) for winner in self.winners.values()]
        section: dict[str, Any] = {
            "apply": APPLY,
            "chosen_on": f"all validation crops; ensemble_dice: {MEASURED}",
            "classes": {},
        }
        for place, (name, member) in enumerate(zip(self.winners, source)):
            shift = float(self.networks[member].shift.flatten()[place])
            winner, own = self.winners[name], of_class(self.members[member], name, shift)
            if winner.why:
                own |= {"logit": -shift, "probability": 1 / (1 + math.exp(shift))}
            section["classes"][name] = {"trial": winner.trial, **own, "ensemble_dice": winner.dice}
        cut = [own["logit"] + own["shift"] for own in section["classes"].values()]
        whole = {
            "ensemble": PER_CLASS,
            **{key: next(iter(configs.values())).get(key) for key in ("data", "task", "objective")},
        }
        whole = {key: value for key, value in whole.items() if value is not None}
        text = yaml.safe_dump(
            to_plain(whole | {"members": configs, "thresholds": section}), sort_keys=False, allow_unicode=True
        )
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        write_loaded(PerClass(self.networks, source), self.settings.data, list(self.winners), cut, folder)
        weights = {
            f"{number}.{name}": value.detach().contiguous().clone()
            for number, network in enumerate(self.networks)
            for name, value in network.network.state_dict().items()
        }
        about = {
            "format": "pt",
            "sweep": self.sweep.name,
            "members": json.dumps(names),
            "classes": json.dumps(list(self.winners)),
        }
        (folder / WEIGHTS).write_bytes(save(weights, about))

    def readme(self, use: str, notice: str) -> str:
        rows = [f"| {name} | {won.trial} | {_dice(won.dice)} |" for name, won in self.winners.items()]
        return README.format(
            count=len(self.members),
            sweep=self.sweep.name,
            rows="\n".join(rows),
            mean=_dice(self.mean),
            measured=MEASURED,
            first=self.first.name,
            single=_dice(self.single),
            notice=notice,
            use=use,
        )


def told_of_ensemble(folder: Path, manifest: Mapping[str, Any]) -> str:
    """What `export` prints of one."""
    winners, first = manifest["winners"], manifest["first"]
    lines = [f"  {name:<14}{_dice(won['dice'])}   {won['trial']}" for name, won in winners.items()]
    mean = f"Dice {_dice(manifest[ENSEMBLE_MEAN])} on crops that did not choose; the first of the leaderboard, "
    mean += f"{first['trial']}, {_dice(first['measured_dice'])}"
    return "\n".join([f"{folder}   {len(manifest['members'])} networks, {len(winners)} classes: {mean}", *lines])


def put_together(sweep: Sweep, trials: Sequence[Trial]) -> Ensemble:
    """The best of these trials for every class, with their weights. Raises InputError where that cannot be."""
    refuse_unlike(sweep, trials)
    winners = choose_winners(trials, sweep.classes)
    names = list(dict.fromkeys(winner.trial for winner in winners.values()))
    members = tuple(next(trial for trial in trials if trial.name == name) for name in names)
    networks = tuple(
        _network(trial, [c for c, won in winners.items() if won.trial == trial.name], sweep) for trial in members
    )
    for trial, network in zip(members, networks):
        for what in ("spatial_dims", "in_channels"):
            one, other = getattr(networks[0], what), getattr(network, what)
            if one != other:
                raise _unlike(
                    members[0],
                    trial,
                    {"spatial_dims": "spatial dimensions", "in_channels": "channels"}[what],
                    one,
                    other,
                )
    return Ensemble(
        sweep=sweep,
        first=trials[0],
        members=members,
        winners=winners,
        networks=networks,
        settings=trial_settings(members[0].config),
    )


def refuse_unlike(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Raise InputError where these trials do not make one thing."""
    given, single = "ensemble=per_class", "Leave ensemble out"
    if len(sweep.classes) < 2:
        raise InputError(
            f"{given}: {sweep.name} has one class, {', '.join(sweep.classes)}: its best trial is all there is. {single}"
        )
    if not sweep.validated:
        raise InputError(
            f"{given}: {sweep.name} was trained on the validation crops, too: nothing is left to choose by. {single}"
        )
    if len(trials) < 2:
        raise InputError(
            f"{given}: {sweep.name} has one trial with a score, and nothing is to be chosen among. {single}"
        )
    try:
        tasks = [from_mapping(TaskSettings, trial.config.get("task") or {}, "task") for trial in trials]
        data = [from_mapping(DataSettings, trial.config["data"], "data") for trial in trials]
    except TrainablesError as error:
        raise InputError(f"{given}: {error}") from None
    if get_task(tasks[0].name, tasks[0].options).exclusive:
        raise InputError(
            f"{given}: in task={tasks[0].name} the largest logit decides, and logits of two networks do not compare. "
            f"{single}"
        )
    crops = [trial.validation((*ARRAYS, "crops")) for trial in trials]
    for trial, of_task, own, arrays in zip(trials, tasks, data, crops):
        if of_task != tasks[0]:
            raise _unlike(trials[0], trial, "task", tasks[0].name, of_task.name)
        for key in ALIKE:
            if getattr(own, key) != getattr(data[0], key):
                raise _unlike(trials[0], trial, f"data.{key}", getattr(data[0], key), getattr(own, key))
        if trial.calibration.problem:
            raise InputError(
                f"{given}: Dice of {trial.name} cannot be told crop by crop, {trial.calibration.problem}. Choose "
                "a smaller top"
            )
        if any(not np.array_equal(arrays[key], crops[0][key]) for key in ("crops", "edges")):
            raise InputError(
                f"{given}: {trials[0].name} and {trial.name} were not validated on the same crops. Choose a smaller top"
            )


def _unlike(one: Trial, other: Trial, what: str, first: Any, second: Any) -> InputError:
    return InputError(
        f"ensemble=per_class: {one.name} and {other.name} differ in {what}, {first} and {second}, so they do not take "
        "the same images. Choose a smaller top, or leave ensemble out"
    )


def choose_winners(trials: Sequence[Trial], classes: Sequence[str]) -> dict[str, Winner]:
    """The trial of every class, the first of equals; of the first trial where fewer than two crops show the class."""
    arrays = [trial.validation(ARRAYS) for trial in trials]
    positive, negative = (np.stack([one[key] for one in arrays]).astype(float) for key in ARRAYS[:2])  # (n, K, C, B)
    found: dict[str, Winner] = {}
    for name in classes:
        place = [str(one) for one in arrays[0]["classes"]].index(name)
        here, absent = positive[:, :, place], negative[:, :, place]
        shows = here[0].sum(axis=1) > 0
        if reason := trials[0].calibration.reasons[place]:
            found[name] = Winner(trial=trials[0].name, dice=math.nan, probability=0.5, why=reason)
            continue
        highest = dice_at_thresholds(here.sum(axis=1), absent.sum(axis=1)).max(axis=1)  # (n,)
        best = trials[int(highest.argmax())]
        halves = split_halves(shows, shows | (absent[0].sum(axis=1) > 0))
        dice = float(metrics.dice(*chosen_counts(here, absent, halves)).numpy().mean())
        found[name] = Winner(trial=best.name, dice=dice, probability=best.score(f"threshold/{name}"))
    return found


def _network(trial: Trial, classes: Sequence[str], sweep: Sweep) -> Inference:
    """A winner, ready to run. Raises InputError where its weights are gone, or are not those of its model."""
    from trainables.inference import inference

    state, problem = best_state(trial)
    shift = inference_shift(trial, sweep.classes, state)
    if not problem and shift is None:
        problem = "its checkpoint does not hold the logit shift of apply_at=inference"
    if not problem and shift is not None:
        try:
            return inference(trial_settings(trial.config), tensors_of(state), list(shift.values()))
        except TrainablesError as error:
            problem = str(error)
    raise InputError(
        f"ensemble=per_class: {trial.name}, the best for {', '.join(classes)}, has no weights to export: {problem}. "
        "Choose a smaller top, or train it again"
    )


def _dice(value: float | None) -> str:
    return "not measured" if value is None or not math.isfinite(value) else f"{value:.4f}"
