"""The phantom, enlarged: its volumes tiled in the slice plane, its crops copied to several tiles.

    python -m benchmarks.enlarged [FOLDER]

Made once, in the cache folder. A phantom of a gigabyte would take many minutes to grow; tiles cost seconds, and to a
reader a tiled volume is a volume like any other: as many bytes, chunks and files. Every copy of a crop has files of its
own. The copies lie away from the rim, so that a library that wants a whole patch of EM round a crop drops none of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from filelock import FileLock

from trainables.data.cache import cache_folder
from trainables.data.cellmap.ngff import read_json, read_levels
from trainables.data.phantom import generate as phantom
from trainables.data.phantom.writer import write_em, write_group
from trainables.settings import DataSettings

TIMES = 6
"""Tiles along y and along x: 36 times the EM, 1.2 GB at the finest level."""
COPIES = 6
"""Of each crop: 282 crops, about as many as CellMap has (289)."""


def ensure(times: int = TIMES, copies: int = COPIES) -> Path:
    """The enlarged phantom below the cache folder, made if it is not there."""
    cache = cache_folder(DataSettings())
    out = cache / "benchmarks" / f"phantom-v{phantom.VERSION}-{times}x{times}-{copies}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):
        return out if out.exists() else enlarge(phantom.ensure(cache), out, times=times, copies=copies)


def enlarge(source: Path, out: Path, *, times: int, copies: int) -> Path:
    """Write the tiled copy of phantom `source` into `out`, all or nothing, with a datasplit.csv of absolute paths."""
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        rng = np.random.default_rng(0)
        with (source / phantom.SPLIT).open(newline="") as file:
            rows = list(csv.reader(file))
        steps = {row[1]: _tile_em(source / row[1], building / row[1], times) for row in rows}
        copied = [new for row in rows for new in _copy_crop(rng, source, building, row, steps[row[1]], times, copies)]
        _write_split(building / phantom.SPLIT, out, copied)
        os.replace(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out


def decoded_bytes(root: Path) -> int:
    """Voxel bytes of every EM volume and every class of every crop at the finest level."""
    groups = [*root.glob(f"*/*.zarr/{phantom.EM_PATH}"), *root.glob(f"*/*.zarr/{phantom.TRUTH_PATH}/*/*/")]
    finest = [read_levels(group)[0] for group in groups if group.is_dir() and group.name != "all"]
    return sum(int(np.prod(level.shape)) * level.dtype.itemsize for level in finest)


def _tile_em(source: Path, target: Path, times: int) -> tuple[float, float]:
    """Write the EM of a data set `times` × `times` times over, where it is not yet; the size of a tile (y, x), nm."""
    level = read_levels(source / phantom.EM_PATH)[0]
    if not target.exists():
        for path in ("", "recon-1", "recon-1/em", "recon-1/labels", phantom.TRUTH_PATH):
            write_group(target / path)
        volume = np.asarray(zarr.open_array(level.path, mode="r")[:])
        tiled = np.tile(volume, (1, times, times))
        write_em(target / phantom.EM_PATH, tiled, level.scale, level.translation, missing=())
    return level.shape[1] * level.scale[1], level.shape[2] * level.scale[2]


def _copy_crop(
    rng: np.random.Generator,
    source: Path,
    target: Path,
    row: list[str],
    step_nm: tuple[float, float],
    times: int,
    copies: int,
) -> Iterator[list[str]]:
    """Copy one crop into `copies` inner tiles; their rows of the split."""
    folder, bracket, classes = row[4].partition("/[")
    inner = [(y, x) for y in range(1, times - 1) for x in range(1, times - 1)]
    for number, chosen in enumerate(rng.choice(len(inner), size=copies, replace=False)):
        y, x = inner[chosen]
        new = f"{folder}x{number}"
        shutil.copytree(source / row[3] / folder, target / row[3] / new)
        for group in (target / row[3] / new).iterdir():
            if group.is_dir():
                _shift(group / ".zattrs", (0.0, y * step_nm[0], x * step_nm[1]))
        yield [*row[:4], f"{new}{bracket}{classes}"]


def _shift(attributes: Path, shift_nm: tuple[float, float, float]) -> None:
    content = read_json(attributes)
    for dataset in content["multiscales"][0]["datasets"]:
        for step in dataset["coordinateTransformations"]:
            if step["type"] == "translation":
                step["translation"] = [a + b for a, b in zip(step["translation"], shift_nm)]
    attributes.write_text(json.dumps(content, indent=1))


def _write_split(path: Path, root: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows(
            [side, f"{root}/{em}", em_path, f"{root}/{truth}", labels] for side, em, em_path, truth, labels in rows
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where to write it; the cache folder if left out")
    folder = parser.parse_args().folder
    root = (
        ensure()
        if folder is None
        else enlarge(phantom.ensure(cache_folder(DataSettings())), folder.absolute(), times=TIMES, copies=COPIES)
    )
    print(f"{root}: {decoded_bytes(root) / 1e9:.2f} GB of voxels")


if __name__ == "__main__":
    main()
