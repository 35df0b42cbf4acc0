"""Stacks in one file: every way of writing one gives the same voxels, and what is none is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from trainables.data.stacks import open_stack
from trainables.errors import DataError

STACK = np.random.default_rng(0).integers(0, 65536, (5, 40, 50), dtype=np.uint16)
OME = {"axes": "ZYX", "PhysicalSizeX": 4, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.004, "PhysicalSizeZ": 0.008}


def pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        for page in STACK:
            file.write(page, contiguous=False)


WRITERS: dict[str, Callable[[Path], object]] = {
    "stack.npy": lambda path: np.save(path, STACK),
    "fortran.npy": lambda path: np.save(path, np.asfortranarray(STACK)),
    "channel.npy": lambda path: np.save(path, STACK[None]),
    "plain.tif": lambda path: tifffile.imwrite(path, STACK),
    "big_endian.tif": lambda path: tifffile.imwrite(path, STACK, byteorder=">"),
    "pages.tiff": pages,
    "zip.tif": lambda path: tifffile.imwrite(path, STACK, compression="zlib", rowsperstrip=7),
    "tiles.ome.tif": lambda path: tifffile.imwrite(path, STACK, compression="zlib", tile=(16, 16), metadata=OME),
    "imagej.tif": lambda path: tifffile.imwrite(
        path, STACK, imagej=True, resolution=(0.25, 0.25), metadata={"axes": "ZYX", "spacing": 8, "unit": "nm"}
    ),
    "hyperstack.tif": lambda path: tifffile.imwrite(
        path, STACK[None, :, None], imagej=True, resolution=(250, 250), metadata={"spacing": 0.008, "unit": "micron"}
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_voxels(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    level, own = open_stack(tmp_path / name, (30, 8, 8))
    assert (level.shape, level.scale, level.dtype, own) == ((5, 40, 50), (30, 8, 8), np.uint16, False)
    assert level.corner.tolist() == [0, 0, 0]
    assert level.read is not None
    for start, stop in (((0, 0, 0), (5, 40, 50)), ((1, 5, 7), (3, 22, 31)), ((4, 39, 0), (5, 40, 50))):
        np.testing.assert_array_equal(level.read(start, stop), STACK[tuple(map(slice, start, stop))])


@pytest.mark.parametrize("name", ["imagej.tif", "hyperstack.tif", "tiles.ome.tif"])
def test_what_imagej_and_ome_say_of_the_voxels_is_taken(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    level, own = open_stack(tmp_path / name, None)
    assert level.scale == pytest.approx((8, 4, 4))
    assert own


def test_a_slice_is_a_stack_of_one(tmp_path: Path) -> None:
    np.save(tmp_path / "slice.npy", STACK[0])
    tifffile.imwrite(tmp_path / "slice.tif", STACK[0], compression="zlib")
    for name in ("slice.npy", "slice.tif"):
        level, _ = open_stack(tmp_path / name, (8, 8, 8))
        assert level.shape == (1, 40, 50)
        assert level.read is not None
        np.testing.assert_array_equal(level.read((0, 3, 4), (1, 9, 50)), STACK[:1, 3:9, 4:])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "silent.npy": (lambda path: np.save(path, STACK), r"does not say how large .* voxel_nm=\[8,8,8\]"),
    "silent.tif": (lambda path: tifffile.imwrite(path, STACK), r"does not say how large .* voxel_nm=\[8,8,8\]"),
    "rgb.tif": (
        lambda path: tifffile.imwrite(path, np.zeros((5, 9, 9, 3), np.uint8), photometric="rgb"),
        "grey slices",
    ),
    "channels.tif": (
        lambda path: tifffile.imwrite(path, np.zeros((3, 9, 9), np.uint8), imagej=True, metadata={"axes": "CYX"}),
        "Save one channel",
    ),
    "movie.npy": (lambda path: np.save(path, np.zeros((2, 3, 9, 9))), "grey slices"),
    "line.npy": (lambda path: np.save(path, np.zeros(9)), "grey slices"),
    "empty.npy": (lambda path: np.save(path, np.zeros((0, 9, 9))), "numbers are needed"),
    "words.npy": (lambda path: np.save(path, np.full((2, 2, 2), "a")), "numbers are needed"),
    "pickle.npy": (lambda path: np.save(path, np.full((2, 2, 2), None)), "cannot be read"),
    "torn.npy": (lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read"),
    "text.tif": (lambda path: path.write_text("no image"), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_stack_is_said_in_a_sentence(tmp_path: Path, name: str) -> None:
    write, message = BAD[name]
    write(tmp_path / name)
    with pytest.raises(DataError, match=message):
        open_stack(tmp_path / name, None if "silent" in name else (8, 8, 8))


def test_sizes_in_one_file_that_differ_are_no_stack(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as file:
        file.write(STACK[0])
        file.write(STACK[0, :20])
    with pytest.raises(DataError, match=r"holds 2 images of shapes \(40, 50\), \(20, 50\)"):
        open_stack(tmp_path / "mixed.tif", (8, 8, 8))
