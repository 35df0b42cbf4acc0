"""OME-NGFF multiscale groups, 0.4 (Zarr v2) and 0.5 (Zarr v3): metadata and checked reading.

Coordinates are nanometres, axes z y x. A translation is the CENTRE of voxel 0, so the array begins half a voxel
before it (the CellMap convention: a coarser level's translation is larger by half the difference of the scales).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import zarr
from numpy.typing import NDArray

from trainables.errors import DataError

Vector = NDArray[np.float64]
UNIT_NM = {"nanometer": 1.0, "angstrom": 0.1, "micrometer": 1e3, "millimeter": 1e6, None: 1.0}
KINDS = "buif"
"""Of dtypes that a volume may have: truth values and numbers."""
MOST_BYTES = 1 << 31
"""Of a chunk; no compressor takes more."""
SCALE_TOLERANCE = 1e-3
"""Relative: a level of 8.004 nm counts as 8 nm."""


@dataclass(frozen=True)
class Level:
    """One resolution of a multiscale image."""

    path: Path
    scale: tuple[float, ...]
    """Voxel size, nm."""
    translation: tuple[float, ...]
    """Centre of voxel 0, nm."""
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    separator: str
    dtype: np.dtype[Any]
    prefix: tuple[str, ...] = ()
    """What a chunk's key begins with: "c" in Zarr v3, "0" for each axis before z, of one element."""
    leading: int = 0
    """Axes before z."""
    zarr_format: int = 2
    read: Callable[[Sequence[int], Sequence[int]], NDArray[Any]] | None = None
    """Voxels [start, stop) of what is no Zarr array; `path` is then a file that holds all of them."""

    @property
    def corner(self) -> Vector:
        """Where voxel 0 begins, nm (3,)."""
        return np.array(self.translation) - np.array(self.scale) / 2

    @property
    def end(self) -> Vector:
        """Where the last voxel ends, nm (3,)."""
        return self.corner + np.array(self.scale) * np.array(self.shape)

    def chunk_file(self, index: Sequence[int]) -> Path:
        """File of the chunk with grid index (z, y, x)."""
        return self.path / self.separator.join([*self.prefix, *(str(int(i)) for i in index)])

    def chunk_grid(self, start: Sequence[int], stop: Sequence[int]) -> list[range]:
        """Grid indices per axis of the chunks that voxels [start, stop) touch."""
        return [range(int(a) // c, math.ceil(int(b) / c)) for a, b, c in zip(start, stop, self.chunks)]


def read_json(path: Path) -> dict[str, Any]:
    """A metadata file; DataError when it is missing or not a JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Download it again, or take the crop out of datasplit.csv.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object. Download it again.")
    return content


def read_levels(group: Path) -> list[Level]:
    """The levels of multiscale group `group`, finest first. DataError names the file and what it lacks."""
    attributes, content = read_attributes(group)
    try:
        multiscale = content["multiscales"][0]
        axes = [(axis["name"], axis.get("unit")) for axis in multiscale["axes"]]
        to_nm = np.array([*np.ones(len(axes[:-3])), *(UNIT_NM[unit] for _, unit in axes[-3:])])
        outer = multiscale.get("coordinateTransformations", [])
        datasets = multiscale["datasets"]
        rows = [(d["path"], *_transform(d["coordinateTransformations"], outer, len(axes))) for d in datasets]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{attributes}: no valid OME-NGFF 0.4 `multiscales` ({error!r}). "
            "Axes with known units and a scale for every dataset are needed; download it again."
        ) from error
    if [name for name, _ in axes][-3:] != ["z", "y", "x"] or not rows:
        raise DataError(f"{attributes}: axes {[n for n, _ in axes]} with {len(rows)} levels; z, y, x are needed.")
    names = [str(name) for name, _ in axes[:-3]]
    levels = [
        _read_level(group / name, (scale * to_nm)[-3:], (shift * to_nm)[-3:], names) for name, scale, shift in rows
    ]
    return sorted(levels, key=lambda level: math.prod(level.scale))


def read_attributes(group: Path) -> tuple[Path, dict[str, Any]]:
    """The attributes of an OME-Zarr group, 0.4 or 0.5, and the file that they lie in."""
    file = group / "zarr.json"
    if not file.is_file():
        return group / ".zattrs", read_json(group / ".zattrs")
    attributes = read_json(file).get("attributes")
    ome = attributes.get("ome") if isinstance(attributes, dict) else None
    return file, ome if isinstance(ome, dict) else {}


def _transform(
    inner: Sequence[dict[str, Any]], outer: Sequence[dict[str, Any]], num_axes: int
) -> tuple[Vector, Vector]:
    """Scale and translation (num_axes,) of a level's transformations followed by those of the whole image."""
    scale, shift, scaled = np.ones(num_axes), np.zeros(num_axes), False
    for step in [*inner, *outer]:
        if step["type"] == "scale":
            factor = np.array(step["scale"], dtype=np.float64)
            scale, shift, scaled = scale * factor, shift * factor, True
        elif step["type"] == "translation":
            shift = shift + np.array(step["translation"], dtype=np.float64)
    if not scaled or scale.shape != (num_axes,) or shift.shape != (num_axes,) or not (scale > 0).all():
        raise ValueError("every dataset needs one positive scale with a number per axis")
    return scale, shift


def _read_level(path: Path, scale: Vector, translation: Vector, leading: Sequence[str]) -> Level:
    """leading: the axes before z."""
    zarr_format = 3 if (path / "zarr.json").is_file() else 2
    meta = read_json(path / ("zarr.json" if zarr_format == 3 else ".zarray"))
    prefix: tuple[str, ...] = ()
    try:
        if zarr_format == 3:
            shape, chunks = tuple(meta["shape"]), tuple(meta["chunk_grid"]["configuration"]["chunk_shape"])
            keys = meta.get("chunk_key_encoding", {"name": "default"})
            plain_keys = keys["name"] == "v2"
            prefix = () if plain_keys else ("c",)
            separator = keys.get("configuration", {}).get("separator", "." if plain_keys else "/")
            dtype = np.dtype(meta["data_type"])
        else:
            shape, chunks = tuple(meta["shape"]), tuple(meta["chunks"])
            dtype, separator = np.dtype(meta["dtype"]), meta.get("dimension_separator", ".")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_array(path, repr(error)) from error
    for name, size in zip(leading, shape):
        if size != 1:
            raise _no_array(path, f"axis {name} has {size} elements; one is needed of every axis but z, y, x")
    prefix += ("0",) * len(leading)
    shape, chunks = shape[len(leading) :], chunks[len(leading) :]
    if len(shape) != 3 or len(chunks) != 3 or not all(type(size) is int and size > 0 for size in (*shape, *chunks)):
        raise _no_array(path, f"shape {shape}, chunks {chunks}; three positive whole numbers are needed")
    if dtype.kind not in KINDS or separator not in (".", "/") or meta.get("zarr_format", 2) != zarr_format:
        raise _no_array(path, f"dtype {dtype}, separator {separator!r}; numbers and . or / are needed")
    if (size := math.prod(chunks) * dtype.itemsize) > MOST_BYTES:
        raise _no_array(path, f"chunks {chunks} hold {size} bytes, {MOST_BYTES} at most can be decoded")
    return Level(
        path=path,
        scale=tuple(scale.tolist()),
        translation=tuple(translation.tolist()),
        shape=shape,
        chunks=chunks,
        separator=separator,
        dtype=dtype,
        prefix=prefix,
        leading=len(leading),
        zarr_format=zarr_format,
    )


def _no_array(path: Path, problem: str) -> DataError:
    file, version = (path / "zarr.json", 3) if (path / "zarr.json").is_file() else (path / ".zarray", 2)
    return DataError(f"{file}: no valid Zarr v{version} array ({problem}). Download it again.")


def choose_level(levels: Sequence[Level], voxel_nm: Sequence[float]) -> Level:
    """The coarsest level that is not coarser than the target voxel; an axis that is coarser already at the finest
    level may stay as coarse as it is there (anisotropic data)."""
    limit = np.maximum(np.array(voxel_nm, dtype=np.float64), levels[0].scale) * (1 + SCALE_TOLERANCE)
    return [level for level in levels if (np.array(level.scale) <= limit).all()][-1]


def read_box(level: Level, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
    """Voxels [start, stop) of a level, inside its shape; missing chunks are the fill value. DataError if broken."""
    if level.read is not None:
        return level.read(start, stop)
    plain = plain_array(level) if level.zarr_format == 2 else None
    if plain is not None:
        return plain.read(start, stop)
    try:
        array = zarr.open_array(level.path, mode="r", zarr_format=level.zarr_format)
    except Exception as error:  # of a codec, an order or a fill value that zarr does not know either
        raise _no_array(level.path, f"{type(error).__name__}: {error}") from error
    box = (0,) * level.leading + tuple(slice(int(a), int(b)) for a, b in zip(start, stop))
    try:
        return np.asarray(array[box])
    except MemoryError:
        raise
    except Exception as error:  # codecs raise what they like: RuntimeError, ValueError, zlib.error, …
        raise _broken(_first_broken_chunk(array, level, start, stop) or level.path, error) from error


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be decoded ({type(error).__name__}: {error}). "
        "The file is cut short or damaged: download it again."
    )


@dataclass(frozen=True)
class PlainArray:
    """An array whose chunks are C-ordered voxels through at most one compressor, as CellMap's are.

    Read here, chunk by chunk, because zarr's asynchronous pipeline spends a third of the time on each chunk that
    decoding takes, and all threads share the one loop it runs in. Whatever else Zarr knows is left to zarr.
    """

    level: Level
    codec: Any
    """numcodecs codec; None where chunks are not compressed."""
    fill: int | float

    def read(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        """Voxels [start, stop). DataError naming the chunk file that is broken."""
        out = np.empty([int(b) - int(a) for a, b in zip(start, stop)], dtype=self.level.dtype)
        for index in product(*self.level.chunk_grid(start, stop)):
            chunk = self._chunk(self.level.chunk_file(index))
            taken, placed = zip(*map(_overlap, index, self.level.chunks, start, stop))
            out[placed] = self.fill if chunk is None else chunk[taken]
        return out

    def _chunk(self, file: Path) -> NDArray[Any] | None:
        """Voxels of one chunk; None where the file does not exist."""
        try:
            data = file.read_bytes()
            voxels = data if self.codec is None else self.codec.decode(data)
            return np.frombuffer(voxels, dtype=self.level.dtype).reshape(self.level.chunks)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except MemoryError:
            raise
        except Exception as error:  # codecs raise what they like
            raise _broken(file, error) from error


def _overlap(index: int, size: int, start: int, stop: int) -> tuple[slice, slice]:
    """Where voxels [start, stop) of an axis lie in chunk number `index`, and where those lie in the result."""
    first = index * size
    low, high = max(int(start), first), min(int(stop), first + size)
    return slice(low - first, high - first), slice(low - int(start), high - int(start))


def plain_array(level: Level) -> PlainArray | None:
    """The array of a level where it is a plain one."""
    meta = read_json(level.path / ".zarray")
    fill, compressor = meta.get("fill_value"), meta.get("compressor")
    numeric = level.dtype.kind in "uif" and (fill is None or type(fill) in (int, float))
    numeric &= set(meta["chunks"][: level.leading]) <= {1}
    if not numeric or meta.get("filters") or meta.get("order") != "C":
        return None
    try:
        np.array(fill or 0, dtype=level.dtype)
        return PlainArray(level, numcodecs.get_codec(compressor) if compressor else None, fill or 0)
    except (ValueError, TypeError, OverflowError):  # a compressor that numcodecs, or a value that the dtype lacks
        return None


def _first_broken_chunk(array: Any, level: Level, start: Sequence[int], stop: Sequence[int]) -> Path | None:
    for index in product(*level.chunk_grid(start, stop)):
        box = tuple(slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, level.chunks, level.shape))
        try:
            array[(0,) * level.leading + box]
        except Exception:  # the one that fails is the answer
            return level.chunk_file(index)
    return None


def missing_chunks(level: Level, start: Sequence[int], stop: Sequence[int]) -> tuple[list[range], NDArray[np.bool_]]:
    """Chunk grid of voxels [start, stop) and which of its chunk files do not exist, bool (chunks z, y, x)."""
    grid = level.chunk_grid(start, stop)
    flags = [level.read is None and not level.chunk_file(index).exists() for index in product(*grid)]
    return grid, np.array(flags, dtype=bool).reshape([len(r) for r in grid])
