"""Chunks read by ourselves against zarr, in every flavour of Zarr v2 that may turn up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc, Delta, GZip
from volume_writer import write_multiscale

from trainables.data.cellmap.ngff import Level, missing_chunks, plain_array, read_box, read_levels
from trainables.errors import DataError

SHAPE, CHUNKS = (19, 10, 13), (8, 4, 5)
BOXES = [
    ((0, 0, 0), SHAPE),
    ((3, 2, 4), (4, 3, 5)),
    ((7, 3, 4), (17, 9, 12)),
    ((8, 4, 5), (16, 8, 10)),
    ((2, 2, 2), (2, 5, 5)),
]


def write(
    path: Path, *, dtype: str = "u1", separator: str = "/", missing: tuple[int, ...] | None = None, **more: Any
) -> tuple[Level, np.ndarray]:
    given = {"compressors": Blosc(cname="zstd"), "fill_value": 0} | more
    array = zarr.create_array(
        path,
        shape=SHAPE,
        chunks=CHUNKS,
        dtype=dtype,
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": separator},
        **given,
    )
    array[:] = (np.random.default_rng(0).random(SHAPE) * 250).astype(dtype)
    level = Level(path, (8, 8, 8), (4, 4, 4), SHAPE, CHUNKS, separator, np.dtype(dtype))
    if missing is not None:
        level.chunk_file(missing).unlink()
    return level, zarr.open_array(path, mode="r")[:]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"dtype": "<u2"},
        {"dtype": ">u4"},
        {"dtype": "f4"},
        {"separator": "."},
        {"compressors": None},
        {"compressors": GZip(level=1)},
        {"missing": (1, 1, 1)},
        {"missing": (0, 0, 0), "fill_value": 7},
        {"missing": (2, 2, 2), "fill_value": None},
    ],
)
def test_plain_arrays_equal_zarr(tmp_path, more):
    level, whole = write(tmp_path / "s0", **more)
    assert plain_array(level) is not None
    for start, stop in BOXES:
        box = read_box(level, start, stop)
        assert box.dtype == whole.dtype
        np.testing.assert_array_equal(box, whole[tuple(map(slice, start, stop))])


@pytest.mark.parametrize(
    "more",
    [{"order": "F"}, {"filters": [Delta(dtype="u1")]}, {"dtype": "f4", "fill_value": float("nan")}, {"dtype": "bool"}],
)
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


ODD = {
    "a negative size": {"shape": [-8, 8, 8]},
    "half a voxel": {"shape": [8.5, 8, 8]},
    "an endless size": {"shape": [float("inf"), 8, 8]},
    "a word": {"shape": "888"},
    "two axes": {"shape": [8, 8]},
    "an empty chunk": {"chunks": [0, 8, 8]},
    "a chunk larger than memory": {"chunks": [10**9] * 3},
    "an unknown dtype": {"dtype": "banana"},
    "a dtype of words": {"dtype": "<U8"},
    "a dtype of objects": {"dtype": "|O"},
    "a complex dtype": {"dtype": "<c8"},
    "an unknown compressor": {"compressor": {"id": "banana"}},
    "a compressor of another shape": {"compressor": "gzip"},
    "a compressor with a setting it lacks": {"compressor": {"id": "gzip", "bogus": 1}},
    "an unknown filter": {"filters": [{"id": "banana"}]},
    "an unknown order": {"order": "Q"},
    "a word for a fill value": {"fill_value": "banana"},
    "a fill value that does not fit": {"fill_value": 10**30},
    "a separator that leads elsewhere": {"dimension_separator": "/../"},
    "another format": {"zarr_format": 3},
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_array_that_says_nonsense_of_itself_is_named(tmp_path, change):
    write_multiscale(tmp_path / "em", [np.zeros((8, 8, 8), np.uint8)], [(8, 8, 8)])
    path = tmp_path / "em" / "s0" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"em/s0/\.zarray: no valid Zarr v2 array") as error:
        read_box(read_levels(tmp_path / "em")[0], (0, 0, 0), (8, 8, 8))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe{}", bytes(9), b"[" * 99_999, b"[1" + b"0" * 5000 + b"]"]
)
@pytest.mark.parametrize("name", [".zattrs", "s0/.zarray"])
def test_metadata_that_are_no_json_object(tmp_path, name, content):
    write_multiscale(tmp_path / "em", [np.zeros((8, 8, 8), np.uint8)], [(8, 8, 8)])
    (tmp_path / "em" / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"em/{name}.*Download it again"):
        read_levels(tmp_path / "em")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("leading", [(), (1, 1)])
def test_missing_chunks_are_told_in_every_layout(tmp_path: Path, zarr_format: int, leading: tuple[int, ...]) -> None:
    """0.4 and 0.5, with and without axes before z."""
    names = [*"tc"[: len(leading)], "z", "y", "x"]
    scale = [{"type": "scale", "scale": [1.0 for _ in leading] + [4.0, 4.0, 4.0]}]
    axes = [{"name": name, "unit": "nanometer"} if name in "zyx" else {"name": name} for name in names]
    image = {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}
    group = zarr.create_group(tmp_path / "image", zarr_format=zarr_format)
    group.attrs.update({"ome": image} if zarr_format == 3 else image)
    array = group.create_array("0", shape=(*leading, 4, 6, 8), chunks=(*leading, 2, 3, 4), dtype="uint8")
    values = np.arange(1, 193, dtype=np.uint8).reshape(4, 6, 8)
    array[...] = values.reshape(array.shape)
    [level] = read_levels(tmp_path / "image")
    np.testing.assert_array_equal(read_box(level, (1, 2, 3), (4, 6, 8)), values[1:, 2:, 3:])
    assert not missing_chunks(level, (0, 0, 0), level.shape)[1].any()
    level.chunk_file((1, 0, 1)).unlink()
    assert np.argwhere(missing_chunks(level, (0, 0, 0), level.shape)[1]).tolist() == [[1, 0, 1]]
    assert not read_box(level, (2, 0, 4), (4, 3, 8)).any()


def test_an_axis_before_z_has_one_element(tmp_path: Path) -> None:
    axes = [{"name": name} for name in "czyx"]
    scale = [{"type": "scale", "scale": [1.0, 8.0, 8.0, 8.0]}]
    group = zarr.create_group(tmp_path / "image", zarr_format=2)
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]
    group.create_array("0", shape=(2, 4, 6, 8), dtype="uint8")
    with pytest.raises(DataError, match="axis c has 2 elements; one is needed of every axis but z, y, x"):
        read_levels(tmp_path / "image")
