"""Runs inside the environment of `cellmap_data.py`: one configuration, trained as the published comparison was.

    python published_way.py '{"split": PATH, "classes": […], "patch": […], "voxel_nm": […], "batch_size": 16,
        "augment": true, "seed": 0, "width": 16, "depth": 4, "epochs": 9, "iterations": 20, "validation_batches": 6,
        "lr": 6e-3, "weight": [1, …], "shift": [0, …]}'

cellmap-data's loader with two workers, an eager UNet, the Tversky loss of each class in plain torch, Dice on the
validation crops after every epoch; no compiler, no early stopping. The network is this repository's file, imported, so
that both sides do the same arithmetic. Prints one line of JSON: mean Dice per epoch, seconds in steps, seconds that
waited for the loader.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
WORKERS = 2
FP_WEIGHT, FN_WEIGHT, EPSILON = 0.6, 0.4, 1e-6


def tversky_sums(p: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Σp·t, Σp·(1 − t), Σ(1 − p)·t over annotated voxels, per class."""
    known = ~target.isnan()
    t, p, over = target.nan_to_num(), p * known, (0, *range(2, target.ndim))
    return (p * t).sum(over), (p * (1 - t)).sum(over), ((1 - p) * t * known).sum(over)


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(task["seed"])
    sys.path.append(str(ROOT))
    from benchmarks.peers.cellmap_data_worker import batches, import_torchvision
    from trainables.models.unet import UNet

    import_torchvision()

    network = UNet(
        spatial_dims=2, in_channels=1, num_classes=len(task["classes"]), width=task["width"], depth=task["depth"]
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=task["lr"])
    steps = task["epochs"] * task["iterations"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task["lr"], total_steps=steps)
    weight, shift = (torch.tensor(task[name]) for name in ("weight", "shift"))
    shift = shift[:, None, None]
    training, validation = (batches(task, side, WORKERS) for side in ("train", "validate"))
    waited, stepped, dice = 0.0, 0.0, []

    def timed(source: Iterator[dict[str, Tensor]], number: int) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal waited, stepped
        for _ in range(number):
            before = time.perf_counter()
            batch = next(source)
            arrived = time.perf_counter()
            yield batch["em"].float(), batch["labels"].float()
            waited, stepped = waited + arrived - before, stepped + time.perf_counter() - arrived

    for _ in range(task["epochs"]):
        network.train()
        for image, target in timed(training, task["iterations"]):
            hit, false, missed = tversky_sums(torch.sigmoid(network(image) + shift), target)
            index = (hit + EPSILON) / (hit + FP_WEIGHT * false + FN_WEIGHT * missed + EPSILON)
            optimizer.zero_grad(set_to_none=True)
            (weight * (1 - index)).mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        network.eval()
        totals = torch.zeros(3, len(task["classes"]))
        with torch.no_grad():
            for image, target in timed(validation, task["validation_batches"]):
                totals += torch.stack(tversky_sums((network(image) > 0).float(), target))
        hit, false, missed = totals
        dice.append(float((2 * hit / (2 * hit + false + missed).clamp_min(1)).mean()))
    print(json.dumps({"dice": dice, "waited": waited, "stepped": stepped}))


if __name__ == "__main__":
    main()
