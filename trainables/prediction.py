"""What a trial's best epoch predicts for a few validation patches: prediction.npz, for people to look at.

Made every few epochs and at the end, by the process that trains: there data, compiled graph and checkpoint are at hand,
and a forward pass of one batch is all it costs. Made later, from best.pt and the packed cache, a picture would need the
data on the machine that reads the results, and checkpoints that a sweep does not keep for all its trials.

Shapes: N batch, C outputs of the network, M patches shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainables import checkpoint
from trainables.data import PackedBatch
from trainables.engine import Engine
from trainables.steps import normalise

PREDICTION = "prediction.npz"
MAX_PATCHES = 6


class PredictionPictures:
    """The patches that all trials of one engine show: the same ones, so that two trials can be compared."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        batches = engine.validator.batches
        limit = min(MAX_PATCHES, batches.batch_size)
        counts = [engine.task.shown(batch, engine.dataset.classes) for batch in batches]
        shown = choose(counts, [batch.crop.tolist() for batch in batches], limit)
        self.num_shown = len(shown)
        self._batch = gather(batches, shown, batches.batch_size)

    def arrays(self, folder: Path) -> dict[str, NDArray]:
        """What the task shows of each patch; crops (M,), classes (C,), best_epoch.

        The weights are those of best.pt in `folder`, and stay in the model: before a trial has ended, only at an epoch
        that is its best. A logit shift that follows from running counts is the present one. Raises CheckpointError.
        """
        engine = self.engine
        if engine.kept_epoch != engine.epoch:
            engine.model.load_state_dict(checkpoint.read(folder / checkpoint.BEST)["model"])
        device = self._batch.to(engine.hardware.device)
        with torch.no_grad():
            engine.model.eval()
            logits = engine.evaluation_step(device.em, device.labels)[1][: self.num_shown].cpu()
        em, labels, crop = (getattr(self._batch, name)[: self.num_shown] for name in ("em", "labels", "crop"))
        em = em[:, engine.dataset.shown_channel, None]
        em = (normalise(em, engine.settings.data.intensity) * 255).round().to(torch.uint8)  # as the network sees it
        return {
            **engine.task.picture(PackedBatch(em, labels, crop), logits, engine.dataset.classes),
            "crops": np.array([engine.validator.crops[i] for i in crop.tolist()]),
            "classes": np.array(engine.classes),
            "best_epoch": np.array(engine.kept_epoch, np.int64),
        }


def choose(counts: Sequence[NDArray[np.int64]], crops: Sequence[Sequence[int]], limit: int) -> list[tuple[int, int]]:
    """Up to `limit` patches as (batch, row), from counts (N, C) and crops (N,) per batch: something of every class.

    Rare classes first, each takes the patch that holds most of it, unless one chosen already holds half as much. Places
    that are left go to the patches with the most classes, of crops that are not shown yet as long as there are any.
    """
    places = [(number, row) for number, table in enumerate(counts) for row in range(len(table))]
    table = np.concatenate(list(counts))
    chosen: list[int] = []
    for c in np.argsort(table.sum(axis=0), kind="stable"):
        most = int(table[:, c].argmax())
        enough = max((table[index, c] for index in chosen), default=0) * 2 >= table[most, c]
        if not enough and len(chosen) < limit:
            chosen.append(most)
    crop_of = [crop for batch in crops for crop in batch]
    richness = np.count_nonzero(table, axis=1)
    while len(chosen) < min(limit, len(places)):
        shown = {crop_of[index] for index in chosen}
        rest = [index for index in range(len(places)) if index not in chosen]
        chosen.append(max(rest, key=lambda index: (crop_of[index] not in shown, richness[index], -index)))
    return [places[index] for index in chosen]


def gather(batches: Sequence[PackedBatch], places: Sequence[tuple[int, int]], batch_size: int) -> PackedBatch:
    """These patches as one batch of the size the graph was compiled for; the last one is repeated to fill it up."""
    filled = [*places, *[places[-1]] * (batch_size - len(places))]
    em, labels, crop = (
        torch.stack([getattr(batches[b], name)[row] for b, row in filled]) for name in ("em", "labels", "crop")
    )
    return PackedBatch(em, labels, crop)
