"""A volume predicted block by block; each block is recorded when it is written, so that a killed run can go on.

Shapes: C classes, D H W voxels of the prediction's grid.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from trainables.data.cellmap.reader import Grid, mask_missing_em, read_grey, read_labels
from trainables.data.expand import class_masks
from trainables.tiling import blended, block_shape, span
from tune_app.exporting.trained_model import Model
from tune_app.exporting.volume import Volume


def block_of(model: Model, overlap: float) -> tuple[int, int, int]:
    """Voxels of a block."""
    return block_shape(model.window, overlap, len(model.classes))


def predict_blocks(
    model: Model,
    volume: Volume,
    arrays: Sequence[zarr.Array],
    record: Path,
    *,
    overlap: float,
    batch_size: int,
    console: Console,
) -> NDArray[np.int64]:
    """Predict the blocks that `record` does not name into `arrays`; TP, FP, FN per class against the truth, (3, C)."""
    blocks = list(_blocks(volume.grid.shape, block_of(model, overlap)))
    done = read_record(record)
    if done:
        say(console, f"going on after {len(done)} of {len(blocks)} blocks")
    remaining = TimeRemainingColumn(elapsed_when_finished=True)
    columns = (TextColumn("predicting"), BarColumn(), TaskProgressColumn(), remaining)
    try:
        with Progress(*columns, console=console) as bar, record.open("a") as log:
            task = bar.add_task("", total=len(blocks), completed=len(done))
            for number, (start, stop) in enumerate(blocks):
                if number in done:
                    continue
                advance = partial(bar.advance, task)
                masks, truth = predict_block(model, volume, start, stop, overlap, batch_size, advance)
                place = tuple(slice(a, b) for a, b in zip(start, stop))
                for array, mask in zip(arrays, masks):
                    array[place] = mask
                done[number] = _counts(masks, truth).tolist()
                log.write(json.dumps([number, done[number]]) + "\n")
                log.flush()
                bar.update(task, completed=len(done))
    except BaseException:
        say(console, f"stopped after {len(done)} of {len(blocks)} blocks; the same command goes on from there")
        raise
    return np.array(list(done.values()), np.int64).sum(axis=0)


def say(console: Console, text: str) -> None:
    """A line as it is: paths and lists are no markup, and nothing breaks them."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_record(record: Path) -> dict[int, Any]:
    """Counts (3, C) by number of the block; what a kill cut short is taken out of the file."""
    text = record.read_text() if record.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        record.write_text(whole)
    return dict(map(json.loads, whole.splitlines()))


def _blocks(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """First and one past the last voxel of each block."""
    for start in itertools.product(*(range(0, n, b) for n, b in zip(shape, block))):
        yield start, tuple(min(a + b, n) for a, b, n in zip(start, block, shape))


def _counts(masks: NDArray[np.uint8], truth: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """TP, FP, FN (3, C) of masks (C, D, H, W) against packed labels."""
    counts = np.zeros((3, len(masks)), np.int64)
    for index, mask in enumerate(masks if truth is not None else ()):
        assert truth is not None
        present, known = class_masks(truth, index, len(masks))
        predicted = (mask > 0) & known
        tp = np.count_nonzero(predicted & present)
        counts[:, index] = tp, np.count_nonzero(predicted) - tp, np.count_nonzero(present & known) - tp
    return counts


def predict_block(
    model: Model,
    volume: Volume,
    start: Sequence[int],
    stop: Sequence[int],
    overlap: float,
    batch_size: int,
    advance: Callable[[float], object],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Masks (C, D, H, W) of one block, 0 or 1, and its packed labels where there are any.

    As in validation, windows lie inside a crop that is larger than one; a smaller crop is seen in the middle of a
    window, with the EM round it. Where there is no EM, nothing is predicted. advance: is told each further share of it.
    """
    grid, level = volume.grid, volume.level
    shape = [b - a for a, b in zip(start, stop)]
    block = Grid(grid.corner + np.array(start) * grid.voxel, grid.voxel, (shape[0], shape[1], shape[2]))
    masks = np.zeros((len(model.classes), *shape), np.uint8)
    if block.lies_outside(level):
        return masks, None
    axes = list(zip(start, stop, grid.shape, model.window))
    spans = [_span(a, b, length, window, overlap) for a, b, length, window in axes]
    before = [a - low for a, (low, _) in zip(start, spans)]
    after = [high - b for b, (_, high) in zip(stop, spans)]
    em, box, taps = read_grey(level, block, np.maximum(before, after).tolist(), volume.to_grey)
    context = np.zeros([high - low for low, high in spans], np.uint8)
    _place(em, np.add(box[0], before).tolist(), context)
    device_em, done = torch.from_numpy(context).to(model.cut.device), 0
    for logits in blended(model.network, device_em[None], model.window, overlap, batch_size):
        at = [0, done - before[0], -before[1], -before[2]]
        _place((logits > model.cut).cpu().numpy(), at, masks)
        done += logits.shape[1]
        advance(logits.shape[1] / context.shape[0])
    mask_missing_em(masks, box, level, taps)
    if volume.truth is None:
        return masks, None
    labels = read_labels(volume.truth, model.classes, block, model.data.label_resampling)
    mask_missing_em(labels, box, level, taps)
    return masks, labels


def _span(start: int, stop: int, length: int, window: int, overlap: float) -> tuple[int, int]:
    """`span` of a block, in voxels of the crop; a crop smaller than a window lies in the middle of one."""
    if length < window:
        first = -((window - length) // 2)
        return first, first + window
    return span(start, stop, length, window, overlap)


def _place(source: NDArray[Any], at: Sequence[int], out: NDArray[np.uint8]) -> None:
    """out ← source, whose first element is out's element `at`, where the two overlap."""
    taken = tuple(slice(max(0, -a), max(0, min(n, m - a))) for a, n, m in zip(at, source.shape, out.shape))
    placed = tuple(slice(max(0, a), max(0, min(m, a + n))) for a, n, m in zip(at, source.shape, out.shape))
    out[placed] = source[taken]
