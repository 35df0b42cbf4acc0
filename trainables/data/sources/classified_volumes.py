"""classified_volumes: volumes with one label each (docs/oct.md); generated ones of a retina where no root is given.

data.root holds the files, .npy, .npz (one array), .tif or .zarr (D, H, W), and says their labels in one of two ways:

    labels.csv           a line `volume,label,split` for each, split one of train, validate, test, or left out of all
    folders              train/LABEL/FILE and validate/LABEL/FILE, or LABEL/FILE where the split is to be drawn

class_to_idx.json, in the root or beside the labels of a split, fixes the order of the classes: {"normal": 0, …}. All of
them must say the same as data.classes, which every trial and every export keeps. A volume is one crop, and the patch is
all of it: one of another shape is resampled to data.patch, so that its label is not that of a part.

Shapes: D H W of a volume, P packed bytes.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import KINDS
from trainables.data.expand import pack_class, packed_bytes
from trainables.data.phantom import oct
from trainables.data.sources import SIDES, Decoded, Source, files_of
from trainables.data.stacks import open_stack
from trainables.errors import DataError
from trainables.settings import DataSettings, require, require_choice

LABELS, CLASS_TO_IDX = "labels.csv", "class_to_idx.json"
SUFFIXES = (".npy", ".npz", ".tif", ".tiff", ".zarr")


@dataclass(frozen=True, kw_only=True)
class Options:
    """data.options of volumes with one label each."""

    range: Sequence[float] = field(default_factory=list)
    """Values [low, high] that become grey values 0 and 255. Empty: uint8 is taken as it is, and of any other type the
    lowest and the highest value of each volume."""
    edition: str = "small"
    """Of the generated volumes: small (321 of 8 × 32 × 32) or large (1325 of 16 × 64 × 64)."""

    def __post_init__(self) -> None:
        require_choice("data.options.edition", self.edition, tuple(oct.EDITIONS))
        given = self.range
        ordered = (
            len(given) in (0, 2) and all(isinstance(v, int | float) for v in given) and list(given) == sorted(given)
        )
        require(
            ordered and (not given or given[0] < given[1]),
            "data.options.range",
            given,
            "two values, the lower one first, are needed",
            "For example data.options.range=[0,4095], or leave it out",
        )


@dataclass(frozen=True)
class Volume:
    """One file."""

    path: Path
    name: str
    label: str
    side: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The one that it is: a label says of every class whether it is there, and volumes of classes that nobody asks
        for are left out."""
        return (self.label,)


class ClassifiedVolumes(Source[Volume]):
    """The volumes below data.root, or generated ones. SettingsError for a patch of one slice."""

    Options: ClassVar[type] = Options
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def __init__(self, settings: DataSettings) -> None:
        super().__init__(settings)
        require(
            settings.patch[0] > 1,
            "data.patch",
            settings.patch,
            "a volume is looked at as a whole, in 3D",
            "Give the shape z, y, x that all volumes are to have, for example data.patch=[16,64,64]",
        )

    def generate(self, out: Path, seed: int) -> Path:
        return oct.make(out, seed=seed, plan=oct.EDITIONS[self.options.edition])

    @property
    def contents(self) -> str:
        return LABELS

    def ensure(self, cache: Path) -> Path:
        return oct.ensure(cache, self.options.edition)

    @property
    def choice(self) -> str:
        return "data=oct"

    @property
    def key(self) -> dict[str, Any]:
        return {"source": self.settings.name, "range": list(self.options.range)}

    def annotated(self) -> list[str]:
        """In the order of class_to_idx.json; without one, by name."""
        return self._order or sorted({volume.label for volume in self._found})

    @cached_property
    def _found(self) -> list[Volume]:
        """All volumes with their sides. DataError where there are none, or what says so cannot be used."""
        table = Path(self.settings.split_file).expanduser() if self.settings.split_file else self.folder / LABELS
        found = _of_table(table, self.folder) if table.is_file() else _of_folders(self.folder)
        if not found:
            raise DataError(
                f"{self.folder}: no labelled volumes found. Expected {LABELS} with lines volume,label,split, or "
                f"folders train/LABEL/ and validate/LABEL/ of {', '.join(SUFFIXES)}."
            )
        return self._drawn(found) if not any(volume.side for volume in found) else found

    @cached_property
    def _order(self) -> list[str]:
        """Classes as class_to_idx.json has them; [] where there is none. DataError where two of them differ."""
        files = [self.folder / CLASS_TO_IDX, *(self.folder / side / CLASS_TO_IDX for side in SIDES)]
        found = {path: _read_order(path) for path in files if path.is_file()}
        first = next(iter(found), None)
        for path, order in found.items():
            if order != found[first]:  # type: ignore[index]
                raise DataError(
                    f"{path} says {', '.join(order)} and {first} {', '.join(found[first])}: a label would mean "  # type: ignore[index]
                    "another class in another split. Write the same order into all of them."
                )
        return next(iter(found.values()), [])

    def items(self) -> list[Volume]:
        found, order, classes = self._found, self._order, self.settings.classes
        if order:
            for volume in found:
                if volume.label not in order:
                    raise DataError(
                        f"{volume.path}: label {volume.label} is not in {CLASS_TO_IDX}; there are {', '.join(order)}. "
                        "Correct the label, or add the class."
                    )
            if [name for name in order if name in classes] != [name for name in classes if name in order]:
                raise DataError(
                    f"data.classes=[{','.join(classes)}]: {CLASS_TO_IDX} has them in the order {', '.join(order)}. "
                    f"Write data.classes=[{','.join(order)}]."
                )
        known = {volume.label for volume in found}
        for side in ("train", "validate"):
            held = Counter(volume.label for volume in found if volume.side == side)
            lacking = [name for name in classes if not held[name] and name in known]
            if lacking:
                told = ", ".join(f"{count} {name}" for name, count in held.items()) or "no volume"
                raise DataError(
                    f"{self.folder}: no volume of {', '.join(lacking)} on side {side}, which has {told}. Move some "
                    "there, or leave the class out of data.classes."
                )
        return found

    def _drawn(self, found: Sequence[Volume]) -> list[Volume]:
        """data.validation_fraction of the volumes of each class validate, one at least, and not all."""
        rng, sides = np.random.default_rng(self.settings.split_seed), dict[str, str]()
        for label in sorted({volume.label for volume in found}):
            names = sorted(volume.name for volume in found if volume.label == label)
            number = min(max(1, round(self.settings.validation_fraction * len(names))), len(names) - 1)
            sides |= {
                names[i]: "validate" if n < number else "train" for n, i in enumerate(rng.permutation(len(names)))
            }
        return [Volume(v.path, v.name, v.label, sides[v.name]) for v in found]

    def unlabelled(self, path: Path) -> Volume:
        return Volume(path, path.name, "", "")

    def stamp(self, item: Volume) -> str:
        try:
            found = [
                (str(file), stat.st_size, stat.st_mtime_ns) for file in files_of(item.path) for stat in [file.stat()]
            ]
        except OSError as error:
            raise DataError(f"{item.path}: {error.strerror}. Correct {LABELS}, or put the file there.") from error
        return json.dumps([item.label, item.side, found])

    def decode(self, item: Volume) -> Decoded:
        """A volume in data.patch, with its label for all of it. DataError for NaN, and for a file without a volume."""
        values, classes = _read(item.path), self.settings.classes
        if lost := int(np.count_nonzero(~np.isfinite(values))):
            raise DataError(
                f"{item.path}: {lost} of {values.size} values are NaN or infinite; every value of a volume is needed. "
                "Fill them, or take the volume out."
            )
        own = (0, 255) if values.dtype == np.uint8 else (values.min(), values.max())
        low, high = map(float, self.options.range or own)
        if low == high:
            raise DataError(f"{item.path}: every value is {low:g}, which is no image. Take the volume out.")
        grey = ((values.astype(np.float32) - low) / (high - low)).clip(0, 1) * 255
        if list(grey.shape) != list(self.settings.patch):
            resized = torch.nn.functional.interpolate(
                torch.from_numpy(grey)[None, None], tuple(self.settings.patch), mode="trilinear", align_corners=False
            )
            grey = resized[0, 0].numpy()
        labels = np.zeros((packed_bytes(len(classes)), 1, 1, 1), np.uint8)
        everywhere = np.ones((1, 1, 1), bool)
        for index, name in enumerate(classes):
            pack_class(labels, index, len(classes), everywhere & (name == item.label), everywhere)
        return Decoded(em=np.rint(grey).astype(np.uint8), labels=labels, whole=True)


def _of_table(path: Path, folder: Path) -> list[Volume]:
    """The lines of labels.csv. DataError names the line that cannot be used."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Write lines volume,label,split, in UTF-8.") from error
    found, seen, form = (
        list[Volume](),
        set[str](),
        f"needed is VOLUME,LABEL or VOLUME,LABEL,SPLIT, {' or '.join(SIDES)}",
    )
    for number, row in enumerate(([cell.strip() for cell in row] for row in rows), 1):
        if not any(row) or (number == 1 and row[:2] == ["volume", "label"]):
            continue
        name, label, side = [*row, ""][:3] if len(row) in (2, 3) else ("", "", "")
        if not name or not label or side not in (*SIDES, ""):
            raise DataError(f"{path}:{number}: {','.join(row)}; {form}.")
        if name in seen:
            raise DataError(f"{path}:{number}: {name} appears again; keep one line of it.")
        seen.add(name)
        found.append(Volume(folder / name, name, label, side))
    if (bare := sum(not volume.side for volume in found)) not in (0, len(found)):
        raise DataError(f"{path}: {bare} of {len(found)} lines have no split. Give it to all of them, or to none.")
    return found


def _of_folders(folder: Path) -> list[Volume]:
    """SIDE/LABEL/FILE, or LABEL/FILE without sides."""
    sides = [side for side in SIDES if (folder / side).is_dir()]
    found = list[Volume]()
    for side, place in [(side, folder / side) for side in sides] or [("", folder)]:
        for label in sorted(path for path in place.iterdir() if path.is_dir() and path.suffix not in SUFFIXES):
            files = sorted(path for path in label.iterdir() if path.suffix.lower() in SUFFIXES)
            found += [Volume(file, str(file.relative_to(folder)), label.name, side) for file in files]
    return found


def _read_order(path: Path) -> list[str]:
    """Class names by their index. DataError unless it maps names to 0, 1, …"""
    try:
        found = json.loads(path.read_text())
        order = sorted(found, key=found.__getitem__)
        fits = isinstance(found, dict) and [found[name] for name in order] == list(range(len(order))) and order
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f'{path} cannot be read ({error}). Write {{"NAME": 0, "OTHER": 1}}.') from error
    if not fits:
        raise DataError(
            f'{path}: {found}; every class needs its own index, from 0 on. Write {{"NAME": 0, "OTHER": 1}}.'
        )
    return order


def _read(path: Path) -> NDArray[Any]:
    """A volume (D, H, W) of numbers. DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such file. Correct {LABELS}, or put the file there.")
    try:
        if path.suffix == ".npy":
            values = np.load(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                (name,) = arrays.files
                values = arrays[name]
        elif path.suffix == ".zarr":
            values = np.asarray(zarr.open_array(path, mode="r")[:])
        else:
            level, _ = open_stack(path, (1.0, 1.0, 1.0))
            assert level.read is not None
            values = level.read((0, 0, 0), level.shape)
    except DataError:
        raise
    except Exception as error:  # NumPy, tifffile and zarr raise what they like
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}). Save it anew.") from error
    if values.ndim != 3 or values.dtype.kind not in KINDS or 0 in values.shape:
        shape = " × ".join(map(str, values.shape))
        raise DataError(f"{path}: {shape} values of type {values.dtype}; numbers (D, H, W) are needed. Save it anew.")
    return values


SOURCE = ClassifiedVolumes
