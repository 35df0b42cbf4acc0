"""The built-in data: synthetic cells in electron microscopy, written as CellMap writes its volumes.

    make(out, seed=0)    write the data into the folder `out`, all or nothing
    ensure(cache_dir)    the same, once per cache folder and edition, however many processes ask
    is_phantom(root)     whether a data root was generated here

Four data sets differ in voxel size (one is anisotropic), contrast and noise. Their crops are smaller than a patch as
often as not, annotate some of the classes, hold blocks of unknown voxels, and in one place the EM was "never
downloaded". Shapes: D H W voxels; lengths in nanometres, order z, y, x.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from trainables.data.phantom.crops import FIVE, FOURTEEN_PATTERNS, PATTERNS, Crop, Tally, choose_crops
from trainables.data.phantom.fields import BASE_NM, FourteenRecipe, Recipe, resample
from trainables.data.phantom.shapes import World, make_world
from trainables.data.phantom.writer import (
    CHUNK,
    UNKNOWN,
    write_combined,
    write_crop_group,
    write_em,
    write_group,
    write_label,
)
from trainables.errors import DataError

log = logging.getLogger(__name__)
VERSION = "1"
MARKER = "phantom.json"
Positions = list[npt.NDArray[np.floating]]
SPLIT = "datasplit.csv"
EM_PATH = "recon-1/em/fibsem-uint8"
TRUTH_PATH = "recon-1/labels/groundtruth"
TRAIN, VALIDATE = "train", "validate"


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One data set: its EM grid, its microscope and its crops."""

    name: str
    shape: tuple[int, int, int]
    scale: tuple[float, float, float]
    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sides: tuple[str, ...]
    """train or validate, one per crop."""
    gain: float = 1.0
    """Contrast about the middle grey, and `offset` in grey values."""
    offset: float = 0.0
    noise: float = 1.0
    """Factor on the recipe's noise."""
    nucleus_dtype: str = "uint8"
    num_finer: int = 0
    """So many of the smallest training crops are labelled at half the EM's voxel size."""
    missing_em: bool = False
    """Leave out one EM chunk that a training crop touches."""


def _sides(train: int, validate: int) -> tuple[str, ...]:
    """Validation crops first: they take the pick of the volume."""
    return (VALIDATE,) * validate + (TRAIN,) * train


VOLUMES = (
    Volume(name="phantom_a", shape=(48, 384, 384), scale=(8, 8, 8), sides=_sides(14, 2), missing_em=True),
    Volume(
        name="phantom_b",
        shape=(64, 448, 448),
        scale=(4, 4, 4),
        translation=(2400, 812, 1604),
        sides=_sides(9, 2),
        gain=0.9,
        offset=8,
        noise=1.1,
        nucleus_dtype="uint16",
    ),
    Volume(
        name="phantom_c",
        shape=(52, 448, 448),
        scale=(5.24, 4, 4),
        sides=_sides(8, 2),
        gain=1.05,
        offset=-8,
        noise=0.9,
        num_finer=2,
    ),
    Volume(
        name="phantom_d",
        shape=(40, 320, 320),
        scale=(8, 8, 8),
        translation=(104, 0, 56),
        sides=_sides(9, 1),
        gain=0.95,
        offset=-12,
        noise=1.2,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that defines the data but the seed; smaller plans serve tests."""

    recipe: Recipe = field(default_factory=Recipe)
    volumes: tuple[Volume, ...] = VOLUMES


EDITIONS = {
    "five": Plan(),
    "fourteen": Plan(
        recipe=FourteenRecipe(),
        volumes=(
            replace(VOLUMES[0], name="phantom14_a", shape=(40, 272, 272), sides=_sides(8, 2)),
            replace(VOLUMES[1], name="phantom14_b", shape=(64, 352, 352), sides=_sides(6, 1)),
        ),
    ),
}
"""The published five classes, and the fourteen of the model comparison in two smaller volumes."""


def make(out: Path, *, seed: int = 0, plan: Plan | None = None) -> Path:
    """Write the phantom into `out` and return it; see `make_folder`. The same seed and plan give the same bytes."""
    plan = plan or Plan()
    description = {"phantom": VERSION, "seed": seed, "plan": json.loads(json.dumps(asdict(plan)))}
    return make_folder(out, description, lambda folder: _write(folder, seed, plan))


def make_folder(out: Path, description: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Let `write` fill the folder `out`, and return it; it appears complete or not at all.

    description: what decides the bytes, as JSON has it, with a key `phantom`. A complete folder of this description is
    left as it is, another generated one is replaced. DataError where `out` holds anything else.
    """
    out = Path(out).absolute()
    if is_phantom(out) and json.loads((out / MARKER).read_text()) == description:
        return out
    if out.exists() and not is_phantom(out) and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: holds something that was not generated here, and generated data never replaces it. "
            "Choose a folder that is empty or does not exist"
        )
    log.info("Generating the phantom into %s (once).", out)
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    replaced = building.with_name(f"{building.name}.old")
    try:
        write(building)
        (building / MARKER).write_text(json.dumps(description, indent=1))
        building.chmod(0o755)
        if out.exists():
            os.replace(out, replaced)
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return out


def ensure(cache_dir: Path, edition: str = "five") -> Path:
    """The phantom below `cache_dir`, made if it is not there; processes that start together make it once."""
    name = f"{'' if edition == 'five' else f'{edition}-'}phantom-v{VERSION}"
    return made_once(Path(cache_dir) / name, lambda root: make(root, plan=EDITIONS[edition]))


def made_once(root: Path, make_it: Callable[[Path], Path]) -> Path:
    """`make_it(root)`, by one process at a time."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        return make_it(root)


def is_phantom(root: Path) -> bool:
    """Whether `root` was written by `make`, in any version."""
    try:
        return "phantom" in json.loads((Path(root) / MARKER).read_text())
    except (OSError, ValueError):
        return False


def _write(root: Path, seed: int, plan: Plan) -> None:
    tallies = {TRAIN: Tally(), VALIDATE: Tally()}
    rows: list[tuple[str, ...]] = []
    number, patterns = 1, FOURTEEN_PATTERNS if isinstance(plan.recipe, FourteenRecipe) else PATTERNS
    for volume, stream in zip(plan.volumes, np.random.SeedSequence(seed).spawn(len(plan.volumes)), strict=True):
        rng = np.random.default_rng(stream)
        world = make_world(rng, _base_shape(volume), plan.recipe)
        masks = {name: world.inside[name] > 0 for name in FIVE}
        crops = choose_crops(rng, masks, volume.sides, tallies, number, patterns)
        number += len(crops)
        _write_volume(root, rng, volume, world, crops, plan.recipe)
        rows += [_split_row(volume, crop) for crop in crops]
    _write_split(root / SPLIT, rows)


def _base_shape(volume: Volume) -> tuple[int, int, int]:
    return tuple(int(np.ceil(n * s / BASE_NM)) + 1 for n, s in zip(volume.shape, volume.scale, strict=True))  # type: ignore[return-value]


def _write_volume(
    root: Path, rng: np.random.Generator, volume: Volume, world: World, crops: Sequence[Crop], recipe: Recipe
) -> None:
    container = write_group(root / volume.name / f"{volume.name}.zarr")
    for path in ("recon-1", "recon-1/em", "recon-1/labels", TRUTH_PATH):
        write_group(container / path)
    missing = [_chunk_to_lose(volume, crops)] if volume.missing_em else []
    write_em(container / EM_PATH, _microscope(rng, volume, world, recipe), volume.scale, volume.translation, missing)
    finer = sorted((c for c in crops if c.side == TRAIN), key=lambda c: int(np.prod(c.size)))[: volume.num_finer]
    for crop in crops:
        _write_crop(container / TRUTH_PATH, volume, world, replace(crop, finer=2) if crop in finer else crop)


def _chunk_to_lose(volume: Volume, crops: Sequence[Crop]) -> tuple[int, int, int]:
    """The EM chunk at s0 that holds the last corner of the largest training crop, so that only a part of it is lost."""
    crop = max((c for c in crops if c.side == TRAIN), key=lambda c: c.size[1] * c.size[2])
    corner = [(a + n - 1) * BASE_NM / s for a, n, s in zip(crop.start, crop.size, volume.scale, strict=True)]
    return int(corner[0]) // CHUNK, int(corner[1]) // CHUNK, int(corner[2]) // CHUNK


def _microscope(rng: np.random.Generator, volume: Volume, world: World, recipe: Recipe) -> npt.NDArray[np.uint8]:
    """The EM volume, uint8: contrast of this microscope, noise on the base grid and on the written one."""
    noisy = rng.standard_normal(world.grey.shape, dtype=np.float32) * np.float32(recipe.noise_base * volume.noise)
    noisy += (world.grey - 140) * np.float32(volume.gain) + np.float32(140 + volume.offset)
    em = np.empty(volume.shape, np.uint8)
    positions = [np.arange(n) * s / BASE_NM for n, s in zip(volume.shape, volume.scale, strict=True)]
    for z in range(0, volume.shape[0], 16):  # slabs bound the memory
        slab = resample(noisy, [positions[0][z : z + 16], *positions[1:]])
        slab = slab + rng.standard_normal(slab.shape, dtype=np.float32) * np.float32(recipe.noise_voxel * volume.noise)
        em[z : z + 16] = np.clip(np.rint(slab), 1, 255)
    return em


def _write_crop(truth: Path, volume: Volume, world: World, crop: Crop) -> None:
    scale = [s / crop.finer for s in volume.scale]
    first = [round(a * BASE_NM / s) for a, s in zip(crop.start, volume.scale, strict=True)]
    shape = [round(n * BASE_NM / s) * crop.finer for n, s in zip(crop.size, volume.scale, strict=True)]
    centre = [f * s - (s - c) / 2 for f, s, c in zip(first, volume.scale, scale, strict=True)]
    positions = [(o + np.arange(n) * s) / BASE_NM for o, n, s in zip(centre, shape, scale, strict=True)]
    labels = {name: _label(name, volume, world, crop, positions) for name in crop.classes}
    translation = [o + t for o, t in zip(centre, volume.translation, strict=True)]
    group = write_crop_group(truth / crop.name, crop.classes)
    for name, label in labels.items():
        write_label(group / name, label, scale, translation, instances=name == "nuc")
    write_combined(group / "all", labels, scale, translation)


def _label(
    name: str, volume: Volume, world: World, crop: Crop, positions: Positions
) -> npt.NDArray[np.unsignedinteger]:
    """The label array of one class on the crop's own grid, with its unknown blocks."""
    low = [max(int(p[0]) - 1, 0) for p in positions]
    view = tuple(slice(a, int(p[-1]) + 3) for a, p in zip(low, positions, strict=True))
    local = [p - a for p, a in zip(positions, low, strict=True)]
    label: npt.NDArray[np.unsignedinteger] = (resample(world.inside[name][view], local) > 0).astype(np.uint8)
    if name == "nuc":
        label = _instances(label, world.nucleus_id[view], local, volume.nucleus_dtype)
    for target, start, stop in crop.unknown:
        if target in ("*", name):
            block = [slice(round(a * n), round(b * n)) for a, b, n in zip(start, stop, label.shape, strict=True)]
            label[tuple(block)] = UNKNOWN[label.dtype.name]
    return label


def _instances(
    present: npt.NDArray[np.uint8], ids: npt.NDArray[np.uint16], positions: Positions, dtype: str
) -> npt.NDArray[np.unsignedinteger]:
    """Instance ids where present; in the wider type they start at 255, which is an id there."""
    nearest = [np.minimum(np.rint(p).astype(int), n - 1) for p, n in zip(positions, ids.shape, strict=True)]
    number = np.maximum(ids[np.ix_(*nearest)], ids.max(initial=1) if not ids.any() else 1)
    return np.where(present > 0, number + (254 if dtype == "uint16" else 0), 0).astype(dtype)


def _split_row(volume: Volume, crop: Crop) -> tuple[str, ...]:
    container = f"{volume.name}/{volume.name}.zarr"
    return crop.side, container, EM_PATH, container, f"{TRUTH_PATH}/{crop.name}/[{','.join(crop.classes)}]"


def _write_split(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
