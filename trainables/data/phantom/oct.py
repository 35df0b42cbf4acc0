"""Generated volumes of a retina, one label each, in the layout of `trainables.data.sources.classified_volumes`.

As optical coherence tomography shows it: layers of different brightness between the inner surface and the bright
pigment epithelium, speckle, and an illumination that differs from volume to volume. The classes differ in
details alone:

    normal   layers, nothing else
    drusen   bumps below the pigment epithelium, which follows them
    cnv      the epithelium broken by a bright lesion, with fluid over it
    dme      dark cysts between the layers

Nearly half of what trains is normal, and 17 of 65 volumes that validate, 26 %: the prior at which a network stands that
calls all of them normal.

Shapes: D scans, H depth into the eye, W across; voxels.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.phantom.fields import smooth_noise
from trainables.data.phantom.generate import TRAIN, VALIDATE, made_once, make_folder

VERSION = "1"
CLASSES = ("normal", "drusen", "cnv", "dme")
LAYERS = ((0.0, 0.62), (0.22, 0.42), (0.42, 0.55), (0.60, 0.30), (0.88, 0.95))
"""Where each layer begins, as a share of the retina's thickness, and how bright it is, in [0, 1]."""
VITREOUS, CHOROID = 0.08, 0.35
SPECKLE = 0.2
"""Standard deviation of the logarithm of a voxel's brightness."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that defines the data but the seed."""

    train: tuple[int, ...] = (120, 52, 56, 28)
    """Volumes of each class that train, and `validate` those that validate."""
    validate: tuple[int, ...] = (17, 16, 16, 16)
    shape: tuple[int, int, int] = (8, 32, 32)


EDITIONS = {"small": Plan(), "large": Plan(train=(369, 242, 321, 129), validate=(68, 64, 64, 64), shape=(16, 64, 64))}


def make(out: Path, *, seed: int = 0, plan: Plan = EDITIONS["small"]) -> Path:
    """Write the volumes into `out` and return it, see `generate.make_folder`."""
    rule = [LAYERS, VITREOUS, CHOROID, SPECKLE]
    description = {"phantom": f"oct-{VERSION}", "seed": seed, "plan": asdict(plan), "rule": rule}
    return make_folder(out, json.loads(json.dumps(description)), lambda folder: _write(folder, seed, plan))


def ensure(cache_dir: Path, edition: str) -> Path:
    """The volumes below `cache_dir`, made if they are not there; processes that start together make them once."""
    root = Path(cache_dir) / f"oct-{edition}-phantom-v{VERSION}"
    return made_once(root, lambda root: make(root, plan=EDITIONS[edition]))


def _write(root: Path, seed: int, plan: Plan) -> None:
    (root / "class_to_idx.json").write_text(json.dumps({name: index for index, name in enumerate(CLASSES)}))
    wanted = [
        (side, label)
        for side, counts in ((TRAIN, plan.train), (VALIDATE, plan.validate))
        for label, count in enumerate(counts)
        for _ in range(count)
    ]
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("volume", "label", "split"))
        for number, ((side, label), stream) in enumerate(zip(wanted, np.random.SeedSequence(seed).spawn(len(wanted)))):
            name = f"oct{number:04d}.npy"
            np.save(root / name, volume(np.random.default_rng(stream), CLASSES[label], plan.shape))
            rows.writerow((name, CLASSES[label], side))


def volume(rng: np.random.Generator, label: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """One volume of a class."""
    depth, height, width = shape
    across = np.linspace(-1, 1, width)[None, :]
    along = np.linspace(-1, 1, depth)[:, None]
    bend, tilt = rng.uniform(-0.05, 0.09), rng.uniform(-0.06, 0.06, 2)
    wave = smooth_noise(rng, (depth, 1, width), 10.0)[:, 0] * 0.012
    top = height * (rng.uniform(0.22, 0.34) + bend * across**2 + tilt[0] * across + tilt[1] * along + wave)  # (D, W)
    thick = height * rng.uniform(0.36, 0.46) * (1 - 0.12 * np.exp(-((across / 0.3) ** 2)))
    bottom = top + thick  # of the pigment epithelium
    y = np.arange(height)[None, :, None] + 0.5

    lift, lesion, fluid = np.zeros((depth, width)), np.zeros(shape), np.zeros(shape)
    if label == "drusen":
        for _ in range(rng.integers(3, 6)):
            lift += height * rng.uniform(0.10, 0.16) * _spot(rng, depth, width, rng.uniform(1.8, 2.8))
    elif label == "cnv":
        spot = _spot(rng, depth, width, rng.uniform(4.0, 5.5))
        lesion = spot[:, None] * np.exp(-(((y - (bottom - 0.02 * height)[:, None]) / (0.1 * height)) ** 2))
        fluid = spot[:, None] * np.exp(-(((y - (bottom - 0.17 * height)[:, None]) / (0.07 * height)) ** 2))
    elif label == "dme":
        for _ in range(rng.integers(3, 6)):
            spot = _spot(rng, depth, width, rng.uniform(1.8, 2.8))
            centre = top + thick * rng.uniform(0.3, 0.62)
            fluid = np.maximum(
                fluid, spot[:, None] * np.exp(-(((y - centre[:, None]) / (height * rng.uniform(0.05, 0.07))) ** 2))
            )

    place = (y - top[:, None]) / thick[..., None, :] if thick.ndim == 2 else (y - top[:, None]) / thick
    epithelium = (y - (bottom - lift)[:, None]) / (0.12 * thick[:, None] if thick.ndim == 2 else 0.12 * thick)
    image = np.full(shape, VITREOUS)
    for begin, brightness in LAYERS[:-1]:
        image = np.where(place >= begin, brightness, image)
    image = np.where(epithelium >= -1, LAYERS[-1][1], image)
    image = np.where(epithelium >= 0, CHOROID * np.exp(-0.8 * np.clip(place - 1, 0, None)), image)
    drusen = (lift[:, None] > 0.02 * height) & (epithelium >= 0) & (place < 1)
    image = np.where(drusen, 0.7, image)
    image = image + (0.85 - image) * np.clip(1.2 * lesion, 0, 1)
    image = image * (1 - 0.85 * np.clip(1.2 * fluid, 0, 1))
    image = image * np.exp(SPECKLE * rng.standard_normal(shape)) * rng.uniform(0.75, 1.15)
    image = image + rng.uniform(0.0, 0.06)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _spot(rng: np.random.Generator, depth: int, width: int, radius: float) -> NDArray[np.float64]:
    """A round spot somewhere in the plane of the retina, (D, W), 1 in its middle. radius: voxels, of 32 across."""
    z, x = rng.uniform(1, depth - 2), rng.uniform(0.2 * width, 0.8 * width)
    far = ((np.arange(depth)[:, None] - z) / depth * 16) ** 2 + ((np.arange(width)[None, :] - x) / width * 32) ** 2
    return np.exp(-far / (2 * radius**2))
