"""Writes small sweep folders as a driver and its trials leave them, without running either."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from tune_app.results.summary import SummarySettings, as_text, build_report
from tune_app.results.trial import GIVEN_UP

CLASSES = ("nuc", "pm")
EDGES = np.arange(-64, 65) / 4
UNIFORM = "tversky(fp=0.6, fn=0.4) weight=[1.0, 1.0]"
"""The signature of the untuned baseline."""
STATES = {
    "finished": TrialState.COMPLETE,
    "stopped early": TrialState.PRUNED,
    "failed: nan": TrialState.FAIL,
    "failed: error": TrialState.FAIL,
    "running": TrialState.RUNNING,
    "waiting": TrialState.WAITING,
}


@dataclass(kw_only=True)
class WrittenTrial:
    """One trial: dice[epoch - 1] is the Dice of each class; mean_dice is their mean.

    own: the Dice of each class at the best epoch, at a threshold of its own; as at 0.5 where it is not given.
    """

    label: str
    dice: Sequence[Sequence[float]] = ()
    own: Sequence[float] = ()
    status: str = "finished"
    family: str = "seesaw"
    preset: str | None = None
    seed: int = 0
    params: Mapping[str, float] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the loss where they are not those of the search."""
    signature: str = ""
    baseline: bool | None = None
    """What the study notes; nothing, as in sweeps before it did, where it is None."""
    weights: bool = True
    folder: bool = True
    in_study: bool = True


def write_sweep(
    folder: Path,
    trials: Sequence[WrittenTrial],
    *,
    created: str = "2024-05-01T10:00:00+00:00",
    status: str | None = "finished",
    phantom: bool = False,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """A whole sweep folder; returns it."""
    (folder / "trials").mkdir(parents=True)
    data = {"name": "phantom" if phantom else "cellmap", "root": "/data", "classes": list(classes)}
    manifest = {
        "sweep": folder.name,
        "created": created,
        "family": "seesaw",
        "experiment": "",
        "seed": 0,
        "metric": "mean_dice",
        "mode": "max",
        "classes": list(classes),
        "space": {"p": [0.0, 2.0]},
        "git": {"commit": "abc", "dirty": False},
        "packages": {"torch": "2"},
        "hardware": {"cpus": 2},
        "data": {"name": data["name"], "root": "/data", "fingerprint": "f00d", "phantom": phantom},
        "settings_hash": "0",
    }
    if status:
        manifest["status"] = status
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"data": data, "search": {"num_samples": len(trials)}}))
    study = open_study(folder)
    for number, trial in enumerate(trials):
        name = f"{number:04d}_{trial.label}"
        if trial.in_study:
            add_to_study(study, name, trial)
        if trial.folder and trial.status != "waiting":
            write_trial(folder / "trials" / name, number, trial, classes)
    return folder


def open_study(folder: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = str(folder / "study.journal")
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    return optuna.create_study(study_name=folder.name, storage=storage, direction="maximize", load_if_exists=True)


def add_to_study(study: optuna.Study, name: str, trial: WrittenTrial) -> None:
    curve = {epoch: float(np.mean(row)) for epoch, row in enumerate(trial.dice, start=1) if np.isfinite(row).all()}
    reason = trial.status.partition(": ")[2]
    noted = {} if trial.baseline is None else {"baseline": trial.baseline}
    attrs = {
        **noted,
        "name": name,
        "preset": trial.preset,
        "family": trial.family,
        "seed": trial.seed,
        "reason": reason,
    }
    study.add_trial(
        optuna.trial.create_trial(
            state=STATES[trial.status],
            value=max(curve.values()) if trial.status in ("finished", "stopped early") else None,
            params=dict(trial.params),
            distributions={key: FloatDistribution(0, 10) for key in trial.params},
            intermediate_values=curve,
            user_attrs={**attrs, "loss": loss_of(trial), "signature": trial.signature or name},
        )
    )


def loss_of(trial: WrittenTrial) -> dict[str, Any]:
    return {"name": trial.family, "params": dict(trial.loss or trial.params)}


def trial_config(folder: Path, number: int, trial: WrittenTrial, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "seed": trial.seed,
        "run": {"number": number, "name": folder.name, "dir": str(folder)},
        "loss": loss_of(trial),
        "data": {"name": "cellmap", "root": "/data", "classes": list(classes), "patch": [1, 64, 64]},
        "model": {"name": "unet2d", "width": 4},
        "trainer": {"epochs": 3, "lr": 1e-6},
        "hardware": {"device": "cpu"},
        "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0.0},
    }


def history_row(epoch: int, dice: Sequence[float], classes: Sequence[str] = CLASSES) -> dict[str, Any]:
    """A row as the trial writes it: NaN is null."""
    mean = float(np.mean(dice))
    row: dict[str, Any] = {"epoch": epoch, "mean_dice": mean, "mean_iou": mean / (2 - mean), "seconds_epoch": 30.0}
    row |= {f"dice/{c}": float(v) for c, v in zip(classes, dice)} | {
        f"iou/{c}": v / (2 - v) for c, v in zip(classes, dice)
    }
    row["diagnosis"] = "nan" if math.isnan(mean) else ""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}


def write_trial(folder: Path, number: int, trial: WrittenTrial, classes: Sequence[str]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(trial_config(folder, number, trial, classes)))
    rows = [history_row(epoch, dice, classes) for epoch, dice in enumerate(trial.dice, start=1)]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if trial.status == "failed: error":
        (folder / "error.txt").write_text(f"Traceback:\n  ...\nRuntimeError: out of memory\n{GIVEN_UP}\n")
    if not rows:
        return
    write_validation(folder, trial, classes)
    if trial.weights:
        write_best(folder, trial)


def best_epoch(trial: WrittenTrial) -> int:
    return int(np.argmax([float(np.mean(row)) if np.isfinite(row).all() else -1.0 for row in trial.dice])) + 1


def write_validation(folder: Path, trial: WrittenTrial, classes: Sequence[str], crops: int = 2) -> None:
    """Crops that are all alike, with the histograms of the best epoch."""
    epochs, best = len(trial.dice), best_epoch(trial)
    counts = np.arange(epochs * crops * len(classes)).reshape(epochs, crops, len(classes))
    half = trial.dice[best - 1]
    sides = np.stack([histograms(d, o) for d, o in zip(half, trial.own or half)])
    positive, negative = np.broadcast_to(sides, (crops, *sides.shape)).transpose(2, 0, 1, 3)
    np.savez(
        folder / "validation.npz",
        epochs=np.arange(1, epochs + 1),
        tp=counts,
        fp=counts,
        fn=counts,
        hist_positive=positive,
        hist_negative=negative,
        best_epoch=best,
        crops=[f"a/crop{i}" for i in range(1, crops + 1)],
        classes=list(classes),
        edges=EDGES,
    )


def histograms(half: float, own: float) -> np.ndarray:
    """(2, 128), positive and negative voxels: Dice `half` at a logit threshold of 0, and at most `own` ≥ half, at 1.

    No positive voxel where half is NaN.
    """
    sides = np.zeros((2, 128), np.int64)
    sides[1, 0] = 10**13
    if half == 0:
        sides[0, 0], sides[1, 127] = 1, 1
    elif np.isfinite(half):
        found = 10**12
        sides[0, 127], sides[0, 0] = found, round(2 * found * (1 / own - 1))
        sides[1, 66] = round(2 * found * (1 / half - 1 / own))
    return sides


def write_best(folder: Path, trial: WrittenTrial) -> None:
    weight = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    torch.save({"model": {"conv.weight": weight, "tied": weight}, "epoch": best_epoch(trial)}, folder / "best.pt")


def summarise(sweep: Path | str, *, width: int | None = None, color: bool = False, **settings: str) -> str:
    """What `summary` prints of a sweep."""
    asked = SummarySettings(sweep=str(sweep), **settings)
    return as_text(build_report(asked), asked.format, width, color)
