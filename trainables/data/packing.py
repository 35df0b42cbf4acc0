"""Building the packed cache: every crop decoded once, in parallel, one crop per thread.

Shapes: C classes, P packed bytes (with data.maps those of `maps`, too), D H W the crop in target voxels, M sampled
positions per class.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.expand import class_masks
from trainables.data.maps import with_maps
from trainables.data.sources import Item, Source, channels, open_source
from trainables.errors import DataError
from trainables.settings import DataSettings

log = logging.getLogger(__name__)

LAYOUT_VERSION = 2
"""Raise when what lies in a cache folder, or how it is computed, changes."""
NUM_POSITIONS = 1024
"""Positive voxels kept per crop and class for class-aware sampling."""
MAX_THREADS = 8


def shaping_settings(settings: DataSettings) -> dict[str, Any]:
    """The settings that decide what lies in the cache."""
    return {
        "version": LAYOUT_VERSION,
        "classes": list(settings.classes),
        "voxel_nm": [float(v) for v in settings.voxel_nm],
        "patch": [int(v) for v in settings.patch],
        "label_resampling": settings.label_resampling,
        **({"maps": settings.maps} if settings.maps else {}),  # caches of earlier versions stay valid
        **open_source(settings).key,
    }


def cache_key(source: Source[Any], items: Sequence[Item]) -> str:
    """Hex name of the cache for these crops: settings, split, and the stamp of everything that is read."""
    digest = hashlib.sha256(json.dumps(shaping_settings(source.settings), sort_keys=True).encode())
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        for stamp in pool.map(source.stamp, items):
            digest.update(stamp.encode())
    return digest.hexdigest()[:32]


def write_cache(source: Source[Any], items: Sequence[Item], folder: Path) -> None:
    """Decode all crops into `folder`; index.json is written last. Raises DataError for a broken source."""
    settings = source.settings
    patch = " × ".join(map(str, settings.patch))
    log.info("Packing %d crops for patches of %s into %s (once).", len(items), patch, folder.parent)
    threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)), len(items)))
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(_pack_crop, source, item, folder, n) for n, item in enumerate(items)]
        try:
            rows = [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()
    # The same on every machine, whatever the paths and times.
    content = [shaping_settings(settings), [[row["name"], row["side"], row["digest"]] for row in rows]]
    index = {
        "settings": shaping_settings(settings),
        "classes": list(settings.classes),
        "fingerprint": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "crops": rows,
    }
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _pack_crop(source: Source[Any], item: Item, folder: Path, number: int) -> dict[str, Any]:
    """Write one crop's em, labels and positions; returns its row of the index."""
    crop = source.decode(item)
    if channels(crop.em) != source.in_channels:
        raise DataError(
            f"{item.name} has {channels(crop.em)} channels, and data.name={source.settings.name} says "
            f"{source.in_channels}. Correct data.options or the source's file"
        )
    if crop.masked:
        log.warning("%s: no EM for %.1f %% of the crop, masked there.", item.name, 100 * crop.masked)
    if crop.padded:
        log.warning("%s: the EM of %.1f %% of the crop is zero padding, unknown there.", item.name, 100 * crop.padded)
    for remark in crop.remarks:
        log.warning("%s: %s.", item.name, remark)
    num_classes, labels = len(source.settings.classes), crop.labels
    positive, known, positions = _statistics(labels, num_classes, np.random.default_rng(number))
    if source.settings.maps:
        labels = with_maps(labels, num_classes, flat=source.settings.patch[0] == 1)
    stem = f"{number:04d}"
    for part, array in (("em", crop.em), ("labels", labels), ("positions", positions)):
        np.save(folder / f"{stem}.{part}.npy", array)
    return {
        "name": item.name,
        "side": item.side,
        "file": stem,
        "shape": list(crop.em.shape[-3:] if crop.whole else crop.labels.shape[1:]),
        "offset": list(crop.offset),
        "positive": positive,
        "known": known,
        "masked": crop.masked,
        "label_counts": dict(crop.label_counts),
        "digest": _digest(crop.em, labels),
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
