"""Building the packed cache: every crop decoded once, in parallel, one crop per thread.

Shapes: C classes, P packed bytes, D H W the crop in target voxels, M sampled positions per class.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import Level, choose_level, read_levels
from trainables.data.cellmap.reader import CropSource, Grid, crop_grid, mask_missing_em, read_em, read_labels
from trainables.data.expand import class_masks
from trainables.data.patch import context_size
from trainables.errors import DataError
from trainables.settings import DataSettings

log = logging.getLogger(__name__)

LAYOUT_VERSION = 2
"""Raise when what lies in a cache folder, or how it is computed, changes."""
NUM_POSITIONS = 1024
"""Positive voxels kept per crop and class for class-aware sampling."""
MAX_THREADS = 8
MOST_CHUNKS = 1_000_000
"""Of an array in a crop; each is looked at before every run."""


def shaping_settings(settings: DataSettings) -> dict[str, Any]:
    """The settings that decide what lies in the cache."""
    return {
        "version": LAYOUT_VERSION,
        "classes": list(settings.classes),
        "voxel_nm": [float(v) for v in settings.voxel_nm],
        "patch": [int(v) for v in settings.patch],
        "label_resampling": settings.label_resampling,
    }


def em_margin(settings: DataSettings, grid: Grid) -> list[int]:
    """Target voxels of EM to keep on each side of a crop, per axis, so that no patch or rotated context lacks any.

    A patch wider than the crop sticks out by at most their difference; its context by half of what it adds.
    """
    context = context_size(settings.patch, rotate=True, transpose=True)
    axes = zip(settings.patch, context, grid.shape)
    return [max(0, int(p) - n) + (c - int(p)) // 2 for p, c, n in axes]


def cache_key(settings: DataSettings, sources: Sequence[CropSource]) -> str:
    """Hex name of the cache for these crops: settings, split, and size and time of every file that is read."""
    digest = hashlib.sha256(json.dumps(shaping_settings(settings), sort_keys=True).encode())
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        for stamp in pool.map(lambda source: _source_stamp(settings, source), sources):
            digest.update(stamp.encode())
    return digest.hexdigest()[:32]


def _source_stamp(settings: DataSettings, source: CropSource) -> str:
    """Everything that tells whether a crop's files have changed, as one string."""
    wanted = [name for name in settings.classes if name in source.classes]
    grid, files = crop_grid(source, wanted, settings.voxel_nm), list[Path]()
    for name in wanted:
        levels = read_levels(source.labels / name)
        level = choose_level(levels, settings.voxel_nm)
        files += [source.labels / name / ".zattrs", levels[0].path / ".zattrs", level.path / ".zarray"]
        files += _chunk_files(level, (0, 0, 0), level.shape)
    files += _em_files(settings, source, grid)
    where = [source.name, source.side, str(source.em), str(source.labels), wanted]
    return json.dumps([where, [_stat(path) for path in files]])


def _em_files(settings: DataSettings, source: CropSource, grid: Grid) -> list[Path]:
    """Metadata and chunks of the EM round a crop; chunks that exist or not both count."""
    level = choose_level(read_levels(source.em), settings.voxel_nm)
    reach = np.array(em_margin(settings, grid)) + 1
    low = (grid.corner - reach * grid.voxel - level.corner) / np.array(level.scale)
    high = (grid.corner + (np.array(grid.shape) + reach) * grid.voxel - level.corner) / np.array(level.scale)
    start = np.clip(np.floor(low), 0, level.shape).astype(int).tolist()
    stop = np.clip(np.ceil(high), 0, level.shape).astype(int).tolist()
    return [source.em / ".zattrs", level.path / ".zarray", *_chunk_files(level, start, stop)]


def _chunk_files(level: Level, start: Sequence[int], stop: Sequence[int]) -> list[Path]:
    grid = level.chunk_grid(start, stop)
    if (number := math.prod(map(len, grid))) > MOST_CHUNKS:
        raise DataError(f"{level.path / '.zarray'}: a crop of {number} chunks, {MOST_CHUNKS} at most. Chunk it anew.")
    return [level.chunk_file(index) for index in product(*grid)]


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def write_cache(settings: DataSettings, sources: Sequence[CropSource], folder: Path) -> None:
    """Decode all crops into `folder`; index.json is written last. Raises DataError for a broken source."""
    log.info("Packing %d crops into %s (once per data set and settings).", len(sources), folder.parent)
    threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)), len(sources)))
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(_pack_crop, settings, source, folder, n) for n, source in enumerate(sources)]
        try:
            rows = [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()
    index = {
        "settings": shaping_settings(settings),
        "classes": list(settings.classes),
        "fingerprint": _fingerprint(settings, rows),
        "crops": rows,
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _fingerprint(settings: DataSettings, rows: Iterable[dict[str, Any]]) -> str:
    """Hex digest of voxels, split and settings; the same on every machine, whatever the paths and times."""
    content = [shaping_settings(settings), [[row["name"], row["side"], row["digest"]] for row in rows]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _pack_crop(settings: DataSettings, source: CropSource, folder: Path, number: int) -> dict[str, Any]:
    """Write one crop's em, labels and positions; returns its row of the index."""
    classes = settings.classes
    grid = crop_grid(source, classes, settings.voxel_nm)
    em, box, level, taps = read_em(source, grid, em_margin(settings, grid))
    labels = read_labels(source, classes, grid, settings.label_resampling)
    masked = mask_missing_em(labels, box, level, taps)
    if masked:
        log.warning("%s: no EM for %.1f %% of the crop, masked there.", source.name, 100 * masked)
    positive, known, positions = _statistics(labels, len(classes), np.random.default_rng(number))
    stem = f"{number:04d}"
    for part, array in (("em", em), ("labels", labels), ("positions", positions)):
        np.save(folder / f"{stem}.{part}.npy", array)
    return {
        "name": source.name,
        "side": source.side,
        "file": stem,
        "shape": list(grid.shape),
        "offset": list(box[0]),
        "positive": positive,
        "known": known,
        "masked": masked,
        "digest": _digest(em, labels),
    }


def _digest(*arrays: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _statistics(
    labels: NDArray[np.uint8], num_classes: int, rng: np.random.Generator
) -> tuple[list[int], list[int], NDArray[np.int32]]:
    """Positive and known voxels per class (C,), and random positive positions (C, M, 3)."""
    positive, known = [], []
    positions = np.full((num_classes, NUM_POSITIONS, 3), -1, dtype=np.int32)
    for index in range(num_classes):
        present, annotated = class_masks(labels, index, num_classes)
        found = np.flatnonzero(present)
        positive.append(len(found))
        known.append(int(np.count_nonzero(annotated)))
        kept = rng.choice(found, size=min(len(found), NUM_POSITIONS), replace=False, shuffle=True)
        positions[index, : len(kept)] = np.stack(np.unravel_index(kept, present.shape), axis=1)
    return positive, known, positions
