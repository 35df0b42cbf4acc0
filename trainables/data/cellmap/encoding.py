"""What the values of a CellMap label array mean: absent, unknown, or the class (an instance of it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import Level, read_json
from trainables.errors import DataError


@dataclass(frozen=True)
class Encoding:
    """Values with a meaning in a label array; every other value is the class, or an instance of it."""

    absent: int
    unknown: int | None

    def masks(self, values: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(present, known), bool of the shape of `values`."""
        known = np.ones(values.shape, dtype=bool) if self.unknown is None else values != self.unknown
        return (values != self.absent) & known, known


def read_encoding(group: Path, levels: Sequence[Level]) -> Encoding:
    """Encoding from the label group's .zattrs. DataError when it is there and broken.

    255 is unknown in uint8 unless the encoding says otherwise. Wider instance labels may use 255 as an id: there the
    encoding decides, and where it names 255 although the complement counts of s0 say that no voxel is unknown, 255 is
    an id.
    """
    try:
        annotation = read_json(group / ".zattrs").get("cellmap", {}).get("annotation", {})
        values = annotation.get("annotation_type", {}).get("encoding", {})
        absent = int(values.get("absent", 0))
        unknown = None if values.get("unknown") is None else int(values["unknown"])
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{group / '.zattrs'}: cellmap.annotation.annotation_type.encoding must map absent, present, unknown to "
            f"integers ({error}). Download it again."
        ) from error
    wide = levels[0].dtype.itemsize > 1
    if unknown is None:
        return Encoding(absent, None if wide else 255)
    if wide and unknown == 255 and "present" not in values and complement_counts(levels[0]).get("unknown") == 0:
        return Encoding(absent, None)
    return Encoding(absent, unknown)


def complement_counts(finest: Level) -> dict[str, int]:
    """Voxels that are absent and unknown at s0, as the annotators counted them; {} where they did not."""
    if not (finest.path / ".zattrs").exists():
        return {}
    try:
        counts = read_json(finest.path / ".zattrs").get("cellmap", {}).get("annotation", {})["complement_counts"]
        return {str(name): int(count) for name, count in counts.items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        return {}
