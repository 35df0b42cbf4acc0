"""A trainable that does nothing: it reports rows with the keys of a real trial's, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune

from trainables.tasks.multilabel import TASK

CLASSES = ("nuc", "mito_mem", "er_mem", "pm", "golgi_mem")
PER_CLASS = (
    "dice/{}",
    "iou/{}",
    "precision/{}",
    "recall/{}",
    "support/{}",
    "fg_pred/{}",
    "fg_true/{}",
    "loss/{}",
    "weight/{}",
    "shift/{}",
    "sigmoid/{}/min",
    "sigmoid/{}/max",
    "sigmoid/{}/mean",
    "sigmoid/{}/sd",
    "sigmoid/{}/above_half",
)
SCALARS = (
    "mean_iou",
    "val_loss",
    "loss",
    "grad_norm",
    "skipped_share",
    "grad_scale",
    "weight_growth",
    "lr",
    "seconds_load",
    "seconds_compute",
    "seconds_validate",
    "seconds_epoch",
    "patches_per_s",
)
KEYS = (*SCALARS, *(key.format(name) for key in PER_CLASS for name in CLASSES))
GOLDEN = 0.6180339887498949


class IdleTrial(tune.Trainable):
    """config["trainer"]["epochs"] rows, without training.

    It leaves one byte where a real trial leaves its best weights, so that whoever keeps checkpoints has work.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._trial, self._epoch = config, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self._epoch += 1
        run = self._trial["run"]
        if self._epoch == 1:
            (Path(run["dir"]) / "best.pt").write_bytes(b"-")
        row = idle_row(run["number"], self._epoch)
        return {**row, "training_iteration": self._epoch, "done": self._epoch >= self._trial["trainer"]["epochs"]}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory([{"CPU": config["resources"]["cpus_per_trial"]}])


def idle_row(number: int, epoch: int) -> dict[str, Any]:
    """A row of one epoch with every key that a trial of five classes reports.

    The scores of successive trials fill [0, 1) evenly, so that successive halving lets the same share of them go on
    whether there are a hundred or thousands.
    """
    score = number * GOLDEN % 1
    row = {"epoch": epoch, TASK.metric: score, f"best_{TASK.metric}": score, "best_epoch": 1, "diagnosis": ""}
    return row | {key: (number * GOLDEN + place / len(KEYS)) % 1 for place, key in enumerate(KEYS)}
