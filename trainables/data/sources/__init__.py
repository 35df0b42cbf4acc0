"""Sources: where samples come from. One file per source; the file's name is `data.name` on the command line.

A source file defines `SOURCE`, a subclass of `Source`. It lists its crops, each with the classes that it annotates and
its side of the split, and decodes them; they are packed once per node (`trainables.data.packed`), and everything else
sees packed crops.

Shapes: C classes, K input channels, P = ceil(2C / 8) bytes per voxel (`trainables.data.expand`), D H W a crop in target
voxels, D' H' W' the crop with its surroundings.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.data.cache import cache_folder, cache_written, mark_used
from trainables.errors import DataError
from trainables.settings import DataSettings, from_mapping, require, require_choice


class Item(Protocol):
    """A crop that has not been decoded."""

    @property
    def name(self) -> str:
        """Unique in its source: dataset/crop234."""

    @property
    def side(self) -> str:
        """train, validate or test"""

    @property
    def classes(self) -> tuple[str, ...]:
        """Those that it annotates; the others are unknown in all of it."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A crop as it goes into the cache."""

    em: NDArray[np.uint8]
    """(D', H', W'), or (K, D', H', W') where there are several channels."""
    labels: NDArray[np.uint8]
    """(P, D, H, W), see `trainables.data.expand.pack_class`."""
    whole: bool = False
    """Whether one label holds for all of the image: labels are (P, 1, 1, 1), and the image has no surroundings."""
    offset: tuple[int, int, int] = (0, 0, 0)
    """Crop coordinates of the first voxel of `em`; not positive where the surroundings begin before the crop."""
    masked: float = 0.0
    """Share of the crop, in [0, 1], that is unknown because there is no image of it."""
    padded: float = 0.0
    """Share of the crop, in [0, 1], that is unknown because its image is zero padding."""
    remarks: tuple[str, ...] = ()
    """What else was done to it, a sentence each."""
    label_counts: Mapping[str, int] = field(default_factory=dict)
    """Voxels of each label as it lies on disk, where a source judges its labels by them."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found."""

    level: str
    """error: a run would stop. warning: it would run, but not as one may think. info: for the record."""
    where: str
    """A file, a crop or a setting."""
    message: str

    def __str__(self) -> str:
        where = "" if self.message.startswith(self.where) else f"{self.where}: "
        return f"{self.level}: {where}{self.message}"


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """data.options of a source that has none."""


def channels(em: NDArray[np.uint8]) -> int:
    """Channels K of an image (D', H', W') or (K, D', H', W')."""
    return 1 if em.ndim == 3 else len(em)


T = TypeVar("T", bound=Item)


class Source(ABC, Generic[T]):
    """What packing, check and sweep ask of a source. Nothing is read before it is asked for.

    Raises SettingsError for data.options that it does not have.
    """

    Options: ClassVar[type] = NoOptions
    """A dataclass of what `data.options` may hold; values are checked in its `__post_init__`."""
    vocabulary: ClassVar[Collection[str]] = ()
    """Classes that may be asked for even where no crop annotates them."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Of files that can be predicted though nobody has labelled them, see `unlabelled`."""
    real: ClassVar[str] = "data.root=PATH"
    """What to type for real data instead of generated ones."""

    def __init__(self, settings: DataSettings) -> None:
        self.settings = settings
        self.options: Any = from_mapping(self.Options, settings.options, "data.options")

    @property
    def contents(self) -> str:
        """What the folder holds, for the message to someone who gave another."""
        return "the data"

    @property
    def in_channels(self) -> int:
        """Channels K of an image; known without the data, so that a network can be built."""
        return 1

    @property
    def choice(self) -> str:
        """What to type for this source; empty where it is the default."""
        return ""

    @property
    def shown_channel(self) -> int:
        """Which of them is drawn in a picture."""
        return 0

    @cached_property
    def folder(self) -> Path:
        """data.root, or where that is empty, generated data in the cache. DataError for a folder that is missing."""
        given = self.settings.root
        if not given:
            cache = cache_folder(self.settings)
            with cache_written(cache):
                made = self.ensure(cache)
            mark_used(made)
            return made
        root = Path(given).expanduser().absolute()
        if not root.is_dir():
            raise DataError(f"data.root={given}: no such folder. Give the folder that holds {self.contents}.")
        return root

    @property
    def root(self) -> str:
        """The same as text, for the record; of a source without a folder, any words."""
        return str(self.folder)

    @property
    def key(self) -> dict[str, Any]:
        """What decides how a crop is decoded, beside classes, voxel size, patch and label resampling."""
        return {"source": self.settings.name, "options": self.settings.options}

    @abstractmethod
    def items(self) -> Sequence[T]:
        """All crops of the split. Raises DataError."""

    @abstractmethod
    def stamp(self, item: T) -> str:
        """Changes whenever what `decode` reads has changed; cheap, it is asked for before every run. DataError."""

    @abstractmethod
    def decode(self, item: T) -> Decoded:
        """The crop at the target voxel size, with `em_margin` voxels round it where there are any. DataError."""

    def predictable(self, item: T) -> Decoded:
        """The crop as it is predicted: that of `decode`, and what more of it can be seen but not learnt. DataError."""
        return self.decode(item)

    def unlabelled(self, path: Path) -> T:
        """A file of one of the `suffixes` as a crop without labels, to be decoded."""
        raise NotImplementedError

    def ensure(self, cache: Path) -> Path:
        """Generated data below the cache folder, made if they are not there. DataError for a source that has none."""
        raise DataError(
            f"data.root is empty: data={self.settings.name} needs the folder that holds {self.contents}. "
            "Give data.root=PATH, or try it out on generated data: data=phantom."
        )

    def generate(self, out: Path, seed: int) -> Path:
        """Write generated data into the folder `out`, and return it. SettingsError for a source that has none."""
        require(
            False,
            "data.name",
            self.settings.name,
            "has no generated data",
            "Use data=phantom, wildfire, surface or oct",
        )
        return out

    def annotated(self) -> list[str]:
        """Names of all classes, for data.classes=auto. Raises DataError."""
        return sorted(annotated_names(self.items()))

    def holds(self, item: T, name: str) -> bool:
        """Whether a crop has positive voxels of a class, as far as can be told without decoding it."""
        return name in item.classes

    def remarks(self, items: Sequence[T]) -> list[str]:
        """What was found elsewhere than expected, and what is left out: a sentence each."""
        return []

    def leak(self, items: Sequence[T]) -> str:
        """What of the validation crops is trained on, as a sentence; empty where nothing is."""
        return ""

    def judged(self, labels: Mapping[str, Mapping[str, int]]) -> list[Finding]:
        """What the labels of each side say together, {side: {label: voxels}}; a run stops at an error."""
        return []

    def inspected(self) -> tuple[Sequence[T], list[Finding]]:
        """The usable crops, and all that is wrong with the split where `items` raises at the first. DataError."""
        return self.items(), []

    def overlaps(self, items: Sequence[T]) -> Iterator[Finding]:
        """Crops that share voxels."""
        if told := self.leak(items):
            yield Finding("warning", "split", told)


SIDES = ("train", "validate", "test")


def read_sides(path: Path, known: Collection[str], what: str) -> tuple[dict[str, str], list[str]]:
    """The side of each series, volume, … in split.csv, and a sentence for every row that cannot be used.

    known: the names that there are; what: what they are the names of.
    """
    sides, problems = dict[str, str](), list[str]()
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError) as error:
        return {}, [f"{path} cannot be read ({error}). Write a line `side,{what}` for each {what}."]
    for number, row in enumerate(([cell.strip() for cell in row] for row in rows), 1):
        if not any(row) or (number == 1 and row == ["side", what]):
            continue
        side, name = row if len(row) == 2 else ("", "")
        if side not in SIDES:
            problems.append(f"{path}:{number}: {','.join(row)}; needed is SIDE,{what.upper()} with {', '.join(SIDES)}.")
        elif name not in known:
            problems.append(f"{path}:{number}: {name} is no {what}; there are {', '.join(known)}. Correct the name.")
        elif name in sides:
            problems.append(f"{path}:{number}: {name} appears again; keep one row of it.")
        else:
            sides[name] = side
    return sides, problems


def files_of(path: Path) -> list[Path]:
    """The files of an array on disk: itself, or all in the folder that it is."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def source_names() -> tuple[str, ...]:
    """Names of all sources: the files of this package, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def open_source(settings: DataSettings) -> Source[Any]:
    """The source that `settings.name` names. Raises SettingsError with the choices, for an unknown option too."""
    require_choice("data.name", settings.name, source_names())
    source: Source[Any] = importlib.import_module(f"{__name__}.{settings.name}").SOURCE(settings)
    return source


def annotated_names(items: Iterable[Item]) -> set[str]:
    """Every class that at least one of the crops annotates."""
    return set().union(*(item.classes for item in items))


def unannotated_classes(classes: Sequence[str], items: Iterable[Item]) -> list[str]:
    """Those of `classes` that no crop annotates, in order: their channel would be unknown everywhere."""
    annotated = annotated_names(items)
    return [name for name in classes if name not in annotated]


def check_classes(classes: Sequence[str], items: Iterable[Item], vocabulary: Collection[str]) -> None:
    """DataError for a name that neither the crops nor the vocabulary know (a misspelling), and when no crop annotates
    any of the classes."""
    annotated, known = annotated_names(items), {*vocabulary}
    for name in classes:
        if name not in annotated | known:
            close = difflib.get_close_matches(name, sorted(annotated | known), n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise DataError(
                f"data.classes: {name} is no class of this data. {hint}"
                f"Annotated here: {', '.join(sorted(annotated)) or 'none'}."
            )
    if not annotated & set(classes):
        raise DataError(
            f"data.classes=[{','.join(classes)}]: no crop annotates any of them, so there is nothing to learn. "
            f"Annotated here: {', '.join(sorted(annotated)) or 'none'}."
        )
