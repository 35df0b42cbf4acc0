"""Writes a data set in the CellMap layout with zarr and numpy alone:  python -m tests.foreign_data OUT

Nothing of this project is used, so what it reads from here it does not read because it wrote it itself. The phantom's
files are all alike; these differ where real ones do: types, chunks, separators, compressors, number of levels, groups
that belong to something else, order of the attributes. Three data sets at 2, 4 and 8 nm; 16 crops, seven of them nested
in a large one; some classes are annotated in some crops only; a nucleus is 30 times as frequent as a Golgi membrane.

Shapes: D H W voxels of the data set's own size; boxes are (start, size) in those voxels, order z, y, x.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc, Zlib

Triple = tuple[int, int, int]
SHARES = {
    "nuc": 0.12,
    "mito_mem": 0.05,
    "er_mem": 0.05,
    "pm": 0.015,
    "golgi_mem": 0.004,
    "mito_lum": 0.06,
    "ves_mem": 0.002,
}
"""Share of the annotated voxels, about. mito_lum and ves_mem are annotated in a few crops."""
GREY = {"nuc": -25, "mito_mem": -70, "er_mem": -45, "pm": -85, "golgi_mem": -60, "mito_lum": -15, "ves_mem": -55}
SIZE_NM = {"nuc": 100, "mito_mem": 64, "er_mem": 48, "pm": 160, "golgi_mem": 56, "mito_lum": 64, "ves_mem": 40}
"""How far apart the random values lie that a class is a level set of."""
COMMON = ("nuc", "mito_mem", "er_mem", "pm")
FIVE = (*COMMON, "golgi_mem")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One data set: EM and labels at the same voxel size."""

    name: str
    voxel_nm: int
    shape: Triple
    em_chunks: Triple
    label_chunks: Triple
    separator: str
    compressor: Any
    instance_dtype: str
    levels: int
    crops: Mapping[str, tuple[Triple, Triple, tuple[str, ...]]]
    """Start, size, annotated classes."""
    missing_em: Triple | None = None
    """A chunk of s0 that was never downloaded."""


VOLUMES = (
    Volume(
        name="kidney-a",
        voxel_nm=2,
        shape=(40, 400, 400),
        em_chunks=(40, 128, 128),
        label_chunks=(64, 64, 64),
        separator="/",
        compressor=Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE),
        instance_dtype="<u4",
        levels=3,
        crops={
            "crop21": ((4, 16, 16), (32, 160, 160), FIVE),
            "crop22": ((4, 16, 220), (32, 180, 160), (*COMMON, "mito_lum")),
            "crop107": ((4, 220, 20), (32, 160, 180), ("nuc", "er_mem", "golgi_mem")),
            "crop108": ((8, 224, 224), (24, 160, 160), FIVE),
        },
    ),
    Volume(
        name="heart-b",
        voxel_nm=4,
        shape=(32, 320, 320),
        em_chunks=(16, 200, 200),
        label_chunks=(32, 96, 96),
        separator=".",
        compressor=Zlib(level=1),
        instance_dtype="<u2",
        levels=2,
        crops={
            "crop3": ((4, 20, 20), (24, 112, 112), FIVE),
            "crop4": ((0, 20, 160), (32, 96, 128), ("mito_mem", "er_mem", "mito_lum", "ves_mem")),
            "crop5": ((8, 170, 20), (24, 128, 112), FIVE),
            "crop6": ((4, 180, 180), (24, 112, 96), ("nuc", "pm")),
        },
    ),
    Volume(
        name="liver-c",
        voxel_nm=8,
        shape=(44, 424, 424),
        em_chunks=(64, 64, 64),
        label_chunks=(40, 128, 128),
        separator="/",
        compressor=Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE),
        instance_dtype="|u1",
        levels=2,
        missing_em=(0, 6, 6),
        crops={
            "crop300": ((2, 12, 12), (40, 400, 400), COMMON),
            "crop301": ((2, 18, 18), (40, 64, 64), FIVE),
            "crop302": ((6, 18, 188), (16, 80, 60), FIVE),
            "crop303": ((8, 28, 328), (8, 48, 48), ("mito_mem", "golgi_mem", "ves_mem")),
            "crop304": ((2, 168, 28), (12, 100, 100), FIVE),
            "crop305": ((18, 178, 208), (20, 40, 72), ("nuc", "er_mem", "golgi_mem")),
            "crop306": ((10, 318, 48), (24, 56, 56), FIVE),
            "crop307": ((28, 328, 288), (10, 72, 90), ("pm", "golgi_mem", "mito_lum")),
        },
    ),
)


def make(root: Path, seed: int = 0) -> None:
    """Write all volumes below `root`."""
    for number, volume in enumerate(VOLUMES):
        rng = np.random.default_rng([seed, number])
        masks = {name: _mask(rng, volume, name) for name in SHARES}
        recon = root / volume.name / f"{volume.name}.zarr" / "recon-1"
        for group in (recon.parent, recon, recon / "em", recon / "labels", recon / "labels/inference"):
            _write_group(group)
        _write_group(recon / "labels/groundtruth", {"cell_type": "unknown", "created": {"by": "nobody"}})
        _write_em(rng, recon / "em/fibsem-uint8", volume, masks)
        for crop, (start, size, classes) in volume.crops.items():
            _write_crop(recon / "labels/groundtruth" / crop, volume, start, size, {c: masks[c] for c in classes})


def _mask(rng: np.random.Generator, volume: Volume, name: str) -> np.ndarray:
    """Where a class is, bool (D, H, W): where a smooth field is near its median (a sheet), or has its highest values (a
    body; the rarest two as well, as sheets of them would be thinner than a voxel of 8 nm)."""
    field: np.ndarray = rng.standard_normal([2 + -(-n * volume.voxel_nm // SIZE_NM[name]) for n in volume.shape])
    field = field.astype(np.float32)
    for n in volume.shape:  # linear between the random values; an axis is done and becomes the last one
        place = (np.arange(n) + 0.5) * volume.voxel_nm / SIZE_NM[name]
        weights = np.clip(1 - np.abs(place[:, None] - np.arange(len(field))), 0, None).astype(np.float32)
        field = np.moveaxis(np.tensordot(weights, field, axes=1), 0, -1)
    score = -np.abs(field) if name in ("mito_mem", "er_mem", "pm") else field
    annotated = np.concatenate([score[_box(*crop[:2])][::2, ::4, ::4].ravel() for crop in volume.crops.values()])
    return score > np.quantile(annotated, 1 - SHARES[name])


def _write_em(rng: np.random.Generator, group: Path, volume: Volume, masks: Mapping[str, np.ndarray]) -> None:
    """Grey by class, with noise in steps of 12 so that it compresses."""
    em = rng.integers(-2, 3, volume.shape, dtype=np.int16) * 12 + 160
    for name, mask in masks.items():
        em[mask] += GREY[name]
    em = em.clip(1, 255).astype(np.uint8)
    _write_group(group, _multiscales("", volume, (0, 0, 0)))
    for level in range(volume.levels):
        _write_array(group / f"s{level}", em, volume.em_chunks, volume)
        em = np.rint(_blocks(em).mean(axis=0)).astype(np.uint8)
    if volume.missing_em:
        (group / "s0" / volume.separator.join(map(str, volume.missing_em))).unlink()


def _write_crop(path: Path, volume: Volume, start: Triple, size: Triple, masks: Mapping[str, np.ndarray]) -> None:
    _write_group(path, {"cellmap": {"annotation": {"class_names": sorted(masks), "version": "0.1.1"}}})
    combined = np.zeros(size, np.uint8)
    for number, (name, mask) in enumerate(masks.items(), 1):
        label = mask[_box(start, size)].astype(np.uint8)
        combined[label > 0] = number
        encoding = {"present": 1, "absent": 0, "unknown": 255}
        if name == "nuc":
            label, encoding = _instances(label, volume), {"absent": 0, "unknown": 255}
        elif path.name == "crop108":
            label[:, :40, :40] = 255
        _write_label(path / name, label, encoding, volume, start)
    _write_label(path / "all", combined, {"absent": 0, "unknown": 255}, volume, start)


def _instances(label: np.ndarray, volume: Volume) -> np.ndarray:
    """Every 64 voxels along y another id; beyond 255 where the type allows it."""
    first = 1 if volume.instance_dtype == "|u1" else 300
    ids = first + np.arange(label.shape[1]) // 64
    return (label * ids[None, :, None]).astype(volume.instance_dtype)


def _write_label(path: Path, label: np.ndarray, encoding: dict[str, int], volume: Volume, start: Triple) -> None:
    kind = "semantic_segmentation" if "present" in encoding else "instance_segmentation"
    annotation = {"class_name": path.name, "annotation_type": {"type": kind, "encoding": encoding}}
    _write_group(path, {"cellmap": {"annotation": annotation}} | _multiscales(path.name, volume, start))
    for level in range(volume.levels):
        counts = {"absent": int((label == 0).sum()), "unknown": int((label == 255).sum())}
        attributes = {"cellmap": {"annotation": annotation | {"complement_counts": counts}}}
        _write_array(path / f"s{level}", label, volume.label_chunks, volume, attributes if level == 0 else None)
        blocks = _blocks(label)
        label = np.where((blocks > 0).sum(axis=0) >= 4, blocks.max(axis=0), 0).astype(label.dtype)


def _multiscales(name: str, volume: Volume, start: Triple) -> dict[str, Any]:
    """Translations are the centre of a level's first voxel; voxel 0 of the EM is centred at 0 nm."""
    datasets = []
    for level in range(volume.levels):
        scale = volume.voxel_nm * 2.0**level
        shift = [volume.voxel_nm * s + (scale - volume.voxel_nm) / 2 for s in start]
        steps = [{"type": "scale", "scale": [scale] * 3}, {"type": "translation", "translation": shift}]
        datasets.append({"path": f"s{level}", "coordinateTransformations": steps})
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    whole = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    image = {"axes": axes, "coordinateTransformations": whole, "datasets": datasets, "name": name, "version": "0.4"}
    return {"multiscales": [image]}


def _blocks(values: np.ndarray) -> np.ndarray:
    """(8, D//2, H//2, W//2): the voxels of each block of 2³."""
    d, h, w = (n // 2 for n in values.shape)
    cut = values[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2)
    return np.moveaxis(cut, (1, 3, 5), (0, 1, 2)).reshape(8, d, h, w)


def _box(start: Triple, size: Triple) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, size))


def _write_array(
    path: Path, values: np.ndarray, chunks: Triple, volume: Volume, attributes: Mapping[str, Any] | None = None
) -> None:
    array = zarr.create_array(
        path,
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        zarr_format=2,
        compressors=volume.compressor,
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": volume.separator},
    )
    array[:] = values
    if attributes:
        (path / ".zattrs").write_text(json.dumps(attributes, sort_keys=True))


def _write_group(path: Path, attributes: Mapping[str, Any] | None = None) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    (path / ".zattrs").write_text(json.dumps(attributes or {}, sort_keys=True, indent=4))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
