"""Writes volumes in the layout of CellMap: Zarr format 2, OME-NGFF 0.4 multiscales, cellmap annotation blocks.

The arrays are written chunk by chunk with numcodecs rather than through zarr: a phantom has several hundred tiny
arrays, and zarr's asynchronous store takes longer over them than everything else together. Tests read with zarr and
with an independent validator. Shapes: D H W voxels of the level; lengths in nanometres, order z, y, x.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Blosc  # type: ignore[import-untyped]

CHUNK = 64
UNKNOWN = {"uint8": 255, "uint16": 65535}
Chunk = tuple[int, int, int]


def write_group(path: Path, attributes: Mapping[str, Any] | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    _write_json(path / ".zgroup", {"zarr_format": 2})
    if attributes:
        _write_json(path / ".zattrs", attributes)
    return path


def write_array(
    path: Path, data: npt.NDArray[Any], attributes: Mapping[str, Any] | None = None, *, missing: Collection[Chunk] = ()
) -> None:
    """Chunks of 64³, Blosc zstd, fill 0; chunks of nothing but fill, and those named in `missing`, are left out."""
    whole_chunk = CHUNK**3 * data.itemsize  # with several blocks, Blosc's threads would write them in any order
    codec = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE, blocksize=whole_chunk)
    path.mkdir(parents=True)
    _write_json(
        path / ".zarray",
        {
            "zarr_format": 2,
            "shape": list(data.shape),
            "chunks": [CHUNK] * 3,
            "dtype": data.dtype.str,
            "fill_value": 0,
            "order": "C",
            "filters": None,
            "compressor": codec.get_config(),
            "dimension_separator": "/",
        },
    )
    if attributes:
        _write_json(path / ".zattrs", attributes)
    for index in itertools.product(*[range(-(-n // CHUNK)) for n in data.shape]):
        block = data[tuple(slice(i * CHUNK, (i + 1) * CHUNK) for i in index)]
        if index in missing or not block.any():
            continue
        chunk = np.zeros([CHUNK] * 3, data.dtype)
        chunk[tuple(slice(0, n) for n in block.shape)] = block
        file = path.joinpath(*map(str, index))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(codec.encode(chunk))


def multiscales(name: str, scale: Sequence[float], translation: Sequence[float]) -> list[dict[str, Any]]:
    """The `multiscales` block of levels s0 and s1 = s0 / 2; translations are voxel centres."""
    datasets = []
    for level, factor in enumerate((1, 2)):
        shift = [t + s * (factor - 1) / 2 for s, t in zip(scale, translation, strict=True)]
        transforms: list[dict[str, Any]] = [
            {"type": "scale", "scale": [round(s * factor, 6) for s in scale]},
            {"type": "translation", "translation": [round(t, 6) for t in shift]},
        ]
        datasets.append({"path": f"s{level}", "coordinateTransformations": transforms})
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    whole = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    return [{"version": "0.4", "name": name, "axes": axes, "datasets": datasets, "coordinateTransformations": whole}]


def write_em(
    path: Path,
    volume: npt.NDArray[np.uint8],
    scale: Sequence[float],
    translation: Sequence[float],
    missing: Collection[Chunk],
) -> None:
    """An EM group with s0 and s1; chunks in `missing` are absent at s0, as after a partial download."""
    write_group(path, {"multiscales": multiscales("fibsem-uint8", scale, translation)})
    write_array(path / "s0", volume, missing=missing)
    write_array(path / "s1", mean_pool(volume))


def write_label(
    path: Path, label: npt.NDArray[Any], scale: Sequence[float], translation: Sequence[float], *, instances: bool
) -> None:
    """One annotated class of one crop: absent 0, present 1 or an instance's id, unknown the dtype's largest value."""
    unknown = UNKNOWN[label.dtype.name]
    encoding = {"absent": 0, "unknown": unknown} if instances else {"absent": 0, "present": 1, "unknown": unknown}
    kind = "instance_segmentation" if instances else "semantic_segmentation"
    annotation = {"class_name": path.name, "annotation_type": {"type": kind, "encoding": encoding}}
    scales = multiscales(path.name, scale, translation)
    write_group(path, {"cellmap": {"annotation": annotation}, "multiscales": scales})
    for level, array in (("s0", label), ("s1", majority_pool(label, unknown))):
        counts = {"absent": int((array == 0).sum()), "unknown": int((array == unknown).sum())}
        attributes = {"cellmap": {"annotation": {**annotation, "complement_counts": counts}}}
        write_array(path / level, array, attributes)


def write_combined(
    path: Path, labels: Mapping[str, npt.NDArray[Any]], scale: Sequence[float], translation: Sequence[float]
) -> None:
    """`all`: every annotated class in one array, class k of `labels` (from 1) as k; where classes overlap the last."""
    combined = np.zeros(next(iter(labels.values())).shape, np.uint8)
    for number, label in enumerate(labels.values(), start=1):
        combined[(label > 0) & (label != UNKNOWN[label.dtype.name])] = number
    everywhere = np.logical_and.reduce([label == UNKNOWN[label.dtype.name] for label in labels.values()])
    combined[everywhere] = 255
    encoding = {"absent": 0, "unknown": 255, **{name: i for i, name in enumerate(labels, start=1)}}
    kind = {"type": "semantic_segmentation", "encoding": encoding}
    attributes = {"cellmap": {"annotation": {"class_name": "all", "annotation_type": kind}}}
    write_group(path, {**attributes, "multiscales": multiscales("all", scale, translation)})
    write_array(path / "s0", combined)
    write_array(path / "s1", majority_pool(combined, 255))


def write_crop_group(path: Path, classes: Sequence[str]) -> Path:
    annotation = {
        "version": "0.1.1",
        "name": path.name,
        "description": "generated",
        "created_by": [],
        "created_with": [],
        "start_date": None,
        "end_date": None,
        "duration_days": None,
        "protocol_uri": None,
        "class_names": list(classes),
    }
    return write_group(path, {"cellmap": {"annotation": annotation}})


def mean_pool(volume: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Mean of blocks of 2³, rounded; odd rests are dropped. (D, H, W) → (D//2, H//2, W//2)."""
    return ((_blocks(volume).sum(0, dtype=np.uint16) + 4) >> 3).astype(np.uint8)


def majority_pool(label: npt.NDArray[Any], unknown: int) -> npt.NDArray[Any]:
    """Blocks of 2³: unknown where at least half of it is, else the largest value where at least half is present."""
    blocks = _blocks(label)
    is_unknown = blocks == unknown
    value = np.where(is_unknown, 0, blocks).max(0)
    pooled = np.where(((blocks > 0) & ~is_unknown).sum(0) >= 4, value, 0)
    return np.where(is_unknown.sum(0) >= 4, unknown, pooled).astype(label.dtype)


def _blocks(volume: npt.NDArray[Any]) -> npt.NDArray[Any]:
    d, h, w = (n // 2 * 2 for n in volume.shape)
    return np.stack([volume[z:d:2, y:h:2, x:w:2] for z, y, x in itertools.product((0, 1), repeat=3)])


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))
