"""A table as `search_peers.export` writes it, for workers whose environment has nothing of this project but NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

WORKERS = 4


class ExportedTable:
    """scores (n, E), where a NaN is a score of 0, the worst there is; seconds (n,) per epoch of each row."""

    def __init__(self, path: Path, seed: int) -> None:
        with np.load(path) as file:
            self.places, scores, self.seconds = file["places"], file["scores"], file["seconds"][seed]
        self.scores = np.nan_to_num(scores, nan=0.0)
        self.used = np.zeros(len(self.places), dtype=int)

    @property
    def axes(self) -> list[str]:
        return [f"x{axis}" for axis in range(self.places.shape[1])]

    @property
    def epochs(self) -> int:
        return int(self.scores.shape[1])

    def take(self, values: Sequence[float]) -> int:
        """The nearest row that was not used, for a point with these values in [0, 1], axis after axis."""
        distances = np.linalg.norm(self.places - np.array(values, dtype=float), axis=1)
        row = int(np.argmin(np.where(self.used == self.used.min(), distances, np.inf)))
        self.used[row] += 1
        return row
