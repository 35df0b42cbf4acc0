"""multilabel: several classes, each there or not in every voxel, annotated or unknown; scored by Dice per class."""

from __future__ import annotations

from trainables.tasks import Task

TASK = Task(metric="mean_dice")
