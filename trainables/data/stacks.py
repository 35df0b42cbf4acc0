"""Image stacks in one file, NumPy (.npy) or TIFF, read box by box: as a level like those of OME-Zarr, without chunks.

Shapes: D H W slices, rows, columns; a single slice is D = 1.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import KINDS, Level
from trainables.errors import DataError

SUFFIXES = (".npy", ".tif", ".tiff")
NM = {"nm": 1.0, "nanometer": 1.0, "µm": 1e3, "μm": 1e3, "um": 1e3, "micron": 1e3, "microns": 1e3, "mm": 1e6, "å": 0.1}
"""Of the units that ImageJ and OME-TIFF write, in lower case."""
Read = Callable[[Sequence[int], Sequence[int]], NDArray[Any]]


def open_stack(path: Path, voxel_nm: Sequence[float] | None) -> tuple[Level, bool]:
    """The stack as one level that begins at 0 nm, and whether its voxel size (z y x, nm) is the file's own.

    voxel_nm: None takes what ImageJ's or OME's metadata say. DataError where the file is no stack or does not say.
    """
    try:
        (shape, dtype, read), found = _numpy(path) if path.suffix == ".npy" else _tiff(path)
    except DataError:
        raise
    except Exception as error:  # tifffile and NumPy raise what they like
        raise _broken(path, error) from error
    if dtype.kind not in KINDS or not math.prod(shape):
        raise DataError(f"{path}: {' × '.join(map(str, shape))} values of type {dtype}; numbers are needed.")
    voxel = voxel_nm or found
    if voxel is None:
        raise DataError(f"{path}: does not say how large its voxels are. Give it in nm, z y x: voxel_nm=[8,8,8]")
    return (
        Level(
            path=path,
            scale=tuple(voxel),
            translation=tuple(size / 2 for size in voxel),
            shape=shape,
            chunks=shape,
            separator="",
            dtype=dtype,
            read=read,
        ),
        not voxel_nm,
    )


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({error}). Save it anew, as .npy or as an uncompressed TIFF.")


def _numpy(path: Path) -> tuple[tuple[tuple[int, ...], np.dtype[Any], Read], None]:
    whole = np.load(path, mmap_mode="r")
    shape = _stack_shape(path, whole.shape, f"an array of shape {whole.shape}")

    def read(start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        # Mapped anew each time: what was read of a mapping counts as memory for as long as it lives.
        return np.array(np.load(path, mmap_mode="r").reshape(shape)[_box(start, stop)])

    return (shape, whole.dtype, read), None


def _tiff(path: Path) -> tuple[tuple[tuple[int, ...], np.dtype[Any], Read], tuple[float, ...] | None]:
    import tifffile

    file = tifffile.TiffFile(path)
    if len(file.series) > 1:  # pages that were written one by one are a series each, unless taken as what they are
        file.close()
        file = tifffile.TiffFile(path, is_shaped=False)
    try:
        stack = _tiff_stack(path, file)
        voxel = _imagej_voxel(file) or _ome_voxel(file)
    except BaseException:
        file.close()
        raise
    weakref.finalize(stack[2], file.close)  # what reads it is the last to need it
    return stack, voxel


def _tiff_stack(path: Path, file: Any) -> tuple[tuple[int, ...], np.dtype[Any], Read]:
    import zarr

    if len(file.series) != 1:
        shapes = ", ".join(str(series.shape) for series in file.series[:4])
        raise DataError(f"{path}: holds {len(file.series)} images of shapes {shapes}, …; one stack is needed.")
    series = file.series[0]
    shape = _stack_shape(path, series.shape, f"axes {series.axes} of shape {series.shape}", series.axes)
    if series.dataoffset is not None:

        def read(start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
            mapped = np.memmap(path, series.dtype.newbyteorder(file.byteorder), "r", series.dataoffset, shape)
            return np.array(mapped[_box(start, stop)], dtype=series.dtype)
    else:
        strips = zarr.open_array(series.aszarr(), mode="r")  # decoded strip by strip, none of them kept
        axes = [slice(None) if size > 1 else 0 for size in series.shape[:-2]]

        def read(start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
            z, y, x = _box(start, stop)
            index = tuple(z if axis == slice(None) else 0 for axis in axes)
            try:
                return np.asarray(strips[(*index, y, x)]).reshape([s.stop - s.start for s in (z, y, x)])
            except Exception as error:
                raise _broken(path, error) from error

        read((0, 0, 0), (1, 1, 1))  # a compression that cannot be decoded is said at once
    return shape, series.dtype, read


def _stack_shape(path: Path, shape: Sequence[int], given: str, axes: str = "") -> tuple[int, ...]:
    """(D, H, W) where all other axes have one element."""
    long = [n for n in shape[:-2] if n != 1]
    channels = any(n > 1 and axis in "CS" for n, axis in zip(shape, axes)) or axes.endswith("S")
    if len(shape) < 2 or len(long) > 1 or channels:
        raise DataError(f"{path}: {given}; a stack of grey slices is needed (z, y, x). Save one channel of one time.")
    return (*(long or [1]), *shape[-2:])


def _box(start: Sequence[int], stop: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop))


def _imagej_voxel(file: Any) -> tuple[float, ...] | None:
    """z y x in nm: ImageJ writes the spacing of slices, their unit, and the columns and rows of a unit."""
    about, tags = file.imagej_metadata or {}, file.pages[0].tags
    unit = NM.get(str(about.get("unit", "")).replace("\\u00B5", "µ").lower())
    if unit is None or "spacing" not in about or not {"XResolution", "YResolution"} <= {tag.name for tag in tags}:
        return None
    (columns, of_x), (rows, of_y) = tags["XResolution"].value, tags["YResolution"].value
    return _positive(about["spacing"] * unit, of_y / rows * unit, of_x / columns * unit)


def _ome_voxel(file: Any) -> tuple[float, ...] | None:
    """z y x in nm, from the OME-XML of an OME-TIFF."""
    import tifffile

    if not file.ome_metadata:
        return None
    image = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    units = [NM.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")).lower()) for axis in "ZYX"]
    sizes = [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
    if None in units or None in sizes:
        return None
    return _positive(*(float(size) * unit for size, unit in zip(sizes, units) if unit))


def _positive(*voxel: float) -> tuple[float, ...] | None:
    return tuple(map(float, voxel)) if all(math.isfinite(size) and size > 0 for size in voxel) else None
