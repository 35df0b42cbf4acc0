"""phantom: generated volumes in the CellMap layout, for trying things out; made in the cache where no root is given."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from trainables.data.packed import cache_folder, cache_written, mark_used
from trainables.data.phantom import generate
from trainables.data.sources.cellmap import CellMap


class Phantom(CellMap):
    """The generated data of this cache folder, or those below data.root."""

    @cached_property
    def folder(self) -> Path:
        if self.settings.root:
            return super().folder
        cache = cache_folder(self.settings)
        with cache_written(cache):
            made = Path(generate.ensure(cache))
        mark_used(made)
        return made


SOURCE = Phantom
