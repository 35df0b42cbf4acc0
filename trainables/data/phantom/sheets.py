"""Generated thin sheets in the layout of `trainables.data.sources.labelled_volumes`: layers of a rolled-up material.

Layers lie above one another and undulate together and each a little by itself, so that some touch the next one. A
layer is bright and fibrous, with dark gaps between layers and holes in it. The surface is its brighter face, one to
three voxels thick, so that it is told from the other face in a mirror, too. Nobody labelled a part of each volume.

Shapes: D H W voxels. Layers are made along z; the volume is then turned so that they lie across any of its axes.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.phantom.fields import grains, smooth_noise
from trainables.data.phantom.generate import TRAIN, VALIDATE, made_once, make_folder

VERSION = "1"
BACKGROUND, SURFACE, UNLABELLED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that defines the data but the seed. Lengths in voxels."""

    train: int = 8
    """Volumes that train, and `validate` those that validate."""
    validate: int = 2
    side: int = 64
    """D = H = W."""
    spacing: float = 8.0
    """From a layer to the next."""
    layer: float = 5.0
    """Mean thickness of a layer; the gap is what is left of the spacing."""
    surface: tuple[float, float] = (1.2, 2.8)
    """Thickness of the surface, drawn for each layer."""
    swell: float = 5.0
    """How far (standard deviation) all layers undulate together, and `ripple` each by itself."""
    ripple: float = 0.9
    labelled: tuple[float, float] = (0.3, 0.7)
    """Share of a volume that is labelled, drawn for each."""
    noise: float = 22.0
    """Standard deviation, grey values."""


SMALL = Plan()


def make(out: Path, *, seed: int = 0, plan: Plan = SMALL) -> Path:
    """Write the volumes into `out` and return it, see `generate.make_folder`."""
    description = {"phantom": f"sheets-{VERSION}", "seed": seed, "plan": json.loads(json.dumps(asdict(plan)))}
    return make_folder(out, description, lambda folder: _write(folder, seed, plan))


def ensure(cache_dir: Path) -> Path:
    """The volumes below `cache_dir`, made if they are not there; processes that start together make them once."""
    return made_once(Path(cache_dir) / f"sheets-phantom-v{VERSION}", make)


def _write(root: Path, seed: int, plan: Plan) -> None:
    import tifffile

    for part in ("images", "labels"):
        (root / part).mkdir()
    streams = np.random.SeedSequence(seed).spawn(plan.train + plan.validate)
    rows = [("side", "volume")]
    for number, stream in enumerate(streams):
        name = f"sheets{number:02d}"
        for part, volume in zip(("images", "labels"), layers(np.random.default_rng(stream), plan)):
            tifffile.imwrite(root / part / f"{name}.tif", volume, photometric="minisblack", metadata=None)
        rows.append((VALIDATE if number < plan.validate else TRAIN, name))
    with (root / "split.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def layers(rng: np.random.Generator, plan: Plan) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One volume: grey values and labels (0, 1, 2), uint8 (D, H, W) each."""
    side = plan.side
    shape, plane = (side,) * 3, (1, side, side)
    z = np.arange(side, dtype=np.float64)[:, None, None]
    swell = plan.swell * smooth_noise(rng, plane, side / 2.5)[0]
    tilt = rng.normal(0, 0.12, 2)
    swell = swell + tilt[0] * (np.arange(side)[:, None] - side / 2) + tilt[1] * (np.arange(side) - side / 2)
    fibres = grains(rng.standard_normal(shape).astype(np.float32)) + 2.0 * smooth_noise(rng, shape, 3.0)
    grey, surface = np.full(shape, 52.0), np.zeros(shape, bool)
    reach = int(np.ceil((np.abs(swell).max() + plan.layer) / plan.spacing)) + 1
    for number in range(-reach, int(side / plan.spacing) + reach + 1):
        top = number * plan.spacing + swell + plan.ripple * smooth_noise(rng, plane, side / 5)[0]
        slope = np.sqrt(1 + sum(step**2 for step in np.gradient(top)))  # thickness is across a layer, not along z
        thick = slope * np.clip(plan.layer + 0.8 * smooth_noise(rng, plane, side / 6)[0], 2.5, None)
        whole = smooth_noise(rng, plane, side / 5)[0] > -1.6
        inside = (z >= top) & (z < top + thick) & whole
        bright = 165 + rng.normal(0, 8) - 45 * (z - top) / thick + 9 * fibres
        grey = np.where(inside, bright, grey)
        surface |= (z >= top - 0.5) & (z < top - 0.5 + slope * rng.uniform(*plan.surface)) & whole
    blur = np.pad(grey, 1, mode="edge")
    for axis in range(3):  # a microscope that does not resolve single voxels
        low, middle, high = (np.take(blur, range(first, blur.shape[axis] - 2 + first), axis) for first in range(3))
        blur = 0.25 * low + 0.5 * middle + 0.25 * high
    noise = grains(rng.standard_normal(shape).astype(np.float32)) + 0.5 * rng.standard_normal(shape)
    uneven = 12 * smooth_noise(rng, shape, side / 2)
    image = np.rint(np.clip(blur + uneven + plan.noise * noise, 0, 255)).astype(np.uint8)
    where = smooth_noise(rng, shape, side / 2.5)
    labels = np.where(where < np.quantile(where, rng.uniform(*plan.labelled)), surface, UNLABELLED).astype(np.uint8)
    axes = tuple(rng.permutation(3).tolist())
    return tuple(np.ascontiguousarray(volume.transpose(axes)) for volume in (image, labels))  # type: ignore[return-value]
