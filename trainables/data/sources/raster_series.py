"""raster_series: stacks of rasters over time and a mask of each; learnt is the next mask (docs/raster-series.md).

data.root holds `channels.json` and a folder per series: frames.npy or frames.zarr (T, channels, H, W) and mask.npy or
mask.zarr (T, H, W), 0, 1 or 255 for unknown. A series is a crop whose slices are windows: slice d shows the frames
d … d + steps − 1 and has the mask of frame d + steps as its labels.

Shapes: T frames, C channels of a frame, K = steps · C channels of an image in the order t · C + c (t = 0 the oldest),
D = T − steps windows, H W cells.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import KINDS
from trainables.data.expand import pack_class, packed_bytes
from trainables.data.phantom import fire
from trainables.data.sources import Decoded, Finding, Source, files_of, read_sides
from trainables.errors import DataError
from trainables.settings import DataSettings, require, require_choice

ABOUT, SPLIT = "channels.json", "split.csv"
ROLES = ("fire", "wind", "static")
UNKNOWN = 255
MOST_NAMED = 5
"""Values and channels that a message names."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """data.options of series of rasters."""

    steps: int = 5
    """Frames that an image shows: the newest and those before it."""
    validate: str = ""
    """Series that validate, as a pattern of names ("2021*"); the others train. Empty: split.csv says, else it is
    drawn."""
    edition: str = "small"
    """Of the generated series: small (16 of 20 × 80²) or large (48 of 24 × 96²)."""

    def __post_init__(self) -> None:
        require(
            type(self.steps) is int and 1 <= self.steps <= 100,
            "data.options.steps",
            self.steps,
            "must be a whole number in [1, 100]",
            "Use 5",
        )
        require_choice("data.options.edition", self.edition, tuple(fire.EDITIONS))


@dataclass(frozen=True, kw_only=True)
class Channels:
    """What channels.json says."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    """The value of each channel that becomes grey value 0, and `high` that which becomes 255."""
    high: tuple[float, ...]
    roles: dict[str, tuple[str, ...]]
    """fire, wind, static: the names of their channels; every channel has one role."""


GENERATED = Channels(
    names=fire.CHANNELS,
    low=tuple(low for low, _ in fire.RANGE.values()),
    high=tuple(high for _, high in fire.RANGE.values()),
    roles=fire.ROLES,
)


@dataclass(frozen=True)
class Series:
    """One folder."""

    folder: Path
    classes: tuple[str, ...]
    side: str = ""

    @property
    def name(self) -> str:
        return self.folder.name


@dataclass(frozen=True)
class Stack:
    """An array on disk, of which frames are read."""

    path: Path
    array: Any
    """A mapped NumPy array or a Zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first frame, frames) in turn, as many at once as a chunk of Zarr has. DataError where they are damaged."""
        step = getattr(self.array, "chunks", (1,))[0]
        for first in range(0, self.shape[0], step):
            try:
                yield first, np.asarray(self.array[first : first + step])
            except Exception as error:  # codecs raise what they like
                raise _unreadable(self.path, error) from error


class RasterSeries(Source[Series]):
    """The series below data.root, or generated ones. SettingsError for several classes or a patch of several slices."""

    Options: ClassVar[type] = Options

    def __init__(self, settings: DataSettings) -> None:
        super().__init__(settings)
        require(
            len(settings.classes) == 1,
            "data.classes",
            settings.classes,
            f"data.name={settings.name} has one mask, so one class",
            "Write data.classes=[fire]",
        )
        depth, height, width = settings.patch
        require(
            depth == 1,
            "data.patch",
            settings.patch,
            "the slices of a series are moments in time, and a patch is of one of them",
            f"Write data.patch=[1,{height},{width}]",
        )

    def generate(self, out: Path, seed: int) -> Path:
        return fire.make(out, seed=seed, plan=fire.EDITIONS[self.options.edition])

    @property
    def contents(self) -> str:
        return ABOUT

    def ensure(self, cache: Path) -> Path:
        return fire.ensure(cache, self.options.edition)

    @cached_property
    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir() and _is_series(path))

    @property
    def key(self) -> dict[str, Any]:
        return {"source": self.settings.name, "steps": self.options.steps}

    @cached_property
    def channels(self) -> Channels:
        """Of the frames; those of generated ones are known before they are made. DataError for channels.json."""
        return read_channels(self.folder / ABOUT) if self.settings.root else GENERATED

    @property
    def choice(self) -> str:
        return "data=wildfire"

    @property
    def in_channels(self) -> int:
        return self.options.steps * len(self.channels.names)

    @property
    def shown_channel(self) -> int:
        """The newest frame of the first channel that is fire."""
        names = self.channels.names
        return (self.options.steps - 1) * len(names) + names.index(self.channels.roles["fire"][0])

    def annotated(self) -> list[str]:
        return ["fire"]

    def items(self) -> list[Series]:
        found, problems = self._found()
        if problems:
            raise DataError(problems[0])
        return found

    def inspected(self) -> tuple[list[Series], list[Finding]]:
        """What is wrong with the values of a series is said when it is decoded."""
        found, problems = self._found()
        warnings = [] if problems else [Finding("warning", self.root, text) for text in self.remarks(found)]
        return found, [Finding("error", self.root, problem) for problem in problems] + warnings

    def _found(self) -> tuple[list[Series], list[str]]:
        """The usable series with their sides, and a sentence for whatever is wrong. DataError where none is there."""
        folders = self._folders
        if not folders:
            raise DataError(
                f"{self.folder}: no series found. Expected NAME/frames.npy or NAME/frames.zarr below it, and a mask "
                "beside each; give the folder that holds them as data.root."
            )
        usable, problems = list[Series](), list[str]()
        for folder in folders:
            try:
                self._open(folder)
                usable.append(Series(folder, tuple(self.settings.classes)))
            except DataError as error:
                problems.append(str(error))
        origin, sides, wrong = self._sides(usable, [folder.name for folder in folders])
        divided = [Series(s.folder, s.classes, sides[s.name]) for s in usable if s.name in sides]
        if not problems + wrong:  # else it may be for one of those
            counts = {side: sum(s.side == side for s in divided) for side in ("train", "validate")}
            if 0 in counts.values():
                told = ", ".join(f"{count} {side}" for side, count in counts.items())
                wrong.append(
                    f"{origin}: of {len(usable)} series {told}; at least one is needed of either, and a series is "
                    "never cut. Correct it, or cut a long series into two folders."
                )
        return divided, problems + wrong

    def _open(self, folder: Path) -> tuple[Stack, Stack]:
        """frames and mask, of shapes that fit. DataError."""
        frames, mask = _open_stack(folder, "frames"), _open_stack(folder, "mask")
        wanted, steps = len(self.channels.names), self.options.steps
        if len(frames.shape) != 4 or frames.shape[1] != wanted or 0 in frames.shape:
            raise DataError(
                f"{frames.path}: shape {_told(frames.shape)}; (T, {wanted}, H, W) is needed, as {ABOUT} names {wanted} "
                f"channels. Save the stack anew, or correct {self.folder / ABOUT}."
            )
        expected = (frames.shape[0], *frames.shape[2:])
        if mask.shape != expected:
            raise DataError(
                f"{mask.path}: shape {_told(mask.shape)}; {_told(expected)} is needed, a mask for each of the frames "
                f"{_told(frames.shape)} beside it. Save one of the two anew."
            )
        if frames.shape[0] < steps + 1:
            raise DataError(
                f"{frames.path}: {frames.shape[0]} frames; data.options.steps={steps} needs at least {steps + 1}, "
                "those of an image and the one after it. Use fewer steps, or take the folder out."
            )
        return frames, mask

    def _sides(self, series: Sequence[Series], known: Sequence[str]) -> tuple[str, dict[str, str], list[str]]:
        """What says which series validate, the side of each, and what is wrong with it. known: names of all folders."""
        pattern, file = self.options.validate, self.folder / SPLIT
        if self.settings.split_file:
            file = Path(self.settings.split_file).expanduser().absolute()
        if pattern:
            sides = {s.name: "validate" if fnmatchcase(s.name, pattern) else "train" for s in series}
            return f"data.options.validate={pattern}", sides, []
        if self.settings.split_file or file.is_file():
            return str(file), *read_sides(file, known, "series")
        return self.root, self._drawn(series), []

    def _drawn(self, series: Sequence[Series]) -> dict[str, str]:
        """About data.validation_fraction of the series validate, one at least, and not all. Where two hold positives,
        one of them is on either side."""
        order = [series[i] for i in np.random.default_rng(self.settings.split_seed).permutation(len(series))]
        holders = [s for s in order if self.holds(s, s.classes[0])][:2]
        order = [*holders[:1], *(s for s in order if s not in holders), *holders[1:]]
        number = min(max(1, round(self.settings.validation_fraction * len(order))), len(order) - 1)
        return {s.name: "validate" if n < number else "train" for n, s in enumerate(order)}

    def stamp(self, item: Series) -> str:
        files = [file for name in ("frames", "mask") for file in files_of(_open_stack(item.folder, name).path)]
        found = [(str(path), stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]]
        return json.dumps([str(item.folder), item.side, asdict(self.channels), found])

    def holds(self, item: Series, name: str) -> bool:
        """Whether any window of the series has a positive target."""
        try:
            blocks = _open_stack(item.folder, "mask").blocks()
            return any((block[max(0, self.options.steps - first) :] == 1).any() for first, block in blocks)
        except DataError:  # said by whoever decodes the series
            return True

    def remarks(self, items: Sequence[Series]) -> list[str]:
        told, wind = list[str](), self.channels.roles["wind"]
        if unused := sorted({path.name for path in self._folders} - {item.name for item in items}):
            told.append(
                f"{len(unused)} series have no side in the split and are left out: {', '.join(unused[:MOST_NAMED])}"
            )
        turned = [key for key in ("mirror", "transpose", "rotate_degrees") if getattr(self.settings, key)]
        if wind and turned:
            off = " ".join(f"data.{key}={'0' if key == 'rotate_degrees' else 'false'}" for key in turned)
            told.append(
                f"{', '.join(wind)}: a direction does not turn with an image that is mirrored or turned; write {off}"
            )
        return told

    def predictable(self, item: Series) -> Decoded:
        """All windows, and the one of the newest frames, whose mask nobody knows yet. DataError."""
        steps, frames = self.options.steps, self._open(item.folder)[0].shape[0]
        told = f"slice d of the prediction is frame d + {steps}, counted from 0; the last is frame {frames}, to come"
        decoded = self._decode(item, ahead=1)
        return replace(decoded, remarks=(*decoded.remarks, told))

    def decode(self, item: Series) -> Decoded:
        """All windows of a series. DataError for NaN and for a mask of other values, with how many there are."""
        return self._decode(item)

    def _decode(self, item: Series, ahead: int = 0) -> Decoded:
        """ahead: windows more than there are masks for."""
        frames, mask = self._open(item.folder)
        grey, problems, remarks = self._grey(frames)
        known, present = np.empty(mask.shape, np.bool_), np.empty(mask.shape, np.bool_)
        wrong: Counter[str] = Counter()
        for first, block in mask.blocks():
            rows = slice(first, first + len(block))
            present[rows], known[rows] = block == 1, block != UNKNOWN
            others, counts = np.unique(block[~np.isin(block, (0, 1, UNKNOWN))], return_counts=True)
            wrong.update({f"{value:g}": count for value, count in zip(others.tolist(), counts.tolist())})
        if wrong:
            told = ", ".join(f"{value} ({count} times)" for value, count in wrong.most_common(MOST_NAMED))
            more = f" and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
            problems.append(
                f"{mask.path}: holds {told}{more}; allowed are 0, 1 and {UNKNOWN} (unknown). Map it to those."
            )
        if problems:
            raise DataError(" ".join(problems))
        steps = self.options.steps
        windows = sliding_window_view(grey[: len(grey) - 1 + ahead], steps, axis=0)  # (D + ahead, C, H, W, steps)
        em = windows.transpose(4, 1, 0, 2, 3).reshape(self.in_channels, -1, *grey.shape[2:])
        labels = np.zeros((packed_bytes(1), *em.shape[1:]), np.uint8)
        pack_class(labels[:, : mask.shape[0] - steps], 0, 1, present[steps:], known[steps:])
        return Decoded(em=em, labels=labels, remarks=tuple(remarks))

    def _grey(self, frames: Stack) -> tuple[NDArray[np.uint8], list[str], list[str]]:
        """The frames as grey values (T, C, H, W), a sentence for every channel with NaN, and for every clipped one."""
        names, low, high = self.channels.names, np.array(self.channels.low), np.array(self.channels.high)
        grey = np.empty(frames.shape, np.uint8)
        ends = np.stack([np.full(len(names), np.inf), np.full(len(names), -np.inf)])
        lost, outside = np.zeros((2, len(names)), np.int64)
        for first, block in frames.blocks():
            values = np.moveaxis(block, 1, -1).astype(np.float64)  # (…, C)
            finite, axes = np.isfinite(values), (0, 1, 2)
            lost += np.count_nonzero(~finite, axis=axes)
            outside += np.count_nonzero((values < low) | (values > high), axis=axes)
            values = np.where(finite, values, low)
            ends = np.stack([np.minimum(ends[0], values.min(axes)), np.maximum(ends[1], values.max(axes))])
            values = np.rint((values.clip(low, high) - low) / (high - low) * 255)
            grey[first : first + len(block)] = np.moveaxis(values, -1, 1)
        voxels = grey[:, 0].size
        problems = [
            f"{frames.path}: {count} of {voxels} values of {name} are NaN or infinite; every value of an image is "
            "needed. Fill them, and let the mask be 255 where they count for nothing."
            for name, count in zip(names, lost.tolist())
            if count
        ]
        remarks = [
            f"{name} is {least:.4g} to {most:.4g}: {100 * count / voxels:.3g} % outside [{a:g}, {b:g}], clipped"
            for name, count, least, most, a, b in zip(names, outside.tolist(), *ends.tolist(), low, high)
            if count
        ]
        return grey, problems, remarks


def read_channels(path: Path) -> Channels:
    """channels.json. DataError where it is missing or says what cannot be."""
    form = "Write " + json.dumps(fire.ABOUT)
    try:
        about = json.loads(path.read_text())
        names, ranges = about["channels"], dict(about["range"])
        roles = {role: tuple(about.get(role, ())) for role in ROLES}
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: it names the channels of the stacks. {form}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no JSON object with `channels` and `range` ({error!r}). {form}") from error
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not named or not names or len({*names}) < len(names):
        raise DataError(f"{path}: channels={names}; a list of different names is needed. {form}")
    for key, found in {"range": ranges, **roles}.items():
        if others := [name for name in found if name not in names]:
            raise DataError(f"{path}: {key} names {', '.join(map(str, others))}; channels are {', '.join(names)}.")
    for name in names:
        ends, told = ranges.get(name), [role for role in ROLES if name in roles[role]]
        if not isinstance(ends, list) or [type(e) in (int, float) and math.isfinite(e) for e in ends] != [True, True]:
            raise DataError(f'{path}: range of {name} is {ends}; two numbers are needed, for example "{name}": [0, 1].')
        if not ends[0] < ends[1]:
            raise DataError(f"{path}: range of {name} is {ends}; the first value must be below the second.")
        if len(told) != 1:
            raise DataError(f"{path}: {name} is in {told or 'none'} of {', '.join(ROLES)}; it must be in one of them.")
    if not roles["fire"]:
        raise DataError(f"{path}: fire names no channel; at least one shows what the mask is of. {form}")
    low, high = zip(*(map(float, ranges[name]) for name in names))
    return Channels(names=tuple(names), low=low, high=high, roles=roles)


def _is_series(folder: Path) -> bool:
    return any((folder / f"{name}{kind}").exists() for name in ("frames", "mask") for kind in (".npy", ".zarr"))


def _open_stack(folder: Path, name: str) -> Stack:
    """NAME.npy, mapped, or NAME.zarr. DataError where there is none or it cannot be read."""
    found = [path for path in (folder / f"{name}.npy", folder / f"{name}.zarr") if path.exists()]
    if len(found) != 1:
        what = "both are there" if found else "neither is there"
        raise DataError(f"{folder}: {name}.npy or {name}.zarr is needed, and {what}. Keep one.")
    path = found[0]
    try:
        array = np.load(path, mmap_mode="r") if path.suffix == ".npy" else zarr.open_array(path, mode="r")
    except Exception as error:  # NumPy and zarr raise what they like
        raise _unreadable(path, error) from error
    if array.dtype.kind not in KINDS:
        raise DataError(f"{path}: values of type {array.dtype}; numbers are needed. Save it anew.")
    return Stack(path, array)


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read ({type(error).__name__}: {error}). It is cut short or damaged: save it anew."
    )


def _told(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"


SOURCE = RasterSeries
