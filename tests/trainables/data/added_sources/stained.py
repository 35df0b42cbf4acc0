"""A source that no file of ours knows: cells in two channels, made of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.data.expand import pack_class, packed_bytes
from trainables.data.sources import Decoded, Source
from trainables.settings import require


@dataclass(frozen=True, kw_only=True)
class Options:
    crops: int = 4
    """How many there are; every other one validates."""

    def __post_init__(self) -> None:
        require(2 <= self.crops <= 100, "data.options.crops", self.crops, "must lie in [2, 100]", "Use 4")


@dataclass(frozen=True)
class Picture:
    """One crop."""

    number: int
    side: str
    classes: tuple[str, ...] = ("bright", "both")

    @property
    def name(self) -> str:
        return f"stained/picture{self.number}"


class Stained(Source[Picture]):
    """`bright` is where the first channel is, `both` where the second one is, too; it cannot be told from the first."""

    Options = Options

    @property
    def in_channels(self) -> int:
        return 2

    @property
    def root(self) -> str:
        return "drawn"

    def items(self) -> Sequence[Picture]:
        return [Picture(n, ("train", "validate")[n % 2]) for n in range(self.options.crops)]

    def stamp(self, item: Picture) -> str:
        return f"{item.name} {item.side}"

    def decode(self, item: Picture) -> Decoded:
        rng = np.random.default_rng(item.number)
        coarse = rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
        em = coarse.repeat(4, axis=2).repeat(4, axis=3)
        labels = np.zeros((packed_bytes(len(self.settings.classes)), *em.shape[1:]), np.uint8)
        masks = {"bright": em[0] > 127, "both": (em > 127).all(axis=0)}
        for index, name in enumerate(self.settings.classes):
            known = np.full(em.shape[1:], name in masks)
            pack_class(labels, index, len(self.settings.classes), masks.get(name, ~known), known)
        return Decoded(em=em, labels=labels)


SOURCE = Stained
