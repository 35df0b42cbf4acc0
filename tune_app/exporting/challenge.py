"""Predictions as the packer of the CellMap segmentation challenge takes them.

`csc pack-results -i 'OUT/{dataset}.zarr/{crop}'` reads, for every row of its manifest of test crops, the Zarr v2 array
OUT/DATASET.zarr/cropN/CLASS with its attributes `voxel_size` and `translation` (the centre of voxel 0, nm), brings it
to the row's grid, and zips all of them. What is written here lies on that grid already, so nothing is resampled there:
its own resampling snaps translations to multiples of the voxel size, by up to a voxel.

Read in janelia-cellmap/cellmap-segmentation-challenge (MIT licence) at 6b9ad68: submission.py, matched_crop.py and
crops.py in its utils; test_crop_manifest.csv is the file of that name there.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr

from trainables.data.cellmap.ngff import choose_level, read_levels
from trainables.data.cellmap.ngff_labels import write_group
from trainables.data.cellmap.reader import Grid, read_grey, source_of
from tune_app.errors import InputError
from tune_app.exporting.volume import StoredVolume

MANIFEST = Path(__file__).with_name("test_crop_manifest.csv")
CHUNK = 64


@dataclass(frozen=True, kw_only=True)
class ChallengeCrop:
    """One test crop, with the classes that are both predicted and scored there."""

    name: str
    """cropN"""
    dataset: str
    grids: dict[str, Grid]
    """By class: the voxels on which it is scored."""
    volume: StoredVolume
    """The crop, and a voxel round it, at the network's voxel size."""

    @property
    def place(self) -> str:
        return f"{self.dataset}.zarr/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was written."""

    out: Path
    crops: Sequence[ChallengeCrop]

    def __str__(self) -> str:
        lines = [f"{self.out}   {len(self.crops)} test crops"]
        lines += [f"  {crop.place:<34} {', '.join(crop.grids)}" for crop in self.crops]
        pack = f"csc pack-results -i '{self.out}/{{dataset}}.zarr/{{crop}}' -o submission.zarr"
        return "\n".join([*lines, f"pack it where the challenge's tools are installed: {pack}"])


def find_test_crops(
    manifest: str, wanted: str, root: Path, classes: Sequence[str], voxel_nm: Sequence[float]
) -> tuple[list[ChallengeCrop], list[str]]:
    """The test crops whose EM lies below `root`, or the one `wanted`; and what is left out of them, said.

    manifest: a CSV file; empty: the one that comes with this program. Raises InputError.
    """
    rows = read_manifest_rows(Path(manifest).expanduser() if manifest else MANIFEST)
    known = {name for grids in rows.values() for name in grids}
    unknown = [name for name in classes if name not in known]
    if len(unknown) == len(classes):
        raise InputError(
            f"submission=challenge: the challenge scores none of the network's classes, {', '.join(classes)}. "
            f"Its classes: {', '.join(sorted(known))}"
        )
    notes = [f"the challenge does not score {', '.join(unknown)}: left out"] if unknown else []
    if wanted:
        number = wanted.rpartition("/")[2].removeprefix("crop")
        chosen = [key for key in rows if key == (wanted.rpartition("/")[0] or key[0], f"crop{number}")]
        if not chosen:
            choices = ", ".join(f"{dataset}/{name}" for dataset, name in rows)
            raise InputError(f"crop={wanted}: is no test crop of the challenge. Choices: {choices}")
    else:
        chosen = list(rows)
    crops: list[ChallengeCrop] = []
    problems: dict[str, list[str]] = {}
    for dataset, name in chosen:
        grids = {label: grid for label, grid in rows[dataset, name].items() if label in classes}
        found = (
            _with_em(root, dataset, name, grids, voxel_nm) if grids else "none of the network's classes is scored there"
        )
        if isinstance(found, ChallengeCrop):
            crops.append(found)
        else:
            problems.setdefault(found, []).append(f"{dataset}/{name}")
    said = [f"{problem} ({', '.join(names)})" for problem, names in problems.items()]
    if not crops:
        raise InputError(
            f"submission=challenge: nothing to predict: {'; '.join(said)}. "
            "Download the test crops' EM (csc fetch-data --crops test) and give its folder as data.root"
        )
    return crops, [*notes, *(f"left out: {problem}" for problem in said)]


def read_manifest_rows(path: Path) -> dict[tuple[str, str], dict[str, Grid]]:
    """Grids by class of each (data set, cropN) of a test_crop_manifest.csv. Raises InputError."""
    rows: dict[tuple[str, str], dict[str, Grid]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                voxel, centre, shape = (
                    np.array([float(part) for part in row[key].strip("[]").split(";")])
                    for key in ("voxel_size", "translation", "shape")
                )
                z, y, x = (int(n) for n in shape)
                grid = Grid(centre - voxel / 2, voxel, (z, y, x))
                rows.setdefault((row["dataset"], f"crop{int(row['crop_name'])}"), {})[row["class_label"]] = grid
    except OSError as error:
        raise InputError(
            f"manifest={path}: cannot be read ({error.strerror}). Leave it out for that of June 2026"
        ) from None
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"manifest={path}: is no test_crop_manifest.csv of the challenge ({error!r}); columns crop_name, dataset, "
            "class_label, voxel_size, translation, shape are needed. Leave it out for that of June 2026"
        ) from None
    return rows


def _with_em(
    root: Path, dataset: str, name: str, grids: dict[str, Grid], voxel_nm: Sequence[float]
) -> ChallengeCrop | str:
    """The crop, or what stands against it."""
    em = source_of(root / dataset / f"{dataset}.zarr" / "recon-1" / "labels" / "groundtruth" / name).em
    if not em.is_dir():
        return f"no EM at {em}"
    voxel = np.array(voxel_nm, float)
    corner = np.min([grid.corner for grid in grids.values()], axis=0) - voxel
    end = np.max([grid.corner + grid.voxel * grid.shape for grid in grids.values()], axis=0) + voxel
    z, y, x = (int(n) for n in np.ceil((end - corner) / voxel - 1e-6))
    grid, level = Grid(corner, voxel, (z, y, x)), choose_level(read_levels(em), voxel_nm)
    if grid.lies_outside(level):
        return f"lies outside the EM volume {em}"
    volume = StoredVolume(em=em, level=level, grid=grid, crop=f"{dataset}/{name}")
    return ChallengeCrop(name=name, dataset=dataset, grids=grids, volume=volume)


def write_crop(crop: ChallengeCrop, predicted: Path, place: Path) -> None:
    """Labels of `predicted` on the challenge's grids: 1 where they fill most of a voxel; linear in between."""
    building = place.with_name(f".{place.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    write_group(place.parent, {})
    write_group(building, {})
    for name, grid in crop.grids.items():
        [level] = read_levels(predicted / "labels" / name)
        array = zarr.create_array(
            building / name,
            shape=grid.shape,
            chunks=(CHUNK,) * 3,
            dtype="uint8",
            zarr_format=2,
            fill_value=0,
            compressors=numcodecs.Blosc(cname="zstd", clevel=3),
            attributes={
                "voxel_size": grid.voxel.tolist(),
                "translation": (grid.corner + grid.voxel / 2).tolist(),
                "shape": list(grid.shape),
            },
        )
        for start in range(0, grid.shape[0], CHUNK):
            depth = min(CHUNK, grid.shape[0] - start)
            slab = Grid(grid.corner + grid.voxel * (start, 0, 0), grid.voxel, (depth, *grid.shape[1:]))
            array[start : start + depth] = read_grey(level, slab, (0, 0, 0))[0]
    building.rename(place)
