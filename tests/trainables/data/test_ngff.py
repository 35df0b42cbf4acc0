"""Chunks read by ourselves against zarr, in every flavour of Zarr v2 that may turn up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Delta, GZip

from trainables.data.ngff import Level, plain_array, read_box
from trainables.errors import DataError

SHAPE, CHUNKS = (19, 10, 13), (8, 4, 5)
BOXES = [((0, 0, 0), SHAPE), ((3, 2, 4), (4, 3, 5)), ((7, 3, 4), (17, 9, 12)), ((8, 4, 5), (16, 8, 10)),
         ((2, 2, 2), (2, 5, 5))]  # fmt: skip


def write(path: Path, *, dtype: str = "u1", separator: str = "/", missing: tuple[int, ...] | None = None,
          **more: Any) -> tuple[Level, np.ndarray]:  # fmt: skip
    given = {"compressors": Blosc(cname="zstd"), "fill_value": 0} | more
    array = zarr.create_array(
        path, shape=SHAPE, chunks=CHUNKS, dtype=dtype, zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": separator}, **given,
    )  # fmt: skip
    array[:] = (np.random.default_rng(0).random(SHAPE) * 250).astype(dtype)
    level = Level(path, (8, 8, 8), (4, 4, 4), SHAPE, CHUNKS, separator, np.dtype(dtype))
    if missing is not None:
        level.chunk_file(missing).unlink()
    return level, zarr.open_array(path, mode="r")[:]


@pytest.mark.parametrize("more", [
    {}, {"dtype": "<u2"}, {"dtype": ">u4"}, {"dtype": "f4"}, {"separator": "."}, {"compressors": None},
    {"compressors": GZip(level=1)}, {"missing": (1, 1, 1)}, {"missing": (0, 0, 0), "fill_value": 7},
    {"missing": (2, 2, 2), "fill_value": None},
])  # fmt: skip
def test_plain_arrays_equal_zarr(tmp_path, more):
    level, whole = write(tmp_path / "s0", **more)
    assert plain_array(level) is not None
    for start, stop in BOXES:
        box = read_box(level, start, stop)
        assert box.dtype == whole.dtype
        np.testing.assert_array_equal(box, whole[tuple(map(slice, start, stop))])


@pytest.mark.parametrize("more", [
    {"order": "F"}, {"filters": [Delta(dtype="u1")]}, {"dtype": "f4", "fill_value": float("nan")}, {"dtype": "bool"},
])  # fmt: skip
def test_other_arrays_are_left_to_zarr(tmp_path, more):
    level, whole = write(tmp_path / "s0", **more)
    assert plain_array(level) is None
    for start, stop in BOXES:
        np.testing.assert_array_equal(read_box(level, start, stop), whole[tuple(map(slice, start, stop))])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_broken_chunk_is_named(tmp_path, order):
    level, _ = write(tmp_path / "s0", order=order)
    file = level.chunk_file((1, 0, 2))
    file.write_bytes(file.read_bytes()[:10])
    read_box(level, (0, 0, 0), (8, 10, 13))
    with pytest.raises(DataError, match="s0/1/0/2 cannot be decoded"):
        read_box(level, (0, 0, 0), SHAPE)


def test_a_chunk_of_the_wrong_size_is_broken(tmp_path):
    level, _ = write(tmp_path / "s0")
    level.chunk_file((0, 0, 0)).write_bytes(Blosc().encode(np.zeros(8 * 4 * 4, np.uint8)))
    with pytest.raises(DataError, match="s0/0/0/0 cannot be decoded"):
        read_box(level, (0, 0, 0), SHAPE)
