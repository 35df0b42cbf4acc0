"""phantom: generated volumes in the CellMap layout, for trying things out; made in the cache where no root is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainables.data.phantom import generate
from trainables.data.sources import cellmap
from trainables.settings import require_choice


@dataclass(frozen=True, kw_only=True)
class Options(cellmap.Options):
    """data.options of the phantom."""

    edition: str = "five"
    """five or fourteen classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("data.options.edition", self.edition, tuple(generate.EDITIONS))


class Phantom(cellmap.CellMap):
    """The generated data of this cache folder, or those below data.root."""

    Options = Options
    decoding = ()
    """What is generated has no padding, so caches of earlier versions hold."""
    real = "data=cellmap data.root=PATH"

    @property
    def choice(self) -> str:
        return "" if self.options.edition == "five" else "data=phantom14"

    def generate(self, out: Path, seed: int) -> Path:
        return generate.make(out, seed=seed, plan=generate.EDITIONS[self.options.edition])

    def ensure(self, cache: Path) -> Path:
        return generate.ensure(cache, self.options.edition)


SOURCE = Phantom
