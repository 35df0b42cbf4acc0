"""Whole sweeps for tests of the report: many families, early stopping, failures, pictures, a plan."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from sweep_folder import CLASSES, WrittenTrial, write_sweep

from trainables.data.expand import pack_class, packed_bytes

FAMILIES = {"seesaw": ("p", "q"), "static": ("kappa",), "tversky": ("fp_weight",)}
GRACE, ETA = 3, 3


def searched_trials(number: int, epochs: int, classes: Sequence[str]) -> list[WrittenTrial]:
    """A baseline, then trials of three families in turn; the further a parameter is from 1, the worse. Every fifth is
    stopped at the first rung, the eighth fails with NaN, the ninth with an error."""
    generator = np.random.default_rng(0)
    uniform = f"tversky(fp=0.6, fn=0.4) weight=[{', '.join(['1.0'] * len(classes))}]"
    trials = [
        WrittenTrial(
            label="weight_uniform",
            family="static",
            preset="weight_uniform",
            signature=uniform,
            dice=curve(0.4, epochs, classes, generator),
        )
    ]
    for index in range(1, number):
        family = list(FAMILIES)[index % len(FAMILIES)]
        params = {name: float(generator.uniform(0, 2)) for name in FAMILIES[family]}
        quality = 0.6 - 0.2 * abs(params[FAMILIES[family][0]] - 1)
        status, ran = "finished", epochs
        if index % 5 == 0:
            status, ran, quality = "stopped early", min(GRACE, epochs), quality - 0.2
        elif index in (8, 9):
            status, ran = ("failed: nan", "failed: error")[index - 8], 2
        dice = curve(quality, ran, classes, generator)
        if status == "failed: nan":
            dice[-1] = [math.nan] * len(classes)
        label = "_".join([family, *(f"{name}{value:.3g}" for name, value in params.items())])
        trials.append(WrittenTrial(label=label, family=family, params=params, status=status, dice=dice, weights=False))
    return trials


def curve(quality: float, epochs: int, classes: Sequence[str], generator: np.random.Generator) -> list[list[float]]:
    """Dice per epoch and class that rise towards `quality`, the later classes lower."""
    rise = 1 - np.exp(-3 * np.arange(1, epochs + 1) / max(epochs, 9))
    level = np.linspace(1.2, 0.8, len(classes)) * quality
    noise = generator.normal(0, 0.01, (epochs, len(classes)))
    return (rise[:, None] * level + noise).clip(0.01, 0.99).tolist()


def write_report_sweep(
    folder: Path, *, trials: int = 20, epochs: int = 9, classes: Sequence[str] = CLASSES, side: int = 32
) -> Path:
    """A finished sweep with everything that a report can show, a confirmation apart; returns its folder."""
    written = searched_trials(trials, epochs, classes)
    write_sweep(folder, written, classes=classes, phantom=True)
    settings = yaml.safe_load((folder / "sweep.yaml").read_text())
    settings |= {
        "family": "all",
        "trainer": {"epochs": epochs},
        "scheduler": {"name": "auto", "grace_period": GRACE, "reduction_factor": float(ETA)},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    best = max(range(len(written)), key=lambda i: np.nanmax(np.mean(written[i].dice, axis=1)) * (i not in (8, 9)))
    for number in {0, best}:
        write_prediction(next((folder / "trials").glob(f"{number:04d}_*")), classes, side, seed=number)
    write_plan(folder, trials, epochs)
    return folder


def write_prediction(folder: Path, classes: Sequence[str], side: int, *, seed: int = 0, patches: int = 6) -> None:
    """prediction.npz as a trial leaves it: a disc per class; the prediction is shifted by `seed` + 1 voxels."""
    generator = np.random.default_rng(7)
    em = generator.integers(0, 256, (patches, side, side), dtype=np.uint8)
    y, x = np.mgrid[:side, :side]
    labels = np.zeros((packed_bytes(len(classes)), patches, side, side), np.uint8)
    predicted = np.zeros((patches, len(classes), side, side), bool)
    for c in range(len(classes)):
        for m in range(patches):
            centre = generator.integers(0, side, 2)
            radius = side / (4 + c)
            present = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            known = np.ones_like(present)
            known[: side // 8] = False
            pack_class(labels[:, m], c, len(classes), present, known)
            predicted[m, c] = np.roll(present, seed % 5 + 1, axis=1)
    np.savez(
        folder / "prediction.npz",
        em=em,
        labels=labels.swapaxes(0, 1),
        predicted=np.packbits(predicted, axis=1, bitorder="little"),
        crops=[f"a/crop{m}" for m in range(patches)],
        classes=list(classes),
        best_epoch=1,
    )


def write_plan(folder: Path, trials: int, epochs: int) -> None:
    total = trials * epochs
    plan = {
        "trials": trials,
        "epochs": {"expected": 0.8 * total, "low": 0.5 * total, "high": total},
        "device_hours": {"expected": total / 120, "low": total / 200, "high": total / 100},
        "wall_hours": None,
        "disk_gb": {"expected": 0.01, "low": 0.001, "high": 1.0},
        "basis": "sweep before, 84 epochs",
    }
    (folder / "plan.json").write_text(json.dumps(plan))
