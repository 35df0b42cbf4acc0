"""Class counts of a sweep: what derived weights follow from, and how much training sees of them at a time."""

from __future__ import annotations

import math

import numpy as np

from search_spaces import ClassCounts
from trainables.data import PackedDataset
from tune_app.config import Settings


def class_counts(settings: Settings, dataset: PackedDataset) -> ClassCounts:
    """The counts behind derived weights: of the training crops, the published ones, or a file."""
    if settings.frequencies == "data":
        return ClassCounts.from_mapping(dataset.counts("train"), source="training crops")
    if settings.frequencies == "published":
        return ClassCounts.published().select(settings.data.classes)
    return ClassCounts.from_json(settings.frequencies).select(settings.data.classes)


def count_window_voxels(settings: Settings, dataset: PackedDataset) -> float:
    """Annotated voxels of one class in one count window of training, averaged over classes and training crops.

    A patch covers a smaller crop wholly and a larger one in part; rotation, which loses a little, is left out.
    """
    trainer, patch = settings.trainer, settings.data.patch
    covered = [
        math.prod(min(size, side) for size, side in zip(crop.shape, patch)) * float(np.mean(crop.known))
        / math.prod(crop.shape)
        for crop in dataset.crops if crop.side == "train"
    ]  # fmt: skip
    whole = trainer.epochs * trainer.iterations_per_epoch
    batches = whole if trainer.count_window == "all" else int(trainer.count_window)
    return float(np.mean(covered)) * trainer.batch_size * batches
