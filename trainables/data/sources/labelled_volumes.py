"""labelled_volumes: pairs of an image and a label volume of the same voxels (docs/labelled-volumes.md).

data.root holds images/NAME and labels/NAME, each .tif, .npy or .zarr. A label is 0 for background, 1 for the class, 2
for what nobody labelled, which counts nowhere unless `unlabelled` says otherwise. Voxels are taken as they are.

Shapes: D H W a volume.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import KINDS, Level, read_box, read_levels
from trainables.data.expand import pack_class, packed_bytes
from trainables.data.phantom import sheets
from trainables.data.phantom.sheets import BACKGROUND, SURFACE, UNLABELLED
from trainables.data.sources import Decoded, Finding, Source, files_of, read_sides
from trainables.data.stacks import open_stack
from trainables.errors import DataError
from trainables.settings import DataSettings, require, require_choice

SUFFIXES = (".ome.zarr", ".zarr", ".ome.tiff", ".ome.tif", ".tiff", ".tif", ".npy")
SPLIT = "split.csv"
TREATMENTS = ("unknown", "foreground", "background")
AT_ONCE = 1 << 24
"""Voxels of a volume that are read at once."""
CLIPPED = 0.01
"""Share of a volume outside the window from which on it is said."""
MOST_NAMED = 5
"""Values and files that a message names."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """data.options of labelled volumes."""

    images: str = "images"
    """Folder of the images below data.root, and `labels` that of the labels; a pair has the same name in both."""
    labels: str = "labels"
    unlabelled: str = "unknown"
    """What the label 2 means: unknown (counts nowhere), foreground (labels > 0, as was published for the papyrus) or
    background."""
    window: list[float] = field(default_factory=list)
    """[low, high]: the values of an image that become black (0) and white (255). Needed unless all are uint8."""
    fold: int | None = None
    """The part, 0 … folds − 1, that validates; split.csv then only says what is kept for a test. Left out: split.csv
    says it all, and without one it is fold 0."""
    folds: int = 5
    """Parts of the volumes; each validates in one of them. They are drawn with data.split_seed."""

    def __post_init__(self) -> None:
        require_choice("data.options.unlabelled", self.unlabelled, TREATMENTS)
        whole = type(self.folds) is int and 2 <= self.folds <= 1000
        require(whole, "data.options.folds", self.folds, "must be a whole number in [2, 1000]", "Use 5")
        inside = self.fold is None or (type(self.fold) is int and 0 <= self.fold < self.folds)
        rule = f"folds are numbered from 0, so it must be a whole number in [0, {self.folds - 1}]"
        require(inside, "data.options.fold", self.fold, rule, "Use 0, or more data.options.folds")
        ends = self.window if len(self.window) == 2 and all(type(v) in (int, float) for v in self.window) else [0, 0]
        rule, fix = "two numbers are needed, the lower one first", "For example data.options.window=[1200,53000]"
        require(not self.window or ends[0] < ends[1], "data.options.window", self.window, rule, fix)


@dataclass(frozen=True)
class Pair:
    """An image and its labels."""

    name: str
    image: Path
    labels: Path
    classes: tuple[str, ...]
    side: str = ""


class LabelledVolumes(Source[Pair]):
    """The pairs below data.root, or generated sheets. SettingsError for several classes."""

    Options: ClassVar[type] = Options

    def __init__(self, settings: DataSettings) -> None:
        super().__init__(settings)
        given, fix = settings.classes, "Write data.classes=[surface]"
        require(len(given) == 1, "data.classes", given, f"data.name={settings.name} has one label, so one class", fix)

    def generate(self, out: Path, seed: int) -> Path:
        return sheets.make(out, seed=seed)

    @property
    def contents(self) -> str:
        return f"{self.options.images} and {self.options.labels}"

    def ensure(self, cache: Path) -> Path:
        return sheets.ensure(cache)

    @property
    def key(self) -> dict[str, Any]:
        return {"source": self.settings.name, "unlabelled": self.options.unlabelled, "window": self.options.window}

    @property
    def choice(self) -> str:
        return "data=surface"

    def annotated(self) -> list[str]:
        return ["surface"]

    def items(self) -> list[Pair]:
        found, problems = self._found()
        if problems:
            raise DataError(problems[0])
        return found

    def inspected(self) -> tuple[list[Pair], list[Finding]]:
        """What is wrong with the voxels of a pair is said when it is decoded."""
        found, problems = self._found()
        warnings = [] if problems else [Finding("warning", self.root, text) for text in self.remarks(found)]
        return found, [Finding("error", self.root, problem) for problem in problems] + warnings

    @cached_property
    def _pairs(self) -> tuple[dict[str, Pair], list[str]]:
        """All pairs by name, and a sentence for every file without a partner. DataError where there is none at all."""
        images, labels = self.folder / self.options.images, self.folder / self.options.labels
        sides, problems = [], list[str]()
        for folder in (images, labels):
            files: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                suffix = next((end for end in SUFFIXES if path.name.lower().endswith(end)), "")
                if suffix and not path.name.startswith("."):
                    files.setdefault(path.name[: -len(suffix)], []).append(path)
            for name, paths in files.items():
                if len(paths) > 1:
                    told = ", ".join(path.name for path in paths)
                    problems.append(f"{folder}: {told} have the same name, {name}. Keep one of them.")
            sides.append({name: paths[0] for name, paths in files.items()})
        if not any(sides):
            raise DataError(
                f"{self.folder}: no volumes found. Expected {images.name}/NAME and {labels.name}/NAME, each .tif, .npy "
                "or .zarr; data.options.images and data.options.labels name other folders."
            )
        for here, there, folder in ((sides[0], sides[1], labels), (sides[1], sides[0], images)):
            if alone := sorted(here.keys() - there.keys()):
                more = f" and {len(alone) - MOST_NAMED} more" if len(alone) > MOST_NAMED else ""
                told = ", ".join(str(here[name]) for name in alone[:MOST_NAMED])
                problems.append(f"{told}{more}: nothing of that name in {folder}. Add it, or take the file out.")
        both = sorted(sides[0].keys() & sides[1].keys())
        classes = tuple(self.settings.classes)
        return {name: Pair(name, sides[0][name], sides[1][name], classes) for name in both}, problems

    def _found(self) -> tuple[list[Pair], list[str]]:
        """The pairs with their sides, and a sentence for whatever is wrong. DataError where none is there."""
        pairs, problems = self._pairs
        file = self.folder / SPLIT
        if self.settings.split_file:
            file = Path(self.settings.split_file).expanduser().absolute()
        told, wrong = dict[str, str](), list[str]()
        if self.settings.split_file or file.is_file():
            told, wrong = read_sides(file, sorted(pairs), "volume")
        fold, folds = self.options.fold, self.options.folds
        if fold is not None or not (told or wrong):
            kept = {name: side for name, side in told.items() if side == "test"}
            names = sorted(pairs.keys() - kept.keys())
            if len(names) < folds:
                fewer = f"use data.options.folds={len(names)}, or a split.csv" if len(names) > 1 else "add another"
                held = "1 volume" if len(names) == 1 else f"{len(names)} volumes"
                wrong.append(f"{self.root}: {held} cannot be divided into data.options.folds={folds}; {fewer}.")
            order = np.random.default_rng(self.settings.split_seed).permutation(len(names)).tolist()
            drawn = {names[i]: "validate" if n % folds == (fold or 0) else "train" for n, i in enumerate(order)}
            told = kept | drawn
        elif missing := [side for side in ("train", "validate") if side not in told.values() and not wrong]:
            wrong.append(f"{file}: no volume on side {missing[0]}; at least one is needed. Correct it.")
        divided = [Pair(p.name, p.image, p.labels, p.classes, told[p.name]) for p in pairs.values() if p.name in told]
        return divided, problems + wrong

    def stamp(self, item: Pair) -> str:
        files = [file for path in (item.image, item.labels) for file in files_of(path)]
        found = [(str(path), stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]]
        return json.dumps([item.name, item.side, found])

    def remarks(self, items: Sequence[Pair]) -> list[str]:
        if not (unused := sorted(self._pairs[0].keys() - {item.name for item in items})):
            return []
        told = ", ".join(unused[:MOST_NAMED])
        return [f"{len(unused)} volumes have no side in the split and are left out: {told}"]

    def judged(self, labels: Mapping[str, Mapping[str, int]]) -> list[Finding]:
        """How much is foreground, with and without what nobody labelled; an error for a side that teaches nothing."""
        name, found = self.settings.classes[0], list[Finding]()
        for side in ("train", "validate"):
            here = Counter(labels.get(side, {}))
            zeros, ones, twos = (here[str(value)] for value in (BACKGROUND, SURFACE, UNLABELLED))
            as_one, as_zero = (twos if self.options.unlabelled == what else 0 for what in TREATMENTS[1:])
            if zeros + ones + as_one + as_zero == 0:
                found.append(Finding("error", side, f"nothing is annotated: all {twos} labels are 2 (unlabelled)"))
            elif 0 in (ones + as_one, zeros + as_zero):
                what = f"only {name}" if ones + as_one else f"no {name}"
                told = f"{zeros} labels are 0, {ones} are 1, {twos} are 2"
                found.append(Finding("error", side, f"there is {what} on this side ({told}), so nothing to tell apart"))
        total = sum(map(Counter, labels.values()), Counter[str]())
        zeros, ones, twos = (total[str(value)] for value in (BACKGROUND, SURFACE, UNLABELLED))
        annotated = 100 * ones / max(1, zeros + ones)
        all_of_it = 100 * (ones + twos) / max(1, zeros + ones + twos)
        told = (
            f"{name} is {annotated:.3g} % of the annotated voxels (unlabelled=unknown); labels > 0 are "
            f"{all_of_it:.3g} % of all voxels (unlabelled=foreground). Here unlabelled={self.options.unlabelled}"
        )
        return [*found, Finding("info", "labels", told)]

    def decode(self, item: Pair) -> Decoded:
        """A pair, read some planes at a time. DataError for other shapes, NaN, labels of other values, and no image."""
        image, labels = _open(item.image), _open(item.labels)
        if image.shape != labels.shape:
            raise DataError(
                f"{item.labels}: shape {_told(labels.shape)}; {_told(image.shape)} is needed, that of {item.image}. "
                "Save one of the two anew."
            )
        grey, problems, remarks = self._grey(image)
        packed = np.zeros((packed_bytes(1), *labels.shape), np.uint8)
        counts: Counter[str] = Counter()
        known_if = {UNLABELLED} if self.options.unlabelled != "unknown" else set[int]()
        positive = [SURFACE, *(known_if if self.options.unlabelled == "foreground" else ())]
        for planes, block in _planes(labels):
            values, numbers = np.unique(block, return_counts=True)
            counts.update({f"{value:g}": number for value, number in zip(values.tolist(), numbers.tolist())})
            known = np.isin(block, (BACKGROUND, SURFACE, *known_if))
            pack_class(packed[:, planes], 0, 1, np.isin(block, positive), known)
        allowed = {str(value) for value in (BACKGROUND, SURFACE, UNLABELLED)}
        if wrong := [(value, count) for value, count in counts.most_common() if value not in allowed]:
            told = ", ".join(f"{value} ({count} times)" for value, count in wrong[:MOST_NAMED])
            more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
            rule = f"allowed are 0 (background), 1 ({self.settings.classes[0]}) and 2 (unlabelled)"
            problems.append(f"{item.labels}: holds {told}{more}; {rule}. Map it to those.")
        if problems:
            raise DataError(" ".join(problems))
        return Decoded(em=grey, labels=packed, remarks=tuple(remarks), label_counts=counts)

    def _grey(self, image: Level) -> tuple[NDArray[np.uint8], list[str], list[str]]:
        """The image as grey values, and what is wrong with it, and what should be known of it, a sentence each."""
        window = self.options.window
        if image.dtype != np.uint8 and not window:
            raise DataError(f"{image.path}: its values are {image.dtype}, and networks see uint8. {_example(image)}")
        grey = np.empty(image.shape, np.uint8)
        lost = outside = 0
        low, high = window or (0, 255)
        for planes, block in _planes(image):
            if not window:
                grey[planes] = block
                continue
            values = block.astype(np.float32)
            finite = np.isfinite(values)
            lost += int(np.count_nonzero(~finite))
            outside += int(np.count_nonzero((values < low) | (values > high)))
            share = (np.where(finite, values, low).clip(low, high) - low) / (high - low)
            grey[planes] = np.rint(share * 255)
        problems, remarks = list[str](), list[str]()
        if lost:
            told = f"{lost} of {grey.size} values are NaN or infinite; every value of an image is needed"
            problems.append(f"{image.path}: {told}. Fill them, and let the label be 2 where they count for nothing.")
        elif grey.min() == grey.max():
            of = f" of window=[{low:g},{high:g}]" if window else ""
            problems.append(f"{image.path}: is empty: every voxel has the grey value {grey.max()}{of}. Take it out.")
        if outside > CLIPPED * grey.size:
            remarks.append(f"{100 * outside / grey.size:.3g} % of the image lie outside [{low:g}, {high:g}], clipped")
        return grey, problems, remarks


def _open(path: Path) -> Level:
    """A volume (D, H, W) of which boxes can be read. DataError where it is none."""
    if not path.name.endswith(".zarr"):
        return open_stack(path, (1.0, 1.0, 1.0))[0]
    try:
        array: Any = zarr.open(path, mode="r")
    except Exception as error:  # zarr raises what it likes
        raise _unreadable(path, error) from error
    if isinstance(array, zarr.Group):
        return read_levels(path)[0]
    ones = [slice(None) if n > 1 or axis >= array.ndim - 3 else 0 for axis, n in enumerate(array.shape)]
    shape = tuple(n for n, one in zip(array.shape, ones) if one != 0)
    if len(shape) != 3 or 0 in shape or array.dtype.kind not in KINDS:
        raise DataError(f"{path}: {_told(array.shape)} of type {array.dtype}; numbers (z, y, x) are needed.")
    leading = [one for one in ones if one == 0]

    def read(start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        try:
            return np.asarray(array[(*leading, *(slice(int(a), int(b)) for a, b in zip(start, stop)))])
        except Exception as error:  # codecs raise what they like
            raise _unreadable(path, error) from error

    return Level(
        path=path,
        scale=(1.0, 1.0, 1.0),
        translation=(0.5, 0.5, 0.5),
        shape=shape,
        chunks=tuple(array.chunks[-3:]),
        separator="",
        dtype=array.dtype,
        read=read,
    )


def _planes(volume: Level) -> Iterator[tuple[slice, NDArray[Any]]]:
    """The planes of a volume in turn, as many at once as a chunk is deep and not many more than AT_ONCE voxels."""
    depth, height, width = volume.shape
    step = max(1, AT_ONCE // (height * width))
    if volume.chunks[0] < depth:
        step = max(1, step // volume.chunks[0]) * volume.chunks[0]
    for first in range(0, depth, step):
        last = min(depth, first + step)
        try:
            block = read_box(volume, (first, 0, 0), (last, height, width))
        except DataError:
            raise
        except Exception as error:  # NumPy and tifffile raise what they like
            raise _unreadable(volume.path, error) from error
        yield slice(first, last), block


def _example(image: Level) -> str:
    """What window= could be, from the middle plane."""
    middle, (_, height, width) = image.shape[0] // 2, image.shape
    plane = read_box(image, (middle, 0, 0), (middle + 1, height, width)).astype(np.float64)
    finite = plane[np.isfinite(plane)]
    black, white = np.percentile(finite, (0.5, 99.5)) if finite.size else (0, 1)
    return (
        "Say which of them become black and white, the same for all volumes, for example "
        f"data.options.window=[{black:.5g},{white:.5g}]: 99 % of its middle plane lie there."
    )


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read ({type(error).__name__}: {error}). It is cut short or damaged: save it anew."
    )


def _told(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


SOURCE = LabelledVolumes
