"""The packed cache: every crop of a split, decoded once per node, memory-mapped by all trials that run there.

Shapes: C classes, P = ceil(2C / 8) bytes per voxel, D H W the crop in target voxels, M sampled positions per class.
A cache is a folder with index.json and three .npy files per crop. It is built in a folder of another name and renamed,
under a lock, so it is seen whole or not at all. Whoever has it open shares a lock on its index, so that it is not
removed meanwhile. `packing` writes it, this file opens and removes it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from trainables.data.cache import cache_folder, cache_written, mark_used
from trainables.data.packing import cache_key, write_cache
from trainables.data.sources import Item, Source, channels, check_classes, open_source, unannotated_classes
from trainables.errors import DataError
from trainables.settings import DataSettings

log = logging.getLogger(__name__)
NODE_VARIABLE = "TUNE_APP_NODE_CACHE"


@dataclass(frozen=True)
class PackedCrop:
    """One crop at the target voxel size."""

    name: str
    """dataset/crop234"""
    side: str
    """train, validate or test"""
    shape: tuple[int, int, int]
    """(D, H, W) of the labels, target voxels."""
    em: NDArray[np.uint8]
    """(D', H', W'), the crop and its surroundings as far as patches reach and the volume goes; (K, D', H', W') where
    there are K > 1 input channels."""
    labels: NDArray[np.uint8]
    """(P, D, H, W), see `expand`; behind them, with data.maps, those of `maps`. Where one label holds for all of the
    crop, a view of (P, 1, 1, 1)."""
    offset: tuple[int, int, int]
    """Crop coordinates of em[0, 0, 0]; not positive where the surroundings begin before the crop."""
    positive: NDArray[np.int64]
    """(C,) voxels in which the class is present; with one label for all of the crop 1 or 0, and `known` likewise."""
    known: NDArray[np.int64]
    """(C,) voxels in which the class is annotated."""
    positions: NDArray[np.int32]
    """(C, M, 3) crop coordinates of positive voxels, drawn at random; the first min(positive, M) are filled."""
    label_counts: Mapping[str, int] = field(default_factory=dict)
    """Voxels of each label as it lies on disk, where the source judges by them."""


@dataclass(frozen=True)
class PackedDataset:
    """All crops of a split; `fingerprint` (hex) names the voxels, the split and the settings they were made with."""

    settings: DataSettings
    classes: tuple[str, ...]
    crops: tuple[PackedCrop, ...]
    fingerprint: str
    root: str
    folder: Path
    held: mmap.mmap | None = field(default=None, repr=False, compare=False)
    """index.json, open under a shared lock as long as this data set is in use."""
    source: Source[Any] | None = field(default=None, repr=False, compare=False)
    items: tuple[Item, ...] = ()
    """Where the crops were read from, and what it calls them; not there where the crops were made in memory."""

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return channels(self.crops[0].em)

    @property
    def shown_channel(self) -> int:
        """Which of them is drawn in a picture."""
        return self.source.shown_channel if self.source else 0

    @property
    def leak(self) -> str:
        """What of the validation crops is trained on, as a sentence; empty where nothing is."""
        return self.source.leak(self.items) if self.source else ""

    @property
    def remarks(self) -> list[str]:
        """What was found elsewhere than expected, and what is left out: a sentence each."""
        if not self.source:
            return []
        told = [finding.message for finding in self.source.judged(label_counts(self.crops))]
        return [*self.source.remarks(self.items), *told]

    def counts(self, side: str = "train") -> dict[str, list[Any]]:
        """Exact voxel counts over the crops of one side: classes, positive, known, in class order."""
        chosen = [crop for crop in self.crops if crop.side == side]
        zero = np.zeros(len(self.classes), dtype=np.int64)
        return {
            "classes": list(self.classes),
            "positive": sum((c.positive for c in chosen), zero).tolist(),
            "known": sum((c.known for c in chosen), zero).tolist(),
        }


def label_counts(crops: Iterable[PackedCrop]) -> dict[str, Counter[str]]:
    """Voxels of each label on each side."""
    counts: dict[str, Counter[str]] = {}
    for crop in crops:
        counts.setdefault(crop.side, Counter()).update(crop.label_counts)
    return counts


def named_classes(settings: DataSettings) -> DataSettings:
    """The settings with the names of all annotated classes where they say data.classes=auto.

    Raises DataError for a missing root or a split that cannot be used.
    """
    if settings.classes != ["auto"]:
        return settings
    return replace(settings, classes=open_source(settings).annotated())


def usable_items(source: Source[Any]) -> list[Item]:
    """Crops of the split that annotate at least one of the classes. Warns of classes nobody annotates.

    Raises DataError for missing data, a split that cannot be used, an unknown class, or no annotated class at all.
    """
    settings, items = source.settings, source.items()
    check_classes(settings.classes, items, source.vocabulary)
    missing = unannotated_classes(settings.classes, items)
    if missing:
        log.warning("No crop annotates %s: these channels stay unknown and are not trained.", ", ".join(missing))
    return [item for item in items if set(item.classes) & set(settings.classes)]


def open_packed(settings: DataSettings) -> PackedDataset:
    """The packed cache of `settings`, built first where there is none; safe for any number of processes at once.

    The cache is keyed by what its source says of its crops, the split, and the settings that shape it. Raises DataError
    naming the file that is missing or broken, or the folder that cannot be written.
    """
    source = open_source(settings)
    items = usable_items(source)
    place = cache_folder(settings) / "packed"
    folder = place / cache_key(source, items)
    with cache_written(place):
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    while True:
        if not (folder / "index.json").exists():
            with cache_written(place), FileLock(folder.with_suffix(".lock")):
                if not (folder / "index.json").exists():
                    _build(source, items, folder)
        mark_used(folder)
        try:
            found = load_packed(settings, on_this_node(folder), source.root)
            for finding in source.judged(label_counts(found.crops)):
                if finding.level == "error":
                    raise DataError(f"{source.root}: {finding}")
            return replace(found, source=source, items=tuple(items))
        except FileNotFoundError:
            if (folder / "index.json").exists():
                raise  # damaged, not removed in the meantime


def is_open(folder: Path) -> bool:
    """Whether any process, on any machine, has a packed cache open; True, too, where the file system cannot say."""
    try:
        with (folder / "index.json").open("r+b") as index:
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def remove_packed(folder: Path) -> bool:
    """Remove a packed cache, or what a dead build left, unless somebody has it open or builds it; whether it is gone.

    Raises OSError where it cannot be removed.
    """
    key = folder.name.partition(".")[0]
    removed = folder.with_name(f"{key}.building-{os.getpid()}")
    try:
        with (
            FileLock(folder.with_name(f"{key}.lock"), timeout=0),
            suppress(FileNotFoundError),
            (folder / "index.json").open("r+b") as index,
        ):
            fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.replace(folder, removed)  # whoever waits for the lock finds no cache and builds one
    except (BlockingIOError, Timeout):
        return False
    shutil.rmtree(removed if removed.exists() else folder)
    return True


def on_this_node(folder: Path) -> Path:
    """A finished cache, copied once to the disk of this node where $TUNE_APP_NODE_CACHE names a folder there.

    Nodes of a cluster set it: the cache is built once on shared storage, and patches are read from the local copy.
    Where the copy cannot be made, the shared one is used.
    """
    place = os.environ.get(NODE_VARIABLE, "")
    if not place:
        return folder
    copy = Path(place) / "packed" / folder.name
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(copy.with_suffix(".lock")):
            if not (copy / "index.json").exists():
                building = copy.with_name(f"{copy.name}.building-{os.getpid()}")
                shutil.copytree(folder, building)
                os.replace(building, copy)
    except OSError as error:
        log.warning("The packed cache could not be copied to %s (%s): it is read from %s.", copy.parent, error, folder)
        return folder
    return copy


def _build(source: Source[Any], items: Sequence[Item], folder: Path) -> None:
    """Write the cache beside `folder` and rename it. Called under the lock: what is left of dead builds is removed."""
    for dead in folder.parent.glob(f"{folder.name}.building-*"):
        shutil.rmtree(dead, ignore_errors=True)
    building = folder.with_name(f"{folder.name}.building-{os.getpid()}")
    building.mkdir()
    try:
        write_cache(source, items, building)
        shutil.rmtree(folder, ignore_errors=True)  # there without index.json: emptied by hand
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load_packed(settings: DataSettings, folder: Path, root: str) -> PackedDataset:
    """Map a finished cache into memory, read-only, and hold it. FileNotFoundError where it was just removed."""
    with (folder / "index.json").open("rb") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # keeps the file open, and with it the lock
    index = json.loads(held[:])
    crops = tuple(_load_crop(folder, row) for row in index["crops"])
    return PackedDataset(settings, tuple(index["classes"]), crops, index["fingerprint"], root, folder, held)


def _load_crop(folder: Path, row: dict[str, Any]) -> PackedCrop:
    em, labels, positions = (
        np.load(folder / f"{row['file']}.{part}.npy", mmap_mode="r") for part in ("em", "labels", "positions")
    )
    positive, known = (np.array(row[name], dtype=np.int64) for name in ("positive", "known"))
    shape, offset = tuple(row["shape"]), tuple(row["offset"])
    labels = np.broadcast_to(labels, (len(labels), *shape))
    return PackedCrop(
        *(row["name"], row["side"], shape, em, labels, offset, positive, known, positions, row.get("label_counts", {}))
    )
