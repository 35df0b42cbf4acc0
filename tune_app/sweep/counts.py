"""Class counts of a sweep: what derived weights follow from, and how much training sees of them at a time.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces import ClassCounts
from trainables.data import PackedDataset, PatchSampler
from tune_app.settings.schema import POPULATIONS, Settings


def class_counts(settings: Settings, dataset: PackedDataset) -> ClassCounts:
    """The counts behind derived weights: of the training side, the published ones, or a file."""
    if settings.frequencies in POPULATIONS:
        return count(dataset, settings.frequencies, learnt=settings.outputs).select(settings.outputs)
    if settings.frequencies == "published":
        return ClassCounts.published().select(settings.outputs)
    return ClassCounts.from_json(settings.frequencies).select(settings.outputs)


def count(
    dataset: PackedDataset, population: str, side: str = "train", learnt: Sequence[str] | None = None
) -> ClassCounts:
    """The counts of one of POPULATIONS on one side of the split. learnt: as a `PatchSampler` takes it.

    sampled: expected voxels of a patch, of the validation side with every crop equally likely; scaled so that all
    classes together have as many annotated voxels as the crops hold. Which voxels count more is all that differs.
    """
    held = dataset.counts(side)
    if population == "data":
        return ClassCounts.from_mapping(held, source=f"every voxel of the {side} crops")
    sampling = dataset.settings.sampling if side == "train" else "crop"
    positive, known = expected_voxels(dataset, side, sampling, learnt)
    scale = sum(held["known"]) / max(known.sum(), 1e-9)
    return ClassCounts(
        dataset.classes,
        tuple((positive * scale).tolist()),
        tuple((known * scale).tolist()),
        f"voxels of the {side} crops as patches of {dataset.settings.patch} show them, data.sampling={sampling}",
    )


def expected_voxels(
    dataset: PackedDataset, side: str, sampling: str, learnt: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positive and annotated voxels of each class, (C,) each, that a patch holds in expectation."""
    return PatchSampler(dataset, side=side, batch_size=1, seed=0, sampling=sampling, learnt=learnt).expected_voxels()


def count_window_voxels(settings: Settings, dataset: PackedDataset) -> float:
    """Annotated voxels of one class in one count window of training, expected, averaged over the classes learnt."""
    trainer, learnt = settings.trainer, settings.outputs
    _, known = expected_voxels(dataset, "train", settings.data.sampling, learnt)
    known = known[[dataset.classes.index(name) for name in learnt]]
    whole = trainer.epochs * trainer.iterations_per_epoch
    steps = whole if trainer.count_window == "all" else int(trainer.count_window)
    return float(known.mean()) * trainer.batch_size * trainer.accumulate * steps
