"""Draws EM, truth and prediction of an exported configuration: python benchmarks/prediction_picture.py best/1 PICTURE.

The patches are those of the validation set with the most annotated classes, one per crop. Where nothing is known the
truth is darkened. Needs matplotlib (dev dependencies).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import yaml
from safetensors.torch import load_file

from trainables import models
from trainables.data import PackedBatch, expand_labels, open_packed, validation_set
from trainables.settings import TrialSettings, trial_settings

PALETTE = ((0, 114, 178), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (86, 180, 233))
"""Okabe & Ito's colours, told apart by colour-blind readers."""
NUM_PATCHES = 6

Rgb = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    config = yaml.safe_load((arguments.export / "config.yaml").read_text())
    draw(trial_settings(config), arguments.export / "model.safetensors", arguments.picture)


def draw(settings: TrialSettings, weights: Path, picture: Path) -> None:
    """Write `picture` (PNG): three rows, one column per patch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    dataset = open_packed(settings.data)
    model = models.build(settings.model, in_channels=1, num_classes=len(dataset.classes), patch=settings.data.patch)
    model.load_state_dict(load_file(weights))
    batches = validation_set(dataset, batch_size=16, num_batches=8, seed=settings.data.split_seed)
    columns = [predicted(model.eval(), batch, row, len(dataset.classes)) for batch, row in chosen(batches)]
    figure, axes = pyplot.subplots(3, len(columns), figsize=(2.2 * len(columns), 7), squeeze=False)
    for column, images in enumerate(columns):
        for row, (image, title) in enumerate(zip(images, ("EM", "truth", "prediction"))):
            axes[row, column].imshow(image, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, 0].set_ylabel(title, fontsize=12)
    handles = [Patch(color=np.array(c) / 255, label=name) for name, c in zip(dataset.classes, PALETTE)]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=11)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(picture, dpi=72, pil_kwargs={"optimize": True})


def chosen(batches: list[PackedBatch]) -> list[tuple[PackedBatch, int]]:
    """Per crop the patch in which most classes are present: batch and row, most classes first."""
    best: dict[int, tuple[int, PackedBatch, int]] = {}
    for batch in batches:
        for row, crop in enumerate(batch.crop.tolist()):
            classes = int(present_classes(batch.labels[row]))
            if classes > best.get(crop, (-1,))[0]:
                best[crop] = (classes, batch, row)
    ranked = sorted(best.values(), key=lambda found: -found[0])
    return [(batch, row) for _, batch, row in ranked[:NUM_PATCHES]]


def present_classes(labels: torch.Tensor) -> int:
    """labels uint8 (P, D, H, W), five classes: how many have a present voxel. Bits 0…4 of the first byte."""
    return sum(bool((labels[0] >> bit & 1).any()) for bit in range(5))


@torch.no_grad()
def predicted(model: torch.nn.Module, batch: PackedBatch, row: int, num_classes: int) -> tuple[Rgb, Rgb, Rgb]:
    """EM, truth over EM, prediction over EM, each (H, W, 3) in [0, 1]."""
    em = batch.em[row : row + 1, :, 0].float() / 255
    target = expand_labels(batch.labels[row : row + 1], num_classes)[0, :, 0].numpy()
    grey = np.repeat(em[0, 0, ..., None].numpy().astype(np.float64), 3, axis=-1)
    known = ~np.isnan(target).all(axis=0)
    truth = painted(grey, np.nan_to_num(target) > 0.5) * np.where(known, 1.0, 0.35)[..., None]
    return grey, truth, painted(grey, (model(em)[0] > 0).numpy())


def painted(grey: Rgb, mask: npt.NDArray[np.bool_]) -> Rgb:
    """mask (C, H, W): each class in its colour over the image."""
    image = grey.copy()
    for channel, colour in zip(mask, PALETTE):
        image[channel] = 0.35 * grey[channel] + 0.65 * np.array(colour) / 255
    return image


if __name__ == "__main__":
    main()
