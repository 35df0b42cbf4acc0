"""Which trainings the diagnosis stops: python -m benchmarks.diagnosed [--lines FILE], about 15 minutes of one core.

Every preset of every family, and seesaw at the end of its range (p = 2), on three data sets: the phantom; twelve crops
of unlike sizes, one class annotated in some only; the same with two of the five classes 30 times rarer. Families whose
weights follow counts are trained with the first update inside the first epoch, at its end, and after it. Each family
again with 30 and 1000 times the learning rate, from the start and after two epochs. No Ray: an `Engine` per data set.
Prints the table of docs/diagnoses.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import number
from benchmarks.record_curves import HARDWARE
from search_spaces import ClassCounts, space_of
from trainables.data import PackedCrop, PackedDataset, open_packed
from trainables.data.expand import pack_class, packed_bytes
from trainables.engine import Engine
from trainables.objective import Objective
from trainables.settings import FIVE_CLASSES, DataSettings, ModelSettings, TrainerSettings, TrialSettings
from trainables.tasks.multilabel import TASK
from tune_app.results.diagnosis import diagnose, hopeless
from tune_app.search.arms import planned_arms
from tune_app.settings.schema import DiagnosisSettings, SearchSettings, Settings

Row = Mapping[str, Any]
DICE = Objective(metric=TASK.metric)
DATA = DataSettings(patch=[1, 32, 32])
MODEL = ModelSettings(width=8, depth=3)
TRAINER = TrainerSettings(
    epochs=5, iterations_per_epoch=16, batch_size=8, validation_batches=5, lr=6e-3, pct_start=0.1, compile=False
)
SHARES = (0.12, 0.06, 0.055, 0.022, 0.018)
"""Of the voxels, per class: those of the phantom."""
RARER = (*SHARES[:3], SHARES[3] / 30, SHARES[4] / 30)
GREY = (20, 50, 200, 225, 250)
"""Of the voxels of each class. Background lies between."""
FACTORS = (30.0, 1000.0)
FASTER_AFTER = 2


@dataclass(frozen=True, kw_only=True)
class Training:
    """label: of the configuration. update: steps between two updates of the weights that follow counts. factor: on the
    learning rate, from epoch `after` + 1 on."""

    label: str
    loss: Mapping[str, Any]
    update: int
    factor: float = 1.0
    after: int = 0


def drawn(settings: DataSettings, shares: Iterable[float], shapes: Iterable[tuple[int, int, int]]) -> PackedDataset:
    """Crops of 2 × 2 blocks of one class each, known by its grey value. Every fourth crop validates; the last class is
    not annotated in every third."""
    crops = tuple(_drawn_crop(i, np.cumsum(list(shares)), shape) for i, shape in enumerate(shapes))
    return PackedDataset(settings, FIVE_CLASSES, crops, "drawn", "", Path())


def _drawn_crop(number: int, bounds: np.ndarray, shape: tuple[int, int, int]) -> PackedCrop:
    rng, num_classes = np.random.default_rng(number), len(FIVE_CLASSES)
    depth, height, width = shape
    blocks = np.searchsorted(bounds, rng.random((depth, height // 2, width // 2)))
    grey = np.append(GREY, 0)[blocks] + (blocks == num_classes) * rng.integers(90, 160, blocks.shape)
    present, em = (v.repeat(2, axis=1).repeat(2, axis=2) for v in (blocks, grey.astype(np.uint8)))
    labels = np.zeros((packed_bytes(num_classes), *shape), np.uint8)
    known = np.ones(num_classes, bool)
    known[-1] = number % 3 != 2
    for c in range(num_classes):
        pack_class(labels, c, num_classes, present == c, np.full(shape, known[c]))
    positive = np.array([(present == c).sum() for c in range(num_classes)]) * known
    positions = np.zeros((num_classes, 1, 3), np.int32)  # for class_aware sampling only
    side = "validate" if number % 4 == 3 else "train"
    return PackedCrop(f"drawn/crop{number}", side, shape, em, labels, (0, 0, 0), positive, known * em.size, positions)


def unlike_shapes(num_crops: int = 12) -> list[tuple[int, int, int]]:
    """Crops both smaller and larger than a patch."""
    rng = np.random.default_rng(0)
    return [(int(d), 2 * int(h), 2 * int(w)) for d, h, w in rng.integers((2, 12, 12), (5, 48, 48), (num_crops, 3))]


def trainings(dataset: PackedDataset, trainer: TrainerSettings) -> list[Training]:
    """All of one data set, the healthy ones first."""
    counts = ClassCounts.from_mapping(dataset.counts("train"))
    settings = Settings(family="all", data=dataset.settings, search=SearchSettings(num_samples=1_000))
    losses = {arm.label: arm.trial(counts)["loss"] for arm in planned_arms(settings, space_of("all"))}
    losses["seesaw_p_2"] = {"name": "seesaw", "params": {"p": 2.0, "q": 2.0}}
    epoch = trainer.iterations_per_epoch
    updates = (max(1, epoch // 3), epoch, epoch * 3 // 2)
    healthy = [
        Training(label=label, loss=loss, update=update)
        for label, loss in losses.items()
        for update in (updates if loss["name"] in ("seesaw", "class_balanced", "balanced_softmax") else updates[:1])
    ]
    first = {loss["name"]: label for label, loss in reversed(losses.items())}
    faster = [
        Training(label=label, loss=losses[label], update=epoch, factor=factor, after=after)
        for label in first.values()
        for factor in FACTORS
        for after in (0, FASTER_AFTER)
    ]
    return healthy + faster


def train(engine: Engine, training: Training, trainer: TrainerSettings) -> Iterator[Row]:
    """The rows of a training, from a fresh start."""
    update = {"count_update_every": training.update, "count_window": str(training.update)}
    slow, fast = replace(trainer, **update), replace(trainer, lr=trainer.lr * training.factor, **update)
    engine.reset(training.loss, 0, slow)
    for epoch in range(trainer.epochs):
        engine.settings.trainer = slow if epoch < training.after else fast
        yield engine.run_epoch()


def stopped_at(rows: list[Row]) -> int:
    """The epoch at which the diagnosis, or NaN, ends a training; 0 where neither does."""
    ends = (n for n in range(1, len(rows) + 1) if rows[n - 1]["diagnosis"] or hopeless(rows[:n], DiagnosisSettings()))
    return next(ends, 0)


def rises_with_its_weights(rows: list[Row]) -> bool:
    """Whether the weighted loss is 1.5 times that of epoch 1 for two epochs: the rule before this one."""
    risen = [row["loss"] > 1.5 * rows[0]["loss"] for row in rows]
    return any(a and b for a, b in pairwise(risen))


def summary(name: str, runs: list[tuple[Training, list[Row]]]) -> Iterator[list[str]]:
    """A row of the table per learning rate."""
    for factor in (1.0, *FACTORS):
        chosen = [(t, rows) for t, rows in runs if t.factor == factor]
        stops = [stopped_at(rows) - t.after for t, rows in chosen if stopped_at(rows)]
        codes = {one.code for _, rows in chosen for one in diagnose(rows, DiagnosisSettings(), DICE, epochs=len(rows))}
        growth = [max(row["weight_growth"] for row in rows) for _, rows in chosen]
        best = [max(row[TASK.metric] for row in rows) for _, rows in chosen]
        yield [
            name,
            f"× {factor:g}",
            str(len(chosen)),
            f"{number(min(growth))} … {number(max(growth))}",
            f"{min(best):.2f} … {max(best):.2f}",
            ", ".join(sorted(codes)) or "none",
            f"{len(stops)}" + (f", epoch {min(stops)} … {max(stops)} of it" if stops else ""),
            str(sum(rises_with_its_weights(rows) for _, rows in chosen)),
        ]


HEADER = ("data", "learning rate", "runs", "weight growth", "best mean Dice", "names", "stopped", "by the rule before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=Path, default=Path("diagnosed.jsonl"), help="appended to, run by run")
    path = parser.parse_args().lines
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    shapes = unlike_shapes()
    datasets = {
        "phantom": open_packed(DATA),
        "unlike crops": drawn(DATA, SHARES, shapes),
        "30 times rarer": drawn(DATA, RARER, shapes),
    }
    print(f"| {' | '.join(HEADER)} |\n|---|---|---:|---|---|---|---|---:|")
    with path.open("a") as file:
        for name, dataset in datasets.items():
            settings = TrialSettings(data=DATA, model=MODEL, trainer=TRAINER, hardware=HARDWARE)
            engine, runs = Engine(settings, {"name": "seesaw", "params": {"p": 0, "q": 0}}, 0, dataset=dataset), []
            for number, training in enumerate(trainings(dataset, TRAINER)):
                known = next((run["rows"] for run in done if run["key"] == [name, number]), None)
                runs.append((training, known or list(train(engine, training, TRAINER))))
                if not known:
                    print(json.dumps({"key": [name, number], "rows": runs[-1][1]}), file=file, flush=True)
            for cells in summary(name, runs):
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
