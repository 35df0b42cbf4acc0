"""Tiny data sets in the CellMap layout, written with zarr as Zarr v2 arrays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc

SEMANTIC = {"absent": 0, "present": 1, "unknown": 255}
INSTANCE = {"absent": 0, "unknown": 255}


def write_multiscale(
    group: Path,
    levels: Sequence[np.ndarray],
    scales: Sequence[Sequence[float]],
    origin: Sequence[float] = (0, 0, 0),
    *,
    encoding: dict[str, int] | None = None,
    complement: dict[str, int] | None = None,
    chunk: int = 8,
) -> None:
    """A multiscale group whose arrays all begin at `origin` (the lower corner, nm): translations are centres."""
    group.mkdir(parents=True)
    (group / ".zgroup").write_text('{"zarr_format": 2}')
    datasets = []
    for number, (values, scale) in enumerate(zip(levels, scales)):
        array = zarr.create_array(
            group / f"s{number}",
            shape=values.shape,
            chunks=(chunk,) * 3,
            dtype=values.dtype,
            zarr_format=2,
            compressors=Blosc(cname="zstd"),
            fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = values
        centre = [o + s / 2 for o, s in zip(origin, scale)]
        steps = [{"type": "scale", "scale": list(scale)}, {"type": "translation", "translation": centre}]
        datasets.append({"path": f"s{number}", "coordinateTransformations": steps})
    axes = [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"]
    attributes: dict[str, Any] = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    if encoding is not None:
        kind = "semantic_segmentation" if "present" in encoding else "instance_segmentation"
        attributes["cellmap"] = {"annotation": {"annotation_type": {"type": kind, "encoding": encoding}}}
    (group / ".zattrs").write_text(json.dumps(attributes))
    if complement is not None:
        counts = {"cellmap": {"annotation": {"complement_counts": complement}}}
        (group / "s0" / ".zattrs").write_text(json.dumps(counts))


def container(root: Path, dataset: str) -> Path:
    return root / dataset / f"{dataset}.zarr" / "recon-1"


def write_em(root: Path, dataset: str, values: np.ndarray, voxel: Sequence[float] = (8, 8, 8), **more: Any) -> None:
    write_multiscale(container(root, dataset) / "em" / "fibsem-uint8", [values], [voxel], **more)


def write_label(
    root: Path,
    dataset: str,
    crop: str,
    name: str,
    values: np.ndarray,
    voxel: Sequence[float] = (8, 8, 8),
    origin: Sequence[float] = (0, 0, 0),
    **more: Any,
) -> None:
    more.setdefault("encoding", SEMANTIC)
    group = container(root, dataset) / "labels" / "groundtruth" / crop / name
    write_multiscale(group, [values], [voxel], origin, **more)


def write_small(
    root: Path,
    *,
    crops: int = 4,
    size: int = 24,
    margin: int = 8,
    classes: Sequence[str] = ("nuc", "pm"),
    seed: int = 0,
) -> None:
    """One data set `cells`, 8 nm: crops side by side along x, random labels; EM equals its x index modulo 200 + 1."""
    rng = np.random.default_rng(seed)
    length = crops * size + 2 * margin
    em = np.broadcast_to(np.arange(length) % 200 + 1, (6, size + 2 * margin, length)).astype(np.uint8)
    write_em(root, "cells", em)
    for number in range(crops):
        origin = (0, 8 * margin, 8 * (margin + number * size))
        for name in classes:
            values = (rng.random((6, size, size)) < 0.3).astype(np.uint8)
            write_label(root, "cells", f"crop{number + 1}", name, values, origin=origin)
