"""From volumes on disk to float batches: ours against cellmap-data and memcpy, and the first-time build of the cache.

Data: the phantom tiled to 1.6 GB (`benchmarks.enlarged`), five classes, patches of 256² at 8 nm, batch 24, crops drawn
alike. Both sides run on the same single core, in one process without loader workers, out of the page cache, and deliver
what a training step takes: the image and the targets as float32, NaN where nothing is known.

- cellmap-data reads, decodes and resamples the Zarr chunks of every patch, as it always does; it converts with its own
  default transforms. Ours gathers packed bytes from its memory-mapped cache, built once beforehand (the first claim is
  about that), and expands them; the expansion is compiled, as `trainer=published` runs it, given for eager mode too.
- With augmentation both sides mirror, transpose and rotate every patch by any angle, in the slice plane. cellmap-data
  would also exchange y or x with z, which empties a patch of one slice; that is left out. It turns EM to the nearest
  voxel, ours bilinearly.
- memcpy copies as many bytes as the image and the targets take, from one touched buffer to another.
- The cache build is compared with reading the very same boxes of the same arrays with zarr and dropping them, crop by
  crop in as many threads as the build uses, on all cores. The build also resamples, packs, counts, hashes and writes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import zarr
from torch import Tensor

from benchmarks.enlarged import decoded_bytes
from benchmarks.enlarged import ensure as ensure_data
from benchmarks.harness import Result, interleaved, main, number, ratios, seconds
from benchmarks.peers.cellmap_data import Peer, ensure_environment
from trainables.data import PackedBatch, PatchSampler, augment, expand_labels, open_packed, packed, packing
from trainables.data.cache import cache_folder
from trainables.data.cellmap import reader as cellmap
from trainables.data.cellmap.ngff import Level
from trainables.data.cellmap.reader import CropSource
from trainables.data.patch import em_margin
from trainables.data.sources import open_source
from trainables.hardware import compiler_problem, keep_graphs
from trainables.settings import DataSettings
from trainables.steps import normalise

BATCH_SIZE = 24
PLAIN = {"mirror": False, "transpose": False, "rotate_degrees": 0.0}
SECONDS = 3.0
"""Per measurement of a rate."""
EVERY = 12
"""Of the crops, every so many-th goes into the cache build: about 270 MB of voxels."""

Arrays = tuple[Tensor, Tensor]
Box = tuple[Level, Sequence[int], Sequence[int]]


class Pipeline:
    """Our batches on one core: step after step, never the same one twice."""

    def __init__(self, settings: DataSettings, expand: Callable[[Tensor, Tensor], Arrays]) -> None:
        self.sampler = PatchSampler(open_packed(settings), batch_size=BATCH_SIZE, seed=0)
        self.patch, self.expand, self.steps = settings.patch, expand, itertools.count()

    def batch(self) -> Arrays:
        """Image (N, 1, 1, h, w) and targets (N, C, 1, h, w), float32."""
        return self.expand(*self.cut())

    def cut(self) -> Arrays:
        host: PackedBatch = self.sampler.batch(next(self.steps))
        return augment(host, self.patch)

    def patches_per_s(self) -> float:
        """Whole batches for at least SECONDS."""
        started, batches = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS:
            self.batch()
            batches += 1
        return batches * BATCH_SIZE / (time.perf_counter() - started)


def to_floats(em: Tensor, labels: Tensor) -> Arrays:
    """What the training step begins with."""
    return normalise(em), expand_labels(labels, len(DataSettings().classes))


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    logging.disable(logging.WARNING)  # crops without EM are part of the data
    keep_graphs(DataSettings())
    root = ensure_data()
    settings = {"name": "cellmap", "root": str(root), "split_file": str(root / "datasplit.csv")}
    yield cache_build(DataSettings(**settings), arguments.repetitions)
    open_packed(DataSettings(**settings))  # with all cores, where there is none yet
    python = ensure_environment()
    with one_core() as core:
        expand = to_floats if compiler_problem() else torch.compile(to_floats, dynamic=False, fullgraph=True)
        plain, eager = (Pipeline(DataSettings(**settings, **PLAIN), f) for f in (expand, to_floats))
        turned, turned_eager = (Pipeline(DataSettings(**settings), f) for f in (expand, to_floats))
        size = decoded_bytes(root) / 1e9
        yield against_peer(python, core, plain, eager, size, 50.0, arguments.repetitions)
        yield against_peer(python, core, turned, turned_eager, size, 20.0, arguments.repetitions)
        yield against_memcpy(plain, arguments.repetitions)


@contextlib.contextmanager
def one_core() -> Iterator[int]:
    """Keep this process on one core, with one thread for torch; the core's number."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    core = max(cores)
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def against_peer(
    python: Path, core: int, ours: Pipeline, eager: Pipeline, size_gb: float, target: float, repetitions: int
) -> Result:
    """Patches per second, ours ÷ cellmap-data's."""
    settings = ours.sampler.dataset.settings
    augmented = ours.sampler.rotate
    task = {
        "split": settings.split_file,
        "classes": settings.classes,
        "patch": settings.patch,
        "core": core,
        "voxel_nm": settings.voxel_nm,
        "batch_size": BATCH_SIZE,
        "augment": augmented,
        "seed": 0,
    }
    with Peer(python, task) as peer:
        known = warm_up(ours), warm_up(eager), peer.measure(SECONDS)["known"]
        pairs = interleaved(ours.patches_per_s, lambda: peer.measure(SECONDS)["patches_per_s"], repetitions)
        without_compiler = ratios(
            interleaved(eager.patches_per_s, lambda: peer.measure(SECONDS)["patches_per_s"], min(repetitions, 2))
        )
        versions = peer.versions
    how = "with mirror + transpose + rotation" if augmented else "without augmentation"
    rates = [statistics.median(side) for side in zip(*pairs)]
    return Result(
        claim=f"patches/s on one core {how}: ours ÷ cellmap-data {versions['cellmap-data']}",
        values=ratios(pairs),
        target=target,
        note=f"{number(rates[0])} and {number(rates[1])} patches/s of 256², 5 classes, batch {BATCH_SIZE}, "
        f"{size_gb:.1f} GB; eager {number(statistics.median(without_compiler))} ×",
        details={"pairs": pairs, "eager": without_compiler, "versions": versions, "share_known": known},
    )


def warm_up(pipeline: Pipeline) -> float:
    """Compile, and bring cache pages into memory; the share of known targets in the first batch."""
    _, target = pipeline.batch()
    pipeline.patches_per_s()
    return float((~target.isnan()).float().mean())


def against_memcpy(ours: Pipeline, repetitions: int) -> Result:
    """Seconds to copy a batch's float bytes ÷ seconds to make the batch."""
    image, target = ours.batch()
    source = [t.clone().numpy() for t in (image, target)]
    copies = [np.ones_like(array) for array in source]
    nbytes = sum(array.nbytes for array in source)

    def copied_per_s() -> float:
        started, batches = time.perf_counter(), 0
        while time.perf_counter() - started < SECONDS / 3:
            for array, copy in zip(source, copies):
                np.copyto(copy, array)
            batches += 1
        return batches * BATCH_SIZE / (time.perf_counter() - started)

    pairs = interleaved(ours.patches_per_s, copied_per_s, repetitions)
    speed = statistics.median(copied for _, copied in pairs) / BATCH_SIZE * nbytes / 1e9
    return Result(
        claim="patches/s on one core without augmentation: ours ÷ memcpy of the float output",
        values=ratios(pairs),
        target=0.5,
        note=f"{nbytes / 1e6:.0f} MB per batch, memcpy at {speed:.1f} GB/s",
        details={"pairs": pairs},
    )


def cache_build(settings: DataSettings, repetitions: int) -> Result:
    """MB/s of decoded voxels: building the packed cache ÷ reading the same boxes with zarr."""
    source = open_source(settings)
    chosen: Sequence[Any] = packed.usable_items(source)[::EVERY]
    boxes = [boxes_of(settings, crop) for crop in chosen]
    megabytes = sum(_nbytes(box) for crop in boxes for box in crop) / 1e6
    threads = max(1, min(packing.MAX_THREADS, len(os.sched_getaffinity(0)), len(chosen)))

    def read() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read_with_zarr, boxes))

    def build() -> None:
        with tempfile.TemporaryDirectory(dir=cache_folder(settings)) as folder:
            packing.write_cache(source, chosen, Path(folder))

    read()  # the files come into the page cache
    pairs = interleaved(lambda: megabytes / seconds(build), lambda: megabytes / seconds(read), repetitions)
    rates = [statistics.median(side) for side in zip(*pairs)]
    return Result(
        claim="first-time cache build, MB/s of decoded voxels on all cores: ours ÷ zarr reading the same",
        values=ratios(pairs),
        target=1.2,
        note=f"{number(rates[0])} and {number(rates[1])} MB/s, {threads} threads, {megabytes:.0f} MB of "
        f"{len(chosen)} crops, zarr {zarr.__version__}",
        details={"pairs": pairs},
    )


def boxes_of(settings: DataSettings, source: CropSource) -> list[Box]:
    """What the build reads of one crop, in its order; nothing is read to find out."""
    boxes: list[Box] = []

    def note(level: Level, start: Sequence[int], stop: Sequence[int]) -> np.ndarray[Any, Any]:
        boxes.append((level, start, stop))
        return np.zeros([int(b) - int(a) for a, b in zip(start, stop)], level.dtype)

    with mock.patch.object(cellmap, "read_box", note):
        grid = cellmap.crop_grid(source, settings.classes, settings.voxel_nm)
        cellmap.read_em(source, grid, em_margin(settings.patch, grid.shape))
        cellmap.read_labels(source, settings.classes, grid, settings.label_resampling)
    return boxes


def read_with_zarr(boxes: Sequence[Box]) -> None:
    for level, start, stop in boxes:
        zarr.open_array(level.path, mode="r")[tuple(slice(a, b) for a, b in zip(start, stop))]


def _nbytes(box: Box) -> int:
    level, start, stop = box
    return int(np.prod(np.subtract(stop, start))) * level.dtype.itemsize


if __name__ == "__main__":
    main(__doc__, run)
